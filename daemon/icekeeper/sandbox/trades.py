"""Generates trades and candles from a seed: pure functions from ticks to rows for ClickHouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from icekeeper.sandbox.table_shapes import EXCHANGES, TableShape

Ints = npt.NDArray[np.int64]

_COIN_NAMES = (
    "BTC ETH SOL XRP ADA DOGE AVAX DOT LINK LTC BCH UNI ATOM XLM ETC FIL NEAR APT ARB OP SUI INJ AAVE ALGO GRT "
    "SAND MANA EGLD FTM THETA XTZ EOS KSM ZEC"
)
_COINS = tuple(_COIN_NAMES.split())
_UNIT = 100_000_000  # decimal(38,8)
# Shares of a tick's rows: trades sent again with a newer version, and candles with a second, unmerged row.
_RESENT = 0.02
_UNMERGED = 0.25
# Candles that a materialized view adds behind the watermark, as a share of the offloaded rows. Counted without FINAL
# the first group gives `warning` and the second `missing_data`, as in the platform's first audit.
_BEHIND_WATERMARK = {"1m": 0.03, "5m": 0.03, "15m": 0.03, "30m": 0.12, "1h": 0.12, "1d": 0.12}
# One tick in so many has a few equities among the coins.
_EQUITIES_EVERY = 16


@dataclass(frozen=True)
class Ticks:
    """Consecutive offload ticks: tick i takes event times in (low[i], high[i]], in microseconds since 1970."""

    low: Ints
    high: Ints

    def __len__(self) -> int:
        return len(self.low)


@dataclass(frozen=True)
class Volume:
    """How much is traded: files and rows per tick and table, and symbols over all exchanges."""

    files: int
    rows: int
    symbols: int


@dataclass(frozen=True)
class Rows:
    """`offered`: rows in ClickHouse when the offload runs. `behind`: rows that arrive later, behind the watermark."""

    offered: pa.Table
    behind: pa.Table


def rows_of(shape: TableShape, ticks: Ticks, volume: Volume, seed: int) -> Rows:
    """A table's rows for these ticks, the same for the same arguments."""
    random = np.random.default_rng([seed, sum(shape.source.encode()), int(ticks.low[0]) // 1_000_000])
    if shape.layer == "gold":
        return _gold(shape, ticks, volume, random)
    bronze = shape.layer == "bronze"
    offered = _bronze(shape, ticks, volume, random) if bronze else _silver(ticks, volume, random)
    return Rows(offered, offered.slice(0, 0))


def late_rows_of(shape: TableShape, low_us: int, high_us: int, count: int, call: int) -> pa.Table:
    """`count` rows with event times spread over (low, high]; for gold on the window starts, none if none is in there.

    `call` numbers the calls on one world: each has keys of its own, so that FINAL folds nothing into older rows.
    """
    ticks = Ticks(np.array([low_us], dtype=np.int64), np.array([high_us], dtype=np.int64))
    random = np.random.default_rng([call, count, low_us // 1_000_000])
    if shape.layer != "gold":
        volume = Volume(files=len(EXCHANGES), rows=count, symbols=len(_COINS))
        offset = call * 1_000_000_000_000
        if shape.layer == "bronze":
            return _bronze(shape, ticks, volume, random, offset=offset, resent=False)
        return _silver(ticks, volume, random, offset=offset)
    starts = _window_starts(shape, ticks)[1]
    if len(starts) == 0:
        return _empty(shape)
    index = np.arange(count)
    symbols = np.array([f"LATE{call}-{number}/USD" for number in index // len(starts)], dtype=object)
    exchanges = np.array(EXCHANGES, dtype=object)[index % len(EXCHANGES)]
    return _candles(shape, starts[index % len(starts)], exchanges, symbols, random)


def _symbols(volume: Volume, exchange: int | None = None) -> list[str]:
    """Coins; with an exchange's number only those listed there (a third of them, at least one)."""
    coins = [_COINS[i] if i < len(_COINS) else f"COIN{i}" for i in range(volume.symbols)]
    return coins if exchange is None else coins[exchange :: len(EXCHANGES)] or coins[:1]


def _spread(ticks: Ticks, rows: int, random: np.random.Generator, unit_us: int) -> Ints:
    """Event times, evenly over each tick with noise, on whole units, never on the tick's lower bound."""
    share = (np.arange(rows) + random.random((len(ticks), rows))) / rows
    offset = share * (ticks.high - ticks.low)[:, None]
    times = ticks.low[:, None] + (np.floor(offset / unit_us).astype(np.int64) + 1) * unit_us
    return np.asarray(np.minimum(times, ticks.high[:, None]).ravel(), dtype=np.int64)


def _decimals(units: Ints) -> pa.Array:
    """decimal(38,8) from hundred-millionths: 128-bit little endian, the upper half is the sign."""
    words = np.empty((len(units), 2), dtype="<i8")
    words[:, 0] = units
    words[:, 1] = units >> 63
    return pa.Array.from_buffers(pa.decimal128(38, 8), len(units), [None, pa.py_buffer(words.tobytes())])


def _times(micros: Ints) -> pa.Array:
    return pa.array(micros, pa.timestamp("us", "UTC"))


def _prices(coin: Ints, random: np.random.Generator) -> Ints:
    """Around 50,000 for the first coin, less for each next one."""
    return np.asarray(5_000_000 / (coin + 1) ** 2 * random.normal(1, 0.01, len(coin)), dtype=np.int64) * (_UNIT // 100)


def _money(coin: Ints, random: np.random.Generator) -> dict[str, pa.Array]:
    price = _prices(coin, random)
    lots = random.integers(1, 5_000, len(coin))
    columns = {"price": price, "quantity": lots * (_UNIT // 1000), "quote_volume": price // 1000 * lots}
    return {name: _decimals(values) for name, values in columns.items()}


def _bronze(
    shape: TableShape,
    ticks: Ticks,
    volume: Volume,
    random: np.random.Generator,
    *,
    offset: int = 0,
    resent: bool = True,
) -> pa.Table:
    exchange = EXCHANGES.index(str(shape.exchange))
    coins = _symbols(volume, exchange)
    count = len(ticks) * volume.rows
    at = _spread(ticks, volume.rows, random, unit_us=1000)
    coin = random.integers(0, len(coins), count)
    sequence = offset + ticks.low[0] // 1000 + np.arange(count)
    arrived = np.arange(count)
    separator = ("", "/", "-")[exchange]
    quoted = "USDT" if shape.exchange == "binance" else "USD"
    columns = {
        "exchange_timestamp": _times(at),
        "sequence_number": pa.array(sequence),
        "symbol": pa.array(np.array([f"{name}{separator}{quoted}" for name in coins], dtype=object)[coin]),
        **_money(coin, random),
        "event_time": _times(at),
        "kafka_offset": pa.array(sequence),
        "kafka_partition": pa.array(coin % 6, pa.int32()),
        "ingestion_timestamp": _times((at // 1000 + random.integers(20, 400, count)) * 1000),
    }
    if shape.version_column:
        columns["exchange"] = pa.array([shape.exchange] * count)
        columns["canonical_symbol"] = pa.array(np.array([f"{name}/USD" for name in coins], dtype=object)[coin])
    table = pa.table(columns)
    if shape.version_column:
        if resent and volume.rows >= 4:
            table = table.take(_with_repeats(len(ticks), volume.rows, random))
        table = table.append_column("_version", pa.array(sequence[0] + arrived, pa.uint64()))
    return table


def _with_repeats(ticks: int, rows: int, random: np.random.Generator) -> Ints:
    """Row numbers in which a few of each tick's rows are the row before, once more."""
    repeats = max(1, round(rows * _RESENT))
    places = 1 + 2 * np.argsort(random.random((ticks, rows // 2)), axis=1)[:, :repeats]
    numbers = np.arange(ticks * rows).reshape(ticks, rows)
    np.put_along_axis(numbers, places, np.take_along_axis(numbers, places - 1, axis=1), axis=1)
    return np.asarray(numbers.ravel(), dtype=np.int64)


def _silver(ticks: Ticks, volume: Volume, random: np.random.Generator, *, offset: int = 0) -> pa.Table:
    count = len(ticks) * volume.rows
    at = _spread(ticks, volume.rows, random, unit_us=1)
    # A file holds one exchange: no more exchanges in a tick than it has files, in turn.
    tick = ticks.high // (ticks.high - ticks.low)
    exchange = tick[:, None] + (np.arange(volume.rows) % min(len(EXCHANGES), volume.files))
    exchange = (exchange % len(EXCHANGES)).ravel()
    shares = np.repeat(tick % _EQUITIES_EVERY == 0, volume.rows) & (exchange == 1)
    coins = _symbols(volume)
    coin = random.integers(0, len(coins), count)
    sequence = offset + ticks.low[0] // 1000 + np.arange(count)
    words = pa.array(["regular"] * count)
    steps = pa.array(np.arange(count + 1), pa.int32())
    none = pa.array(np.zeros(count + 1), pa.int32())
    canonical = np.array([f"{name}/USD" for name in coins], dtype=object)[coin]
    keys = pa.array(["venue", "channel"] * count)
    pairs = np.empty(2 * count, dtype=object)
    pairs[::2], pairs[1::2] = np.array(EXCHANGES, dtype=object)[exchange], "trades"
    return pa.table(
        {
            "message_id": pa.array([f"{value:032x}" for value in sequence]),
            "trade_id": pa.array(sequence.astype(str)),
            "exchange": pa.array(np.array(EXCHANGES, dtype=object)[exchange]),
            "symbol": pa.array(np.array([f"{name}USD" for name in coins], dtype=object)[coin]),
            "canonical_symbol": pa.array(canonical),
            "asset_class": pa.array(np.where(shares, "equities", "crypto").astype(object)),
            "currency": pa.array(["USD"] * count),
            **_money(coin, random),
            "side": pa.array(np.where(random.random(count) < 0.5, "buy", "sell").astype(object)),
            "trade_conditions": pa.ListArray.from_arrays(steps, words),
            "timestamp": _times(at),
            "ingestion_timestamp": _times(at + random.integers(20_000, 400_000, count)),
            "processed_at": _times(at + random.integers(500_000, 900_000, count)),
            "source_sequence": pa.array(sequence),
            "platform_sequence": pa.array(sequence),
            "vendor_data": pa.MapArray.from_arrays(pa.array(np.arange(0, 2 * count + 1, 2), pa.int32()), keys, pairs),
            "is_valid": pa.array(np.ones(count, dtype=bool)),
            "validation_errors": pa.ListArray.from_arrays(none, words.slice(0, 0)),
        }
    )


def _window_starts(shape: TableShape, ticks: Ticks) -> tuple[Ints, Ints]:
    """(tick number, window start in microseconds) of every candle window that begins within the ticks."""
    width = _width_us(shape)
    first = ticks.low // width + 1
    counts = ticks.high // width - first + 1
    tick = np.repeat(np.arange(len(ticks)), counts)
    within = np.arange(len(tick)) - np.repeat(np.cumsum(counts) - counts, counts)
    return tick, (first[tick] + within) * width


def _width_us(shape: TableShape) -> int:
    if shape.window is None:
        raise ValueError(f"{shape.iceberg} has no candle window")
    return int(shape.window.total_seconds()) * 1_000_000


def _gold(shape: TableShape, ticks: Ticks, volume: Volume, random: np.random.Generator) -> Rows:
    coins = np.array([f"{name}/USD" for name in _symbols(volume)], dtype=object)
    tick, starts = _window_starts(shape, ticks)
    if len(starts) == 0:
        return Rows(_empty(shape), _empty(shape))
    # Every coin in every window; where that is more than a tick's share, an even choice of it.
    tick = np.repeat(tick, len(coins))
    start = np.repeat(starts, len(coins))
    coin = np.tile(np.arange(len(coins)), len(starts))
    in_tick = np.bincount(tick, minlength=len(ticks))
    limit = max(1, int(volume.rows / (1 + _UNMERGED)))
    number = np.arange(len(tick)) - np.repeat(np.cumsum(in_tick) - in_tick, in_tick)
    size = in_tick[tick]
    # Row k of n is chosen if it is the first to reach a new whole multiple of limit/n.
    chosen = (size <= limit) | ((number + 1) * limit // size > number * limit // size)
    keys = np.flatnonzero(chosen)
    second = keys[np.arange(len(keys)) % round(1 / _UNMERGED) == 0]
    rows = np.concatenate([keys, second])
    share = _BEHIND_WATERMARK[shape.source.rpartition("_")[2]]
    behind = np.sort(rows)[:: max(1, round(1 / share))]

    def candles(index: Ints) -> pa.Table:
        exchanges = np.array(EXCHANGES, dtype=object)[coin[index] % len(EXCHANGES)]
        return _candles(shape, start[index], exchanges, coins[coin[index]], random)

    return Rows(candles(rows), candles(behind))


def _candles(
    shape: TableShape,
    start: Ints,
    exchange: npt.NDArray[np.object_],
    coin: npt.NDArray[np.object_],
    random: np.random.Generator,
) -> pa.Table:
    count = len(start)
    mid = _prices(random.integers(0, 20, count), random)
    low, high = mid - mid // 200, mid + mid // 200
    volume = random.integers(1, 100_000, count)
    return pa.table(
        {
            "exchange": pa.array(exchange, pa.string()),
            "canonical_symbol": pa.array(coin, pa.string()),
            "window_start": _times(start),
            "open_time": _times(start + 1_000_000),
            "open_price": _decimals(mid - mid // 400),
            "close_time": _times(start + _width_us(shape) - 1_000_000),
            "close_price": _decimals(mid + mid // 400),
            "high_price": _decimals(high),
            "low_price": _decimals(low),
            "volume": _decimals(volume * _UNIT // 1000),
            "quote_volume": _decimals(mid // 1000 * volume),
            "trade_count": pa.array(random.integers(1, 400, count)),
        }
    )


def _empty(shape: TableShape) -> pa.Table:
    nothing: Sequence[object] = ()
    none = np.array(nothing, dtype=object)
    return _candles(shape, np.zeros(0, dtype=np.int64), none, none, np.random.default_rng(0))
