"""Reads a snapshot's manifests: the sizes of its data files by partition, and which are listed more than once."""

from __future__ import annotations

import json
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.compiled import LISTED_FILES, new_instance


def file_sizes(jvm: IcebergJvm, table: Any, snapshot: Any) -> tuple[tuple[tuple[int, ...], ...], int, tuple[str, ...]]:
    """The sizes of a snapshot's data files in bytes, by partition, the number of its manifests, and the paths of files
    that they list more than once.

    One answer for all: thousands of files would be thousands of round trips.
    """
    scan = table.newScan().useSnapshot(snapshot.snapshotId())
    sizes, twice = json.loads(new_instance(jvm, LISTED_FILES, scan).read())
    manifests = int(snapshot.allManifests(table.io()).size())
    return tuple(tuple(map(int, partition)) for partition in sizes), manifests, tuple(sorted(twice))
