"""Rounds: every rival of a contest takes its turn in each, so that what disturbs the machine disturbs all of them.

What the contests are is in `plan.py`, what a rival does in `rivals/`, what a turn takes is watched by `meter.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from bench.meter import Meter
from bench.plan import Contest
from bench.record import Case, Output, Sample

# What a turn may take before it counts as failed; the slowest, binpack of 3,800 files at 10 ms a request, takes 80 s.
TURN_TIMEOUT = timedelta(minutes=8)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through the store's proxy since it was last asked."""

    requests: Mapping[str, int]
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What a turn did: how many files went in, how many tables it covered."""

    input_files: int = 0
    tables: int = 1
    note: str = ""


class Turn(Protocol):
    """One rival's fresh tables of one round. Only `work` is measured."""

    def pids(self) -> Sequence[int]:
        """The processes that are there already and do the rival's work."""

    async def work(self) -> Done: ...

    async def output(self) -> Output | None:
        """What the table is like afterwards; None where there is no one table to look at."""

    async def aclose(self) -> None:
        """Removes the tables."""


class Entrant(Protocol):
    """A rival that can take part in the contests of a case."""

    name: str

    async def prepare(self, case: Case, x: int) -> Turn: ...


class Meeting(Protocol):
    """Where the rivals meet: the store's proxy between them and the store."""

    async def begin(self, case: Case) -> None:
        """The case's delay from here on, and nothing counted yet."""

    async def end(self) -> Traffic:
        """What came through since then; the delay is taken away."""


def order(rivals: Sequence[str], round_: int) -> list[str]:
    """Each round begins with another one: who comes first finds the caches colder."""
    first = (round_ - 1) % len(rivals)
    return [*rivals[first:], *rivals[:first]]


async def play(
    contest: Contest,
    entrants: Mapping[str, Entrant],
    meeting: Meeting,
    keep: Callable[[Sample], None],
    *,
    more: Callable[[int], bool],
) -> int:
    """Plays the contest's rounds, each sample is given to `keep` at once. Returns how many rounds there were.

    `more` is asked before each round but the first whether there is time for it. A turn that fails is a sample with
    its reason in the note, and the round goes on.
    """
    for round_ in range(1, contest.rounds + 1):
        if round_ > 1 and not more(round_):
            return round_ - 1
        for name in order(contest.rivals, round_):
            keep(await _turn(contest, entrants[name], meeting, round_))
    return contest.rounds


async def _turn(contest: Contest, entrant: Entrant, meeting: Meeting, round_: int) -> Sample:
    try:
        async with contextlib.aclosing(await entrant.prepare(contest.case, contest.x)) as turn:
            return await _measured(contest, entrant.name, round_, turn, meeting)
    except Exception as exc:  # one that fails must not take the others' measurements with it
        note = f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"
        return Sample(contest.case, entrant.name, round_, 0.0, x=contest.x, failed=True, note=note)


async def _measured(contest: Contest, rival: str, round_: int, turn: Turn, meeting: Meeting) -> Sample:
    meter = Meter(turn.pids())
    gc.collect()
    await meeting.begin(contest.case)
    try:
        with meter:
            async with asyncio.timeout(TURN_TIMEOUT.total_seconds()):
                done = await turn.work()
    finally:
        traffic = await meeting.end()
    return Sample(
        contest.case,
        rival,
        round_,
        meter.seconds,
        x=contest.x,
        cpu_s=meter.cpu_s,
        python_peak_mib=meter.python_peak_mib,
        jvm_peak_mib=meter.jvm_peak_mib,
        requests=traffic.requests,
        bytes_read=traffic.bytes_read,
        bytes_written=traffic.bytes_written,
        input_files=done.input_files,
        tables=done.tables,
        output=await turn.output(),
        note=done.note,
    )
