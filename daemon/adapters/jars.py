"""Jars that came with the installation, as in the container image: with them nothing is fetched when Spark starts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

HOME = Path(sys.prefix, "share", "icekeeper", "jars")


def maven_path(coordinate: str) -> str:
    """Where a Maven repository keeps the jar of `group:artifact:version`."""
    group, artifact, version = coordinate.split(":")
    return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.jar"


def brought_along(coordinates: Iterable[str], home: Path = HOME) -> tuple[str, ...]:
    """The paths of these jars; empty unless all are there: those of an older icekeeper may lie there too."""
    paths = [home / maven_path(coordinate).rpartition("/")[2] for coordinate in coordinates]
    return tuple(map(str, paths)) if all(path.is_file() for path in paths) else ()
