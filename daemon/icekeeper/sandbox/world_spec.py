"""The specification of a world: its tables and volumes, its ticks, and the schedule of its commits. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from icekeeper.sandbox.table_shapes import EXCHANGES, SHAPES, TABLES, Generation, TableShape, shape_of
from icekeeper.sandbox.trades import Ticks, Volume

CatalogKind = Literal["jdbc", "hadoop", "rest"]

# The offload skips the last minutes, for which rows may still arrive.
OFFLOAD_LAG = timedelta(minutes=5)
_DAY_US = 86_400_000_000
_OLDEST, _YOUNGEST = timedelta(days=12), timedelta(days=8)
# A cycle of the offload begins at its tick. After its JVM's start it marks the status, and it ends with its commit: so
# long after the tick, or a quarter and half of a tick if that is shorter.
_START_TAKES_US = 5_000_000
_COMMIT_TAKES_US = 20_000_000


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The datetime in UTC of microseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


@dataclass(frozen=True)
class WorldSpec:
    """A world to build.

    `now` is the world's present, not after the wall clock's; its last commit lies before it. `days` of offload ticks
    lead up to it, `commits_per_day` each. `old_snapshots` more commits lie 8 to 12 days back, with rows of that time.
    A commit has `files_per_commit` files of about `rows_per_file` rows; more files only where a tick's rows lie in
    more partitions than that, fewer where there are fewer rows (gold). `files_per_commit` None: one file for each
    partition that a tick's rows lie in, of three times `rows_per_file` rows together. `lost` names hours, as (iceberg
    name, start of the hour), whose rows are in ClickHouse and were never offloaded. `generation`: of the tables.
    `name` None: numbered within the sandbox.
    """

    now: datetime
    days: float = 1.25
    name: str | None = None
    tables: tuple[str, ...] = tuple(shape.iceberg for shape in TABLES)
    commits_per_day: int = 96
    files_per_commit: int | None = 3
    rows_per_file: int = 20
    symbols: int = 34
    old_snapshots: int = 4
    catalog: CatalogKind = "jdbc"
    generation: Generation = "current"
    seed: int = 1
    lost: tuple[tuple[str, datetime], ...] = field(default=())

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.tables, *(table for table, _ in self.lost)) if name not in SHAPES]
        if unknown:
            raise ValueError(f"no such table: {', '.join(unknown)}. There are: {', '.join(SHAPES)}")
        if to_micros(self.now) > to_micros(datetime.now(UTC)) + 60_000_000:
            raise ValueError(
                f"now={self.now} is in the future: Iceberg refuses commits that are older than the last one"
            )
        if self.old_snapshots and self.catalog == "rest":
            raise ValueError("a REST catalog stamps commits itself: old_snapshots must be 0")
        if self.old_snapshots and self.days > _YOUNGEST / timedelta(days=1) - 1:
            raise ValueError(f"{self.days} days of ticks leave no room for snapshots 8 to 12 days back")
        if min(self.commits_per_day, self._files, self.rows_per_file, self.symbols) < 1:
            raise ValueError("commits_per_day, files_per_commit, rows_per_file and symbols must be at least 1")

    @property
    def shapes(self) -> tuple[TableShape, ...]:
        """The tables, in the order given."""
        return tuple(shape_of(name, self.generation) for name in self.tables)

    @property
    def _files(self) -> int:
        return len(EXCHANGES) if self.files_per_commit is None else self.files_per_commit

    @property
    def volume(self) -> Volume:
        """The rows and files of a tick."""
        return Volume(self._files, self._files * self.rows_per_file, self.symbols)

    @property
    def step_us(self) -> int:
        """Microseconds from one tick to the next."""
        return _DAY_US // self.commits_per_day

    def marked_us(self, tick_us: int) -> int:
        """When the cycle of a tick marks its table as `running`."""
        return tick_us + min(_START_TAKES_US, self.step_us // 4)

    def committed_us(self, tick_us: int) -> int:
        """When the commit of a tick appears."""
        return tick_us + min(_COMMIT_TAKES_US, self.step_us // 2)

    def last_tick_before(self, moment: datetime) -> int:
        """The last tick, on whole steps of the UTC day, whose commit is before the moment (microseconds)."""
        now = to_micros(moment)
        midnight = now // _DAY_US * _DAY_US
        tick = midnight + (now - midnight) // self.step_us * self.step_us
        return tick if self.committed_us(tick) < now else tick - self.step_us

    def ticks(self) -> list[int]:
        """The ticks that lead up to `now`, oldest first (microseconds)."""
        last = self.last_tick_before(self.now)
        count = max(1, round(self.days * self.commits_per_day))
        return [last - back * self.step_us for back in reversed(range(count))]

    def old_ticks(self) -> list[int]:
        """The ticks of the old snapshots, oldest first (microseconds)."""
        oldest, youngest = to_micros(self.now - _OLDEST), to_micros(self.now - _YOUNGEST)
        count = self.old_snapshots
        places = [youngest] if count == 1 else np.linspace(oldest, youngest, count).astype(np.int64).tolist()
        # `places` are of the commits, not of the ticks.
        lag = self.committed_us(0)
        return [place // 1_000_000 * 1_000_000 - lag for place in places]

    def old_bounds(self, shape: TableShape) -> Ticks:
        """The event times of the old ticks: a step each, for gold a whole candle window if that is longer."""
        high = np.array(self.old_ticks(), dtype=np.int64) - OFFLOAD_LAG // timedelta(microseconds=1)
        width = max(self.step_us, shape.window // timedelta(microseconds=1) if shape.window else 0)
        low = np.maximum(high - width, np.r_[np.iinfo(np.int64).min, high[:-1]])
        return Ticks(low, high)

    def bounds(self, ticks: list[int]) -> Ticks:
        """The event times that consecutive ticks offload."""
        high = np.array(ticks, dtype=np.int64) - OFFLOAD_LAG // timedelta(microseconds=1)
        return Ticks(high - self.step_us, high)

    def lost_hours(self, table: str) -> tuple[datetime, ...]:
        """The lost hours of one table."""
        return tuple(hour for name, hour in self.lost if name == table)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for `from_json`."""
        return {
            **asdict(self),
            "now": self.now.isoformat(),
            "lost": [[table, hour.isoformat()] for table, hour in self.lost],
        }

    @staticmethod
    def from_json(document: dict[str, Any]) -> WorldSpec:
        """The spec of `to_json`'s values."""
        lost = tuple((table, datetime.fromisoformat(hour)) for table, hour in document["lost"])
        now = datetime.fromisoformat(document["now"])
        return WorldSpec(**{**document, "now": now, "lost": lost, "tables": tuple(document["tables"])})
