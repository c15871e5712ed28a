"""The page of the benchmark comes from samples alone, and says what missed, failed, or was not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import plots, report
from bench.compare import Samples
from bench.record import BINPACK, CALL, COPY, DEFAULTS, FLOOR, KEY, LOST, READ_KEY, ZAMBONI
from tests.unit.samples import MACHINE, OUTPUT, SCANS, SIDES, case, rounds, sample

DAY = case("audit", "50000000")
SLOW = case(store="s3+10ms")
SAMPLES = Samples(
    [
        *rounds(
            SLOW,
            DEFAULTS,
            4,
            5,
            6,
            cpu_s=3,
            requests={"GET": 1000, "PUT": 10, "HEAD": 0},
            input_files=960,
            output=OUTPUT,
        ),
        *rounds(
            SLOW,
            CALL,
            20,
            20,
            18,
            cpu_s=7.5,
            bytes_read=20 * 2**20,
            requests={"GET": 1930},
            input_files=960,
            output=OUTPUT,
            jvm_peak_mib=900,
        ),
        *rounds(SLOW, ZAMBONI, 10, 10, 12, requests={"GET": 2880}, input_files=960),
        *rounds(SLOW, FLOOR, 2, 2, 2),
        sample(case(), CALL, 0, 1, failed=True, note="RuntimeError: the session is gone"),
        sample(DAY, READ_KEY, 2, cpu_s=3, sides=replace(SIDES, clickhouse_cpu_s=2.0)),
        sample(DAY, KEY, 12, cpu_s=21.5, bytes_read=300 * 2**20, requests={"GET": 200, "HEAD": 100}, sides=SIDES),
        sample(DAY, LOST, 0, failed=True, note="RivalFailed: the audit was ok"),
        *(
            sample(case("files"), DEFAULTS, seconds, x=x, measured_at=f"2026-02-18T0{hour}:00:00Z", others=others)
            for x, seconds, hour, others in ((100, 1.5, 3, 0.2), (1500, 22.5, 4, 0.8))
        ),
    ]
)


def test_each_rival_has_its_median_its_spread_and_its_ratio_to_ours() -> None:
    page = report.page(MACHINE, SAMPLES)
    assert "| defaults | 3 | 5.00 (4.00 to 6.00) |" in page
    assert "| call | 3 | 20.0 (18.0 to 20.0) | 4.00x |" in page
    assert "1000 GET, 10 PUT | 1.05 |" in page


def test_the_targets_say_what_was_met_missed_and_not_measured() -> None:
    lines = report.page(MACHINE, SAMPLES).splitlines()
    small = "| compaction of small files | 960 | defaults against"
    assert f"{small} call | >= 4x |  |  | 4.00x (3.00 to 5.00) met |" in lines
    assert f"{small} zamboni | >= 4x |  |  | 2.00x (2.00 to 2.50) **missed by 50%** |" in lines
    nothing = "not measured | not measured | not measured |"
    idle = "| a night with nothing to do, proof `files` on | 960 | defaults against platform | >= 200x |"
    assert f"{idle} {nothing}" in lines


def test_what_a_ratio_took_of_other_things_stands_beside_it() -> None:
    lines = report.page(MACHINE, SAMPLES).splitlines()
    assert "| compact | 960 | s3+10ms | defaults : call | 3.00 : 7.50 | 1,010 : 1,930 | 0.0 : 20.0 |" in lines
    assert not [line for line in lines if line.startswith("| expire | 960 |")], "nothing was measured"


def test_the_page_says_when_each_part_was_measured_and_what_else_the_machine_did() -> None:
    lines = report.page(MACHINE, SAMPLES).splitlines()
    assert "| files | 2026-02-18T03:00:00Z to 2026-02-18T04:00:00Z | 1 | 0.4 | 0.8 (0.2 to 0.8) |" in lines
    assert not [line for line in lines if line.startswith("| compact | 2026")], "samples of an older kind have no time"


def test_what_was_written_says_whether_rows_were_rewritten_and_how_fast_they_are_read() -> None:
    big = case(shape="big8", store="local")
    copied = replace(OUTPUT, bytes=14_700_000, row_groups=44, copied=True)
    samples = [
        *rounds(big, BINPACK, 9, output=OUTPUT, scans=SCANS),
        *rounds(big, DEFAULTS, 1, output=copied, scans=replace(SCANS, arrow_s=0.4)),
        *rounds(big, COPY, 1, output=replace(OUTPUT, row_groups=0)),
    ]
    page = report.page(MACHINE, Samples(samples))
    line = "| big8 | local | defaults | copied | 1 | 14,700,000 | 1.05x | 96,000 | 44 | 12 | 2.00 | 0.400 |"
    assert line in page.splitlines()
    assert "| big8 | local | copy | " not in page.partition("## What was written")[2]


def test_a_turn_that_failed_is_reported_with_its_reason() -> None:
    page = report.page(MACHINE, SAMPLES)
    assert "- call, compact `960` on s3, round 1: RuntimeError: the session is gone" in page
    assert "| call | failed |" in page


def test_audits_of_a_day_have_what_each_side_took() -> None:
    lines = report.page(MACHINE, SAMPLES).splitlines()
    assert "## The audit of a day of 50,000,000 rows, on s3" in lines
    key = "| key | 1 | 12.0 | 1.5 | 20.0 | 3.50 | 300 | 1,000 | 0 | 0 | 400 | 2 | 1 | 8 | 200 GET, 100 HEAD |"
    assert key in lines
    target = "| CPU of ClickHouse for a fingerprint | 50000000 | key against reading event time and key | <= 1.3x |  | "
    assert f"{target}1.75x **missed by 26%** |  |" in lines
    assert not [line for line in lines if line.startswith(f"| {KEY} | 0 ")], "audits are none of the rivals' memory"


def test_the_page_says_on_what_it_was_measured() -> None:
    page = report.page(MACHINE, SAMPLES)
    assert "On 2026-02-18 02:00 UTC, 2 cores, 4 GiB of memory." in page
    assert "Load average before the last start: 0.3. In all 58 minutes.\nSpark 4.1.4. `heap=2g`." in page
    assert "- compact, 3800, s3: 1 of 2 rounds" in page


def test_the_page_can_be_written_from_no_samples_at_all() -> None:
    assert "not measured" in report.page(MACHINE, Samples([]))


def test_tables_have_as_many_cells_in_each_line() -> None:
    width = 0
    for line in report.page(MACHINE, SAMPLES).splitlines():
        cells = line.count("|")
        assert not line.startswith("|") or width in (0, cells), line
        width = cells if line.startswith("|") else 0


def test_plots_have_a_title_a_description_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plots' library is in the extra `bench` only")
    drawn = plots.draw(SAMPLES, tmp_path / "one")
    assert [path.name for path in drawn] == ["performance-compact-960.svg", "performance-files.svg"]
    for path in drawn:
        text = path.read_text()
        ElementTree.fromstring(text)
        assert "<dc:title>" in text
        assert "s at 100" in text or "on s3+10ms defaults 5.00 s" in text
    again = plots.draw(SAMPLES, tmp_path / "two")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in drawn]


def test_the_page_shows_each_plot_with_its_numbers_in_words() -> None:
    page = report.page(MACHINE, SAMPLES)
    assert (
        "![Compaction against files, S3: defaults 1.50 s at 100, 22.50 s at 1500](images/performance-files.svg)" in page
    )
