"""What a person reads at the end of a run and in the ledger's listings: alike is told once, nothing is left out."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rich.console import Console

from icekeeper.adapters.ledger.findings import Ack
from icekeeper.cli.output import certificates, console, listings
from icekeeper.core.audit.certificates import CertifiedDay, Uncertified
from icekeeper.core.audit.records import OpenWindow
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Stage, TaskOutcome
from icekeeper.core.plain import to_plain
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from tests.unit.reports import AUDIT, REPORT, SLOT
from tests.unit.test_certificates import CERTIFICATE, REVOKED

TABLES = [f"cold.t{n}" for n in range(10)]
DAY = Window(datetime(2026, 2, 17, tzinfo=UTC), datetime(2026, 2, 18, tzinfo=UTC))


def screen() -> Console:
    # As on a terminal, where each task has had its line already.
    return Console(record=True, width=160, file=io.StringIO(), force_terminal=True)


def task(stage: Stage, table: str, outcome: TaskOutcome, reason: Reason, note: str, error: str = "") -> StageResult:
    return StageResult(stage, table, outcome, reason, note, 1, SLOT, 0.1, None, None, error or None)


def test_a_night_that_only_observes_gives_its_advice_once_and_names_every_table() -> None:
    held = tuple(
        task(stage, table, TaskOutcome.HELD, Reason.OBSERVING, f"mode is observe; it would {stage} {n} files")
        for stage in (Stage.COMPACT, Stage.EXPIRE)
        for n, table in enumerate(TABLES)
    )
    seen = screen()
    console.show_report(seen, replace(REPORT, tasks=held, audits=()))
    shown = seen.export_text()
    assert shown.count(Reason.OBSERVING.advice) == 1
    assert f"compact {', '.join(TABLES)}: held, observing" in shown
    assert f"expire {', '.join(TABLES)}: held, observing" in shown
    for n, table in enumerate(TABLES):
        assert f"{table}  mode is observe; it would compact {n} files" in shown
    assert len(shown.splitlines()) < 30


def test_ten_failures_of_one_kind_are_shown_once() -> None:
    failed = tuple(
        task(Stage.AUDIT, table, TaskOutcome.FAILED, Reason.SOURCE_DOWN, "", "ClickHouse: no answer [Errno 111]")
        for table in TABLES
    )
    other = task(Stage.COMPACT, "cold.x", TaskOutcome.FAILED, Reason.CONFLICT, "", "somebody else was there")
    rows = tuple(
        replace(AUDIT, iceberg_table=table, status=AuditStatus.ERROR, notes="source_down: ClickHouse: no answer")
        for table in TABLES
    )
    seen = screen()
    console.show_report(seen, replace(REPORT, tasks=(other, *failed), audits=rows))
    shown = seen.export_text()
    assert shown.count("no answer") == 1
    assert shown.count(Reason.SOURCE_DOWN.advice) == 1
    assert "compact cold.x: failed, conflict" in shown
    assert "somebody else was there" in shown
    assert "[Errno 111]" in shown


def test_a_source_that_is_empty_is_named_where_iceberg_has_rows() -> None:
    empty = replace(AUDIT, status=AuditStatus.OK, reason=Reason.SOURCE_EMPTY, ch_row_count=0, notes="no row, iceberg 9")
    both = replace(empty, iceberg_table="cold.quiet", iceberg_row_count=0, notes="no row")
    seen = screen()
    console.show_report(seen, replace(REPORT, tasks=(), audits=(empty, both)))
    shown = seen.export_text()
    assert f"{AUDIT.iceberg_table}: no row, iceberg 9 (source_empty)" in shown
    assert "cold.quiet:" not in shown


def test_a_run_of_the_ledger_shows_who_acknowledged_what_it_found() -> None:
    ack = Ack("cold.t0", "2026-02-17", DAY, AuditStatus.MISSING_DATA, 100, "the feed was down", "ann", "host1", SLOT)
    row = {**to_plain(AUDIT), "ack": ack}
    run = {"run_id": REPORT.run_id, "slot": SLOT, "trigger": "schedule", "outcome": "failed", "tasks": [], "logs": []}
    seen = screen()
    listings.show_run(seen, {**run, "audits": [row]})
    shown = seen.export_text()
    assert "acknowledged 2026-02-18 02:00 by ann: the feed was down" in shown
    assert "tasks" not in shown


def test_a_run_of_the_ledger_shows_which_days_are_certified() -> None:
    run = {"run_id": REPORT.run_id, "slot": SLOT, "trigger": "schedule", "outcome": "success", "tasks": [], "logs": []}
    seen = screen()
    listings.show_run(seen, {**run, "audits": [{**to_plain(AUDIT), "certified": "keys"}]})
    assert "certified by keys" in seen.export_text()


def test_a_day_is_certified_or_why_not_and_what_to_do_in_one_line() -> None:
    day = CERTIFICATE.day
    certified = CertifiedDay(CERTIFICATE.table, day, CERTIFICATE)
    line = f"{certified.table} 2026-02-17: certified by counts since 2026-02-18 00:00 UTC, proof files, "
    assert certificates.in_words(certified) == f"{line}rows in ClickHouse 1 000, in Iceberg 1 000"
    missing = CertifiedDay(CERTIFICATE.table, day, None, Uncertified.MISSING_ROWS)
    advice = Uncertified.MISSING_ROWS.advice
    assert certificates.in_words(missing) == f"{missing.table} 2026-02-17: not certified, missing_rows: {advice}"
    revoked = CertifiedDay(CERTIFICATE.table, day, REVOKED, Uncertified.REVOKED)
    said = f"not certified, revoked 2026-02-19 00:00 UTC by run {REVOKED.revoked_by} (changed_rows): "
    assert said in certificates.in_words(revoked)


def test_days_in_a_row_that_are_alike_are_one_line() -> None:
    days = [
        CertifiedDay("cold.t", CERTIFICATE.day - number * timedelta(days=1), CERTIFICATE, why)
        for number, why in enumerate([*[None] * 5, Uncertified.REVOKED, Uncertified.REVOKED])
    ]
    seen = screen()
    certificates.show_days(seen, days)
    shown = " ".join(seen.export_text().split())
    assert "cold.t 2026-02-13 to 2026-02-17 5 by counts" in shown
    assert "cold.t 2026-02-11 to 2026-02-12 2 no: revoked" in shown
    assert shown.count(Uncertified.REVOKED.advice) == 1
    seen = screen()
    certificates.show_days(seen, [])
    assert "no day was audited" in seen.export_text()


def test_the_newest_findings_are_shown_and_the_others_counted() -> None:
    findings = [
        OpenWindow(
            "cold.t0", Window(DAY.start - n * timedelta(days=1), DAY.end - n * timedelta(days=1)), status, SLOT, -n
        )
        for n, status in enumerate([AuditStatus.MISSING_DATA, AuditStatus.WARNING, AuditStatus.MISSING_DATA])
    ]
    bad = OpenWindow("cold.t2", DAY, AuditStatus.ERROR, SLOT, reason=Reason.FILE_MISSING, bad_file_rows=1234)
    odd = OpenWindow("cold.t1", Window(DAY.start, DAY.start + timedelta(hours=6)), AuditStatus.ERROR, SLOT)
    seen = screen()
    listings.show_findings(seen, [*findings, odd], (), limit=3)
    shown = seen.export_text()
    assert "2026-02-17 00:00, 6 h" in shown
    assert "2026-02-16" in shown
    assert "2026-02-15" not in shown
    assert "1 older" in shown
    of_files = screen()
    listings.show_findings(of_files, [bad], (), limit=3)
    assert "1 234 in bad files" in of_files.export_text()
    empty = screen()
    listings.show_findings(empty, [], (), limit=3)
    assert "nothing is open" in empty.export_text()


def test_a_person_sees_what_changed_what_failed_and_what_to_do() -> None:
    screen = Console(record=True, width=140, file=io.StringIO())
    console.show_report(screen, REPORT)
    shown = screen.export_text()
    for text in (
        "960 → 1",
        "13.4 MiB → 8.58 MiB",
        "missing_data",
        "storage_down",
        Reason.STORAGE_DOWN.advice,
        "failed",
    ):
        assert text in shown
