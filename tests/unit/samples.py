"""Samples of a benchmark made by hand."""

from __future__ import annotations

from typing import Any

from bench.record import Case, Machine, Output, Sample, Scans, Sides, Store

MACHINE = Machine(
    measured_at="2026-02-18 02:00 UTC",
    cores=2,
    memory_mib=4096,
    versions={"Spark": "4.1.4"},
    settings={"heap": "2g"},
    load=0.3,
    minutes=58.2,
    left_out=("compact, 3800, s3: 1 of 2 rounds",),
)
OUTPUT = Output(files=1, bytes=14_000_000, rows=96_000, row_groups=1, columns_with_bounds=12)
SCANS = Scans(spark_s=2.0, arrow_s=0.5)

SIDES = Sides(
    jvm_cpu_s=20.0,
    clickhouse_cpu_s=3.5,
    clickhouse_peak_mib=400.0,
    clickhouse_bytes=1000 * 2**20,
    clickhouse_queries=1,
    clickhouse_statements=8,
    spark_queries=2,
)


def case(part: str = "compact", shape: str = "960", store: Store = "s3") -> Case:
    return Case(part, shape, store)


def sample(of: Case, rival: str, seconds: float, round_: int = 1, **more: Any) -> Sample:
    return Sample(of, rival, round_, seconds, **more)


def rounds(of: Case, rival: str, *seconds: float, **more: Any) -> list[Sample]:
    """One sample a round, with these seconds."""
    return [sample(of, rival, taken, number, **more) for number, taken in enumerate(seconds, 1)]
