"""Samples side by side: medians, spreads, and ratios round by round. It neither measures nor judges."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.record import Case, Sample

Quantity = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and how far they went apart."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Samples:
    """Everything that was measured, by case and rival."""

    all: Sequence[Sample]

    def cases(self, part: str) -> list[Case]:
        """The cases of a part, in the order in which they were measured."""
        return list(dict.fromkeys(sample.case for sample in self.all if sample.case.part == part))

    def rivals(self, case: Case) -> list[str]:
        return list(dict.fromkeys(sample.rival for sample in self.all if sample.case == case))

    def of(self, case: Case, rival: str) -> list[Sample]:
        """The samples that count: those that failed are left out."""
        return [each for each in self.all if each.case == case and each.rival == rival and not each.failed]

    def failures(self) -> list[Sample]:
        return [sample for sample in self.all if sample.failed]


def seconds_a_table(sample: Sample) -> float:
    """Compares rivals that were given different numbers of tables: a process per table and stage is slow."""
    return sample.seconds / sample.tables


def requests_a_file(sample: Sample) -> float:
    return sum(sample.requests.values()) / max(sample.input_files, 1)


def memory(sample: Sample) -> float:
    """The two peaks need not fall together: their sum is the most that it can have been, in MiB."""
    return sample.python_peak_mib + sample.jvm_peak_mib


def bytes_written(sample: Sample) -> float:
    """Of the table that a compaction left; 0 where nobody looked at it."""
    return 0.0 if sample.output is None else sample.output.bytes


def spark_scan(sample: Sample) -> float:
    return 0.0 if sample.scans is None else sample.scans.spark_s


def arrow_scan(sample: Sample) -> float:
    return 0.0 if sample.scans is None else sample.scans.arrow_s


def clickhouse_cpu(sample: Sample) -> float:
    """Of an audit."""
    return 0.0 if sample.sides is None else sample.sides.clickhouse_cpu_s


def queries(sample: Sample) -> float:
    """Of an audit, on the side that had more of them."""
    return 0.0 if sample.sides is None else max(sample.sides.spark_queries, sample.sides.clickhouse_queries)


def spread(values: Iterable[float]) -> Spread | None:
    """None where nothing was measured."""
    known = sorted(values)
    return Spread(statistics.median(known), known[0], known[-1], len(known)) if known else None


def ratios(quantity: Quantity, upper: Iterable[Sample], lower: Iterable[Sample]) -> Spread | None:
    """`upper` to `lower`, computed in each round that has both, at the same place on a curve.

    Seconds of different rounds are not compared: the machine may have been busy in one of them.
    """
    below = {(sample.round, sample.x): quantity(sample) for sample in lower}
    pairs = [(quantity(each), below[each.round, each.x]) for each in upper if (each.round, each.x) in below]
    return spread(above / under for above, under in pairs if under > 0)
