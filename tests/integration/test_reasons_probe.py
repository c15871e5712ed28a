"""A night over ten tables on a part that is down: one probe a stage, instead of ten times the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from icekeeper.adapters.clickhouse import client as clickhouse
from icekeeper.adapters.iceberg import calls as iceberg
from icekeeper.adapters.spark import engine as spark
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, Night
from tests.integration.evidence import FAILED
from tests.integration.faults import Mode
from tests.integration.lab import Lab, laboratory

COMPACT, EXPIRE, AUDIT = Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT
# A store that hangs is given up by its client before a test's patience is at its end.
IMPATIENT = {
    "http-client.apache.socket-timeout-ms": "1000",
    "s3.retry.num-retries": "1",
    "s3.retry.min-wait-ms": "10",
    "s3.retry.max-wait-ms": "50",
}


@pytest.fixture(scope="module")
async def lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("probe"), properties=IMPATIENT) as made:
        yield made


@pytest.fixture
async def ten(lab: Lab) -> AsyncIterator[Night]:
    """A night over ten tables: nine more names for the one table there is."""
    names = [COINBASE, *(f"{COINBASE}_{number}" for number in range(2, 11))]

    def change(document: dict[str, Any]) -> None:
        document |= {stage: {"retries": 1} for stage in ("compact", "expire", "audit")}
        document["tables"] = [{**document["tables"][0], "name": name} for name in names]

    async with lab.night(change) as night:
        for name in names[1:]:
            night.ledger(
                "INSERT INTO iceberg_tables SELECT catalog_name, table_namespace, $1, metadata_location, "
                "previous_metadata_location, iceberg_type FROM iceberg_tables WHERE table_name = $2",
                name.removeprefix("cold."),
                COINBASE.removeprefix("cold."),
            )
        try:
            await night.state(COINBASE)
            yield night
        finally:
            night.ledger("DELETE FROM iceberg_tables WHERE table_name <> $1", COINBASE.removeprefix("cold."))
            await lab.calm()


def attempts(report: RunReport, stage: Stage) -> list[int]:
    return [task.attempts for task in report.tasks if task.stage is stage]


@pytest.mark.parametrize(
    ("part", "mode", "reason"),
    [("catalog", Mode.REFUSE, Reason.CATALOG_DOWN), ("store", Mode.HANG, Reason.STORAGE_DOWN)],
)
async def test_ten_tables_probe_a_lakehouse_that_is_down_once_a_stage(
    lab: Lab, ten: Night, monkeypatch: pytest.MonkeyPatch, part: str, mode: Mode, reason: Reason
) -> None:
    pid, restarts = lab.engine.jvm_pid, lab.engine.failures.total()
    await getattr(lab, part).set(mode)
    with monkeypatch.context() as patch:
        if mode is Mode.HANG:  # what refuses does so in time, however busy the machine is
            patch.setattr(iceberg, "METADATA_TIMEOUT", timedelta(seconds=1))
        patch.setattr(spark, "INTERRUPT_AFTER_S", 0.5)
        done = await ten.execute()
    await lab.calm()

    report = done.report
    assert report.outcome is RunOutcome.FAILED
    assert {(task.outcome, task.reason) for task in report.tasks} == {(FAILED, reason)}
    assert attempts(report, COMPACT) == [2, 1, *[0] * 8]
    assert attempts(report, EXPIRE) == attempts(report, AUDIT) == [1, *[0] * 9]
    assert [audit.status for audit in report.audits] == [AuditStatus.ERROR] * 10
    assert {(audit.ch_row_count, audit.iceberg_row_count) for audit in report.audits} == {(None, None)}
    # The session has outlived it, and the next night goes as if nothing had been.
    assert (lab.engine.jvm_pid, lab.engine.failures.total()) == (pid, restarts)
    (audit,) = (await ten.run(AUDIT, tables=(COINBASE,))).audits
    assert audit.status is AuditStatus.OK


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG])
async def test_ten_audits_probe_a_source_that_is_down_once(
    lab: Lab, ten: Night, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    monkeypatch.setattr(clickhouse, "PROBE_TIMEOUT", timedelta(seconds=0.5))
    monkeypatch.setattr(clickhouse, "WAKE_TIMEOUT", timedelta(seconds=0.5))
    await lab.source.set(mode)
    report = (await ten.execute(AUDIT)).report

    assert {(task.outcome, task.reason) for task in report.tasks} == {(FAILED, Reason.SOURCE_DOWN)}
    assert attempts(report, AUDIT) == [2, 1, *[0] * 8]
    assert report.tasks[-1].error == f"not tried, as {COINBASE} and {COINBASE}_2 failed alike"
    assert [audit.status for audit in report.audits] == [AuditStatus.ERROR] * 10
