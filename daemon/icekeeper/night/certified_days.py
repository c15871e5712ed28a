"""The certified days of a table, noted in its properties where its settings ask for it. What certifies: core/audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import date, timedelta
from functools import partial
from typing import Any

import structlog

from icekeeper.core.audit.certificates import CertifiedBy, properties_of
from icekeeper.core.audit.evidence import evidence
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import SYSTEM_DOWN, Reason
from icekeeper.night.lookback import drop_cancellation
from icekeeper.night.stages.context import TaskContext

log = structlog.get_logger(__name__)

# How far back the properties reach, whichever days the run has audited.
DAYS_NOTED = 31
_TIMEOUT = timedelta(seconds=60)
_ATTEMPTS = 2


async def note_certified_days(
    policies: Iterable[TablePolicy],
    context: TaskContext,
    audits: Iterable[AuditResult],
    lock: AbstractAsyncContextManager[Any],
    before_each: Callable[[], None],
    *,
    ledger_behind: bool,
) -> None:
    """Sets the properties of those of these tables that have `audit.certificate_property`, one commit each at most.

    `audits`: the run's, which the ledger does not have yet. Where it can't be asked, or (`ledger_behind`) lacks records
    of runs before, the properties are removed from tables in whose rows an audit has found damage, and left alone in
    others. The run's tasks are done, and their outcome is the run's: what fails or ends this is logged.
    """
    audits = list(audits)
    try:
        for policy in policies:
            if policy.audit is None or not policy.audit.certificate_property:
                continue
            before_each()
            if context.until is not None and context.ports.clock() >= context.until:
                log.warning("certificates_not_noted", table=policy.name, error="the run's max_duration is used up")
                return
            async with lock:
                own = [audit for audit in audits if audit.iceberg_table == policy.name]
                failed = await _note(policy, context, own, ledger_behind=ledger_behind)
            if failed in SYSTEM_DOWN:
                return  # as it would be for the other tables
    except asyncio.CancelledError:
        log.warning("certificates_not_noted", error="the run was stopped")
        drop_cancellation()
    except Exception:
        log.exception("certificates_not_noted")


async def _note(
    policy: TablePolicy, context: TaskContext, audits: list[AuditResult], *, ledger_behind: bool
) -> Reason | None:
    """Why the properties could not be set."""
    ports, table = context.ports, policy.name
    last = ports.clock().date()
    damaged = any(one.revokes for audit in audits for one in evidence(audit))
    days: Mapping[date, CertifiedBy] | None = None
    if not ledger_behind:
        try:
            days = await ports.findings.certified_days(table, last - timedelta(days=DAYS_NOTED), last, audits)
        except IcekeeperError as exc:
            log.warning("certificates_not_read", table=table, error=str(exc))
    if days is None and not damaged:
        return None
    days = days or {}
    say = partial(context.report, Stage.AUDIT, table)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            gate = context.offload.before_commit(policy, say, ports.clock() + _TIMEOUT)
            changed = await ports.lakehouse.set_properties(table, properties_of(days), _TIMEOUT, gate)
        except IcekeeperError as exc:
            if attempt < _ATTEMPTS and isinstance(exc, TransientError) and exc.reason not in SYSTEM_DOWN:
                continue
            # A day that is certified no longer stays in the table's properties.
            (log.error if damaged else log.warning)("certificates_not_noted", table=table, error=str(exc))
            return exc.reason
        if changed:
            log.info("certificates_noted", table=table, days=len(days))
        break
    return None
