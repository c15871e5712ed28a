"""The last nights as a real PostgreSQL has them: the same as those who saw them, and found by indexes alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from icekeeper.adapters.ledger.history import PostgresHistory
from icekeeper.adapters.ledger.recent import PostgresRecent
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core import enums
from icekeeper.core.audit.days import DAYS_KEPT, empty_days
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import (
    MOST_NIGHTS,
    TASKS_KEPT,
    Hold,
    RunHistory,
    failed_nights,
    failure_is_open,
    holds,
    is_night,
    partial_nights,
    past_of,
)
from icekeeper.core.runs import RunReport
from icekeeper.sandbox import Sandbox
from tests.integration.installations import MAKE_SOLE, SOLE, sole
from tests.unit.builders import DAY, HOUR
from tests.unit.reports import OPENING, REPORT, TABLE

SUCCESS = replace(REPORT, run_id=UUID(int=3), outcome=RunOutcome.SUCCESS)
NEWEST = datetime(2026, 2, 16, 2, tzinfo=UTC)
TABLES = [f"cold.t{number}" for number in range(10)]
QUICK_S = 0.1

_numbers = count(1)


@pytest.fixture
async def postgres(box: Sandbox) -> AsyncIterator[Postgres]:
    name = f"lastseen{next(_numbers)}"
    box.postgres.create_database(name)
    await migrate(box.postgres.dsn(name), box.postgres.password)
    box.postgres.execute(name, MAKE_SOLE)
    postgres = Postgres(box.postgres.dsn(name), box.postgres.password)
    yield postgres
    await postgres.close()


def later(report: RunReport, days: int, number: int, **changes: Any) -> RunReport:
    """The report as it would be so many days on."""
    by = days * DAY
    report = replace(report, **changes)
    return replace(
        report,
        run_id=UUID(int=number),
        slot=report.slot + by,
        started_at=report.started_at + by,
        finished_at=report.finished_at + by,
        tasks=tuple(replace(task, started_at=task.started_at + by) for task in report.tasks),
        audits=tuple(
            replace(
                audit,
                run_id=UUID(int=number),
                slot=audit.slot + by,
                run_timestamp=audit.run_timestamp + by,
                window_start=audit.window_start + by,
                window_end=audit.window_end + by,
            )
            for audit in report.audits
        ),
    )


def older(audit: AuditResult, days: int, *, worse: bool) -> AuditResult:
    """The audit of an earlier day that a run makes besides."""
    by = days * DAY
    return replace(audit, window_start=audit.window_start - by, window_end=audit.window_end - by, worse=worse)


def delayed(report: RunReport, hours: int) -> RunReport:
    """The report of the same slot as it would be, begun so much later."""
    by = hours * HOUR
    return replace(
        report,
        started_at=report.started_at + by,
        finished_at=report.finished_at + by,
        tasks=tuple(replace(task, started_at=task.started_at + by) for task in report.tasks),
    )


async def test_the_ledger_knows_what_who_saw_the_nights_knows(postgres: Postgres) -> None:
    looked_back = replace(REPORT, audits=(*REPORT.audits, older(REPORT.audits[0], 2, worse=False)))
    worse = replace(REPORT, audits=(replace(REPORT.audits[0], status=AuditStatus.OK), *looked_back.audits[1:]))
    worse = replace(worse, audits=(worse.audits[0], replace(worse.audits[1], worse=True)))
    reports = (
        later(REPORT, 0, 3, outcome=RunOutcome.SUCCESS),
        later(looked_back, 1, 4),
        later(worse, 2, 5, outcome=RunOutcome.PARTIAL),
    )
    seen = RunHistory()
    for report in reports:
        await PostgresLedger(postgres, sole(postgres)).close_run(report)
        seen = past_of(report, night=True).joined(seen)

    known = await PostgresRecent(postgres, sole(postgres)).past([TABLE])

    assert known.nights == seen.nights
    assert [(set(night.found), set(night.older)) for night in known.nights] == [
        (set(), {TABLE}),
        ({TABLE}, set()),
        ({TABLE}, set()),
    ]
    assert (known.success, known.audits, known.days) == (seen.success, seen.audits, seen.days)
    assert {name: past.health for name, past in known.healths.items()} == {TABLE: REPORT.tasks[1].after}
    assert set(known.tasks) == set(seen.tasks)
    assert (partial_nights(known), failed_nights(known)) == (1, {TABLE: 3})
    # Told to one who saw it, it changes nothing.
    assert seen.joined(known).nights == seen.nights


async def test_an_operators_run_answers_for_a_night_if_it_went_through_all_stages_and_tables(
    postgres: Postgres,
) -> None:
    ledger, last_seen = PostgresLedger(postgres, sole(postgres)), PostgresRecent(postgres, sole(postgres))
    manual = replace(SUCCESS, trigger=Trigger.MANUAL, audits=())
    audited = replace(manual, run_id=UUID(int=4))
    await ledger.close_run(manual, opening=replace(OPENING, run_id=manual.run_id, trigger=Trigger.MANUAL))
    stage = replace(OPENING, run_id=audited.run_id, trigger=Trigger.MANUAL, stages=(Stage.AUDIT,))
    await ledger.close_run(audited, opening=stage)
    known = await last_seen.past([TABLE])
    assert [night.run_id for night in known.nights] == [manual.run_id]
    assert known.last_success == manual.finished_at
    more = await last_seen.past([TABLE, "cold.other"])
    assert (more.nights, more.last_success) == ((), None)
    assert more.tasks


async def test_who_sees_an_operators_run_and_the_ledger_agree_on_whether_it_answers_for_a_night(
    postgres: Postgres,
) -> None:
    ledger, history = PostgresLedger(postgres, sole(postgres)), PostgresHistory(postgres, sole(postgres))
    audit = replace(REPORT.audits[0], trigger=Trigger.MANUAL)
    manual = replace(SUCCESS, trigger=Trigger.MANUAL, audits=(audit, older(audit, 1, worse=True)))
    of_hours = replace(manual, audits=(replace(audit, window_start=audit.window_end - 6 * HOUR),))
    runs = (
        REPORT,
        # The same day once more, by all that does not count.
        delayed(later(manual, 0, 11, outcome=RunOutcome.CANCELLED), 1),
        delayed(later(manual, 0, 12, outcome=RunOutcome.INTERRUPTED), 2),
        delayed(later(of_hours, 0, 13), 3),
        # An older one, repaired long after.
        later(REPORT, -3, 14),
        delayed(later(manual, -3, 15), 90),
    )
    seen = RunHistory()
    for run in runs:
        opening = replace(OPENING, run_id=run.run_id, trigger=run.trigger, slot=run.slot, started_at=run.started_at)
        await ledger.close_run(run, opening=opening)
        seen = past_of(run, night=is_night(run, opening.stages, opening.tables, [TABLE])).joined(seen)

    known = await PostgresRecent(postgres, sole(postgres)).past([TABLE])

    assert [night.run_id.int for night in known.nights] == [REPORT.run_id.int, 15, 14]
    assert (known.nights, known.success, set(known.tasks)) == (seen.nights, seen.success, set(seen.tasks))
    assert known.not_held == seen.not_held
    since = REPORT.slot - 40 * DAY
    nights = await history.nights(since, [TABLE])
    assert [(night["slot"], night["outcome"]) for night in nights] == [
        (REPORT.slot, "failed"),
        (REPORT.slot - 3 * DAY, "success"),
    ]
    last = await history.last_night(since, [TABLE])
    assert last is not None
    assert last["run_id"] == REPORT.run_id
    assert await history.nights(since, [TABLE, "cold.other"]) != nights  # the repair left that one out


async def test_the_days_of_an_empty_source_are_known_after_a_restart(postgres: Postgres) -> None:
    empty = replace(REPORT.audits[0], status=AuditStatus.OK, reason=Reason.SOURCE_EMPTY, ch_row_count=0)
    nights = [later(replace(REPORT, audits=(empty,)), day, 20 + day) for day in range(DAYS_KEPT + 2)]
    again = replace(empty, trigger=Trigger.MANUAL, run_timestamp=empty.run_timestamp + HOUR, iceberg_row_count=7)
    by_hand = later(replace(REPORT, trigger=Trigger.MANUAL, audits=(again,)), DAYS_KEPT, 50)
    seen = RunHistory()
    for report in (*nights, by_hand):
        await PostgresLedger(postgres, sole(postgres)).close_run(report)
        seen = past_of(report, night=report.trigger is not Trigger.MANUAL).joined(seen)
    known = await PostgresRecent(postgres, sole(postgres)).past([TABLE])
    assert (known.days, known.audits) == (seen.days, seen.audits)
    assert empty_days(known.days) == {TABLE: DAYS_KEPT}
    assert [audit.iceberg for _, audit in sorted(known.days.items())][-2:] == [7, REPORT.audits[0].iceberg_row_count]


NIGHT = replace(REPORT, audits=())
HELD = replace(REPORT.tasks[0], outcome=TaskOutcome.HELD, reason=Reason.OFFLOAD_RUNNING)


@pytest.mark.parametrize(
    ("runs", "held"),
    [
        ([later(NIGHT, day, 20 + day, tasks=(HELD,)) for day in range(4)], 4),
        ([later(NIGHT, 0, 20, tasks=(HELD,)), later(NIGHT, 1, 21), later(NIGHT, 2, 22, tasks=(HELD,))], 1),
        (
            [
                later(NIGHT, 0, 20, tasks=(HELD,)),
                later(NIGHT, 1, 21, tasks=(replace(HELD, outcome=TaskOutcome.FAILED),)),
                later(NIGHT, 2, 22, tasks=(HELD,)),
                delayed(later(NIGHT, 2, 23, tasks=(HELD,), trigger=Trigger.RESUME), 1),
            ],
            2,
        ),
        ([later(NIGHT, 0, 20, tasks=(replace(HELD, reason=Reason.OBSERVING),))], 0),
        # An operator's attempt on the same day takes no night's place, one that compacts the table ends the hold.
        (
            [
                later(NIGHT, 0, 20, tasks=(HELD,)),
                delayed(later(NIGHT, 0, 21, tasks=(HELD,), trigger=Trigger.MANUAL), 2),
            ],
            1,
        ),
        ([later(NIGHT, 0, 20), delayed(later(NIGHT, 0, 21, tasks=(HELD,), trigger=Trigger.MANUAL), 2)], 0),
        ([later(NIGHT, 3, 20, tasks=(HELD,)), delayed(later(NIGHT, 0, 21, trigger=Trigger.MANUAL), 99)], 0),
    ],
)
async def test_nights_on_which_a_stage_was_held_are_known_after_a_restart(
    postgres: Postgres, runs: list[RunReport], held: int
) -> None:
    seen = RunHistory()
    for report in runs:
        await PostgresLedger(postgres, sole(postgres)).close_run(report)
        seen = past_of(report, night=report.trigger is not Trigger.MANUAL).joined(seen)
    known = await PostgresRecent(postgres, sole(postgres)).past([TABLE])
    assert (set(known.tasks), known.not_held) == (set(seen.tasks), seen.not_held)
    expected = {(Stage.COMPACT, TABLE): Hold(held, Reason.OFFLOAD_RUNNING)} if held else {}
    assert holds(known) == holds(seen) == expected


async def read_within(seconds: float, postgres: Postgres) -> RunHistory:
    """Reads the past until that is as quick once: a machine that is busy with other work lets it have its time."""
    took: list[float] = []
    while not took or min(took) >= seconds:
        assert len(took) < 300, took
        began = time.monotonic()
        known = await PostgresRecent(postgres, sole(postgres)).past(TABLES)
        took.append(time.monotonic() - began)
    return known


async def test_an_hourly_schedule_is_as_long_a_past_as_any_other(postgres: Postgres) -> None:
    async with postgres.connection() as connection:
        await connection.execute(_HOURLY)
    known = await read_within(1.0, postgres)
    assert failed_nights(known) == dict.fromkeys(TABLES, 15)
    assert {task.started_at.hour for task in known.tasks} == {23}


async def test_a_failure_is_open_by_what_the_runs_of_its_slot_found(postgres: Postgres) -> None:
    ledger = PostgresLedger(postgres, sole(postgres))
    error = replace(REPORT.audits[0], iceberg_table="cold.other", status=AuditStatus.ERROR, ch_row_count=None)
    await ledger.close_run(replace(REPORT, outcome=RunOutcome.INTERRUPTED, audits=(*REPORT.audits, error)))
    counted = replace(
        error, status=AuditStatus.OK, ch_row_count=900, run_timestamp=error.run_timestamp + HOUR, run_id=UUID(int=2)
    )
    resumed = replace(
        REPORT,
        run_id=UUID(int=2),
        trigger=Trigger.RESUME,
        started_at=REPORT.started_at + HOUR,
        finished_at=REPORT.finished_at + HOUR,
        audits=(counted,),
    )
    await ledger.close_run(resumed)
    known = await PostgresRecent(postgres, sole(postgres)).past([TABLE, "cold.other"])
    ids = {night.run_id for night in known.nights}
    assert known.nights[0].run_id == resumed.run_id
    assert failure_is_open(known, ids, {TABLE})
    assert not failure_is_open(known, ids, {"cold.other"})


async def test_what_is_none_of_this_versions_words_costs_no_more_than_itself(postgres: Postgres) -> None:
    await PostgresLedger(postgres, sole(postgres)).close_run(REPORT)
    async with postgres.connection() as connection:
        await connection.execute(
            """
            UPDATE maintenance_runs SET outcome = 'splendid';
            UPDATE maintenance_tasks SET reason = 'bored' WHERE stage = 'expire';
            UPDATE maintenance_tasks SET outcome = 'shelved', stage = 'polish' WHERE stage = 'audit';
            UPDATE maintenance_tasks SET after = '{"data_files": "many"}';
            UPDATE maintenance_audit_log SET status = 'gap';
            """
        )
    known = await PostgresRecent(postgres, sole(postgres)).past([TABLE])
    assert [night.outcome for night in known.nights] == [RunOutcome.FAILED]
    assert [(task.stage, task.reason) for task in known.tasks if task.reason] == [(Stage.EXPIRE, "unexpected")]
    assert len(known.tasks) == 2
    assert (known.healths, known.audits) == ({}, {})


async def test_five_years_of_ten_tables_are_looked_up_by_their_indexes_in_a_moment(postgres: Postgres) -> None:
    async with postgres.connection() as connection:
        await connection.execute(_FIVE_YEARS)
        stages = [stage.value for stage in enums.NIGHT]
        for name, values in (
            ("last_nights", (stages, TABLES, MOST_NIGHTS, None)),
            ("last_nights", (stages, TABLES, 1, "success")),
            ("last_tasks", (TABLES, TASKS_KEPT)),
            ("nights", (stages, TABLES, NEWEST - 67 * DAY)),
            ("last_night", (stages, TABLES, NEWEST - 40 * DAY)),
            ("last_healths", (TABLES,)),
            ("last_audits", (TABLES, DAYS_KEPT)),
        ):
            lines = await connection.fetch(f"EXPLAIN (ANALYZE) {statement(name)}", *values, SOLE)
            explained = "\n".join(line[0] for line in lines)
            assert "Index Scan" in explained, explained
            assert "Seq Scan" not in explained, explained
    known = await read_within(QUICK_S, postgres)
    assert len(known.nights) == MOST_NIGHTS
    assert len(known.tasks) == len(TABLES) * len(enums.NIGHT) * TASKS_KEPT.days
    assert known.nights[0].found == {"cold.t7"}
    assert known.last_success == datetime(2026, 2, 13, 2, 10, tzinfo=UTC)
    assert set(known.healths) == set(known.audits) == set(TABLES)
    assert len(known.days) == len(TABLES) * DAYS_KEPT


_HOURLY = """
    INSERT INTO maintenance_runs (run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash)
    SELECT gen_random_uuid(), slot, 'schedule', 'partial', slot, slot + interval '10 min', 600, 'x'
    FROM generate_series(timestamptz '2026-01-01 00:00Z', '2026-02-16 23:00Z', '1 hour') AS slot;

    -- The last of each day fails.
    INSERT INTO maintenance_tasks (run_id, stage, iceberg_table, position, outcome, reason, note, attempts, started_at,
      duration_s)
    SELECT run_id, stage, 'cold.t' || t, 1, CASE WHEN at = '23:00' THEN 'failed' ELSE 'done' END,
      CASE WHEN at = '23:00' THEN 'deadline' END, '', 1, slot + interval '1 s', 1
    FROM maintenance_runs, generate_series(0, 9) AS t, unnest(ARRAY['compact', 'expire', 'audit']) AS stage,
      LATERAL (SELECT to_char(slot, 'HH24:MI') AS at) AS of_slot;

    ANALYZE maintenance_runs, maintenance_tasks;
