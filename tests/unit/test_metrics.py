"""What a scrape shows of the last nights: before anything is known, from the ledger, and after a run."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from icekeeper.core.audit.certificates import CertifiedTable
from icekeeper.core.audit.records import FindingKind
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.events import RunEnded, RunStarted, TaskEnded
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import RunHistory, past_of
from icekeeper.core.runs import RunReport
from icekeeper.core.tables.rewrites import ProvenBy
from icekeeper.scheduling.pause import Pause
from icekeeper.status.gauges import DaemonState, HistorySummary
from icekeeper.status.metrics import Metrics
from tests.unit.builders import DAY, HOUR, daemon_metrics, table_policy
from tests.unit.reports import OPENING, REPORT, SLOT, TABLE, samples, task

OTHER, UNAUDITED = "cold.other", "cold.unaudited"
POLICIES = (table_policy(TABLE), table_policy(OTHER), table_policy(UNAUDITED, audit=None))
SUCCESS = replace(REPORT, outcome=RunOutcome.SUCCESS)
OPEN = {(TABLE, AuditStatus.MISSING_DATA): 2}


def shown(runs: RunHistory | None = None, **state: Any) -> Metrics:
    """The metrics of a daemon with these tables, with the ledger's runs if given."""
    metrics = daemon_metrics(
        lambda: DaemonState(policies=POLICIES, **state), lambda: [policy.name for policy in POLICIES]
    )
    if runs is not None:
        metrics.add_history(runs, {}, {}, {})
    return metrics


def test_every_enabled_table_has_its_series_before_anything_is_known() -> None:
    seen = samples(shown())
    for policy in POLICIES:
        table = policy.name
        assert seen[f'icekeeper_table_consecutive_failed_nights{{table="{table}"}}'] == 0
        assert seen[f'icekeeper_table_consecutive_held_nights{{table="{table}"}}'] == 0
        for status in ("missing_data", "error"):
            assert seen[f'icekeeper_open_findings{{status="{status}",table="{table}"}}'] == 0
        for stage in NIGHT:
            series = f'icekeeper_last_task_info{{outcome="",reason="",stage="{stage}",table="{table}"}}'
            assert seen.get(series) == (None if (stage, policy.audit) == (Stage.AUDIT, None) else 1)
            series = f'icekeeper_task_held_nights{{stage="{stage}",table="{table}"}}'
            assert seen.get(series) == (None if (stage, policy.audit) == (Stage.AUDIT, None) else 0)
        for status in AuditStatus:
            series = f'icekeeper_audit_status{{status="{status}",table="{table}"}}'
            assert seen.get(series) == (0 if policy.audit is not None else None)
    assert not [name for name in seen if name.startswith(("icekeeper_table_data_files", "icekeeper_audit_rows"))]


def test_every_reason_has_its_advice() -> None:
    seen = samples(shown())
    for reason in Reason:
        assert seen[f'icekeeper_reason_info{{advice="{reason.advice}",reason="{reason}"}}'] == 1


def test_slots_that_wait_are_shown_by_their_oldest() -> None:
    assert samples(shown())["icekeeper_oldest_open_slot_timestamp_seconds"] == 0
    seen = samples(shown(open_slots={SLOT + DAY, SLOT}, max_duration=timedelta(hours=4)))
    assert seen["icekeeper_open_slots"] == 2
    assert seen["icekeeper_oldest_open_slot_timestamp_seconds"] == SLOT.timestamp()
    assert seen["icekeeper_run_max_duration_seconds"] == 4 * 3600


def test_the_ledgers_runs_are_shown_like_runs_of_this_process_except_in_counters() -> None:
    live, seeded = shown(), shown(past_of(REPORT, night=True))
    live.observe(RunEnded(REPORT))
    live.add_history(past_of(REPORT, night=True), {}, {}, {})
    changed = {name for name, value in samples(live).items() if samples(seeded).get(name) != value}
    assert changed == {'icekeeper_runs_total{outcome="failed"}'}
    assert samples(seeded)["icekeeper_last_run_end_timestamp_seconds"] == REPORT.finished_at.timestamp()


def test_a_run_of_this_process_is_not_overwritten_by_an_older_one() -> None:
    metrics = shown()
    metrics.observe(RunEnded(REPORT))
    before = samples(metrics)
    yesterday = replace(SUCCESS, run_id=UUID(int=9), started_at=SLOT - DAY, finished_at=SLOT - DAY + HOUR, audits=())
    older = tuple(replace(task, started_at=SLOT - DAY, after=task.before) for task in REPORT.tasks)
    metrics.add_history(past_of(replace(yesterday, tasks=older), night=True), {}, {}, {})
    after = samples(metrics)
    assert after["icekeeper_last_success_timestamp_seconds"] == (SLOT - DAY + HOUR).timestamp()
    changed = {name for name, value in after.items() if before.get(name) != value}
    assert changed == {"icekeeper_last_success_timestamp_seconds"}


