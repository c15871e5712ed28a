"""Findings on a real PostgreSQL: what opens one, what closes it, what it holds up; and acknowledgements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.ledger.sql.grants import grants
from icekeeper.adapters.ledger.sql.migrations import migrate, pending
from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.audit.records import BadFile, FileFault, Finding, FindingKind, KeyComparison, OpenWindow
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Decision, Proof, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.night.order import Order
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, GOLD, SLOT, MakeNight, Night, outcomes
from tests.integration.installations import MAKE_SOLE, SOLE, sole
from tests.unit.reports import AUDIT, REPORT

OK, WARNING, MISSING, ERROR = AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA, AuditStatus.ERROR
TABLE = "cold.silver_trades"
THE_17TH = date(2026, 2, 17)
DAY = Window(datetime(2026, 2, 17, tzinfo=UTC), datetime(2026, 2, 18, tzinfo=UTC))
HOUR = timedelta(hours=1)


def within(start: int, hours: int) -> Window:
    """So many hours from an hour of the 17th."""
    return Window(DAY.start + start * HOUR, DAY.start + (start + hours) * HOUR)


@dataclass
class Ledger:
    """A database of its own, and what it knows."""

    box: Sandbox
    name: str
    postgres: Postgres
    hour: int = 0

    @property
    def dsn(self) -> str:
        return self.box.postgres.dsn(self.name)

    @property
    def findings(self) -> PostgresFindings:
        return PostgresFindings(self.postgres, sole(self.postgres))

    def sql(self, text: str, *args: object) -> list[tuple[Any, ...]]:
        return self.box.postgres.execute(self.name, text, *args)

    async def migrate(self) -> list[str]:
        return await migrate(self.dsn, self.box.postgres.password)

    async def audited(
        self,
        status: AuditStatus,
        missing: int | None = None,
        window: Window = DAY,
        table: str = TABLE,
        **changes: Any,
    ) -> datetime:
        """An operator's audit, an hour after the one before; when that was."""
        self.hour += 1
        at = SLOT + self.hour * HOUR
        row = replace(
            AUDIT,
            run_id=uuid4(),
            run_timestamp=at,
            iceberg_table=table,
            window_start=window.start,
            window_end=window.end,
            delta=None if missing is None else -missing,
            status=status,
            **{"trigger": Trigger.MANUAL, **changes},
        )
        await self.store(row)
        return at

    async def found_bad_files(
        self, rows: int, *, file: str = "a", proof: Proof = Proof.FILES, trigger: Trigger = Trigger.MANUAL
    ) -> datetime:
        """An audit whose files fail the proof, an hour after the one before; when that was."""
        self.hour += 1
        at = SLOT + self.hour * HOUR
        window = DAY
        bad = BadFile(f"s3://w/t/{file}.parquet", "day=2026-02-17", "data", FileFault.MISSING, rows, 1000)
        row = replace(
            AUDIT, run_id=uuid4(), trigger=trigger, run_timestamp=at, iceberg_table=TABLE,
            window_start=window.start, window_end=window.end, iceberg_row_count=None, delta=None, status=ERROR,
            reason=Reason.FILE_MISSING, proof=proof, bad_files=(bad,), bad_file_rows=rows,
            findings=(Finding(FindingKind.FILE, window.start, window.end, rows, files=(bad.path,)),),
        )  # fmt: skip
        await self.store(row)
        return at

    async def store(self, row: Any) -> None:
        report: RunReport = replace(REPORT, run_id=row.run_id, trigger=row.trigger, tasks=(), audits=(row,))
        await PostgresLedger(self.postgres, sole(self.postgres)).close_run(report)

    async def open(self, table: str = TABLE) -> list[tuple[Window, AuditStatus, int | None]]:
        found = await self.findings.open_windows(table)
        return [(finding.window, finding.status, finding.delta) for finding in found]

    async def ack(self, day: date = THE_17TH, note: str = "known") -> tuple[OpenWindow, ...]:
        return await self.findings.acknowledge(TABLE, day, note, "ann", "host1")


_numbers = count(1)


