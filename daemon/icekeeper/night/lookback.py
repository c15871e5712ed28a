"""Older days, audited again after all of a run's tasks. What their verdicts mean: core/audit/lookback.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from icekeeper.core.audit.lookback import has_expired, is_left_alone, is_worse
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import SYSTEM_DOWN, Reason
from icekeeper.core.runs import OlderDays
from icekeeper.night.stages.context import TaskContext
from icekeeper.night.task import Task

log = structlog.get_logger(__name__)


def drop_cancellation() -> None:
    """What was cancelled has been answered, and is not raised again at the next await."""
    if (task := asyncio.current_task()) is not None:
        task.uncancel()


async def look_back(
    days: Sequence[tuple[TablePolicy, Window]],
    context: TaskContext,
    own: Iterable[AuditResult],
    lock: AbstractAsyncContextManager[Any],
    before_each: Callable[[], None],
    take: Callable[[AuditResult], None],
) -> OlderDays:
    """Audits these days, one attempt each, until `context.until`; `take` gets each audit that is a verdict.

    `own`: the run's audits so far. The run's tasks are done, and their outcome is the run's: what ends this early, a
    stop or a bug, is logged. So is a day that can't be audited any more, or not now: it keeps its verdict.
    """
    done: list[bool] = []
    reason: Reason | None = None
    try:
        reason = await _look_back(days, context, own, lock, before_each, take, done)
    except asyncio.CancelledError:
        reason = Reason.CANCELLED
        log.warning("lookback_cut_short", days_left=len(days) - len(done), reason=reason)
        drop_cancellation()
    except Exception:
        reason = Reason.UNEXPECTED
        log.exception("lookback_crashed")
    return OlderDays(sum(done), len(done) - sum(done), len(days) - len(done), reason)


async def _look_back(
    days: Sequence[tuple[TablePolicy, Window]],
    context: TaskContext,
    own: Iterable[AuditResult],
    lock: AbstractAsyncContextManager[Any],
    before_each: Callable[[], None],
    take: Callable[[AuditResult], None],
    done: list[bool],
) -> Reason | None:
    """Adds to `done` of each day whether it has a new verdict. Why it ended before the last one, where it did."""
    ttls = {audit.iceberg_table: audit.source_ttl_s for audit in own}
    try:
        known = await _last_audits(days, context)
    except IcekeeperError as exc:
        # Without the verdicts of before every known finding would be reported once more.
        log.warning("lookback_left_out", days=len(days), error=str(exc))
        return exc.reason
    for number, (policy, day) in enumerate(days, start=1):
        before_each()
        if context.until is not None and context.ports.clock() >= context.until:
            log.warning("lookback_cut_short", days_left=len(days) - len(done), reason=Reason.BUDGET)
            return Reason.BUDGET
        before = known.get((policy.name, day))
        if before is None and (policy.name, day) in known:
            log.info(
                "older_day_left_alone", table=policy.name, day=f"{day.start:%Y-%m-%d}", note="it has another's row"
            )
            done.append(False)
            continue
        if has_expired(day, context.ports.clock(), _keeps(policy, before, ttls.get(policy.name))):
            done.append(False)
            continue
        with bound_contextvars(stage=Stage.AUDIT, table=policy.name, day=f"{day.start:%Y-%m-%d}"):
            context.report(Stage.AUDIT, policy.name, f"audits {day.start:%Y-%m-%d} again")
            async with lock:
                judged, down = await _audit(policy, replace(context, window=day, before=before), take)
        if judged or down is None:
            done.append(judged)
        if down is not None:
            log.warning("lookback_cut_short", days_left=len(days) - number, reason=down)
            return down
    return None


async def _audit(
    policy: TablePolicy, context: TaskContext, take: Callable[[AuditResult], None]
) -> tuple[bool, Reason | None]:
    """Audits one day: whether it has a new verdict, and why the others need not be tried now, where that is so."""
    ended = await Task(Stage.AUDIT, policy, replace(context, retries_off=True)).run()
    audit, result = ended.audit, ended.result
    judged = audit is not None and not is_left_alone(audit, context.before)
    if audit is None or not judged:
        log.info("older_day_left_alone", outcome=result.outcome, reason=result.reason, note=result.note)
    else:
        worse = is_worse(audit, context.before)
        level = log.warning if worse else log.info
        level("older_day_audited", outcome=audit.status, reason=audit.reason, note=audit.notes, worse=worse)
        take(replace(audit, worse=worse))
    return judged, result.reason if result.reason in SYSTEM_DOWN or result.reason is Reason.BUDGET else None


async def _last_audits(
    days: Iterable[tuple[TablePolicy, Window]], context: TaskContext
) -> Mapping[tuple[str, Window], AuditResult | None]:
    """What the ledger has of these days, without this slot's own runs."""
    found: dict[tuple[str, Window], AuditResult | None] = {}
    of_table: dict[str, list[datetime]] = {}
    for policy, day in days:
        of_table.setdefault(policy.name, []).extend((day.start, day.end))
    for table, instants in of_table.items():
        span = Window(min(instants), max(instants))
        audits = await context.ports.findings.last_audits(table, span, context.slot)
        found.update({(table, day): audit for day, audit in audits.items()})
    return found


def _keeps(policy: TablePolicy, before: AuditResult | None, ttl_s: int | None) -> timedelta | None:
    """How long the source keeps its rows, as far as that is known without asking it."""
    if isinstance(policy.source_ttl, timedelta):
        return policy.source_ttl
    if policy.source_ttl == "none":
        return None
    if ttl_s is None and before is not None:
        ttl_s = before.source_ttl_s
    return None if ttl_s is None else timedelta(seconds=ttl_s)
