"""Plays seeds: a world each, damage in some of its days, an audit of each day, and what is wrong with these audits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from random import Random
from typing import Any

from icekeeper.core.audit.certificates import CertifiedDay
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Proof, Stage
from tests.conftest import COINBASE, GOLD, SILVER, SLOT, MakeNight
from tests.damage.judge import judge, judge_certificate, judge_revocation
from tests.damage.kinds import FILE_KINDS, ROW_KINDS, Planted
from tests.damage.scene import DAY, KEYS, LakeFile, Scene, day_of
from tests.damage.truth import Truth

TABLES = (COINBASE, SILVER, GOLD)
# The older day first.
SLOTS = (SLOT - DAY, SLOT)
_NAMES = (*ROW_KINDS, *FILE_KINDS)
_MOST_A_DAY = 3
# How often both days are damaged.
_BOTH_DAYS = 0.3
# What hurts a day that is certified already: of a file that is known its footer is not read again.
LATER = (*ROW_KINDS, "file gone", "file cut", "file longer")
# How often a table is audited by its key.
_KEYED = 0.6


@dataclass(frozen=True)
class Plan:
    """What a seed comes to: a table, how it is audited, and the kinds of damage in each day."""

    seed: int
    table: str
    proof: Proof
    keyed: bool
    kinds: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Day:
    """A day, what was planted in it, what its audit said, and what is wrong with that.

    `later`: what was planted after it was certified.
    """

    planted: tuple[Planted, ...]
    said: str
    wrong: tuple[str, ...]
    certified: str | None = None
    later: tuple[Planted, ...] = ()


@dataclass(frozen=True)
class Result:
    plan: Plan
    days: tuple[Day, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        return tuple(wrong for day in self.days for wrong in day.wrong)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)


def derive(seed: int) -> Plan:
    """The plan of a seed: each kind, table and proof comes in turn, what stands beside it by chance."""
    chance, first = Random(seed), _NAMES[seed % len(_NAMES)]
    days = [(first, *chance.choices(_NAMES, k=chance.randrange(_MOST_A_DAY))), ()]
    if chance.random() < _BOTH_DAYS:
        days[1] = (chance.choice(_NAMES),)
    chance.shuffle(days)
    proof = chance.choice((Proof.FILES, Proof.FILES, Proof.ROWS, Proof.MANIFESTS))
    table = TABLES[seed // len(_NAMES) % len(TABLES)]
    return Plan(seed, table, proof, chance.random() < _KEYED, tuple(days))


async def play(plan: Plan, make_night: MakeNight) -> Result:
    def change(document: dict[str, Any]) -> None:
        document["audit"] = {"proof": plan.proof.value, "retries": 0}
        if plan.keyed:
            key, compare = KEYS[plan.table]
            document["tables"][0]["audit"] = {"key": list(key), "compare": list(compare)}

    night = await make_night(
        plan.table, change=change, days=2.25, commits_per_day=16, files_per_commit=1, rows_per_file=40, symbols=12,
        old_snapshots=0,
    )  # fmt: skip
    scene, chance = Scene(night, plan.table), Random(plan.seed)
    windows = [day_of(slot) for slot in SLOTS]
    planted = [
        await _plant_rows(scene, window, kinds, chance) for window, kinds in zip(windows, plan.kinds, strict=True)
    ]
    # Before a file is hurt: they read all.
    truths = [
        Truth.of(scene.in_source(window), await scene.in_iceberg(window), merges=scene.merges) for window in windows
    ]
    files = [await scene.files(window) for window in windows]
    in_days = Counter(file.path for there in files for file in there)
    for found, kinds, there in zip(planted, plan.kinds, files, strict=True):
        # One that has rows of both days would damage the other, too.
        own = [file for file in there if in_days[file.path] == 1]
        found += _hurt_files(scene, own, kinds, chance)
    days = []
    for slot, found, truth in zip(SLOTS, planted, truths, strict=True):
        report = await night.run(Stage.AUDIT, slot=slot)
        (audit,) = report.audits
        wrong = [*judge(plan.proof, found, audit, truth, keyed=plan.keyed)]
        certified = await _certified(scene, slot)
        wrong += judge_certificate(plan.proof, found, certified, truth, keyed=plan.keyed)
        said = f"{audit.status} {audit.reason}: {audit.notes}"
        by = None if certified.certificate is None else certified.certificate.by.value
        days.append(Day(tuple(found), said, tuple(wrong), by))
    # Both days are audited before one is damaged again: some damage reaches into its neighbour. Beside a bad file the
    # table can't be read any more.
    place = next((place for place, day in enumerate(days) if day.certified), None)
    if place is not None and not any(each.reason for found in planted for each in found):
        days[place] = await _damaged_later(scene, plan, SLOTS[place], days[place], chance)
    return Result(plan, tuple(days))


async def _certified(scene: Scene, slot: datetime) -> CertifiedDay:
    return await scene.night.services.certificates.day(scene.table, day_of(slot).start.date())


async def _damaged_later(scene: Scene, plan: Plan, slot: datetime, day: Day, chance: Random) -> Day:
    """A certified day is damaged in one more way, and audited again."""
    window, kinds = day_of(slot), (chance.choice(LATER),)
    planted = await _plant_rows(scene, window, kinds, chance)
    truth = Truth.of(scene.in_source(window), await scene.in_iceberg(window), merges=scene.merges)
    planted += _hurt_files(scene, await scene.files(window), kinds, chance)
    await scene.night.run(Stage.AUDIT, slot=slot)
    certified = await _certified(scene, slot)
    wrong = tuple(judge_revocation(plan.proof, planted, certified, truth, keyed=plan.keyed))
    return replace(day, wrong=(*day.wrong, *wrong), later=tuple(planted))


async def _plant_rows(scene: Scene, window: Window, kinds: Iterable[str], chance: Random) -> list[Planted]:
    return [await ROW_KINDS[name](scene, window, chance) for name in kinds if name in ROW_KINDS]


def _hurt_files(scene: Scene, files: list[LakeFile], kinds: Iterable[str], chance: Random) -> list[Planted]:
    """Each kind of damage in a file of its own, as far as there are any."""
    chance.shuffle(files)
    hurt = [name for name in kinds if name in FILE_KINDS]
    return [FILE_KINDS[name](scene, file, chance) for name, file in zip(hurt, files, strict=False)]
