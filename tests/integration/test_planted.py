"""Each kind of damage, alone and mixed, at the lowest proof that sees it: findings hold what is planted and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.records import Explanation
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Proof, Stage
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from icekeeper.settings import Settings, load
from tests.conftest import COINBASE, GOLD, SILVER, SLOT, Night, nights, write_settings
from tests.damage.judge import expected_findings, judge
from tests.damage.kinds import ANOTHER_PRICE, FILE_KINDS, HOUR, ROW_KINDS, Planted
from tests.damage.scene import KEYS, Scene, day_of
from tests.damage.truth import CHANGED, DUPLICATE, EXTRA, MISSING, Truth

OK, WARNING, LOST, ERROR = AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA, AuditStatus.ERROR
MISMATCH, BEHIND = Reason.CONTENT_MISMATCH, Reason.OFFLOAD_BEHIND
WINDOW = day_of(SLOT)


# --- what no seed of the campaign plants


async def _one_row_lost(scene: Scene, window: Window, chance: Random) -> Planted:
    time, some = scene.shape.timestamp, scene.within(Window(window.start, window.start + 9 * HOUR))
    ((at,),) = await scene.sql(f"SELECT unix_micros(max({time})) FROM {{t}} WHERE {some}")
    await scene.sql(f"DELETE FROM {{t}} WHERE unix_micros({time}) = {at}")
    return Planted("one row lost", str(at))


async def _one_price(scene: Scene, window: Window, chance: Random) -> Planted:
    column = scene.shape.sequence
    one = f"SELECT max({column}) FROM {{t}} WHERE {scene.within(window)}"
    ((number,),) = await scene.sql(one)
    await scene.sql(f"UPDATE {{t}} SET price = {ANOTHER_PRICE} WHERE {column} = {number}")
    return Planted("one price", str(number))


async def _half_a_day_lost(scene: Scene, window: Window, chance: Random) -> Planted:
    condition = scene.within(Window(window.start + 6 * HOUR, window.start + 18 * HOUR))
    await scene.sql(f"DELETE FROM {{t}} WHERE {condition}")
    return Planted("half a day lost", condition)


async def _slipped_out(scene: Scene, window: Window, chance: Random) -> Planted:
    """The offload's time zone is two hours ahead: the day's last rows are the next one's."""
    time = scene.shape.timestamp
    condition = scene.within(Window(window.end - 2 * HOUR, window.end))
    await scene.sql(f"UPDATE {{t}} SET {time} = {time} + INTERVAL 2 HOURS WHERE {condition}")
    return Planted("slipped out of the day", condition)


async def _neighbours_lost(scene: Scene, window: Window, chance: Random) -> Planted:
    """Up to the microsecond before the day and from its end on nothing is left."""
    await scene.sql(f"DELETE FROM {{t}} WHERE NOT ({scene.within(window)})")
    return Planted("neighbour days lost", "all of their rows")


async def _offload_behind(scene: Scene, window: Window, chance: Random) -> Planted:
    """The offload has come to 21:37:20, and its watermark is the newest row before that."""
    time, until = scene.shape.timestamp, window.end - timedelta(hours=2, minutes=22, seconds=40)
    await scene.sql(f"DELETE FROM {{t}} WHERE {time} >= timestamp'{until:%Y-%m-%d %H:%M:%S} UTC'")
    ((micros,),) = await scene.sql(f"SELECT unix_micros(max({time})) FROM {{t}}")
    newest = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    watermarked(scene, newest)
    return Planted("offload behind", str(newest))


async def _merged_since(scene: Scene, window: Window, chance: Random) -> Planted:
    """Corrections make sums of 0, and ClickHouse drops such rows when it merges them."""
    start, time = window.start + 10 * HOUR, scene.shape.timestamp
    scene.clickhouse(
        "INSERT INTO {t} SELECT * REPLACE(-volume AS volume, -quote_volume AS quote_volume, "
        "toUInt64(-toInt64(trade_count)) AS trade_count) FROM {t} FINAL WHERE "
        f"{time} >= toDateTime64({start.timestamp()}, 3) AND {time} < toDateTime64({start.timestamp()}, 3) + 900"
    )
    scene.night.world.merge(scene.table)
    return Planted("dropped by a merge", str(start))


async def _merged(scene: Scene, window: Window, chance: Random) -> Planted:
    scene.night.world.merge(scene.table)
    return Planted("merged", scene.table)


