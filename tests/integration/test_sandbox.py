"""The sandbox's servers, worlds and offload, on the real engines. What icekeeper does with them is tested elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import clickhouse_connect
import psycopg2  # type: ignore[import-untyped]  # no annotations
import pytest
import yaml
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from pyiceberg.table import Table

from icekeeper.sandbox import Offload, OffloadClock, Sandbox, SandboxError, World, WorldSpec
from icekeeper.sandbox.table_shapes import Generation
from tests.conftest import MakeNight

pytestmark = pytest.mark.long

BINANCE, COINBASE, SILVER = "cold.bronze_trades_binance", "cold.bronze_trades_coinbase", "cold.silver_trades"
GOLD, HOURLY, DAILY = "cold.gold_ohlcv_1m", "cold.gold_ohlcv_1h", "cold.gold_ohlcv_1d"
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NOW = TODAY - timedelta(hours=10)
HOUR = timedelta(hours=1)
SMALL = WorldSpec(now=NOW, days=12 / 96, tables=(BINANCE, COINBASE, SILVER, GOLD), old_snapshots=3, generation="older")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox.start(clickhouse_timezone="America/New_York") as box:
        yield box


@pytest.fixture(scope="module")
def world(box: Sandbox) -> World:
    """To be read only."""
    return box.world(SMALL)


@pytest.fixture
async def client(box: Sandbox) -> AsyncIterator[AsyncClient]:
    client = await connect(box)
    yield client
    await client.close()


async def connect(box: Sandbox, password: str | None = None) -> AsyncClient:
    server = box.clickhouse
    return await clickhouse_connect.get_async_client(
        host="127.0.0.1", port=server.port, username=server.user, password=password or server.password
    )


def table_of(world: World, name: str) -> Table:
    return world.pyiceberg_catalog().load_table(name)


def data_files(table: Table) -> int:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    return int(snapshot.summary.additional_properties["total-data-files"])


def processes_mentioning(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if text in command:
            found.append(f"{folder.name}: {command}")
    return found


def wait_until_gone(root: Path) -> None:
    deadline = time.monotonic() + 15
    while (root.exists() or processes_mentioning(str(root))) and time.monotonic() < deadline:
        time.sleep(0.05)


# --- servers


def test_a_second_sandbox_runs_beside_the_first_and_leaves_nothing_when_stopped(box: Sandbox) -> None:
    other = Sandbox.start()
    sockets = other.s3.sockets()
    try:
        assert other.clickhouse.execute("SELECT timezone()") == b"UTC\n"
        assert box.clickhouse.execute("SELECT timezone()") == b"America/New_York\n"
        assert processes_mentioning(str(other.root))
        assert any(path.exists() for path in sockets)
    finally:
        other.stop()
    other.stop()
    assert processes_mentioning(str(other.root)) == []
    assert not other.root.exists()
    assert not any(path.exists() for path in sockets)
    assert box.postgres.execute("postgres", "SELECT 1") == [(1,)]


def test_a_killed_parent_leaves_no_process_and_no_directory() -> None:
    program = (
        "from icekeeper.sandbox import Sandbox; import time; print(Sandbox.start().root, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        root = Path(parent.stdout.readline().strip())
        assert processes_mentioning(str(root))
        os.kill(parent.pid, signal.SIGKILL)
    wait_until_gone(root)
    assert processes_mentioning(str(root)) == []
    assert not root.exists()


def test_a_sandbox_in_a_closed_directory_is_kept_and_starts_again(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    root = tmp_path / "box"
    with Sandbox.start(root) as box:
        box.postgres.create_database("kept")
        box.clickhouse.execute("CREATE TABLE kept (a Int32) ENGINE = MergeTree ORDER BY a")
        with box.s3.uploads() as put:
            put("s3://warehouse/kept/a=1/b c.txt", b"kept")
            put("s3://warehouse/kept/large", b"1" * 1_000_000)  # kept elsewhere than small ones
        ports = (box.postgres.port, box.clickhouse.port)
    assert processes_mentioning(str(root)) == []
    with Sandbox.start(root) as box:
        assert (box.postgres.port, box.clickhouse.port) != ports
        assert box.postgres.execute("kept", "SELECT $1::int + 1", 1) == [(2,)]
        assert box.clickhouse.execute("EXISTS TABLE kept") == b"1\n"
        with box.s3.uploads() as put:
            put("s3://warehouse/kept/second", b"2" * 1_000_000)
        assert box.s3.list("kept/") == ["kept/a=1/b c.txt", "kept/large", "kept/second"]
        for key, byte in (("large", b"1"), ("second", b"2")):
            with box.s3.filesystem().open_input_file(f"warehouse/kept/{key}") as file:
                assert file.read() == byte * 1_000_000
        box.stop(remove=True)
    assert not root.exists()


def test_the_store_lists_every_key_of_a_long_listing(box: Sandbox) -> None:
    keys = [f"many/{number:04d}" for number in range(1100)]  # a page has 1000
    with box.s3.uploads() as put:
        for key in keys:
            put(f"s3://warehouse/{key}", b"x")
    assert box.s3.list("many/") == keys


def test_storing_into_a_missing_bucket_says_so(box: Sandbox) -> None:
    with pytest.raises(SandboxError, match="storing /no"), box.s3.uploads() as put:
        put("s3://no_such.bucket/key", b"x")


def test_postgres_wants_the_password(box: Sandbox) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(box.postgres.dsn("postgres"), password="wrong")


def test_postgres_comes_back_on_the_same_port(box: Sandbox) -> None:
    port = box.postgres.port
    box.postgres.stop()
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        box.postgres.execute("postgres", "SELECT 1")
    box.postgres.start()
    assert box.postgres.port == port
    assert box.postgres.execute("postgres", "SELECT 1") == [(1,)]


# --- ClickHouse over HTTP


async def test_clickhouse_answers_typed_parameters(client: AsyncClient) -> None:
    answer = await client.query(
        "SELECT {lo:DateTime64(6, 'UTC')} = toDateTime64('2026-02-17 00:00:00', 6, 'UTC'), {text:String}",
        parameters={"lo": datetime(2026, 2, 17, tzinfo=UTC), "text": "it's \\ ok"},
    )
    assert answer.result_rows == [(1, "it's \\ ok")]


async def test_a_zoneless_column_follows_the_session_time_zone(client: AsyncClient) -> None:
    sql = "SELECT toUnixTimestamp64Milli(toDateTime64('2026-02-17 00:00:00', 3))"
    utc = await client.query(sql, settings={"session_timezone": "UTC"})
    server = await client.query(sql)
    assert server.result_rows[0][0] - utc.result_rows[0][0] == 5 * 3600 * 1000


async def test_settings_of_a_query_do_not_leak_into_the_next(client: AsyncClient) -> None:
    asking = "SELECT getSetting('session_timezone'), getSetting('max_execution_time'), getSetting('final')"
    settings = {"session_timezone": "Asia/Tokyo", "max_execution_time": 7, "final": 1}
    assert (await client.query(asking, settings=settings)).result_rows == [("Asia/Tokyo", 7.0, True)]
    assert (await client.query(asking)).result_rows == [("", 0.0, False)]


async def test_limits_of_a_query_are_applied(client: AsyncClient) -> None:
    with pytest.raises(DatabaseError, match="TIMEOUT_EXCEEDED"):
        await client.query("SELECT count() FROM numbers(1e12)", settings={"max_execution_time": 0.1})
    with pytest.raises(DatabaseError, match="MEMORY_LIMIT_EXCEEDED"):
        await client.query("SELECT groupArray(number) FROM numbers(1e7)", settings={"max_memory_usage": 1_000_000})


async def test_rows_inserted_over_http_are_read_back(client: AsyncClient) -> None:
    await client.command("CREATE OR REPLACE TABLE pairs (a Int32, b String) ENGINE = MergeTree ORDER BY a")
    await client.insert("pairs", [[1, "x"], [2, "y"]], column_names=["a", "b"])
    assert (await client.query("SELECT * FROM pairs ORDER BY a")).result_rows == [(1, "x"), (2, "y")]


async def test_clickhouse_refuses_a_wrong_password_with_its_own_code(box: Sandbox) -> None:
    with pytest.raises(DatabaseError, match=r"Code: 516\. DB::Exception: icekeeper: Authentication failed"):
        await connect(box, password="wrong")


async def test_an_unknown_table_is_error_60(client: AsyncClient) -> None:
    with pytest.raises(DatabaseError, match=r"code: 60, .*UNKNOWN_TABLE"):
        await client.query("SELECT * FROM no_such_table")


async def test_clickhouse_comes_back_on_the_same_port_with_its_data(box: Sandbox) -> None:
    box.clickhouse.execute("CREATE OR REPLACE TABLE stays (a Int32) ENGINE = MergeTree ORDER BY a")
    box.clickhouse.execute("INSERT INTO stays VALUES (1), (2)")
    port = box.clickhouse.port
    box.clickhouse.stop()
    with pytest.raises(OperationalError):
        await connect(box)
    box.clickhouse.start()
    assert box.clickhouse.port == port
    assert box.clickhouse.execute("SELECT count() FROM stays") == b"2\n"


# --- worlds


def test_iceberg_holds_what_clickhouse_held_unmerged_up_to_the_watermark(world: World) -> None:
    for name in (BINANCE, COINBASE, SILVER):
        end = world.watermark(name)
        assert end is not None
        # The watermark is the newest row's: a microsecond more.
        start, end = NOW - timedelta(days=1), end + timedelta(microseconds=1)
        assert world.rows_iceberg(name, start, end) == world.rows_clickhouse(name, start, end) == 12 * 60
    assert world.rows_clickhouse(BINANCE, final=True) == 12 * 59  # one trade a tick was sent twice
    assert world.rows_clickhouse(SILVER, final=True) == world.rows_clickhouse(SILVER)


def test_gold_counted_raw_looks_like_missing_data_and_counted_with_final_does_not(world: World) -> None:
    start, end = NOW - timedelta(days=1), NOW
    iceberg = world.rows_iceberg(GOLD, start, end)
    assert iceberg < world.rows_clickhouse(GOLD, start, end) * 0.99
    assert iceberg > world.rows_clickhouse(GOLD, start, end, final=True)


def test_every_commit_has_its_small_files_and_the_age_it_should_have(world: World) -> None:
    table = table_of(world, BINANCE)
    ages = [NOW - datetime.fromtimestamp(each.timestamp_ms / 1000, UTC) for each in table.metadata.snapshots]
    assert [timedelta(days=8) <= age <= timedelta(days=12) for age in ages] == [True] * 3 + [False] * 12
    assert ages == sorted(ages, reverse=True)
    assert ages[-1] > timedelta(0)
    assert data_files(table) == (3 + 12) * 3
    files = table.inspect.files()
    assert set(files["record_count"].to_pylist()) == {20}
    assert table.metadata.last_updated_ms == table.metadata.snapshots[-1].timestamp_ms


def test_old_rows_are_gone_where_clickhouse_has_expired_them_and_there_where_not(world: World) -> None:
    last_week = (NOW - timedelta(days=13), NOW - timedelta(days=7))
    assert world.rows_iceberg(BINANCE, *last_week) == 3 * 60
    assert world.rows_clickhouse(BINANCE, *last_week) == 0
    assert world.rows_iceberg(SILVER, *last_week) == world.rows_clickhouse(SILVER, *last_week) == 3 * 60


def test_files_lie_in_the_platforms_partitions_with_full_metrics(world: World) -> None:
    table = table_of(world, SILVER)
    assert [field.name for field in table.spec().fields] == ["timestamp_day", "exchange", "asset_class"]
    rows = table.scan(limit=1000).to_arrow()
    assert set(rows["exchange"].to_pylist()) == {"binance", "kraken", "coinbase"}
    file = next(iter(table.scan().plan_files())).file
    names = {table.schema().find_field(number).name for number in file.lower_bounds}
    assert {"timestamp", "price", "symbol", "is_valid"} <= names


def test_the_world_is_the_same_for_the_same_spec(box: Sandbox, world: World) -> None:
    again = box.world(SMALL)
    assert again.name != world.name
    first, second = (table_of(each, GOLD).scan().to_arrow() for each in (world, again))
    order = [(column, "ascending") for column in first.column_names]
    assert first.sort_by(order).equals(second.sort_by(order))


def test_the_settings_name_every_part(world: World, tmp_path: Path) -> None:
    path = world.write_config(tmp_path / "icekeeper.yaml", tmp_path / "state")
    assert path.stat().st_mode & 0o777 == 0o600
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    assert settings["catalog"]["name"] == world.catalog_name
    assert settings["catalog"]["properties"]["jdbc.schema-version"] == "V1"
    assert settings["clickhouse"]["url"] == world.clickhouse.url
    assert settings["postgres"]["dsn"] == world.postgres.dsn(world.postgres_database)
    assert settings["tables"][0] == {
        "name": BINANCE,
        "source": "bronze_trades_binance",
        "timestamp": "exchange_timestamp",
        "layer": "bronze",
    }


def types_in_clickhouse(world: World, source: str) -> dict[str, str]:
    sql = f"SELECT name, type FROM system.columns WHERE database = '{world.clickhouse_database}' AND table = '{source}'"
    return dict(line.split("\t") for line in world.clickhouse.execute(sql).decode().splitlines())


def rules_in_clickhouse(world: World) -> dict[str, str]:
    """Engine, sorting and TTL of each table."""
    sql = f"SELECT name, engine_full FROM system.tables WHERE database = '{world.clickhouse_database}'"
    lines = (line.split("\t") for line in world.clickhouse.execute(sql).decode().splitlines())
    return {name: text.partition(" SETTINGS ")[0] for name, text in lines}


def test_both_generations_of_the_platforms_tables_are_as_it_has_them(box: Sandbox, world: World) -> None:
    few: dict[str, Any] = {"now": NOW, "days": 1 / 96, "symbols": 3, "rows_per_file": 3}
    now = box.world(WorldSpec(**few, tables=(BINANCE, COINBASE, SILVER, GOLD, DAILY)))
    rules, older = rules_in_clickhouse(now), rules_in_clickhouse(world)
    assert rules["bronze_trades_binance"] == (
        "MergeTree ORDER BY (exchange_timestamp, sequence_number) "
        "TTL toDateTime(ingestion_timestamp) + toIntervalDay(7)"
    )
    assert (
        rules["bronze_trades_coinbase"]
        == older["bronze_trades_coinbase"]
        == (
            "MergeTree ORDER BY (symbol, exchange_timestamp, sequence_number) "
            "TTL toDateTime(exchange_timestamp) + toIntervalDay(7)"
        )
    )
    assert older["bronze_trades_binance"].startswith(
        "ReplacingMergeTree(_version) ORDER BY (exchange, canonical_symbol, exchange_timestamp, sequence_number)"
    )
    assert rules["ohlcv_1m"].endswith("TTL toDateTime(window_start) + toIntervalYear(1)")
    assert rules["ohlcv_1d"].endswith("TTL toDateTime(window_start) + toIntervalYear(2)")
    types = types_in_clickhouse(now, "bronze_trades_binance")
    assert (types["price"], types["sequence_number"], types["ingestion_timestamp"]) == (
        "Decimal(18, 8)", "UInt64", "DateTime",
    )  # fmt: skip

    bronze, silver, gold = (table_of(now, name) for name in (BINANCE, SILVER, GOLD))
    assert str(bronze.schema().find_field("price").field_type) == "decimal(38, 8)"
    assert bronze.properties["write.metadata.metrics.column.symbol"] == "counts"
    counted = [key.rpartition(".")[2] for key, value in silver.properties.items() if value == "counts"]
    assert sorted(counted) == ["asset_class", "canonical_symbol", "exchange"]
    assert gold.properties["write.metadata.metrics.column.canonical_symbol"] == "counts"
    dropped = {"trade_conditions", "vendor_data", "validation_errors"}
    assert not dropped & set(silver.schema().column_names)
    assert dropped < set(table_of(world, SILVER).schema().column_names)
    assert str(table_of(world, BINANCE).schema().find_field("price").field_type) == "decimal(18, 8)"
    assert table_of(world, BINANCE).properties == {}
    file = next(iter(bronze.scan().plan_files())).file
    symbol, price = (bronze.schema().find_field(name).field_id for name in ("symbol", "price"))
    assert symbol in file.value_counts
    assert symbol not in file.lower_bounds
    assert price in file.lower_bounds


def test_a_commit_can_write_one_file_for_each_partition_that_it_touches(box: Sandbox) -> None:
    world = box.world(
        WorldSpec(now=NOW, days=4 / 96, tables=(BINANCE, SILVER, GOLD), old_snapshots=0, files_per_commit=None)
    )
    Offload(world).advance(NOW + HOUR)
    for table, partitions in ((BINANCE, 1), (SILVER, 3), (GOLD, 3)):
        for snapshot in table_of(world, table).metadata.snapshots:
            assert snapshot.summary is not None
            numbers = snapshot.summary.additional_properties
            assert numbers["added-data-files"] == numbers["changed-partition-count"]
            assert int(numbers["added-data-files"]) in (partitions, partitions + 1)  # a few equities among the coins


STATUS = """
    SELECT status, updated_at, last_successful_run, last_run_duration_seconds, last_offload_timestamp
    FROM offload_watermarks WHERE table_name = $1
