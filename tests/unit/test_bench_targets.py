"""Ratios are taken round by round, and each promise of the benchmark is judged by them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import compare
from bench.compare import Samples, Spread
from bench.record import BINPACK, CALL, DEFAULTS, FLOOR, PLATFORM, ZAMBONI, Sample, Scans
from bench.targets import Judgement, Verdict, judge
from tests.unit.samples import OUTPUT, case, rounds, sample

SLOW = case(store="s3+10ms")
SMALL = "compaction of small files"


def judged(samples: list[Sample], what: str, ours: str, theirs: str | None) -> Judgement:
    """The one judgement of such a target that was measured."""
    found = [
        each
        for each in judge(Samples(samples))
        if (each.target.what, each.target.ours, each.target.theirs) == (what, ours, theirs) and each.measured
    ]
    assert len(found) == 1
    return found[0]


def test_a_ratio_is_that_of_a_round_and_not_of_medians() -> None:
    # A busy machine made round 3 slow for both; the medians alone would say 2.5.
    ours, theirs = rounds(case(), DEFAULTS, 1, 2, 10), rounds(case(), CALL, 3, 5, 30)
    assert compare.ratios(compare.seconds_a_table, theirs, ours) == Spread(3, 2.5, 3, 3)


def test_a_round_that_one_of_the_two_lacks_has_no_ratio() -> None:
    ours, theirs = rounds(case(), DEFAULTS, 1, 1, 1), [sample(case(), CALL, 4, 2), sample(case(), CALL, 9, 4)]
    assert compare.ratios(compare.seconds_a_table, theirs, ours) == Spread(4, 4, 4, 1)
    assert compare.ratios(compare.seconds_a_table, theirs[1:], ours) is None


def test_a_turn_that_failed_has_no_part_in_a_median() -> None:
    samples = Samples([*rounds(case(), CALL, 3, 5), sample(case(), CALL, 0, 3, failed=True, note="it died")])
    assert compare.spread(each.seconds for each in samples.of(case(), CALL)) == Spread(4, 3, 5, 2)
    assert [each.note for each in samples.failures()] == ["it died"]


def test_the_median_of_an_even_number_of_rounds_lies_between_the_middle_two() -> None:
    assert compare.spread([4, 1, 2, 3]) == Spread(2.5, 1, 4, 4)
    assert compare.spread([]) is None


@pytest.mark.parametrize(("theirs", "verdict"), [(12, Verdict.MET), (12.1, Verdict.MET), (11.9, Verdict.MISSED)])
def test_so_many_times_faster_is_met_at_the_limit(theirs: float, verdict: Verdict) -> None:
    samples = [*rounds(SLOW, DEFAULTS, 3), *rounds(SLOW, ZAMBONI, theirs)]
    assert judged(samples, SMALL, DEFAULTS, ZAMBONI).verdict is verdict


def test_a_miss_says_how_much_of_the_promise_was_kept() -> None:
    judgement = judged([*rounds(SLOW, DEFAULTS, 2), *rounds(SLOW, CALL, 4)], SMALL, DEFAULTS, CALL)
    assert judgement.verdict is Verdict.MISSED
    assert judgement.by == pytest.approx(0.5)  # 2 of 4


def test_at_most_so_many_times_slower_is_judged_the_other_way_round() -> None:
    for ours, verdict in ((5.0, Verdict.MET), (5.2, Verdict.MISSED)):
        samples = [*rounds(SLOW, DEFAULTS, ours), *rounds(SLOW, FLOOR, 2)]
        assert judged(samples, SMALL, DEFAULTS, FLOOR).verdict is verdict


def test_a_rival_that_was_given_fewer_tables_is_compared_by_the_table() -> None:
    night = case("night")
    samples = [*rounds(night, DEFAULTS, 30, tables=10), *rounds(night, PLATFORM, 135, tables=3)]
    judgement = judged(samples, "a night of ten 960 tables", DEFAULTS, PLATFORM)
    assert judgement.measured == Spread(15, 15, 15, 1)
    assert judgement.verdict is Verdict.MET


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ((10, 10), Verdict.MET),
        ((9.6, 9.6), Verdict.NOISE),
        ((9.2, 9.2), Verdict.MISSED),
        ((8.4, 10), Verdict.NOISE),  # slower once, once not
        ((7, 10), Verdict.MISSED),
    ],
)
def test_never_slower_forgives_what_cannot_be_distinguished_from_equal(
    theirs: tuple[float, float], verdict: Verdict
) -> None:
    samples = [*rounds(case(), DEFAULTS, 10, 10), *rounds(case(), CALL, *theirs)]
    assert judged(samples, f"{SMALL}, never slower", DEFAULTS, CALL).verdict is verdict


@pytest.mark.parametrize(
    ("ours", "verdict"), [((2, 2), Verdict.MET), ((2.08, 2.08), Verdict.NOISE), ((2.6, 1.9), Verdict.MISSED)]
)
def test_a_scan_that_is_never_slower_is_forgiven_noise_only(ours: tuple[float, float], verdict: Verdict) -> None:
    big = case(shape="big", store="local")
    theirs = rounds(big, BINPACK, 9, 9, scans=Scans(2, 1))
    samples = [*theirs, *(sample(big, DEFAULTS, 9, n, scans=Scans(each, 1)) for n, each in enumerate(ours, 1))]
    assert judged(samples, "a scan of the day in Spark, never slower", DEFAULTS, BINPACK).verdict is verdict


def test_bytes_are_judged_where_rows_were_rewritten_and_not_where_they_were_copied() -> None:
    what = "bytes written, where rows are rewritten"
    big, binpack = case(shape="big"), OUTPUT
    larger = replace(OUTPUT, bytes=OUTPUT.bytes * 103 // 100)
    theirs = rounds(big, BINPACK, 9, output=binpack)
    rewritten = [*theirs, *rounds(big, DEFAULTS, 9, output=larger)]
    assert judged(rewritten, what, DEFAULTS, BINPACK).verdict is Verdict.MISSED
    copied = [*theirs, *rounds(big, DEFAULTS, 9, output=replace(larger, copied=True))]
    assert not [each for each in judge(Samples(copied)) if each.target.what == what and each.case == big]


def test_milliseconds_a_table_have_no_rival() -> None:
    idle = case("idle", "960 without audit")
    what = "compact and expire with nothing to do"
    assert judged(rounds(idle, DEFAULTS, 0.19, tables=10), what, DEFAULTS, None).verdict is Verdict.MET
    assert judged(rounds(idle, DEFAULTS, 0.2, tables=10), what, DEFAULTS, None).verdict is Verdict.MISSED


def test_requests_are_counted_by_the_file_and_have_to_be_fewer() -> None:
    what = "S3 requests per compacted file"
    ours = rounds(case(), DEFAULTS, 1, requests={"GET": 1900, "PUT": 20}, input_files=960)
    same = rounds(case(), ZAMBONI, 1, requests={"GET": 1920}, input_files=960)
    more = rounds(case(), ZAMBONI, 1, requests={"GET": 2880}, input_files=960)
    assert judged([*ours, *same], what, DEFAULTS, ZAMBONI).verdict is Verdict.MISSED
    assert judged([*ours, *more], what, DEFAULTS, ZAMBONI).verdict is Verdict.MET


def test_memory_is_judged_by_its_worst_round() -> None:
    samples = [
        sample(case(), DEFAULTS, 1, number, python_peak_mib=400, jvm_peak_mib=jvm)
        for number, jvm in enumerate((1000, 1100, 3800), 1)
    ]
    assert judged(samples, "memory of Python and the JVM", DEFAULTS, None).verdict is Verdict.MISSED
    assert judged(samples[:2], "memory of Python and the JVM", DEFAULTS, None).verdict is Verdict.MET


def test_what_has_no_sample_is_not_measured() -> None:
    assert {each.verdict for each in judge(Samples([]))} == {Verdict.UNKNOWN}