async def _expired(scene: Scene, window: Window, chance: Random) -> Planted:
    """The source has dropped half of the day, by its TTL."""
    source_is(scene, f"{scene.shape.timestamp} >= toDateTime64({(window.start + 12 * HOUR).timestamp()}, 3)")
    scene.night.travel(SLOT + scene.shape.source_ttl - 14 * HOUR)
    return Planted("source expired", scene.shape.source)


Plant = Callable[[Scene, Window, Random], Awaitable[Planted]]
PLANTS: dict[str, Plant] = ROW_KINDS | {
    "one row lost": _one_row_lost,
    "one price": _one_price,
    "half a day lost": _half_a_day_lost,
    "slipped out of the day": _slipped_out,
    "neighbour days lost": _neighbours_lost,
    "offload behind": _offload_behind,
    "dropped by a merge": _merged_since,
    "merged": _merged,
    "expired": _expired,
}


# --- the table


@dataclass(frozen=True)
class Case:
    """A table and what is planted in its day, the lowest proof that sees it (`keyed`: only a key does), and what its
    audit says: status, reason, and the findings' kinds and explanations. `source`: one of SOURCES."""

    table: str
    planted: tuple[str, ...]
    status: AuditStatus
    reason: Reason | None = None
    found: tuple[tuple[str, Explanation | None], ...] = ()
    keyed: bool = False
    proof: Proof = Proof.MANIFESTS
    source: str | None = None


HOLE, LATE = (MISSING, Explanation.CYCLE_LOST), (MISSING, Explanation.BEHIND_WATERMARK)
AHEAD, TWICE = (MISSING, Explanation.NOT_OFFLOADED), (DUPLICATE, Explanation.WRITTEN_TWICE)
MORE, OTHER, DOUBLED = (EXTRA, None), (CHANGED, None), (DUPLICATE, None)
MERGED = (EXTRA, Explanation.MERGED_IN_SOURCE)
FILE = ("file", Explanation.BAD_FILE)
GONE, CORRUPT, LIES = Reason.FILE_MISSING, Reason.FILE_CORRUPT, Reason.COUNT_MISMATCH

