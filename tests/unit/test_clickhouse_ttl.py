"""How long rows live, read from definitions as ClickHouse writes them (test_counting.py has it write them)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from icekeeper.adapters.clickhouse.ttl import UnknownTtlError, ttl_of
from icekeeper.core.audit.records import SourceTtl

DAY = timedelta(days=1)


def of(clause: str) -> SourceTtl | None:
    return ttl_of(f"MergeTree PARTITION BY toDate(ts) ORDER BY (a, ts) {clause} SETTINGS index_granularity = 8192")


@pytest.mark.parametrize(
    ("clause", "least", "most"),
    [
        ("TTL toDateTime(ts) + toIntervalDay(7)", 7, 7),
        ("TTL ts + toIntervalYear(1)", 365, 366),
        ("TTL ts + toIntervalMonth(2)", 56, 62),
        ("TTL ts + toIntervalQuarter(2)", 180, 184),
        ("TTL ts + INTERVAL 30 DAY", 30, 30),
        ("TTL ts + INTERVAL 2 WEEKS", 14, 14),
        ("TTL ts + toIntervalMinute(90)", 0.0625, 0.0625),
        ("TTL ts + toIntervalDay('5')", 5, 5),
        ("TTL toIntervalDay(5) + ts", 5, 5),
        ("TTL ts + toIntervalWeek(1) + toIntervalHour(12)", 7.5, 7.5),
        ("TTL (ts + toIntervalDay(7)) + toIntervalMonth(1)", 35, 38),
        ("TTL (ts - toIntervalMonth(1)) + toIntervalDay(90)", 59, 62),
        ("TTL plus(ts, toIntervalDay(3))", 3, 3),
        ("TTL addDays(toDateTime(ts, 'UTC'), 3)", 3, 3),
        ("TTL addYears(ts, 2)", 730, 732),
        ("TTL CAST(ts, 'DateTime') + toIntervalDay(1)", 1, 1),
        ("TTL toDateTime64(ts, 3, 'UTC') + toIntervalDay(1)", 1, 1),
        # a row of the day's end lives nearly a day less
        ("TTL toDate(ts) + toIntervalDay(7)", 6, 7),
        ("TTL CAST(ts, 'Date') + toIntervalDay(7)", 6, 7),
        ("TTL toStartOfHour(ts) + toIntervalDay(1)", 23 / 24, 1),
        # the first rule to delete counts
        ("TTL ts + toIntervalDay(1) TO VOLUME 'cold', ts + toIntervalDay(30)", 30, 30),
        ("TTL ts + toIntervalDay(30) DELETE, ts + toIntervalDay(1) TO DISK 's3'", 30, 30),
        ("TTL ts + toIntervalDay(2) RECOMPRESS CODEC(ZSTD(17)), ts + toIntervalDay(9)", 9, 9),
        ("TTL ts + toIntervalDay(1) GROUP BY a, b SET v = max(v), w = min(w), ts + toIntervalDay(9)", 9, 9),
        ("TTL ts + toIntervalDay(90), ts + toIntervalDay(5) WHERE symbol = 'a,b'", 5, 5),
    ],
)
def test_how_long_rows_live_is_read_from_the_engines_definition(clause: str, least: float, most: float) -> None:
    ttl = of(clause)
    assert ttl is not None
    assert (ttl.least, ttl.most) == (least * DAY, most * DAY)
    assert ttl.column == "ts"
    assert ttl.every_row is ("WHERE" not in clause)


@pytest.mark.parametrize(
    "definition",
    [
        "MergeTree ORDER BY ts SETTINGS index_granularity = 8192",
        "MergeTree ORDER BY ts TTL ts + toIntervalDay(1) TO DISK 's3'",
        "MergeTree ORDER BY ts TTL ts + toIntervalDay(1) GROUP BY a SET b = max(b)",
        "MergeTree ORDER BY ts TTL ts + toIntervalDay(1) GROUP BY a, ts SET b = max(b), c = any(c)",
        "ReplicatedMergeTree('/t/TTL ts + toIntervalDay(1)', '{replica}') ORDER BY ts",
    ],
)
def test_where_nothing_deletes_rows_by_age_there_is_no_ttl(definition: str) -> None:
    assert ttl_of(definition) is None


@pytest.mark.parametrize(
    ("clause", "column"),
    [
        ("TTL ingestion_timestamp + toIntervalDay(7)", "ingestion_timestamp"),
        ("TTL toDateTime(`ingested at`) + toIntervalDay(7)", "ingested at"),
        ("TTL t.n + toIntervalDay(7)", "t.n"),
        ("TTL ts + toIntervalDay(30), ingestion_timestamp + toIntervalDay(7)", "ingestion_timestamp"),
    ],
)
def test_the_column_that_the_time_is_counted_from_is_named(clause: str, column: str) -> None:
    assert of(clause) == SourceTtl(7 * DAY, 7 * DAY, column)


@pytest.mark.parametrize(
    "definition",
    [
        "MergeTree ORDER BY ts TTL expires_at",
        "MergeTree ORDER BY ts TTL ts + 604800",
        "MergeTree ORDER BY ts TTL ts + toIntervalDay(days)",
        "MergeTree ORDER BY ts TTL ts + toIntervalDay(3 * 2)",
        "MergeTree ORDER BY ts TTL ts + toIntervalFortnight(1)",
        "MergeTree ORDER BY ts TTL ts - toIntervalDay(1)",
        "MergeTree ORDER BY ts TTL ts + other + toIntervalDay(1)",
        "MergeTree ORDER BY ts TTL toIntervalDay(1)",
        "MergeTree ORDER BY ts TTL ts + toIntervalDay(7",
        "MergeTree ORDER BY ts TTL if(a = 'x', ts + toIntervalDay(1), ts + toIntervalDay(2))",
        "MergeTree ORDER BY ts TTL ts + toIntervalDay(7), expires_at",
        "Distributed('cluster', 'k2', 'trades')",
        "Merge('k2', '^trades')",
        "View",
        "MaterializedView",
        "Null",
        "",
    ],
)
def test_what_is_not_understood_or_has_no_ttl_of_its_own_is_unknown(definition: str) -> None:
    with pytest.raises(UnknownTtlError):
        ttl_of(definition)
