"""A few runs of the chaos campaign, so that it is known to work and to find what is wrong; `make chaos` plays many."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.judge import Violation, Wrong
from tests.chaos.plan import NAMES, derive
from tests.chaos.report import page
from tests.chaos.result import Result, read
from tests.process.program import environment

_ROOT = Path(__file__).parents[2]


def campaign(out: Path, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.chaos", "--out", str(out), *arguments]
    return subprocess.run(
        command, cwd=_ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def test_a_seed_is_a_plan_and_the_kinds_come_in_turn() -> None:
    assert derive(7) == derive(7)
    assert derive(7) != derive(7 + len(NAMES))
    assert {derive(seed).name for seed in range(len(NAMES))} == set(NAMES)


def test_the_report_counts_what_went_wrong_and_says_what_nothing_wrong_proves() -> None:
    well = Result(
        seed=1, name="daemon killed", plan="", struck=True, outcome="success", closed_s=20.0, starts=2, duration_s=40.0,
        happened=("3.0 s: SIGKILL to the daemon",), violations=(),
    )  # fmt: skip
    wrong = Violation(Wrong.ROWS_LOST, "cold.x: 7 rows", 7)
    badly = replace(well, seed=2, name="S3 away", closed_s=None, violations=(wrong, Violation(Wrong.STUCK, "open")))
    assert Result.from_json(badly.to_json()) == badly

    assert "| daemon killed | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 20 s |" in page([well], {})
    assert "fewer than 1.0% of such nights" in page([replace(well, seed=seed) for seed in range(300)], {})
    table = page([well, badly], {})
    assert "| S3 away | 1 | 0 | 1 | 7 | 0 | 0 | 0 | 0 | 0 | - |" in table
    assert "| all | 2 | 1 | 1 | 7 |" in table
    assert "- seed 2, S3 away: cold.x: 7 rows. Not explained yet." in table
    assert "- seed 2, S3 away: open. S3 never came back." in page([badly], {"2": "S3 never came back."})


@pytest.mark.long
@pytest.mark.timeout(900)  # some minutes where nobody else wants the machine
def test_nights_that_are_hurt_are_made_good(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = campaign(out, "--runs", "2", "--seed", "465", timeout=860)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read([out])) == 2


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_every_kind_of_fault_is_made_good_twice(tmp_path: Path) -> None:
    runs = str(2 * len(NAMES))
    done = campaign(tmp_path / "out.jsonl", "--runs", runs, "--seed", str(len(NAMES)), timeout=7000)
    assert done.returncode == 0, done.stdout + done.stderr
