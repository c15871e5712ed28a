"""A count of ClickHouse is whole, or an error: limits and filters of the profile, row policies, types, merging."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.counting import ClickHouse
from icekeeper.core.audit.records import SourceCount, SourceTtl
from icekeeper.core.audit.source import Source, TimestampAs
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.clickhouse import ClickHouse as Server
from icekeeper.sandbox.servers.process import Janitor
from tests.conftest import SLOT
from tests.integration.clickhouse_users import restart_with_users

WINDOW = window_of(SLOT)
ROWS = 1000
MINUTE = timedelta(minutes=1)
_DAY = f"toDateTime64('{WINDOW.start:%Y-%m-%d}', 3, 'UTC')"


class Engine:
    """A ClickHouse with a table of ROWS rows in the window, started anew with other users."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._janitor = Janitor()
        self._server = Server(directory, self._janitor, password="secret")
        self._server.start()
        self._server.execute("CREATE DATABASE k2")
        self._server.execute("CREATE TABLE k2.t (ts DateTime64(3), n UInt64) ENGINE = MergeTree ORDER BY n")
        self._server.execute("CREATE VIEW k2.v AS SELECT * FROM k2.t")
        self._server.execute("CREATE TABLE k2.m AS k2.t ENGINE = Merge(k2, '^t$')")
        for part in range(2):
            self._server.execute(f"INSERT INTO k2.t SELECT {_DAY} + number, number FROM numbers({part * 500}, 500)")

    @asynccontextmanager
    async def source(self, profile: str = "", policies: str = "") -> AsyncIterator[ClickHouse]:
        """The table as a user with this profile and these row policies sees it."""
        rights = f"<databases><k2>{policies}</k2></databases>"
        restart_with_users(self._server, self._directory, profile=profile, rights=rights)
        server = self._server
        client = ClickHouse(ClickHouseOptions(server.url, "k2", server.user, server.password))
        try:
            yield client
        finally:
            await client.close()

    def change(self, profile: str) -> None:
        """Another profile, for clients that are connected, too."""
        restart_with_users(self._server, self._directory, profile=profile)

    def close(self) -> None:
        self._server.stop()
        self._janitor.dismiss()


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("clickhouse"))
    yield engine
    engine.close()


async def count(source: ClickHouse, table: str = "t", timestamp: str = "ts", final: bool | None = None) -> SourceCount:
    return await source.count(Source((table,), timestamp), WINDOW, final, timedelta(minutes=1))


FILTER = "<additional_table_filters>{'k2.t': 'n &lt; 10'}</additional_table_filters>"
BREAK = "<max_rows_to_read>100</max_rows_to_read><read_overflow_mode>break</read_overflow_mode>"
READONLY = "<readonly>1</readonly>"


@pytest.mark.parametrize(
    ("profile", "refusal"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param(FILTER, "", id="a filter"),
        pytest.param(BREAK, "TOO_MANY_ROWS", id="a limit"),
        pytest.param(READONLY, "", id="readonly"),
        pytest.param(READONLY + FILTER, "fixes additional_table_filters = ", id="readonly, a filter"),
        pytest.param(READONLY + BREAK, "fixes read_overflow_mode = 'break'", id="readonly, a limit"),
        pytest.param(
            f"{BREAK}<constraints><read_overflow_mode><const/></read_overflow_mode></constraints>",
            "fixes read_overflow_mode = 'break'",
            id="a constraint",
        ),
    ],
)
async def test_what_a_profile_would_cut_off_is_counted_or_an_error(
    clickhouse: Engine, profile: str, refusal: str
) -> None:
    async with clickhouse.source(profile) as source:
        if not refusal:
            assert (await count(source)).rows == ROWS
            assert (
                sum((await source.count_by_minute(Source(("t",), "ts"), WINDOW, False, timedelta(minutes=1))).values())
                == ROWS
            )
            return
        with pytest.raises(IcekeeperError, match=refusal) as raised:
            await count(source)
        assert raised.value.reason is Reason.SOURCE_LIMITED


async def test_a_profile_that_changes_under_a_connection_leaves_no_setting_out(clickhouse: Engine) -> None:
    async with clickhouse.source(READONLY + BREAK) as source:
        with pytest.raises(IcekeeperError, match="fixes read_overflow_mode = 'break'"):
            await count(source)
        clickhouse.change("<readonly>2</readonly>" + BREAK)  # as doctor advises
        with pytest.raises(IcekeeperError, match="TOO_MANY_ROWS"):
            await count(source)
        clickhouse.change("")
        assert (await count(source)).rows == ROWS


