"""Rounds: every rival of a contest takes its turn in each, so that what disturbs the machine disturbs all of them.

What the contests are is in `plan.py`, what a rival does in `rivals/`, what a turn takes is watched by `meter.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from bench.meter import Meter, give_back
from bench.plan import Contest
from bench.record import Case, Output, Sample, Scans, Sides

# What a turn may take before it counts as failed; the slowest, binpack of 3,800 files at 10 ms a request, takes 80 s.
TURN_TIMEOUT = timedelta(minutes=8)


class Traffic(Protocol):
    """What went through the store's proxy."""

    @property
    def requests(self) -> Mapping[str, int]: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...


class Turn(Protocol):
    """One rival's fresh tables of one round, and what it is to do with them. Only `act` is timed."""

    @property
    def input_files(self) -> int: ...
    @property
    def tables(self) -> int: ...
    @property
    def note(self) -> str: ...
    @property
    def sides(self) -> Sides | None:
        """Of an audit, once it is over."""

    async def act(self) -> None: ...

    async def traffic(self) -> Traffic:
        """Since the turn was prepared."""

    async def output(self) -> Output | None:
        """The table afterwards, None where there is more than one; raises where what was done is wrong."""

    async def scans(self) -> Scans | None:
        """How fast the table is read afterwards, where that is of interest."""

    async def close(self) -> None: ...


class Host(Protocol):
    """Where the rivals meet: one lakehouse, one session, a proxy before the store."""

    def can(self, case: Case, rival: str) -> bool: ...

    async def prepare(self, case: Case, rival: str, x: int = 0) -> Turn:
        """Fresh tables, the case's delay before the store, and nothing counted yet."""

    def pids(self, rival: str) -> Collection[int]:
        """The processes that are there already and do the rival's work."""


def order(rivals: Sequence[str], round_: int) -> list[str]:
    """Each round begins with another one: who comes first finds the caches colder."""
    first = (round_ - 1) % len(rivals)
    return [*rivals[first:], *rivals[:first]]


async def play(
    contest: Contest, host: Host, keep: Callable[[Sample], None], *, has_time: Callable[[float], bool]
) -> int:
    """Plays the contest's rounds and gives each sample to `keep` at once. Returns how many rounds there are now.

    `has_time` is asked before each round but the first, with the seconds that the last one took. A turn that fails is
    a sample with its reason in the note, and the round goes on. Rivals that can't do the case are left out.
    """
    rivals = [name for name in contest.rivals if host.can(contest.case, name)]
    if not rivals:
        return 0
    took = contest.expected_s
    for round_ in range(contest.played + 1, contest.rounds + 1):
        if round_ > 1 and not has_time(took):
            return round_ - 1
        begun = time.monotonic()
        for name in order([each for each in rivals if round_ == 1 or each not in contest.once], round_):
            keep(await _turn(contest, host, name, round_))
        took = time.monotonic() - begun
    return contest.rounds


async def _turn(contest: Contest, host: Host, rival: str, round_: int) -> Sample:
    try:
        turn = await host.prepare(contest.case, rival, contest.x)
        try:
            return await _measured(contest, rival, round_, turn, host.pids(rival))
        finally:
            await turn.close()
    except Exception as exc:  # one that fails must not take the others' measurements with it
        return Sample(contest.case, rival, round_, 0.0, x=contest.x, failed=True, note=_reason(exc))


def _reason(exc: Exception) -> str:
    """The error in one line; of a program's output before it failed, the end has the cause."""
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text if len(text) <= 400 else f'{text[:100]} ... {text[-300:]}'}"


async def _measured(contest: Contest, rival: str, round_: int, turn: Turn, pids: Collection[int]) -> Sample:
    give_back()
    measured_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with Meter(pids) as meter:
        async with asyncio.timeout(TURN_TIMEOUT.total_seconds()):
            await turn.act()
    traffic = await turn.traffic()
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
        input_files=turn.input_files,
        tables=turn.tables,
        output=await turn.output(),
        sides=turn.sides,
        scans=await turn.scans(),
        note=turn.note,  # read after the output, whose check may add to it
        measured_at=measured_at,
        others=meter.others,
    )
