"""Both engines make the same text of a key, and the same fingerprints of many: for every type that a key may have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.keyed import KeyedClickHouse
from icekeeper.core.audit.keys import Key, KeyQuery, agreed_key, values_of
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from tests.conftest import GOLD, SLOT, MakeNight, Night
from tests.integration.clickhouse_users import restart_as_made, restart_with_users

MINUTE = timedelta(minutes=1)
WINDOW = window_of(SLOT)
SOURCE = Source(("t",), "ts")
ROWS = 200
_DAY = WINDOW.start.strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class Column:
    """A column of a type on each side, the values that it may have, and how each engine writes one."""

    clickhouse: str
    iceberg: str
    values: st.SearchStrategy[Any]
    to_clickhouse: Any = str
    to_spark: Any = str
    text: Any = str


def _decimals(digits: int, places: int) -> st.SearchStrategy[Decimal]:
    most = 10**digits - 1
    return st.integers(-most, most).map(lambda number: Decimal(number).scaleb(-places))


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _hex(value: str | bytes) -> str:
    return (value.encode() if isinstance(value, str) else value).hex()


def _instants(micros: int) -> st.SearchStrategy[datetime]:
    least, most = datetime(1925, 1, 1), datetime(2250, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
    step = timedelta(microseconds=micros)
    return st.datetimes(least, most, timezones=st.just(UTC)).map(
        lambda instant: instant - (instant - datetime(1970, 1, 1, tzinfo=UTC)) % step
    )


def _micros(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


_DATES = st.dates(date(1925, 1, 1), date(2250, 1, 1))
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def _decimal(clickhouse: str, iceberg: str, digits: int, places: int) -> Column:
    return Column(
        clickhouse,
        iceberg,
        _decimals(digits, places),
        to_clickhouse=lambda value: f"toDecimal128('{value:f}', {places})",
        to_spark=lambda value: f"CAST('{value:f}' AS {iceberg})",
        text=_plain,
    )


def _instant(clickhouse: str, iceberg: str, micros: int) -> Column:
    return Column(
        clickhouse,
        iceberg,
        _instants(micros),
        to_clickhouse=lambda value: f"fromUnixTimestamp64Micro(toInt64({_micros(value)}), 'UTC')",
        to_spark=lambda value: f"timestamp_micros({_micros(value)}L)",
        text=_iso,
    )


def _text(clickhouse: str, values: st.SearchStrategy[str] = _TEXTS) -> Column:
    return Column(
        clickhouse,
        "STRING",
        values,
        to_clickhouse=lambda value: f"unhex('{_hex(value)}')",
        to_spark=lambda value: f"CAST(unhex('{_hex(value)}') AS STRING)",
    )


COLUMNS = {
    "tiny": Column("UInt8", "INT", st.integers(0, 255)),
    "int": Column("Nullable(Int32)", "INT", st.integers(-(2**31), 2**31 - 1)),
    "long": Column("Nullable(UInt64)", "BIGINT", st.integers(0, 2**63 - 1), to_spark=lambda value: f"{value}L"),
    "signed": Column(
        "Nullable(Int64)", "BIGINT", st.integers(-(2**63) + 1, 2**63 - 1), to_spark=lambda value: f"{value}L"
    ),
    "flag": Column("Nullable(Bool)", "BOOLEAN", st.booleans(), text=lambda value: str(int(value))),
    "flag_number": Column("UInt8", "BOOLEAN", st.booleans(), text=lambda value: str(int(value))),
    "narrow": _decimal("Nullable(Decimal(18, 8))", "DECIMAL(38, 8)", 18, 8),
    "wide": _decimal("Nullable(Decimal(38, 8))", "DECIMAL(38, 8)", 37, 8),
    "other_scale": _decimal("Nullable(Decimal(18, 4))", "DECIMAL(28, 10)", 18, 4),
    "whole": _decimal("Nullable(Decimal(38, 0))", "DECIMAL(38, 0)", 37, 0),
    "fraction": _decimal("Nullable(Decimal(38, 36))", "DECIMAL(38, 36)", 37, 36),
    "fuller": _decimal("Nullable(Decimal(76, 8))", "DECIMAL(38, 8)", 37, 8),
    "whole_number": Column(
        "Nullable(UInt64)",
        "DECIMAL(20, 0)",
        st.integers(0, 2**64 - 1),
        to_clickhouse=lambda value: f"toUInt64({value})",
    ),
    "millis": _instant("Nullable(DateTime64(3))", "TIMESTAMP", 1000),
    "micros": _instant("Nullable(DateTime64(6, 'UTC'))", "TIMESTAMP", 1),
    "elsewhere": _instant("Nullable(DateTime64(6, 'Asia/Tokyo'))", "TIMESTAMP_NTZ", 1),
    "nanos": _instant("Nullable(DateTime64(9, 'UTC'))", "TIMESTAMP", 1),
    "day": Column(
        "Nullable(Date32)",
        "DATE",
        _DATES,
        to_clickhouse=lambda value: f"toDate32('{value}')",
        to_spark=lambda value: f"DATE '{value}'",
        text=lambda value: f"{value}T00:00:00Z",
    ),
    "day_as_instant": Column(
        "Nullable(Date32)",
        "TIMESTAMP",
        _DATES,
        to_clickhouse=lambda value: f"toDate32('{value}')",
        to_spark=lambda value: f"TIMESTAMP '{value} 00:00:00+00:00'",
        text=lambda value: f"{value}T00:00:00Z",
    ),
    "text": _text("Nullable(String)"),
    "coded": _text("LowCardinality(Nullable(String))", st.sampled_from(["", "BTC", "ünï", "a:b;c", "N", "\0", "😀"])),
    # Bytes that are no UTF-8: another one is another text, and shown as a U+FFFD.
    "bytes": Column(
        "Nullable(String)",
        "STRING",
        st.sampled_from([b"\xff", b"\xfe", b"\xc3;", b"1:\x80", b"abcd\xe2\x82"]),
        to_clickhouse=lambda value: f"unhex('{_hex(value)}')",
        to_spark=lambda value: f"CAST(unhex('{_hex(value)}') AS STRING)",
        text=lambda value: value.decode(errors="replace"),
    ),
    "fixed": _text("FixedString(3)", st.text("xyz", max_size=3)),
    # As an offload of the bytes writes it, and of any bytes.
    "padded": Column(
        "Nullable(FixedString(4))",
        "STRING",
        st.sampled_from([b"", b"xy", b"\0x\0y", b"\x10", b"\xa0\xff"]),
        to_clickhouse=lambda value: f"unhex('{_hex(value)}')",
        to_spark=lambda value: f"CAST(unhex('{_hex(value.ljust(4, bytes(1)))}') AS STRING)",
        text=lambda value: value.decode(errors="replace"),
    ),
    "uuid": Column(
        "UUID",
        "STRING",
        st.uuids(),
        to_clickhouse=lambda value: f"toUUID('{value}')",
        to_spark=lambda value: f"'{value}'",
    ),
    "choice": Column(
        "Enum8('buy' = 1, 'sell' = 2)",
        "STRING",
        st.sampled_from(["buy", "sell"]),
        to_clickhouse=lambda value: f"'{value}'",
        to_spark=lambda value: f"'{value}'",
    ),
    "summed": Column("SimpleAggregateFunction(sum, UInt64)", "BIGINT", st.integers(0, 1000)),
}
NULLABLE = {name for name, column in COLUMNS.items() if "Nullable" in column.clickhouse}


def _value(name: str) -> st.SearchStrategy[Any]:
    values = COLUMNS[name].values
    return st.none() | values if name in NULLABLE else values


ROW = st.fixed_dictionaries({name: _value(name) for name in COLUMNS})


@pytest.fixture
async def source(box: Sandbox) -> AsyncIterator[KeyedClickHouse]:
    box.clickhouse.execute("CREATE DATABASE IF NOT EXISTS keys")
    client = KeyedClickHouse(
        ClickHouseOptions(box.clickhouse.url, "keys", box.clickhouse.user, box.clickhouse.password)
    )
    yield client
    await client.close()


async def _made(box: Sandbox, night: Night, rows: list[dict[str, Any]]) -> None:
    """The same rows on both sides, all of them in the window."""

    def written(row: dict[str, Any], side: str) -> str:
        values = (
            "NULL" if row[name] is None else getattr(column, f"to_{side}")(row[name])
            for name, column in COLUMNS.items()
        )
        return ", ".join(values)

    execute = box.clickhouse.execute
    columns = ", ".join(f"`{name}` {column.clickhouse}" for name, column in COLUMNS.items())
    execute(f"CREATE OR REPLACE TABLE keys.t (ts DateTime64(3), {columns}) ENGINE = MergeTree ORDER BY ts")
    values = ", ".join(f"(toDateTime64('{_DAY}', 3, 'UTC'), {written(row, 'clickhouse')})" for row in rows)
    execute(f"INSERT INTO keys.t VALUES {values}")
    columns = ", ".join(f"`{name}` {column.iceberg}" for name, column in COLUMNS.items())
    await night.sql(f"CREATE OR REPLACE TABLE {{c}}.cold.keys (ts TIMESTAMP, {columns}) USING iceberg")
    values = ", ".join(f"(TIMESTAMP '{_DAY}+00:00', {written(row, 'spark')})" for row in reversed(rows))
    await night.sql(f"INSERT INTO {{c}}.cold.keys VALUES {values}")


async def _key(night: Night, source: KeyedClickHouse, *names: str, compare: tuple[str, ...] = ()) -> Key:
    every = (*names, *compare)
    iceberg = await night.services.ports.lakehouse.column_types("cold.keys", every)
    return agreed_key(names, compare, {}, iceberg, await source.column_types(SOURCE, every))


@pytest.mark.long
@pytest.mark.parametrize("number", range(2))
async def test_both_engines_make_the_same_texts_and_fingerprints(
    box: Sandbox, source: KeyedClickHouse, make_night: MakeNight, number: int
) -> None:
    night = await make_night(GOLD, old_snapshots=0)
    lakehouse = night.services.ports.lakehouse
    rows: list[dict[str, Any]] = []

    # Each example is a row, and a query has them all.
    @seed(number)
    @settings(max_examples=ROWS, database=None, phases=[Phase.generate], deadline=None)
    @given(ROW)
    def draw(row: dict[str, Any]) -> None:
        rows.append(row)

    draw()
    await _made(box, night, rows)
    snapshot = (await night.state("cold.keys")).health.snapshot_id
    assert snapshot is not None

    assert all(len({row[name] for row in rows}) > 1 for name in COLUMNS)
    for name, column in COLUMNS.items():
        query = KeyQuery(await _key(night, source, name))
        in_source = await source.key_rows(SOURCE, WINDOW, False, query, MINUTE)
        in_iceberg = await lakehouse.key_rows("cold.keys", "ts", WINDOW, snapshot, query, MINUTE)
        assert in_source == in_iceberg, name
        values = {None if row[name] is None else column.text(row[name]) for row in rows}
        assert {values_of(query.key.columns, text)[0] for text in in_source} == values, name

    names = tuple(COLUMNS)
    key = await _key(night, source, *names[:5], compare=names[5:])
    counted = await source.count(SOURCE, WINDOW, None, MINUTE, key)
    assert counted.fingerprint is not None
    assert counted.fingerprint.rows == len(rows)
    for query, bits in ((KeyQuery(key), 0), (KeyQuery(key), 5), (KeyQuery(Key(key.columns), distinct=True), 3)):
        there = await source.fingerprints(SOURCE, WINDOW, False, query, bits, MINUTE)
        ours = await lakehouse.fingerprints("cold.keys", "ts", WINDOW, snapshot, query, bits, MINUTE)
        assert there == ours
        if not bits:
            assert there == {0: counted.fingerprint}
    # What is hashed is the same as well: the sums of keys and values of each text.
    there_rows = await source.key_rows(SOURCE, WINDOW, False, KeyQuery(key), MINUTE)
    assert there_rows == await lakehouse.key_rows("cold.keys", "ts", WINDOW, snapshot, KeyQuery(key), MINUTE)


@pytest.mark.parametrize(
    ("clickhouse", "iceberg", "refusal"),
    [
        ("Float64", "DOUBLE", "v is double in Iceberg, .*; v is Float64 in ClickHouse, "),
        ("Array(String)", "ARRAY<STRING>", "v is list<string> in Iceberg"),
        ("String", "BINARY", "v is binary in Iceberg"),
        ("String", "BIGINT", "v is long in Iceberg and String in ClickHouse"),
        ("Nullable(DateTime)", "STRING", r"v is string in Iceberg and Nullable\(DateTime\) in ClickHouse"),
        ("DateTime64(9, 'UTC')", "DATE", r"v is date in Iceberg and DateTime64\(9, 'UTC'\) in ClickHouse"),
        ("Decimal(18, 9)", "DECIMAL(38, 8)", "30 digits before the point and 9 after it are too many to compare"),
        ("Decimal(38, 37)", "DECIMAL(38, 37)", "1 digits before the point and 37 after it are too many to compare"),
        ("Decimal(38, 20)", "BIGINT", "19 digits before the point and 20 after it are too many to compare"),
        ("FixedString(3)", "BINARY", "v is binary in Iceberg"),
    ],
)
async def test_columns_that_cannot_be_compared_are_an_error_that_says_why(
    box: Sandbox, source: KeyedClickHouse, make_night: MakeNight, clickhouse: str, iceberg: str, refusal: str
) -> None:
    night = await make_night(GOLD, old_snapshots=0)
    box.clickhouse.execute(f"CREATE OR REPLACE TABLE keys.t (v {clickhouse}) ENGINE = MergeTree ORDER BY tuple()")
    await night.sql(f"CREATE OR REPLACE TABLE {{c}}.cold.keys (v {iceberg}) USING iceberg")
    with pytest.raises(IcekeeperError, match=refusal) as raised:
        await _key(night, source, "v")
    assert raised.value.reason is Reason.KEY_TYPE
    with pytest.raises(IcekeeperError, match="Iceberg has no column gone; ClickHouse has no column gone"):
        await _key(night, source, "gone")


async def test_columns_are_known_by_name_where_no_star_shows_them_and_others_may_not_be_read(box: Sandbox) -> None:
    for statement in (
        "CREATE DATABASE IF NOT EXISTS keys",
        "CREATE OR REPLACE TABLE keys.named (ts DateTime, secret String, id UInt64 MATERIALIZED 7, text String ALIAS "
        "concat('a', toString(id)), `the ``price` Decimal(18, 8) DEFAULT 1) ENGINE = MergeTree ORDER BY ts",
    ):
        box.clickhouse.execute(statement)
    grants = ("GRANT SHOW DATABASES ON default.*", "GRANT SELECT(ts, id, text, `the ``price`) ON keys.named")
    rights = f"<grants>{''.join(f'<query>{grant}</query>' for grant in grants)}</grants>"
    reader = KeyedClickHouse(
        ClickHouseOptions(box.clickhouse.url, "keys", box.clickhouse.user, box.clickhouse.password)
    )
    named = Source(("named",), "ts")
    try:
        await asyncio.to_thread(restart_with_users, box.clickhouse, box.root, rights=rights)
        found = await reader.column_types(named, ("id", "text", "the `price"))
        with pytest.raises(IcekeeperError) as denied:
            await reader.column_types(named, ("id", "secret"))
    finally:
        await asyncio.to_thread(restart_as_made, box.clickhouse, box.root)
    every = await reader.column_types(named, ("id", "gone", "secret"))
    with pytest.raises(IcekeeperError) as missing:
        await reader.column_types(Source(("missing",), "ts"), ("id",))
    await reader.close()
    assert {name: column.words for name, column in found.items()} == {
        "id": "UInt64",
        "text": "String",
        "the `price": "Decimal(18, 8)",
    }
    assert denied.value.reason is Reason.ACCESS_DENIED
    assert list(every) == ["id", "secret"]
    assert missing.value.reason is Reason.SOURCE_TABLE_NOT_FOUND