"""

_FIVE_YEARS = """
    INSERT INTO maintenance_runs (run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash,
      stages, tables, host)
    SELECT gen_random_uuid(), slot, 'schedule', CASE WHEN slot < '2026-02-14Z' THEN 'success' ELSE 'failed' END,
      slot, slot + interval '10 min', 600, 'x', ARRAY['compact', 'expire', 'audit'],
      ARRAY(SELECT 'cold.t' || n FROM generate_series(0, 9) AS n), 'host1'
    FROM generate_series(timestamptz '2021-02-17 02:00Z', '2026-02-16 02:00Z', '1 day') AS slot;

    INSERT INTO maintenance_tasks (run_id, stage, iceberg_table, position, outcome, note, attempts, started_at,
      duration_s, before, after)
    SELECT run_id, stages[s], tables[t], 10 * s + t, 'done', repeat('n', 100), 1, slot + (10 * s + t) * interval '1 s',
      1, health, CASE WHEN s < 3 THEN health END
    FROM maintenance_runs, generate_series(1, 3) AS s, generate_series(1, 10) AS t,
      LATERAL (SELECT '{"data_files": 1, "small_files": 1, "bytes": 1, "records": 1, "delete_files": 0, "manifests": 1,
        "snapshots": 1, "snapshot_id": 8123456789012345678}'::jsonb AS health) AS of_table
    ORDER BY slot, s, t;

    INSERT INTO maintenance_audit_log (run_id, slot, trigger, run_timestamp, iceberg_table, ch_source, layer,
      audit_window_hours, window_start, window_end, ch_row_count, iceberg_row_count, delta, status, notes, ch_query,
      iceberg_query)
    SELECT run_id, slot, 'schedule', slot + interval '9 min', tables[t], 't', 'gold', 24, slot - interval '26 hours',
      slot - interval '2 hours', 100, 90, -10, CASE WHEN t = 8 THEN 'missing_data' ELSE 'ok' END, 'equal',
      repeat('c', 300), repeat('i', 300)
    FROM maintenance_runs, generate_series(1, 10) AS t
    ORDER BY slot, t;

    ANALYZE maintenance_runs, maintenance_tasks, maintenance_audit_log;
"""