@pytest.fixture
async def empty(box: Sandbox) -> AsyncIterator[Ledger]:
    name = f"findings{next(_numbers)}"
    box.postgres.create_database(name)
    postgres = Postgres(box.postgres.dsn(name), box.postgres.password)
    yield Ledger(box, name, postgres)
    await postgres.close()


@pytest.fixture
async def ledger(empty: Ledger) -> Ledger:
    await empty.migrate()
    empty.sql(MAKE_SOLE)
    return empty


# --- what opens a finding, and what a later audit does to it


async def test_a_day_is_open_from_its_first_bad_audit_until_one_proves_it(ledger: Ledger) -> None:
    assert await ledger.open() == []
    first = await ledger.audited(MISSING, 500)
    assert await ledger.findings.open_windows(TABLE) == (OpenWindow(TABLE, DAY, MISSING, first, -500),)
    await ledger.audited(WARNING, 20)
    assert await ledger.findings.open_windows(TABLE) == (OpenWindow(TABLE, DAY, WARNING, first, -20),)
    await ledger.audited(OK, -3)
    assert await ledger.open() == []
    again = await ledger.audited(MISSING, 7)
    assert await ledger.findings.open_windows(TABLE) == (OpenWindow(TABLE, DAY, MISSING, again, -7),)
    assert await ledger.open("cold.other") == []


async def test_an_audit_that_could_not_count_is_a_finding_only_where_none_ever_could(ledger: Ledger) -> None:
    await ledger.audited(ERROR)
    assert await ledger.open() == [(DAY, ERROR, None)]
    found = await ledger.audited(MISSING, 500)
    await ledger.audited(ERROR)
    assert await ledger.findings.open_windows(TABLE) == (OpenWindow(TABLE, DAY, MISSING, found, -500),)
    await ledger.audited(OK, 0)
    await ledger.audited(ERROR, 900)  # after the source's TTL both counts are kept, and judge nothing
    assert await ledger.open() == []


async def test_bad_files_are_a_finding_whatever_was_counted_before_until_files_are_proven_again(ledger: Ledger) -> None:
    await ledger.audited(OK, 0, proof=Proof.FILES)
    first = await ledger.found_bad_files(100)
    await ledger.found_bad_files(120)
    (found,) = await ledger.findings.open_windows(TABLE)
    assert (found.window, found.status, found.reason, found.since) == (DAY, ERROR, Reason.FILE_MISSING, first)
    assert (found.bad_file_rows, found.bad_partitions) == (120, frozenset({"day=2026-02-17"}))
    # None of these says anything of the files.
    await ledger.audited(OK, 0, proof=Proof.MANIFESTS)
    await ledger.audited(OK, 0)
    await ledger.audited(ERROR, iceberg_row_count=None)
    await ledger.audited(OK, 0, within(0, 6), proof=Proof.FILES)
    assert await ledger.findings.open_days([TABLE]) == {(TABLE, ERROR): 1}
    # Of its rows this proves nothing, of its files all.
    await ledger.audited(OK, 0, reason=Reason.SOURCE_EMPTY, proof=Proof.FILES)
    assert await ledger.open() == []


async def test_rows_that_lack_stay_a_finding_of_their_own_beside_bad_files(ledger: Ledger) -> None:
    await ledger.audited(MISSING, 500, proof=Proof.FILES)
    await ledger.found_bad_files(100)
    assert sorted(await ledger.open(), key=str) == [(DAY, ERROR, None), (DAY, MISSING, -500)]
    await ledger.audited(MISSING, 400, proof=Proof.FILES)
    assert await ledger.open() == [(DAY, MISSING, -400)]


async def test_bad_files_are_acknowledged_by_their_own_rows(ledger: Ledger) -> None:
    await ledger.audited(MISSING, 500)
    await ledger.ack()
    await ledger.found_bad_files(100)
    assert await ledger.open() == [(DAY, ERROR, None)]  # rows were acknowledged, not files
    (closed,) = await ledger.ack()
    assert closed.bad_file_rows == 100
    assert await ledger.open() == []
    await ledger.found_bad_files(100)
    assert await ledger.open() == []
    await ledger.found_bad_files(101)
    assert await ledger.open() == [(DAY, ERROR, None)]
    await ledger.audited(MISSING, 500, proof=Proof.FILES)
    assert await ledger.open() == []  # the files are whole, and of the rows no more are missing than was acknowledged


