"""icekeeper itself: the night as the daemon runs it, with its default settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

from bench.record import Output, Store
from bench.rivals import ALL_TABLES, Job, RivalFailed
from bench.worlds import SLOT
from icekeeper.core.audit.source import Source
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.events import Event
from icekeeper.core.policy import Strategy, TablePolicy
from icekeeper.core.runs import RunReport
from icekeeper.core.tables.proof_budget import ProofBudget
from icekeeper.execution.standalone import run_standalone
from icekeeper.execution.wiring import Services
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from icekeeper.sandbox.table_shapes import NAMESPACE


class Icekeeper:
    """By its defaults, or with a strategy of compaction; `services` are built for each warehouse, by its catalog."""

    frees_late = False

    def __init__(
        self,
        name: str,
        parts: frozenset[str],
        services: Mapping[str, Services],
        strategy: Strategy | None = None,
        most_tables: Mapping[Store, int] = ALL_TABLES,
        note: str = "",
    ) -> None:
        self.name = name
        self.parts = parts
        self.most_tables = most_tables
        self.note = note
        self._strategy = strategy
        self._services = services

    async def do(self, job: Job) -> Output | None:
        services = self._services[job.warehouse.name]
        settings = services.settings
        await services.engine.start()  # it is up, but where its start is what is measured
        if not job.stages:
            return None
        (pattern,) = settings.policies()
        order = Order(
            run_id=uuid4(),
            slot=SLOT,
            trigger=Trigger.MANUAL,
            tables=tuple(self._policy(pattern, name, job) for name in job.tables),
            stages=job.stages,
            settings_hash=settings.digest(),
            policy=settings.run_policy(),
        )
        if job.recorded:
            # What nights before have saved for comparing content would make this one longer.
            fresh = replace(services, ports=replace(services.ports, proofs=ProofBudget()))
            done = await run_standalone(fresh, order, _ignore)
            if (lost := done.not_recorded or done.not_shipped) is not None:
                raise lost
            _check(done.report)
        else:
            _check(await run_night(order, services.ports, _ignore))
        return None

    def _policy(self, pattern: TablePolicy, name: str, job: Job) -> TablePolicy:
        compact = replace(pattern.compact, strategy=self._strategy or pattern.compact.strategy)
        if not job.recorded:
            # Content is compared for a share of a night's time: which of single compactions it hits would be chance.
            compact = replace(compact, prove_pct=Decimal(0))
        source = Source((job.source,), pattern.timestamp)
        return replace(pattern, name=f"{NAMESPACE}.{name}", source=source, compact=compact)


def _check(report: RunReport) -> None:
    if report.outcome is not RunOutcome.SUCCESS:
        failed = [f"{task.stage} of {task.table}: {task.error}" for task in report.tasks if task.error]
        failed += [f"audit of {audit.iceberg_table}: {audit.status} {audit.notes}" for audit in report.audits]
        raise RivalFailed(f"the night was {report.outcome}: {'; '.join(failed[:3])}")
    # The wait before another attempt would be measured.
    if again := [f"{task.stage} of {task.table}" for task in report.tasks if task.attempts > 1]:
        raise RivalFailed(f"more than one attempt was made: {', '.join(again[:3])}")


def _ignore(event: Event) -> None:
    pass
