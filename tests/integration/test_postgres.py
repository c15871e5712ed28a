"""The ledger, its migrations and the offload's table on a real PostgreSQL. What a night puts in: unit/."""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.history import PostgresHistory
from icekeeper.adapters.ledger.sql.grants import TO_TIDY, grants, missing_grants
from icekeeper.adapters.ledger.sql.migrations import migrate, pending
from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.offload import PostgresOffload
from icekeeper.adapters.postgres.pool import Postgres, Target, quoted
from icekeeper.adapters.records import from_plain
from icekeeper.core.audit.compare import FlowAudit
from icekeeper.core.audit.records import (
    AuditResult,
    BadFile,
    Explanation,
    FileFault,
    Finding,
    FindingKind,
    KeyComparison,
    MissingHour,
)
from icekeeper.core.audit.source import Source
from icekeeper.core.enums import AuditStatus, Proof, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.history import ConfigLoad, PastRun
from icekeeper.core.offload import OffloadState
from icekeeper.core.plain import to_plain
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import OlderDays, RunOpening, RunReport, StageResult
from icekeeper.core.tables.state import TableHealth
from icekeeper.sandbox.servers.postgres import Postgres as Server
from icekeeper.sandbox.servers.process import Janitor, free_ports
from tests.integration.installations import sole

