"""A Hadoop catalog whose files are not where they should be: hints, metadata files, a warehouse at another path."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import structlog

from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.doctor import Level, examine
from icekeeper.execution.logging import configure
from icekeeper.execution.wiring import build
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.settings import load
from tests.conftest import COINBASE, SLOT, Night, no_waiting, tell_session, world_clock, write_settings

# The offload commits for none of its cycles then.
BETWEEN_CYCLES = SLOT + timedelta(minutes=7)


@dataclass(frozen=True)
class Warehouse:
    """A world's warehouse, untouched, and a copy of it that may be broken; their paths have the same length."""

    world: World
    original: Path
    copy: Path

    @property
    def table(self) -> Path:
        """The table's directory in the copy."""
        return self.copy / COINBASE.replace(".", "/")

    @property
    def metadata(self) -> Path:
        return self.table / "metadata"

    def versions(self) -> list[Path]:
        """The metadata files of the copy, oldest first."""
        return sorted(self.metadata.glob("v*.metadata.json"), key=lambda path: int(path.name[1:].partition(".")[0]))

    def hint(self, text: str) -> None:
        (self.metadata / "version-hint.text").write_text(text)

    def rewrite(self, old: str, new: str) -> None:
        """Replaces a text in the newest metadata file."""
        newest = self.versions()[-1]
        newest.write_text(newest.read_text().replace(old, new))


@pytest.fixture(scope="module")
async def world(box: Sandbox) -> World:
    spec = WorldSpec(
        name=f"misplaced{uuid4().hex[:8]}", now=SLOT, days=0.25, tables=(COINBASE,), commits_per_day=24,
        rows_per_file=5, symbols=6, catalog="hadoop", old_snapshots=0,
    )  # fmt: skip
    world = await asyncio.to_thread(box.world, spec)
    await migrate(world.postgres.dsn(world.postgres_database), world.postgres.password)
    return world


@pytest.fixture
def warehouse(world: World, tmp_path: Path) -> Warehouse:
    original = Path(world.catalog_settings()["warehouse"].removeprefix("file://"))
    made = Warehouse(world, original, tmp_path / "warehouse")
    shutil.copytree(original, made.copy)
    # Several versions, as commits leave them.
    newest = made.versions()[-1]
    number = int(newest.name[1:].partition(".")[0])
    for version in (number + 1, number + 2):
        shutil.copy(newest, made.metadata / f"v{version}.metadata.json")
    made.hint(str(number + 2))
    return made


@pytest.fixture
async def night(warehouse: Warehouse, engine: SparkEngine, box: Sandbox, tmp_path: Path) -> AsyncIterator[Night]:
    """icekeeper on a catalog that opens the copy."""

    def change(document: dict[str, object]) -> None:
        document["catalog"] = {
            "name": f"copy{uuid4().hex[:8]}", "type": "hadoop", "warehouse": f"file://{warehouse.copy}",
        }  # fmt: skip

    world = warehouse.world
    config = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", change)
    settings = load(config)
    configure("info", "json", settings.state_dir, console_level="critical")  # type: ignore[arg-type]
    await tell_session(engine, settings)
    host = Host(wall_clock, {}, (settings.state_dir,))
    services = build(settings, engine, clock=world_clock(BETWEEN_CYCLES), sleep=no_waiting, surroundings=host)
    yield Night(box, world, config, settings, services, settings.catalog.name)
    await services.close()
    structlog.reset_defaults()


async def compacted(night: Night) -> tuple[TaskOutcome, Reason | None, int, str]:
    (task,) = (await night.run(Stage.COMPACT)).tasks
    return task.outcome, task.reason, task.attempts, task.error or task.note


# --- metadata that is not there, or is none

Break = Callable[[Warehouse], object]


def only_the_hint_is_there(at: Warehouse) -> None:
    for path in at.versions():
        path.unlink()


def only_a_broken_hint_is_there(at: Warehouse) -> None:
    only_the_hint_is_there(at)
    at.hint("")


def the_hints_version_was_deleted(at: Warehouse) -> None:
    oldest = at.versions()[0]
    oldest.unlink()
    at.hint(oldest.name[1:].partition(".")[0])


def cut_off(at: Warehouse) -> None:
    newest = at.versions()[-1]
    newest.write_bytes(newest.read_bytes()[:1000])


MISSING, CORRUPT = Reason.METADATA_MISSING, Reason.METADATA_CORRUPT
BROKEN: list[tuple[str, Break, Reason, str]] = [
    ("a clone holds only the hint", only_the_hint_is_there, MISSING, "there is no metadata file at all"),
    ("only an empty hint", only_a_broken_hint_is_there, MISSING, "there is no metadata file at all"),
    (
        "the hint is ahead",
        lambda at: at.hint("412"),
        MISSING,
        "names version 412, which is not there; its versions are",
    ),
    ("the hint is behind what is kept", the_hints_version_was_deleted, MISSING, "which is not there; its versions are"),
    ("an empty file", lambda at: at.versions()[-1].write_text(""), CORRUPT, ".metadata.json"),
    ("a file that is cut off", cut_off, CORRUPT, ".metadata.json"),
    ("another document", lambda at: at.versions()[-1].write_text("{}"), CORRUPT, "Cannot parse missing"),
    ("a list", lambda at: at.versions()[-1].write_text("[]"), CORRUPT, "Cannot parse metadata from a non-object"),
]