CASES = [
    # Numbers tell.
    Case(COINBASE, (), OK),
    Case(COINBASE, ("cycles lost",), LOST, found=(HOLE,)),
    Case(COINBASE, ("symbol lost",), LOST, found=(LATE,)),
    Case(COINBASE, ("one row lost",), OK, found=(LATE,)),
    Case(COINBASE, ("rows late",), OK, found=(LATE,)),
    Case(COINBASE, ("cycles written twice",), OK, found=(TWICE,)),
    Case(COINBASE, ("cycles written twice", "cycles lost"), LOST, found=(TWICE, HOLE)),
    Case(COINBASE, ("rows of the day before",), OK, found=(MORE,)),
    Case(COINBASE, ("slipped out of the day",), LOST, found=(HOLE,)),
    Case(COINBASE, ("offload behind",), LOST, BEHIND, (AHEAD,)),
    Case(COINBASE, ("offload behind", "symbol lost"), LOST, BEHIND, (AHEAD, LATE)),
    Case(COINBASE, ("neighbour days lost",), OK),
    Case(COINBASE, ("expired",), ERROR, Reason.SOURCE_EXPIRED),
    Case(SILVER, ("cycles lost", "rows late"), LOST, found=(HOLE, LATE)),
    Case(SILVER, ("symbol lost",), LOST, found=(LATE,)),
    Case(SILVER, ("cycles written twice",), OK, found=(TWICE,)),
    Case(SILVER, ("offload behind",), LOST, BEHIND, (AHEAD,)),
    # Of gold Iceberg holds more than ClickHouse has merged: that hides what is lost from numbers.
    Case(GOLD, ("half a day lost",), LOST, found=(HOLE,)),
    Case(GOLD, ("merged",), OK),
    # Only a key tells.
    Case(COINBASE, (), OK, keyed=True),
    Case(COINBASE, ("rows swapped",), WARNING, MISMATCH, (LATE, DOUBLED), keyed=True),
    Case(COINBASE, ("one price",), WARNING, MISMATCH, (OTHER,), keyed=True),
    Case(COINBASE, ("column nulled",), WARNING, MISMATCH, (OTHER,), keyed=True),
    Case(COINBASE, ("times slipped",), WARNING, MISMATCH, (OTHER,), keyed=True),
    Case(COINBASE, ("cycles written twice", "cycles lost"), LOST, MISMATCH, (TWICE, HOLE), keyed=True),
    Case(COINBASE, ("rows of the day before", "symbol lost"), LOST, None, (MORE, LATE), keyed=True),
    Case(SILVER, ("rows swapped", "times slipped"), WARNING, MISMATCH, (LATE, DOUBLED, OTHER), keyed=True),
    Case(SILVER, ("one price", "rows late"), WARNING, MISMATCH, (LATE, OTHER), keyed=True),
    Case(SILVER, ("slipped out of the day", "one row lost"), LOST, None, (HOLE, LATE), keyed=True),
    Case(GOLD, (), OK, keyed=True),
    Case(GOLD, ("cycles lost",), LOST, None, (HOLE,), keyed=True),
    Case(GOLD, ("symbol lost", "rows late"), LOST, None, (LATE,), keyed=True),
    Case(GOLD, ("times slipped",), WARNING, None, (HOLE,), keyed=True),
    Case(GOLD, ("dropped by a merge",), OK, None, (MERGED,), keyed=True),
    Case(GOLD, ("offload behind",), LOST, BEHIND, (AHEAD,), keyed=True),
    # Files tell.
    Case(COINBASE, ("file gone",), ERROR, GONE, (FILE,), proof=Proof.FILES),
    Case(SILVER, ("file cut", "rows swapped"), ERROR, CORRUPT, (FILE,), proof=Proof.FILES),
    Case(GOLD, ("manifest lies",), ERROR, LIES, (FILE,), proof=Proof.FILES),
    Case(SILVER, ("manifest lies", "file gone"), ERROR, GONE, (FILE,), proof=Proof.FILES),
    Case(COINBASE, ("pages overwritten",), ERROR, CORRUPT, (FILE,), proof=Proof.ROWS),
    Case(GOLD, ("pages overwritten", "cycles lost"), ERROR, CORRUPT, (FILE,), proof=Proof.ROWS),
    # The columns of a key are read: by whatever proof that fails.
    Case(COINBASE, ("manifest lies",), ERROR, LIES, (FILE,), keyed=True),
    Case(SILVER, ("file gone",), ERROR, GONE, (FILE,), keyed=True),
    Case(GOLD, ("pages overwritten",), ERROR, CORRUPT, (FILE,), keyed=True),
    Case(COINBASE, ("footer overwritten",), ERROR, CORRUPT, (FILE,), keyed=True),
    # Sources that hold the same rows in another way.
    Case(COINBASE, (), OK, source="cancelled"),
    Case(COINBASE, ("cycles lost",), LOST, None, (HOLE,), source="cancelled"),
    Case(COINBASE, (), OK, keyed=True, source="merged"),
    Case(COINBASE, ("cycles lost",), LOST, None, (HOLE,), keyed=True, source="merged"),
    Case(COINBASE, (), OK, source="epochs"),
    Case(COINBASE, ("cycles lost",), LOST, None, (HOLE,), source="epochs"),
]  # fmt: skip


# The rows of bronze: with versions that were cancelled, twice until they are merged, and with numbers for times.
SOURCES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "cancelled": (
        (
            "CREATE TABLE cancelled ENGINE = VersionedCollapsingMergeTree(sign, version) ORDER BY sequence_number AS "
            "SELECT *, 1::Int8 AS sign, 1::UInt8 AS version FROM healthy_{t}",
            "INSERT INTO cancelled SELECT * REPLACE(-1 AS sign) FROM cancelled WHERE sequence_number % 9 = 0",
            "INSERT INTO cancelled SELECT *, 1, 2 FROM healthy_{t} WHERE sequence_number % 9 = 0",
        ),
        {"table": "cancelled"},
    ),
    "merged": (
        (
            "CREATE TABLE twice ENGINE = ReplacingMergeTree ORDER BY (symbol, sequence_number) AS "
            "SELECT * FROM healthy_{t}",
            "INSERT INTO twice SELECT * FROM healthy_{t} WHERE sequence_number % 9 = 0",
            "CREATE TABLE merged AS twice ENGINE = Merge(currentDatabase(), '^twice$')",
        ),
        {"table": "merged"},
    ),
    "epochs": (
        (
            "CREATE TABLE epochs ENGINE = MergeTree ORDER BY at AS SELECT * EXCEPT exchange_timestamp, "
            "toUnixTimestamp64Milli(exchange_timestamp) AS at FROM healthy_{t}",
        ),
        {"table": "epochs", "timestamp": "at", "timestamp_as": "epoch_ms"},
    ),
}


def _name(case: Case) -> str:
    table = case.source or case.table.removeprefix("cold.").partition("_")[0]
    how = f"{case.proof} and keys" if case.keyed else case.proof
    return f"{table}: {', '.join(case.planted) or 'nothing'}, by {how}"