SLOT = datetime(2026, 2, 18, 2, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
REVISIONS = [
    "0001_ledger",
    "0002_acks",
    "0003_hosts",
    "0004_lookups",
    "0005_proof",
    "0006_keys",
    "0007_findings",
    "0008_certificates",
    "0009_repairs",
    "0010_windows",
    "0011_installations",
    "0012_overlaps",
    "0013_holds",
]
# Odd on purpose: what must be quoted or encoded somewhere is.
PASSWORD = "s3cr3t/p@ss:w'rd"

OLD_TABLE = """
    CREATE TABLE maintenance_audit_log (
      id {id} PRIMARY KEY, run_timestamp {instant} NOT NULL DEFAULT now(), iceberg_table varchar(255) NOT NULL,
      ch_source varchar(255) NOT NULL, layer varchar(20) NOT NULL, audit_window_hours {hours} NOT NULL,
      window_start {instant} NOT NULL, window_end {instant} NOT NULL, ch_row_count {count} NOT NULL,
      iceberg_row_count {count} NOT NULL, delta {count} NOT NULL, delta_pct numeric(8,4), status {status}, notes text)
"""
PLAIN = {"id": "serial", "instant": "timestamptz", "hours": "int", "count": "bigint", "status": "varchar(20) NOT NULL"}
OLD_ROW = """
    INSERT INTO maintenance_audit_log (run_timestamp, iceberg_table, ch_source, layer, audit_window_hours,
      window_start, window_end, ch_row_count, iceberg_row_count, delta, delta_pct, status, notes)
    VALUES ('2026-02-10 02:10', 'cold.old', 'old', 'gold', 24, '2026-02-09', '2026-02-10', 200, 199, -1, -.5, 'ok', 'x')
"""


# One database for all and a schema for each test: a second makes few of them, and nothing of ours may name a schema.
DATABASE = "ledger"


class Database:
    """A schema of the server's database, and what talks to it."""

    def __init__(self, server: Server, schema: str) -> None:
        self.server = server
        self.schema = schema
        self.dsn = f"{server.dsn(DATABASE)}?search_path={schema}"
        self.postgres = Postgres(self.dsn, PASSWORD)
        self.ledger = PostgresLedger(self.postgres, sole(self.postgres))
        self.history = PostgresHistory(self.postgres, sole(self.postgres))

    def sql(self, text: str, *args: object) -> list[tuple[Any, ...]]:
        return self.server.execute(DATABASE, f"SET search_path = {self.schema}; SET timezone = 'UTC'; {text}", *args)

    async def migrate(self) -> list[str]:
        return await migrate(self.dsn, PASSWORD)

    def tables(self) -> set[str]:
        return {name for (name,) in self.sql("SELECT tablename FROM pg_tables WHERE schemaname = $1", self.schema)}

    def rows(self) -> dict[str, int]:
        tables = ("runs", "tasks", "logs", "audit_log")
        return {table: self.sql(f"SELECT count(*) FROM maintenance_{table}")[0][0] for table in tables}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    janitor = Janitor()
    with ExitStack() as stack:
        stack.callback(janitor.dismiss)
        server = Server(tmp_path_factory.mktemp("pg"), janitor, password=PASSWORD)
        server.start()
        stack.callback(server.stop)
        server.create_database(DATABASE)
        # Our sessions are in UTC all the same.
        server.execute(DATABASE, f"ALTER DATABASE {DATABASE} SET timezone = 'Asia/Kolkata'")
        yield server


_numbers = count(1)


@pytest.fixture
async def empty(server: Server) -> AsyncIterator[Database]:
    """A schema without any table."""
    schema = f"test{next(_numbers)}"
    server.execute(DATABASE, f"CREATE SCHEMA {schema}")
    database = Database(server, schema)
    yield database
    await database.postgres.close()


@pytest.fixture
async def database(empty: Database) -> Database:
    """A migrated one."""
    await empty.migrate()
    return empty


def health(files: int) -> TableHealth:
    return TableHealth(
        data_files=files,
        small_files=files - 1,
        bytes=5_000_000_000,
        records=10,
        delete_files=0,
        manifests=2,
        snapshots=96,
        snapshot_id=8_123_456_789_012_345_678,
    )


def task(stage: Stage, table: str, **changes: Any) -> StageResult:
    plain = StageResult(
        stage=stage,
        table=table,
        outcome=TaskOutcome.DONE,
        reason=None,
        note="960 -> 1 files",
        attempts=1,
        started_at=SLOT + timedelta(seconds=3),
        duration_s=2.125,
        before=health(960),
        after=health(1),
    )
    return replace(plain, **changes)


def audit(table: str = "cold.silver_trades", **changes: Any) -> AuditResult:
    plain = AuditResult(
        run_id=UUID(int=0),
        slot=SLOT,
        trigger=Trigger.SCHEDULE,
        run_timestamp=SLOT + timedelta(minutes=5),
        iceberg_table=table,
        ch_source=table.removeprefix("cold."),
        layer="silver",
        audit_window_hours=24,
        window_start=datetime(2026, 2, 17, tzinfo=UTC),
        window_end=datetime(2026, 2, 18, tzinfo=UTC),
        ch_row_count=5_000_000_000,
        iceberg_row_count=4_500_000_000,
        delta=-500_000_000,
        delta_pct=Decimal("-10.0000"),
        status=AuditStatus.MISSING_DATA,
        reason=Reason.OFFLOAD_BEHIND,
        notes="iceberg lacks rows",
        snapshot_id=8_123_456_789_012_345_678,
        ch_query="SELECT count() FROM silver_trades",
        iceberg_query="SELECT count(*) FROM k2.cold.silver_trades",
        ch_final=False,
        watermark=datetime(2026, 2, 17, 23, 45, 1, 250, tzinfo=UTC),
        missing_hours=(MissingHour(datetime(2026, 2, 17, 3, tzinfo=UTC), 7, 5),),
        proof=Proof.FILES,
    )
    return replace(plain, **changes)


def uncounted(table: str = "cold.gold_ohlcv_1m") -> AuditResult:
    nothing = dict.fromkeys(
        ("ch_row_count", "iceberg_row_count", "delta", "delta_pct", "snapshot_id", "ch_query", "iceberg_query")
    )
    return audit(
        table,
        **nothing,
        status=AuditStatus.ERROR,
        reason=Reason.SOURCE_DOWN,
        ch_final=None,
        watermark=None,
        missing_hours=(),
        proof=None,
        bad_files=(BadFile("s3://w/t/a.parquet", "day=17", "data", FileFault.COUNT, 900, 1000, rows_found=100),),
        bad_file_rows=900,
    )


def report(*audits: AuditResult, trigger: Trigger = Trigger.SCHEDULE, **changes: Any) -> RunReport:
    run_id = uuid4()
    plain = RunReport(
        run_id=run_id,
        slot=SLOT,
        trigger=trigger,
        outcome=RunOutcome.FAILED,
        started_at=SLOT + timedelta(seconds=1),
        finished_at=SLOT + timedelta(seconds=301.5),
        settings_hash="9f86d081",
        tasks=(
            task(Stage.COMPACT, "cold.silver_trades"),
            task(Stage.COMPACT, "cold.a", outcome=TaskOutcome.SKIPPED, reason=Reason.TOO_FEW_FILES, after=None),
            task(Stage.AUDIT, "cold.silver_trades", before=None, after=None, error="RuntimeException: x", attempts=2),
        ),
        audits=tuple(replace(row, run_id=run_id, trigger=trigger) for row in audits),
    )
    return replace(plain, **changes)


def opening(of: RunReport) -> RunOpening:
    return RunOpening(of.run_id, of.slot, of.trigger, of.started_at, of.settings_hash, (Stage.AUDIT,), ("cold.a",))


LOGS = ({"event": "run_started", "level": "info", "n": 1}, {"event": "run_ended", "deep": {"a": [1, None, True]}})


async def close_with_lines(ledger: PostgresLedger, night: RunReport, lines: Sequence[dict[str, Any]] = LOGS) -> None:
    await ledger.close_run(night)
    await ledger.store_lines(night.run_id, 1, lines)


async def stored(database: Database, run_id: UUID) -> dict[str, Any]:
    row = await database.history.run(run_id, lines=True)
    assert row is not None
    return dict(row)


# --- migrations


async def test_a_fresh_database_is_migrated_once(empty: Database) -> None:
    assert await pending(empty.dsn, PASSWORD) == REVISIONS
    assert await empty.migrate() == REVISIONS
    assert await pending(empty.dsn, PASSWORD) == []
    assert await empty.migrate() == []
    assert empty.rows() == {"runs": 0, "tasks": 0, "logs": 0, "audit_log": 0}
    assert empty.sql("SELECT version_num FROM icekeeper_schema_version") == [(REVISIONS[-1],)]


async def test_a_ledger_of_the_second_revision_is_brought_up_to_date_with_its_rows(database: Database) -> None:
    night = report(audit())
    await close_with_lines(database.ledger, night)
    database.sql(
        """
        DROP TABLE maintenance_config_loads;
        ALTER TABLE maintenance_runs DROP host, DROP in_flight_stage, DROP in_flight_table;
        ALTER TABLE maintenance_tasks DROP engine_log;
        DROP INDEX maintenance_tasks_iceberg_table;
        ALTER TABLE maintenance_acks DROP bad_file_rows, DROP bad_files;
        UPDATE icekeeper_schema_version SET version_num = '0002_acks'
        """
    )
    with pytest.raises(PermanentError, match="icekeeper migrate") as old:
        await database.history.runs(1)
    assert old.value.reason is Reason.LEDGER_DOWN
    assert await database.migrate() == REVISIONS[2:]
    assert database.rows() == {"runs": 1, "tasks": 3, "logs": 2, "audit_log": 1}
    (run,) = await database.ledger.past_runs(SLOT)
    assert (run.run_id, run.host, run.in_flight, len(run.tasks)) == (night.run_id, "", None, 3)
    await database.ledger.record_load(ConfigLoad(uuid4(), SLOT, "h", "boot", "x"))
    uncommented = """
        SELECT relname || '.' || attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
        WHERE relnamespace = $1::regnamespace AND relkind = 'r' AND NOT attisdropped
          AND (relname = 'maintenance_config_loads' OR attname IN ('host', 'in_flight_stage', 'in_flight_table'))
          AND relname <> 'maintenance_acks' AND col_description(pg_class.oid, attnum) IS NULL
    """
    assert database.sql(uncommented, database.schema) == []


async def test_two_that_migrate_at_once_do_not_collide(empty: Database) -> None:
    results = await asyncio.gather(*(empty.migrate() for _ in range(3)))
    assert sorted(results) == [[], [], REVISIONS]


async def test_the_tables_come_to_where_the_search_path_leads(empty: Database) -> None:
    await empty.migrate()
    assert len(empty.tables()) == 11
    assert empty.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    with pytest.raises(PermanentError, match=r"has been selected to create in.*search_path"):
        await migrate(f"{empty.dsn}_nowhere", PASSWORD)


async def test_tables_of_a_newer_icekeeper_are_left_alone(database: Database) -> None:
    database.sql("UPDATE icekeeper_schema_version SET version_num = '0999_future'")
    for ask in (migrate, pending):
        with pytest.raises(PermanentError, match=r"newer icekeeper.*0999_future"):
            await ask(database.dsn, PASSWORD)


@pytest.mark.parametrize("view", ["maintenance_findings", "maintenance_certificates"])
@pytest.mark.parametrize("kind", ["TABLE {} (id int)", "VIEW {} AS SELECT 1 AS id"])
async def test_another_relation_where_a_view_is_to_be_is_named_and_nothing_is_changed(
    empty: Database, kind: str, view: str
) -> None:
    empty.sql(f"CREATE {kind.format(view)}")
    with pytest.raises(PermanentError, match=f"{view} is there, and icekeeper keeps a view of that name"):
        await empty.migrate()
    assert empty.sql("SELECT to_regclass('maintenance_runs')") == [(None,)]


COLUMNS_OF_0_1 = """
    run_id, slot, trigger, run_timestamp, iceberg_table, ch_source, layer, audit_window_hours, window_start, window_end,
    status
"""
SLOT_OF_0_1 = "(slot, iceberg_table) WHERE trigger IN ('schedule', 'catch_up', 'resume')"


async def test_after_a_way_back_to_0_1_its_migrations_are_made_again(database: Database) -> None:
    """As docs/upgrade.md has it: the columns stay; the revision and the indexes are those of 0.1."""
    own = audit()
    older = audit(window_start=own.window_start - DAY, window_end=own.window_end - DAY, worse=False)
    await database.ledger.close_run(report(own, older))
    assert database.rows()["audit_log"] == 2
    back = (Path(__file__).parents[2] / "docs/upgrade.md").read_text().partition("## Back to 0.1")[2]
    database.sql(back.partition("```sql")[2].partition("```")[0])
    assert database.rows()["audit_log"] == 1
    for arbiter in ("(run_id, iceberg_table) WHERE run_id IS NOT NULL", SLOT_OF_0_1):
        database.sql(
            f"INSERT INTO maintenance_audit_log ({COLUMNS_OF_0_1}) SELECT {COLUMNS_OF_0_1} FROM maintenance_audit_log "
            f"ON CONFLICT {arbiter} DO UPDATE SET notes = 'of 0.1'"
        )
    since = [revision for revision in REVISIONS if revision > "0004_lookups"]
    assert await pending(database.dsn, PASSWORD) == since
    assert await database.migrate() == since
    assert await pending(database.dsn, PASSWORD) == []


@pytest.mark.parametrize(
    "shape",
    [
        PLAIN,
        PLAIN | {"count": "integer", "status": "varchar(7) NOT NULL"},
        PLAIN | {"instant": "timestamp", "id": "int GENERATED ALWAYS AS IDENTITY", "hours": "smallint"},
        PLAIN | {"id": "uuid DEFAULT gen_random_uuid()", "status": "verdict NOT NULL", "count": "numeric"},
        PLAIN | {"status": "text NOT NULL CHECK (status IN ('ok', 'gap'))"},
        PLAIN | {"status": "text NOT NULL, slot timestamptz"},
    ],
    ids=["plain", "integers", "no_zone", "enum", "check", "has_slot"],
)
async def test_an_old_audit_log_is_adopted_with_its_rows(empty: Database, shape: dict[str, str]) -> None:
    if "verdict" in shape["status"]:
        empty.sql("CREATE TYPE verdict AS ENUM ('ok', 'gap')")
    empty.sql(OLD_TABLE.format(**shape))
    empty.sql(OLD_ROW)
    columns = "iceberg_table, ch_row_count, delta_pct, status::text, extract(epoch FROM window_end), notes"
    before = empty.sql(f"SELECT {columns} FROM maintenance_audit_log")

    assert await empty.migrate() == REVISIONS

    assert empty.sql(f"SELECT {columns} FROM maintenance_audit_log") == before
    overflow = audit("cold.much", ch_row_count=1, iceberg_row_count=10**12, delta_pct=Decimal(10**14), notes="n" * 999)
    night = report(audit(), uncounted(), overflow, audit("cold.ok", status=AuditStatus.OK))
    await empty.ledger.close_run(night)
    rows = (await stored(empty, night.run_id))["audits"]
    lists = {"missing_hours": ..., "bad_files": ..., "findings": ...}
    assert [{**row, **lists} for row in rows] == [
        {**asdict(row), **lists} for row in sorted(night.audits, key=lambda row: row.iceberg_table)
    ]
    window_end = "SELECT DISTINCT extract(epoch FROM window_end) FROM maintenance_audit_log WHERE run_id IS NOT NULL"
    assert empty.sql(window_end) == [(Decimal(int(audit().window_end.timestamp())),)]
    since = datetime(2026, 2, 10, tzinfo=UTC)
    (theirs,) = [row for row in await empty.history.audits_since(since) if row["run_id"] is None]
    assert from_plain(FlowAudit, theirs) == FlowAudit(
        "cold.old", since - DAY, since, since + timedelta(hours=2, minutes=10), 200, 199, "ok"
    )
    assert len([row for row in await empty.history.audits_since(since + HOUR) if row["run_id"] is None]) == 0
    empty.sql(OLD_ROW)  # who wrote there before still can
    if "CHECK" in shape["status"]:
        empty.sql(OLD_ROW.replace("'ok'", "'gap'"))
        with pytest.raises(Exception, match="status_check"):
            empty.sql(OLD_ROW.replace("'ok'", "'nonsense'"))


async def test_findings_of_an_adopted_audit_log_without_an_id_are_read_and_acknowledged(empty: Database) -> None:
    empty.sql(OLD_TABLE.format(**PLAIN).replace("id serial PRIMARY KEY, ", ""))
    empty.sql(OLD_ROW)
    await empty.migrate()
    night = report(audit())
    await empty.ledger.close_run(night)
    findings = PostgresFindings(empty.postgres, sole(empty.postgres))
    (found,) = await findings.open_windows("cold.silver_trades")
    assert (found.status, found.delta) == (AuditStatus.MISSING_DATA, -500_000_000)
    assert await findings.acknowledge("cold.silver_trades", found.window.start.date(), "known", "ann", "h") == (found,)
    assert await findings.open_windows("cold.silver_trades") == ()


async def test_a_view_in_the_way_is_named_and_nothing_is_changed(empty: Database) -> None:
    empty.sql(OLD_TABLE.format(**PLAIN))
    empty.sql('CREATE VIEW "Daily Gaps" AS SELECT iceberg_table, max(delta_pct) FROM maintenance_audit_log GROUP BY 1')
    with pytest.raises(
        PermanentError, match=r'PostgreSQL 127.*ledger: .*delta_pct numeric\(20,4\).*"Daily Gaps".*Nothing was changed'
    ):
        await empty.migrate()
    assert empty.tables() == {"maintenance_audit_log"}
    empty.sql('DROP VIEW "Daily Gaps"')
    empty.sql("CREATE VIEW harmless AS SELECT iceberg_table, delta FROM maintenance_audit_log")
    assert await empty.migrate() == REVISIONS


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("ALTER TABLE maintenance_audit_log ADD written_by text NOT NULL", "written_by.*not-null"),
        ("ALTER TABLE maintenance_audit_log ADD CHECK (status = 'ok' OR notes = '')", "violates check constraint"),
        ("ALTER TABLE maintenance_audit_log ADD run_id text", "run_id is text.*uuid.*rename"),
        ("ALTER TABLE maintenance_audit_log RENAME TO x; CREATE VIEW maintenance_audit_log AS TABLE x", "is no table"),
        ("CREATE TABLE maintenance_runs ()", '"maintenance_runs" already exists'),
    ],
)
async def test_an_audit_log_that_would_refuse_our_rows_is_not_adopted(
    empty: Database, spoil: str, message: str
) -> None:
    empty.sql(OLD_TABLE.format(**PLAIN))
    empty.sql(spoil)
    with pytest.raises(PermanentError, match=message):
        await empty.migrate()
    assert await pending(empty.dsn, PASSWORD) == REVISIONS
    assert empty.sql("SELECT to_regclass('maintenance_tasks'), to_regclass('icekeeper_schema_version')") == [
        (None, None)
    ]


