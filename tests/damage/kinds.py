"""The kinds of damage: how each is planted, and the lowest proof whose audit has to see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random

from icekeeper.core.calendar import Window
from icekeeper.core.enums import Proof
from icekeeper.core.reasons import Reason
from tests.damage.scene import LakeFile, Scene, changed

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
_CYCLE = 15  # minutes
_CYCLES_A_DAY = 96
# The smallest difference: of 38 digits Spark's sum would have one less after the point.
ANOTHER_PRICE = "CAST(price AS DECIMAL(36, 8)) + 0.00000001"
# How each Parquet file begins, and what stands behind its footer.
_HEAD, _TAIL = 4, 8


@dataclass(frozen=True)
class Planted:
    """Damage in a day. `reason` None: no file is bad, rows are others.

    `file`: the file that is named, with as many rows as its manifest claims; None where not every audit can name it.
    """

    kind: str
    text: str
    reason: Reason | None = None
    seen_by: Proof = Proof.MANIFESTS
    file: LakeFile | None = None

    @classmethod
    def by_files(cls, kind: str, text: str, reason: Reason, file: LakeFile) -> Planted:
        """Damage that the proof `files` sees, and whose file it names."""
        return cls(kind, text, reason, Proof.FILES, file)


def _cycles(window: Window, chance: Random) -> Window:
    """Some of the offload's cycles of a day."""
    cycles = chance.randint(1, 24)
    start = window.start + chance.randrange(_CYCLES_A_DAY - cycles) * _CYCLE * MINUTE
    return Window(start, start + cycles * _CYCLE * MINUTE)


async def _cycles_lost(scene: Scene, window: Window, chance: Random) -> Planted:
    condition = scene.within(lost := _cycles(window, chance))
    rows = await scene.rows(condition)
    await scene.sql(f"DELETE FROM {{t}} WHERE {condition}")
    return Planted("cycles lost", f"{rows} rows of {lost}")


async def _symbol_lost(scene: Scene, window: Window, chance: Random) -> Planted:
    symbols = await scene.symbols(scene.within(window))
    if not symbols:
        return Planted("symbol lost", "there was none left")
    condition = f"{scene.within(window)} AND {scene.symbol} = '{(symbol := chance.choice(symbols))}'"
    rows = await scene.rows(condition)
    await scene.sql(f"DELETE FROM {{t}} WHERE {condition}")
    return Planted("symbol lost", f"{rows} rows of {symbol}")


async def _cycles_written_twice(scene: Scene, window: Window, chance: Random) -> Planted:
    condition = scene.within(twice := _cycles(window, chance))
    rows = await scene.rows(condition)
    await scene.sql(f"INSERT INTO {{t}} SELECT * FROM {{t}} WHERE {condition}")
    return Planted("cycles written twice", f"{rows} rows of {twice}")


async def _some(scene: Scene, window: Window, chance: Random) -> tuple[list[str], str]:
    """Numbers of some rows of a day, and the column that holds them; none of a table that numbers no rows."""
    column = scene.shape.sequence
    if column is None:
        return [], ""
    rows = await scene.sql(f"SELECT DISTINCT {column} FROM {{t}} WHERE {scene.within(window)} ORDER BY 1")
    numbers = [str(row[0]) for row in rows]
    return chance.sample(numbers, min(len(numbers), 2 * chance.randint(1, 20))), column


async def _rows_swapped(scene: Scene, window: Window, chance: Random) -> Planted:
    """Some rows lost, and others doubled: the numbers are equal, or nearly so."""
    numbers, column = await _some(scene, window, chance)
    if not numbers:
        return Planted("rows swapped", "there was none to swap")
    half = len(numbers) // 2
    lost, doubled = (
        f"{scene.within(window)} AND {column} IN ({', '.join(some)})"
        for some in (numbers[:half] or ["-1"], numbers[half:])
    )
    fewer, more = await scene.rows(lost), await scene.rows(doubled)
    await scene.sql(f"DELETE FROM {{t}} WHERE {lost}")
    await scene.sql(f"INSERT INTO {{t}} SELECT * FROM {{t}} WHERE {doubled}")
    return Planted("rows swapped", f"{fewer} lost, {more} doubled")


async def _some_updated(scene: Scene, window: Window, chance: Random, kind: str, change: str) -> Planted:
    numbers, column = await _some(scene, window, chance)
    if not numbers:
        return Planted(kind, "there was none to change")
    condition = f"{scene.within(window)} AND {column} IN ({', '.join(numbers)})"
    await scene.sql(f"UPDATE {{t}} SET {change} WHERE {condition}")
    return Planted(kind, f"of {len(numbers)} numbers")


async def _prices_changed(scene: Scene, window: Window, chance: Random) -> Planted:
    return await _some_updated(scene, window, chance, "prices changed", f"price = {ANOTHER_PRICE}")


async def _column_nulled(scene: Scene, window: Window, chance: Random) -> Planted:
    return await _some_updated(scene, window, chance, "column nulled", "quantity = NULL")


