"""Which contests a benchmark has, how long they are expected to take, and what is left out when it gets late.

No measuring and no I/O here. The seconds expected were measured on two cores; they decide the plan, never a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.record import AUTO, BINPACK, BLIND, CALL, CHANGES, FLOOR, PLATFORM, ZAMBONI, Case, Store

BUDGET_S = 60 * 60
PARTS = ("compact", "expire", "idle", "night", "curves", "memory")
SHAPES = ("960", "3800", "big")
# Rounds where the command line says nothing. The platform's way takes minutes a table: one round of it.
ROUNDS = {"960": 5, "3800": 2, "big": 2}

# Curves: places along the x axis.
FILES = (100, 500, 1500, 4000)
SNAPSHOTS = (10, 100, 300, 700)
TABLES = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class Contest:
    """Rivals on one case. `expected_s`: what a round of all of them takes, making their tables included."""

    case: Case
    rivals: tuple[str, ...]
    rounds: int
    expected_s: float
    x: int = 0

    @property
    def all_rounds_s(self) -> float:
        return self.rounds * self.expected_s

    @property
    def title(self) -> str:
        place = f" at {self.x}" if self.x else ""
        return f"{self.case.part}{place}, {self.case.shape}, {self.case.store}"


# Seconds of a round of compaction with all rivals, by shape and store.
_COMPACT_S: dict[tuple[str, Store], float] = {
    ("960", "local"): 15,
    ("960", "s3"): 25,
    ("960", "s3+10ms"): 75,
    ("3800", "local"): 35,
    ("3800", "s3"): 80,
    ("3800", "s3+10ms"): 260,
    ("big", "local"): 95,
    ("big", "s3"): 110,
    ("big", "s3+10ms"): 120,
}
# Who has a session or a process that lives on; the platform's way starts cold each time, as it does.
_WARM = (AUTO, BINPACK, CALL, ZAMBONI, FLOOR)
_EXPIRE_S: dict[Store, float] = {"local": 20, "s3": 25, "s3+10ms": 40}
_IDLE_S: dict[Store, float] = {"local": 150, "s3": 160, "s3+10ms": 200}
_NIGHT_S: dict[Store, float] = {"local": 190, "s3": 220, "s3+10ms": 340}


def contests(
    parts: Sequence[str], stores: Sequence[Store], shapes: Sequence[str], rounds: int | None = None
) -> tuple[Contest, ...]:
    """In the order in which they are played. `memory` is no contest: the peaks are taken from all samples."""
    return tuple(
        each
        for part, made in (
            ("compact", _compact(stores, shapes, rounds)),
            ("expire", _expire(stores, rounds)),
            ("idle", _idle(stores)),
            ("night", _night(stores)),
            ("curves", _curves(rounds)),
        )
        if part in parts
        for each in made
    )


def _compact(stores: Sequence[Store], shapes: Sequence[str], rounds: int | None) -> Iterator[Contest]:
    rivals = (AUTO, BINPACK, CALL, ZAMBONI, FLOOR)
    for shape in shapes:
        for store in stores:
            yield Contest(Case("compact", shape, store), rivals, rounds or ROUNDS[shape], _COMPACT_S[shape, store])


def _expire(stores: Sequence[Store], rounds: int | None) -> Iterator[Contest]:
    for store in stores:
        yield Contest(Case("expire", "960", store), (AUTO, CALL), rounds or ROUNDS["960"], _EXPIRE_S[store])


def _idle(stores: Sequence[Store]) -> Iterator[Contest]:
    for store in stores:
        yield Contest(Case("idle", "960", store), (AUTO, CHANGES, BLIND, PLATFORM), 1, _IDLE_S[store])


def _night(stores: Sequence[Store]) -> Iterator[Contest]:
    for store in stores:
        yield Contest(Case("night", "960", store), (AUTO, PLATFORM), 1, _NIGHT_S[store])


def _curves(rounds: int | None) -> Iterator[Contest]:
    for files in FILES:
        yield Contest(Case("files", "960", "s3"), (AUTO,), rounds or 2, 5 + files / 150, files)
    for snapshots in SNAPSHOTS:
        yield Contest(Case("snapshots", "960", "s3"), (AUTO,), rounds or 2, 3 + snapshots / 25, snapshots)
    for tables in TABLES:
        yield Contest(Case("tables", "960", "s3"), (AUTO,), rounds or 2, 2 + tables / 4, tables)


def warm_ups(planned: Sequence[Contest]) -> tuple[Contest, ...]:
    """What is played first and not kept: code is compiled, connections stand, before anything is measured.

    One for local disk and one for S3; a delay changes no code's way.
    """
    rivals = tuple(dict.fromkeys(name for each in planned for name in each.rivals if name in _WARM))
    stores: list[Store] = list(dict.fromkeys("local" if each.case.store == "local" else "s3" for each in planned))
    return tuple(Contest(Case("compact", "960", store), rivals, 2, _COMPACT_S["960", store]) for store in stores)


@dataclass(frozen=True, slots=True)
class Timetable:
    """When each contest should be over, in seconds from the start. Time that one leaves is there for those after it."""

    contests: tuple[Contest, ...]
    ends_s: tuple[float, ...]

    def has_time(self, number: int, elapsed_s: float, round_s: float) -> bool:
        """Whether contest `number` may begin another round, when its last one took `round_s`."""
        return elapsed_s + round_s <= self.ends_s[number]


def timetable(planned: Iterable[Contest], *, start_s: float, budget_s: float = BUDGET_S) -> Timetable:
    """Shares the budget out. `start_s`: what servers, the first session and the warm-up take.

    A plan that doesn't fill the budget gives its slack to all in proportion; one that doesn't fit it loses rounds, but
    never a contest and never a rival.
    """
    planned = tuple(planned)
    share = (budget_s - start_s) / max(sum(each.all_rounds_s for each in planned), 1)
    ends, at = [], start_s
    for each in planned:
        at += each.all_rounds_s * share
        ends.append(at)
    return Timetable(planned, tuple(ends))
