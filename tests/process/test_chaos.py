"""A few runs of the chaos campaign, so that it is known to work and to find what is wrong; `make chaos` plays many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.plan import NAMES, derive
from tests.chaos.result import read
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


def test_five_nights_that_are_hurt_are_made_good(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = campaign(out, "--runs", "5", "--seed", str(5 * len(NAMES)), timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read([out])) == 5


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_every_kind_of_fault_is_made_good_twice(tmp_path: Path) -> None:
    runs = str(2 * len(NAMES))
    done = campaign(tmp_path / "out.jsonl", "--runs", runs, "--seed", str(len(NAMES)), timeout=7000)
    assert done.returncode == 0, done.stdout + done.stderr