@pytest.mark.parametrize(
    ("found_by", "proven_by", "closes"),
    [
        (Proof.MANIFESTS, Proof.MANIFESTS, True),  # a count that had to read, and met a file that is gone
        (Proof.MANIFESTS, Proof.FILES, True),
        (Proof.FILES, Proof.MANIFESTS, False),
        (Proof.FILES, Proof.LENGTHS, True),
        (Proof.FILES, Proof.ROWS, True),
        (Proof.ROWS, Proof.FILES, False),  # it can't see what reading found
        (Proof.ROWS, Proof.ROWS, True),
    ],
)
async def test_bad_files_are_open_until_they_are_found_whole_by_the_same_proof_or_a_stronger_one(
    ledger: Ledger, found_by: Proof, proven_by: Proof, closes: bool
) -> None:
    await ledger.found_bad_files(100, proof=found_by)
    await ledger.audited(OK, 0, proof=proven_by)
    assert await ledger.open() == ([] if closes else [(DAY, ERROR, None)])


async def test_a_run_that_resumes_a_slot_and_can_not_look_leaves_what_is_known_of_bad_files(ledger: Ledger) -> None:
    await ledger.found_bad_files(100, trigger=Trigger.SCHEDULE)
    await ledger.audited(ERROR, trigger=Trigger.RESUME, reason=Reason.SOURCE_DOWN, iceberg_row_count=None)
    (found,) = await ledger.findings.open_windows(TABLE)
    assert (found.reason, found.bad_file_rows) == (Reason.FILE_MISSING, 100)
    await ledger.audited(OK, 0, trigger=Trigger.RESUME, proof=Proof.FILES)
    assert await ledger.open() == []


async def test_another_bad_file_opens_a_day_that_was_acknowledged_however_few_its_rows_are(ledger: Ledger) -> None:
    await ledger.found_bad_files(0)  # a delete file has no rows of its own
    await ledger.ack()
    await ledger.found_bad_files(0)
    assert await ledger.open() == []
    await ledger.found_bad_files(0, file="b")
    assert await ledger.open() == [(DAY, ERROR, None)]


async def test_bad_files_in_a_row_that_an_older_version_wrote_over_are_no_finding_and_prove_nothing(
    ledger: Ledger,
) -> None:
    await ledger.audited(OK, 0, proof=Proof.FILES, bad_file_rows=100)
    assert await ledger.open() == []
    await ledger.found_bad_files(100)
    await ledger.audited(OK, 0, proof=Proof.FILES, bad_file_rows=100)
    assert await ledger.open() == [(DAY, ERROR, None)]


async def test_a_day_that_is_proven_closes_what_was_found_within_it_and_no_more(ledger: Ledger) -> None:
    next_day = Window(DAY.end, DAY.end + 24 * HOUR)
    await ledger.audited(MISSING, 50, within(4, 6))
    await ledger.audited(MISSING, 50, within(20, 6))  # ends on the 18th
    await ledger.audited(MISSING, 50, next_day)
    await ledger.audited(OK, 0)
    assert await ledger.open() == [(within(20, 6), MISSING, -50), (next_day, MISSING, -50)]
    # 1 % of a week may be a whole hour of one of its days.
    await ledger.audited(OK, 0, within(-24, 168))
    assert len(await ledger.open()) == 2
    await ledger.audited(OK, 0, within(20, 6))
    assert await ledger.open() == [(next_day, MISSING, -50)]


