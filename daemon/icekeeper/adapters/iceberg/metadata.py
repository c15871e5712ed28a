"""Reading a table's metadata.json into the core's records. Pure: fetching it is up to `tables.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from icekeeper.adapters.iceberg.deleting.kept import identity
from icekeeper.core.tables.planning import large_file_limit, small_file_limit
from icekeeper.core.tables.state import Ref, SmallFiles, Snapshot, TableHealth, TableState


def parse_metadata(
    table: str, text: str, partitions: Sequence[Sequence[int]], manifests: int, target_file_size: int
) -> TableState:
    """The state of a table from its metadata (Iceberg spec, 'Table Metadata').

    `partitions`: of each the sizes of its data files, in bytes.
    """
    metadata: Mapping[str, Any] = json.loads(text)
    history = _history(metadata)
    current_id = metadata.get("current-snapshot-id")
    current = next((snapshot for snapshot in history if snapshot.id == current_id), None)
    properties = metadata.get("properties", {})
    # A reference without an age of its own has the table's, if there is one.
    ref_age = (
        int(properties["history.expire.max-ref-age-ms"]) if "history.expire.max-ref-age-ms" in properties else None
    )
    small, large = small_file_limit(target_file_size), large_file_limit(target_file_size)
    sizes = [size for files in partitions for size in files]
    if len(metadata.get("partition-specs", ())) > 1:
        partitions = [sizes]  # Iceberg's planner groups files of older specs together, whatever their partitions
    small_sizes = [[size for size in files if size < small] for files in partitions]
    small_files = tuple(SmallFiles(len(files), sum(files)) for files in small_sizes if files)
    health = TableHealth(
        data_files=len(sizes),
        small_files=sum(part.files for part in small_files),
        bytes=sum(sizes),
        records=current.count("total-records") if current else 0,
        delete_files=current.count("total-delete-files") if current else 0,
        manifests=manifests,
        snapshots=len(history),
        snapshot_id=current.id if current else None,
    )
    return TableState(
        table=table,
        health=health,
        small_files=small_files,
        large_files=sum(size > large for size in sizes),
        deletes_unknown=current is not None and "total-delete-files" not in current.summary,
        history=history,
        refs=tuple(_ref(name, entry, ref_age) for name, entry in metadata.get("refs", {}).items()),
        table_id=identity(metadata.get("table-uuid"), metadata.get("location", "")),
        spec_id=int(metadata.get("default-spec-id", 0)),
        gc_enabled=properties.get("gc.enabled", "true").lower() == "true",
    )


def parse_history(text: str) -> tuple[Snapshot, ...]:
    """All snapshots that a table's metadata knows."""
    return _history(json.loads(text))


def files_named(history: Sequence[Snapshot]) -> int:
    """An upper bound of the files that all snapshots' manifests name: those of the fullest, and all ever added."""
    fullest = max((s.count("total-data-files") + s.count("total-delete-files") for s in history), default=0)
    return fullest + sum(s.count("added-data-files") + s.count("added-delete-files") for s in history)


def _history(metadata: Mapping[str, Any]) -> tuple[Snapshot, ...]:
    return tuple(_snapshot(entry) for entry in metadata.get("snapshots", ()))


def _snapshot(entry: Mapping[str, Any]) -> Snapshot:
    summary = dict(entry.get("summary") or {})
    return Snapshot(
        id=entry["snapshot-id"],
        parent_id=entry.get("parent-snapshot-id"),
        committed_at=datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=entry["timestamp-ms"]),
        operation=summary.pop("operation", ""),  # format version 1 may leave it out
        summary=summary,
    )


def _ref(name: str, entry: Mapping[str, Any], default_age_ms: int | None) -> Ref:
    return Ref(
        name=name,
        kind=entry["type"],
        snapshot_id=entry["snapshot-id"],
        max_ref_age=_age(entry.get("max-ref-age-ms", default_age_ms)),
        max_snapshot_age=_age(entry.get("max-snapshot-age-ms")),
        min_snapshots_to_keep=entry.get("min-snapshots-to-keep"),
    )


def _age(milliseconds: int | None) -> timedelta | None:
    return None if milliseconds is None else timedelta(milliseconds=milliseconds)
