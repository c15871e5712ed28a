"""Which files an expiry takes from the store, on the driver and with Spark: all that nothing refers to any more.

The tables are real metadata over files without contents: an expiry never opens a data file. Both ways work on the same
table, put back as it was in between.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import StaticTable
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg import expiry as iceberg_expiry
from icekeeper.adapters.iceberg.catalog import catalog_conf
from icekeeper.adapters.iceberg.deleting import files as deleting
from icekeeper.adapters.iceberg.deleting.files import expire_and_delete
from icekeeper.adapters.iceberg.deleting.kept import KeptPaths
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.adapters.iceberg.proof.compiled import new_instance
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import expired_snapshots
from icekeeper.core.tables.state import DeletedFiles
from tests.integration.odd import MINUTE

TABLE = "cold.t"
# Whatever the clock of a snapshot says: all are old.
LATER = timedelta(days=400)


@dataclass
class History:
    """A table under way through the JVM, and its files on the local disk."""

    jvm: IcebergJvm
    table: Any
    live: list[Any] = field(default_factory=list)
    deletes: list[Any] = field(default_factory=list)
    made: int = 0

    def path(self, kind: str) -> str:
        """A new file of the table's, empty."""
        self.made += 1
        path = Path(str(self.table.location()).removeprefix("file:"), "data", f"{self.made:05d}-{kind}.parquet")
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return f"file:{path}"

    def data_file(self) -> Any:
        builder = self.jvm.iceberg.DataFiles.builder(self.table.spec()).withFormat("parquet")
        return builder.withPath(self.path("data")).withFileSizeInBytes(1000).withRecordCount(10).build()

    def append(self, branch: str = "main", files: int = 3) -> None:
        added, append = [self.data_file() for _ in range(files)], self.table.newFastAppend().toBranch(branch)
        for file in added:
            append.appendFile(file)
        append.commit()
        if branch == "main":
            self.live += added

    def rewrite(self) -> Any:
        return self.table.newRewrite().validateFromSnapshot(self.table.currentSnapshot().snapshotId())

    def compact(self, files: int | None = None) -> None:
        """Replaces so many files, or all, by one."""
        taken, self.live = self.live[:files], self.live[len(self.live) if files is None else files :]
        rewrite, merged = self.rewrite(), self.data_file()
        for file in taken:
            rewrite.deleteFile(file)
        rewrite.addFile(merged).commit()
        self.live.append(merged)

    def delete_rows(self) -> None:
        """A file of position deletes."""
        builder = self.jvm.iceberg.FileMetadata.deleteFileBuilder(self.table.spec()).ofPositionDeletes()
        builder = builder.withFormat("parquet").withPath(self.path("deletes")).withFileSizeInBytes(100)
        self.deletes.append(builder.withRecordCount(1).build())
        self.table.newRowDelta().addDeletes(self.deletes[-1]).commit()

    def merge_manifests(self) -> None:
        self.table.rewriteManifests().rewriteIf(_always(self.jvm)).commit()

    def tag(self) -> None:
        self.table.manageSnapshots().createTag(f"tag{self.made}", self.table.currentSnapshot().snapshotId()).commit()

    def branch(self) -> None:
        """A branch that goes a way of its own."""
        name = f"branch{self.made}"
        self.table.manageSnapshots().createBranch(name, self.table.currentSnapshot().snapshotId()).commit()
        self.append(name, files=1)

    def roll_back(self) -> None:
        """Nothing leads to the last append any more."""
        back = self.table.currentSnapshot().snapshotId()
        live = list(self.live)
        self.append()
        self.table.manageSnapshots().rollbackTo(back).commit()
        self.live = live

    def statistics(self) -> None:
        snapshot, empty = self.table.currentSnapshot().snapshotId(), self.jvm.java.util.List.of()
        file = self.jvm.iceberg.GenericStatisticsFile(snapshot, self.path("statistics"), 100, 10, empty)
        self.table.updateStatistics().setStatistics(file).commit()


Step = Callable[[History], None]
APPENDS: tuple[Step, ...] = (History.append,) * 3
COMPACT, APPEND, TAG, BRANCH = History.compact, History.append, History.tag, History.branch


@dataclass(frozen=True)
class RunHistory:
    """What a table went through, and how many of its last snapshots an expiry keeps."""

    steps: tuple[Step, ...]
    keep: int = 1