async def test_rows_from_before_icekeeper_and_words_of_others_open_nothing(empty: Ledger) -> None:
    empty.sql(
        """
        CREATE TYPE verdict AS ENUM ('ok', 'missing_data', 'gap');
        CREATE TABLE maintenance_audit_log (
          id uuid PRIMARY KEY DEFAULT gen_random_uuid(), run_timestamp timestamp NOT NULL, iceberg_table varchar(255),
          ch_source text, layer text, audit_window_hours int, window_start timestamp, window_end timestamp,
          ch_row_count numeric NOT NULL, iceberg_row_count numeric, delta numeric, delta_pct numeric(8,4),
          status verdict, notes text);
        INSERT INTO maintenance_audit_log (run_timestamp, iceberg_table, window_start, window_end, ch_row_count, delta,
          status)
        SELECT '2026-02-18 02:10', 'cold.silver_trades', '2026-02-17', '2026-02-18', 10, -9, word::verdict
        FROM unnest(ARRAY['missing_data', 'gap']) AS word
        """
    )
    await empty.migrate()
    assert await empty.open() == []
    assert await empty.findings.open_days([TABLE]) == {}
    found = await empty.audited(MISSING, 500)
    assert await empty.findings.open_windows(TABLE) == (OpenWindow(TABLE, DAY, MISSING, found, -500),)
    (closed,) = await empty.ack()
    assert closed.window == DAY
    assert await empty.open() == []
    await empty.audited(MISSING, 501)
    empty.sql("UPDATE maintenance_audit_log SET status = 'gap' WHERE delta = -501")
    assert await empty.open() == []


async def test_days_of_missing_data_are_counted_without_warnings(ledger: Ledger) -> None:
    for day, status in enumerate([MISSING, ERROR, WARNING, OK]):
        await ledger.audited(status, 5 if status in (MISSING, WARNING) else None, within(24 * day, 24))
    await ledger.audited(MISSING, 5, within(3, 2))  # the same day again
    await ledger.audited(ERROR, None, table="cold.b")
    assert await ledger.findings.open_days([TABLE, "cold.b", "cold.c"]) == {
        (TABLE, MISSING): 1,
        (TABLE, ERROR): 1,
        ("cold.b", ERROR): 1,
    }
    found = await ledger.findings.all_open(["cold.b", TABLE])
    assert [finding.table for finding in found] == ["cold.b", *[TABLE] * 4]


# --- what was found there


def lacks(rows: int, hour: int = 3, kind: FindingKind = FindingKind.MISSING) -> Finding:
    return Finding(kind, DAY.start + hour * HOUR, DAY.start + (hour + 1) * HOUR, rows)


async def test_findings_are_those_of_the_newest_audit_and_open_until_it_is_ok_or_acknowledged(ledger: Ledger) -> None:
    async def found(since: datetime = DAY.start, table: str = TABLE) -> list[tuple[bool, list[int]]]:
        audits = await ledger.findings.found([table], since, 100)
        return [(audit.open, [finding.rows for finding in audit.findings]) for audit in audits]

    duplicate = lacks(7, 5, FindingKind.DUPLICATE)
    await ledger.audited(MISSING, 500, findings=(lacks(500),))
    await ledger.audited(MISSING, 30, findings=(lacks(20), lacks(10, 4), duplicate))
    await ledger.audited(ERROR)  # what could not count says nothing of them
    await ledger.audited(OK, 1, within(24, 24), findings=(lacks(1, 27),))
    await ledger.audited(MISSING, 9, table="cold.b", findings=(lacks(9),))
    assert await found() == [(False, [1]), (True, [20, 10, 7])]
    assert await found(DAY.end) == [(False, [1])]
    rows = {(TABLE, FindingKind.MISSING): 30, (TABLE, FindingKind.DUPLICATE): 7, ("cold.b", FindingKind.MISSING): 9}
    assert await ledger.findings.open_rows([TABLE, "cold.b", "cold.c"]) == rows

    await ledger.audited(OK, 0, reason=Reason.SOURCE_EMPTY)  # its TTL may have taken them
    assert await found() == [(False, [1]), (True, [20, 10, 7])]
    assert await ledger.findings.open_rows([TABLE, "cold.b", "cold.c"]) == rows

    await ledger.ack()
    assert await found() == [(False, [1]), (False, [20, 10, 7])]
    assert await ledger.findings.open_rows([TABLE]) == {}
    await ledger.audited(OK, 0)
    assert await found() == [(False, [1])]


