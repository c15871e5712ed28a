"""The calendar of the audited days by table: its cells and their words. Pure; its markup: templates/tables.html."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from icekeeper.core.enums import AuditStatus
from icekeeper.core.reasons import Reason
from icekeeper.pages.filters import number
from icekeeper.status.audit_schemas import AuditedDay

# What a day may be, in the order of the key below the calendar.
WORDS = ("certified", "ok", "warning", "missing_data", "error", "expired", "none")


@dataclass(frozen=True, slots=True)
class Cell:
    """A UTC day of a table; `audited` None: it was not audited."""

    day: date
    audited: AuditedDay | None

    @property
    def word(self) -> str:
        """One of WORDS. Expired: the source had dropped its rows before the day could be counted.

        An `ok` whose certificate was revoked is a warning: an audit of another window has found what is wrong.
        """
        if self.audited is None:
            return "none"
        if self.audited.certified_by is not None:
            return "certified"
        if self.audited.status == AuditStatus.OK and self.audited.revoked_reason is not None:
            return "warning"
        return "expired" if self.audited.reason == Reason.SOURCE_EXPIRED else self.audited.status

    @property
    def text(self) -> str:
        """For a reader who points at it, or who can't see it."""
        verdict = f"{self.day:%a %d %b %Y}: {self.word.replace('_', ' ')}"
        if self.audited is None:
            return f"{self.day:%a %d %b %Y}: not audited"
        if self.audited.certified_by is not None:
            return f"{verdict} by {self.audited.certified_by}, {number(self.audited.iceberg_row_count)} rows"
        if self.audited.revoked_reason is not None:
            verdict = f"{verdict}, its certificate was revoked ({self.audited.revoked_reason})"
        counts = self.audited.ch_row_count, self.audited.iceberg_row_count
        if None in counts:
            return f"{verdict}{f' ({self.audited.reason})' if self.audited.reason else ''}"
        return f"{verdict}, ClickHouse {number(counts[0])} rows, Iceberg {number(counts[1])}"


@dataclass(frozen=True, slots=True)
class Row:
    """A table and its days, oldest first."""

    table: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Months:
    """A month above the columns that it spans."""

    name: str
    days: int


def day_rows(items: Iterable[AuditedDay], tables: Iterable[str], last: date, days: int) -> tuple[Row, ...]:
    """A row for each table, with a cell for each of the `days` days that end with `last`."""
    found = {(item.table, item.day): item for item in items}
    span = [last - timedelta(days=back) for back in reversed(range(days))]
    return tuple(Row(table, tuple(Cell(day, found.get((table, day))) for day in span)) for table in tables)


def months(cells: Sequence[Cell]) -> tuple[Months, ...]:
    """The months above a row's cells; one of less than three days has no room for its name."""
    counted: dict[tuple[int, int], int] = {}
    for cell in cells:
        month = cell.day.year, cell.day.month
        counted[month] = counted.get(month, 0) + 1
    return tuple(Months(f"{date(*month, 1):%b}" if days_of > 2 else "", days_of) for month, days_of in counted.items())
