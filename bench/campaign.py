"""One run of the benchmark, from its start to its last sample: the lab, the warm-up, the contests and their time."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from rich.console import Console

from bench import measure, plan, record
from bench.lab import Lab
from bench.measure import Turn
from bench.meter import MIB
from bench.plan import Contest
from bench.record import BARE, COPY, FLOOR, PLATFORM, ZAMBONI, Case, Machine, Sample
from icekeeper.core.catalogs.packages import IMAGE_PACKAGES


class _Host:
    """The lab, and which of its processes work for whom."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def can(self, case: Case, rival: str) -> bool:
        return self._lab.can(case, rival)

    async def prepare(self, case: Case, rival: str, x: int = 0) -> Turn:
        return await self._lab.prepare(case, rival, x)

    def pids(self, rival: str) -> Collection[int]:
        if rival == PLATFORM:
            return ()  # starts its own
        jvm = self._lab.engine.jvm_pid
        in_python = rival in (ZAMBONI, FLOOR, COPY, BARE)
        return {os.getpid()} if in_python or jvm is None else {os.getpid(), jvm}


async def play(
    planned: Sequence[Contest], budget_s: float, console: Console, keep: Path | None
) -> tuple[Machine, list[Sample]]:
    """Measures all contests. With `keep`, each sample is on disk as soon as it is there.

    What an earlier start has kept there is not measured again. Time that is left in the end goes into rounds that were
    left out.
    """
    begun = time.monotonic()
    machines, samples = record.kept(keep)
    played: dict[tuple[Case, float], int] = {}
    took_s: dict[tuple[Case, float], float] = {}
    for sample in samples:
        key = sample.case, sample.x
        played[key] = max(played.get(key, 0), sample.round)
    todo = plan.remaining(planned, played, took_s)
    warm_ups = plan.warm_ups(todo)
    fitted = plan.fitted(todo, budget_s - plan.START_S - sum(each.all_rounds_s for each in warm_ups))
    for line in _expected(fitted, budget_s):
        console.print(line)
    async with contextlib.AsyncExitStack() as stack:
        file = stack.enter_context(keep.open("a", encoding="utf-8")) if keep else None

        def write(measured: Sample | Machine) -> None:
            if file is not None:
                record.write(measured, file)

        def tell(sample: Sample) -> None:
            console.print(f"  {_line(sample)}", markup=False)

        def take(sample: Sample) -> None:
            tell(sample)
            write(sample)
            samples.append(sample)

        load = os.getloadavg()[0]
        lab = await stack.enter_async_context(Lab.open())
        await lab.warm_up()
        machine, host = _machine(lab, load), _Host(lab)
        write(machine)
        for contest in warm_ups:
            console.print(f"{_clock(begun)} warm-up, not counted: {contest.title}")
            await measure.play(contest, host, tell, has_time=lambda _: True)
        while fitted:
            rounds_before, start = sum(played.values()), time.monotonic()
            ends = plan.ends(fitted, budget_s - (start - begun))
            for contest, end in zip(fitted, ends, strict=True):
                now = time.monotonic()
                if now - begun >= budget_s:
                    break
                console.print(f"{_clock(begun)} {contest.title}, {contest.rounds} rounds at most")
                in_time = functools.partial(_in_time, start + end)
                rounds = await measure.play(contest, host, take, has_time=in_time)
                if rounds > contest.played:
                    took_s[contest.key] = (time.monotonic() - now) / (rounds - contest.played)
                played[contest.key] = rounds
            if sum(played.values()) == rounds_before:
                break
            fitted = plan.fitted(plan.remaining(planned, played, took_s), budget_s - (time.monotonic() - begun))
        left_out = tuple(_left_out(planned, played))
        machine = _ended(replace(machine, left_out=left_out), machines, planned, (time.monotonic() - begun) / 60)
        write(machine)
    return machine, samples


def _ended(machine: Machine, starts: Sequence[Machine], planned: Sequence[Contest], minutes: float) -> Machine:
    """With what the starts before took, and left out of what this one did not plan."""
    earlier = next((each for each in reversed(starts) if each.minutes), None)
    if earlier is None:
        return replace(machine, minutes=minutes)
    titles = tuple(f"{each.title}: " for each in planned)
    left_out = tuple(line for line in earlier.left_out if not line.startswith(titles))
    return replace(
        machine, minutes=earlier.minutes + minutes, starts=earlier.starts + 1, left_out=left_out + machine.left_out
    )


def _in_time(end: float, took_s: float) -> bool:
    return time.monotonic() + took_s <= end


def _machine(lab: Lab, load: float) -> Machine:
    return Machine(
        measured_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cores=psutil.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total // MIB,
        versions=_versions(),
        settings=lab.settings_shown,
        load=load,
    )


def _versions() -> dict[str, str]:
    """What can make a difference to speed, by name."""
    iceberg = next(each.rpartition(":")[2] for each in IMAGE_PACKAGES if "iceberg-spark-runtime" in each)
    known = {"Python": platform.python_version(), "Iceberg": iceberg}
    for name in ("pyspark", "pyarrow", "pyiceberg", "iceberg-zamboni", "duckdb"):
        with contextlib.suppress(PackageNotFoundError):
            known[name] = version(name)
    return known


def _expected(planned: Sequence[Contest], budget_s: float) -> list[str]:
    """The plan for people: minutes by part."""
    parts = dict.fromkeys(each.case.part for each in planned)
    minutes = {part: sum(each.all_rounds_s for each in planned if each.case.part == part) / 60 for part in parts}
    lines = [f"{part}: {expected:.1f} minutes expected" for part, expected in minutes.items()]
    return [
        *lines,
        f"in all {sum(minutes.values()):.1f} minutes, beside start and warm-up; {budget_s / 60:.0f} at most",
    ]


def _left_out(planned: Sequence[Contest], played: Mapping[tuple[Case, float], int]) -> Iterator[str]:
    for each in planned:
        rounds = played.get(each.key, 0)
        if rounds < each.rounds:
            yield f"{each.title}: {rounds} of {each.rounds} rounds" if rounds else f"{each.title}: not played"


def _line(sample: Sample) -> str:
    if sample.failed:
        return f"{sample.rival} failed: {sample.note}"
    used = f"CPU {sample.cpu_s:.1f} s, {sample.python_peak_mib:.0f} + {sample.jvm_peak_mib:.0f} MiB"
    return f"{sample.rival} {sample.seconds:.2f} s, {used}, {sum(sample.requests.values())} requests"


def _clock(begun: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - begun), 60)
    return f"[{minutes:02}:{seconds:02}]"
