"""Which contests a benchmark has, how long they are expected to take, and what is left out when it gets late.

No measuring and no I/O. The seconds expected were measured on two cores; they decide the plan, never a result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.record import (
    BARE,
    BINPACK,
    CALL,
    CHANGED,
    COLD,
    COMPARED,
    COPY,
    DEFAULTS,
    FILES,
    FLOOR,
    KEY,
    KNOWN,
    LOST,
    MANIFESTS,
    PLATFORM,
    READ_KEY,
    READ_TIME,
    ROWS,
    THIRD,
    ZAMBONI,
    Case,
    Store,
)

BUDGET_S = 90 * 60
# Servers and the first session, before anything is played.
START_S = 90
PARTS = ("compact", "expire", "idle", "curves", "start", "night")
# Played only where it is named: it takes a part of an hour alone.
AUDIT = "audit"
SHAPES = ("960", "3800", "big", "big8")
# Rounds where the command line says nothing.
ROUNDS = {"960": 5, "3800": 3, "big": 3, "big8": 3}
NIGHTS = 3

# Curves: places along the x axis.
FILES_A_TABLE = (100, 500, 1500, 3000)
SNAPSHOTS = (10, 100, 300, 700)
TABLES = (1, 10, 50)
# The rows of the audited day.
AUDIT_ROWS = 50_000_000


@dataclass(frozen=True, slots=True)
class Contest:
    """Rivals on one case. `expected_s`: what a round of all of them takes, making their tables included.

    `once`: those of them that play in the first round only, and what they add to it. `played`: so many of the rounds
    have been played before.
    """

    case: Case
    rivals: tuple[str, ...]
    rounds: int
    expected_s: float
    x: int = 0
    played: int = 0
    once: frozenset[str] = frozenset()
    once_s: float = 0.0

    @property
    def key(self) -> tuple[Case, float]:
        """What distinguishes its samples from those of others."""
        return self.case, self.x

    @property
    def all_rounds_s(self) -> float:
        return (self.rounds - self.played) * self.expected_s + (0.0 if self.played else self.once_s)

    @property
    def title(self) -> str:
        place = f" at {self.x}" if self.x else ""
        return f"{self.case.part}{place}, {self.case.shape}, {self.case.store}"


# Who compacts a shape, and who of them does so in the first round only: how slow they are is known after one.
_COMPACTORS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "960": ((DEFAULTS, BINPACK, CALL, ZAMBONI, FLOOR), frozenset()),
    "3800": ((DEFAULTS, BINPACK, CALL, ZAMBONI, FLOOR), frozenset((BINPACK, FLOOR))),
    "big": ((DEFAULTS, BINPACK, CALL, ZAMBONI, FLOOR), frozenset((BINPACK, FLOOR))),
    "big8": ((DEFAULTS, COPY, BINPACK, CALL, ZAMBONI), frozenset((BINPACK, CALL, ZAMBONI))),
}
# Seconds of a round of compaction, by shape and store, and those that the first one takes longer. Scans included.
_COMPACT_S: dict[tuple[str, Store], tuple[float, float]] = {
    ("960", "local"): (17, 0),
    ("960", "s3"): (25, 0),
    ("960", "s3+10ms"): (70, 0),
    ("3800", "local"): (32, 22),
    ("3800", "s3"): (52, 30),
    ("3800", "s3+10ms"): (130, 75),
    ("big", "local"): (65, 45),
    ("big", "s3"): (60, 45),
    ("big", "s3+10ms"): (80, 65),
    ("big8", "local"): (28, 70),
    ("big8", "s3"): (25, 70),
    ("big8", "s3+10ms"): (32, 90),
}
_EXPIRE_S: dict[Store, float] = {"local": 14, "s3": 19, "s3+10ms": 23}
_IDLE_S: dict[Store, float] = {"local": 75, "s3": 75, "s3+10ms": 80}
# The first night also takes who plays once, and making the tables.
_NIGHT_S: dict[Store, tuple[float, float]] = {"local": (112, 85), "s3": (122, 110), "s3+10ms": (160, 60)}
# Of a row of the audited day, by all rivals.
_AUDIT_S = 1e-5
# The rows of a day that is audited before anything is measured.
_WARM_UP_ROWS = 200_000


def contests(
    parts: Sequence[str],
    stores: Sequence[Store],
    shapes: Sequence[str],
    rounds: int | None = None,
    audit_rows: int = AUDIT_ROWS,
) -> tuple[Contest, ...]:
    """In the order in which they are played: what takes longest comes last, and is what an hour that is up costs.

    Memory needs no part of its own: each sample has its peaks.
    """
    return tuple(
        each
        for part, made in (
            ("compact", _compact(stores, shapes, rounds)),
            ("expire", _expire(stores, rounds)),
            ("idle", _idle(stores, rounds)),
            ("curves", _curves(rounds)),
            ("start", _start(stores, rounds)),
            ("night", _night(stores, rounds)),
            (AUDIT, _audit(rounds, audit_rows)),
        )
        if part in parts
        for each in made
    )


def _compact(stores: Sequence[Store], shapes: Sequence[str], rounds: int | None) -> Iterator[Contest]:
    for shape in shapes:
        rivals, once = _COMPACTORS[shape]
        for store in stores:
            each_s, once_s = _COMPACT_S[shape, store]
            case = Case("compact", shape, store)
            yield Contest(case, rivals, rounds or ROUNDS[shape], each_s, once=once, once_s=once_s)


def _expire(stores: Sequence[Store], rounds: int | None) -> Iterator[Contest]:
    for store in stores:
        yield Contest(Case("expire", "960", store), (DEFAULTS, BARE, CALL), rounds or ROUNDS["960"], _EXPIRE_S[store])


def _idle(stores: Sequence[Store], rounds: int | None) -> Iterator[Contest]:
    for store in stores:
        yield Contest(Case("idle", "960", store), (DEFAULTS, CALL, PLATFORM), rounds or 1, _IDLE_S[store])
        yield Contest(Case("idle", "960 without audit", store), (DEFAULTS,), rounds or ROUNDS["960"], 1)


def _night(stores: Sequence[Store], rounds: int | None) -> Iterator[Contest]:
    once = frozenset((BINPACK, ZAMBONI))
    for store in stores:
        # On S3 zamboni takes a minute for one table, and six with 10 ms a request.
        rivals = (DEFAULTS, PLATFORM, BINPACK, *((ZAMBONI,) if store == "local" else ()))
        each_s, once_s = _NIGHT_S[store]
        yield Contest(Case("night", "960", store), rivals, rounds or NIGHTS, each_s, once=once, once_s=once_s)


def _audit(rounds: int | None, rows: int) -> Iterator[Contest]:
    ways = (READ_TIME, READ_KEY, MANIFESTS, FILES, KNOWN, ROWS, KEY, COMPARED, LOST, CHANGED)
    yield Contest(Case(AUDIT, str(rows), "s3"), ways, rounds or 1, 20 + rows * _AUDIT_S)


def _curves(rounds: int | None) -> Iterator[Contest]:
    for part, shape, places, seconds in (
        ("files", "960", FILES_A_TABLE, 0.015),
        ("snapshots", "960", SNAPSHOTS, 0.05),
        ("tables", "12", TABLES, 0.5),
    ):
        for x in places:
            yield Contest(Case(part, shape, "s3"), (DEFAULTS,), rounds or 1, 3 + x * seconds, x)


def _start(stores: Sequence[Store], rounds: int | None) -> Iterator[Contest]:
    yield Contest(Case("session", "12", "local"), (DEFAULTS,), rounds or 3, 18)
    for store in stores:
        rivals, once_s = ((DEFAULTS, THIRD, COLD), 25) if store == "s3" else ((DEFAULTS, THIRD), 0)
        case, once = Case("first", "960", store), frozenset((COLD,))
        yield Contest(case, rivals, rounds or 2, 60, once=once, once_s=once_s)


def warm_ups(planned: Sequence[Contest]) -> tuple[Contest, ...]:
    """What is played first and not kept: code is compiled, connections stand, before anything is measured.

    One for local disk and one for S3; a delay changes no code's way.
    """
    # The platform's way starts cold each time, as it does.
    audits = [each for each in planned if each.case.part == AUDIT]
    others = [each for each in planned if each not in audits]
    # The rest of those left out has no part in compaction, or needs no warming up.
    cold = (PLATFORM, COLD, THIRD, COPY, BARE)
    rivals = tuple(dict.fromkeys(name for each in others for name in each.rivals if name not in cold))
    stores: list[Store] = list(dict.fromkeys("local" if each.case.store == "local" else "s3" for each in others))
    large = {each.case.store for each in others if each.case.shape in ("big", "big8")}
    copied = [store for store in stores if store in large or (store == "s3" and "s3+10ms" in large)]
    return (
        *(Contest(Case("compact", "960", store), rivals, 2, _COMPACT_S["960", store][0]) for store in stores),
        # Large row groups are compacted in a way of their own.
        *(Contest(Case("compact", "big8", store), (DEFAULTS,), 1, 15) for store in copied),
        *(Contest(Case(AUDIT, str(_WARM_UP_ROWS), "s3"), each.rivals, 1, 20) for each in audits),
    )


def remaining(
    planned: Iterable[Contest], played: Mapping[tuple[Case, float], int], took_s: Mapping[tuple[Case, float], float]
) -> tuple[Contest, ...]:
    """The contests that lack rounds; what a round of them has taken is what the next is expected to take."""
    return tuple(
        replace(each, played=played.get(each.key, 0), expected_s=took_s.get(each.key, each.expected_s))
        for each in planned
        if played.get(each.key, 0) < each.rounds
    )


def fitted(planned: Iterable[Contest], budget_s: float) -> tuple[Contest, ...]:
    """The plan with as many rounds as fit the budget: the longest go first. Each contest keeps one, and all rivals."""
    left = list(planned)
    while sum(each.all_rounds_s for each in left) > budget_s:
        several = [number for number, each in enumerate(left) if each.rounds - each.played > 1]
        if not several:
            break
        longest = max(several, key=lambda number: left[number].expected_s)
        left[longest] = replace(left[longest], rounds=left[longest].rounds - 1)
    return tuple(left)


def ends(planned: Sequence[Contest], budget_s: float) -> tuple[float, ...]:
    """When each contest should be over, in seconds from the first one's begin; slack is shared in proportion.

    Time that one contest leaves is there for those after it. One that is late begins no further round.
    """
    share = budget_s / max(sum(each.all_rounds_s for each in planned), 1)
    return tuple(itertools.accumulate(each.all_rounds_s * share for each in planned))
