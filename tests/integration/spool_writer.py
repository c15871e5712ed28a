"""A process that puts runs into a spool and ships them until it is killed; says on stdout what was acknowledged."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import structlog

from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.spool.shipper import Logs, Shipper
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from tests.integration.installations import sole

FIRST_SLOT = datetime(2000, 1, 1, 2, tzinfo=UTC)
LINES: Logs = ({"event": "run_started"}, {"event": "run_ended"})


def night_of(number: int) -> tuple[RunOpening, RunReport]:
    """The run with that number, the same in every process: three tasks and an audit."""
    run_id, slot = UUID(int=number + 1), FIRST_SLOT + timedelta(days=number)
    done = StageResult(Stage.COMPACT, "cold.a", TaskOutcome.DONE, None, "", 1, slot, 1.0)
    tasks = tuple(replace(done, stage=stage) for stage in NIGHT)
    audit = AuditResult(
        run_id, slot, Trigger.SCHEDULE, slot, "cold.a", "a", "gold", 24, slot, slot, 1, 1, 0, None, AuditStatus.OK,
        None, "",
    )  # fmt: skip
    opening = RunOpening(run_id, slot, Trigger.SCHEDULE, slot, "9f86d081", NIGHT, ("cold.a",), "host-1")
    return opening, RunReport(
        run_id, slot, Trigger.SCHEDULE, RunOutcome.SUCCESS, slot, slot, "9f86d081", tasks, (audit,)
    )


async def write(state_dir: Path, dsn: str, password: str, first: int) -> None:
    """Goes on for ever."""
    spool = await Spool.open(state_dir)
    postgres = Postgres(dsn, password)
    ledger = PostgresLedger(postgres, sole(postgres))
    shipping = asyncio.create_task(Shipper(spool, lambda: ledger, lambda run_id: LINES).run())
    _say("ready")
    number = first
    while not shipping.done():
        opening, report = night_of(number)
        await spool.put_slot(report.slot, report.trigger)
        _say(f"slot {number}")
        await spool.open_run(opening)
        _say(f"open {number}")
        for task in report.tasks:
            await spool.mark_in_flight(opening.run_id, task.stage, task.table)
            await spool.end_task(opening.run_id, task, None)
        await spool.close_run(report)
        _say(f"closed {number}")
        number += 1


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