# --- the ledger


async def test_a_report_comes_back_as_it_was_stored(database: Database) -> None:
    older_days = OlderDays(3, 1, 2, Reason.BUDGET)
    night = replace(report(audit(began_at=SLOT), uncounted()), older_days=older_days)
    await database.ledger.open_run(replace(opening(night), host="ice1", actor="ann@example"))
    (under_way,) = await database.history.runs(10)
    assert (under_way["outcome"], under_way["finished_at"], under_way["tables"]) == (None, None, ["cold.a"])

    await close_with_lines(database.ledger, night)

    row = await stored(database, night.run_id)
    facts = ("run_id", "slot", "trigger", "outcome", "started_at", "finished_at", "duration_s", "settings_hash")
    assert {key: row[key] for key in facts} == {key: getattr(night, key) for key in facts}
    assert (row["host"], row["actor"], under_way["actor"]) == ("ice1", "ann@example", "ann@example")
    assert row["older_days"] == asdict(older_days)
    assert row["tasks"] == [asdict(task) for task in night.tasks]
    by_name = sorted(night.audits, key=lambda row: row.iceberg_table)
    lists = ("missing_hours", "bad_files", "findings")
    assert row["audits"] == [{**asdict(row), **{key: list(asdict(row)[key]) for key in lists}} for row in by_name]
    assert row["logs"] == list(LOGS)
    assert await database.history.run(uuid4(), lines=True) is None