def test_an_operators_run_is_the_last_run_if_it_went_through_everything() -> None:
    def run_of(tables: tuple[str, ...], outcome: RunOutcome = RunOutcome.SUCCESS) -> float:
        metrics = shown()
        metrics.observe(RunStarted(replace(OPENING, trigger=Trigger.MANUAL, tables=tables)))
        metrics.observe(RunEnded(replace(SUCCESS, trigger=Trigger.MANUAL, outcome=outcome)))
        assert samples(metrics)[f'icekeeper_runs_total{{outcome="{outcome}"}}'] == 1
        return samples(metrics)["icekeeper_last_run_end_timestamp_seconds"]

    everything = tuple(policy.name for policy in POLICIES)
    assert run_of((TABLE,)) == 0
    assert run_of(everything) == REPORT.finished_at.timestamp()
    assert run_of(everything, RunOutcome.CANCELLED) == 0


def test_a_failure_stays_open_whatever_an_operator_runs_for_an_older_night() -> None:
    metrics = shown(past_of(REPORT, night=True), open_slots=set())
    older = replace(SUCCESS, run_id=UUID(int=5), trigger=Trigger.MANUAL, slot=SLOT - DAY, audits=())
    older = replace(older, started_at=SLOT + HOUR, finished_at=SLOT + 2 * HOUR)
    everything = tuple(policy.name for policy in POLICIES)
    opening = replace(OPENING, run_id=older.run_id, trigger=Trigger.MANUAL, tables=everything)
    metrics.add_history(past_of(REPORT, night=True), OPEN, {}, {})
    metrics.observe(RunStarted(opening))
    metrics.observe(RunEnded(older))
    seen = samples(metrics)
    assert seen["icekeeper_last_run_failure_open"] == seen['icekeeper_last_run_outcome{outcome="failed"}'] == 1


def test_a_slot_that_is_closed_meanwhile_ends_no_other_run() -> None:
    metrics = shown()
    metrics.observe(RunStarted(OPENING))
    missed = replace(SUCCESS, run_id=UUID(int=5), outcome=RunOutcome.MISSED, slot=SLOT - DAY, tasks=(), audits=())
    metrics.observe(RunEnded(missed))
    seen = samples(metrics)
    assert seen["icekeeper_run_in_progress"] == 1
    assert seen["icekeeper_run_in_progress_start_timestamp_seconds"] == OPENING.started_at.timestamp()
    assert seen["icekeeper_missed_nights"] == 1
    metrics.observe(RunEnded(SUCCESS))
    assert samples(metrics)["icekeeper_run_in_progress"] == 0


def test_a_run_that_does_not_say_that_it_ended_is_not_under_way_for_ever() -> None:
    metrics = shown()
    metrics.observe(RunStarted(OPENING))
    metrics.clear_run()
    seen = samples(metrics)
    assert seen["icekeeper_run_in_progress"] == seen["icekeeper_run_in_progress_start_timestamp_seconds"] == 0


def test_it_is_known_whether_the_ledger_was_read() -> None:
    assert not shown().ledger_read
    assert shown(RunHistory()).ledger_read


def test_what_waits_and_since_when_is_shown() -> None:
    nothing = samples(shown())
    pause = Pause("ann", "host1", SLOT, None, "")
    something = samples(shown(unrecorded_runs=2, pause=pause, oldest_notification=SLOT))
    for name, value in (
        ("icekeeper_unrecorded_runs", 2),
        ("icekeeper_paused_since_timestamp_seconds", SLOT.timestamp()),
        ("icekeeper_notices_oldest_timestamp_seconds", SLOT.timestamp()),
    ):
        assert (nothing[name], something[name]) == (0, value)


def test_hundreds_of_tables_are_known_in_a_moment() -> None:
    tables = [f"cold.t{number}" for number in range(400)]
    tasks = [replace(task, table=table) for table in tables for task in REPORT.tasks]
    past = RunHistory(
        tasks=tuple(
            task
            for day in range(15)
            for task in past_of(replace(SUCCESS, slot=SLOT - day * DAY, tasks=tuple(tasks)), night=True).tasks
        )
    )
    took = []
    for _ in range(3):  # the best of them: others use this machine, too
        began = time.monotonic()
        assert len(HistorySummary.of(past).failed_nights) == len(tables)
        took.append(time.monotonic() - began)
    assert min(took) < 0.3, took