# --- one world for all of them


def _settings(night: Night, directory: Path, case: Case) -> Settings:
    def change(document: dict[str, Any]) -> None:
        document["audit"] = {"proof": case.proof.value, "retries": 0}
        for table in document["tables"]:
            key, compare = KEYS[table["name"]]
            if case.source and table["name"] == case.table:
                table["source"] = SOURCES[case.source][1]
            if case.keyed:
                table["audit"] = {"key": list(key), "compare": list(compare)}

    path = directory / f"{case.proof}-{case.keyed}.yaml"
    return load(write_settings(night.world, path, night.settings.state_dir, change))


@pytest.fixture(scope="module")
async def world(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    directory = tmp_path_factory.mktemp("planted")
    async with nights(box, engine, directory) as make:
        night = await make(
            COINBASE, SILVER, GOLD, commits_per_day=8, files_per_commit=1, rows_per_file=360, symbols=12,
            old_snapshots=0,
        )  # fmt: skip
        for table in KEYS:
            scene = Scene(night, table)
            source = scene.shape.source
            scene.clickhouse(f"CREATE TABLE healthy_{source} AS {source}")
            scene.clickhouse(f"INSERT INTO healthy_{source} SELECT * FROM {source}")
        for statement in (each for statements, _ in SOURCES.values() for each in statements):
            Scene(night, COINBASE).clickhouse(statement)
        yield night


def source_is(scene: Scene, condition: str = "1") -> None:
    """The source holds those of its rows of the beginning that meet a condition."""
    scene.clickhouse("TRUNCATE TABLE {t}")
    scene.clickhouse(f"INSERT INTO {{t}} SELECT * FROM healthy_{{t}} WHERE {condition}")


def watermarked(scene: Scene, at: datetime) -> None:
    scene.night.ledger(
        "UPDATE offload_watermarks SET last_offload_timestamp = $2 WHERE table_name = $1", scene.shape.source, at
    )


@asynccontextmanager
async def undone(scene: Scene) -> AsyncIterator[None]:
    """What is done to a table and its source is undone."""
    world = scene.night.world
    before = (await scene.night.state(scene.table)).health.snapshot_id
    watermark = world.watermark(scene.table)
    assert watermark is not None
    try:
        yield
    finally:
        if (await scene.night.state(scene.table)).health.snapshot_id != before:
            await scene.sql(f"CALL {{c}}.system.rollback_to_snapshot('{scene.table}', {before})")
        source_is(scene)
        watermarked(scene, watermark)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=_name(case), marks=() if case.table == COINBASE else pytest.mark.long) for case in CASES],
)
async def test_planted_damage_is_found_where_it_is_and_nowhere_else(world: Night, tmp_path: Path, case: Case) -> None:
    night = replace(world, settings=_settings(world, tmp_path, case))
    scene, chance = Scene(night, case.table), Random(7)
    async with undone(scene):
        planted = [await PLANTS[name](scene, WINDOW, chance) for name in case.planted if name in PLANTS]
        truth = Truth.of(scene.in_source(WINDOW), await scene.in_iceberg(WINDOW), merges=scene.merges)
        files = [file for file in await scene.files(WINDOW) if file.rows > 100]
        hurt = [name for name in case.planted if name in FILE_KINDS]
        bodies = {file.path: scene.read(file.path) for file, _ in zip(files, hurt, strict=False)}
        planted += [FILE_KINDS[name](scene, file, chance) for name, file in zip(hurt, files, strict=False)]
        try:
            (audit,) = (await night.run(Stage.AUDIT, tables=(case.table,))).audits
        finally:
            for path, body in bodies.items():
                scene.write(path, body)

    assert (audit.status, audit.reason) == (case.status, case.reason), audit.notes
    assert {(one.kind, one.explanation) for one in audit.findings} == {*case.found}, audit.findings
    if case.reason is Reason.SOURCE_EXPIRED:
        assert (audit.ch_row_count, audit.iceberg_row_count) == (truth.clickhouse, truth.iceberg)
        return
    if case.found and not hurt:
        assert expected_findings(truth, keyed=case.keyed)
    if hurt:
        paths = {one.file.path for one in planted if one.file is not None} or bodies.keys()
        named = {path for one in audit.findings for path in one.files}
        # The number of all keys that were read tells no file.
        assert named == (set() if case.keyed and case.reason is LIES else paths)
    assert [*judge(case.proof, planted, audit, truth, keyed=case.keyed)] == []