async def test_what_was_found_of_keys_and_times_comes_back_as_it_was_stored(database: Database) -> None:
    start = SLOT - DAY
    lost = Finding(
        FindingKind.MISSING, start, start + HOUR, 2, 9, 7, Explanation.CYCLE_LOST, "none", (("BTC", None), ("ü", "1"))
    )
    changed = Finding(FindingKind.CHANGED, start, start + HOUR, 1)
    compared = KeyComparison(
        ("symbol", "n"), ("price",), False, 100, 99, equal=False, sample=(3, 8), missing=2, changed=None, unexplored=7
    )
    night = report(audit(key_comparison=compared, findings=(lost, changed)), uncounted())
    await close_with_lines(database.ledger, night)
    (run,) = await database.ledger.past_runs(SLOT)
    assert {(row.key_comparison, row.findings) for row in run.audits} == {(None, ()), (compared, (lost, changed))}
    rows = (await stored(database, night.run_id))["audits"]
    documents = {row["iceberg_table"]: row["key_comparison"] for row in rows}
    assert documents == {row.iceberg_table: to_plain(row.key_comparison) for row in night.audits}
    assert database.sql("SELECT key_comparison->>'missing' FROM maintenance_audit_log ORDER BY 1 NULLS LAST") == [
        ("2",),
        (None,),
    ]
    view = (
        "SELECT kind, window_start, rows, ch_row_count, explanation, sample_keys FROM maintenance_findings ORDER BY 3"
    )
    assert database.sql(view) == [
        ("changed", start, 1, None, None, []),
        ("missing", start, 2, 9, "cycle_lost", [["BTC", None], ["ü", "1"]]),
    ]


async def test_storing_twice_changes_nothing_and_opening_late_reopens_nothing(database: Database) -> None:
    night = report(audit(), uncounted())
    await close_with_lines(database.ledger, night)
    first, rows = await database.history.run(night.run_id, lines=True), database.rows()
    await asyncio.gather(*(close_with_lines(database.ledger, night) for _ in range(3)))
    assert (await database.history.run(night.run_id, lines=True), database.rows()) == (first, rows)
    await database.ledger.open_run(opening(night))
    assert await database.history.run(night.run_id, lines=True) == {
        **(first or {}),
        "stages": ["audit"],
        "tables": ["cold.a"],
    }


