"""What a run is asked to do. Doing it: run.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from icekeeper.core.audit.lookback import older_days
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import NIGHT, Stage, Trigger
from icekeeper.core.events import Subscriber
from icekeeper.core.policy import RunPolicy, TablePolicy
from icekeeper.core.resuming import EarlierWork
from icekeeper.core.runs import RunOpening
from icekeeper.core.tables.rewrites import table_in_turn
from icekeeper.night.ports import RunPorts
from icekeeper.night.stages.context import Clocks, TaskContext
from icekeeper.night.stages.offload import OffloadGuard


@dataclass(slots=True)
class StopRequest:
    """Who ends a run early: set before its task is cancelled. Without an operator the run counts as interrupted."""

    by_operator: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is asked to do. `tables` in the order in which they are worked on; `window`: None is the slot's.

    `snapshots`: the snapshot at which a table is audited, where that is not its current one. `findings`: the ids of
    those to repair; empty: all of the window. `actor`: who ordered it, as the ledger has it.
    `recorded` False: of a dry run, which leaves no trace. `ledger_behind`: records of runs before wait in the spool.
    """

    run_id: UUID
    slot: datetime
    trigger: Trigger
    tables: tuple[TablePolicy, ...]
    stages: tuple[Stage, ...] = NIGHT
    window: Window | None = None
    snapshots: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    settings_hash: str = ""
    policy: RunPolicy = field(default_factory=RunPolicy)
    host: str = ""
    actor: str | None = None
    recorded: bool = True
    ledger_behind: bool = False
    earlier: EarlierWork = field(default_factory=EarlierWork)
    stop: StopRequest = field(default_factory=StopRequest, compare=False)

    def work(self) -> Iterator[tuple[Stage, TablePolicy]]:
        """Stage by stage, table by table; no stage that is off for a table, and no audit that the slot has already."""
        window = self.audited
        for stage in (stage for stage in Stage if stage in self.stages):
            for policy in self.tables:
                if policy.has(stage) and (stage is not Stage.AUDIT or self.owes(policy, window)):
                    yield stage, policy

    def older_days(self) -> Iterator[tuple[TablePolicy, Window]]:
        """What is audited again after that, the oldest days first; nothing where a window was chosen."""
        if self.window is not None or Stage.AUDIT not in self.stages:
            return
        yield from (each for each in older_days(self.tables, self.audited) if self.owes(*each))

    def owes(self, policy: TablePolicy, window: Window) -> bool:
        """Whether no earlier run of the slot has counted this window of the table."""
        return (policy.name, window) not in self.earlier.counted

    def opening(self, started_at: datetime) -> RunOpening:
        """The run as it begins."""
        return RunOpening(
            run_id=self.run_id,
            slot=self.slot,
            trigger=self.trigger,
            started_at=started_at,
            settings_hash=self.settings_hash,
            stages=self.stages,
            tables=tuple(policy.name for policy in self.tables),
            host=self.host,
            actor=self.actor,
        )

    @property
    def audited(self) -> Window:
        """What its audits count."""
        return self.window or window_of(self.slot)

    def context(self, ports: RunPorts, emit: Subscriber) -> TaskContext:
        """What each of its tasks gets."""
        return TaskContext(
            run_id=self.run_id,
            slot=self.slot,
            window=self.audited,
            trigger=self.trigger,
            ports=ports,
            emit=emit,
            clocks=Clocks(ports.surroundings),
            offload=OffloadGuard(ports, self.policy.offload),
            run_policy=self.policy,
            snapshots=self.snapshots,
            turn=table_in_turn(
                [one.name for one in self.tables if one.compact.enabled and one.compact.prove_pct], self.slot
            ),
            findings=self.findings,
        )
