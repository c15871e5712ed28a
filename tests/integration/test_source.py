"""What is read of a source beside a count: its TTL, by a definition that the real engine writes, its newest row."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.counting import ClickHouse
from icekeeper.core.audit.records import SourceTtl
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.sandbox import Sandbox
from tests.conftest import SLOT
from tests.integration.faults import Answer, Request, proxied

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
WINDOW = window_of(SLOT)


@pytest.fixture
async def source(box: Sandbox) -> AsyncIterator[ClickHouse]:
    server = box.clickhouse
    server.execute("CREATE DATABASE IF NOT EXISTS sources")
    client = ClickHouse(ClickHouseOptions(server.url, "sources", server.user, server.password))
    yield client
    await client.close()


COLUMNS = "ts DateTime64(3), ingested DateTime, `od d` DateTime, symbol String, k Int64, v Int64, w Int64, days Int64"
TABLE = f"CREATE OR REPLACE TABLE t ({COLUMNS}) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY (k, ts)"


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("", None),
        ("TTL toDateTime(ts) + INTERVAL 7 DAY", SourceTtl(7 * DAY, 7 * DAY, "ts")),
        ("TTL ingested + toIntervalDay(7)", SourceTtl(7 * DAY, 7 * DAY, "ingested")),
        ("TTL ingested + INTERVAL 90 MINUTE DELETE", SourceTtl(90 * MINUTE, 90 * MINUTE, "ingested")),
        ("TTL ingested + INTERVAL 1 WEEK + INTERVAL 12 HOUR", SourceTtl(7.5 * DAY, 7.5 * DAY, "ingested")),
        ("TTL ingested + INTERVAL 1 MONTH", SourceTtl(28 * DAY, 31 * DAY, "ingested")),
        ("TTL ingested + INTERVAL 2 QUARTER", SourceTtl(180 * DAY, 184 * DAY, "ingested")),
        ("TTL addYears(toDateTime(ts), 2)", SourceTtl(730 * DAY, 732 * DAY, "ts")),
        ("TTL toDate(ts) + INTERVAL 7 DAY", SourceTtl(6 * DAY, 7 * DAY, "ts")),
        ("TTL ts::DateTime + INTERVAL '5' DAY", SourceTtl(5 * DAY, 5 * DAY, "ts")),
        ("TTL date_add(ingested, INTERVAL 3 DAY)", SourceTtl(3 * DAY, 3 * DAY, "ingested")),
        ("TTL `od d` + INTERVAL 5 DAY", SourceTtl(5 * DAY, 5 * DAY, "od d")),
        ("TTL ingested + INTERVAL 1 DAY TO DISK 'default'", None),
        ("TTL ingested + INTERVAL 1 DAY RECOMPRESS CODEC(ZSTD(17))", None),
        ("TTL ingested + INTERVAL 1 DAY GROUP BY k SET v = max(v), w = min(w)", None),
        (
            "TTL ingested + INTERVAL 1 DAY TO VOLUME 'default', ingested + INTERVAL 9 DAY",
            SourceTtl(9 * DAY, 9 * DAY, "ingested"),
        ),
        (
            "TTL ingested + INTERVAL 1 DAY GROUP BY k SET v = max(v), w = min(w), ingested + INTERVAL 9 DAY",
            SourceTtl(9 * DAY, 9 * DAY, "ingested"),
        ),
        (
            "TTL ingested + INTERVAL 9 WEEK, ingested + INTERVAL 5 DAY DELETE WHERE symbol = 'a, TTL x' AND v > 1",
            SourceTtl(5 * DAY, 5 * DAY, "ingested", every_row=False),
        ),
        # not understood
        ("TTL ingested", None),
        ("TTL ingested + 604800", None),
        ("TTL ingested + toIntervalDay(days)", None),
        ("TTL if(symbol = 'a', ingested + INTERVAL 1 DAY, ingested + INTERVAL 2 DAY)", None),
    ],
)
async def test_a_count_brings_the_tables_ttl_along(
    box: Sandbox, source: ClickHouse, clause: str, expected: SourceTtl | None
) -> None:
    box.clickhouse.execute(
        f"{TABLE} {clause} SETTINGS index_granularity = 8192 COMMENT 'TTL ts + toIntervalDay(1), b'", database="sources"
    )
    assert (await source.count(Source(("t",), "ts"), WINDOW, None, MINUTE)).ttl == expected


async def test_a_view_has_no_ttl_of_its_own(box: Sandbox, source: ClickHouse) -> None:
    box.clickhouse.execute(f"{TABLE} TTL ingested + INTERVAL 7 DAY", database="sources")
    box.clickhouse.execute("CREATE OR REPLACE VIEW seen AS SELECT * FROM t", database="sources")
    assert (await source.count(Source(("seen",), "ts"), WINDOW, None, MINUTE)).ttl is None


async def test_a_server_that_refuses_the_definition_is_counted_all_the_same(box: Sandbox, source: ClickHouse) -> None:
    server = box.clickhouse
    server.execute(f"{TABLE} TTL ingested + INTERVAL 7 DAY", database="sources")

    async def refuse(request: Request) -> Answer | None:
        if b"engine_full" not in request.body and "engine_full" not in request.target:
            return None
        refused = b"Code: 497. DB::Exception: u: Not enough privileges. (ACCESS_DENIED)"
        return Answer(403, refused, "text/plain", headers=("X-ClickHouse-Exception-Code: 497",))

    async with proxied(server.url, http=True) as proxy:
        proxy.rule = refuse
        client = ClickHouse(ClickHouseOptions(proxy.url, "sources", server.user, server.password))
        counted = await client.count(Source(("t",), "ts"), WINDOW, None, MINUTE)
        described = await client.describe("t")
        await client.close()

    assert (counted.rows, counted.ttl, counted.final) == (0, None, False)
    assert described is not None
    assert (described.engine, described.definition) == ("MergeTree", "")


@pytest.mark.parametrize(
    ("kind", "rows", "newest"),
    [
        ("DateTime64(3)", ("2026-02-17 05:00:00.001", "2026-02-17 23:59:59.999"), "2026-02-17 23:59:59.999"),
        (
            "DateTime64(6, 'UTC')",
            ("2026-02-17 23:59:59.999999", "2026-02-18 00:00:00.000000"),
            "2026-02-17 23:59:59.999999",
        ),
        ("DateTime('America/New_York')", ("2026-02-16 23:59:59", "2026-02-17 12:00:00"), "2026-02-17 12:00:00"),
        ("Nullable(DateTime64(3))", ("2026-02-17 00:00:00.000",), "2026-02-17 00:00:00.000"),
        ("Date", ("2026-02-16", "2026-02-17", "2026-02-18"), "2026-02-17 00:00:00"),
        ("DateTime64(3)", ("2026-02-16 23:59:59.999", "2026-02-18 00:00:00.000"), None),
        ("DateTime64(3)", (), None),
    ],
)
async def test_the_newest_row_of_a_window(
    box: Sandbox, source: ClickHouse, kind: str, rows: tuple[str, ...], newest: str | None
) -> None:
    server = box.clickhouse
    server.execute(
        f"CREATE OR REPLACE TABLE n (ts {kind}) ENGINE = MergeTree ORDER BY ts SETTINGS allow_nullable_key = 1",
        database="sources",
    )
    for row in rows:
        server.execute(f"INSERT INTO n SELECT toDateTime64('{row}', 6, 'UTC')", database="sources")
    expected = None if newest is None else datetime.fromisoformat(f"{newest}+00:00")
    assert await source.newest(Source(("n",), "ts"), WINDOW, MINUTE) == expected