async def test_a_slot_has_one_audit_of_a_table_but_operators_may_have_many(database: Database) -> None:
    died = report(audit(notes="early"), audit("cold.b"))
    again = report(audit(notes="late", run_timestamp=SLOT + timedelta(hours=1)), trigger=Trigger.RESUME)
    by_hand = [report(audit(notes=f"hand {n}"), trigger=Trigger.MANUAL) for n in range(2)]
    next_night = report(audit(slot=SLOT + timedelta(days=1)))
    # The spool may bring the older one last, and again: the later count stays.
    for night in (again, *by_hand, died, next_night, again, died):
        await database.ledger.close_run(night)
    notes = database.sql("SELECT notes FROM maintenance_audit_log WHERE iceberg_table ~ 'silver' AND slot = $1", SLOT)
    assert sorted(notes) == [("hand 0",), ("hand 1",), ("late",)]
    assert [row["iceberg_table"] for row in (await stored(database, died.run_id))["audits"]] == ["cold.b"]
    assert database.rows()["audit_log"] == 5


@pytest.mark.parametrize("status", ["text", "verdict"])
async def test_an_error_never_takes_the_place_of_a_count_of_its_slot(empty: Database, status: str) -> None:
    """A run counted and died; the one that resumed the slot found ClickHouse down. In whichever order they arrive."""
    if status == "verdict":
        empty.sql("CREATE TYPE verdict AS ENUM ('ok', 'gap')")
        empty.sql(OLD_TABLE.format(**PLAIN | {"status": "verdict NOT NULL"}))
    await empty.migrate()
    hour = timedelta(hours=1)
    counted = [report(audit("cold.a", run_timestamp=SLOT + n * hour, notes=f"count {n}")) for n in (0, 2)]
    errors = [report(replace(uncounted("cold.a"), run_timestamp=SLOT + n * hour, notes=f"error {n}")) for n in (1, 3)]
    for first in ([errors[0], counted[0], errors[1]], [errors[1], errors[0], counted[0]], [counted[0], *errors]):
        for night in first:
            await empty.ledger.close_run(night)
        assert empty.sql("SELECT notes FROM maintenance_audit_log") == [("count 0",)]
        await empty.ledger.close_run(counted[1])
        await empty.ledger.close_run(counted[0])
        assert empty.sql("SELECT notes FROM maintenance_audit_log") == [("count 2",)]
        empty.sql("DELETE FROM maintenance_audit_log")
    for night in reversed(errors):
        await empty.ledger.close_run(night)
    assert empty.sql("SELECT notes FROM maintenance_audit_log") == [("error 3",)]


async def test_past_runs_are_what_another_host_must_know_of_them(database: Database) -> None:
    ended = report(audit(), uncounted())
    died = report(trigger=Trigger.CATCH_UP, slot=SLOT + timedelta(days=1), started_at=SLOT + timedelta(days=1))
    by_hand, older = report(trigger=Trigger.MANUAL), report(slot=SLOT - timedelta(days=1))
    for night in (ended, by_hand, older):
        await database.ledger.close_run(night)
    begun = replace(opening(died), host="host-2")
    await database.ledger.open_run(begun)
    await database.ledger.mark_in_flight(died.run_id, Stage.EXPIRE, "cold.a")
    await database.ledger.mark_in_flight(uuid4(), Stage.EXPIRE, "cold.a")  # not there yet: no harm

    past = await database.ledger.past_runs(SLOT)
    by_name = tuple(sorted(ended.audits, key=lambda row: row.iceberg_table))
    assert past == (
        PastRun(
            ended.run_id, SLOT, Trigger.SCHEDULE, ended.started_at, RunOutcome.FAILED, "", "9f86d081", (), (),
            ended.tasks, by_name,
        ),
        PastRun(
            died.run_id, died.slot, Trigger.CATCH_UP, died.started_at, None, "host-2", "9f86d081", begun.stages,
            begun.tables, in_flight=(Stage.EXPIRE, "cold.a"),
        ),
    )  # fmt: skip
    assert await database.ledger.last_slot() == died.slot
    assert [run.run_id for run in await database.ledger.past_runs(died.slot)] == [died.run_id]


async def test_a_task_is_in_flight_until_it_has_ended_or_another_has_begun(database: Database) -> None:
    night = report(outcome=RunOutcome.INTERRUPTED)

    async def in_flight() -> tuple[Stage, str] | None:
        (run,) = await database.ledger.past_runs(SLOT)
        return run.in_flight

    await database.ledger.open_run(opening(night))
    assert await in_flight() is None
    for at in ((Stage.COMPACT, "cold.a"), (Stage.COMPACT, "cold.silver_trades")):
        await database.ledger.mark_in_flight(night.run_id, *at)
        assert await in_flight() == at
    await database.ledger.mark_in_flight(night.run_id, None, None)
    assert await in_flight() is None
    await database.ledger.mark_in_flight(night.run_id, Stage.EXPIRE, "cold.a")
    await database.ledger.close_run(night)  # its process died at that task
    assert await in_flight() == (Stage.EXPIRE, "cold.a")
    await database.ledger.close_run(replace(night, tasks=(*night.tasks, task(Stage.EXPIRE, "cold.a"))))
    assert await in_flight() is None


async def test_past_runs_of_a_newer_icekeeper_are_read_as_far_as_they_are_known(database: Database) -> None:
    night = report(audit())
    await database.ledger.close_run(night)
    await database.ledger.open_run(opening(night))
    database.sql(
        """
        UPDATE maintenance_runs SET outcome = 'adjourned', stages = '{audit,remove_orphan_files}',
          in_flight_stage = 'remove_orphan_files', in_flight_table = 'cold.a';
        UPDATE maintenance_tasks SET stage = 'remove_orphan_files' WHERE position = 1;
        UPDATE maintenance_tasks SET reason = 'sunspots' WHERE position = 2;
        UPDATE maintenance_audit_log SET reason = 'sunspots'
        """
    )
    (run,) = await database.ledger.past_runs(SLOT)
    assert (run.outcome, run.stages, run.in_flight) == (RunOutcome.FAILED, (Stage.AUDIT,), None)
    assert [result.reason for result in run.tasks] == [Reason.UNEXPECTED, None]
    assert [row.reason for row in run.audits] == [Reason.UNEXPECTED]


async def test_a_ledger_without_runs_knows_no_slot(database: Database) -> None:
    await database.ledger.close_run(report(trigger=Trigger.MANUAL))
    assert await database.ledger.last_slot() is None
    assert await database.ledger.past_runs(SLOT - timedelta(days=9999)) == ()


