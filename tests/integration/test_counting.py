"""Counts at the edges of a window, on both sides, in other time zones, and over rows that ClickHouse will merge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.counting import ClickHouse
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import AuditStatus, Stage
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from tests.conftest import GOLD, SLOT, MakeNight

MINUTE = timedelta(minutes=1)
WINDOW = window_of(SLOT)
EDGES = {
    "2026-02-16 23:59:59.999999": False,
    "2026-02-17 00:00:00.000000": True,
    "2026-02-17 23:59:59.999999": True,
    "2026-02-18 00:00:00.000000": False,
}
INSIDE = sum(EDGES.values())


@pytest.fixture(scope="module", params=["UTC", "America/New_York", "Asia/Kathmandu"])
def zoned(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A lakehouse whose ClickHouse server keeps another time zone."""
    with Sandbox.start(clickhouse_timezone=request.param) as box:
        yield box


@pytest.fixture
async def source(zoned: Sandbox) -> AsyncIterator[ClickHouse]:
    server = zoned.clickhouse
    client = ClickHouse(ClickHouseOptions(server.url, "edges", server.user, server.password))
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("column_type", "digits"),
    [("DateTime64(3)", 3), ("DateTime64(6, 'UTC')", 6), ("DateTime64(6)", 6), ("DateTime", 0)],
)
async def test_clickhouse_counts_the_window_to_its_very_edges(
    zoned: Sandbox, source: ClickHouse, column_type: str, digits: int
) -> None:
    server = zoned.clickhouse
    server.execute("CREATE DATABASE IF NOT EXISTS edges")
    server.execute(f"CREATE OR REPLACE TABLE edges.t (ts {column_type}) ENGINE = MergeTree ORDER BY ts")
    for instant in EDGES:
        # Written as an instant, the way a producer's client sends it: no zone of the server has a say in it.
        text = instant[: 19 if digits == 0 else 20 + digits]
        value = f"toDateTime64('{text}', {digits}, 'UTC')"
        server.execute(f"INSERT INTO edges.t SELECT {value}")

    counted = await source.count(Source(("t",), "ts"), WINDOW, None, MINUTE)
    by_minute = await source.count_by_minute(Source(("t",), "ts"), WINDOW, False, MINUTE)

    assert counted.rows == INSIDE
    assert by_minute == {datetime(2026, 2, 17, 0, tzinfo=UTC): 1, datetime(2026, 2, 17, 23, 59, tzinfo=UTC): 1}
    # The stored query says the same when anyone runs it again, in any session.
    assert int(server.execute(counted.query)) == INSIDE


async def test_iceberg_counts_the_window_to_its_very_edges(make_night: MakeNight) -> None:
    night = await make_night(GOLD, old_snapshots=0)
    name = f"{night.world.catalog_name}.cold.edges"
    lakehouse = night.services.ports.lakehouse
    for column_type in ("TIMESTAMP", "TIMESTAMP_NTZ"):
        await night.sql(
            f"CREATE OR REPLACE TABLE {name} (id INT, ts {column_type}) USING iceberg PARTITIONED BY (days(ts))"
        )
        values = ", ".join(f"({i}, TIMESTAMP '{instant}')" for i, instant in enumerate(EDGES))
        await night.sql(f"INSERT INTO {name} VALUES {values}")

        counted = await lakehouse.count("cold.edges", "ts", WINDOW, MINUTE)
        by_minute = await lakehouse.count_by_minute("cold.edges", "ts", WINDOW, counted.snapshot_id, MINUTE)

        assert counted.rows == INSIDE, column_type
        assert by_minute == {datetime(2026, 2, 17, 0, tzinfo=UTC): 1, datetime(2026, 2, 17, 23, 59, tzinfo=UTC): 1}
        assert (await night.sql(counted.query))[0][0] == INSIDE


async def test_iceberg_is_counted_at_the_snapshot_that_was_pinned(make_night: MakeNight) -> None:
    night = await make_night(GOLD, old_snapshots=0)
    lakehouse = night.services.ports.lakehouse
    state = await night.state(GOLD)
    first = state.history[0]

    now = await lakehouse.count(GOLD, "window_start", WINDOW, MINUTE)
    then = await lakehouse.count(GOLD, "window_start", WINDOW, MINUTE, snapshot_id=first.id)

    assert now.snapshot_id == state.health.snapshot_id
    assert then.snapshot_id == first.id
    assert then.rows < now.rows