def test_a_failure_is_open_until_the_ledger_has_it_and_nothing_of_it_is_open() -> None:
    def still_open() -> float:
        return samples(metrics)["icekeeper_last_run_failure_open"]

    metrics = shown()
    metrics.observe(RunEnded(REPORT))
    metrics.add_history(
        RunHistory(), {}, {}, {}
    )  # PostgreSQL has not got it yet: that nothing is open there says nothing
    assert still_open() == 1
    metrics.add_history(past_of(REPORT, night=True), OPEN, {}, {})
    assert still_open() == 1
    assert samples(metrics)[f'icekeeper_open_findings{{status="missing_data",table="{TABLE}"}}'] == 2
    metrics.add_history(past_of(REPORT, night=True), {}, {}, {})
    assert still_open() == 0
    assert samples(metrics)['icekeeper_last_run_outcome{outcome="failed"}'] == 1


def test_the_nights_that_stages_were_held_are_shown_from_the_ledger_and_go_on_from_there() -> None:
    def night(days: int, *holds: Stage) -> RunReport:
        tasks = tuple(
            replace(task(stage, TaskOutcome.HELD, Reason.DISK_LOW), started_at=SLOT + days * DAY) for stage in holds
        )
        return replace(SUCCESS, run_id=UUID(int=10 + days), slot=SLOT + days * DAY, tasks=tasks, audits=())

    metrics = shown(past_of(night(0, Stage.COMPACT, Stage.EXPIRE), night=True))
    metrics.observe(RunEnded(night(1, Stage.COMPACT)))
    seen = samples(metrics)
    assert seen[f'icekeeper_task_held_nights{{stage="compact",table="{TABLE}"}}'] == 2
    assert seen[f'icekeeper_task_held_nights{{stage="expire",table="{TABLE}"}}'] == 1
    assert seen[f'icekeeper_task_held_nights{{stage="audit",table="{TABLE}"}}'] == 0
    assert seen[f'icekeeper_task_held_nights{{stage="compact",table="{OTHER}"}}'] == 0
    assert seen[f'icekeeper_table_consecutive_held_nights{{table="{TABLE}"}}'] == 1


def test_days_of_an_empty_source_are_shown_from_the_ledger_and_go_on_from_there() -> None:
    def night(days: int) -> RunReport:
        audit = replace(
            REPORT.audits[0],
            slot=REPORT.slot + days * DAY,
            window_start=REPORT.audits[0].window_start + days * DAY,
            window_end=REPORT.audits[0].window_end + days * DAY,
            status=AuditStatus.OK,
            ch_row_count=0,
        )
        return replace(SUCCESS, run_id=UUID(int=10 + days), slot=REPORT.slot + days * DAY, audits=(audit,))

    metrics = shown(past_of(night(0), night=True))
    metrics.observe(RunEnded(night(1)))
    seen = samples(metrics)
    assert seen[f'icekeeper_source_empty_nights{{table="{TABLE}"}}'] == 2
    assert seen[f'icekeeper_source_empty_nights{{table="{OTHER}"}}'] == 0


def test_rows_of_open_findings_are_shown_by_kind() -> None:
    metrics = shown()
    metrics.add_history(past_of(REPORT, night=True), OPEN, {(TABLE, FindingKind.DUPLICATE): 40}, {})
    seen = samples(metrics)
    rows = {kind: seen[f'icekeeper_finding_rows{{kind="{kind}",table="{TABLE}"}}'] for kind in FindingKind}
    assert rows == {**dict.fromkeys(FindingKind, 0), FindingKind.DUPLICATE: 40}


def test_how_far_a_table_is_certified_is_shown_and_when_a_day_that_is_not_expires() -> None:
    metrics = shown()
    certified = {TABLE: CertifiedTable(until=REPORT.slot, expires=REPORT.slot + DAY)}
    metrics.add_history(past_of(REPORT, night=True), OPEN, {}, certified)
    seen = samples(metrics)
    names = ("icekeeper_certified_until_timestamp_seconds", "icekeeper_uncertified_expires_timestamp_seconds")
    times = [[seen[f'{name}{{table="{table}"}}'] for name in names] for table in (TABLE, OTHER)]
    assert times == [[REPORT.slot.timestamp(), (REPORT.slot + DAY).timestamp()], [0, 0]]