async def test_runs_are_listed_newest_first_and_found_by_the_beginning_of_their_id(database: Database) -> None:
    ids = [UUID("3f2a0000-0000-4000-8000-00000000000" + digit) for digit in "123"] + [uuid4()]
    nights = [replace(report(), run_id=run_id, started_at=SLOT + timedelta(days=n)) for n, run_id in enumerate(ids)]
    for night in nights:
        await database.ledger.close_run(replace(night, finished_at=night.started_at))
    assert [row["run_id"] for row in await database.history.runs(3)] == ids[:0:-1]
    assert list(await database.history.find_runs("3F2A")) == ids[2::-1]
    assert list(await database.history.find_runs(str(ids[1]))) == [ids[1]]
    for nothing in ("", "%", "xyz", "0" * 33):
        assert await database.history.find_runs(nothing) == ()


async def test_text_that_postgresql_refuses_does_not_cost_the_record(database: Database) -> None:
    evil = "a\0b\ud800c"
    night = report(audit(notes=evil, ch_query=evil), tasks=(task(Stage.AUDIT, "cold.a", error=evil),))
    line = {"event": evil, "nan": float("nan"), "id": night.run_id, "at": SLOT, "path": {evil: {1}}}
    await close_with_lines(database.ledger, night, [line])
    row = await stored(database, night.run_id)
    tame = "a\N{REPLACEMENT CHARACTER}b?c"
    assert row["tasks"][0]["error"] == row["audits"][0]["notes"] == row["audits"][0]["ch_query"] == tame
    expected = {"event": tame, "nan": "nan", "id": str(night.run_id), "at": SLOT.isoformat(), "path": {tame: [1]}}
    assert row["logs"] == [expected]


async def test_a_record_that_is_refused_leaves_nothing_and_is_distinguished_from_a_database_that_is_not_ready(
    database: Database,
) -> None:
    database.sql("ALTER TABLE maintenance_audit_log ADD CHECK (layer <> 'silver')")
    with pytest.raises(PermanentError, match=r"refused it: .*maintenance_audit_log_layer_check") as refused:
        await database.ledger.close_run(report(audit()))
    assert refused.value.reason is Reason.UNEXPECTED
    assert set(database.rows().values()) == {0}


async def test_log_lines_are_stored_in_their_order_and_a_batch_that_is_refused_leaves_the_others(
    database: Database,
) -> None:
    night = report()
    await database.ledger.close_run(night)
    assert await database.ledger.last_line(night.run_id) == 0
    lines = [{"n": number} for number in range(5)]
    await database.ledger.store_lines(night.run_id, 1, lines[:2])
    await database.ledger.store_lines(night.run_id, 1, lines[:2])
    database.sql("ALTER TABLE maintenance_logs ADD CHECK (line_no < 4)")
    with pytest.raises(PermanentError, match=r"refused it: .*maintenance_logs_line_no_check") as refused:
        await database.ledger.store_lines(night.run_id, 3, lines[2:])
    assert refused.value.reason is Reason.UNEXPECTED
    assert await database.ledger.last_line(night.run_id) == 2
    await database.ledger.store_lines(night.run_id, 3, lines[2:3])
    assert (await stored(database, night.run_id))["logs"] == lines[:3]


async def test_an_unmigrated_database_says_what_to_run(empty: Database) -> None:
    for ask in (empty.history.runs(1), empty.ledger.close_run(report(audit())), empty.history.run(uuid4(), lines=True)):
        with pytest.raises(PermanentError, match="run `icekeeper migrate`") as refused:
            await ask
        assert refused.value.reason is Reason.LEDGER_DOWN
        assert f"127.0.0.1:{empty.server.port}/{DATABASE}" in str(refused.value)