PASTS: dict[str, RunHistory] = {
    "the compaction's snapshot is the oldest that stays": RunHistory((*APPENDS, COMPACT)),
    "the compaction's snapshot goes": RunHistory((*APPENDS, COMPACT, APPEND, APPEND)),
    "snapshots from before the compaction stay": RunHistory((*APPENDS, *APPENDS, COMPACT, APPEND), keep=4),
    "branches and tags": RunHistory((*APPENDS, TAG, APPEND, BRANCH, COMPACT, APPEND, BRANCH, COMPACT, TAG, APPEND)),
    "delete files": RunHistory((*APPENDS, History.delete_rows, APPEND, COMPACT, APPEND, APPEND), keep=2),
    "manifests merged, a write rolled back, statistics": RunHistory(
        (*APPENDS, History.statistics, COMPACT, History.merge_manifests, History.roll_back, *APPENDS), keep=2
    ),
}


def any_past(seed: int) -> RunHistory:
    """A dozen steps as chance has them."""
    chance = random.Random(seed)
    some = (APPEND, APPEND, COMPACT, lambda history: history.compact(2), TAG, BRANCH, History.roll_back)
    more = (History.delete_rows, History.merge_manifests, History.statistics)
    return RunHistory((APPEND, *(chance.choice((*some, *more)) for _ in range(12))), keep=chance.randint(1, 4))


@dataclass
class Lake:
    """A catalog on the local disk with one table, which can be put back as it was."""

    engine: SparkEngine
    catalog: str
    warehouse: Path

    @property
    def lakehouse(self) -> IcebergLakehouse:
        """One that knows nothing of before."""
        return IcebergLakehouse(self.engine, self.catalog)

    async def make(self, steps: tuple[Step, ...]) -> None:
        def work(spark: SparkSession) -> None:
            spark.sql(f"CREATE TABLE {self.catalog}.{TABLE} (id BIGINT) USING iceberg")
            jvm = IcebergJvm(spark)
            history = History(jvm, jvm.load(f"{self.catalog}.{TABLE}"))
            for step in steps:
                step(history)

        await self.engine.run(work, timeout=MINUTE)

    async def named(self, keep: int) -> tuple[int, ...]:
        """The snapshots that are to go."""
        later = datetime.now(UTC) + LATER
        return expired_snapshots(await self.lakehouse.inspect(TABLE, 1), later, keep, later)

    async def expire(self, ids: tuple[int, ...], keep: int) -> DeletedFiles:
        return await self.lakehouse.expire(TABLE, ids, keep, 3 * MINUTE)

    def store(self) -> frozenset[str]:
        """All files but the table's own metadata, of which each change leaves one more."""
        files = (path for path in self.warehouse.rglob("*") if path.is_file() and not path.name.startswith("."))
        return frozenset(str(path) for path in files if not path.name.endswith((".metadata.json", ".text")))

    def referred_to(self) -> frozenset[str]:
        """All that the table refers to, as another reader of Iceberg's format finds it."""
        versions = self.warehouse.joinpath(*TABLE.split("."), "metadata").glob("v*.metadata.json")
        newest = max(versions, key=lambda path: int(path.name.removeprefix("v").partition(".")[0]))
        table = StaticTable.from_metadata(f"file:{newest}")
        manifests: dict[str, ManifestFile] = {}
        found = {file.statistics_path for file in table.metadata.statistics}
        for snapshot in table.snapshots():
            found.add(snapshot.manifest_list)
            manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
        for path, manifest in manifests.items():
            found.add(path)
            found |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
        return frozenset(path.removeprefix("file:") for path in found)

    def keep(self) -> Path:
        copy = self.warehouse.with_name("kept")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.warehouse, copy)
        return copy

    def put_back(self, copy: Path) -> None:
        shutil.rmtree(self.warehouse)
        shutil.copytree(copy, self.warehouse)


@pytest.fixture
async def lake(engine: SparkEngine, tmp_path: Path) -> Lake:
    catalog, warehouse = f"lake_{tmp_path.name}", tmp_path / "warehouse"
    conf = catalog_conf(catalog, {"type": "hadoop", "warehouse": f"file://{warehouse}"})
    warehouse.mkdir()

    def tell(spark: SparkSession) -> None:
        for key, value in conf.items():
            spark.conf.set(key, value)

    # Known to a session that is started anew, too.
    engine.options = replace(engine.options, session_conf={**engine.options.session_conf, **conf})
    await engine.run(tell, timeout=timedelta(minutes=5))
    return Lake(engine, catalog, warehouse)


