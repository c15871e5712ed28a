"""The proof `files`: damage that manifests hide is found file by file, and what is whole is never called bad."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import DataFile

from icekeeper.adapters.iceberg.proof import reading
from icekeeper.adapters.iceberg.proof.footers import NAME
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import FileFault, FindingKind
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import AuditStatus, Proof, RunOutcome, Stage
from icekeeper.core.errors import DeadlineExceeded, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.table_shapes import SHAPES
from tests.conftest import COINBASE, SLOT, MakeNight
from tests.damage.scene import LakeFile, changed
from tests.damage.scene import Scene as DamagedScene
from tests.integration.faults import Answer, FaultProxy, Mode, Request, proxied
from tests.integration.odd import equality_deletes

MINUTE = timedelta(minutes=1)
WINDOW = window_of(SLOT)
NOON = datetime(2026, 2, 17, 12, tzinfo=UTC)
TIMESTAMP = "exchange_timestamp"
HEALTHY_FILES = 4


@dataclass(frozen=True)
class Scene(DamagedScene):
    """A night over one table of four files a day, whose audits prove files."""

    table: str = COINBASE

    async def victim(self) -> LakeFile:
        """One of the day's files."""
        files = await self.files(WINDOW)
        assert len(files) == HEALTHY_FILES
        return files[1]

    async def prove(self, table: str = COINBASE, column: str = TIMESTAMP) -> FilesProof:
        return await self.night.services.ports.lakehouse.prove_files(table, column, WINDOW, MINUTE)

    def forget(self) -> None:
        """Every footer is read again."""
        (self.night.services.engine.options.state_dir / NAME).unlink(missing_ok=True)

    def add(self, victim: LakeFile, change: Callable[[DataFile], DataFile]) -> DataFile:
        """Commits one more file, made from the victim's entry, and gives ClickHouse as many rows as it claims."""
        added = self.append(victim.path, change)
        self.night.world.late_rows(COINBASE, NOON, rows=added.record_count)
        return added

    def copied(self, victim: LakeFile, claims: int | None = None, **how: Any) -> LakeFile:
        """A copy of the victim's file, written by pyarrow in a way of its own; its manifest may claim other rows."""
        body = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(self.read(victim.path))), body, **how)

        def copy(entry: DataFile) -> DataFile:
            path = entry.file_path.replace(".parquet", f"-claims-{claims}.parquet")
            self.write(path, body.getvalue())
            changes = {"file_path": path, "file_size_in_bytes": len(body.getvalue())}
            return changed(entry, **changes, record_count=claims or victim.rows, split_offsets=None)

        return replace(victim, path=self.add(victim, copy).file_path, rows=claims or victim.rows)


@pytest.fixture
def make_scene(make_night: MakeNight) -> Callable[..., Awaitable[Scene]]:
    async def make(catalog: str = "jdbc", change: Callable[[dict[str, Any]], None] | None = None) -> Scene:
        def edit(document: dict[str, Any]) -> None:
            document["audit"] = {"proof": "files", "retries": 0}
            if change is not None:
                change(document)

        night = await make_night(
            COINBASE, change=edit, catalog=catalog, days=1, commits_per_day=4, files_per_commit=1, rows_per_file=100,
            old_snapshots=0,
        )  # fmt: skip
        return Scene(night)

    return make


MakeScene = Callable[..., Awaitable[Scene]]


# --- damage


def flipped(body: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in body)