async def test_a_row_policy_is_an_error_also_behind_a_view_and_a_merge_table(clickhouse: Engine) -> None:
    for condition in ("n &lt; 10", "0"):
        async with clickhouse.source(policies=f"<t><filter>{condition}</filter></t>") as source:
            for table in ("t", "v", "m"):
                with pytest.raises(IcekeeperError, match="hides rows from user icekeeper") as raised:
                    await count(source, table)
                assert raised.value.reason is Reason.SOURCE_FILTERED
                with pytest.raises(IcekeeperError, match="hides rows from user icekeeper"):
                    await source.count(Source((table,), "ts", where="n >= 0"), WINDOW, None, MINUTE)
    async with clickhouse.source(policies="<t><filter>1</filter></t>") as source:
        assert (await count(source)).rows == ROWS
        for table in ("t", "v", "m"):
            some = Source((table,), "ts", where="n < 100")
            assert (await source.count(some, WINDOW, None, MINUTE)).rows == 100, "our own condition hides none"


# --- rows that will be merged, and types


@pytest.fixture
async def source(box: Sandbox) -> AsyncIterator[ClickHouse]:
    server = box.clickhouse
    server.execute("CREATE DATABASE IF NOT EXISTS whole")
    client = ClickHouse(ClickHouseOptions(server.url, "whole", server.user, server.password))
    yield client
    await client.close()


_UNMERGED = (f"({_DAY}, 'a', 1, 1)", f"({_DAY}, 'a', 2, 1)", f"({_DAY}, 'b', 1, 1)")
_CANCELLED = (f"({_DAY}, 'a', 1, 1)", f"({_DAY}, 'a', 1, -1)", f"({_DAY}, 'a', 2, 1)", f"({_DAY}, 'b', 1, 1)")


@pytest.mark.parametrize(
    ("engine", "inserts", "rows"),
    [
        ("MergeTree", _UNMERGED, 3),
        ("ReplacingMergeTree(version)", _UNMERGED, 2),
        ("SummingMergeTree(version)", _UNMERGED, 2),
        ("AggregatingMergeTree", _UNMERGED, 2),
        ("CoalescingMergeTree", _UNMERGED, 2),
        ("CollapsingMergeTree(sign)", _CANCELLED, 2),
        ("VersionedCollapsingMergeTree(sign, version)", _CANCELLED, 2),
    ],
)
async def test_rows_of_one_key_are_merged_in_every_engine_and_behind_what_reads_it(
    box: Sandbox, source: ClickHouse, engine: str, inserts: tuple[str, ...], rows: int
) -> None:
    def execute(sql: str) -> None:
        box.clickhouse.execute(sql, database="whole")

    for name in ("viewed", "merged", "viewed_twice"):
        execute(f"DROP TABLE IF EXISTS {name}")
    execute(
        f"CREATE OR REPLACE TABLE t (ts DateTime64(3), k String, version UInt8, sign Int8) ENGINE = {engine} "
        "ORDER BY (k, ts) SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1"
    )
    execute("CREATE VIEW viewed AS SELECT * FROM t")
    execute("CREATE VIEW viewed_twice AS SELECT ts, k FROM viewed")
    execute("CREATE TABLE merged AS t ENGINE = Merge(whole, '^t$')")
    for row in inserts:
        execute(f"INSERT INTO t VALUES {row}")

    for name in ("t", "viewed", "viewed_twice", "merged"):
        counted = await count(source, name)
        assert counted.rows == rows, name
        assert int(box.clickhouse.execute(counted.query)) == rows, name
        assert (await count(source, name, final=False)).rows == len(inserts), name
        by_minute = await source.count_by_minute(Source((name,), "ts"), WINDOW, True, timedelta(minutes=1))
        assert sum(by_minute.values()) == rows, name


# --- event times


_SECOND = int(WINDOW.start.timestamp())


