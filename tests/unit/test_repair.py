"""Which findings are repaired, by what columns, and why not; and how ClickHouse's values become Iceberg's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from icekeeper.adapters.clickhouse.event_time import instant_micros
from icekeeper.adapters.clickhouse.rows import converted
from icekeeper.cli.repair import ask_offload
from icekeeper.core.audit.keys import ColumnType, Kind
from icekeeper.core.audit.records import Explanation, Finding, FindingKind
from icekeeper.core.audit.repair import (
    FindingRepair,
    NotRepairable,
    Refusal,
    Repaired,
    RepairJob,
    SourceColumn,
    SourceRows,
    TableColumn,
    Way,
    fillable,
    finding_id,
    refusal_of,
)
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Decision, Stage, TaskOutcome
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.policy import REPAIR_LIMITS, KeyPolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.core.tables.plan import Plan
from icekeeper.night.lakehouse import BeforeCommit
from icekeeper.night.ports import RepairPorts
from icekeeper.night.stages.repair import STARTS
from icekeeper.night.task import Task
from tests.unit.builders import table_policy
from tests.unit.fakes import World

NINE = datetime(2026, 2, 17, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LOST = Finding(FindingKind.MISSING, NINE, NINE + 15 * MINUTE, 12, 12, 0, Explanation.CYCLE_LOST)
RUN = UUID("0189a1b2-0000-4000-8000-000000000001")
ID, PRICE = TableColumn("id", "long", required=True), TableColumn("price", "decimal(38, 8)")


def keyed() -> TablePolicy:
    policy = table_policy("cold.a")
    assert policy.audit is not None
    return replace(policy, audit=replace(policy.audit, keys=KeyPolicy(("id",))))


def test_a_findings_id_is_the_same_whenever_it_is_computed_and_no_other_findings() -> None:
    others = [
        finding_id(RUN, "cold.b", LOST),
        finding_id(RUN, "cold.a", replace(LOST, kind=FindingKind.EXTRA)),
        finding_id(RUN, "cold.a", replace(LOST, start=LOST.start - MINUTE)),
        finding_id(RUN, "cold.a", replace(LOST, end=LOST.end + MINUTE)),
        finding_id(UUID(int=1), "cold.a", LOST),
    ]
    assert finding_id(RUN, "cold.a", replace(LOST, rows=11)) == finding_id(RUN, "cold.a", LOST)
    assert len({finding_id(RUN, "cold.a", LOST), *others}) == 6
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in others)


@pytest.mark.parametrize(
    ("finding", "until", "refusal"),
    [
        (LOST, NINE + 15 * MINUTE, None),
        (LOST, None, None),
        (replace(LOST, explanation=None), None, None),
        (LOST, NINE + 14 * MINUTE, Refusal.NOT_OFFLOADED),
        (replace(LOST, explanation=Explanation.NOT_OFFLOADED), None, Refusal.NOT_OFFLOADED),
        # It has caught up since it was audited.
        (replace(LOST, explanation=Explanation.NOT_OFFLOADED), NINE + 60 * MINUTE, None),
        *((replace(LOST, kind=kind), None, Refusal.NOT_MISSING) for kind in FindingKind if kind != "missing"),
    ],
)
def test_only_missing_rows_behind_the_offload_are_brought_back(
    finding: Finding, until: datetime | None, refusal: Refusal | None
) -> None:
    assert refusal_of(keyed(), finding, until) is refusal


def test_without_a_key_nothing_tells_which_rows_are_there() -> None:
    assert refusal_of(table_policy("cold.a"), LOST, None) is Refusal.NO_KEY
    assert refusal_of(replace(keyed(), audit=None), LOST, None) is Refusal.NO_KEY


@pytest.mark.parametrize(
    ("found", "filled", "refusal", "text"),
    [
        (SourceRows(5), (ID, PRICE), None, ""),
        (SourceRows(5, absent=frozenset({"price"})), (ID,), None, ""),
        (SourceRows(0), (), Refusal.SOURCE_EMPTY, "holds no row"),
        (SourceRows(5, absent=frozenset({"id"})), (), Refusal.COLUMN_REQUIRED, "ClickHouse has no id"),
        (SourceRows(5, too_large={"id": 2}), (), Refusal.COLUMN_TYPE, "can't: id in 2 rows"),
        (SourceRows(5, nulls={"id": 2}), (), Refusal.COLUMN_REQUIRED, "id is NULL in 2 rows"),
        (SourceRows(5, unfit={"price": "Float64"}), (), Refusal.COLUMN_TYPE, "price is Float64 there and decimal"),
    ],
)
def test_columns_are_filled_left_null_or_refused(
    found: SourceRows, filled: tuple[TableColumn, ...], refusal: Refusal | None, text: str
) -> None:
    if refusal is None:
        assert fillable((ID, PRICE), found, "cold.a") == filled
        return
    with pytest.raises(NotRepairable) as refused:
        fillable((ID, PRICE), found, "cold.a")
    assert (refused.value.refusal, refused.value.reason) == (refusal, Reason.NOT_REPAIRABLE)
    assert text in str(refused.value)


def test_no_column_that_places_rows_or_has_a_default_is_left_null() -> None:
    placing = replace(PRICE, used=True)
    assert fillable((ID, placing), SourceRows(5), "cold.a") == (ID, placing)
    with pytest.raises(NotRepairable, match="ClickHouse has no price") as refused:
        fillable((ID, placing), SourceRows(5, absent=frozenset({"price"})), "cold.a")
    assert refused.value.refusal is Refusal.COLUMN_REQUIRED


@pytest.mark.parametrize(
    ("iceberg", "clickhouse", "sql"),
    [
        ("long", "UInt64", "accurateCast(`c`, 'Nullable(Int64)')"),
        ("int", "LowCardinality(Nullable(UInt16))", "accurateCast(`c`, 'Nullable(Int32)')"),
        ("decimal(38, 8)", "Decimal(18, 8)", "accurateCast(`c`, 'Nullable(Decimal(38, 8))')"),
        ("decimal(38, 8)", "Decimal(38, 9)", None),
        ("decimal(38, 8)", "Float64", None),
        ("timestamptz", "DateTime64(3)", f"fromUnixTimestamp64Micro({instant_micros('`c`')}, 'UTC')"),
        ("timestamptz", "Nullable(DateTime64(6, 'UTC'))", f"fromUnixTimestamp64Micro({instant_micros('`c`')}, 'UTC')"),
        ("timestamptz", "DateTime64(7)", None),
        ("timestamp", "Nullable(DateTime64(9, 'UTC'))", None),
        ("timestamptz", "Int64", None),
        ("date", "Date32", "toDate32(`c`)"),
        ("date", "DateTime", None),
        ("string", "Enum8('a' = 1)", "toString(`c`)"),
        ("string", "Int32", None),
        ("uuid", "UUID", "toString(`c`)"),
        ("boolean", "Bool", "accurateCast(`c`, 'Nullable(Bool)')"),
        ("boolean", "UInt8", None),
        ("int", "Float64", None),
        ("list<string>", "Array(LowCardinality(String))", "`c`"),
        ("list<string>", "Array(Int32)", None),
        ("map<string, string>", "Map(String, String)", "`c`"),
        ("map<string, string>", "Map(String, Int32)", None),
        ("binary", "String", None),
        ("struct<1: a: int>", "Tuple(a Int32)", None),
    ],
)  # fmt: skip
def test_a_value_has_exactly_one_counterpart_or_is_refused(iceberg: str, clickhouse: str, sql: str | None) -> None:
    assert converted(iceberg, clickhouse, "c") == sql


# --- the stage


TWELVE = SourceRows(12)


@dataclass
class FakeRepairs:
    """The ports `RepairLedger`, `RepairSource` and `RepairLakehouse` over one table."""

    found: tuple[Finding, ...] = ()
    columns: tuple[TableColumn, ...] = (ID, PRICE)
    rows: SourceRows = TWELVE
    refusals: dict[str, Refusal] = field(default_factory=dict)
    # What the next repairs raise; then rows are added.
    errors: list[IcekeeperError] = field(default_factory=list)
    claims: dict[str, str] = field(default_factory=dict)
    jobs: list[RepairJob] = field(default_factory=list)

    async def findings(self, table: str, window: Window) -> tuple[Finding, ...]:
        return self.found

    async def refusal(self, table: str, finding: Finding) -> Refusal | None:
        return self.refusals.get(finding.id)

    async def claim(self, table: str, finding: Finding, run_id: UUID) -> Refusal | None:
        self.claims[finding.id] = "claimed"
        return None

    async def finish(self, finding_id: str, repaired: Repaired) -> None:
        self.claims[finding_id] = "repaired"
        self.refusals[finding_id] = Refusal.REPAIRED

    async def release(self, finding_id: str, run_id: UUID) -> None:
        self.claims[finding_id] = "released"

    async def examine(
        self, source: Source, window: Window, final: bool, columns: Sequence[SourceColumn], timeout: timedelta
    ) -> SourceRows:
        return self.rows

    @asynccontextmanager
    async def exported(
        self, source: Source, window: Window, final: bool, columns: Sequence[SourceColumn], timeout: timedelta
    ) -> AsyncIterator[str]:
        yield "rows.parquet"

    async def table_columns(self, table: str) -> tuple[TableColumn, ...]:
        return self.columns

    async def repair(
        self, table: str, job: RepairJob, timeout: timedelta, before_commit: BeforeCommit | None = None
    ) -> Repaired:
        self.jobs.append(job)
        if self.errors:
            raise self.errors.pop(0)
        return Repaired(12, 7)


ONE, TWO = replace(LOST, id="1" * 16), replace(LOST, start=NINE + 60 * MINUTE, end=NINE + 75 * MINUTE, id="2" * 16)
CONFLICT = TransientError("somebody added rows", reason=Reason.CONFLICT)


async def ran(
    fake: FakeRepairs, *, observe: bool = False, wanted: tuple[str, ...] = (), policy: TablePolicy | None = None
) -> StageResult:
    world, policy = World(), policy or keyed()
    world.add(policy)
    kind = ColumnType("long", Kind.NUMBER, whole=19)
    world.lakehouse.column_kinds = world.source.column_kinds = {"id": kind}
    world.ports = replace(world.ports, repairs=RepairPorts(fake, fake, fake))
    context = replace(world.context(run_policy=RunPolicy(observe=observe)), findings=wanted)
    return (await Task(Stage.REPAIR, policy, context).run()).result


async def test_the_rows_of_each_finding_are_added_and_its_claim_is_closed() -> None:
    fake = FakeRepairs((ONE, TWO))
    result = await ran(fake)
    assert (result.outcome, result.note) == (TaskOutcome.DONE, "brought back 24 rows of 2 findings")
    assert [(job.window.start, job.finding_id, job.by_rows) for job in fake.jobs] == [
        (ONE.start, ONE.id, True), (TWO.start, TWO.id, True),
    ]  # fmt: skip
    assert fake.claims == {ONE.id: "repaired", TWO.id: "repaired"}


async def test_only_the_findings_that_are_asked_for_are_repaired() -> None:
    fake = FakeRepairs((ONE, TWO))
    await ran(fake, wanted=(TWO.id,))
    assert fake.claims == {TWO.id: "repaired"}


async def test_it_starts_over_where_rows_came_meanwhile_and_gives_up_after_some_starts() -> None:
    again = FakeRepairs((ONE,), errors=[CONFLICT] * (STARTS - 1))
    assert (await ran(again)).outcome is TaskOutcome.DONE
    assert len(again.jobs) == STARTS
    never = FakeRepairs((ONE,), errors=[CONFLICT] * 100)
    result = await ran(never)
    assert (result.outcome, result.reason) == (TaskOutcome.FAILED, Reason.CONFLICT)
    assert len(never.jobs) == STARTS * (1 + REPAIR_LIMITS.retries)
    assert never.claims == {ONE.id: "released"}


async def test_a_claim_stays_where_it_is_not_known_whether_rows_were_added() -> None:
    lost = TransientError("the JVM is gone", reason=Reason.ENGINE_DOWN)
    fake = FakeRepairs((ONE,), errors=[lost] * 100)
    assert (await ran(fake)).reason is Reason.ENGINE_DOWN
    assert fake.claims == {ONE.id: "claimed"}


async def test_what_is_repaired_stays_so_when_another_finding_is_refused() -> None:
    fake = FakeRepairs((ONE, TWO), refusals={TWO.id: Refusal.CLAIMED})
    result = await ran(fake)
    assert (result.outcome, result.reason) == (TaskOutcome.FAILED, Reason.NOT_REPAIRABLE)
    assert f"brought back 12 rows of 1 finding; {TWO.id} is not repaired (claimed)" in str(result.error)
    assert fake.claims == {ONE.id: "repaired"}


async def test_a_finding_whose_rows_turn_out_to_share_keys_keeps_no_other_from_being_repaired() -> None:
    fake = FakeRepairs((ONE, TWO), errors=[NotRepairable(Refusal.KEY_SHARED, "2 keys of that time")])
    result = await ran(fake)
    assert (result.outcome, result.reason) == (TaskOutcome.FAILED, Reason.NOT_REPAIRABLE)
    assert f"brought back 12 rows of 1 finding; {ONE.id} is not repaired (key_shared): 2 keys" in str(result.error)
    assert fake.claims == {ONE.id: "released", TWO.id: "repaired"}


@pytest.mark.parametrize(
    ("fake", "observe", "outcome", "reason"),
    [
        (FakeRepairs(), False, TaskOutcome.SKIPPED, Reason.NOTHING_MISSING),
        (FakeRepairs((replace(ONE, kind=FindingKind.EXTRA),)), False, TaskOutcome.SKIPPED, Reason.NOTHING_MISSING),
        (FakeRepairs((ONE,), refusals={ONE.id: Refusal.REPAIRED}), False, TaskOutcome.SKIPPED, Reason.NOTHING_MISSING),
        (FakeRepairs((ONE,)), True, TaskOutcome.HELD, Reason.OBSERVING),
        (FakeRepairs((ONE,), rows=SourceRows(0)), False, TaskOutcome.FAILED, Reason.NOT_REPAIRABLE),
    ],
)
async def test_where_nothing_can_be_done_nothing_is_claimed(
    fake: FakeRepairs, observe: bool, outcome: TaskOutcome, reason: Reason
) -> None:
    result = await ran(fake, observe=observe)
    assert (result.outcome, result.reason, fake.claims) == (outcome, reason, {})


# --- the offload is asked


@dataclass
class FakeOffload:
    """What `ask_offload` uses: the ledger's claims, the offload's requests, and the settings' policies."""

    refusal: Refusal | None = None
    error: IcekeeperError | None = None
    claims: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def settings(self) -> FakeOffload:
        return self

    repairs = repair_requests = settings

    def policies(self) -> tuple[TablePolicy, ...]:
        return (keyed(),)

    async def claim(self, table: str, finding: Finding, run_id: UUID | None, way: Way) -> Refusal | None:
        if self.refusal is None:
            self.claims[finding.id] = way.value
        return self.refusal

    async def release(self, finding_id: str, run_id: UUID | None) -> None:
        assert run_id is None
        del self.claims[finding_id]

    async def request(self, table: str, source: Source, repair: FindingRepair) -> None:
        if self.error is not None:
            raise self.error
        self.requests.append(repair.finding_id)


