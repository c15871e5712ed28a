"""Which findings are being repaired, or were: the port `RepairLedger` on the ledger's database."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.postgres.repair_requests import Answer, RepairRequests
from icekeeper.core.audit.records import Finding
from icekeeper.core.audit.repair import Refusal, Repaired, Way
from icekeeper.core.calendar import Window

CLAIMED, REPAIRED, RELEASED = "claimed", "repaired", "released"
# One claim at a time in a database: an advisory lock under a number of our own.
_LOCK = "SELECT pg_advisory_xact_lock($1)"
_LOCK_KEY = int.from_bytes(b"icerepai", "big")
# A later audit of a window gives its findings new ids: a claim keeps the other way from all that overlaps it. One of a
# run that has ended keeps nothing: whether its rows came, their keys tell.
_STANDING = """
    SELECT state, way, finding_id FROM maintenance_repairs AS repair
    WHERE (finding_id = $1
           OR (iceberg_table = $2 AND window_start < $4 AND window_end > $3 AND state = 'claimed'
               AND installation_id = $5))
      AND NOT (state = 'claimed' AND way = 'icekeeper' AND EXISTS (
        SELECT FROM maintenance_runs AS run WHERE run.run_id = repair.run_id AND run.finished_at IS NOT NULL))
    ORDER BY finding_id = $1 DESC
"""
_CLAIM = """
    INSERT INTO maintenance_repairs
      (finding_id, iceberg_table, window_start, window_end, way, state, run_id, installation_id)
    VALUES ($1, $2, $3, $4, $5, 'claimed', $6, $7)
    ON CONFLICT (finding_id) DO UPDATE SET
      way = excluded.way, state = excluded.state, run_id = excluded.run_id, claimed_at = clock_timestamp()
"""
_FINISH = """
    UPDATE maintenance_repairs
    SET state = 'repaired', finished_at = clock_timestamp(), rows = $2, snapshot_id = $3 WHERE finding_id = $1
"""
_RELEASE = """
    UPDATE maintenance_repairs SET state = 'released'
    WHERE finding_id = $1 AND state = 'claimed' AND run_id IS NOT DISTINCT FROM $2
"""
_OFFLOADS = """
    SELECT finding_id FROM maintenance_repairs
    WHERE iceberg_table = $1 AND way = $2 AND state = 'claimed' AND installation_id = $3
"""
# A window has one audit that counts, and perhaps one that found bad files.
_MOST_AUDITS = 1000


class PostgresRepairs:
    """Of one installation. Every method raises what `Postgres.connection` and `Installation` do."""

    def __init__(
        self, postgres: Postgres, installation: Installation, findings: PostgresFindings, requests: RepairRequests
    ) -> None:
        self._postgres = postgres
        self._installation = installation
        self._findings = findings
        self._requests = requests

    async def findings(self, table: str, window: Window) -> tuple[Finding, ...]:
        audits = await self._findings.found((table,), window.start, _MOST_AUDITS)
        # Those of before have no ids.
        return tuple(one for audit in audits if audit.window == window for one in audit.findings if one.id)

    async def refusal(self, table: str, finding: Finding) -> Refusal | None:
        mine = await self._installation.id()
        answers = {answer.finding_id: answer for answer in await self._answers(table)}
        async with self._postgres.connection() as connection:
            return await _refusal(connection, mine, table, finding, Way.ICEKEEPER, answers)

    async def claim(
        self, table: str, finding: Finding, run_id: UUID | None, way: Way = Way.ICEKEEPER
    ) -> Refusal | None:
        mine = await self._installation.settled()
        await self._settle(table)
        async with self._postgres.connection() as connection, connection.transaction():
            await connection.execute(_LOCK, _LOCK_KEY)
            refusal = await _refusal(connection, mine, table, finding, way)
            if refusal is None:
                await connection.execute(_CLAIM, finding.id, table, finding.start, finding.end, way.value, run_id, mine)
            return refusal

    async def finish(self, finding_id: str, repaired: Repaired) -> None:
        async with self._postgres.connection() as connection:
            await connection.execute(_FINISH, finding_id, repaired.rows, repaired.snapshot_id)

    async def release(self, finding_id: str, run_id: UUID | None) -> None:
        async with self._postgres.connection() as connection:
            await connection.execute(_RELEASE, finding_id, run_id)

    async def withdraw(self, finding_id: str) -> bool:
        """Takes back what the offload was asked for, and gives the claim up; False where neither was open.

        A claim whose request was never written is given up, too.
        """
        withdrawn = await self._requests.withdraw(finding_id)
        if not withdrawn and any(answer.done for answer in await self._requests.answers([finding_id])):
            return False
        async with self._postgres.connection() as connection:
            tag = await connection.execute(_RELEASE, finding_id, None)
        return withdrawn or tag != "UPDATE 0"

    async def _settle(self, table: str) -> None:
        """Takes over how the offload has answered."""
        for answer in await self._answers(table):
            if answer.done:
                await self.finish(answer.finding_id, Repaired(answer.rows))
            else:
                await self.release(answer.finding_id, None)

    async def _answers(self, table: str) -> tuple[Answer, ...]:
        """The offload's to what is claimed for it."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            claimed = [row["finding_id"] for row in await connection.fetch(_OFFLOADS, table, Way.OFFLOAD.value, mine)]
        return await self._requests.answers(claimed) if claimed else ()


async def _refusal(
    connection: Any,
    installation: UUID,
    table: str,
    finding: Finding,
    way: Way,
    answers: Mapping[str, Answer] = MappingProxyType({}),
) -> Refusal | None:
    """Why a finding can't be claimed in this way. A claim of the same way may be taken again: its run has died.

    `answers`: the offload's, by id, that the ledger does not have yet.
    """
    for row in await connection.fetch(_STANDING, finding.id, table, finding.start, finding.end, installation):
        answer = answers.get(row["finding_id"]) if row["state"] == CLAIMED else None
        if row["finding_id"] == finding.id and (row["state"] == REPAIRED or (answer and answer.done)):
            return Refusal.REPAIRED
        if row["state"] == CLAIMED and row["way"] != way and answer is None:
            return Refusal.CLAIMED
    return None