def made(box: Sandbox, kind: str, *values: object, name: str = "epochs") -> None:
    """A table whose event time `ts` is of this type, with these values."""
    definition = f"(ts {kind}) ENGINE = MergeTree ORDER BY ts SETTINGS allow_nullable_key = 1"
    box.clickhouse.execute(f"CREATE OR REPLACE TABLE whole.{name} {definition}")
    if values:
        rows = ", ".join("(NULL)" if value is None else f"('{value}')" for value in values)
        box.clickhouse.execute(f"INSERT INTO whole.{name} VALUES {rows}")


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("Int64", _SECOND, "timestamp_as: epoch_s}$"),
        ("Int64", _SECOND * 1000, "timestamp_as: epoch_ms}$"),
        ("UInt64", _SECOND * 10**6, "timestamp_as: epoch_us}$"),
        ("UInt64", _SECOND * 10**9, "nanoseconds are read from a view"),
        ("UInt32", _SECOND, "timestamp_as: epoch_s}$"),
        ("Float64", _SECOND, "timestamp_as: epoch_s}$"),
        ("Decimal(18, 3)", _SECOND, "timestamp_as: epoch_s}$"),
        ("Nullable(Int64)", _SECOND * 1000, "timestamp_as: epoch_ms}$"),
        ("Int64", 5, r"timestamp_as: epoch_s} \(or epoch_ms, epoch_us\)$"),
        ("String", f"{WINDOW.start:%Y-%m-%d}", "timestamp_as: text}$"),
        ("LowCardinality(String)", _SECOND, "timestamp_as: text}$"),
        ("UUID", "00000000-0000-0000-0000-000000000000", "name a column of another type"),
    ],
)
async def test_an_event_time_that_is_no_instant_is_an_error_with_what_to_write(
    box: Sandbox, source: ClickHouse, kind: str, value: object, words: str
) -> None:
    made(box, kind, value)
    with pytest.raises(IcekeeperError, match=f"the event time ts is {re.escape(kind)}.*{words}") as raised:
        await count(source, "epochs")
    assert raised.value.reason is Reason.SOURCE_TYPE
    with pytest.raises(IcekeeperError, match=words):
        await source.rehearse(Source(("epochs",), "ts"), None, WINDOW)


_END = int(WINDOW.end.timestamp())
_INSIDE, _OUTSIDE = (_SECOND, _END - 1), (_SECOND - 1, _END)
_DAYS = tuple(f"{WINDOW.start + timedelta(days=day):%Y-%m-%d}" for day in (-1, 0, 0, 1))
_HALF_PAST = f"{WINDOW.start + timedelta(minutes=30):%Y-%m-%d %H:%M}"
_TEXTS = (
    f"{_HALF_PAST}:00",
    f"{_HALF_PAST.replace(' ', 'T')}:00.123456789Z",
    f"{_HALF_PAST}",
    f"{_DAYS[1]}",
    f"{_DAYS[1]}T23:59:59.9999999Z",
    f"{_DAYS[3]} 01:30:00+02:00",
    f"{_DAYS[0]}T23:59:59Z",
    f"{_DAYS[3]}T00:00:00Z",
    f"{_DAYS[1]} 01:59:59+02:00",
)


@pytest.mark.parametrize(
    ("stored", "kind", "values", "rows", "newest"),
    [
        ("epoch_s", "Int64", (*_INSIDE, *_OUTSIDE), 2, _END - 1),
        ("epoch_s", "UInt32", (*_INSIDE, *_OUTSIDE), 2, _END - 1),
        ("epoch_s", "Nullable(UInt64)", (*_INSIDE, *_OUTSIDE, None), 2, _END - 1),
        ("epoch_s", "Float64", (*_INSIDE, *_OUTSIDE, _END - 0.5), 3, _END - 0.5),
        ("epoch_s", "Decimal(18, 6)", (*_INSIDE, *_OUTSIDE, _END - 0.5), 3, _END - 0.5),
        ("epoch_ms", "Int64", [1000 * second for second in (*_INSIDE, *_OUTSIDE)], 2, _END - 1),
        ("epoch_ms", "UInt64", [_SECOND * 1000, _END * 1000 - 1, _SECOND * 1000 - 1], 2, _END - 0.001),
        ("epoch_us", "Int64", [_SECOND * 10**6, _END * 10**6 - 1, _SECOND * 10**6 - 1], 2, _END - 0.000001),
        ("date", "Date", _DAYS, 2, _SECOND),
        ("date", "Date32", _DAYS, 2, _SECOND),
        (None, "Date", _DAYS, 2, _SECOND),
        ("text", "String", _TEXTS, 6, _END - 0.000001),
        ("text", "Nullable(String)", (*_TEXTS, None), 6, _END - 0.000001),
        ("text", "LowCardinality(Nullable(String))", (*_TEXTS, None), 6, _END - 0.000001),
    ],
)
async def test_event_times_are_counted_however_they_are_stored(
    box: Sandbox,
    source: ClickHouse,
    stored: TimestampAs | None,
    kind: str,
    values: Sequence[object],
    rows: int,
    newest: float,
) -> None:
    made(box, kind, *values)
    described = Source(("epochs",), "ts", stored)
    await source.rehearse(described, None, WINDOW)
    counted = await source.count(described, WINDOW, None, MINUTE)
    assert counted.rows == rows
    assert int(box.clickhouse.execute(counted.query)) == rows, "the query as anyone can run it again"
    assert await source.newest(described, WINDOW, MINUTE) == datetime.fromtimestamp(newest, UTC)
    if kind.startswith("Date"):
        with pytest.raises(IcekeeperError, match=f"is {kind}, which knows no minutes"):
            await source.count_by_minute(described, WINDOW, False, MINUTE)
    else:
        by_minute = await source.count_by_minute(described, WINDOW, False, MINUTE)
        assert sum(by_minute.values()) == rows
        assert all(WINDOW.start <= minute < WINDOW.end and not minute.second for minute in by_minute)