def test_a_table_that_is_enabled_no_longer_is_not_shown_any_more() -> None:
    policies = list(POLICIES)
    metrics = daemon_metrics(lambda: DaemonState(policies=tuple(policies)))
    metrics.observe(RunEnded(REPORT))
    metrics.add_history(past_of(REPORT, night=True), OPEN, {}, {})
    assert [name for name in samples(metrics) if TABLE in name]
    policies.pop(0)
    assert not [name for name in samples(metrics) if TABLE in name]


def test_an_audit_that_could_not_count_has_a_verdict_and_no_rows() -> None:
    later: datetime = REPORT.audits[0].run_timestamp + HOUR
    error = replace(REPORT.audits[0], status=AuditStatus.ERROR, ch_row_count=None, run_timestamp=later)
    metrics = shown()
    for report in (REPORT, replace(REPORT, run_id=UUID(int=2), audits=(error,))):
        metrics.observe(RunEnded(report))
    seen = samples(metrics)
    assert seen[f'icekeeper_audit_status{{status="error",table="{TABLE}"}}'] == 1
    assert f'icekeeper_audit_delta_rows{{table="{TABLE}"}}' not in seen


def test_every_series_without_a_table_is_there_from_the_first_scrape() -> None:
    seen = samples(daemon_metrics(lambda: DaemonState(next_slot=SLOT)))
    for outcome in RunOutcome:
        assert seen[f'icekeeper_runs_total{{outcome="{outcome}"}}'] == 0
        assert seen[f'icekeeper_last_run_outcome{{outcome="{outcome}"}}'] == 0
    assert seen["icekeeper_last_success_timestamp_seconds"] == 0
    assert seen["icekeeper_next_run_timestamp_seconds"] == SLOT.timestamp()
    assert seen['icekeeper_engine_restarts_total{why="out_of_memory"}'] == 0
    assert any(name.startswith("icekeeper_build_info{") for name in seen)


def test_rewrites_are_counted_by_how_they_were_proven() -> None:
    metrics = daemon_metrics(DaemonState)
    for how in ProvenBy:
        assert samples(metrics)[f'icekeeper_rewrites_proven_total{{how="{how}"}}'] == 0
    metrics.observe(TaskEnded(REPORT.tasks[0], proofs=(ProvenBy.METRICS, ProvenBy.METRICS, ProvenBy.CONTENT)))
    seen = samples(metrics)
    assert seen['icekeeper_rewrites_proven_total{how="metrics"}'] == 2
    assert seen['icekeeper_rewrites_proven_total{how="content"}'] == 1
    assert seen['icekeeper_rewrites_proven_total{how="unproven"}'] == 0


def test_the_gauges_are_what_the_last_report_says_and_the_counters_count() -> None:
    metrics = daemon_metrics(lambda: DaemonState(policies=(table_policy(TABLE),)))
    metrics.observe(RunStarted(OPENING))
    begun = samples(metrics)
    assert begun["icekeeper_run_in_progress"] == 1
    assert begun["icekeeper_run_in_progress_start_timestamp_seconds"] == SLOT.timestamp()
    for result in REPORT.tasks:
        metrics.observe(TaskEnded(result))
    metrics.observe(RunEnded(REPORT))
    seen = samples(metrics)
    assert seen["icekeeper_run_in_progress"] == 0
    assert seen["icekeeper_run_in_progress_start_timestamp_seconds"] == 0
    assert seen['icekeeper_runs_total{outcome="failed"}'] == 1
    expired = f'icekeeper_last_task_info{{outcome="failed",reason="storage_down",stage="expire",table="{TABLE}"}}'
    assert seen[expired] == 1
    assert seen["icekeeper_last_run_failure_open"] == 1
    assert seen['icekeeper_tasks_total{outcome="failed",reason="storage_down",stage="expire"}'] == 1
    assert seen['icekeeper_task_duration_seconds_count{stage="compact"}'] == 1
    assert seen[f'icekeeper_table_data_files{{table="{TABLE}"}}'] == 1
    assert seen[f'icekeeper_audit_rows{{side="clickhouse",table="{TABLE}"}}'] == 1000
    assert seen[f'icekeeper_audit_delta_rows{{table="{TABLE}"}}'] == -100
    assert seen[f'icekeeper_audit_status{{status="missing_data",table="{TABLE}"}}'] == 1
    assert seen["icekeeper_last_run_end_timestamp_seconds"] == REPORT.finished_at.timestamp()
    assert seen["icekeeper_last_success_timestamp_seconds"] == 0
    metrics.observe(RunEnded(replace(REPORT, outcome=RunOutcome.SUCCESS)))
    metrics.observe(RunEnded(REPORT))
    assert samples(metrics)["icekeeper_last_success_timestamp_seconds"] == REPORT.finished_at.timestamp()
