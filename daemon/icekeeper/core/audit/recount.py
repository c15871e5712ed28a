"""An audit's counts beside those of the same window at the same snapshot, counted again. Counting is the night's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus
from icekeeper.core.reasons import Reason


class Past(StrEnum):
    """What counting again says of an audit.

    `changed`: a snapshot's rows are other than they were, which its files or delete files must have lost or gained.
    `source_changed`: only ClickHouse's are: rows came late, were deleted or merged. `unknown`: a side could not be
    counted, then or now, or the snapshot is gone.
    """

    SAME = "same"
    CHANGED = "changed"
    SOURCE_CHANGED = "source_changed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Recount:
    """What an audit counted then, and what is counted now at its snapshot. None: not counted."""

    iceberg_table: str
    window: Window
    snapshot_id: int | None
    clickhouse: tuple[int | None, int | None]
    iceberg: tuple[int | None, int | None]
    past: Past
    reason: Reason | None = None
    note: str = ""


def recounts(then: Iterable[AuditResult], now: Iterable[AuditResult]) -> tuple[Recount, ...]:
    """A run's audits, in their order, beside those that counted again."""
    again = {(audit.iceberg_table, audit.window): audit for audit in now}
    return tuple(_recount(audit, again.get((audit.iceberg_table, audit.window))) for audit in then)


def _recount(then: AuditResult, now: AuditResult | None) -> Recount:
    clickhouse = then.ch_row_count, now.ch_row_count if now else None
    iceberg = then.iceberg_row_count, now.iceberg_row_count if now else None
    past, note = Past.UNKNOWN, ""
    if then.iceberg_row_count is None:
        note = f"its audit counted nothing then: {then.notes}"
    elif then.snapshot_id is None:
        note = "the table had no snapshot then"
    elif now is None or now.iceberg_row_count is None:
        note = now.notes if now else "it is not audited any more"
    elif iceberg[0] != iceberg[1]:
        past = Past.CHANGED
    elif clickhouse[0] != clickhouse[1] and (now.status is AuditStatus.ERROR or clickhouse[1] is None):
        note = now.notes  # its rows expired, or it could not be asked: that says nothing of Iceberg's past
        past = Past.SAME
    else:
        past = Past.SAME if clickhouse[0] == clickhouse[1] else Past.SOURCE_CHANGED
    reason = now.reason if now is not None and past is Past.UNKNOWN else None
    return Recount(then.iceberg_table, then.window, then.snapshot_id, clickhouse, iceberg, past, reason, note)