@pytest.mark.parametrize(
    ("stored", "kind", "value", "words"),
    [
        (
            "epoch_s",
            "Int64",
            _SECOND * 1000,
            "which are no epoch_s: write source: {table: epochs, timestamp_as: epoch_ms}",
        ),
        ("epoch_ms", "UInt64", _SECOND * 10**6, "timestamp_as: epoch_us"),
        ("epoch_us", "Int64", _SECOND, "timestamp_as: epoch_s"),
        ("epoch_us", "Int64", _SECOND * 10**9, "nanoseconds are read from a view"),
        ("epoch_ms", "String", _SECOND, "can't be read as epoch_ms: write source: {table: epochs, timestamp_as: text}"),
        ("text", "Int64", _SECOND, "can't be read as text: write source: {table: epochs, timestamp_as: epoch_s}"),
        ("date", "Int64", _SECOND, "timestamp_as: epoch_s"),
        ("epoch_s", "DateTime64(3)", _HALF_PAST, "leave source.timestamp_as out"),
        ("text", "Date", _DAYS[1], "leave source.timestamp_as out"),
    ],
)
async def test_a_type_or_a_unit_that_the_settings_mistake_is_never_0_rows(
    box: Sandbox, source: ClickHouse, stored: TimestampAs, kind: str, value: object, words: str
) -> None:
    made(box, kind, value)
    described = Source(("epochs",), "ts", stored)
    for asked in (source.count(described, WINDOW, None, MINUTE), source.rehearse(described, None, WINDOW)):
        with pytest.raises(IcekeeperError, match=re.escape(words)) as raised:
            await asked
        assert raised.value.reason is Reason.SOURCE_TYPE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "10:20",
        "2026",
        "20260217",
        "17/02/2026 10:00:00",
        "2026-02-30",
        "2026-02-17 25:00:00",
        "0000-00-00",
    ],
)
async def test_text_that_is_no_date_and_time_is_an_error_and_no_lost_row(
    box: Sandbox, source: ClickHouse, text: str
) -> None:
    made(box, "String", _DAYS[1], text)
    described = Source(("epochs",), "ts", "text")
    by_minute = source.count_by_minute(described, WINDOW, False, MINUTE)
    for ask in (source.count(described, WINDOW, None, MINUTE), by_minute):
        with pytest.raises(IcekeeperError, match=f"no ISO 8601 date and time in 1 rows, like '{text}'") as raised:
            await ask
        assert raised.value.reason is Reason.SOURCE_TYPE
    # Rows that are not offloaded don't matter.
    some = replace(described, where=f"ts != '{text}'")
    assert (await source.count(some, WINDOW, None, MINUTE)).rows == 1


@pytest.mark.parametrize("stored", ["date", None])
async def test_days_are_counted_in_whole_utc_days_only(
    box: Sandbox, source: ClickHouse, stored: TimestampAs | None
) -> None:
    made(box, "Date", *_DAYS)
    described, hours = Source(("epochs",), "ts", stored), window_of(SLOT, 6)
    with pytest.raises(IcekeeperError, match=r"only whole UTC days can be counted.*leave --window-hours out") as raised:
        await source.count(described, hours, None, MINUTE)
    assert raised.value.reason is Reason.SOURCE_TYPE