@pytest.mark.parametrize(("arrange", "reason", "says"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN])
async def test_metadata_that_is_missing_or_broken_has_its_reason_and_is_tried_once(
    night: Night, warehouse: Warehouse, arrange: Break, reason: Reason, says: str
) -> None:
    arrange(warehouse)
    outcome, found, attempts, text = await compacted(night)
    assert (outcome, found, attempts) == (TaskOutcome.FAILED, reason, 1), text
    assert says in text
    if reason is MISSING:
        assert f"{warehouse.metadata}/version-hint.text" in text
    checks = [check for check in await examine(night.services, night.settings.policies()) if says in check.text]
    assert [(check.level, check.advice) for check in checks] == [(Level.ERROR, reason.advice)]


# --- what Iceberg finds its way through


FINE: list[tuple[str, Break]] = [
    ("an empty hint", lambda at: at.hint("")),
    ("a hint that is no number", lambda at: at.hint("<<<<<<< HEAD")),
    ("no hint", lambda at: (at.metadata / "version-hint.text").unlink()),
    ("a hint that is behind", lambda at: at.hint(at.versions()[0].name[1:].partition(".")[0])),
    ("a location without a scheme", lambda at: at.rewrite("file://", "")),
    ("a location with one slash", lambda at: at.rewrite("file:///", "file:/")),
    ("both paths lead to the warehouse", lambda at: None),
]


@pytest.mark.parametrize("arrange", [each[1] for each in FINE], ids=[each[0] for each in FINE])
async def test_what_is_only_written_another_way_is_no_trouble(
    night: Night, warehouse: Warehouse, arrange: Break
) -> None:
    arrange(warehouse)
    outcome, _, _, text = await compacted(night)
    assert outcome is TaskOutcome.DONE, text


# --- a warehouse at another path than its metadata names


NAMED = "/home/iceberg/warehouse"


def moved(at: Warehouse) -> None:
    """As a container's mount looks from the host: the metadata names a path that is not there."""
    at.rewrite(str(at.original), NAMED)


def nothing_was_written_there() -> bool:
    return not os.path.lexists(NAMED)


@pytest.mark.parametrize("stage", [Stage.COMPACT, Stage.AUDIT])
async def test_a_warehouse_at_another_path_has_its_reason_and_both_paths_are_named(
    night: Night, warehouse: Warehouse, stage: Stage
) -> None:
    moved(warehouse)
    (task,) = (await night.run(stage)).tasks
    text = (task.error or task.note).replace("file://", "").replace("file:", "")
    assert (task.outcome, task.reason, task.attempts) == (TaskOutcome.FAILED, Reason.WAREHOUSE_MOVED, 1), text
    assert f"the metadata names {NAMED}/{COINBASE.replace('.', '/')}/metadata/snap-" in text
    assert f"the catalog opens {warehouse.table}" in text
    found = [check for check in await examine(night.services, night.settings.policies()) if NAMED in check.text]
    assert [(check.level, check.advice) for check in found] == [(Level.ERROR, Reason.WAREHOUSE_MOVED.advice)]
    assert nothing_was_written_there()


@contextmanager
def away(path: Path) -> Iterator[None]:
    """A file or directory is gone for a while."""
    path.rename(hidden := path.with_name(f"{path.name}.away"))
    yield
    hidden.rename(path)


async def test_data_files_under_another_path_than_the_metadata_are_a_moved_warehouse(
    night: Night, warehouse: Warehouse
) -> None:
    data = warehouse.original / COINBASE.replace(".", "/") / "data"
    with away(data):
        outcome, reason, attempts, text = await compacted(night)
    assert (outcome, reason, attempts) == (TaskOutcome.FAILED, Reason.WAREHOUSE_MOVED, 1), text
    assert str(data) in text


async def test_a_file_that_was_deleted_is_no_moved_warehouse(night: Night, warehouse: Warehouse) -> None:
    ((path, *_), *_) = await night.sql(f"SELECT file_path FROM {{c}}.{COINBASE}.files")
    warehouse.rewrite(str(warehouse.original), str(warehouse.copy))
    gone = Path(path.removeprefix("file://").removeprefix("file:"))
    with away(gone), away(warehouse.copy / gone.relative_to(warehouse.original)):
        outcome, reason, attempts, text = await compacted(night)
    assert (outcome, reason, attempts) == (TaskOutcome.FAILED, Reason.FILE_MISSING, 1), text
