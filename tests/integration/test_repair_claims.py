"""Claims of findings on a real PostgreSQL: two ways never both, and no claim outlives what could repair it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest

from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.repairs import PostgresRepairs
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.postgres.repair_requests import RepairRequests
from icekeeper.core.audit.records import Finding, FindingKind
from icekeeper.core.audit.repair import FindingRepair, Refusal, Repaired, Way
from icekeeper.core.audit.source import Source
from icekeeper.core.errors import PermanentError
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.watermarks import REQUESTS_DDL
from tests.integration.installations import MAKE_SOLE, sole

TABLE = "cold.a"
NINE = datetime(2026, 2, 17, 9, tzinfo=UTC)
ONE = Finding(FindingKind.MISSING, NINE, NINE + timedelta(hours=1), 12, id="1" * 16)
# A later audit's of the same time, and one of another time.
AGAIN = replace(ONE, id="2" * 16)
OTHER = replace(ONE, start=ONE.end, end=ONE.end + timedelta(hours=1), id="3" * 16)
RUN, LATER = uuid4(), uuid4()
_numbers = count()


@dataclass
class Claims:
    """A ledger with the offload's requests beside it."""

    box: Sandbox
    name: str
    repairs: PostgresRepairs
    requests: RepairRequests

    def sql(self, text: str, *args: object) -> list[tuple[Any, ...]]:
        return self.box.postgres.execute(self.name, text, *args)

    async def ask(self, finding: Finding = ONE) -> None:
        asked = FindingRepair(finding.id, finding.start, finding.end, finding.rows, ("id",))
        await self.requests.request(TABLE, Source(("a",), "at"), asked)

    def begin(self, run_id: UUID) -> None:
        self.sql(
            "INSERT INTO maintenance_runs (run_id, slot, trigger, started_at, settings_hash) "
            "VALUES ($1::uuid, now(), 'manual', now(), '')",
            str(run_id),
        )

    def end(self, run_id: UUID) -> None:
        self.sql(
            "UPDATE maintenance_runs SET outcome = 'interrupted', finished_at = now() WHERE run_id = $1::uuid",
            str(run_id),
        )

    def state(self, finding: Finding = ONE) -> Any:
        ((state,),) = self.sql("SELECT state FROM maintenance_repairs WHERE finding_id = $1", finding.id)
        return state


@pytest.fixture
async def claims(box: Sandbox) -> AsyncIterator[Claims]:
    name = f"claims{next(_numbers)}"
    box.postgres.create_database(name)
    await migrate(box.postgres.dsn(name), box.postgres.password)
    box.postgres.execute(name, MAKE_SOLE)
    postgres = Postgres(box.postgres.dsn(name), box.postgres.password)
    requests = RepairRequests(postgres, "offload_watermarks")
    mine = sole(postgres)
    yield Claims(box, name, PostgresRepairs(postgres, mine, PostgresFindings(postgres, mine), requests), requests)
    await postgres.close()


async def test_what_one_way_has_claimed_the_other_is_refused(claims: Claims) -> None:
    claims.begin(RUN)
    assert await claims.repairs.claim(TABLE, ONE, RUN) is None
    assert await claims.repairs.claim(TABLE, ONE, None, Way.OFFLOAD) is Refusal.CLAIMED
    assert await claims.repairs.claim(TABLE, AGAIN, None, Way.OFFLOAD) is Refusal.CLAIMED
    assert await claims.repairs.claim(TABLE, OTHER, None, Way.OFFLOAD) is None
    assert await claims.repairs.claim(TABLE, OTHER, RUN) is Refusal.CLAIMED
    await claims.repairs.finish(ONE.id, Repaired(12, 7))
    assert await claims.repairs.claim(TABLE, ONE, None, Way.OFFLOAD) is Refusal.REPAIRED


async def test_a_claim_of_a_run_that_has_ended_keeps_nothing(claims: Claims) -> None:
    claims.begin(RUN)
    await claims.repairs.claim(TABLE, ONE, RUN)
    claims.end(RUN)
    assert await claims.repairs.claim(TABLE, AGAIN, None, Way.OFFLOAD) is None
    # The newer claim is the offload's now.
    claims.begin(LATER)
    assert await claims.repairs.claim(TABLE, ONE, LATER) is Refusal.CLAIMED


async def test_only_the_run_that_claimed_a_finding_gives_it_up(claims: Claims) -> None:
    await claims.repairs.claim(TABLE, ONE, RUN)
    await claims.repairs.release(ONE.id, LATER)
    assert claims.state() == "claimed"
    await claims.repairs.release(ONE.id, RUN)
    assert claims.state() == "released"


@pytest.mark.parametrize("answer", ["done", "failed"])
async def test_the_offloads_answer_is_seen_at_once_and_taken_over_by_a_claim(claims: Claims, answer: str) -> None:
    claims.sql(REQUESTS_DDL)
    await claims.repairs.claim(TABLE, ONE, None, Way.OFFLOAD)
    await claims.ask()
    assert await claims.repairs.refusal(TABLE, ONE) is Refusal.CLAIMED
    # It is asked again, which changes nothing.
    assert await claims.repairs.claim(TABLE, ONE, None, Way.OFFLOAD) is None
    await claims.ask()
    claims.sql("UPDATE offload_repair_requests SET state = $1, row_count = 12, done_at = now()", answer)
    refusal = Refusal.REPAIRED if answer == "done" else None
    assert await claims.repairs.refusal(TABLE, ONE) is refusal
    assert claims.state() == "claimed", "a dry run changes nothing"
    assert await claims.repairs.claim(TABLE, ONE, RUN) is refusal
    assert claims.state() == ("repaired" if answer == "done" else "claimed")


async def test_a_request_that_is_withdrawn_keeps_nothing_claimed_and_an_answered_one_stays(claims: Claims) -> None:
    with pytest.raises(PermanentError, match="takes no requests"):
        await claims.repairs.withdraw(ONE.id)
    claims.sql(REQUESTS_DDL)
    assert not await claims.repairs.withdraw(ONE.id)
    await claims.repairs.claim(TABLE, ONE, None, Way.OFFLOAD)
    assert await claims.repairs.withdraw(ONE.id), "a claim whose request was never written"
    assert claims.state() == "released"
    await claims.repairs.claim(TABLE, ONE, None, Way.OFFLOAD)
    await claims.ask()
    assert await claims.repairs.withdraw(ONE.id)
    assert claims.sql("SELECT state, error_message FROM offload_repair_requests") == [("failed", "withdrawn")]
    assert claims.state() == "released"
    assert not await claims.repairs.withdraw(ONE.id)
    assert await claims.repairs.claim(TABLE, AGAIN, RUN) is None
    await claims.repairs.claim(TABLE, OTHER, None, Way.OFFLOAD)
    await claims.ask(OTHER)
    claims.sql("UPDATE offload_repair_requests SET state = 'done', row_count = 12 WHERE finding_id = $1", OTHER.id)
    assert not await claims.repairs.withdraw(OTHER.id)
    assert await claims.repairs.claim(TABLE, OTHER, RUN) is Refusal.REPAIRED


async def test_without_the_offloads_table_claims_are_read_all_the_same(claims: Claims) -> None:
    await claims.repairs.claim(TABLE, ONE, None, Way.OFFLOAD)
    assert await claims.repairs.refusal(TABLE, ONE) is Refusal.CLAIMED
    await claims.repairs.release(ONE.id, None)
    assert await claims.repairs.refusal(TABLE, ONE) is None
