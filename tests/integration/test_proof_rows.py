"""The proof `rows`, and what a night does about files that are bad: reading finds what footers hide."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from icekeeper.core.enums import AuditStatus, Proof, RunOutcome, Stage, TaskOutcome
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from tests.conftest import COINBASE
from tests.integration.test_proof import (
    DAYS,
    INSERT,
    MINUTE,
    NEXT_DAY,
    TIMESTAMP,
    WINDOW,
    MakeScene,
    Scene,
    flipped,
    make_scene,
)

__all__ = ["make_scene"]
MIDDLE = 120


def by_rows(document: dict[str, Any]) -> None:
    document["tables"][0]["audit"] = {"proof": "rows"}


async def test_every_row_of_healthy_tables_is_read_whatever_their_columns_are(make_scene: MakeScene) -> None:
    scene = await make_scene(change=by_rows)
    (audit,) = (await scene.night.run(Stage.AUDIT)).audits
    assert (audit.status, audit.proof, audit.delta) == (AuditStatus.OK, Proof.ROWS, 0)
    assert "`quote_volume`" in (audit.iceberg_query or "")

    night = scene.night
    for number, form in enumerate(("parquet", "orc", "avro")):
        table = f"cold.rows{number}"
        await night.sql(
            f"CREATE TABLE {{c}}.{table} (id BIGINT, s STRING, ts TIMESTAMP, m MAP<STRING, BIGINT>, "
            "n STRUCT<a: ARRAY<MAP<STRING, STRING>>, b: BINARY>) USING iceberg PARTITIONED BY (days(ts)) "
            f"TBLPROPERTIES ('write.format.default' = '{form}')"
        )
        await night.sql(
            f"INSERT INTO {{c}}.{table} SELECT id, 's', timestamp'2026-02-17 03:00:00', map('k', id), "
            "named_struct('a', array(map('x', 'y')), 'b', CAST('b' AS BINARY)) FROM range(0, 100, 1, 2)"
        )
        counted = await night.services.ports.lakehouse.count(table, "ts", WINDOW, MINUTE, every_value=True)
        assert counted.rows == 100, form


def _pages(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Changes the first pages of a file and leaves its footer as it is."""
    return lambda body: body[:4] + change(body[4:MIDDLE]) + body[MIDDLE:]


@pytest.mark.parametrize("catalog", ["jdbc", "hadoop"])
async def test_pages_that_can_not_be_decoded_are_found_by_reading_them_and_by_nothing_less(
    make_scene: MakeScene, catalog: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        by_rows(document)
        # A checksum of Hadoop's beside each file would find it before the reader does.
        document["spark"] = {**document.get("spark", {}), "conf": {"spark.hadoop.fs.file.impl.disable.cache": "false"}}

    scene = await make_scene(catalog, change)
    victim = await scene.victim()
    rows = scene.night.world.rows_clickhouse(COINBASE, WINDOW.start, WINDOW.end)
    scene.write(victim.path, _pages(flipped)(scene.read(victim.path)))

    assert (await scene.prove()).bad == ()
    report = await scene.night.run(Stage.AUDIT)
    (audit,) = report.audits
    assert report.outcome is RunOutcome.FAILED
    assert (audit.status, audit.reason, audit.proof) == (AuditStatus.ERROR, Reason.FILE_CORRUPT, Proof.ROWS)
    assert (audit.ch_row_count, audit.iceberg_row_count, audit.bad_file_rows) == (rows, None, 0)
    assert victim.path in audit.notes


@pytest.mark.parametrize("form", ["orc", "avro"])
async def test_other_formats_that_can_not_be_decoded_are_corrupt_too(make_scene: MakeScene, form: str) -> None:
    scene = await make_scene()
    night, table = scene.night, f"cold.{form}"
    await night.sql(
        f"CREATE TABLE {{c}}.{table} (id BIGINT, s STRING, ts TIMESTAMP) USING iceberg {DAYS} "
        f"TBLPROPERTIES ('write.format.default' = '{form}')"
    )
    for step in (INSERT, NEXT_DAY):
        await night.sql(step.replace("{t}", f"{{c}}.{table}"))
    path = (await night.sql(f"SELECT file_path FROM {{c}}.{table}.files WHERE file_path LIKE '%02-17%' LIMIT 1"))[0][0]
    body = scene.read(path)
    start = 3 if form == "orc" else len(body) // 2
    scene.write(path, body[:start] + flipped(body[start : start + 200]) + body[start + 200 :])
    with pytest.raises(PermanentError) as bad:
        await night.services.ports.lakehouse.count(table, "ts", WINDOW, MINUTE, every_value=True)
    assert bad.value.reason is Reason.FILE_CORRUPT
    assert path in str(bad.value)


# --- what a night does about bad files


async def test_a_rewrite_of_a_file_whose_manifest_lied_says_so_and_wrote_all_its_rows(make_scene: MakeScene) -> None:
    def change(document: dict[str, Any]) -> None:
        document["compact"] = {**document.get("compact", {}), "min_input_files": 2}

    scene = await make_scene(change=change)
    night = scene.night
    liar = scene.copied(await scene.victim(), 900)
    held = pq.read_metadata(io.BytesIO(scene.read(liar.path))).num_rows
    report = await night.run(Stage.COMPACT)
    (task,) = report.tasks
    assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.COUNT_MISMATCH), task
    assert f"{liar.path} (holds {held} rows, its manifest claims 900)" in (task.error or "")
    assert "and wrote all of them" in (task.error or "")
    proof = await scene.prove()
    assert (proof.bad, proof.files) == ((), 1)
    counted = await night.services.ports.lakehouse.count(COINBASE, TIMESTAMP, WINDOW, MINUTE)
    assert counted.rows == night.world.rows_clickhouse(COINBASE, WINDOW.start, WINDOW.end) - 900 + held


async def test_a_bad_file_holds_its_partition_and_the_expiry_until_an_audit_finds_it_whole(
    make_scene: MakeScene,
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["compact"] = {**document.get("compact", {}), "min_input_files": 2}
        document["expire"] = {**document.get("expire", {}), "older_than": "1h", "retain_last": 1}

    scene: Scene = await make_scene(change=change)
    night = scene.night
    victim = await scene.victim()
    body = scene.read(victim.path)
    scene.delete(victim.path)
    await night.run(Stage.AUDIT)
    night.world.trade(night.world.traded_until())
    held = await night.run(Stage.COMPACT, Stage.EXPIRE)
    assert {task.stage: (task.outcome, task.reason) for task in held.tasks} == {
        Stage.COMPACT: (TaskOutcome.HELD, Reason.AUDIT_HOLD), Stage.EXPIRE: (TaskOutcome.HELD, Reason.AUDIT_HOLD),
    }  # fmt: skip
    scene.write(victim.path, body)
    await night.run(Stage.AUDIT)
    done = await night.run(Stage.COMPACT, Stage.EXPIRE)
    assert {task.outcome for task in done.tasks} == {TaskOutcome.DONE}
