"""Where jars are: those installed with icekeeper, as in the container image, and those in Ivy's cache."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

INSTALLED = Path(sys.prefix, "share", "icekeeper", "jars")


def maven_path(coordinate: str) -> str:
    """Where a Maven repository keeps the jar of `group:artifact:version`."""
    group, artifact, version = coordinate.split(":")
    return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.jar"


def installed_jars(coordinates: Iterable[str], directory: Path = INSTALLED) -> tuple[str, ...]:
    """The paths of these jars; empty unless all are there: the directory may hold jars of an older icekeeper."""
    paths = [directory / maven_path(coordinate).rpartition("/")[2] for coordinate in coordinates]
    return tuple(map(str, paths)) if all(path.is_file() for path in paths) else ()


def in_ivy_cache(coordinates: Iterable[str], conf: Mapping[str, str]) -> bool:
    """Whether Spark's resolver (Ivy) has these in its cache, so that a start downloads nothing."""
    return cached_jars(coordinates, conf) is not None


def cached_jars(coordinates: Iterable[str], conf: Mapping[str, str]) -> list[Path] | None:
    """Where Spark's resolver has these; None unless it has all."""
    own = conf.get("spark.jars.ivy")
    caches = [Path(own)] if own is not None else sorted(_home_of_java().glob(".ivy2*"))
    found: list[Path] = []
    for coordinate in coordinates:
        name = "{}_{}-{}.jar".format(*coordinate.split(":"))
        jar = next((jar for cache in caches if (jar := cache / "jars" / name).is_file()), None)
        if jar is None:
            return None
        found.append(jar)
    return found


def _home_of_java() -> Path:
    """Java's `user.home`: the account's, whatever HOME says."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # the user of a container may have no account
        return Path.home()
