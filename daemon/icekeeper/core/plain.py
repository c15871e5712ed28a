"""Reports and plans as plain data: what `--json`, the API and the ledger agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

from icekeeper.core.runs import RunReport
from icekeeper.core.tables.plan import Plan


def report_document(report: RunReport) -> dict[str, Any]:
    """A run, its fields named as in the ledger; instants are ISO 8601, durations seconds."""
    document: dict[str, Any] = to_plain(report)
    # Where a reader looks for it: beside the two instants that it follows from.
    at = list(document).index("finished_at") + 1
    items = list(document.items())
    return dict([*items[:at], ("duration_s", report.duration_s), *items[at:]])


def plan_document(slot: datetime, plans: list[Plan], errors: dict[str, str]) -> dict[str, Any]:
    """A plan of a night: what each task would do and why, and the tables that could not be read."""
    document: dict[str, Any] = to_plain({"slot": slot, "plans": plans, "errors": errors})
    return document


def to_plain(value: Any, *, exact: bool = False) -> Any:
    """Records, enums, instants and the like as JSON's own kinds.

    Decimals become numbers and durations seconds; with `exact` they keep their form as text, so that
    records.from_plain is the way back. A float that is no number becomes text, as JSON has none. Beside a
    `snapshot_id` stands `snapshot_id_text`, unless it is `exact`: many readers of JSON round numbers beyond 2^53.
    """
    convert = partial(to_plain, exact=exact)
    match value:
        case Enum():
            return value.value
        case str():
            return storable(value)
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float():
            return value
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case timedelta():
            return _iso_duration(value) if exact else value.total_seconds()
        case Decimal():
            return str(value) if exact else float(value)
        case UUID():
            return str(value)
        case Mapping():
            return _with_id_text({storable(str(key)): convert(item) for key, item in value.items()}, exact)
        case list() | tuple() | set() | frozenset():
            return [convert(item) for item in value]
    if is_dataclass(value):
        return _with_id_text({field.name: convert(getattr(value, field.name)) for field in fields(value)}, exact)
    return value


def storable(text: str) -> str:
    """The text as UTF-8 can hold it. Lone surrogates become `?`: a file name in an error message may hold them."""
    return text.encode("utf-8", "replace").decode()


def _iso_duration(value: timedelta) -> str:
    seconds, microseconds = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    return f"{'-' if value < timedelta(0) else ''}PT{seconds}.{microseconds:06}S"


def _with_id_text(document: dict[str, Any], exact: bool) -> dict[str, Any]:
    if exact or "snapshot_id" not in document or "snapshot_id_text" in document:
        return document
    number = document["snapshot_id"]
    at = list(document).index("snapshot_id") + 1
    items = list(document.items())
    return dict([*items[:at], ("snapshot_id_text", None if number is None else str(number)), *items[at:]])
