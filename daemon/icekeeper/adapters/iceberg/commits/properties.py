"""Properties of a table, set in one commit, and none where they are as they shall be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def set_properties(table: Any, wanted: Mapping[str, str | None]) -> bool:
    """Sets them, or removes those that shall be None; whether anything was changed.

    Iceberg does it anew on what other writers have committed meanwhile.
    """
    known = dict(table.properties())
    different = {name: value for name, value in wanted.items() if known.get(name) != value}
    if not different:
        return False
    change = table.updateProperties()
    for name, value in different.items():
        change = change.remove(name) if value is None else change.set(name, value)
    change.commit()
    return True