async def _rows_late(scene: Scene, window: Window, chance: Random) -> Planted:
    """They come to ClickHouse when the offload has passed their time."""
    hour = window.start + timedelta(hours=chance.randrange(24))
    rows = scene.night.world.late_rows(scene.table, hour, rows=chance.randint(1, 60))
    return Planted("rows late", f"{rows} rows of {hour}")


async def _times_slipped(scene: Scene, window: Window, chance: Random) -> Planted:
    """Of some cycles the event times were read in another time zone; they stay in the day."""
    slipped = _cycles(window, chance)
    slipped = Window(slipped.start, min(slipped.end, window.end - HOUR))
    condition, time = scene.within(slipped), scene.shape.timestamp
    rows = await scene.rows(condition)
    await scene.sql(f"UPDATE {{t}} SET {time} = {time} + INTERVAL 1 HOUR WHERE {condition}")
    return Planted("times slipped", f"{rows} rows of {slipped}")


async def _neighbours_rows(scene: Scene, window: Window, chance: Random) -> Planted:
    """Rows of a symbol of the day before are there once more, some hours later, in this day."""
    hours, time = chance.randint(1, 2), scene.shape.timestamp
    last = scene.within(Window(window.start - hours * HOUR, window.start))
    symbols = await scene.symbols(last)
    condition = f"{last} AND {scene.symbol} IN ('{chance.choice(symbols or [''])}')"
    rows = await scene.rows(condition)
    columns = [f"{name} + INTERVAL {hours} HOURS" if name == time else name for name in scene.shape.offloaded_columns]
    await scene.sql(f"INSERT INTO {{t}} SELECT {', '.join(columns)} FROM {{t}} WHERE {condition}")
    return Planted("rows of the day before", f"{rows} rows of its last {hours} h")


def _file_gone(scene: Scene, file: LakeFile, chance: Random) -> Planted:
    scene.delete(file.path)
    return Planted.by_files("file gone", file.path, Reason.FILE_MISSING, file)


def _file_cut(scene: Scene, file: LakeFile, chance: Random) -> Planted:
    body = scene.read(file.path)
    scene.write(file.path, body[: (left := chance.randrange(len(body)))])
    return Planted.by_files("file cut", f"{left} bytes of {file.path}", Reason.FILE_CORRUPT, file)


def _file_longer(scene: Scene, file: LakeFile, chance: Random) -> Planted:
    scene.write(file.path, scene.read(file.path) + chance.randbytes(more := chance.randint(1, 2000)))
    return Planted.by_files("file longer", f"{more} bytes behind {file.path}", Reason.FILE_CORRUPT, file)


def _footer_overwritten(scene: Scene, file: LakeFile, chance: Random) -> Planted:
    scene.write(file.path, scene.read(file.path)[:-_TAIL] + chance.randbytes(_TAIL))
    return Planted.by_files("footer overwritten", file.path, Reason.FILE_CORRUPT, file)


def _pages_overwritten(scene: Scene, file: LakeFile, chance: Random) -> Planted:
    body = scene.read(file.path)
    footer = len(body) - _TAIL - int.from_bytes(body[-_TAIL:-4], "little")
    scene.write(file.path, body[:_HEAD] + bytes(footer - _HEAD) + body[footer:])
    return Planted("pages overwritten", file.path, Reason.FILE_CORRUPT, Proof.ROWS)


def _manifest_lies(scene: Scene, file: LakeFile, chance: Random) -> Planted:
    """One more file, whose manifest claims other rows than it has."""
    copy = file.path.replace(".parquet", f"-{chance.getrandbits(32):08x}.parquet")
    claims = file.rows + chance.choice([-1, 1, 10, 800])
    scene.write(copy, scene.read(file.path))
    scene.append(file.path, lambda entry: changed(entry, file_path=copy, record_count=claims))
    text = f"{claims} rows claimed for {file.rows} in {copy}"
    return Planted.by_files("manifest lies", text, Reason.COUNT_MISMATCH, replace(file, path=copy, rows=claims))


def _file_listed_twice(scene: Scene, file: LakeFile, chance: Random) -> Planted:
    scene.append(file.path, lambda entry: entry)
    return Planted.by_files("file listed twice", file.path, Reason.COUNT_MISMATCH, file)


# Rows of a day are lost, doubled or others than in ClickHouse.
ROW_KINDS: dict[str, Callable[[Scene, Window, Random], Awaitable[Planted]]] = {
    "cycles lost": _cycles_lost,
    "symbol lost": _symbol_lost,
    "cycles written twice": _cycles_written_twice,
    "rows swapped": _rows_swapped,
    "prices changed": _prices_changed,
    "column nulled": _column_nulled,
    "rows late": _rows_late,
    "times slipped": _times_slipped,
    "rows of the day before": _neighbours_rows,
}
# A file of a day is hurt.
FILE_KINDS: dict[str, Callable[[Scene, LakeFile, Random], Planted]] = {
    "file gone": _file_gone,
    "file cut": _file_cut,
    "file longer": _file_longer,
    "footer overwritten": _footer_overwritten,
    "pages overwritten": _pages_overwritten,
    "manifest lies": _manifest_lies,
    "file listed twice": _file_listed_twice,
}
