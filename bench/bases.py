"""The tables that cases are measured on, built when they are first asked for, by Spark and the sandbox's writer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from bench.record import Case
from bench.rivals.call import Call
from bench.warehouse import Base, Warehouse
from bench.worlds import DAY, OLD_DAY, Body, Fill, as_one_file, commits_of, fill_of, rows_of_day, source_shape
from icekeeper.sandbox import World
from icekeeper.sandbox.table_shapes import NAMESPACE
from icekeeper.sandbox.world_spec import to_micros

_NIGHT_TABLES = 10
# With two commits since, an old day's snapshots are none of the last three.
_TWO_MORE = Fill(2, 2)


@dataclass(frozen=True, slots=True)
class Tables:
    """What a case is measured on: bases to be copied, their audit's source, and how many files each is to lose."""

    warehouse: Warehouse
    bases: tuple[Base, ...]
    source: str
    input_files: int


class Bases:
    """Builds tables, and keeps them until they are to be forgotten."""

    def __init__(self, bodies: Path, warehouses: Mapping[str, Warehouse], world: World, call: Call) -> None:
        self._directory = bodies
        self._warehouses = warehouses
        self._world = world
        self._call = call
        self._built: dict[tuple[str, str, float, str], Tables] = {}
        self._bodies: dict[tuple[Fill, date, bool], list[list[Body]]] = {}
        self._sources: set[str] = set()

    async def of(self, case: Case, x: float) -> Tables:
        """The tables of a case; S3 with and without a delay has the same ones."""
        key = _key(case, x)
        if key not in self._built:
            self._built[key] = await self._build(case, x, self._warehouses[key[3]])
        return self._built[key]

    async def _build(self, case: Case, x: float, warehouse: Warehouse) -> Tables:
        shape = case.shape.split()[0]
        if case.part in ("files", "snapshots"):
            shape = str(round(x))
        # A curve over snapshots has one of a file each, and as many of them as it says.
        fill = fill_of(shape, commits=round(x)) if case.part == "snapshots" else fill_of(shape)
        name = "_".join((case.part, shape)).replace("+", "_")
        bases: tuple[Base, ...]
        match case.part:
            case "compact" | "files" | "tables" | "first" | "session":
                bases = (await self._small(warehouse, name, fill),)
            case "expire" | "snapshots":
                bases = (await self._rewritten(warehouse, name, fill, _TWO_MORE),)
            case "idle":
                bases = (await self._idle(warehouse, name, fill),)
            case "night":
                count = _NIGHT_TABLES if case.shape == "960" else 2
                names = [f"{name}_{number}" for number in range(count)]
                bases = tuple([await self._rewritten(warehouse, each, fill, fill) for each in names])
            case other:
                raise ValueError(f"no part of the benchmark: {other}")
        if case.part in ("idle", "night", "tables"):
            await asyncio.to_thread(self._offer, fill)
        return Tables(warehouse, bases, source_shape(fill).source, _input_files(case.part, fill))

    async def _small(self, warehouse: Warehouse, name: str, fill: Fill) -> Base:
        """A day of small files."""

        def build() -> Base:
            warehouse.create(name, _millis(DAY))
            warehouse.append(name, self._commits(fill, DAY), _millis(DAY))
            return warehouse.as_base(name)

        return await asyncio.to_thread(build)

    async def _compacted(self, warehouse: Warehouse, name: str, fill: Fill) -> None:
        """A day long ago, which Spark has rewritten since."""

        def build() -> None:
            warehouse.create(name, _millis(OLD_DAY))
            warehouse.append(name, self._commits(fill, OLD_DAY), _millis(OLD_DAY))

        await asyncio.to_thread(build)
        await self._call.run(
            f"CALL {warehouse.name}.system.rewrite_data_files(table => '{warehouse.name}.{NAMESPACE}.{name}', "
            "options => map('rewrite-all', 'true'))"
        )

    async def _rewritten(self, warehouse: Warehouse, name: str, fill: Fill, since: Fill) -> Base:
        """A day long ago, rewritten and not expired, and the commits since."""
        await self._compacted(warehouse, name, fill)

        def build() -> Base:
            warehouse.append(name, self._commits(since, DAY))
            return warehouse.as_base(name)

        return await asyncio.to_thread(build)

    async def _idle(self, warehouse: Warehouse, name: str, fill: Fill) -> Base:
        """Three days of one file each: nothing is small enough, and nothing old."""

        def build() -> Base:
            warehouse.create(name, _millis(DAY))
            for day in (DAY.replace(day=DAY.day - 2), DAY.replace(day=DAY.day - 1), DAY):
                warehouse.append(name, self._commits(fill, day, whole=True), _millis(DAY))
            return warehouse.as_base(name)

        return await asyncio.to_thread(build)

    def _commits(self, fill: Fill, day: date, *, whole: bool = False) -> list[list[Body]]:
        key = (fill, day, whole)
        if key not in self._bodies:
            make = as_one_file if whole else commits_of
            self._bodies[key] = make(fill, day, self._directory)
        return self._bodies[key]

    def _offer(self, fill: Fill) -> None:
        """Puts a day's rows into ClickHouse, and notes that they were offloaded."""
        shape = source_shape(fill)
        if shape.source in self._sources:
            return
        self._world.clickhouse.execute(shape.ddl(), database=self._world.clickhouse_database)
        self._world.insert(shape, rows_of_day(fill, DAY))
        until = datetime(DAY.year, DAY.month, DAY.day + 1, 1, tzinfo=UTC)
        self._world.watermarks.add(shape.source, until)
        self._world.watermarks.succeeded(shape.source, until, None, fill.rows, until, until)
        self._sources.add(shape.source)


def _key(case: Case, x: float) -> tuple[str, str, float, str]:
    at = x if case.part in ("files", "snapshots") else 0.0
    return case.part, case.shape.split()[0], at, "local" if case.store == "local" else "s3"


def _input_files(part: str, fill: Fill) -> int:
    """How many files a rival gets to rewrite, or to remove, in each table."""
    return 0 if part == "idle" else fill.files


def _millis(day: date) -> int:
    return to_micros(datetime(day.year, day.month, day.day, 1, tzinfo=UTC)) // 1000