async def test_rows_that_a_surplus_hides_open_a_day_again_when_there_are_more_of_them(ledger: Ledger) -> None:
    await ledger.audited(MISSING, -500, findings=(lacks(600),))
    assert await ledger.open() == [(DAY, MISSING, 500)]
    await ledger.ack()
    await ledger.audited(MISSING, -500, findings=(lacks(600),))
    assert await ledger.open() == []
    await ledger.audited(MISSING, -500, findings=(lacks(601),))
    assert await ledger.open() == [(DAY, MISSING, 500)]


async def test_bad_files_are_a_finding_beside_that_of_rows(ledger: Ledger) -> None:
    await ledger.audited(MISSING, 30, findings=(lacks(30),))
    await ledger.found_bad_files(200)
    assert await ledger.findings.open_rows([TABLE]) == {
        (TABLE, FindingKind.MISSING): 30,
        (TABLE, FindingKind.FILE): 200,
    }
    await ledger.audited(MISSING, 30, findings=(lacks(30),), proof=Proof.FILES)
    assert await ledger.findings.open_rows([TABLE]) == {(TABLE, FindingKind.MISSING): 30}


async def test_a_finding_of_a_newer_icekeeper_is_left_out_alone(ledger: Ledger) -> None:
    await ledger.audited(MISSING, 30, findings=(lacks(30), lacks(4, 5)))
    newer = """[{"kind": "twisted"}, {"explanation": "moonlight"}]"""
    ledger.sql(
        "UPDATE maintenance_audit_log SET findings = jsonb_build_array("
        "(findings->0) || ($1::jsonb->0), (findings->1) || ($1::jsonb->1))", newer
    )  # fmt: skip
    ((found,),) = [audit.findings for audit in await ledger.findings.found([TABLE], DAY.start, 100)]
    assert (found.rows, found.explanation) == (4, None)


# --- acknowledgements


async def test_an_acknowledged_day_stays_closed_until_more_rows_are_missing(ledger: Ledger) -> None:
    await ledger.audited(MISSING, 500)
    (closed,) = await ledger.ack(note="the feed was down \0")
    assert (closed.window, closed.delta) == (DAY, -500)
    assert await ledger.open() == []
    assert await ledger.findings.open_days([TABLE]) == {}
    await ledger.audited(MISSING, 500)
    await ledger.audited(WARNING, 20)
    await ledger.audited(ERROR)
    assert await ledger.open() == []
    worse = await ledger.audited(MISSING, 501)
    assert await ledger.findings.open_windows(TABLE) == (OpenWindow(TABLE, DAY, MISSING, worse, -501),)
    await ledger.ack(note="more of it")
    assert await ledger.open() == []
    acks = await ledger.findings.acks([TABLE], 10)
    assert [(ack.note, ack.rows_missing, ack.by, ack.host, ack.day) for ack in acks] == [
        ("more of it", 501, "ann", "host1", "2026-02-17"),
        ("the feed was down \N{REPLACEMENT CHARACTER}", 500, "ann", "host1", "2026-02-17"),
    ]
    assert await ledger.findings.acks(["cold.other"], 10) == ()


async def test_an_acknowledged_day_is_open_again_when_more_of_its_rows_differ_though_the_numbers_agree(
    ledger: Ledger,
) -> None:
    keys = KeyComparison(("id",), ("price",), False, 1000, 1000, equal=False, missing=40, duplicate=40, explored=1000)
    await ledger.audited(WARNING, 0, reason=Reason.CONTENT_MISMATCH, key_comparison=keys)
    await ledger.ack()
    assert [ack.rows_missing for ack in await ledger.findings.acks([TABLE], 10)] == [80]
    await ledger.audited(WARNING, 0, key_comparison=replace(keys, missing=30, duplicate=30, changed=20))
    assert await ledger.open() == []
    since = await ledger.audited(MISSING, 0, key_comparison=replace(keys, missing=60, duplicate=60))
    assert await ledger.open() == [(DAY, MISSING, 0)]
    (finding,) = await ledger.findings.open_windows(TABLE)
    assert finding.since == since


