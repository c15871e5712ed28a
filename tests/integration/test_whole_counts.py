"""A count of ClickHouse is whole, or an error: limits and filters of the profile, row policies, types, merging."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.counting import ClickHouse
from icekeeper.core.audit.records import SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.clickhouse import ClickHouse as Server
from icekeeper.sandbox.servers.process import Janitor
from tests.conftest import SLOT
from tests.integration.clickhouse_users import restart_with_users

WINDOW = window_of(SLOT)
ROWS = 1000
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
                sum((await source.count_by_hour(Source(("t",), "ts"), WINDOW, False, timedelta(minutes=1))).values())
                == ROWS
            )
            return
        with pytest.raises(IcekeeperError, match=refusal) as raised:
            await count(source)
        assert raised.value.reason is Reason.SOURCE_LIMITED


async def test_a_row_policy_is_an_error_also_behind_a_view_and_a_merge_table(clickhouse: Engine) -> None:
    for condition in ("n &lt; 10", "0"):
        async with clickhouse.source(policies=f"<t><filter>{condition}</filter></t>") as source:
            for table in ("t", "v", "m"):
                with pytest.raises(IcekeeperError, match="hides rows from user icekeeper") as raised:
                    await count(source, table)
                assert raised.value.reason is Reason.SOURCE_FILTERED
    async with clickhouse.source(policies="<t><filter>1</filter></t>") as source:
        assert (await count(source)).rows == ROWS


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
        by_hour = await source.count_by_hour(Source((name,), "ts"), WINDOW, True, timedelta(minutes=1))
        assert sum(by_hour.values()) == rows, name


@pytest.mark.parametrize("kind", ["Int64", "UInt64", "UInt32", "Float64", "String", "Decimal(18, 3)"])
async def test_an_event_time_that_is_no_instant_is_an_error(box: Sandbox, source: ClickHouse, kind: str) -> None:
    box.clickhouse.execute(f"CREATE OR REPLACE TABLE whole.epochs (ts {kind}) ENGINE = MergeTree ORDER BY ts")
    value = f"'{WINDOW.start.timestamp():.0f}'"
    box.clickhouse.execute(f"INSERT INTO whole.epochs VALUES ({value})")
    with pytest.raises(IcekeeperError, match=f"the event time ts is {kind.partition('(')[0]}") as raised:
        await count(source, "epochs")
    assert raised.value.reason is Reason.SOURCE_TYPE