# What becomes of a file's bytes; None: it is deleted.
DAMAGED: dict[str, tuple[Callable[[bytes], bytes] | None, FileFault, Reason]] = {
    "gone": (None, FileFault.MISSING, Reason.FILE_MISSING),
    "cut in half": (lambda body: body[: len(body) // 2], FileFault.LENGTH, Reason.FILE_CORRUPT),
    "without its last byte": (lambda body: body[:-1], FileFault.LENGTH, Reason.FILE_CORRUPT),
    "empty": (lambda body: b"", FileFault.LENGTH, Reason.FILE_CORRUPT),
    "a byte longer": (lambda body: body + b"1", FileFault.LENGTH, Reason.FILE_CORRUPT),
    "with a flipped footer": (
        lambda body: body[:-800] + flipped(body[-800:-8]) + body[-8:], FileFault.UNREADABLE, Reason.FILE_CORRUPT,
    ),
    "with a flipped end": (lambda body: body[:-8] + flipped(body[-8:]), FileFault.UNREADABLE, Reason.FILE_CORRUPT),
    "full of zeros": (lambda body: bytes(len(body)), FileFault.UNREADABLE, Reason.FILE_CORRUPT),
}  # fmt: skip


async def check_that_it_is_found(scene: Scene, reason: Reason, expected: set[tuple[str, FileFault]]) -> FilesProof:
    """A count of manifests sees nothing; the audit is an error that names the files, and the proof says which."""
    night = scene.night
    rows = night.world.rows_clickhouse(COINBASE, WINDOW.start, WINDOW.end)
    claimed = await night.services.ports.lakehouse.count(COINBASE, TIMESTAMP, WINDOW, MINUTE)
    report = await night.run(Stage.AUDIT)
    proof = await scene.prove()

    assert claimed.rows == rows  # all is well, says the metadata
    (audit,) = report.audits
    assert report.outcome is RunOutcome.FAILED
    assert (audit.status, audit.reason, audit.proof) == (AuditStatus.ERROR, reason, Proof.FILES)
    assert (audit.ch_row_count, audit.iceberg_row_count, audit.delta) == (rows, None, None)
    assert (audit.snapshot_id, audit.iceberg_query) == (proof.snapshot_id, None)
    for path, _ in expected:
        assert f"{path} (" in audit.notes
    stored = night.ledger(
        "SELECT status, reason, proof, ch_row_count, iceberg_row_count FROM maintenance_audit_log WHERE run_id = $1",
        report.run_id,
    )
    assert [tuple(row) for row in stored] == [("error", reason.value, "files", rows, None)]
    assert {(bad.path, bad.fault) for bad in proof.bad} == expected
    assert {(bad.content, bad.partition) for bad in proof.bad} == {("data", "exchange_timestamp_day=2026-02-17")}
    return proof


@pytest.mark.parametrize("catalog", ["jdbc", pytest.param("hadoop", marks=pytest.mark.long)])
async def test_damage_in_the_store_that_manifests_hide_is_an_error_that_names_the_file(
    make_scene: MakeScene, catalog: str
) -> None:
    scene = await make_scene(catalog)
    whole = await scene.prove()
    assert (whole.files, whole.read, whole.bad, whole.proof) == (HEALTHY_FILES, HEALTHY_FILES, (), Proof.FILES)
    victim = await scene.victim()
    body = scene.read(victim.path)
    for name, (damage, fault, reason) in DAMAGED.items():
        # Found at the first sight of a file, and of a file that was whole before: but for its bytes alone.
        for known in (True, False):
            scene.forget()
            if known:
                await scene.prove()
            if damage is None:
                scene.delete(victim.path)
            else:
                scene.write(victim.path, damage(body))
            if known and fault is FileFault.UNREADABLE:
                assert (await scene.prove()).bad == (), name  # docs/audit.md says so
            else:
                proof = await check_that_it_is_found(scene, reason, {(victim.path, fault)})
                (bad,) = proof.bad
                assert (bad.rows, bad.bytes) == (victim.rows, len(body)), name
                if fault is FileFault.LENGTH:
                    assert bad.bytes_found == len(scene.read(victim.path)), name
            scene.write(victim.path, body)
    scene.forget()
    assert (await scene.prove()).bad == ()


@pytest.mark.parametrize("catalog", ["jdbc", "hadoop"])
async def test_manifests_that_lie_about_rows_are_an_error_that_names_the_file(
    make_scene: MakeScene, catalog: str
) -> None:
    scene = await make_scene(catalog)
    victim = await scene.victim()
    expected: set[tuple[str, FileFault]] = set()
    for claims in (900, 1):  # more rows than the file has, and fewer
        liar = scene.copied(victim, claims)
        expected.add((liar.path, FileFault.COUNT))
        proof = await check_that_it_is_found(scene, Reason.COUNT_MISMATCH, expected)
        (bad,) = [bad for bad in proof.bad if bad.path == liar.path]
        assert (bad.rows, bad.rows_found) == (claims, victim.rows)
    scene.add(victim, lambda entry: entry)
    expected.add((victim.path, FileFault.LISTED_TWICE))
    await check_that_it_is_found(scene, Reason.COUNT_MISMATCH, expected)


async def test_of_an_encrypted_footer_only_the_length_is_proven_and_the_audit_says_so(make_scene: MakeScene) -> None:
    scene = await make_scene()
    victim = await scene.victim()
    # The end by which Parquet marks an encrypted footer; its length is all that can be compared.
    scene.write(victim.path, scene.read(victim.path)[:-4] + b"PARE")
    (audit,) = (await scene.night.run(Stage.AUDIT)).audits
    assert (audit.status, audit.proof, audit.delta) == (AuditStatus.OK, Proof.LENGTHS, 0)
    assert audit.notes == "equal; of 1 of 4 files only the length is proven (1 encrypted)"


@pytest.mark.parametrize("catalog", ["jdbc", "hadoop"])
async def test_the_finding_of_a_file_says_of_what_time_it_is_and_what_clickhouse_still_has_of_it(
    make_scene: MakeScene, catalog: str
) -> None:
    scene = await make_scene(catalog)
    victim = await scene.victim()
    table = f"{{c}}.{COINBASE}"
    bounds = f"SELECT unix_micros(min({TIMESTAMP})), unix_micros(max({TIMESTAMP})), count(*) FROM {table}"
    ((first, last, rows),) = await scene.night.sql(f"{bounds} WHERE _file = '{victim.path}'")
    first, last = (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros) for micros in (first, last))
    scene.delete(victim.path)

    (audit,) = (await scene.night.run(Stage.AUDIT)).audits

    (bad,), (found,) = audit.bad_files, audit.findings
    assert (bad.first, bad.last) == (first, last)
    assert (found.kind, found.rows, found.files) == (FindingKind.FILE, rows, (victim.path,))
    assert found.start == first.replace(second=0, microsecond=0)
    assert found.end == last.replace(second=0, microsecond=0) + timedelta(minutes=1)
    assert found.clickhouse == scene.night.world.rows_clickhouse(COINBASE, found.start, found.end) >= rows
    assert f"ClickHouse holds {found.clickhouse} rows of that time" in found.evidence


@pytest.mark.parametrize("catalog", ["jdbc", "hadoop"])
async def test_many_files_that_are_gone_are_all_found_and_a_restored_one_is_good_again(
    make_scene: MakeScene, catalog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH", 3)
    scene = await make_scene(catalog)
    first = await scene.victim()
    paths = [row[0] for row in await scene.night.sql(f"SELECT DISTINCT _file FROM {{c}}.{COINBASE}")]
    bodies = {path: scene.read(path) for path in paths}
    for path in paths:
        scene.delete(path)

    proof = await scene.prove()
    (audit,) = (await scene.night.run(Stage.AUDIT)).audits
    for path, body in bodies.items():
        scene.write(path, body)
    restored = await scene.prove()
    (again,) = (await scene.night.run(Stage.AUDIT)).audits

    assert {bad.fault for bad in proof.bad} == {FileFault.MISSING}
    assert len(proof.bad) == HEALTHY_FILES
    assert first.path in {bad.path for bad in proof.bad}
    assert "4 of 4 files of the window are not what their manifests say" in audit.notes
    assert "and 1 more" in audit.notes
    assert (restored.bad, restored.read) == ((), HEALTHY_FILES)
    assert (again.status, again.proof, again.delta) == (AuditStatus.OK, Proof.FILES, 0)


async def test_manifests_is_what_a_table_may_ask_for_and_then_no_file_is_looked_at(make_scene: MakeScene) -> None:
    def change(document: dict[str, Any]) -> None:
        document["tables"][0]["audit"] = {"proof": "manifests"}

    scene = await make_scene(change=change)
    scene.delete((await scene.victim()).path)
    (audit,) = (await scene.night.run(Stage.AUDIT)).audits
    assert (audit.status, audit.proof, audit.delta) == (AuditStatus.OK, Proof.MANIFESTS, 0)


# --- what is whole

DAYS = "PARTITIONED BY (days(ts))"
ROWS = "id, concat('s', id % 7), timestamp'2026-02-17' + make_dt_interval(0, 0, 0, id)"
INSERT = f"INSERT INTO {{t}} SELECT {ROWS} FROM range(0, 1000, 1, 8)"
NEXT_DAY = "INSERT INTO {t} SELECT id, 's', timestamp'2026-02-18 01:00:00' FROM range(0, 10, 1, 1)"
DELETE = "DELETE FROM {t} WHERE id % 5 = 0"
MERGE_ON_READ = "'write.delete.mode' = 'merge-on-read', 'write.distribution-mode' = 'none'"


@dataclass(frozen=True)
class Whole:
    """A healthy table: how it is made, how many files its day has, of how many of them only the length is proven."""

    steps: tuple[Any, ...]
    data: int = 8
    deletes: int = 0
    by_length: int = 0
    partitions: str = DAYS
    properties: str = ""
    column_type: str = "TIMESTAMP"


WHOLE = {
    "parquet": Whole((INSERT, NEXT_DAY)),
    "nothing in the window": Whole((NEXT_DAY,), data=0),
    "no snapshot": Whole((), data=0),
    "position deletes": Whole((INSERT, NEXT_DAY, DELETE), deletes=8, properties="'format-version' = '2'"),
    "position deletes by partition": Whole(
        (INSERT, NEXT_DAY, DELETE), deletes=1,
        properties="'format-version' = '2', 'write.delete.granularity' = 'partition'",
    ),
    "equality deletes": Whole(
        (INSERT, NEXT_DAY, equality_deletes("s", "s1", "s2", by_partition=True)), deletes=1,
        properties="'format-version' = '2'",
    ),
    "deletion vectors": Whole((INSERT, NEXT_DAY, DELETE), deletes=8, properties="'format-version' = '3'"),
    "deletion vectors twice": Whole(
        (INSERT, NEXT_DAY, DELETE, "DELETE FROM {t} WHERE id % 7 = 0"), deletes=8, properties="'format-version' = '3'"
    ),
    "orc": Whole((INSERT, NEXT_DAY, DELETE), deletes=8, properties="'write.format.default' = 'orc'"),
    "avro": Whole((INSERT, NEXT_DAY), by_length=8, properties="'write.format.default' = 'avro'"),
    "no partitions": Whole((INSERT, NEXT_DAY), partitions=""),
    "another spec since": Whole(
        (INSERT, "ALTER TABLE {t} ADD PARTITION FIELD bucket(2, id)",
         f"INSERT INTO {{t}} SELECT {ROWS} FROM range(1000, 1010, 1, 1)"),
        data=10,
    ),
    "without a zone": Whole((INSERT, NEXT_DAY), column_type="TIMESTAMP_NTZ"),
    "a date": Whole((INSERT, NEXT_DAY), column_type="DATE", partitions="PARTITIONED BY (ts)"),
    "a text": Whole((INSERT, NEXT_DAY), data=9, column_type="STRING", partitions=""),  # every file is read
    "many row groups": Whole((INSERT,), properties="'write.parquet.row-group-check-min-record-count' = '1', "
        "'write.parquet.row-group-check-max-record-count' = '1', 'write.parquet.row-group-size-bytes' = '1'"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("catalog", ["jdbc", "hadoop"])
async def test_whole_tables_are_proven_and_their_files_are_read_once(make_scene: MakeScene, catalog: str) -> None:
    scene = await make_scene(catalog)
    night = scene.night
    for number, (name, whole) in enumerate(WHOLE.items()):
        table = f"cold.whole{number}"
        properties = ", ".join(filter(None, (MERGE_ON_READ, whole.properties)))
        columns = f"id BIGINT, s STRING, ts {whole.column_type}"
        await night.sql(
            f"CREATE TABLE {{c}}.{table} ({columns}) USING iceberg {whole.partitions} TBLPROPERTIES ({properties})"
        )
        for step in whole.steps:
            if isinstance(step, str):
                await night.sql(step.replace("{t}", f"{{c}}.{table}"))
            else:
                await step(night, table)

        first = await scene.prove(table, "ts")
        second = await scene.prove(table, "ts")
        counted = await night.services.ports.lakehouse.count(table, "ts", WINDOW, MINUTE)

        files = whole.data + whole.deletes
        if name == "no partitions":
            assert first.files == 8, name  # by the bounds in the manifests
        assert (first.bad, second.bad) == ((), ()), name
        assert (first.files, second.files) == (files, files), name
        assert (first.read, second.read) == (files - whole.by_length, 0), name
        assert sum(second.by_length.values()) == whole.by_length, name
        assert first.proof is (Proof.LENGTHS if whole.by_length else Proof.FILES), name
        assert first.snapshot_id == counted.snapshot_id, name


async def test_a_window_is_exact_to_the_microsecond(make_scene: MakeScene) -> None:
    scene = await make_scene()
    await scene.night.sql(f"CREATE TABLE {{c}}.cold.m (id BIGINT, s STRING, ts TIMESTAMP) USING iceberg {DAYS} "
        f"TBLPROPERTIES ({MERGE_ON_READ})")  # fmt: skip
    await scene.night.sql(INSERT.replace("{t}", "{c}.cold.m"))  # a row a second, 125 to a file
    lakehouse = scene.night.services.ports.lakehouse
    for seconds, files_of_it in ((125, 1), (125.000001, 2)):
        window = Window(WINDOW.start, WINDOW.start + timedelta(seconds=seconds))
        assert (await lakehouse.prove_files("cold.m", "ts", window, MINUTE)).files == files_of_it


@pytest.mark.parametrize(("version", "suffix"), [("2", "-deletes.parquet"), ("3", "-deletes.puffin")])
@pytest.mark.parametrize("damage", ["gone", "flipped"])
async def test_delete_files_are_proven_too(make_scene: MakeScene, version: str, suffix: str, damage: str) -> None:
    scene = await make_scene()
    night = scene.night
    await night.sql(
        f"CREATE TABLE {{c}}.cold.d (id BIGINT, s STRING, ts TIMESTAMP) USING iceberg {DAYS} "
        f"TBLPROPERTIES ({MERGE_ON_READ}, 'format-version' = '{version}')"
    )
    for step in (INSERT, DELETE):
        await night.sql(step.replace("{t}", "{c}.cold.d"))
    deletes = await night.sql("SELECT DISTINCT file_path FROM {c}.cold.d.delete_files ORDER BY 1")
    path = deletes[0][0]
    assert path.endswith(suffix)
    if damage == "gone":
        scene.delete(path)
    else:
        scene.write(path, flipped(scene.read(path)))

    proof = await scene.prove("cold.d", "ts")

    assert {(bad.path, bad.content) for bad in proof.bad} == {(path, "position_deletes")}
    assert {bad.fault for bad in proof.bad} == {FileFault.MISSING if damage == "gone" else FileFault.UNREADABLE}
    assert len(proof.bad) == (1 if version == "2" else 8)  # each vector in the file is one
    assert {bad.rows for bad in proof.bad} == {25}


# --- requests


@contextmanager
def counting(proxy: FaultProxy) -> Iterator[Counter[tuple[str, str]]]:
    """Counts the requests for data, by method and object."""
    seen: Counter[tuple[str, str]] = Counter()

    async def note(request: Request) -> Answer | None:
        if "/data/" in request.target:
            seen[request.method, request.target.partition("?")[0]] += 1
        return None

    proxy.rule = note
    yield seen
    proxy.rule = None


def through(proxy: FaultProxy, **properties: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["catalog"]["properties"] |= {"s3.endpoint": proxy.url, **properties}

    return change


async def test_a_new_file_is_one_request_and_a_known_one_is_one_look(make_scene: MakeScene, box: Sandbox) -> None:
    async with proxied(box.s3.endpoint, http=True) as proxy:
        scene = await make_scene(change=through(proxy))
        with counting(proxy) as first:
            proof = await scene.prove()
        with counting(proxy) as second:
            await scene.prove()
        # Its footer is larger than what is read at first.
        victim = scene.copied(await scene.victim(), row_group_size=1)
        with counting(proxy) as third:
            grown = await scene.prove()
        scene.forget()
        with counting(proxy) as fourth:
            await scene.prove()

        assert (proof.read, grown.read, proof.bad, grown.bad) == (4, 1, (), ())
        assert len(first) == len(second) == 4
        assert set(first.values()) == set(second.values()) == {1}
        assert {method for method, _ in first} == {"GET"}
        assert {method for method, _ in second} == {"HEAD"}
        (key,) = {target for method, target in third if method == "GET"}
        assert victim.path.endswith(key.rpartition("/")[2])
        assert third["GET", key] == 2
        assert sum(number for (method, _), number in third.items() if method == "HEAD") == 4
        assert {method for method, _ in fourth} == {"GET"}


async def test_deletion_vectors_in_one_file_are_one_request(make_scene: MakeScene, box: Sandbox) -> None:
    async with proxied(box.s3.endpoint, http=True) as proxy:
        scene = await make_scene(change=through(proxy))
        await scene.night.sql(
            f"CREATE TABLE {{c}}.cold.v (id BIGINT, s STRING, ts TIMESTAMP) USING iceberg {DAYS} "
            f"TBLPROPERTIES ({MERGE_ON_READ}, 'format-version' = '3')"
        )
        for step in (INSERT, DELETE):
            await scene.night.sql(step.replace("{t}", "{c}.cold.v"))
        with counting(proxy) as first:
            proof = await scene.prove("cold.v", "ts")
        with counting(proxy) as second:
            await scene.prove("cold.v", "ts")

        assert (proof.files, proof.read, proof.bad) == (16, 16, ())
        assert Counter(method for method, _ in first.elements()) == {"GET": 9}
        assert Counter(method for method, _ in second.elements()) == {"HEAD": 9}


# --- what says nothing about files


async def test_a_store_that_is_down_or_refuses_is_no_damage(make_scene: MakeScene, box: Sandbox) -> None:
    async def refuse(request: Request) -> Answer | None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return (
            Answer(403, b"" if request.method == "HEAD" else body, "application/xml")
            if "/data/" in request.target
            else None
        )

    async with proxied(box.s3.endpoint, http=True) as proxy:
        scene = await make_scene(change=through(proxy, **{"s3.retry.num-retries": "1", "s3.retry.min-wait-ms": "100"}))
        for known in (False, True):
            proxy.rule = refuse
            with pytest.raises(PermanentError) as refused:
                await scene.prove()
            proxy.rule = None
            await proxy.set(Mode.REFUSE)
            with pytest.raises(TransientError) as down:
                await scene.prove()
            await proxy.set(Mode.PASS)
            assert refused.value.reason is Reason.ACCESS_DENIED
            assert down.value.reason is Reason.STORAGE_DOWN
            proof = await scene.prove()
            assert (proof.bad, proof.read) == ((), 0 if known else 4)


@pytest.mark.parametrize("how", ["proven", "counted"])
async def test_files_of_a_snapshot_that_is_expired_meanwhile_are_no_damage(
    make_scene: MakeScene, box: Sandbox, how: str
) -> None:
    async with proxied(box.s3.endpoint, http=True) as proxy:
        scene = await make_scene(change=through(proxy))
        paths = [row[0] for row in await scene.night.sql(f"SELECT DISTINCT _file FROM {{c}}.{COINBASE}")]
        scene.forget()
        turn, done = asyncio.Lock(), False

        def empty_the_table() -> None:
            table = scene.night.world.pyiceberg_catalog().load_table(SHAPES[COINBASE].identifier)
            before = [snapshot.snapshot_id for snapshot in table.snapshots()]
            table.delete()
            table.maintenance.expire_snapshots().by_ids(before).commit()
            for path in paths:
                scene.delete(path)

        async def before_the_first_answer(request: Request) -> Answer | None:
            nonlocal done
            if "/data/" in request.target:
                async with turn:
                    if not done:
                        await asyncio.to_thread(empty_the_table)
                        done = True
            return None

        proxy.rule = before_the_first_answer
        lakehouse = scene.night.services.ports.lakehouse
        with pytest.raises(TransientError) as expired:
            await (
                scene.prove()
                if how == "proven"
                else lakehouse.count(COINBASE, TIMESTAMP, WINDOW, MINUTE, every_value=True)
            )
        proxy.rule = None
        assert expired.value.reason is Reason.CONFLICT
        again = await scene.prove()
        assert (again.files, again.bad) == (0, ())


async def test_reading_files_ends_at_its_deadline_and_the_session_lives_on(make_scene: MakeScene, box: Sandbox) -> None:
    async with proxied(box.s3.endpoint, http=True) as proxy:
        scene = await make_scene(change=through(proxy))
        engine, pid = scene.night.services.engine, scene.night.services.engine.jvm_pid

        async def hang(request: Request) -> Answer | None:
            if "/data/" in request.target:
                await proxy.set(Mode.HANG)
            return None

        proxy.rule = hang
        with pytest.raises(DeadlineExceeded, match="waiting for the object store"):
            await scene.night.services.ports.lakehouse.prove_files(COINBASE, TIMESTAMP, WINDOW, timedelta(seconds=2))
        proxy.rule = None
        await proxy.set(Mode.PASS)

        assert (await scene.prove()).bad == ()
        assert engine.jvm_pid == pid
