"""The last days of each table as audits have counted them, and what days in a row add up to. Nights: run_history.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import AuditStatus

# Of each table the newest that were audited are kept.
DAYS_KEPT = 15

# So many days in a row of which Iceberg has rows and the source has none are an alert (as in config/prometheus).
EMPTY_DAYS = 3
# What to do where a source holds no row of days that Iceberg has rows of.
SOURCE_IS_EMPTY = "These days are `ok` and prove nothing: compare tables[].source and its TTL with what ClickHouse has."


@dataclass(frozen=True, slots=True)
class PastAudit:
    """What was counted of one UTC day, and when; both counts are None where one could not be had."""

    day: datetime
    at: datetime
    status: AuditStatus
    clickhouse: int | None
    iceberg: int | None


# By table and start of the day.
Days = Mapping[tuple[str, datetime], PastAudit]


def past_days(audits: Iterable[AuditResult]) -> dict[tuple[str, datetime], PastAudit]:
    """What audits of whole days have left, those of other windows left out."""
    days = (audit for audit in audits if audit.worse is not None or is_of_a_day(audit))
    return {(audit.iceberg_table, audit.window_start): _seen(audit) for audit in days}


def is_of_a_day(audit: AuditResult) -> bool:
    """Whether the audit's window is the one that its slot has: not one that an operator chose."""
    window = window_of(audit.slot)
    return (audit.window_start, audit.window_end) == (window.start, window.end)


def newest_days(days: Days) -> dict[tuple[str, datetime], PastAudit]:
    """Of each table no more than DAYS_KEPT; says the same as last_audits.sql."""
    kept: dict[tuple[str, datetime], PastAudit] = {}
    of_table: Counter[str] = Counter()
    for table, day in sorted(days, reverse=True):
        of_table[table] += 1
        if of_table[table] <= DAYS_KEPT:
            kept[table, day] = days[table, day]
    return kept


def empty_days(audits: Days) -> dict[str, int]:
    """The tables whose source held no row of their last days though Iceberg did, and of how many in a row.

    A day without a row on either side, and one that could not be judged, neither ends nor lengthens it.
    """
    days: dict[str, dict[datetime, PastAudit]] = {}
    for (table, day), audit in audits.items():
        if audit.status is not AuditStatus.ERROR and (audit.clickhouse or audit.iceberg):
            days.setdefault(table, {})[day] = audit
    found: dict[str, int] = {}
    for table, of_table in days.items():
        newest_first = (of_table[day] for day in sorted(of_table, reverse=True))
        if row := sum(1 for _ in takewhile(lambda audit: not audit.clickhouse, newest_first)):
            found[table] = row
    return found


def newly_empty(audits: Iterable[AuditResult], days: Days) -> Mapping[str, int]:
    """The tables of which a slot's audits are the EMPTY_DAYS-th in a row whose source is empty, and Iceberg is not.

    `days`: what is known of the days before, and perhaps of this slot's.
    """
    own = past_days(audits)
    before = {
        (table, day): audit
        for (table, day), audit in days.items()
        if any(table == name and day < start for name, start in own)
    }
    earlier, now = empty_days(before), empty_days({**before, **own})
    return {table: row for table, row in now.items() if earlier.get(table, 0) < EMPTY_DAYS <= row}


def _seen(audit: AuditResult) -> PastAudit:
    counts = (audit.ch_row_count, audit.iceberg_row_count)
    clickhouse, iceberg = counts if None not in counts else (None, None)
    return PastAudit(audit.window_start, audit.run_timestamp, audit.status, clickhouse, iceberg)