@pytest.mark.parametrize(
    ("stored", "kind", "first", "step"),
    [("epoch_ms", "Int64", (_SECOND - 86400) * 1000, 1000), ("date", "Date", 20400, 0.001)],
)
async def test_a_count_of_epochs_and_days_reads_by_the_sorting_key(
    box: Sandbox, source: ClickHouse, stored: TimestampAs, kind: str, first: int, step: float
) -> None:
    made(box, kind)
    box.clickhouse.execute(f"INSERT INTO whole.epochs SELECT toInt64({first} + number * {step}) FROM numbers(200000)")
    counted = await source.count(Source(("epochs",), "ts", stored), WINDOW, None, MINUTE)
    plan = str(box.clickhouse.execute(f"EXPLAIN indexes = 1 {counted.query}"))
    granules = re.search(r"PrimaryKey.*?Granules: (\d+)/(\d+)", plan, re.DOTALL)
    assert granules is not None, plan
    assert int(granules[1]) < int(granules[2]), plan


# --- several tables, and conditions


async def test_several_tables_are_counted_together_each_by_its_own_engine(box: Sandbox, source: ClickHouse) -> None:
    def execute(sql: str) -> None:
        box.clickhouse.execute(sql, database="whole")

    execute("CREATE DATABASE IF NOT EXISTS elsewhere")
    columns = "(ts DateTime64(3), k String, version UInt8)"
    execute(
        f"CREATE OR REPLACE TABLE replacing {columns} ENGINE = ReplacingMergeTree(version) ORDER BY k "
        "TTL toDateTime(ts) + INTERVAL 9000 DAY"
    )
    plain = f"CREATE OR REPLACE TABLE elsewhere.plain {columns} ENGINE = MergeTree ORDER BY k"
    execute(f"{plain} TTL toDateTime(ts) + INTERVAL 5000 DAY")
    for version in (1, 2):
        for table in ("replacing", "elsewhere.plain"):
            execute(f"INSERT INTO {table} VALUES ({_DAY}, 'a', {version})")
    both = Source(("replacing", "elsewhere.plain"), "ts")
    await source.rehearse(both, None, WINDOW)
    counted = await source.count(both, WINDOW, None, MINUTE)
    assert (counted.rows, counted.final) == (3, True)
    assert counted.ttl == SourceTtl(timedelta(days=5000), timedelta(days=5000), "ts"), "the shortest"
    assert int(box.clickhouse.execute(counted.query)) == 3
    assert await source.count_by_minute(both, WINDOW, True, MINUTE) == {WINDOW.start: 3}
    assert await source.newest(both, WINDOW, MINUTE) == WINDOW.start
    with pytest.raises(IcekeeperError, match=r"no table whole\.absent"):
        await source.count(Source(("replacing", "absent"), "ts"), WINDOW, None, MINUTE)


async def test_a_condition_is_applied_to_merged_rows(box: Sandbox, source: ClickHouse) -> None:
    box.clickhouse.execute(
        "CREATE OR REPLACE TABLE whole.deleting (ts DateTime64(3), k String, version UInt8, is_deleted UInt8) "
        "ENGINE = ReplacingMergeTree(version) ORDER BY k"
    )
    for row in ("'a', 1, 0", "'a', 2, 1", "'b', 1, 0"):
        box.clickhouse.execute(f"INSERT INTO whole.deleting VALUES ({_DAY}, {row})")
    some = Source(("deleting",), "ts", where="is_deleted = 0 OR k = 'never'")
    counted = await source.count(some, WINDOW, None, MINUTE)
    assert counted.rows == 1, "the newest row of a says that it is deleted"
    assert int(box.clickhouse.execute(counted.query)) == 1
    assert await source.count_by_minute(some, WINDOW, True, MINUTE) == {WINDOW.start: 1}
    other = replace(some, where="is_deleted = 1")
    assert (await source.count(other, Window(WINDOW.end, WINDOW.end + timedelta(days=1)), None, MINUTE)).rows == 0


@pytest.mark.parametrize(
    ("where", "reason", "words"),
    [
        ("k =", Reason.SOURCE_TYPE, r"source.where \(k =\) is no condition"),
        ("k", Reason.SOURCE_TYPE, "is no condition"),
        ("count() > 1", Reason.SOURCE_TYPE, "is no condition"),
        ("is_deleted = 0", Reason.SOURCE_TABLE_NOT_FOUND, "is_deleted"),
    ],
)
async def test_a_condition_that_is_none_is_an_error_that_names_it(
    box: Sandbox, source: ClickHouse, where: str, reason: Reason, words: str
) -> None:
    box.clickhouse.execute(
        "CREATE OR REPLACE TABLE whole.some (ts DateTime64(3), k String) ENGINE = MergeTree ORDER BY k"
    )
    with pytest.raises(IcekeeperError, match=words) as raised:
        await source.count(Source(("some",), "ts", where=where), WINDOW, None, MINUTE)
    assert raised.value.reason is reason
