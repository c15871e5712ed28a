"""Tables of ORC and of Avro files: a whole night, each proof, and damage. Findings of event times that are dates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.probe import table_facts
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.certificates import Uncertified
from icekeeper.core.audit.evidence import uncertified
from icekeeper.core.audit.records import FileFault, FindingKind
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Proof, Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.doctor.tables import table_checks
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, SLOT, Night, nights
from tests.integration.odd import (
    ELEVENTHS,
    FIFTHS,
    MERGE_ON_READ,
    MINUTE,
    Odd,
    contents,
    create,
    equality_deletes,
    insert,
    make,
)

MIB = 1024**2
# All snapshots but the last are old by then.
LATER = SLOT + timedelta(days=400)
FORMS = ("orc", "avro")
PROOFS = ("manifests", "files", "rows")
PLAYED = {("orc", "files"), ("avro", "files")}
COLUMNS = (
    "id BIGINT NOT NULL, s STRING, ts TIMESTAMP, price DECIMAL(18, 8), x DOUBLE, b BINARY, local TIMESTAMP_NTZ, "
    "d DATE, m MAP<STRING, BIGINT>, l ARRAY<STRUCT<y: INT>>, st STRUCT<a: INT, deep: STRUCT<t: STRING>>"
)
ROW = (
    "id, if(id % 7 = 0, null, concat('s', id % 3)), "
    "timestamp'2026-02-{day} 10:00:00' + make_interval(0, 0, 0, 0, 0, 0, id), "
    "id / 7, if(id % 9 = 0, double('NaN'), id), CAST(concat('b', id) AS BINARY), timestamp_ntz'2026-02-17 10:00:00', "
    "date'2026-02-17', map('k', id), array(named_struct('y', int(id)), null), "
    "if(id % 4 = 0, null, named_struct('a', int(id), 'deep', named_struct('t', 'x')))"
)
THE_17TH, THE_16TH = (insert(ROW.replace("{day}", day)) for day in ("17", "16"))
# ClickHouse has as many of the 17th as are left.
DELETED = (FIFTHS, ELEVENTHS, equality_deletes("s", "s1", by_partition=True))
UNCOUNTED = "cold.orc_uncounted"
# The types of the event time in ClickHouse and in Iceberg.
DATES = {
    "date and date": ("Date", "DATE"),
    "date and timestamp": ("Date", "TIMESTAMP"),
    "instant and date": ("DateTime64(3)", "DATE"),
}


def name_of(form: str, proof: str) -> str:
    return f"cold.{form}_{proof}"


def dated(case: str) -> str:
    return case.replace(" ", "_")


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    def only_these(document: dict[str, Any]) -> None:
        some = {"timestamp": "ts", "expire": {"retain_last": 1}, "compact": {"prove": "100 %"}}
        document["tables"] = [
            {
                "name": name_of(form, proof),
                "source": f"{form}_{proof}",
                "audit": {"proof": proof, "key": ["id"]},
                **some,
            }
            for form in FORMS
            for proof in PROOFS
        ]
        document["tables"] += [{"name": UNCOUNTED, **some}]
        document["tables"] += [
            {
                "name": f"cold.{dated(case)}",
                "source": {"table": dated(case), **({"timestamp_as": "date"} if kind == "Date" else {})},
                "timestamp": "ts",
            }
            for case, (kind, _) in DATES.items()
        ]

    async with nights(box, engine, tmp_path_factory.mktemp("formats")) as make_night:
        made = await make_night(COINBASE, change=only_these, days=0.25, files_per_commit=1, old_snapshots=0)
        made.services.ports.proofs.saved = timedelta(days=1)
        made.travel(LATER)
        yield made


async def audit(night: Night, table: str) -> Any:
    (row,) = (await night.run(Stage.AUDIT, tables=(table,), slot=SLOT)).audits
    return row


@pytest.mark.parametrize(
    ("form", "proof"),
    [
        pytest.param(form, proof, marks=() if (form, proof) in PLAYED else pytest.mark.long)
        for form in FORMS
        for proof in PROOFS
    ],
)
async def test_a_night_over_a_table_of_another_format(night: Night, form: str, proof: str) -> None:
    table, source = name_of(form, proof), f"{form}_{proof}"
    properties = f"'write.format.default' = '{form}', {MERGE_ON_READ}"
    await create(night, table, Odd((THE_16TH, THE_17TH, *DELETED), COLUMNS, "PARTITIONED BY (days(ts))", properties))
    rows = await contents(night, table)
    there = await night.sql(f"SELECT id FROM {{c}}.{table} WHERE ts >= timestamp'2026-02-17'")
    execute = partial(night.world.clickhouse.execute, database=night.world.clickhouse_database)
    execute(f"CREATE TABLE {source} (id Int64, ts DateTime64(6)) ENGINE = MergeTree ORDER BY id")
    ids = ", ".join(str(row[0]) for row in there)
    at = "toDateTime64('2026-02-17 10:00:00', 6, 'UTC')"
    execute(f"INSERT INTO {source} SELECT number, {at} + number FROM numbers(45) WHERE number IN ({ids})")

    early = await audit(night, table)
    report = await night.run(Stage.COMPACT, Stage.EXPIRE, tables=(table,), slot=LATER)
    compacted, expired = report.tasks
    after = await audit(night, table)

    assert [(task.outcome, task.error) for task in (compacted, expired)] == [(TaskOutcome.DONE, None)] * 2
    assert "proven by content" in compacted.note
    assert await contents(night, table) == rows
    files = [row[0] for row in await night.sql(f"SELECT file_path FROM {{c}}.{table}.data_files")]
    assert len(files) == 2
    assert all(path.endswith(f".{form}") for path in files)
    expected = {"manifests": Proof.MANIFESTS, "files": Proof.FILES, "rows": Proof.ROWS}[proof]
    if (form, proof) == ("avro", "files"):
        expected = Proof.LENGTHS
    for row in (early, after):
        assert (row.status, row.delta, row.reason, row.findings) == (AuditStatus.OK, 0, None, ()), row.notes
        assert row.proof is expected
        assert ("only the length is proven" in row.notes) == (expected is Proof.LENGTHS)
    assert uncertified(after) is (None if expected in (Proof.FILES, Proof.ROWS) else Uncertified.NOT_PROVEN)

    (again,) = (await night.run(Stage.COMPACT, tables=(table,), slot=LATER)).tasks
    assert again.outcome is TaskOutcome.SKIPPED

    # A file that is cut short is found by all but manifests.
    path = next(path for path in files if "02-17" in path)
    store, key = night.box.s3.filesystem(), path.partition("://")[2]
    with store.open_input_file(key) as stream:
        body = stream.read()
    with store.open_output_stream(key) as stream:
        stream.write(body[: len(body) // 2])
    cut = await audit(night, table)
    assert cut.status is AuditStatus.ERROR
    if proof != "manifests":
        assert (cut.reason, [bad.fault for bad in cut.bad_files]) == (Reason.FILE_CORRUPT, [FileFault.LENGTH])
        assert [(found.kind, found.files) for found in cut.findings] == [(FindingKind.FILE, (path,))]
    assert cut.iceberg_row_count is None


@pytest.mark.parametrize("form", FORMS)
async def test_the_doctor_says_of_which_tables_no_day_is_certified(night: Night, form: str) -> None:
    table = f"cold.{form}_doctor"
    await create(night, table, Odd((THE_17TH,), COLUMNS, properties=f"'write.format.default' = '{form}'"))
    facts = await night.services.engine.run(
        lambda spark: table_facts(IcebergJvm(spark), night.catalog, table, 128 * MIB), timeout=MINUTE
    )
    policies = {policy.name: policy for policy in night.settings.policies()}
    for proof, warned in (("files", form == "avro"), ("rows", False), ("manifests", False)):
        checks = table_checks(night.catalog, [facts], {table: policies[name_of(form, proof)]}, SLOT)
        assert any("only the length of Avro files" in check.text for check in checks) == warned, proof


async def test_an_orc_file_whose_nulls_no_manifest_counts_is_left_alone_with_its_partition(night: Night) -> None:
    """A required field of an optional struct: no null count of a manifest says whether one is in it."""
    columns = "id BIGINT, ts TIMESTAMP, st STRUCT<a: INT NOT NULL>"
    row = "id, timestamp'2026-02-17 10:00:00', if(id % 2 = 0, null, named_struct('a', int(id)))"
    await create(night, UNCOUNTED, Odd((insert(row),), columns, properties="'write.format.default' = 'orc'"))
    rows = await contents(night, UNCOUNTED)
    (task,) = (await night.run(Stage.COMPACT, tables=(UNCOUNTED,), slot=LATER)).tasks
    assert (task.outcome, task.reason, task.attempts) == (TaskOutcome.HELD, Reason.SCHEMA_MISMATCH, 1)
    assert "is not known" in task.note
    # Written as Parquet, whose footers say it, they are compacted.
    await make(night, UNCOUNTED, "ALTER TABLE {t} SET TBLPROPERTIES ('write.format.default' = 'parquet')")
    await make(night, UNCOUNTED, "INSERT OVERWRITE {t} SELECT * FROM {t} DISTRIBUTE BY id")
    assert await contents(night, UNCOUNTED) == rows


@pytest.mark.parametrize("case", DATES)
async def test_findings_of_an_event_time_that_is_a_date_are_of_its_days(night: Night, case: str) -> None:
    kind, declared = DATES[case]
    table, source = f"cold.{dated(case)}", dated(case)
    execute = partial(night.world.clickhouse.execute, database=night.world.clickhouse_database)
    value = "date'2026-02-{}'" if declared == "DATE" else "timestamp'2026-02-{} 23:00:00'"
    # Of the 15th all, of the 16th one less, of the 17th three more.
    steps = [insert(value.format(day), rows=rows, files=1) for day, rows in ((15, 40), (16, 39), (17, 43))]
    await create(night, table, Odd(tuple(steps), f"ts {declared}"))
    execute(f"CREATE TABLE {source} (ts {kind}) ENGINE = MergeTree ORDER BY ts")
    at = "toDate('2026-02-{}')" if kind == "Date" else "toDateTime64('2026-02-{} 22:00:00', 3, 'UTC')"
    for day in (15, 16, 17):
        execute(f"INSERT INTO {source} SELECT {at.format(day)} FROM numbers(40)")

    def days(first: int, last: int) -> Window:
        return Window(datetime(2026, 2, first, tzinfo=UTC), datetime(2026, 2, last, tzinfo=UTC))

    (wide,) = (await night.run(Stage.AUDIT, tables=(table,), slot=SLOT, window=days(15, 17))).audits
    (both,) = (await night.run(Stage.AUDIT, tables=(table,), slot=SLOT, window=days(15, 18))).audits
    (single,) = (await night.run(Stage.AUDIT, tables=(table,), slot=SLOT, window=days(16, 17))).audits

    missing = (FindingKind.MISSING, 1, days(16, 17))
    extra = (FindingKind.EXTRA, 3, days(17, 18))
    for row, expected in ((wide, [missing]), (both, [missing, extra]), (single, [missing])):
        assert [(one.kind, one.rows, Window(one.start, one.end)) for one in row.findings] == expected, row.notes
        assert row.missing_hours == ()
        assert "there are no hours to tell apart" in row.notes
