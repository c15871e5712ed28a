"""Where jars are: those that came with the installation, as in the container image, and those fetched before."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from icekeeper.adapters.state_dir import give_to_its_owner

HOME = Path(sys.prefix, "share", "icekeeper", "jars")

_PACKAGES, _JARS = "spark.jars.packages", "spark.jars"
# A version that may be another one tomorrow: Ivy's latest.release, ranges, Maven's snapshots.
_MOVING = re.compile(r"latest|SNAPSHOT|[+\[\](]")


def maven_path(coordinate: str) -> str:
    """Where a Maven repository keeps the jar of `group:artifact:version`."""
    group, artifact, version = coordinate.split(":")
    return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.jar"


def brought_along(coordinates: Iterable[str], home: Path = HOME) -> tuple[str, ...]:
    """The paths of these jars; empty unless all are there: those of an older icekeeper may lie there too."""
    paths = [home / maven_path(coordinate).rpartition("/")[2] for coordinate in coordinates]
    return tuple(map(str, paths)) if all(path.is_file() for path in paths) else ()


def fetched_before(coordinates: Iterable[str], conf: Mapping[str, str]) -> bool:
    """Whether Spark's resolver (Ivy) has these in its cache, so that a start downloads nothing."""
    own = conf.get("spark.jars.ivy")
    caches = [Path(own)] if own is not None else sorted(Path.home().glob(".ivy2*"))
    names = [coordinate.split(":") for coordinate in coordinates]
    return all(
        any((cache / "jars" / f"{group}_{artifact}-{version}.jar").is_file() for cache in caches)
        for group, artifact, version in names
    )


def without_resolving(conf: Mapping[str, str], record: Path) -> dict[str, str]:
    """A session's settings, naming jars instead of packages where an earlier start wrote down which these are.

    Spark's resolver starts Ivy each time and takes seconds to find in its cache what it found there the last time.
    """
    try:
        written = json.loads(record.read_text())
        same, paths = written["asked"] == _asked(conf), [str(path) for path in written["jars"]]
    except (OSError, ValueError, LookupError, TypeError):  # none yet, or not ours
        return dict(conf)
    if not same or not all(os.access(path, os.R_OK) for path in paths):
        return dict(conf)
    return {key: value for key, value in conf.items() if key != _PACKAGES} | {_JARS: ",".join(paths)}


def write_down(conf: Mapping[str, str], resolved: str, record: Path) -> None:
    """Keeps what Spark made of a session's packages: `resolved` is the started session's own list of its jars."""
    uris = [urlsplit(jar) for jar in resolved.split(",") if jar]
    local = all(uri.scheme in ("", "file") for uri in uris)
    if not uris or not local or _PACKAGES not in conf or _MOVING.search(conf[_PACKAGES]):
        return
    draft = record.with_name(f"{record.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps({"asked": _asked(conf), "jars": [unquote(uri.path) for uri in uris]}))
        give_to_its_owner(draft)
        draft.replace(record)
    except OSError:  # a full disk: the next start resolves again
        draft.unlink(missing_ok=True)


def _asked(conf: Mapping[str, str]) -> dict[str, str]:
    """All that has a say in which jars a session gets."""
    return {key: value for key, value in conf.items() if key.startswith(_JARS)}