async def test_a_table_that_was_never_written_to_has_no_rows_and_no_snapshot(make_night: MakeNight) -> None:
    night = await make_night(GOLD, old_snapshots=0)
    await night.sql("CREATE TABLE {c}.cold.untouched (id INT, ts TIMESTAMP) USING iceberg")
    lakehouse = night.services.ports.lakehouse

    counted = await lakehouse.count("cold.untouched", "ts", WINDOW, MINUTE)
    state = await night.state("cold.untouched")

    assert (counted.rows, counted.snapshot_id) == (0, None)
    assert (state.health.data_files, state.health.snapshots, state.health.snapshot_id) == (0, 0, None)


async def test_gold_with_unmerged_rows_is_ok_only_because_final_is_used(make_night: MakeNight) -> None:
    night = await make_night(GOLD)
    (audit,) = (await night.run(Stage.AUDIT)).audits
    assert (audit.status, audit.ch_final) == (AuditStatus.OK, True)

    raw = await night.services.ports.source.count(Source(("ohlcv_1m",), "window_start"), WINDOW, False, MINUTE)
    assert audit.iceberg_row_count is not None
    assert raw.rows > audit.iceberg_row_count, "without FINAL this healthy table would look as if rows were missing"


async def test_a_window_by_minutes_ends_at_the_slots_whole_hour(make_night: MakeNight) -> None:
    night = await make_night(GOLD)
    (audit,) = (await night.run(Stage.AUDIT, window=window_of(SLOT + timedelta(minutes=30), 6))).audits
    assert (audit.window_start, audit.window_end) == (SLOT - timedelta(hours=6), SLOT)
    assert audit.audit_window_hours == 6


async def test_a_wrong_password_is_access_denied_and_stays_out_of_the_message(box: Sandbox) -> None:
    client = ClickHouse(ClickHouseOptions(box.clickhouse.url, "default", box.clickhouse.user, "not-the-password"))
    with pytest.raises(IcekeeperError) as caught:
        await client.count(Source(("t",), "ts"), WINDOW, None, MINUTE)
    await client.close()
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert "not-the-password" not in str(caught.value)


async def test_a_server_that_is_down_is_source_down_and_found_again_when_it_is_back(zoned: Sandbox) -> None:
    server = zoned.clickhouse
    server.execute("CREATE TABLE IF NOT EXISTS default.t (ts DateTime64(3)) ENGINE = MergeTree ORDER BY ts")
    client = ClickHouse(ClickHouseOptions(server.url, "default", server.user, server.password))
    assert (await client.count(Source(("t",), "ts"), WINDOW, None, MINUTE)).rows == 0
    server.stop()
    try:
        with pytest.raises(IcekeeperError) as caught:
            await client.count(Source(("t",), "ts"), WINDOW, None, MINUTE)
        assert caught.value.reason is Reason.SOURCE_DOWN
    finally:
        server.start()
    assert (await client.count(Source(("t",), "ts"), WINDOW, None, MINUTE)).rows == 0
    await client.close()


async def test_a_count_that_fails_leaves_the_one_beside_it_alone(zoned: Sandbox, source: ClickHouse) -> None:
    server = zoned.clickhouse
    server.execute("CREATE DATABASE IF NOT EXISTS edges")
    server.execute("CREATE OR REPLACE TABLE edges.few (ts DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY ts")
    server.execute("INSERT INTO edges.few SELECT toDateTime64('2026-02-17 12:00:00', 6, 'UTC') FROM numbers(2)")
    server.execute("CREATE OR REPLACE VIEW edges.slow AS SELECT ts FROM edges.few WHERE sleepEachRow(0.5) = 0")

    slow = asyncio.create_task(source.count(Source(("slow",), "ts"), WINDOW, False, MINUTE))
    with pytest.raises(IcekeeperError, match=r"no table edges\.nowhere"):
        await source.count(Source(("nowhere",), "ts"), WINDOW, False, MINUTE)
    assert not slow.done()
    assert (await slow).rows == 2
    assert (await source.count(Source(("few",), "ts"), WINDOW, False, MINUTE)).rows == 2
