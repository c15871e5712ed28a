"""Looks closer where an audit's sides differ: by the minute on both sides. What that means: core/audit/findings.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from icekeeper.core.audit.findings import KeysFound, Times, by_hour, findings
from icekeeper.core.audit.proof import FILE_REASONS
from icekeeper.core.audit.records import Finding, KeyComparison, LakehouseCount, MissingHour, SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.audit.verdict import missing_hours
from icekeeper.core.calendar import Window, is_of_days
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.night.stages.context import Deadline, TaskContext

log = structlog.get_logger(__name__)

_DAY_HOURS = 24


@dataclass(frozen=True, slots=True)
class DrillDown:
    """What was found, the hours that lack rows, and why no more is known."""

    findings: tuple[Finding, ...] = ()
    hours: tuple[MissingHour, ...] = ()
    note: str = ""


def differ(warm: SourceCount, iceberg: LakehouseCount, compared: KeyComparison | None) -> bool:
    """Whether rows differ that a finding can name. Of a source that merges rows Iceberg may rightly hold more."""
    if not warm.rows:
        return False
    more = iceberg.rows > warm.rows and not warm.merges
    return iceberg.rows < warm.rows or more or (compared is not None and not compared.equal)


async def drill_down(
    policy: TablePolicy,
    source: Source,
    context: TaskContext,
    warm: SourceCount,
    iceberg: LakehouseCount,
    keys: KeysFound | None,
    watermark: datetime | None,
    newest: datetime | None,
    deadline: Deadline,
) -> DrillDown:
    """The findings of the window, by the minute, of dates by the day; where these can't be counted, of it as a whole.

    PermanentError where files can't be read.
    """
    window = context.window
    in_source, in_iceberg = {window.start: warm.rows}, {window.start: iceberg.rows}
    times, note = Times(in_source, in_iceberg, warm.merges, window.end - window.start), ""
    counted: Mapping[datetime, int] | None = None
    in_clickhouse = partial(_source_minutes, source, context, warm, deadline)
    in_lakehouse = partial(_iceberg_minutes, policy, context, iceberg, deadline)
    try:
        try:
            counted = await in_clickhouse()
            minutes = Times(counted, await in_lakehouse(), warm.merges)
            # Looking at many minutes and keys takes a while, and the loop has other work.
            return await asyncio.to_thread(_drilled, window, minutes, keys, watermark, newest)
        except PermanentError as exc:
            if exc.reason is not Reason.SOURCE_TYPE:
                raise
            note = f"there are no hours to tell apart: {exc}"  # a date: it could be no other way
            if is_of_days(window) and window.hours > _DAY_HOURS:
                counted = counted or await in_clickhouse(dates=True)
                dates = Times(counted, await in_lakehouse(dates=True), warm.merges)
                times = dates.by(timedelta(days=1), window.start, None)
    except IcekeeperError as exc:
        if exc.reason in FILE_REASONS:
            raise
        log.warning("drill_down_failed", stage=Stage.AUDIT, table=policy.name, error=str(exc))
        note = f"the minutes could not be counted: {exc}"
    return DrillDown(await asyncio.to_thread(findings, window, times, keys, watermark, newest), note=note)


async def _source_minutes(
    source: Source, context: TaskContext, warm: SourceCount, deadline: Deadline, *, dates: bool = False
) -> Mapping[datetime, int]:
    """ClickHouse's rows by the minute, `dates` as of the ports.

    TransientError `conflict` where it holds other rows now than were judged.
    """
    rows = await context.ports.source.count_by_minute(
        source, context.window, warm.final, deadline.remaining(), dates=dates
    )
    if sum(rows.values()) != warm.rows:
        raise TransientError(f"{source} was written to since it was counted", reason=Reason.CONFLICT)
    return rows


async def _iceberg_minutes(
    policy: TablePolicy, context: TaskContext, iceberg: LakehouseCount, deadline: Deadline, *, dates: bool = False
) -> Mapping[datetime, int]:
    """Iceberg's rows by the minute, `dates` as of the ports."""
    return await context.ports.lakehouse.count_by_minute(
        policy.name, policy.timestamp, context.window, iceberg.snapshot_id, deadline.remaining(), dates=dates
    )


def _drilled(
    window: Window, times: Times, keys: KeysFound | None, watermark: datetime | None, newest: datetime | None
) -> DrillDown:
    found = findings(window, times, keys, watermark, newest)
    return DrillDown(found, missing_hours(by_hour(times.clickhouse), by_hour(times.iceberg)))


async def source_minutes(
    policy: TablePolicy, source: Source, context: TaskContext, warm: SourceCount, deadline: Deadline
) -> Mapping[datetime, int] | None:
    """ClickHouse's rows by the minute; None where they can't be counted."""
    try:
        return await context.ports.source.count_by_minute(source, context.window, warm.final, deadline.remaining())
    except IcekeeperError as exc:
        if exc.reason is not Reason.SOURCE_TYPE:
            log.warning("drill_down_failed", stage=Stage.AUDIT, table=policy.name, error=str(exc))
        return None
