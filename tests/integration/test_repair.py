"""Missing rows are brought back on real engines: exactly once, whatever was lost, and by no two at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from icekeeper.adapters.iceberg.repair import lakehouse
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.records import AuditResult, FindingKind
from icekeeper.core.audit.repair import FindingRepair, Refusal, Way
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Decision, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport, StageResult
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.sandbox import Offload, Sandbox
from tests.conftest import COINBASE, GOLD, SILVER, SLOT, Night, nights
from tests.damage.kinds import ROW_KINDS
from tests.damage.scene import KEYS, Scene, day_of
from tests.damage.truth import Row

WINDOW = day_of(SLOT)


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    def keyed(document: dict[str, Any]) -> None:
        for table in document["tables"]:
            key, compare = KEYS[table["name"]]
            table["audit"] = {"key": list(key), "compare": list(compare)}

    async with nights(box, engine, tmp_path_factory.mktemp("repair")) as make:
        yield await make(COINBASE, SILVER, GOLD, change=keyed, files_per_commit=2, rows_per_file=60, old_snapshots=0)


async def audited(scene: Scene, window: Window = WINDOW) -> AuditResult:
    (audit,) = (await scene.night.run(Stage.AUDIT, tables=(scene.table,), window=window)).audits
    return audit


async def repaired(scene: Scene, *ids: str, window: Window = WINDOW) -> RunReport:
    return await scene.night.run(Stage.REPAIR, Stage.AUDIT, tables=(scene.table,), window=window, findings=ids)


async def both_equal(scene: Scene) -> None:
    """Asked of both engines by SQL of this test's own: each key has as many rows with the same values."""
    there, ours = scene.in_source(WINDOW), await scene.in_iceberg(WINDOW)
    assert {key: sorted(rows, key=_place) for key, rows in ours.items()} == {
        key: sorted(rows, key=_place) for key, rows in there.items()
    }


def _place(row: Row) -> tuple[object, ...]:
    return row.at, row.values


async def lost(scene: Scene, condition: str) -> AuditResult:
    await scene.sql(f"DELETE FROM {{t}} WHERE {scene.within(WINDOW)} AND {condition}")
    return await audited(scene)


@pytest.mark.parametrize(
    "kind", ["cycles lost", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("symbol lost", "rows late"))]
)
async def test_each_loss_is_brought_back_and_both_sides_are_equal(night: Night, kind: str) -> None:
    scene = Scene(night, COINBASE)
    await ROW_KINDS[kind](scene, WINDOW, Random(7))
    found = await audited(scene)
    missing = [one for one in found.findings if one.kind is FindingKind.MISSING]
    assert missing
    assert all(one.id for one in missing)

    report = await repaired(scene)

    assert report.outcome is RunOutcome.SUCCESS, report
    assert report.tasks[0].note == f"brought back {sum(one.rows for one in missing)} rows of {len(missing)} finding" + (
        "s" if len(missing) > 1 else ""
    )
    (audit,) = report.audits
    assert (audit.status, audit.findings, audit.key_comparison and audit.key_comparison.equal) == (
        AuditStatus.OK, (), True,
    )  # fmt: skip
    await both_equal(scene)


@pytest.mark.long
async def test_whole_types_of_silver_and_merged_rows_of_gold_come_back(night: Night) -> None:
    for table in (SILVER, GOLD):
        scene = Scene(night, table)
        rows = await scene.rows(scene.within(WINDOW))
        if scene.merges:
            scene.night.world.merge(table)
        await lost(scene, f"hour({scene.shape.timestamp}) = 9")
        report = await repaired(scene)
        assert report.outcome is RunOutcome.SUCCESS, report
        (audit,) = report.audits
        assert audit.key_comparison is not None
        assert audit.key_comparison.equal, audit.notes
        if not scene.merges:
            assert await scene.rows(scene.within(WINDOW)) == rows
            await both_equal(scene)


@pytest.mark.long
async def test_a_repair_that_is_repeated_writes_nothing(night: Night) -> None:
    """As if it had been killed: before its audit, before the ledger had it, and, in the end, long ago."""
    scene = Scene(night, COINBASE)
    found = await lost(scene, "hour(exchange_timestamp) = 5")
    (finding,) = found.findings
    await repaired(scene, finding.id)
    before = (await night.state(COINBASE)).health.snapshot_id

    async def again(*, claimed: bool) -> StageResult:
        if claimed:
            night.ledger("UPDATE maintenance_repairs SET state = 'claimed' WHERE finding_id = $1", finding.id)
        night.ledger("DELETE FROM maintenance_audit_log WHERE iceberg_table = $1 AND run_timestamp > $2",
                     COINBASE, found.run_timestamp)  # fmt: skip
        return (await repaired(scene, finding.id)).tasks[0]

    def noted() -> tuple[Any, ...]:
        ((state, rows, snapshot),) = night.ledger(
            "SELECT state, rows, snapshot_id FROM maintenance_repairs WHERE finding_id = $1", finding.id
        )
        return state, rows, snapshot

    task = await again(claimed=False)
    assert (task.outcome, task.reason) == (TaskOutcome.SKIPPED, Reason.NOTHING_MISSING)
    task = await again(claimed=True)
    assert (task.outcome, task.note) == (TaskOutcome.DONE, f"brought back {finding.rows} rows of 1 finding")
    assert noted() == ("repaired", finding.rows, before)
    # Its snapshot has expired, so that only the keys tell.
    await scene.sql("DELETE FROM {t} WHERE exchange_timestamp < timestamp'2026-02-16 23:00:00 UTC'")
    await scene.sql(f"CALL {{c}}.system.expire_snapshots(table => '{COINBASE}', retain_last => 1, "
                    "older_than => TIMESTAMP '2100-01-01')")  # fmt: skip
    await again(claimed=True)
    assert noted() == ("repaired", 0, None)
    await both_equal(scene)