"""


def test_a_cycle_without_rows_leaves_the_status_running(box: Sandbox) -> None:
    world = box.world(WorldSpec(now=NOW, days=4 / 96, tables=(COINBASE, HOURLY), old_snapshots=0))

    def status(source: str) -> tuple[Any, ...]:
        (row,) = world.postgres.execute(world.postgres_database, STATUS, source)
        return row

    hour = NOW.replace(minute=0) + HOUR
    clock = OffloadClock(Offload(world), NOW)
    clock.skip(hour)
    clock.move(hour + timedelta(minutes=15, seconds=10))  # amid the cycle that finds the hour's candles
    began = hour + timedelta(minutes=15, seconds=5)
    assert status("ohlcv_1h")[:2] == status("bronze_trades_coinbase")[:2] == ("running", began)
    clock.move(hour + timedelta(minutes=16))
    ended = hour + timedelta(minutes=15, seconds=20)
    assert status("ohlcv_1h") == ("success", ended, ended, 20, hour)
    rows = world.rows_iceberg(COINBASE)
    clock.move(hour + timedelta(minutes=31))
    began = hour + timedelta(minutes=30, seconds=5)
    assert status("ohlcv_1h") == ("running", began, ended, 20, hour)
    assert status("bronze_trades_coinbase")[0] == "success"
    assert world.rows_iceberg(COINBASE) == rows + 60
    assert clock.now() == hour + timedelta(minutes=31)


def test_a_lost_hour_is_in_clickhouse_only(box: Sandbox) -> None:
    lost = NOW.replace(minute=0) - 2 * HOUR
    world = box.world(
        WorldSpec(now=NOW, days=12 / 96, tables=(COINBASE, SILVER), old_snapshots=0, lost=((COINBASE, lost),))
    )
    assert world.rows_iceberg(COINBASE, lost, lost + HOUR) == 0
    assert world.rows_clickhouse(COINBASE, lost, lost + HOUR) == 4 * 60
    assert world.rows_iceberg(SILVER, lost, lost + HOUR) == 4 * 60


def test_the_offload_moves_on_tick_by_tick_and_can_lose_an_hour(box: Sandbox) -> None:
    world = box.world(WorldSpec(now=NOW, days=4 / 96, tables=(BINANCE, GOLD), old_snapshots=0))
    offload = Offload(world)
    first = world.watermark(BINANCE)
    snapshots = len(table_of(world, BINANCE).metadata.snapshots)
    assert offload.advance(NOW + HOUR) == 2 * 4 * 60
    assert len(table_of(world, BINANCE).metadata.snapshots) == snapshots + 4
    last = world.watermark(BINANCE)
    assert first is not None
    assert last is not None
    assert abs(last - first - HOUR) < timedelta(minutes=1)
    status = "SELECT status, last_offload_row_count, failure_count FROM offload_watermarks WHERE table_name = $1"
    assert world.postgres.execute(world.postgres_database, status, "bronze_trades_binance") == [("success", 60, 0)]

    lost = last.replace(minute=0, second=0, microsecond=0) + HOUR
    offload.advance(lost + 2 * HOUR, lose=[lost], table=BINANCE)
    assert world.rows_iceberg(BINANCE, lost, lost + HOUR) == 0
    assert world.rows_clickhouse(BINANCE, lost, lost + HOUR) == 4 * 60
    assert world.rows_iceberg(GOLD, lost, lost + HOUR) > 0

    odd = lost + 2 * HOUR + timedelta(minutes=3, seconds=20)
    before = world.rows_iceberg(BINANCE)
    added = offload.run(BINANCE, at=odd)
    assert world.rows_iceberg(BINANCE) == before + added
    newest, behind = world.watermark(BINANCE), world.watermark(GOLD)
    assert newest is not None
    assert odd - timedelta(minutes=6) < newest <= odd - timedelta(minutes=5)
    assert behind is not None
    assert behind < odd - timedelta(minutes=10)
    assert offload.run(BINANCE, at=odd) == 0
    offload.advance(lost + 3 * HOUR)
    end = world.traded_until() + timedelta(microseconds=1)
    assert world.watermark(GOLD) == world.traded_until()  # the start of the newest candle
    assert world.rows_iceberg(BINANCE, odd, end) == world.rows_clickhouse(BINANCE, odd, end)
    assert world.rows_iceberg(GOLD, lost, end) == world.rows_clickhouse(GOLD, lost, end)


def test_late_rows_stay_behind_the_watermark(box: Sandbox) -> None:
    world = box.world(WorldSpec(now=NOW, days=12 / 96, tables=(BINANCE, SILVER, GOLD), old_snapshots=0))
    hour = NOW.replace(minute=0) - 2 * HOUR
    for name in (BINANCE, SILVER, GOLD):
        before = world.rows_clickhouse(name, hour, hour + HOUR)
        final = world.rows_clickhouse(name, hour, hour + HOUR, final=True)
        assert world.late_rows(name, hour, rows=7) == 7
        assert world.late_rows(name, hour, rows=7) == 7
        assert world.rows_clickhouse(name, hour, hour + HOUR) == before + 14
        assert world.rows_clickhouse(name, hour, hour + HOUR, final=True) == final + 14
    held = world.rows_clickhouse(BINANCE, hour, hour + HOUR)
    assert world.lose_hour(BINANCE, hour, hour.hour) == held
    assert Offload(world).run(at=world.traded_until() + timedelta(minutes=5)) == 0
    with pytest.raises(SandboxError, match="not behind the watermark"):
        world.late_rows(BINANCE, NOW, rows=1)


def test_merging_folds_what_final_would_fold_and_drops_no_old_row(box: Sandbox) -> None:
    world = box.world(WorldSpec(now=NOW, days=4 / 96, tables=(SILVER, GOLD), old_snapshots=2, seed=3))
    final = world.rows_clickhouse(GOLD, final=True)
    assert world.rows_clickhouse(GOLD) > final
    world.merge(GOLD)
    assert world.rows_clickhouse(GOLD) == final
    world.merge(SILVER)
    assert world.rows_clickhouse(SILVER) == (2 + 4) * 60


def test_a_rest_world_and_a_hadoop_world_take_commits(box: Sandbox) -> None:
    for kind in ("rest", "hadoop"):
        spec = WorldSpec(now=NOW, days=4 / 96, tables=(BINANCE, SILVER), old_snapshots=0, catalog=kind)
        world = box.world(spec)
        assert world.rows_iceberg(BINANCE) == 4 * 60
        assert Offload(world).advance(NOW + HOUR) == 2 * 4 * 60
        assert world.rows_iceberg(BINANCE) == world.rows_clickhouse(BINANCE) == 8 * 60
        assert world.catalog_settings()["type"] == kind


def test_a_cached_world_is_a_world_of_its_own_each_time(tmp_path: Path) -> None:
    spec = WorldSpec(now=NOW, days=4 / 96, tables=(BINANCE,), old_snapshots=1)
    for _ in range(2):
        with Sandbox.from_cache(tmp_path / "cache", spec) as box:
            world = box.worlds["world1"]
            assert world.rows_iceberg(BINANCE) == 5 * 60
            assert Offload(world).advance(NOW + HOUR) == 4 * 60
            assert world.rows_iceberg(BINANCE) == 9 * 60
            assert len(table_of(world, BINANCE).scan().to_arrow()) == 9 * 60


@pytest.mark.parametrize("generation", ["current", "older"])
async def test_spark_reads_a_jdbc_world_and_writes_to_it(make_night: MakeNight, generation: Generation) -> None:
    night = await make_night(
        BINANCE, now=NOW, days=4 / 96, commits_per_day=96, rows_per_file=20, symbols=34, old_snapshots=2,
        generation=generation,
    )  # fmt: skip

    async def number(statement: str) -> int:
        return int((await night.sql(statement))[0][0])

    table = f"{{c}}.{BINANCE}"
    assert await number(f"SELECT count(price) FROM {table}") == 6 * 60
    assert await number(f"SELECT count(*) FROM {table}.files WHERE readable_metrics.price.lower_bound > 0") == 6 * 3
    assert await number(f"SELECT count(*) FROM {table}.snapshots") == 6
    await night.sql(f"INSERT INTO {table} SELECT * FROM {table} LIMIT 5")
    # The offload goes on after maintenance by the wall clock.
    assert await asyncio.to_thread(Offload(night.world).advance, NOW + HOUR) == 4 * 60
    assert night.world.rows_iceberg(BINANCE) == 10 * 60 + 5
