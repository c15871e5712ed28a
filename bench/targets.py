"""What the benchmark has to show, as data, and how far the samples show it. Written down by: `report_targets.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from bench import compare
from bench.compare import Quantity, Samples, Spread
from bench.plan import AUDIT, AUDIT_ROWS, SHAPES
from bench.record import (
    BARE,
    BINPACK,
    CALL,
    COPY,
    DEFAULTS,
    FLOOR,
    KEY,
    LOST,
    PLATFORM,
    READ_KEY,
    READ_TIME,
    STORES,
    THIRD,
    ZAMBONI,
    Case,
    Sample,
    Store,
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
    about: Callable[[Sample], bool] | None = None  # which of our samples it is about; None: all
    earlier: bool = False  # it is not in today's list, and was promised before

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


_S3: tuple[Store, ...] = ("s3", "s3+10ms")


def _on(part: str, *shapes: str, stores: tuple[Store, ...] = STORES) -> tuple[Case, ...]:
    return tuple(Case(part, shape, store) for shape in shapes or ("960",) for store in stores)


def _rewritten(sample: Sample) -> bool:
    return sample.output is not None and not sample.output.copied


def _scanned(sample: Sample) -> bool:
    return sample.scans is not None


def _milliseconds_a_table(sample: Sample) -> float:
    return 1000 * compare.seconds_a_table(sample)


_AUDIT = (Case(AUDIT, str(AUDIT_ROWS), "s3"),)
_SMALL = ("960", "3800")

TARGETS = (
    Target("a night of ten 960 tables", _on("night"), DEFAULTS, PLATFORM, at_least=15),
    Target("a night with nothing to do, proof `files` on", _on("idle"), DEFAULTS, PLATFORM, at_least=200),
    *(
        Target(
            "compaction of 60 files of 6.5 MB", _on("compact", "big", stores=stores), DEFAULTS, theirs, at_least=times
        )
        for stores, theirs, times in (
            (STORES[:1], ZAMBONI, 5),
            (STORES[:1], CALL, 8),
            (_S3, ZAMBONI, 4),
            (_S3, CALL, 6),
        )
    ),
    Target("compaction of row groups of 8 MiB and more", _on("compact", "big8"), DEFAULTS, COPY, at_most=1.5),
    *(
        Target(
            "compaction of small files, never slower",
            _on("compact", *_SMALL, stores=("local", "s3")),
            DEFAULTS,
            theirs,
            at_least=1,
            noisy=True,
        )
        for theirs in (ZAMBONI, CALL)
    ),
    *(
        Target("compaction of small files", _on("compact", *_SMALL, stores=("s3+10ms",)), DEFAULTS, theirs, at_least=4)
        for theirs in (ZAMBONI, CALL)
    ),
    Target("expiry of 96 snapshots, 960 files", _on("expire", stores=("local",)), DEFAULTS, CALL, at_least=10),
    Target("expiry of 96 snapshots, 960 files", _on("expire", stores=_S3), DEFAULTS, BARE, at_most=1.3),
    Target("first compaction after a start", _on("first"), DEFAULTS, THIRD, at_most=1.5),
    Target(
        "bytes written, where rows are rewritten",
        _on("compact", *SHAPES),
        DEFAULTS,
        BINPACK,
        at_most=1.02,
        quantity=compare.bytes_written,
        about=_rewritten,
    ),
    *(
        Target(
            f"a scan of the day in {reader}, never slower",
            _on("compact", *SHAPES, stores=("local", "s3+10ms")),
            DEFAULTS,
            BINPACK,
            at_most=1,
            quantity=quantity,
            about=_scanned,
            noisy=True,
        )
        for reader, quantity in (("Spark", compare.spark_scan), ("pyarrow", compare.arrow_scan))
    ),
    Target(
        "memory of Python and the JVM",
        _on(ALL, ALL),
        DEFAULTS,
        at_most=4096,
        quantity=compare.memory,
        unit="MiB",
        worst=True,
    ),
    Target(
        "compact and expire with nothing to do",
        _on("idle", "960 without audit"),
        DEFAULTS,
        at_most=20,
        quantity=_milliseconds_a_table,
        unit="ms a table",
        strict=True,
        earlier=True,
    ),
    Target(
        "compaction of small files", _on("compact", stores=("s3+10ms",)), DEFAULTS, FLOOR, at_most=2.5, earlier=True
    ),
    Target(
        "S3 requests per compacted file",
        _on("compact", "960", "3800", "big", stores=_S3),
        DEFAULTS,
        ZAMBONI,
        at_most=1,
        quantity=compare.requests_a_file,
        strict=True,
        earlier=True,
    ),
    *(
        Target(
            "CPU of ClickHouse for a fingerprint",
            _AUDIT,
            KEY,
            read,
            at_most=1.3,
            quantity=compare.clickhouse_cpu,
            earlier=True,
        )
        for read in (READ_TIME, READ_KEY)
    ),
    Target(
        "an audit down to one lost row",
        _AUDIT,
        LOST,
        at_most=12,
        quantity=compare.queries,
        unit="queries a side",
        earlier=True,
    ),
)


def judge(samples: Samples) -> Iterator[Judgement]:
    """Each target on each of its cases, in their order; none where it is about none of the samples that there are."""
    for target in TARGETS:
        for case in target.cases:
            ours = samples.of(case, target.ours)
            if target.about is not None and ours and not any(map(target.about, ours)):
                continue
            measured = _measured(target, case, samples)
            yield Judgement(target, case, _verdict(target, measured), measured)


def _measured(target: Target, case: Case, samples: Samples) -> Spread | None:
    if case.part == ALL:
        ours = [each for each in samples.all if (each.rival, each.case.store) == (target.ours, case.store)]
        return compare.spread(target.quantity(each) for each in ours if not each.failed)
    ours = [each for each in samples.of(case, target.ours) if target.about is None or target.about(each)]
    if target.theirs is None:
        return compare.spread(target.quantity(sample) for sample in ours)
    theirs = samples.of(case, target.theirs)
    upper, lower = (ours, theirs) if target.at_least is None else (theirs, ours)
    return compare.ratios(target.quantity, upper, lower)


def _verdict(target: Target, measured: Spread | None) -> Verdict:
    if measured is None:
        return Verdict.UNKNOWN
    if target.at_least is not None:
        value, best, limit, direction = measured.median, measured.high, target.at_least, 1
    else:
        value, best, limit, direction = measured.median, measured.low, target.at_most or 0, -1
        value = measured.high if target.worst else value
    if value * direction > limit * direction or (value == limit and not target.strict):
        return Verdict.MET
    turned = best * direction >= limit * direction
    close = value * direction >= limit * (direction - (2 * NOISE if turned else NOISE))
    return Verdict.NOISE if target.noisy and close else Verdict.MISSED
