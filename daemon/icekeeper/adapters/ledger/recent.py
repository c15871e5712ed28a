"""The last nights as the ledger has them, for a daemon that has just started or is a standby. Runs: history.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import structlog

from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.rows import known
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.records import from_plain
from icekeeper.core.audit.days import DAYS_KEPT, PastAudit
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import (
    MOST_NIGHTS,
    TASKS_KEPT,
    PastHealth,
    PastNight,
    PastTask,
    RunHistory,
)
from icekeeper.core.tables.state import TableHealth

log = structlog.get_logger(__name__)

_NIGHTS, _TASKS = statement("last_nights"), statement("last_tasks")
_HEALTHS, _AUDITS = statement("last_healths"), statement("last_audits")


class PostgresRecent:
    """Of one installation. Raises what `Postgres.connection` and `Installation` do."""

    def __init__(self, postgres: Postgres, installation: Installation) -> None:
        self._postgres = postgres
        self._installation = installation

    async def past(self, tables: Iterable[str]) -> RunHistory:
        """What the ledger knows of the last nights of these tables, which are the enabled ones."""
        names = list(tables)
        mine = await self._installation.id()
        stages = [stage.value for stage in NIGHT]
        async with self._postgres.snapshot() as connection:
            # How few tasks are new enough is not known to the planner, which would have a query on so many compiled.
            await connection.execute("SET LOCAL jit = off")
            nights = await connection.fetch(_NIGHTS, stages, names, MOST_NIGHTS, None, mine)
            succeeded = await connection.fetch(_NIGHTS, stages, names, 1, RunOutcome.SUCCESS.value, mine)
            tasks = await connection.fetch(_TASKS, names, TASKS_KEPT, mine)
            healths = await connection.fetch(_HEALTHS, names, mine)
            audits = await connection.fetch(_AUDITS, names, DAYS_KEPT, mine)
        tasks = [row for row in tasks if known(Stage, row["stage"])]
        # Joined, so that it has the order and the bounds of any past.
        return RunHistory().joined(
            RunHistory(
                nights=tuple(_night(row) for row in nights),
                tasks=tuple(map(_task, tasks)),
                healths={row["table"]: seen for row in healths if (seen := _health(row)) is not None},
                # A status that is none of ours was put there by hand.
                days={(row["table"], row["day"]): _audit(row) for row in audits if known(AuditStatus, row["status"])},
                not_held={
                    (Stage(row["stage"]), row["table"]): row["not_held"] for row in tasks if row["not_held"] is not None
                },
                success=_night(succeeded[0]) if succeeded else None,
            )
        )


def _night(row: Any) -> PastNight:
    return PastNight(
        run_id=row["run_id"],
        slot=row["slot"],
        outcome=known(RunOutcome, row["outcome"]) or RunOutcome.FAILED,
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        audited=frozenset(row["audited"]),
        found=frozenset(row["found"]),
        older=frozenset(row["older"]),
    )


def _task(row: Any) -> PastTask:
    return PastTask(
        run_id=row["run_id"],
        slot=row["slot"],
        stage=Stage(row["stage"]),
        table=row["table"],
        outcome=known(TaskOutcome, row["outcome"]) or TaskOutcome.FAILED,
        reason=None if row["reason"] is None else known(Reason, row["reason"]) or Reason.UNEXPECTED,
        started_at=row["started_at"],
        manual=row["manual"],
    )


def _health(row: Any) -> PastHealth | None:
    try:
        return PastHealth(row["started_at"], from_plain(TableHealth, json.loads(row["after"])))
    except ValueError as exc:  # of a newer icekeeper, or edited by hand: the others are no worse for it
        log.warning("health_not_understood", table=row["table"], error=str(exc))
        return None


def _audit(row: Any) -> PastAudit:
    counts = (row["clickhouse"], row["iceberg"])
    clickhouse, iceberg = counts if None not in counts else (None, None)
    return PastAudit(row["day"], row["at"], AuditStatus(row["status"]), clickhouse, iceberg)
