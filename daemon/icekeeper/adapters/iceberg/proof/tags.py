"""Tags that keep a snapshot for as long as a rewrite that followed it is in question."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def add_tag(table: Any, name: str, snapshot_id: int, until: datetime) -> None:
    """A tag of this name that is there stays. Iceberg measures its age from the snapshot's commit."""
    if table.refs().containsKey(name):
        return
    committed_ms = int(table.snapshot(snapshot_id).timestampMillis())
    age_ms = max(1, round(until.timestamp() * 1000) - committed_ms)
    table.manageSnapshots().createTag(name, snapshot_id).setMaxRefAgeMs(name, age_ms).commit()


def remove_tags(table: Any, prefix: str) -> tuple[str, ...]:
    """Removes those whose names begin so, in one commit."""
    refs = table.refs()
    names = tuple(sorted(name for name in refs if name.startswith(prefix) and refs[name].isTag()))
    if names:
        change = table.manageSnapshots()
        for name in names:
            change = change.removeTag(name)
        change.commit()
    return names
