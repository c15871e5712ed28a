"""Where jars are: those installed with icekeeper, as in the container image, and those in Ivy's cache."""

from __future__ import annotations

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
    own = conf.get("spark.jars.ivy")
    caches = [Path(own)] if own is not None else sorted(Path.home().glob(".ivy2*"))
    names = [coordinate.split(":") for coordinate in coordinates]
    return all(
        any((cache / "jars" / f"{group}_{artifact}-{version}.jar").is_file() for cache in caches)
        for group, artifact, version in names
    )
