"""Which ends of nights are told, and what the messages say: by examples."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from icekeeper.core.audit.days import SOURCE_IS_EMPTY
from icekeeper.core.audit.records import AuditResult, Explanation, Finding, FindingKind
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.history import PastRun
from icekeeper.core.notifications import (
    LONGEST_BODY,
    KnownSlot,
    Notification,
    Occasion,
    PastSlot,
    answered_by_later,
    bad_nights,
    closed_before,
    failure,
    held,
    missed,
    occasion_of,
    recovery,
    source_empty,
    with_others,
)
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import Hold
from icekeeper.core.runs import StageResult
from tests.unit.builders import DAY, HOUR, SLOT, WINDOW_START, result

PAGE = "https://icekeeper.example.com"
RUN = UUID("3f9c2a10-0000-4000-8000-000000000001")
S, P, F, M, C = (
    RunOutcome.SUCCESS,
    RunOutcome.PARTIAL,
    RunOutcome.FAILED,
    RunOutcome.MISSED,
    RunOutcome.CANCELLED,
)


def nights(*outcomes: RunOutcome) -> list[PastSlot]:
    """Closed slots before SLOT, the newest first."""
    return [PastSlot(SLOT - number * DAY, outcome) for number, outcome in enumerate(outcomes, start=1)]


def audit(table: str = "cold.silver_trades", status: AuditStatus = AuditStatus.MISSING_DATA) -> AuditResult:
    start = WINDOW_START + 3 * HOUR
    lost = Finding(FindingKind.MISSING, start, start + 2 * HOUR, 16_500, explanation=Explanation.BEHIND_WATERMARK)
    return AuditResult(
        run_id=RUN,
        slot=SLOT,
        trigger=Trigger.SCHEDULE,
        run_timestamp=SLOT,
        iceberg_table=table,
        ch_source="silver_trades",
        layer="silver",
        audit_window_hours=24,
        window_start=WINDOW_START,
        window_end=WINDOW_START + DAY,
        ch_row_count=144_000,
        iceberg_row_count=127_500,
        delta=-16_500,
        delta_pct=Decimal("-11.4583"),
        status=status,
        reason=Reason.OFFLOAD_BEHIND,
        notes="the offload's watermark lies before the window's end",
        findings=(lost,) if status is AuditStatus.MISSING_DATA else (),
    )


def failed(stage: Stage = Stage.COMPACT, table: str = "cold.a", error: str = "lost") -> StageResult:
    task = result(TaskOutcome.FAILED, stage, table, Reason.STORAGE_DOWN)
    return replace(task, attempts=2, error=error)


def run(outcome: RunOutcome = F, tasks: tuple[StageResult, ...] = (), audits: tuple[AuditResult, ...] = ()) -> PastRun:
    return PastRun(RUN, SLOT, Trigger.SCHEDULE, SLOT, outcome, host="ice1", tasks=tasks, audits=audits)


@pytest.mark.parametrize(
    ("trigger", "outcome", "earlier", "expected"),
    [
        (Trigger.SCHEDULE, F, [], Occasion.FAILED),
        (Trigger.RESUME, P, [], Occasion.PARTIAL),
        (Trigger.CATCH_UP, M, [], Occasion.FAILED),
        (Trigger.SCHEDULE, F, [F, F], Occasion.FAILED),
        (Trigger.SCHEDULE, S, [], None),
        (Trigger.SCHEDULE, S, [S, F], None),
        (Trigger.SCHEDULE, S, [F], Occasion.RECOVERED),
        (Trigger.SCHEDULE, S, [M, S], Occasion.RECOVERED),
        (Trigger.SCHEDULE, S, [C, P], Occasion.RECOVERED),
        (Trigger.SCHEDULE, S, [C, S, P], None),
        (Trigger.SCHEDULE, RunOutcome.INTERRUPTED, [F], None),
        (Trigger.SCHEDULE, C, [F], None),
        (Trigger.MANUAL, F, [], None),
        (Trigger.MANUAL, S, [F], None),
    ],
)
def test_which_ends_are_notified(
    trigger: Trigger, outcome: RunOutcome, earlier: list[RunOutcome], expected: Occasion | None
) -> None:
    assert occasion_of(trigger, outcome, nights(*earlier)) is expected


@pytest.mark.parametrize(
    ("outcomes", "answered"),
    [
        ([M, M, None], 2),  # the last one of the day is about to run
        ([M, M, S], 2),
        ([M, M, F], 2),  # told for what it is
        ([M, S, M], 1),
        ([M, M, M], 0),
        ([S, M], 0),
        ([F, None], 0),
    ],
)
def test_a_missed_slot_is_no_loss_where_a_later_one_of_its_day_answers(
    outcomes: list[RunOutcome | None], answered: int
) -> None:
    slots = [KnownSlot(SLOT + number * HOUR, outcome) for number, outcome in enumerate(outcomes)]
    next_day = KnownSlot(SLOT + DAY, S)
    assert answered_by_later([next_day, *slots]) == {known.slot for known in slots[:answered]}
    past = closed_before(SLOT + DAY, [next_day, *slots])
    assert [one.slot for one in past] == [one.slot for one in slots[answered:] if one.outcome is not None][::-1]


def test_a_night_that_failed_says_table_window_counts_hours_reason_advice_and_where_to_look() -> None:
    bad = run(tasks=(failed(),), audits=(audit(), audit("cold.fine", AuditStatus.OK)))
    notice = failure(bad, [bad], Occasion.FAILED, PAGE)
    assert notice.title == "icekeeper: failed, slot 2026-02-18 02:00 UTC"
    assert notice.body == (
        f"{PAGE}/runs/{RUN}\n"
        "2026-02-18 02:00 UTC, schedule run on ice1\n"
        "\n"
        "audit cold.silver_trades: missing_data (offload_behind)\n"
        "  [2026-02-17T00:00Z, 2026-02-18T00:00Z): "
        "ClickHouse 144,000 rows, Iceberg 127,500 rows; delta -16,500 (-11.46 %)\n"
        "  found: missing 02-17 03:00-05:00: 16500 rows (behind_watermark)\n"
        f"  {Explanation.BEHIND_WATERMARK.advice}\n"
        f"  {Reason.OFFLOAD_BEHIND.advice}\n"
        "\n"
        "compact cold.a: failed (storage_down) after 2 attempts\n"
        "  lost\n"
        f"  {Reason.STORAGE_DOWN.advice}"
    )


def test_what_was_found_is_told_with_what_explains_it_and_what_to_do() -> None:
    cycle = timedelta(minutes=15)
    lost = Finding(
        FindingKind.MISSING, WINDOW_START, WINDOW_START + cycle, 450, 450, 0, Explanation.CYCLE_LOST, "", (("BTC",),)
    )
    late = replace(lost, start=WINDOW_START + HOUR, rows=3, explanation=Explanation.BEHIND_WATERMARK, sample_keys=())
    bad = run(audits=(replace(audit(), findings=(lost, late, replace(late, rows=2))),))
    body = failure(bad, [bad], Occasion.FAILED, PAGE).body
    assert "  found: missing 02-17 00:00-00:15: 450 of 450 rows (cycle_lost), such as BTC, missing 02-17 01:00-" in body
    assert body.count(Explanation.CYCLE_LOST.advice) == body.count(Explanation.BEHIND_WATERMARK.advice) == 1


def test_a_side_that_was_not_counted_is_no_zero() -> None:
    error = replace(audit(status=AuditStatus.ERROR), ch_row_count=None, delta=None, delta_pct=None, notes="refused")
    bad = run(tasks=(failed(Stage.AUDIT, "cold.silver_trades"),), audits=(error,))
    body = failure(bad, [bad], Occasion.FAILED, PAGE).body
    assert "ClickHouse not counted, Iceberg 127,500 rows\n  refused\n" in body
    assert body.count("cold.silver_trades") == 1, "its task has nothing to add"


def test_of_a_slot_that_was_resumed_the_latest_of_each_task_counts() -> None:
    stopped = replace(failed(table="cold.b"), reason=Reason.CANCELLED)
    first = replace(run(RunOutcome.INTERRUPTED, (failed(table="cold.a"), failed(table="cold.c"), stopped)))
    last = run(P, (result(TaskOutcome.DONE, table="cold.a"),))
    body = failure(last, [first, last], Occasion.PARTIAL, PAGE).body
    assert "cold.c" in body
    assert "cold.a" not in body
    assert "cold.b" not in body


def test_it_stays_short_and_begins_with_the_link_however_much_failed() -> None:
    many = run(tasks=tuple(failed(table=f"cold.t{n}", error="x" * 5000) for n in range(99)))
    body = failure(many, [many], Occasion.FAILED, PAGE).body
    assert len(body) < LONGEST_BODY + 100
    assert body.startswith(f"{PAGE}/runs/{RUN}\n")
    assert body.endswith("more: see the run")
    holes = run(audits=(replace(audit(), findings=audit().findings * 50),))
    assert "and 47 more" in failure(holes, [holes], Occasion.FAILED, PAGE).body


def test_no_secret_of_an_error_gets_into_it() -> None:
    leaky = run(tasks=(failed(error="postgresql://me:geheim@pg/i refused, s3.secret-access-key=geheim"),))
    assert "geheim" not in failure(leaky, [leaky], Occasion.FAILED, PAGE).body


def test_slots_that_were_missed_are_one_message() -> None:
    lost = [replace(run(M), slot=SLOT - number * DAY) for number in (2, 1, 0)]
    notice = missed(lost, PAGE)
    assert notice.title == "icekeeper: missed, 3 slots, the last 2026-02-18 02:00 UTC"
    assert "  2026-02-16 02:00 UTC\n  2026-02-17 02:00 UTC\n  2026-02-18 02:00 UTC\n" in notice.body
    assert missed(lost[-1:], PAGE).title == "icekeeper: missed, slot 2026-02-18 02:00 UTC"


def test_a_recovery_says_since_when_and_what_it_was() -> None:
    bad = bad_nights(nights(F, C, P, S, F))
    assert [past.outcome for past in bad] == [P, F]
    last_bad = replace(run(audits=(audit(),)), slot=SLOT - DAY)
    notice = recovery(run(S), bad, [last_bad], PAGE)
    assert notice.title == "icekeeper: recovered, slot 2026-02-18 02:00 UTC"
    assert notice.body == (
        f"{PAGE}/runs/{RUN}\n"
        "\n"
        "Before it, 2 nights since 2026-02-15 02:00 UTC:\n"
        "  partial, slot 2026-02-15 02:00 UTC\n"
        "  failed, slot 2026-02-17 02:00 UTC\n"
        "\n"
        "What the last of them had (2026-02-17 02:00 UTC):\n"
        "  audit cold.silver_trades: missing_data (offload_behind)\n"
        "\n"
        "A good night brings no rows back: `icekeeper ack` lists the days that are still open."
    )


def test_what_is_held_says_stage_table_nights_reason_and_advice_in_order() -> None:
    stages = {
        (Stage.EXPIRE, "cold.a"): Hold(3, Reason.AUDIT_HOLD),
        (Stage.COMPACT, "cold.b"): Hold(3, Reason.OFFLOAD_RUNNING),
    }
    notice = held(RUN, SLOT, stages, PAGE)
    parts = (
        "compact cold.b: held 3 nights in a row (offload_running)\n"
        f"  {Reason.OFFLOAD_RUNNING.advice}\n"
        "\n"
        "expire cold.a: held 3 nights in a row (audit_hold)\n"
        f"  {Reason.AUDIT_HOLD.advice}"
    )
    assert (notice.title, notice.occasion) == (
        "icekeeper: held 3 nights in a row, slot 2026-02-18 02:00 UTC",
        Occasion.HELD,
    )
    assert notice.body == f"{PAGE}/runs/{RUN}\n\n{parts}"
    bad = run(tasks=(failed(),))
    partial = failure(bad, [bad], Occasion.PARTIAL, PAGE)
    both = with_others(partial, [notice])
    assert both == replace(partial, body=f"{partial.body}\n\n{parts}")
    many = {(Stage.COMPACT, f"cold.t{number}"): Hold(3, Reason.BUDGET) for number in range(99)}
    assert len(with_others(partial, [held(RUN, SLOT, many, PAGE)]).body) < LONGEST_BODY + 100


def test_what_source_is_empty_says_table_days_and_what_to_do() -> None:
    notice = source_empty(RUN, SLOT, {"cold.b": 3, "cold.a": 4}, PAGE)
    assert notice == Notification(
        RUN,
        Occasion.SOURCE_EMPTY,
        "icekeeper: source empty 3 days in a row, slot 2026-02-18 02:00 UTC",
        f"{PAGE}/runs/{RUN}\n\n"
        "audit cold.a: source empty 4 days in a row, Iceberg not\n"
        "audit cold.b: source empty 3 days in a row, Iceberg not\n"
        f"  {SOURCE_IS_EMPTY}",
    )
    stages = {(Stage.COMPACT, "cold.b"): Hold(3, Reason.BUDGET)}
    others = [held(RUN, SLOT, stages, PAGE), notice]
    both = with_others(failure(run(tasks=(failed(),)), [], Occasion.PARTIAL, PAGE), others)
    assert [part.partition(":")[0] for part in both.body.split("\n\n")][-2:] == ["compact cold.b", "audit cold.a"]


def test_a_run_that_never_came_to_its_end_is_notified_though_nothing_is_known_to_have_failed() -> None:
    given_up = run(F)
    assert "never came to its end" in failure(given_up, [given_up], Occasion.FAILED, PAGE).body


def test_a_long_row_of_bad_nights_is_cut() -> None:
    row = bad_nights(nights(*[F] * 30))
    assert row[0].slot == SLOT - timedelta(days=30)
    assert "and 20 more" in recovery(run(S), row, [], PAGE).body