async def test_a_role_with_the_printed_grants_keeps_the_ledger_and_can_do_no_more(empty: Database) -> None:
    role = f"keeper-{empty.schema}"
    empty.sql(OLD_TABLE.format(**PLAIN))  # its serial id has a sequence that needs a right, too
    empty.sql(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'p'")
    dsn = empty.dsn.replace("icekeeper@", f"{role}@")
    empty.sql(f'GRANT USAGE ON SCHEMA {empty.schema} TO "{role}"')
    with pytest.raises(PermanentError, match=f"role '{role}' lacks a right: permission denied for schema") as refused:
        await migrate(dsn, "p")
    assert refused.value.reason is Reason.ACCESS_DENIED
    with pytest.raises(PermanentError, match="icekeeper migrate"):
        await grants(empty.postgres, role)
    await empty.migrate()
    postgres = Postgres(dsn, "p")
    with pytest.raises(PermanentError, match="permission denied for table maintenance_installations"):
        await PostgresHistory(postgres, sole(postgres)).runs(1)
    for grant in await grants(empty.postgres, role):
        empty.sql(grant)
    night = report(audit())
    for _ in range(2):
        await PostgresLedger(postgres, sole(postgres)).open_run(opening(night))
        await close_with_lines(PostgresLedger(postgres, sole(postgres)), night)
    assert len((await PostgresHistory(postgres, sole(postgres)).run(night.run_id) or {})["audits"]) == 1
    assert await pending(dsn, "p") == []
    with pytest.raises(PermanentError, match="permission denied"):
        async with postgres.connection() as connection:
            await connection.execute("DELETE FROM maintenance_runs")
    assert await missing_grants(postgres, TO_TIDY) == []
    assert await PostgresLedger(postgres, sole(postgres)).delete_lines(SLOT + DAY, 1) == len(LOGS)
    empty.sql(f'REVOKE DELETE ON maintenance_logs FROM "{role}"')
    with pytest.raises(PermanentError) as denied:
        await PostgresLedger(postgres, sole(postgres)).delete_lines(SLOT + DAY, 1)
    assert denied.value.reason is Reason.ACCESS_DENIED
    assert await missing_grants(postgres) == [], "the ledger is kept all the same"
    (grant,) = await missing_grants(postgres, TO_TIDY)
    empty.sql(grant)
    assert await PostgresLedger(postgres, sole(postgres)).delete_lines(SLOT + DAY, 1) == 0
    await postgres.close()


async def test_old_log_lines_go_a_few_runs_at_a_time_and_nothing_else_does(database: Database) -> None:
    nights = [report(audit(slot=SLOT + n * DAY), slot=SLOT + n * DAY, started_at=SLOT + n * DAY) for n in range(6)]
    for night in nights:
        await close_with_lines(database.ledger, night)
    under_way = opening(report(started_at=SLOT - DAY))
    await database.ledger.open_run(under_way)
    before = database.rows()
    assert before["logs"] == 6 * len(LOGS)

    old = database.ledger
    deleted = [await old.delete_lines(SLOT + 5 * DAY, 2) for _ in range(4)]
    assert deleted == [2 * len(LOGS), 2 * len(LOGS), len(LOGS), 0]
    assert database.rows() == {**before, "logs": len(LOGS)}
    assert (await stored(database, nights[5].run_id))["logs"]
    assert (await stored(database, nights[4].run_id))["logs"] == []

    asked = [*(night.run_id for night in nights), under_way.run_id, uuid4()]
    assert await old.held(asked) == {night.run_id for night in nights}


async def test_the_engine_log_of_a_failed_task_is_kept(database: Database) -> None:
    failed = task(Stage.COMPACT, "cold.a", outcome=TaskOutcome.FAILED, engine_log="ERROR lost\n\tat x\0")
    night = report(tasks=(failed, task(Stage.EXPIRE, "cold.a")))
    await database.ledger.close_run(night)
    engine_logs = [one["engine_log"] for one in (await stored(database, night.run_id))["tasks"]]
    assert engine_logs == ["ERROR lost\n\tat x\N{REPLACEMENT CHARACTER}", None]


# --- the server


async def test_a_wrong_password_names_role_and_database_but_never_the_password(
    empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = secrets.token_hex(8)
    with_it = empty.dsn.replace("icekeeper@", f"icekeeper:{wrong}@")
    asks = [Postgres(empty.dsn, wrong).ping(), Postgres(with_it, None).ping(), migrate(with_it, None)]
    asks += [
        Postgres(empty.server.dsn(f"{DATABASE}_none"), PASSWORD).ping(),
        Postgres(empty.dsn.replace("icekeeper@", "x@"), wrong).ping(),
    ]
    for ask in asks:
        with pytest.raises(PermanentError) as refused:
            await ask
        shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value) + caplog.text
        assert wrong not in shown
        assert PASSWORD not in shown
        assert f":{empty.server.port}/{DATABASE}" in str(refused.value)
        if "_none" in str(refused.value):
            assert "create the database" in str(refused.value)
        else:
            assert refused.value.reason is Reason.ACCESS_DENIED
            assert "refused role" in str(refused.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hush/a@b/db",
        "postgresql://u:12/hush@host/db",
        "postgresql://u:hush]@[host/db",
        "postgresql://u:h@host:hush/db",
        "host=x password=hush",
        "mysql://u:hush@host/db",
    ],
)
def test_a_dsn_that_is_none_is_refused_without_being_shown(dsn: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://USER@HOST") as refused:
        Postgres(dsn, None)
    assert "hush" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://me@h/db", "PostgreSQL h:5432/db"),
        ("postgres://me:hush@h1:1,h2/db?sslmode=require", "PostgreSQL h1:1,h2:5432/db"),
        ("postgresql://me:hush@[::1]:7/a%2Fb", "PostgreSQL [::1]:7/a/b"),
        ("postgresql:///db?host=/run/pg&user=me&password=hush", "PostgreSQL /run/pg:5432/db"),
    ],
)
def test_a_database_is_named_without_its_password(dsn: str, shown: str) -> None:
    assert (str(Target.of(dsn)), Target.of(dsn).role) == (shown, "me")


async def test_a_server_that_is_away_is_a_passing_thing_for_the_same_pool(database: Database) -> None:
    night = report(audit())
    assert (await database.postgres.ping()).startswith("18")  # an idle connection is in the pool
    await asyncio.to_thread(database.server.stop)
    try:
        for ask in (database.postgres.ping(), database.ledger.close_run(night), database.migrate()):
            with pytest.raises(TransientError, match=f":{database.server.port}/{DATABASE}") as away:
                await ask
            assert away.value.reason is Reason.LEDGER_DOWN
    finally:
        await asyncio.to_thread(database.server.start)
    await database.ledger.close_run(night)
    assert database.rows()["runs"] == 1


async def test_a_pool_made_before_the_server_starts_finds_it_later(server: Server) -> None:
    away = Postgres(f"postgresql://icekeeper@127.0.0.1:{free_ports(1)[0]}/icekeeper", PASSWORD)
    with pytest.raises(TransientError, match="does not answer"):
        await away.ping()
    await away.close()
    await away.close()
    with pytest.raises(TransientError, match="closed"):
        await away.ping()


async def wait_for_a_lock(database: Database) -> None:
    # Not in a transaction: within one, pg_stat_activity shows what it showed first.
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1"
    watcher: Any = await asyncpg.connect(database.dsn, password=PASSWORD)
    async with asyncio.timeout(10):
        while not await watcher.fetchval(waiting, DATABASE):  # noqa: ASYNC110  the event is PostgreSQL's
            await asyncio.sleep(0.01)
    await watcher.close()


async def test_a_server_that_dies_while_a_run_is_stored_keeps_none_of_it(database: Database) -> None:
    night = report(audit())
    blocker: Any = await asyncpg.connect(database.dsn, password=PASSWORD)
    await blocker.execute("BEGIN; LOCK TABLE maintenance_audit_log")
    closing = asyncio.create_task(close_with_lines(database.ledger, night))
    try:
        await wait_for_a_lock(database)  # by then the run and its tasks are written, and the audits wait
        await asyncio.to_thread(database.server.stop)
        with pytest.raises(TransientError) as lost:
            await closing
        assert lost.value.reason is Reason.LEDGER_DOWN
    finally:
        closing.cancel()
        blocker.terminate()
        await asyncio.to_thread(database.server.stop)
        await asyncio.to_thread(database.server.start)
    assert await database.history.runs(1) == ()
    await close_with_lines(database.ledger, night)
    assert database.rows() == {"runs": 1, "tasks": 3, "logs": 2, "audit_log": 1}


async def test_a_full_server_and_a_lost_lock_are_passing_things(database: Database) -> None:
    database.sql("CREATE ROLE crowd LOGIN PASSWORD 'p' CONNECTION LIMIT 0")
    crowded = Postgres(database.dsn.replace("icekeeper@", "crowd@"), "p")
    with pytest.raises(TransientError, match="too many connections"):
        await crowded.ping()
    await crowded.close()
    with pytest.raises(TransientError, match="statement timeout"):
        async with database.postgres.connection() as connection:
            await connection.execute("SET statement_timeout = 20; SELECT pg_sleep(5)")