async def test_an_acknowledgement_ends_when_the_day_is_proven_in_between(ledger: Ledger) -> None:
    await ledger.audited(MISSING, 500)
    await ledger.ack()
    await ledger.audited(OK, 0)
    await ledger.audited(MISSING, 10)
    assert await ledger.open() == [(DAY, MISSING, -10)]


async def test_an_acknowledged_error_is_open_again_when_a_count_finds_rows_missing(ledger: Ledger) -> None:
    await ledger.audited(ERROR, 900)
    await ledger.ack()
    await ledger.audited(ERROR)
    assert await ledger.open() == []
    await ledger.audited(MISSING, 1)
    assert await ledger.open() == [(DAY, MISSING, -1)]


async def test_an_acknowledgement_closes_the_windows_that_begin_on_its_day(ledger: Ledger) -> None:
    next_day = within(24, 24)
    for window in (DAY, within(4, 6), within(20, 6), next_day):
        await ledger.audited(MISSING, 50, window)
    assert [finding.window for finding in await ledger.ack()] == [DAY, within(4, 6), within(20, 6)]
    assert await ledger.open() == [(next_day, MISSING, -50)]
    # A look at other hours of that day finds some of the rows that are known to be missing.
    await ledger.audited(MISSING, 30, within(5, 3))
    assert await ledger.open() == [(next_day, MISSING, -50)]


async def test_where_nothing_is_open_nothing_is_acknowledged(ledger: Ledger) -> None:
    await ledger.audited(OK, 0)
    await ledger.audited(MISSING, 5, table="cold.b")
    assert await ledger.ack() == ()
    await ledger.audited(MISSING, 5)
    assert await ledger.ack(THE_17TH - timedelta(days=1)) == ()
    assert len(await ledger.ack()) == 1
    assert await ledger.ack() == ()
    assert ledger.sql("SELECT count(*) FROM maintenance_acks") == [(1,)]


async def test_the_audits_of_a_run_know_who_acknowledged_them(ledger: Ledger) -> None:
    run = uuid4()
    await ledger.store(replace(AUDIT, run_id=run, iceberg_table=TABLE, delta=-500, run_timestamp=SLOT))
    assert await ledger.findings.acks_of_run(run) == {}
    await ledger.audited(WARNING, 100)
    await ledger.ack(note="the rest is lost")  # of what a later audit found
    acks = await ledger.findings.acks_of_run(run)
    assert {place: ack.note for place, ack in acks.items()} == {(TABLE, AUDIT.window): "the rest is lost"}
    worse = uuid4()
    later = SLOT + 100 * HOUR
    await ledger.store(
        replace(AUDIT, run_id=worse, trigger=Trigger.MANUAL, iceberg_table=TABLE, delta=-800, run_timestamp=later)
    )
    assert await ledger.findings.acks_of_run(worse) == {}


# --- tables


async def test_a_ledger_of_the_first_revision_is_brought_up_to_date_with_its_rows(ledger: Ledger) -> None:
    await ledger.audited(MISSING, 5)
    ledger.sql(
        """
        DROP TABLE maintenance_acks, maintenance_config_loads; DROP INDEX maintenance_audit_log_windows;
        ALTER TABLE maintenance_runs DROP host, DROP in_flight_stage, DROP in_flight_table;
        ALTER TABLE maintenance_tasks DROP engine_log;
        DROP INDEX maintenance_tasks_iceberg_table;
        UPDATE icekeeper_schema_version SET version_num = '0001_ledger'
        """
    )
    with pytest.raises(PermanentError, match="icekeeper migrate") as refused:
        await ledger.open()
    assert refused.value.reason is Reason.LEDGER_DOWN
    assert (await ledger.migrate())[0] == "0002_acks"
    assert await pending(ledger.dsn, ledger.box.postgres.password) == []
    assert await ledger.open() == [(DAY, MISSING, -5)]


async def test_a_role_with_the_printed_grants_acknowledges_and_takes_nothing_back(ledger: Ledger) -> None:
    role = f"keeper_{ledger.name}"
    ledger.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    for grant in await grants(ledger.postgres, role):
        ledger.sql(grant)
    await ledger.audited(MISSING, 5)
    own = Ledger(ledger.box, ledger.name, Postgres(ledger.dsn.replace("icekeeper@", f"{role}@"), "p"))
    assert len(await own.ack()) == 1
    assert len(await own.findings.acks([TABLE], 5)) == 1
    for change in ("DELETE FROM maintenance_acks", "UPDATE maintenance_acks SET note = ''"):
        with pytest.raises(PermanentError, match="permission denied"):
            async with own.postgres.connection() as connection:
                await connection.execute(change)
    await own.postgres.close()


