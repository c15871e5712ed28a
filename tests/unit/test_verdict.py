"""The verdict table of docs/operations.md, row by row and for all counts; and what the tasks of a run add up to."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from icekeeper.core.audit.records import KeyComparison, MissingHour, SourceTtl, Verdict
from icekeeper.core.audit.verdict import delta_percent, judge, judge_missing, judge_surplus, missing_hours
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome
from icekeeper.core.policy import AuditPolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult, outcome_of
from tests.unit.builders import DAY, HOUR, audit_policy, result

DAY_START = datetime(2026, 2, 17, tzinfo=UTC)
WINDOW = Window(DAY_START, DAY_START + timedelta(days=1))
NOW = datetime(2026, 2, 18, 2, 0, 30, tzinfo=UTC)

MILDEST_FIRST = [AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA]

counts = st.integers(min_value=0, max_value=10**15)
limits = st.decimals(min_value=0, max_value=100, places=4)
limit_pairs = st.tuples(limits, limits).map(sorted)


def judged(
    clickhouse: int,
    iceberg: int,
    policy: AuditPolicy | None = None,
    *,
    source_ttl: timedelta | None = None,
    watermark: datetime | None = None,
    newest: datetime | None = None,
) -> Verdict:
    return judge(
        clickhouse=clickhouse,
        iceberg=iceberg,
        window=WINDOW,
        now=NOW,
        policy=policy or audit_policy(),
        source_ttl=None if source_ttl is None else SourceTtl(source_ttl, source_ttl),
        watermark=watermark,
        newest=newest,
    )


# --- the table, at its edges


@pytest.mark.parametrize(
    ("limit", "clickhouse", "iceberg", "warns"),
    [
        (None, 1_000, 2_000, False),
        ("0", 1_000, 1_000, False),
        ("0", 1_000, 1_001, True),
        ("0.1", 1_000, 1_001, False),  # exactly 0.1 %
        ("0.1", 1_000, 1_002, True),
        ("0.1", 999, 1_000, True),
        ("0.1", 1_000, 999, False),
        ("100", 1_000, 2_000, False),
        ("100", 1_000, 2_001, True),
        ("0", 0, 5, False),  # there is nothing to compare with: source_empty
        ("0.1", 10**15, 10**15 + 10**12 + 1, True),
    ],
)
def test_a_surplus_is_a_warning_only_where_it_is_asked_for(
    limit: str | None, clickhouse: int, iceberg: int, warns: bool
) -> None:
    policy = surplus_policy(limit)
    before = judged(clickhouse, iceberg, policy)
    verdict = judge_surplus(before, clickhouse, iceberg, policy, merges=False, keys=None)
    assert (verdict.status, verdict.reason) == (
        (AuditStatus.WARNING, Reason.CONTENT_MISMATCH) if warns else (before.status, before.reason)
    )
    assert ("audit.surplus_pct" in verdict.note) == warns


def surplus_policy(limit: str | None) -> AuditPolicy:
    return replace(audit_policy(), surplus_pct=None if limit is None else Decimal(limit))


def test_a_surplus_is_named_though_the_offload_is_behind() -> None:
    policy = surplus_policy("0.1")
    behind = judged(1_000, 2_000, policy, watermark=DAY_START + HOUR, newest=DAY_START + 2 * HOUR)
    assert (behind.status, behind.reason) == (AuditStatus.OK, Reason.OFFLOAD_BEHIND)
    verdict = judge_surplus(behind, 1_000, 2_000, policy, merges=False, keys=None)
    assert (verdict.status, verdict.reason) == (AuditStatus.WARNING, Reason.CONTENT_MISMATCH)
    assert "the offload's watermark" in verdict.note


@pytest.mark.parametrize(("missing", "status"), [(200, AuditStatus.MISSING_DATA), (30, AuditStatus.WARNING)])
def test_rows_that_are_missing_beside_a_surplus_are_the_reason(missing: int, status: AuditStatus) -> None:
    policy = surplus_policy("0.1")
    lacking = judge_missing(judged(1_000, 1_100, policy), missing, 1_000, policy)
    verdict = judge_surplus(lacking, 1_000, 1_100, policy, merges=False, keys=None)
    assert (verdict.status, verdict.reason) == (status, None)
    assert f"it lacks {missing} of 1000 rows" in verdict.note
    assert "audit.surplus_pct" in verdict.note


def test_a_surplus_is_none_where_rows_merge_or_the_keys_are_equal() -> None:
    policy = surplus_policy("0")
    verdict = judged(1_000, 1_100, policy)
    equal = KeyComparison(("id",), (), distinct=True, clickhouse=1_000, iceberg=1_000, equal=True)
    for merges, keys in ((True, None), (False, equal), (True, equal)):
        assert judge_surplus(verdict, 1_000, 1_100, policy, merges=merges, keys=keys) == verdict
    expired = judged(1_000, 1_100, policy, source_ttl=timedelta(hours=1))
    assert judge_surplus(expired, 1_000, 1_100, policy, merges=False, keys=None) == expired


@pytest.mark.parametrize(
    ("clickhouse", "iceberg", "status"),
    [
        (1_000, 1_000, AuditStatus.OK),
        (1_000, 999, AuditStatus.OK),
        (1_000, 991, AuditStatus.OK),
        (1_000, 990, AuditStatus.OK),  # exactly -1 %
        (1_000, 989, AuditStatus.WARNING),
        (1_000, 951, AuditStatus.WARNING),
        (1_000, 950, AuditStatus.WARNING),  # exactly -5 %
        (1_000, 949, AuditStatus.MISSING_DATA),
        (1_000, 0, AuditStatus.MISSING_DATA),
        (1, 0, AuditStatus.MISSING_DATA),
        (100, 99, AuditStatus.OK),
        (99, 98, AuditStatus.WARNING),  # -1.0101 %
        (101, 100, AuditStatus.OK),  # -0.9901 %
        (20, 19, AuditStatus.WARNING),  # exactly -5 %
        (19, 18, AuditStatus.MISSING_DATA),  # -5.26 %
        # where a float no longer tells one row from none
        (10**15, 99 * 10**13, AuditStatus.OK),
        (10**15, 99 * 10**13 - 1, AuditStatus.WARNING),
        (10**15, 95 * 10**13, AuditStatus.WARNING),
        (10**15, 95 * 10**13 - 1, AuditStatus.MISSING_DATA),
        (10**18, 99 * 10**16 - 1, AuditStatus.WARNING),
        (10**18, 95 * 10**16 - 1, AuditStatus.MISSING_DATA),
    ],
)
def test_each_case_one_row_to_either_side_of_its_edge(clickhouse: int, iceberg: int, status: AuditStatus) -> None:
    verdict = judged(clickhouse, iceberg)
    assert verdict.status is status
    assert verdict.reason is None
    assert verdict.delta == iceberg - clickhouse


@pytest.mark.parametrize(
    ("iceberg", "status"),
    [
        (99_900, AuditStatus.OK),  # exactly -0.1 %
        (99_899, AuditStatus.WARNING),
        (99_500, AuditStatus.WARNING),  # exactly -0.5 %
        (99_499, AuditStatus.MISSING_DATA),
    ],
)
def test_a_table_with_limits_of_its_own_is_judged_by_those(iceberg: int, status: AuditStatus) -> None:
    assert judged(100_000, iceberg, audit_policy(warning="0.1", missing="0.5")).status is status
    assert judged(100_000, iceberg).status is AuditStatus.OK


def test_limits_of_zero_tolerate_no_missing_row() -> None:
    strict = audit_policy(warning="0", missing="0")
    assert judged(10**12, 10**12, strict).status is AuditStatus.OK
    assert judged(10**12, 10**12 - 1, strict).status is AuditStatus.MISSING_DATA


def test_more_rows_in_iceberg_are_ok_and_the_note_says_how_many() -> None:
    verdict = judged(1_000, 1_250)
    assert (verdict.status, verdict.reason, verdict.delta, verdict.delta_pct) == (
        AuditStatus.OK,
        None,
        250,
        Decimal(25),
    )
    assert "250" in verdict.note


def test_the_note_of_a_loss_says_how_many_rows_of_how_many() -> None:
    note = judged(1_000, 900).note
    assert "100" in note
    assert "1000" in note


@pytest.mark.parametrize("iceberg", [0, 1, 500])
def test_an_empty_source_is_ok_with_its_reason_and_no_percentage(iceberg: int) -> None:
    verdict = judged(0, iceberg)
    assert (verdict.status, verdict.reason) == (AuditStatus.OK, Reason.SOURCE_EMPTY)
    assert (verdict.delta, verdict.delta_pct) == (iceberg, None)


def test_the_note_of_an_empty_source_still_says_how_much_iceberg_holds() -> None:
    assert "512" in judged(0, 512).note


# --- what the source no longer has


def test_a_window_that_begins_before_what_the_ttl_keeps_is_an_error_with_both_counts_judged() -> None:
    verdict = judged(10, 1_000, source_ttl=timedelta(days=1))
    assert (verdict.status, verdict.reason) == (AuditStatus.ERROR, Reason.SOURCE_EXPIRED)
    assert (verdict.delta, verdict.delta_pct) == (990, Decimal(9_900))


def test_a_window_that_begins_exactly_where_the_ttl_does_is_not_expired() -> None:
    ttl = NOW - WINDOW.start
    assert judged(1_000, 1_000, source_ttl=ttl).status is AuditStatus.OK
    assert judged(1_000, 1_000, source_ttl=ttl - timedelta(microseconds=1)).reason is Reason.SOURCE_EXPIRED


@pytest.mark.parametrize(("clickhouse", "iceberg"), [(0, 0), (0, 10), (10, 10), (1_000, 1), (1, 1_000)])
def test_an_expired_source_is_an_error_whatever_was_counted(clickhouse: int, iceberg: int) -> None:
    verdict = judged(clickhouse, iceberg, source_ttl=timedelta(hours=1), watermark=WINDOW.start)
    assert (verdict.status, verdict.reason) == (AuditStatus.ERROR, Reason.SOURCE_EXPIRED)


@pytest.mark.parametrize(
    ("ttl", "words"),
    [
        (SourceTtl(DAY, DAY), "(24 h)"),
        (SourceTtl(DAY, DAY, "ingestion_timestamp"), "(24 h after ingestion_timestamp)"),
        (SourceTtl(DAY, 2 * DAY, "ts", every_row=False), "(24 h after ts, for some of the rows)"),
    ],
)
def test_the_note_of_an_expired_source_says_what_its_ttl_is(ttl: SourceTtl, words: str) -> None:
    verdict = judge(
        clickhouse=5, iceberg=5, window=WINDOW, now=WINDOW.start + DAY + HOUR, policy=audit_policy(), source_ttl=ttl
    )
    assert verdict.reason is Reason.SOURCE_EXPIRED
    assert f"the window begins before 2026-02-17T01:00:00Z, what the source's TTL keeps {words}" in verdict.note


def test_a_source_without_a_ttl_never_expires() -> None:
    assert judged(1_000, 1_000, source_ttl=None).status is AuditStatus.OK


# --- how far the offload has come

MICRO = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("clickhouse", "iceberg", "status"),
    [(1_000, 1_000, AuditStatus.OK), (1_000, 970, AuditStatus.WARNING), (1_000, 1, AuditStatus.MISSING_DATA)],
)
def test_a_watermark_before_the_newest_row_adds_its_reason_and_leaves_the_status(
    clickhouse: int, iceberg: int, status: AuditStatus
) -> None:
    verdict = judged(clickhouse, iceberg, watermark=WINDOW.end - 2 * MICRO, newest=WINDOW.end - MICRO)
    assert (verdict.status, verdict.reason) == (status, Reason.OFFLOAD_BEHIND)
    assert "watermark" in verdict.note
    assert "still to be offloaded" in verdict.note


@pytest.mark.parametrize("late", [timedelta(0), timedelta(hours=2)])
def test_a_watermark_at_or_after_the_windows_end_adds_nothing(late: timedelta) -> None:
    assert judged(1_000, 1_000, watermark=WINDOW.end + late) == judged(1_000, 1_000)


@pytest.mark.parametrize(
    ("watermark", "newest", "behind"),
    [
        # candles of a day: the window's only one starts with it
        (WINDOW.start, WINDOW.start, False),
        (WINDOW.start - DAY, WINDOW.start, True),
        (WINDOW.start - MICRO, WINDOW.start, True),
        # candles of an hour
        (WINDOW.end - HOUR, WINDOW.end - HOUR, False),
        (WINDOW.end - 2 * HOUR, WINDOW.end - HOUR, True),
        # the offload is past the last row of a day that ended early
        (WINDOW.start + 13 * HOUR, WINDOW.start + 12 * HOUR, False),
        (WINDOW.start + 12 * HOUR, WINDOW.start + 12 * HOUR + MICRO, True),
        # no row of the window waits where there is none
        (WINDOW.start - DAY, None, False),
    ],
)
@pytest.mark.parametrize(("clickhouse", "iceberg"), [(1_000, 1_000), (1_000, 0), (1_000, 2_000)])
def test_the_offload_is_behind_where_rows_of_the_window_wait_for_it(
    watermark: datetime, newest: datetime | None, behind: bool, clickhouse: int, iceberg: int
) -> None:
    verdict = judged(clickhouse, iceberg, watermark=watermark, newest=newest)
    assert verdict.reason is (Reason.OFFLOAD_BEHIND if behind else None)
    assert verdict.status is judged(clickhouse, iceberg).status


def test_an_empty_source_under_an_offload_that_is_behind_is_reported_as_both() -> None:
    """A row that came after the count."""
    note = judged(0, 0, watermark=WINDOW.start, newest=WINDOW.start + HOUR).note
    assert "no row" in note
    assert "watermark" in note


# --- for all counts


@pytest.mark.parametrize(("clickhouse", "iceberg"), [(-1, 0), (0, -1), (-5, -5)])
def test_a_negative_count_is_refused(clickhouse: int, iceberg: int) -> None:
    with pytest.raises(ValueError, match="never negative"):
        judged(clickhouse, iceberg)


def by_whole_numbers(clickhouse: int, iceberg: int, warning: Decimal, missing: Decimal) -> AuditStatus:
    """The table once more, on nothing but integers: limits in ten-thousandths of a percent."""
    lacking = (clickhouse - iceberg) * 100 * 10_000
    if lacking > int(missing * 10_000) * clickhouse and iceberg < clickhouse:
        return AuditStatus.MISSING_DATA
    if lacking > int(warning * 10_000) * clickhouse and iceberg < clickhouse:
        return AuditStatus.WARNING
    return AuditStatus.OK


@given(clickhouse=counts, iceberg=counts, pair=limit_pairs)
@example(clickhouse=0, iceberg=0, pair=[Decimal(0), Decimal(0)])
def test_the_verdict_agrees_with_whole_numbers_for_any_counts(
    clickhouse: int, iceberg: int, pair: list[Decimal]
) -> None:
    warning, missing = pair
    verdict = judged(clickhouse, iceberg, audit_policy(str(warning), str(missing)))
    assert verdict.status is by_whole_numbers(clickhouse, iceberg, warning, missing)


@given(clickhouse=st.integers(1, 10**15), pair=limit_pairs, upper=st.booleans(), off=st.integers(-2, 2))
def test_the_verdict_agrees_with_whole_numbers_within_two_rows_of_a_limit(
    clickhouse: int, pair: list[Decimal], upper: bool, off: int
) -> None:
    warning, missing = pair
    lacking = int(pair[upper] * 10_000) * clickhouse // 1_000_000 + off
    assume(0 <= lacking <= clickhouse)
    verdict = judged(clickhouse, clickhouse - lacking, audit_policy(str(warning), str(missing)))
    assert verdict.status is by_whole_numbers(clickhouse, clickhouse - lacking, warning, missing)


@given(clickhouse=counts, fewer=counts, more=counts, pair=limit_pairs)
def test_fewer_rows_in_iceberg_are_never_judged_milder(
    clickhouse: int, fewer: int, more: int, pair: list[Decimal]
) -> None:
    fewer, more = sorted((fewer, more))
    policy = audit_policy(str(pair[0]), str(pair[1]))
    harsh, mild = judged(clickhouse, fewer, policy).status, judged(clickhouse, more, policy).status
    assert MILDEST_FIRST.index(harsh) >= MILDEST_FIRST.index(mild)


@given(clickhouse=counts, iceberg=counts, factor=st.integers(2, 1_000))
def test_the_verdict_depends_on_the_share_of_missing_rows_alone(clickhouse: int, iceberg: int, factor: int) -> None:
    assert judged(clickhouse, iceberg).status is judged(clickhouse * factor, iceberg * factor).status


@given(clickhouse=counts, iceberg=counts)
def test_delta_and_percentage_have_the_sign_of_what_was_found(clickhouse: int, iceberg: int) -> None:
    verdict = judged(clickhouse, iceberg)
    assert verdict.delta == iceberg - clickhouse
    if clickhouse == 0:
        assert verdict.delta_pct is None
        return
    assert verdict.delta_pct is not None
    assert verdict.delta_pct * verdict.delta >= 0
    assert (verdict.delta_pct == 0) or (verdict.delta != 0)
    assert not (verdict.delta_pct.is_zero() and verdict.delta_pct.is_signed()), "-0 is no percentage"


# --- the percentage


@pytest.mark.parametrize(
    ("delta", "clickhouse", "expected"),
    [
        (0, 7, "0"),
        (-1, 3, "-33.3333"),
        (-2, 3, "-66.6667"),
        (2, 3, "66.6667"),
        (-1, 100, "-1"),
        (1, 1_000_000, "0.0001"),
        (-1, 10_000_000, "0"),
        (10**15, 1, "100000000000000000"),
        (-(10**15), 10**15, "-100"),
    ],
)
def test_the_percentage_is_rounded_to_four_places(delta: int, clickhouse: int, expected: str) -> None:
    assert delta_percent(delta, clickhouse) == Decimal(expected)


def test_there_is_no_percentage_of_nothing() -> None:
    assert delta_percent(0, 0) is None
    assert delta_percent(5, 0) is None


@given(delta=st.integers(-(10**15), 10**15), clickhouse=st.integers(1, 10**15))
def test_the_percentage_is_within_half_of_its_last_place(delta: int, clickhouse: int) -> None:
    rounded = delta_percent(delta, clickhouse)
    assert rounded is not None
    ten_thousandths = int(rounded * 10_000)
    assert Decimal(ten_thousandths) / 10_000 == rounded
    assert 2 * abs(ten_thousandths * clickhouse - 1_000_000 * delta) <= clickhouse


def test_the_percentage_is_rounded_and_the_verdict_is_not() -> None:
    verdict = judged(10**9, 99 * 10**7 - 1)
    assert verdict.delta_pct == Decimal(-1)
    assert verdict.status is AuditStatus.WARNING


# --- the hours that lack rows


def hours_of(*rows: int) -> dict[datetime, int]:
    return {DAY_START + number * HOUR: count for number, count in enumerate(rows) if count}


def test_the_hours_that_lack_rows_come_in_order_and_with_both_counts() -> None:
    clickhouse = dict(reversed(hours_of(10, 20, 30, 40).items()))
    iceberg = hours_of(10, 19, 31, 0)
    assert missing_hours(clickhouse, iceberg) == (
        MissingHour(DAY_START + 1 * HOUR, clickhouse=20, iceberg=19),
        MissingHour(DAY_START + 3 * HOUR, clickhouse=40, iceberg=0),
    )


def test_an_hour_that_only_iceberg_has_lacks_nothing() -> None:
    assert missing_hours({}, hours_of(5, 5)) == ()
    assert missing_hours(hours_of(5), hours_of(5, 5)) == ()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=24))
def test_the_hours_that_lack_rows_account_for_at_least_the_whole_loss(pairs: list[tuple[int, int]]) -> None:
    clickhouse, iceberg = hours_of(*(a for a, _ in pairs)), hours_of(*(b for _, b in pairs))
    lacking = sum(hour.clickhouse - hour.iceberg for hour in missing_hours(clickhouse, iceberg))
    assert lacking == sum(max(0, a - b) for a, b in pairs)
    assert lacking >= sum(a for a, _ in pairs) - sum(b for _, b in pairs)


# --- what a run adds up to

DONE, SKIPPED, HELD, FAILED = TaskOutcome.DONE, TaskOutcome.SKIPPED, TaskOutcome.HELD, TaskOutcome.FAILED
MAINTENANCE = (Stage.COMPACT, Stage.EXPIRE)


def night(*maintenance: TaskOutcome, audits: tuple[TaskOutcome, ...] = (DONE,)) -> list[StageResult]:
    return [result(outcome) for outcome in maintenance] + [result(outcome, Stage.AUDIT) for outcome in audits]


def test_all_done_and_a_clean_audit_are_a_success() -> None:
    assert outcome_of(night(DONE, DONE), [AuditStatus.OK]) is RunOutcome.SUCCESS


@pytest.mark.parametrize("stage", MAINTENANCE)
def test_a_failed_compaction_or_expiry_under_a_clean_audit_is_partial(stage: Stage) -> None:
    tasks = [result(FAILED, stage), result(DONE, Stage.AUDIT)]
    assert outcome_of(tasks, [AuditStatus.OK]) is RunOutcome.PARTIAL
    assert outcome_of(tasks, [AuditStatus.WARNING]) is RunOutcome.PARTIAL


def test_every_compaction_failed_is_still_partial_if_the_audit_is_clean() -> None:
    assert outcome_of(night(FAILED, FAILED, FAILED), [AuditStatus.OK]) is RunOutcome.PARTIAL


@pytest.mark.parametrize("status", [AuditStatus.MISSING_DATA, AuditStatus.ERROR])
@pytest.mark.parametrize("maintenance", [DONE, FAILED])
def test_missing_data_or_an_audit_that_could_not_count_fails_the_run(
    status: AuditStatus, maintenance: TaskOutcome
) -> None:
    assert outcome_of(night(maintenance, audits=(DONE, DONE)), [AuditStatus.OK, status]) is RunOutcome.FAILED


def test_a_warning_does_not_lower_the_outcome() -> None:
    assert outcome_of(night(DONE), [AuditStatus.WARNING]) is RunOutcome.SUCCESS


def test_a_failed_audit_fails_the_run_even_if_its_row_is_not_there() -> None:
    assert outcome_of(night(DONE, audits=(DONE, FAILED)), [AuditStatus.OK]) is RunOutcome.FAILED


@pytest.mark.parametrize("outcomes", list(itertools.product([SKIPPED, HELD, DONE], repeat=2)))
def test_skipped_and_held_never_lower_an_outcome(outcomes: tuple[TaskOutcome, ...]) -> None:
    assert outcome_of(night(*outcomes), [AuditStatus.OK]) is RunOutcome.SUCCESS
    assert outcome_of(night(*outcomes, audits=()), []) is RunOutcome.SUCCESS


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((), RunOutcome.SUCCESS),
        ((DONE, DONE), RunOutcome.SUCCESS),
        ((FAILED,), RunOutcome.FAILED),
        ((FAILED, FAILED), RunOutcome.FAILED),
        ((FAILED, DONE), RunOutcome.PARTIAL),
        ((FAILED, SKIPPED), RunOutcome.PARTIAL),
        ((FAILED, HELD), RunOutcome.PARTIAL),
    ],
)
def test_without_an_audit_stage_a_run_fails_only_if_every_task_did(
    outcomes: tuple[TaskOutcome, ...], expected: RunOutcome
) -> None:
    assert outcome_of(night(*outcomes, audits=()), []) is expected


any_tasks = st.lists(st.builds(result, st.sampled_from(TaskOutcome), st.sampled_from(Stage)), max_size=6)
any_audits = st.lists(st.sampled_from(AuditStatus), max_size=4)


@given(tasks=any_tasks, audits=any_audits, outcome=st.sampled_from([SKIPPED, HELD]), stage=st.sampled_from(MAINTENANCE))
def test_one_more_task_skipped_or_held_never_makes_a_run_worse(
    tasks: list[StageResult], audits: list[AuditStatus], outcome: TaskOutcome, stage: Stage
) -> None:
    order = [RunOutcome.SUCCESS, RunOutcome.PARTIAL, RunOutcome.FAILED]
    more = [*tasks, result(outcome, stage)]
    assert order.index(outcome_of(more, audits)) <= order.index(outcome_of(tasks, audits))


@given(tasks=any_tasks, audits=any_audits, data=st.data())
def test_the_outcome_does_not_depend_on_the_order_of_the_tasks(
    tasks: list[StageResult], audits: list[AuditStatus], data: st.DataObject
) -> None:
    assert outcome_of(data.draw(st.permutations(tasks)), reversed(audits)) is outcome_of(tasks, audits)