NO_TABLE = PermanentError("the offload takes no requests")
NO_ANSWER = TransientError("does not answer", reason=Reason.LEDGER_DOWN)


@pytest.mark.parametrize(
    ("fake", "refused", "observe", "answer", "asked", "claimed"),
    [
        (FakeOffload(), None, False, None, True, True),
        (FakeOffload(), Refusal.COLUMN_TYPE, False, None, True, True),
        (FakeOffload(), Refusal.CLAIMED, False, None, True, True),  # by the offload: it is asked again
        (FakeOffload(Refusal.CLAIMED), Refusal.CLAIMED, False, "claimed", False, False),
        (FakeOffload(), Refusal.NOT_OFFLOADED, False, "not_offloaded", False, False),
        (FakeOffload(), None, True, "observing", False, False),
        (FakeOffload(error=NO_TABLE), None, False, NO_TABLE, False, False),
        (FakeOffload(error=NO_TABLE), Refusal.CLAIMED, False, NO_TABLE, False, True),
        (FakeOffload(error=NO_ANSWER), None, False, NO_ANSWER, False, True),
    ],
)
async def test_a_finding_is_claimed_for_the_offload_unless_its_request_surely_failed(
    fake: FakeOffload,
    refused: Refusal | None,
    observe: bool,
    answer: str | IcekeeperError | None,
    asked: bool,
    claimed: bool,
) -> None:
    repair = FindingRepair(ONE.id, ONE.start, ONE.end, ONE.rows, ("id",), refusal=refused)
    plans = [Plan(Stage.REPAIR, "cold.a", Decision.ACT, "", repairs=(repair,))]
    services: Any = fake
    if isinstance(answer, IcekeeperError):
        with pytest.raises(IcekeeperError, match=str(answer.args[0])):
            await ask_offload(services, plans, observe=observe)
    else:
        assert await ask_offload(services, plans, observe=observe) == {ONE.id: answer}
    assert (fake.requests, ONE.id in fake.claims) == ([ONE.id] if asked else [], claimed)
