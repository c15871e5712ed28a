"""What the benchmark has to show, as data, and how far the samples show it. How it is written down: `report.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from bench import compare
from bench.compare import Quantity, Samples, Spread
from bench.plan import AUDIT, AUDIT_ROWS, SHAPES
from bench.record import (
    AUTO,
    CALL,
    FLOOR,
    ICEKEEPER,
    KEY,
    LOST,
    PLATFORM,
    READ_KEY,
    READ_TIME,
    STORES,
    ZAMBONI,
    Case,
    Sample,
)

# As a case's part and shape: every turn on its store.
ALL = "all"
# Two medians on a shared machine are the same within this, or within twice of it if a round went the other way.
NOISE = 0.05


class Verdict(StrEnum):
    MET = "met"
    NOISE = "met within noise"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """One promise. `theirs` None: our own quantity is judged, not a ratio.

    Of a ratio, `at_least` is theirs to ours (how many times faster we are), `at_most` ours to theirs.
    """

    what: str
    cases: tuple[Case, ...]
    ours: str
    theirs: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    quantity: Quantity = compare.seconds_a_table
    unit: str = "x"
    noisy: bool = False  # "never slower": a difference within the noise is no miss
    strict: bool = False  # "fewer than", "under": the limit itself is a miss
    worst: bool = False  # the limit holds for each round, not for the middle one

    @property
    def limit(self) -> str:
        sign, bound = (
            (">=", self.at_least) if self.at_least is not None else ("<" if self.strict else "<=", self.at_most)
        )
        return f"{sign} {bound:g}{' ' if self.unit != 'x' else ''}{self.unit}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A target on one of its cases."""

    target: Target
    case: Case
    verdict: Verdict
    measured: Spread | None = None

    @property
    def by(self) -> float | None:
        """How much of what was asked is there; below 1 it is a miss."""
        if self.measured is None or not self.measured.high:
            return None
        if self.target.at_least is not None:
            return self.measured.median / self.target.at_least
        return (self.target.at_most or 0) / (self.measured.high if self.target.worst else self.measured.median)


def _everywhere(part: str, shape: str = "960") -> tuple[Case, ...]:
    return tuple(Case(part, shape, store) for store in STORES)


def _milliseconds_a_table(sample: Sample) -> float:
    return 1000 * compare.seconds_a_table(sample)


_COMPACTIONS = tuple(Case("compact", shape, store) for shape in SHAPES for store in STORES)
_AUDIT = (Case(AUDIT, str(AUDIT_ROWS), "s3"),)
# The one that has targets of its own.
_SLOWED = (Case("compact", "960", "s3+10ms"),)
_OTHERS = tuple(case for case in _COMPACTIONS if case not in _SLOWED)
_ON_S3 = tuple(case for case in _COMPACTIONS if case.store != "local")

TARGETS = (
    *(
        Target("a night of ten 960 tables", _everywhere("night"), ours, PLATFORM, at_least=15)
        for ours in (ICEKEEPER, AUTO)
    ),
    Target("a night with nothing to do", _everywhere("idle"), ICEKEEPER, PLATFORM, at_least=200),
    Target(
        "compact and expire with nothing to do",
        _everywhere("idle", "960 without audit"),
        ICEKEEPER,
        at_most=20,
        quantity=_milliseconds_a_table,
        unit="ms a table",
        strict=True,
    ),
    Target("expiry of 96 snapshots, 960 files", _everywhere("expire"), ICEKEEPER, CALL, at_least=10),
    *(
        Target("CPU of ClickHouse for a fingerprint", _AUDIT, KEY, read, at_most=1.3, quantity=compare.clickhouse_cpu)
        for read in (READ_TIME, READ_KEY)
    ),
    Target("an audit down to one lost row", _AUDIT, LOST, at_most=12, quantity=compare.queries, unit="queries a side"),
    Target("compaction", _SLOWED, AUTO, ZAMBONI, at_least=2.5),
    Target("compaction", _SLOWED, AUTO, CALL, at_least=3),
    Target("compaction", _SLOWED, AUTO, FLOOR, at_most=2.5),
    Target("compaction, never slower", _OTHERS, AUTO, ZAMBONI, at_least=1, noisy=True),
    Target("compaction, never slower", _OTHERS, AUTO, CALL, at_least=1, noisy=True),
    Target(
        "S3 requests per compacted file",
        _ON_S3,
        AUTO,
        ZAMBONI,
        at_most=1,
        quantity=compare.requests_a_file,
        strict=True,
    ),
    *(
        Target(
            "memory of Python and the JVM",
            _everywhere(ALL, ALL),
            ours,
            at_most=4096,
            quantity=compare.memory,
            unit="MiB",
            worst=True,
        )
        for ours in (ICEKEEPER, AUTO)
    ),
)


def judge(samples: Samples) -> Iterator[Judgement]:
    """Each target on each of its cases, in their order."""
    for target in TARGETS:
        for case in target.cases:
            measured = _measured(target, case, samples)
            yield Judgement(target, case, _verdict(target, measured), measured)


def _measured(target: Target, case: Case, samples: Samples) -> Spread | None:
    if case.part == ALL:
        ours = [each for each in samples.all if (each.rival, each.case.store) == (target.ours, case.store)]
        return compare.spread(target.quantity(each) for each in ours if not each.failed)
    ours = samples.of(case, target.ours)
    if target.theirs is None:
        return compare.spread(target.quantity(sample) for sample in ours)
    theirs = samples.of(case, target.theirs)
    upper, lower = (ours, theirs) if target.at_least is None else (theirs, ours)
    return compare.ratios(target.quantity, upper, lower)


def _verdict(target: Target, measured: Spread | None) -> Verdict:
    if measured is None:
        return Verdict.UNKNOWN
    if target.at_least is not None:
        if measured.median >= target.at_least:
            return Verdict.MET
        turned = measured.high >= target.at_least
        close = measured.median >= target.at_least * (1 - (2 * NOISE if turned else NOISE))
        return Verdict.NOISE if target.noisy and close else Verdict.MISSED
    value = measured.high if target.worst else measured.median
    limit = target.at_most or 0
    return Verdict.MET if value < limit or (value == limit and not target.strict) else Verdict.MISSED