async def test_five_years_of_ten_tables_are_looked_up_by_their_index(ledger: Ledger) -> None:
    ledger.sql(
        """
        INSERT INTO maintenance_audit_log (run_id, run_timestamp, iceberg_table, ch_source, layer, audit_window_hours,
          window_start, window_end, ch_row_count, iceberg_row_count, delta, status, notes, ch_query, iceberg_query)
        SELECT gen_random_uuid(), day + interval '26 hours', 'cold.t' || n, 't', 'gold', 24,
          day, day + interval '1 day', 100, 90, -10,
          CASE WHEN extract(doy FROM day)::int % 30 = n THEN 'missing_data' ELSE 'ok' END, 'equal',
          repeat('c', 300), repeat('i', 300)
        FROM generate_series(timestamptz '2021-02-17 00:00Z', '2026-02-16 00:00Z', '1 day') AS day,
          generate_series(0, 9) AS n
        """
    )
    ledger.sql("ANALYZE maintenance_audit_log")
    async with ledger.postgres.connection() as connection:
        lines = await connection.fetch(f"EXPLAIN (ANALYZE) {statement('open_windows')}", ["cold.t3"], SOLE)
    explained = "\n".join(line[0] for line in lines)
    assert "maintenance_audit_log_windows" in explained
    assert "Seq Scan on maintenance_audit_log" not in explained, explained
    everything = await ledger.findings.open_days([f"cold.t{n}" for n in range(10)])
    assert len(everything) == 10
    began = datetime.now(UTC)
    await ledger.findings.open_windows("cold.t3")
    assert datetime.now(UTC) - began < timedelta(seconds=1)


# --- what an open finding holds up


async def test_an_open_day_holds_expiry_until_it_is_acknowledged_or_held_long_enough(make_night: MakeNight) -> None:
    def hold(document: dict[str, Any]) -> None:
        document["expire"] = {"hold_on": ["missing_data"], "hold_max": "7d", "older_than": "1h"}

    night = await make_night(COINBASE, GOLD, change=hold)
    findings = night.services.findings
    for hour in (3, 4, 5):
        night.world.lose_hour(COINBASE, DAY.start, hour)
    await night.run(Stage.AUDIT)
    (found,) = await findings.open_windows(COINBASE)
    assert found.status is MISSING

    report = await night.run(Stage.EXPIRE)

    held = next(task for task in report.tasks if task.table == COINBASE)
    assert (held.outcome, held.reason) == (TaskOutcome.HELD, Reason.AUDIT_HOLD)
    assert "2026-02-17 (missing_data)" in held.note
    assert outcomes(report, Stage.EXPIRE)[GOLD] is TaskOutcome.DONE
    before = len((await night.state(COINBASE)).history)

    night.travel(SLOT + timedelta(days=8))
    plans, _ = await make_plans(order(night), night.services.ports)
    assert {plan.table: plan.decision for plan in plans}[COINBASE] is Decision.ACT  # hold_max is over
    night.travel(SLOT + timedelta(hours=1))

    await findings.acknowledge(COINBASE, THE_17TH, "the exchange was down", "ann", "host1")
    report = await night.run(Stage.EXPIRE)
    assert outcomes(report, Stage.EXPIRE)[COINBASE] is TaskOutcome.DONE
    assert len((await night.state(COINBASE)).history) < before
    again = await night.run(Stage.AUDIT)  # it finds the same, and nobody is asked again
    assert {audit.status for audit in again.audits if audit.iceberg_table == COINBASE} == {MISSING}
    assert await findings.open_windows(COINBASE) == ()


def order(night: Night) -> Order:
    return make_order(night.settings, SLOT, Trigger.MANUAL, stages=(Stage.EXPIRE,))
