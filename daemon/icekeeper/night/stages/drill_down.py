"""Looks closer where an audit's sides differ: by the minute on both sides. What that means: core/audit/findings.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from icekeeper.core.audit.findings import MINUTE, KeysFound, Times, by_hour, findings, findings_note
from icekeeper.core.audit.records import Finding, KeyComparison, LakehouseCount, MissingHour, SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.audit.verdict import missing_hours
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.policy import TablePolicy
from icekeeper.night.stages.context import Deadline, TaskContext

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DrillDown:
    """What was found, and a note on it."""

    findings: tuple[Finding, ...] = ()
    hours: tuple[MissingHour, ...] = ()
    note: str = ""


def differ(warm: SourceCount, iceberg: LakehouseCount, compared: KeyComparison | None) -> bool:
    """Whether rows differ that a finding can name. Of a source that merges rows Iceberg may rightly hold more."""
    if not warm.rows:
        return False
    more = iceberg.rows > warm.rows and not warm.final
    return iceberg.rows < warm.rows or more or (compared is not None and not compared.equal)


async def drill_down(
    policy: TablePolicy,
    source: Source,
    context: TaskContext,
    warm: SourceCount,
    iceberg: LakehouseCount,
    keys: KeysFound | None,
    watermark: datetime | None,
    deadline: Deadline,
) -> DrillDown:
    """The findings of the window, by the minute; where minutes can't be counted, of the window as a whole."""
    window, note = context.window, ""
    try:
        in_source = await context.ports.source.count_by_minute(source, window, warm.final, deadline.remaining())
        in_iceberg = await context.ports.lakehouse.count_by_minute(
            policy.name, policy.timestamp, window, iceberg.snapshot_id, deadline.remaining()
        )
        times = Times(in_source, in_iceberg, warm.final)
    except IcekeeperError as exc:
        log.warning("drill_down_failed", stage=Stage.AUDIT, table=policy.name, error=str(exc))
        note = f"the minutes could not be counted: {exc}"
        in_source, in_iceberg = {window.start: warm.rows}, {window.start: iceberg.rows}
        times = Times(in_source, in_iceberg, warm.final, window.end - window.start)
    # Looking at many keys takes a while, and the loop has other work.
    found = await asyncio.to_thread(findings, window, times, keys, watermark)
    hours = missing_hours(by_hour(in_source), by_hour(in_iceberg)) if times.step == MINUTE else ()
    return DrillDown(found, hours, "; ".join(filter(None, (note, findings_note(found)))))


async def source_minutes(
    policy: TablePolicy, source: Source, context: TaskContext, warm: SourceCount, deadline: Deadline
) -> Mapping[datetime, int] | None:
    """ClickHouse's rows by the minute; None where they can't be counted."""
    try:
        return await context.ports.source.count_by_minute(source, context.window, warm.final, deadline.remaining())
    except IcekeeperError as exc:
        log.warning("drill_down_failed", stage=Stage.AUDIT, table=policy.name, error=str(exc))
        return None
