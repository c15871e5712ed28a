"""Reports and plans as plain data: what `--json`, the API and the ledger agree on."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from icekeeper.core.runs import RunReport
from icekeeper.core.tables.plan import Plan


def report_document(report: RunReport) -> dict[str, Any]:
    """A run, its fields named as in the ledger; instants are ISO 8601, durations seconds."""
    document: dict[str, Any] = plain(report)
    # Where a reader looks for it: beside the two instants that it follows from.
    at = list(document).index("finished_at") + 1
    items = list(document.items())
    return dict([*items[:at], ("duration_s", report.duration_s), *items[at:]])


def plan_document(slot: datetime, plans: list[Plan], errors: dict[str, str]) -> dict[str, Any]:
    """A plan of a night: what each task would do and why, and the tables that could not be read."""
    document: dict[str, Any] = plain({"slot": slot, "plans": plans, "errors": errors})
    return document


def plain(value: Any) -> Any:
    """Records, enums, instants and the like as JSON knows them."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, UUID):
        return str(value)
    return value
