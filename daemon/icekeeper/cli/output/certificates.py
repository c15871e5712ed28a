"""Output of which days are certified. It reads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from icekeeper.cli.output.console import add_numbers, new_table
from icekeeper.core.audit.certificates import CertifiedDay
from icekeeper.core.formats import minute_utc, number


def in_words(day: CertifiedDay) -> str:
    """A day's certificate, or why it has none and what to do, in one line."""
    known, which = day.certificate, f"{day.table} {day.day}"
    if day.certified and known is not None:
        return (
            f"{which}: certified by {known.by} since {minute_utc(known.audited_at)}, proof {known.proof}, "
            f"rows in ClickHouse {number(known.ch_row_count)}, in Iceberg {number(known.iceberg_row_count)}"
        )
    why = f"not certified, {day.uncertified}"
    if known is not None and known.revoked_at is not None:
        why = f"{why} {minute_utc(known.revoked_at)} by run {known.revoked_by} ({known.revoked_reason})"
    return f"{which}: {why}: {day.advice}"


def show_days(console: Console, days: Iterable[CertifiedDay]) -> None:
    """Days in a row that are alike as one line, and what to do about those that are not certified."""
    days = tuple(days)
    if not days:
        console.print("no day was audited in this time")
        return
    table = new_table(None, "table", "days")
    add_numbers(table, "how many")
    table.add_column("certified")
    for _, alike in groupby(days, key=lambda day: (day.table, day.uncertified, day.certificate and day.certificate.by)):
        run = list(alike)
        table.add_row(run[0].table, _span(run), str(len(run)), _certified(run[0]))
    console.print(table)
    for why in sorted({day.uncertified for day in days if day.uncertified is not None}):
        console.print(f"{why}: {why.advice}", markup=False, soft_wrap=True)


def _span(days: Sequence[CertifiedDay]) -> str:
    first, last = days[-1].day, days[0].day
    return f"{last}" if first == last else f"{first} to {last}"


def _certified(day: CertifiedDay) -> Text:
    if day.certified and day.certificate is not None:
        return Text(f"by {day.certificate.by}", "green")
    return Text(f"no: {day.uncertified}", "yellow")