async def test_closing_does_not_wait_for_a_statement_that_does_not_end(database: Database) -> None:
    async def endless() -> None:
        async with database.postgres.connection() as connection:
            started.set()
            await connection.execute("SELECT pg_sleep(20)")

    started = asyncio.Event()
    stuck = asyncio.create_task(endless())
    await started.wait()
    async with asyncio.timeout(15):  # of the statement's 20 s
        await database.postgres.close(timeout=0.05)
        with pytest.raises(IcekeeperError):
            await stuck


# --- the offload


async def test_the_state_of_a_source_is_read_wherever_it_is_kept(empty: Database) -> None:
    assert await PostgresOffload(empty.postgres).state_of("silver_trades") is None
    assert await PostgresOffload(empty.postgres, "ops.marks").state_of("silver_trades") is None
    empty.sql("CREATE SCHEMA ops")
    for table, instant in (("offload_watermarks", "timestamptz"), ('ops."Marks"', "timestamp")):
        empty.sql(
            f"CREATE TABLE {table} (table_name text PRIMARY KEY, last_offload_timestamp {instant}, status varchar(20));"
            f"INSERT INTO {table} VALUES ('silver_trades', '2026-02-18 01:45', 'running'), ('new', NULL, 'initialized')"
        )
    for table in ("offload_watermarks", f"{empty.schema.upper()}.Offload_Watermarks", 'ops."Marks"'):
        offload = PostgresOffload(empty.postgres, table)
        at = datetime(2026, 2, 18, 1, 45, tzinfo=UTC)
        assert await offload.state_of("silver_trades") == OffloadState(at, "running")
        assert await offload.state_of("new") == OffloadState(None, "initialized")
        assert await offload.state_of("other") is None
    empty.sql("CREATE TABLE else_where (x int)")
    with pytest.raises(PermanentError, match=r'"else_where" is not the offload.*Correct offload\.table'):
        await PostgresOffload(empty.postgres, "else_where").state_of("silver_trades")
    empty.sql("CREATE TABLE half (table_name text, status text); INSERT INTO half VALUES ('a', 'running')")
    with pytest.raises(PermanentError, match=r'"half" is not the offload.*no column last_offload_timestamp'):
        await PostgresOffload(empty.postgres, "half").state_of("a")


async def test_a_source_is_known_to_the_offload_with_and_without_its_database(empty: Database) -> None:
    empty.sql(
        "CREATE TABLE offload_watermarks (table_name text, last_offload_timestamp timestamptz, status text);"
        "INSERT INTO offload_watermarks VALUES"
        " ('a', '2026-02-18 01:00Z', 'success'), ('k2.b', '2026-02-18 02:00Z', ''),"
        " ('other.a', '2026-02-18 03:00Z', 'running'), ('c', '2026-02-18 04:00Z', 'success')"
    )
    offload = PostgresOffload(empty.postgres, database="k2", sources=("a", "k2.b", "other.a", "other.c", "old.a"))

    async def hour(*tables: str) -> int | None:
        state = await offload.state(Source(tables, "ts"))
        return None if state is None or state.at is None else state.at.hour

    assert [await hour(name) for name in ("a", "k2.a", "b", "k2.b")] == [1, 1, 2, 2]
    assert [await hour(name) for name in ("other.a", "other.c", "old.a", "other.b")] == [3, 4, None, None]
    assert [await hour("a", "other.a"), await hour("a", "unknown"), await hour("unknown", "no")] == [1, None, None]
    together = await offload.state(Source(("a", "other.a"), "ts"))
    assert together is not None
    assert together.status == "running", "one of them is being written"

    # Without clickhouse.database each row of that name may be the source's: whichever is written, it is.
    anywhere = PostgresOffload(empty.postgres, database=None)
    states = [await anywhere.state_of(name) for name in ("a", "b", "k2.b", "c", "d", "_")]
    known = [None if state is None or state.at is None else (state.at.hour, state.status) for state in states]
    assert known == [(1, "running"), (2, ""), (2, ""), (4, "success"), None, None]


@pytest.mark.parametrize("instant", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("seconds", ["double precision", "integer", "numeric(10, 2)"])
async def test_the_columns_of_newer_offloads_are_read_where_they_are(
    empty: Database, instant: str, seconds: str
) -> None:
    offload, at = PostgresOffload(empty.postgres), datetime(2026, 2, 18, 1, 45, tzinfo=UTC)
    empty.sql(
        f"CREATE TABLE offload_watermarks (table_name text, last_offload_timestamp {instant}, status text,"
        f" updated_at {instant}, last_successful_run {instant}, last_run_duration_seconds {seconds}, offload_row int);"
        "INSERT INTO offload_watermarks VALUES"
        " ('a', '2026-02-18 01:45', 'running', '2026-02-18 02:00:01.25', '2026-02-18 01:46', 42, 1),"
        " ('b', '2026-02-18 01:45', NULL, NULL, NULL, NULL, NULL), ('c', 'infinity', '', '-infinity', NULL, NULL, 1)"
    )
    assert await offload.state_of("a") == OffloadState(
        at,
        "running",
        updated_at=datetime(2026, 2, 18, 2, 0, 1, 250_000, tzinfo=UTC),
        last_successful_run=datetime(2026, 2, 18, 1, 46, tzinfo=UTC),
        last_run_duration=timedelta(seconds=42),
    )
    assert await offload.state_of("b") == OffloadState(at, "")
    assert await offload.state_of("c") == OffloadState(None, "")


def test_a_table_name_is_quoted_part_by_part() -> None:
    assert quoted("offload_watermarks") == '"offload_watermarks"'
    assert quoted('Ops."Odd.""Name"') == '"ops"."Odd.""Name"'
    assert quoted("x; drop table y") == '"x; drop table y"'
    for bad in ("", ".", "a.", ".a", "a..b", 'a"', '"a', '"a"b', " ", "a\0b"):
        with pytest.raises(ConfigError, match="no table's name"):
            quoted(bad)
