"""Rivals take turns; one that fails disturbs nobody; what a turn used is seen on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from bench import measure, record
from bench.meter import Meter
from bench.plan import Contest
from bench.record import CALL, DEFAULTS, KEY, ZAMBONI, Case, Machine, Output, Sample, Scans, Sides
from tests.unit.samples import MACHINE, OUTPUT, SCANS, SIDES, case, sample

# Takes 64 MiB, and half a second of CPU time.
_BUSY = """
import time
held = bytearray(64 * 2**20)
while time.process_time() < 0.5:
    pass
time.sleep(0.2)
"""
# Spins for a second.
_SPIN = "import time; end = time.time() + 1; exec('while time.time() < end: pass')"


@dataclass
class Counted:
    requests: dict[str, int] = field(default_factory=lambda: {"GET": 960, "PUT": 3})
    bytes_read: int = 14_000_000
    bytes_written: int = 13_000_000


@dataclass
class FakeTurn:
    host: FakeHost
    rival: str
    input_files: int = 960
    tables: int = 1
    note: str = ""
    sides: Sides | None = None

    async def act(self) -> None:
        self.host.happened.append(self.rival)
        if self.rival in self.host.failing:
            raise RuntimeError("the session\nis gone")

    async def traffic(self) -> Counted:
        return Counted()

    async def output(self) -> Output | None:
        return OUTPUT

    async def scans(self) -> Scans | None:
        return SCANS

    async def close(self) -> None:
        self.host.closed += 1


@dataclass
class FakeHost:
    failing: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    happened: list[str] = field(default_factory=list)
    closed: int = 0

    def can(self, case: Case, rival: str) -> bool:
        return rival not in self.absent

    async def prepare(self, case: Case, rival: str, x: int = 0) -> FakeTurn:
        return FakeTurn(self, rival)

    def pids(self, rival: str) -> Collection[int]:
        return {os.getpid()}


def contest(rounds: int = 3, once: frozenset[str] = frozenset()) -> Contest:
    return Contest(case(), (DEFAULTS, CALL, ZAMBONI), rounds, 1, once=once)


async def played(host: FakeHost, rounds: int = 3, late_after: int = 99) -> tuple[int, list[Sample]]:
    kept: list[Sample] = []
    number = await measure.play(
        contest(rounds), host, kept.append, has_time=lambda _: len(kept) < late_after * len(contest().rivals)
    )
    return number, kept


async def test_each_round_begins_with_another_rival() -> None:
    host = FakeHost()
    assert (await played(host))[0] == 3
    assert host.happened == [DEFAULTS, CALL, ZAMBONI, CALL, ZAMBONI, DEFAULTS, ZAMBONI, DEFAULTS, CALL]


async def test_who_plays_once_has_no_turn_after_the_first_round() -> None:
    host = FakeHost()
    kept: list[Sample] = []
    await measure.play(contest(3, frozenset({CALL})), host, kept.append, has_time=lambda _: True)
    assert [(each.round, each.rival) for each in kept] == [
        (1, DEFAULTS),
        (1, CALL),
        (1, ZAMBONI),
        (2, ZAMBONI),
        (2, DEFAULTS),
        (3, DEFAULTS),
        (3, ZAMBONI),
    ]


async def test_a_turn_that_fails_is_kept_with_its_reason_and_the_round_goes_on() -> None:
    host = FakeHost(failing=frozenset({CALL}))
    _, kept = await played(host, 1)
    assert [(each.rival, each.failed, each.note) for each in kept] == [
        (DEFAULTS, False, ""),
        (CALL, True, "RuntimeError: the session is gone"),
        (ZAMBONI, False, ""),
    ]
    assert host.closed == 3


async def test_a_sample_has_what_the_turn_did_and_what_came_through_the_proxy() -> None:
    _, (first, *_) = await played(FakeHost(), 1)
    assert (first.case, first.round, first.input_files, first.output) == (case(), 1, 960, OUTPUT)
    assert (first.requests, first.bytes_read, first.bytes_written) == ({"GET": 960, "PUT": 3}, 14_000_000, 13_000_000)
    assert first.python_peak_mib > 10
    assert first.scans == SCANS
    assert (datetime.now(UTC) - datetime.fromisoformat(first.measured_at)) < timedelta(minutes=1)


async def test_rounds_are_left_out_for_want_of_time_but_never_the_first() -> None:
    number, kept = await played(FakeHost(), late_after=0)
    assert (number, len(kept)) == (1, 3)
    number, kept = await played(FakeHost(), late_after=2)
    assert (number, len(kept)) == (2, 6)


async def test_a_rival_that_can_not_play_here_is_left_out() -> None:
    assert (await played(FakeHost(absent=frozenset({ZAMBONI})), 1))[1][-1].rival == CALL
    assert await played(FakeHost(absent=frozenset({DEFAULTS, CALL, ZAMBONI}))) == (0, [])


def test_processes_started_meanwhile_are_counted_and_older_ones_are_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as server:
        try:
            with Meter(()) as meter:
                subprocess.run([sys.executable, "-c", _BUSY], check=True)
        finally:
            server.kill()
    assert 0.4 < meter.cpu_s < 5
    assert meter.python_peak_mib > 64
    assert meter.jvm_peak_mib == 0
    assert meter.seconds > 0.5


def test_what_a_server_starts_meanwhile_is_the_servers() -> None:
    # A server that starts a busy process when it is told to, and says when that has ended.
    server_code = (
        "import subprocess, sys\n"
        "sys.stdin.readline()\n"
        f"subprocess.run([sys.executable, '-c', {_BUSY!r}], check=True)\n"
        "print('done', flush=True)\n"
    )
    command = [sys.executable, "-c", server_code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        with Meter(()) as meter:
            server.stdin.write("go\n")
            server.stdin.flush()
            assert server.stdout.readline() == "done\n"
    assert (meter.cpu_s, meter.python_peak_mib) == (0, 0)


def test_what_other_programs_use_is_seen_and_our_own_processes_are_none_of_them() -> None:
    with Meter(()) as meter:
        subprocess.run([sys.executable, "-c", _BUSY], check=True)
    ours = meter.others
    # One that is nobody's child of ours: a shell starts it and ends at once.
    command = f'"{sys.executable}" -c "{_SPIN}" &'
    with Meter(()) as meter:
        subprocess.run(["/bin/sh", "-c", command], check=True)
        time.sleep(1.5)
    assert meter.others > 0.4 * min(1.0, 0.5 + ours)


def test_cpu_time_used_before_a_turn_is_not_the_turns() -> None:
    with Meter({os.getpid()}) as meter:
        pass
    assert meter.cpu_s < 0.2


@pytest.mark.parametrize(
    "kept",
    [
        sample(case(), DEFAULTS, 1.5, 2, x=100, requests={"GET": 1}, output=OUTPUT, note="as it is"),
        sample(case(), CALL, 0, failed=True),
        sample(case("audit", "1000"), KEY, 1, sides=SIDES),
        sample(case(), DEFAULTS, 1, scans=SCANS, output=replace(OUTPUT, copied=True), others=0.7, measured_at="2026"),
        MACHINE,
    ],
)
def test_what_is_kept_comes_back_as_it_was(kept: Sample | Machine) -> None:
    assert record.from_json(record.to_json(kept)) == kept


def test_a_line_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="no record of the benchmark"):
        record.from_json('{"seed": 1}')
