"""What a seed stands for: a world, the program's settings, which faults strike, and when. Nothing happens here."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from icekeeper.core.enums import NIGHT, Stage
from icekeeper.sandbox import WorldSpec
from tests.chaos.faults import FAULTS, Calm, Fault, Offloaded, PostgresStopped
from tests.chaos.scene import Moment
from tests.conftest import BINANCE, COINBASE, GOLD, SILVER, SLOT

TWO = "two at once"
NAMES = (*(fault.name for fault in FAULTS), TWO)
# The offload's own ticks don't survive this; what it leaves is its fault, not ours.
_NOT_TOGETHER = frozenset({Offloaded, PostgresStopped})


@dataclass(frozen=True)
class Strike:
    """A fault and its instant."""

    fault: Fault
    moment: Moment

    def __str__(self) -> str:
        return f"{self.fault} at {self.moment}"


@dataclass(frozen=True)
class Plan:
    """A run that is to be. The same seed makes the same plan, as long as the code is the same."""

    seed: int
    name: str
    spec: WorldSpec
    strikes: tuple[Strike, ...]
    store_delay_s: float

    @property
    def kinds(self) -> frozenset[str]:
        """The names of its faults."""
        return frozenset(strike.fault.name for strike in self.strikes)

    @property
    def replicas(self) -> int:
        return max(strike.fault.replicas for strike in self.strikes)

    @property
    def may_fail(self) -> frozenset[Stage]:
        """The stages whose tasks may have failed in the end. Of two faults together nobody can say."""
        return frozenset(NIGHT) if len(self.strikes) > 1 else self.strikes[0].fault.may_fail

    def change(self, settings: dict[str, Any]) -> None:
        """Retries without a long wait, and what the faults want. More of them: a deadline passes on a busy machine."""
        for stage in NIGHT:
            settings[stage.value] = {"retry_delay": "1s", "retries": 3, "timeout": "2m"}
        for strike in self.strikes:
            strike.fault.change(settings)


def derive(seed: int, only: str | None = None) -> Plan:
    """The plan of a seed. All kinds of faults come in turn; `only` is the name of one."""
    random = Random(seed)
    name = only or NAMES[seed % len(NAMES)]
    tables = tuple(random.sample((COINBASE, BINANCE, SILVER, GOLD), random.choice((2, 2, 3))))
    kinds = _two(random) if name == TWO else [next(kind for kind in FAULTS if kind.name == name)]
    return Plan(
        seed=seed,
        name=name,
        spec=_world(seed, tables, random),
        strikes=tuple(Strike(kind.draw(random), _moment(random, len(tables))) for kind in kinds),
        store_delay_s=random.choice((0.0, 0.002, 0.005)),
    )


def _two(random: Random) -> list[type[Fault]]:
    able = [kind for kind in FAULTS if kind is not Calm and kind.replicas == 1]
    while True:
        chosen = random.sample(able, 2)
        if frozenset(chosen) != _NOT_TOGETHER:
            return chosen


def _world(seed: int, tables: tuple[str, ...], random: Random) -> WorldSpec:
    # A REST catalog takes no past, so there is nothing to expire in its worlds.
    rest = random.random() < 0.25
    return WorldSpec(
        name=f"chaos{seed}",
        now=SLOT,
        days=1.25,
        tables=tables,
        commits_per_day=random.choice((16, 24)),
        files_per_commit=random.choice((1, 2)),
        rows_per_file=10,
        symbols=6,
        old_snapshots=0 if rest else 4,
        catalog="rest" if rest else "jdbc",
        seed=seed,
    )


def _moment(random: Random, tables: int) -> Moment:
    """Mostly within the night, the more so where its time is spent; at times in its start, or while it is closed."""
    n = tables
    # While it starts; in the first rewrite, which is the longest task; in the others; later; after the last task.
    tasks = random.choices(
        (-1, 0, random.randrange(1, n), random.randrange(n, len(Stage) * n), len(Stage) * n), (10, 30, 25, 30, 5)
    )[0]
    longest = {-1: 6.0, 0: 8.0, len(Stage) * n: 0.2}.get(tasks, 1.5)
    return Moment(tasks, round(random.uniform(0, longest), 2))