async def test_rows_that_come_meanwhile_make_it_start_over(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """The offload brings a half of the rows back between the comparison and the commit, and so each time."""
    scene = Scene(night, COINBASE)
    (finding,) = (await lost(scene, "hour(exchange_timestamp) = 7")).findings
    snapshots = await scene.sql("SELECT snapshot_id FROM {t}.snapshots ORDER BY committed_at DESC LIMIT 2")
    before = snapshots[1][0]
    starts, name = list[int](), f"{night.catalog}.{COINBASE}"
    commit = lakehouse._commit

    def overtaken(jvm: Any, handle: Any, *more: Any) -> None:
        starts.append(len(starts))
        if len(starts) == 1:
            jvm.spark.sql(
                f"INSERT INTO {name} SELECT * FROM {name} VERSION AS OF {before} "
                f"WHERE {scene.within(WINDOW)} AND hour(exchange_timestamp) = 7 AND minute(exchange_timestamp) < 30"
            )
        commit(jvm, handle, *more)

    monkeypatch.setattr(lakehouse, "_commit", overtaken)
    report = await repaired(scene, finding.id)
    assert starts == [0, 1]
    assert report.outcome is RunOutcome.SUCCESS, report
    await both_equal(scene)


async def test_a_dry_run_says_what_it_would_do_and_changes_nothing(night: Night) -> None:
    scene = Scene(night, COINBASE)
    (finding,) = (await lost(scene, "hour(exchange_timestamp) = 11")).findings
    before = await night.state(COINBASE), night.ledger("SELECT count(*) FROM maintenance_repairs"), night.store()

    order = make_order(night.settings, WINDOW.end, Trigger.MANUAL, stages=(Stage.REPAIR,), tables=(COINBASE,))
    ((plan,), errors) = await make_plans(order, night.services.ports)

    assert (plan.decision, plan.note, errors) == (
        Decision.ACT, f"would bring back {finding.rows} rows of 1 finding", {},
    )  # fmt: skip
    (repair,) = plan.repairs
    assert (repair.finding_id, repair.refusal, repair.rows, repair.rows_to_read) == (
        finding.id, None, finding.rows, finding.rows,
    )  # fmt: skip
    assert repair.columns == tuple(field.name for field in scene.shape.schema.fields)
    assert (await night.state(COINBASE), night.ledger("SELECT count(*) FROM maintenance_repairs")) == before[:2]
    assert night.store() == before[2]
    await repaired(scene)
    await both_equal(scene)


async def test_what_can_not_be_brought_back_is_refused_with_the_reason(night: Night) -> None:
    """A column that Iceberg requires and ClickHouse lacks, then one that it holds in another type."""
    scene = Scene(night, SILVER)
    await lost(scene, "hour(timestamp) = 13")
    scene.clickhouse("ALTER TABLE {t} RENAME COLUMN trade_id TO other")
    try:
        (task, *_) = (await repaired(scene)).tasks
        assert task.outcome is TaskOutcome.DONE  # an optional column stays NULL
        ((null,),) = await scene.sql("SELECT count(*) FROM {t} WHERE trade_id IS NULL AND hour(timestamp) = 13")
        assert null
        await lost(scene, "hour(timestamp) = 13")
        scene.clickhouse("ALTER TABLE {t} RENAME COLUMN message_id TO gone")
        (task, *_) = (await repaired(scene)).tasks
        # The key itself is gone: nothing else matters.
        assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.KEY_TYPE), task.note
        scene.clickhouse("ALTER TABLE {t} RENAME COLUMN gone TO message_id")
        await scene.sql("ALTER TABLE {t} ADD COLUMN odd INT")
        scene.clickhouse("ALTER TABLE {t} ADD COLUMN odd Float64 DEFAULT 0.5")
        (task, *_) = (await repaired(scene)).tasks
        assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.NOT_REPAIRABLE)
        assert f"({Refusal.COLUMN_TYPE}): odd is Float64 there and int in Iceberg" in str(task.error)
        assert night.ledger("SELECT count(*) FROM maintenance_repairs WHERE state = 'claimed'") == [(0,)]
    finally:
        scene.clickhouse("ALTER TABLE {t} RENAME COLUMN IF EXISTS other TO trade_id")


async def test_a_finding_that_the_offload_is_asked_for_is_its_own(night: Night) -> None:
    scene = Scene(night, COINBASE)
    (finding,) = (await lost(scene, "hour(exchange_timestamp) = 15")).findings
    repairs, requests = night.services.repairs, night.services.repair_requests
    night.world.repair_requests.create()
    planned = FindingRepair(finding.id, finding.start, finding.end, finding.rows, ("symbol", "sequence_number"))
    (source,) = [policy.source for policy in night.settings.policies() if policy.name == COINBASE and policy.source]
    assert await repairs.claim(COINBASE, finding, None, Way.OFFLOAD) is None
    await requests.request(COINBASE, source, planned)

    (task, _) = (await repaired(scene, finding.id)).tasks
    assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.NOT_REPAIRABLE)
    assert f"({Refusal.CLAIMED})" in str(task.error)
    # A later audit gives the same time another id: it is claimed all the same.
    (again,) = (await audited(scene)).findings
    assert again.id != finding.id
    assert await repairs.claim(COINBASE, again, uuid4()) is Refusal.CLAIMED

    assert await asyncio.to_thread(Offload(night.world).repair) == finding.rows
    assert await repairs.refusal(COINBASE, finding) is Refusal.REPAIRED
    assert (await audited(scene)).findings == ()
    await both_equal(scene)