@pytest.fixture(params=["driver", "spark"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way that an expiry takes: by its size it would always be the driver's."""
    take(request.param, monkeypatch)
    return str(request.param)


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iceberg_expiry, "DRIVER_MOST_FILES", -1 if way == "spark" else 10**6)
    monkeypatch.setattr(iceberg_expiry, "SPARK_PARTITIONS", 3)
    # With room for no byte all is read as Iceberg does.
    monkeypatch.setattr(iceberg_expiry, "READ_SHARE", 10**15 if way == "without room" else 8)


@pytest.mark.parametrize("past", [*PASTS.values(), *map(any_past, range(2))], ids=[*PASTS, *map(str, range(2))])
async def test_either_way_the_same_files_are_gone_and_nothing_else_is(
    lake: Lake, past: RunHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lake.make(past.steps)
    before, copy, ids = lake.store(), lake.keep(), await lake.named(past.keep)
    assert ids
    assert before == lake.referred_to()
    gone = {}
    for way in ("driver", "without room", "spark"):
        take(way, monkeypatch)
        deleted = await lake.expire(ids, past.keep)
        gone[way] = before - lake.store()
        assert lake.store() == lake.referred_to()
        assert (deleted.files, deleted.left) == (len(gone[way]), 0)
        lake.put_back(copy)
    assert gone["driver"] == gone["without room"] == gone["spark"]
    assert len(gone["driver"]) >= len(ids), "each snapshot has a list of its own"


async def test_a_commit_that_lands_meanwhile_keeps_its_files(lake: Lake, way: str, tmp_path: Path) -> None:
    await lake.make((*APPENDS, COMPACT))
    before, ids = lake.store(), await lake.named(1)

    def expire(spark: SparkSession) -> DeletedFiles:
        jvm, name = IcebergJvm(spark), f"{lake.catalog}.{TABLE}"
        handle = jvm.load(name)
        History(jvm, jvm.load(name), made=100).append()
        expiry = partial(iceberg_expiry.expire_snapshots, jvm, TABLE, handle, ids, 1, 20)
        kept, until = KeptPaths(tmp_path), time.time() + 60
        return expire_and_delete(jvm, TABLE, handle, ids, expiry, kept, until, lake.engine.log)

    deleted = await lake.engine.run(expire, timeout=MINUTE)
    assert lake.store() == lake.referred_to()
    assert deleted.files == len(before - lake.store())
    assert len([path for path in lake.store() if "/data/" in path]) == 1 + 3


@pytest.mark.parametrize("change", [TAG, BRANCH])
async def test_a_reference_made_meanwhile_keeps_its_snapshot_and_nothing_is_expired(
    lake: Lake, way: str, change: Step
) -> None:
    await lake.make((*APPENDS, change))
    ids = tuple(snapshot.id for snapshot in (await lake.lakehouse.inspect(TABLE, 1)).history[:3])
    before = lake.store()
    with pytest.raises(TransientError) as caught:
        await lake.expire(ids, 1)
    assert caught.value.reason is Reason.CONFLICT
    assert lake.store() == before


async def test_spark_takes_over_where_the_driver_would_have_too_much_to_hold(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lake.make((*APPENDS, COMPACT))

    def jobs(spark: SparkSession) -> int:
        return int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs())

    copy, ids = lake.keep(), await lake.named(1)
    for most, with_spark in ((19, True), (20, False)):  # ten were added, nine were there at once
        monkeypatch.setattr(iceberg_expiry, "DRIVER_MOST_FILES", most - 1)
        began = await lake.engine.run(jobs, timeout=MINUTE)
        await lake.expire(ids, 1)
        assert (await lake.engine.run(jobs, timeout=MINUTE) > began) is with_spark
        assert (
            await lake.engine.run(lambda spark: spark.conf.get("spark.sql.shuffle.partitions"), timeout=MINUTE) == "2"
        )
        lake.put_back(copy)


@pytest.mark.parametrize("before_what", ["delete_files", "_keep"], ids=["deleting", "noting their paths"])
async def test_killed_before_the_files_are_deleted_it_leaves_them_to_the_next_expiry_and_deletes_no_other(
    lake: Lake, way: str, before_what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lake.make((*APPENDS, COMPACT))
    before, ids = lake.store(), await lake.named(1)

    def kill(jvm: IcebergJvm, *_: Any) -> int:
        assert lake.engine.jvm_pid is not None
        os.kill(lake.engine.jvm_pid, signal.SIGKILL)
        while True:  # until the JVM is gone
            jvm.lang.System.nanoTime()

    with monkeypatch.context() as patch:
        patch.setattr(deleting, before_what, kill)
        with pytest.raises(TransientError) as caught:
            await lake.expire(ids, 1)
    assert caught.value.reason is Reason.ENGINE_DOWN
    assert lake.store() == before
    assert lake.referred_to() < before
    assert await lake.named(1) == ()
    deleted = await lake.expire((), 1)
    assert lake.store() == lake.referred_to()
    assert (deleted.files, deleted.left) == (len(before - lake.store()), 0)


def _always(jvm: IcebergJvm) -> Any:
    """A Java Predicate that is always true."""
    return jvm.java.util.function.Predicate.isEqual(None).negate()


async def test_what_is_read_whole_is_what_the_file_holds_and_gives_its_room_back(lake: Lake) -> None:
    await lake.make((*APPENDS,))
    manifest = next(path for path in sorted(lake.warehouse.rglob("*-m0.avro")))
    content = manifest.read_bytes()
    # Small ones are otherwise left to Iceberg's cache.
    properties = {"type": "hadoop", "warehouse": f"file://{lake.warehouse}", "io.manifest.cache-enabled": "false"}
    conf = catalog_conf(f"{lake.catalog}_uncached", properties)

    def read(spark: SparkSession) -> list[tuple[str, bytes]]:
        for key, value in conf.items():
            spark.conf.set(key, value)
        jvm = IcebergJvm(spark)
        operations = jvm.load(f"{lake.catalog}_uncached.{TABLE}").operations()
        room = len(content) + 10
        io = new_instance(jvm, "WholeReads", operations, room, folder=Path(deleting.__file__).parent).io()

        def opened(length: int | None) -> Any:
            file = io.newInputFile(str(manifest)) if length is None else io.newInputFile(str(manifest), length)
            assert file.getLength() == len(content) or length != len(content)
            return file.newStream()

        def drained(stream: Any) -> tuple[str, bytes]:
            stream.seek(4)  # as Avro does
            stream.seek(0)
            found = str(stream.getClass().getSimpleName()), bytes(stream.readAllBytes())
            stream.close()
            return found

        answers = [drained(opened(length)) for length in (len(content), None, len(content) - 1, len(content) + 1)]
        holding = opened(None)
        answers.append(drained(opened(None)))  # there is room for one only
        holding.close()
        holding.close()
        answers.append(drained(opened(None)))
        # Avro's order, with room for it only once it is read by Iceberg.
        holding, file = opened(None), io.newInputFile(str(manifest))
        late = file.newStream()
        holding.close()
        assert file.getLength() == len(content)
        answers.append(drained(late))
        answers.append(drained(opened(None)))
        return answers

    answers = await lake.engine.run(read, timeout=MINUTE)
    assert [text for _, text in answers] == [content] * 8
    assert [kind == "Bytes" for kind, _ in answers] == [True, True, False, False, False, True, False, True]


async def test_an_expiry_goes_on_where_files_can_not_be_read_whole(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    await lake.make((*APPENDS, COMPACT))
    ids = await lake.named(1)

    def no_number(jvm: IcebergJvm, name: str, operations: Any, room: int, folder: Path) -> Any:
        return new_instance(jvm, name, operations, "no number", folder=folder)

    with structlog.testing.capture_logs() as logged:
        monkeypatch.setattr(iceberg_expiry, "new_instance", no_number)
        deleted = await lake.expire(ids, 1)
    assert "metadata_read_in_pieces" in [line["event"] for line in logged]
    assert (deleted.left, lake.store()) == (0, lake.referred_to())


async def test_a_file_io_that_does_not_say_its_properties_is_read_whole(lake: Lake) -> None:
    """Iceberg's interface has that for a default; OSSFileIO and others leave it so."""
    await lake.make((APPEND,))
    content = next(lake.warehouse.rglob("*-m0.avro"))

    def read(spark: SparkSession) -> tuple[str, dict[str, str]]:
        jvm = IcebergJvm(spark)
        operations = jvm.load(f"{lake.catalog}.{TABLE}").operations()
        silent = new_instance(jvm, "SilentOperations", operations, folder=Path(__file__).parent)
        io = new_instance(jvm, "WholeReads", silent, 10**6, folder=Path(deleting.__file__).parent).io()
        stream = io.newInputFile(str(content)).newStream()
        stream.close()
        return str(stream.getClass().getSimpleName()), dict(io.properties())

    kind, properties = await lake.engine.run(read, timeout=MINUTE)
    assert (kind, properties) == ("Bytes", {"io.manifest.cache-enabled": "false"})


async def test_to_find_files_again_no_manifest_is_read_that_the_table_still_has(lake: Lake) -> None:
    await lake.make((*APPENDS, APPEND))
    ids = (await lake.lakehouse.inspect(TABLE, 1)).history[:-1]

    def found(spark: SparkSession) -> tuple[list[str], int]:
        jvm = IcebergJvm(spark)
        table = jvm.load(f"{lake.catalog}.{TABLE}")
        before = str(table.operations().current().metadataFileLocation())
        named = ",".join(str(snapshot.id) for snapshot in ids)
        expiry = table.expireSnapshots().cleanExpiredFiles(False)
        for snapshot in ids:
            expiry = expiry.expireSnapshotId(snapshot.id)
        expiry.commit()
        table.refresh()
        again = new_instance(jvm, "KeptFiles", table, folder=Path(deleting.__file__).parent)
        again.addNamed(before, named)
        paths = [str(path) for path in again.paths()]
        return paths, int(again.dropReferenced())

    paths, in_use = await lake.engine.run(found, timeout=MINUTE)
    assert [Path(path).name[:5] for path in paths] == ["snap-"] * len(ids)
    assert in_use == 0
