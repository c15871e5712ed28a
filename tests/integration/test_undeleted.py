"""Files that the store does not delete: held before the commit where that is known, else tried again every night."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.deleting.kept import KeptPaths
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, Night
from tests.integration.faults import Answer, Request, Rule
from tests.integration.lab import LATER, Lab, laboratory, later
from tests.integration.odd import MINUTE

DONE, HELD, FAILED, SKIPPED = TaskOutcome.DONE, TaskOutcome.HELD, TaskOutcome.FAILED, TaskOutcome.SKIPPED
_KEY = re.compile(rb"<Key>(.*?)</Key>")


@pytest.fixture(scope="module")
async def lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    # Other modules' tests may have left some: the session's state directory is theirs, too.
    shutil.rmtree(engine.options.state_dir / "undeleted", ignore_errors=True)
    async with laboratory(box, engine, tmp_path_factory.mktemp("undeleted")) as made:
        yield made


def deletes(request: Request) -> bool:
    return request.method == "POST" and "delete" in request.target


def refusing(code: str, every: int = 1) -> Rule:
    """The store deletes none of the keys of a request, and says so of each `every`th; the others it takes for done."""

    async def rule(request: Request) -> Answer | None:
        if not deletes(request):
            return None
        refused = _KEY.findall(request.body)[::every]
        said = b"".join(b"<Error><Key>%s</Key><Code>%s</Code></Error>" % (key, code.encode()) for key in refused)
        return Answer(200, b"<DeleteResult>%s</DeleteResult>" % said, "application/xml")

    return rule


def failing(answer: Answer) -> Rule:
    async def rule(request: Request) -> Answer | None:
        return answer if deletes(request) else None

    return rule


NO_RIGHT = Answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>", "application/xml")
# What the store does with a bulk delete.
REFUSALS = {
    "it throttles some": refusing("SlowDown", every=2),
    "it denies all": refusing("AccessDenied"),
    "it fails some inside": refusing("InternalError", every=3),
    "it lets nobody delete": failing(NO_RIGHT),
    "it says nothing and deletes nothing": refusing("never said", every=10**6),
}


async def with_old_files(lab: Lab) -> None:
    """Small files that a compaction has replaced, and whose snapshots are no longer among the last three."""
    await lab.refill()
    async with lab.night() as night:
        (task,) = (await night.run(Stage.COMPACT)).tasks
        assert task.outcome is DONE
    for _ in range(3):
        await lab.refill()


async def expire(night: Night) -> StageResult:
    (task,) = (await night.run(Stage.EXPIRE, slot=LATER)).tasks
    return task


def kept(lab: Lab) -> set[str]:
    """The keys of the files that are kept of any table."""
    lines: list[str] = []
    for file in (lab.engine.options.state_dir / "undeleted").glob("*.paths"):
        lines += [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {line.partition("://")[2].partition("/")[2] for line in lines}


SOME = [
    pytest.param(rule, id=name, marks=[pytest.mark.long] * (number > 1))
    for number, (name, rule) in enumerate(REFUSALS.items())
]


@pytest.mark.parametrize("refusal", SOME)
async def test_what_the_store_refuses_to_delete_is_tried_again_until_it_is_gone(lab: Lab, refusal: Rule) -> None:
    await with_old_files(lab)
    async with lab.night(clock=later) as night:
        lab.store.rule = refusal
        before, stored = await night.state(COINBASE), night.store()
        task = await expire(night)
        assert (task.outcome, task.reason) == (FAILED, Reason.NOT_VERIFIED), task.error
        assert "check the right to delete" in (task.error or "")
        expired = await night.state(COINBASE)
        assert len(expired.history) < len(before.history)
        left = kept(lab)
        assert left
        assert left <= stored <= night.store(), "nothing is deleted"
        assert KeptPaths(lab.engine.options.state_dir).counts() == {COINBASE: len(left)}

    async with lab.night(clock=later) as night:  # another process, a night later; the store is as before
        task = await expire(night)
        assert (task.outcome, task.reason) == (FAILED, Reason.NOT_VERIFIED), task.error
        assert kept(lab) == left
        lab.store.rule = None
        order = make_order(night.settings, LATER, Trigger.MANUAL, stages=(Stage.EXPIRE,))
        ((plan,), _) = await make_plans(order, night.services.ports)
        assert (plan.decision, plan.snapshot_ids) == (Decision.ACT, ())
        assert plan.note == f"would try again to delete {len(left)} files of earlier expiries"
        task = await expire(night)
        assert (task.outcome, task.error) == (DONE, None)
        assert task.note == f"tried again to delete {len(left)} files of earlier expiries; {len(left)} files deleted"
        assert not kept(lab)
        assert not left & night.store()
        assert (await night.state(COINBASE)).history == expired.history
        assert (await expire(night)).reason is Reason.NOTHING_EXPIRED


async def test_a_file_that_the_table_refers_to_again_is_left_alone(lab: Lab) -> None:
    await with_old_files(lab)
    async with lab.night(clock=later) as night:
        lab.store.rule = REFUSALS["it denies all"]
        assert (await expire(night)).outcome is FAILED
        left = sorted(kept(lab))
        again = next(key for key in left if "/data/" in key and key.endswith(".parquet"))
        key = f"{lab.box.s3.bucket}/{again}"
        size = lab.box.s3.filesystem().get_file_info(key).size
        rows = parquet.read_metadata(key, filesystem=lab.box.s3.filesystem()).num_rows

        def add(spark: SparkSession) -> None:
            jvm = IcebergJvm(spark)
            table = jvm.load(f"{night.catalog}.{COINBASE}")
            path = f"s3a://{key}"  # another name of the same object
            partition = again.split("/data/")[1].rpartition("/")[0]
            builder = jvm.iceberg.DataFiles.builder(table.spec()).withPath(path).withFileSizeInBytes(size)
            file = builder.withPartitionPath(partition).withFormat("parquet").withRecordCount(rows).build()
            table.newFastAppend().appendFile(file).commit()

        await night.services.engine.run(add, timeout=MINUTE)
        lab.store.rule = None
        task = await expire(night)
        assert (task.outcome, task.error) == (DONE, None)
        assert "1 file of earlier expiries in use again" in task.note
        assert again in night.store()
        assert not (set(left) - {again}) & night.store()
        assert not kept(lab)


async def test_what_a_deadline_left_to_delete_is_deleted_by_the_next_expiry(lab: Lab) -> None:
    await with_old_files(lab)

    async def hang(request: Request) -> Answer | None:
        if deletes(request):
            await asyncio.Event().wait()  # until the proxy lets it go
        return None

    def soon(document: dict[str, Any]) -> None:
        document["expire"]["timeout"] = "8s"

    async with lab.night(soon, clock=later) as night:
        lab.store.rule = hang
        task = await expire(night)
        assert (task.outcome, task.reason) == (FAILED, Reason.DEADLINE), task.error
        left = kept(lab)
        assert left
        await lab.calm()
    async with lab.night(clock=later) as night:
        task = await expire(night)
        assert (task.outcome, task.error) == (DONE, None)
        assert not left & night.store()
        assert not kept(lab)


@pytest.mark.parametrize("tags", [{}, {"s3.delete.tags.expired": "by-icekeeper"}], ids=["no tags", "tags"])
async def test_a_store_that_is_set_not_to_delete_holds_the_expiry_unless_it_tags(
    box: Sandbox, engine: SparkEngine, tmp_path: Path, tags: dict[str, str]
) -> None:
    async with laboratory(box, engine, tmp_path, properties={"s3.delete-enabled": "false", **tags}) as keeping:
        await with_old_files(keeping)
        async with keeping.night(clock=later) as night:
            before, stored = await night.state(COINBASE), night.store()
            order = make_order(night.settings, LATER, Trigger.MANUAL, stages=(Stage.EXPIRE,))
            ((plan,), _) = await make_plans(order, night.services.ports)
            task, after = await expire(night), await night.state(COINBASE)
            assert plan.decision is (Decision.ACT if tags else Decision.HOLD)
            assert stored <= night.store()
            if not tags:
                assert (task.outcome, task.reason) == (HELD, Reason.DELETE_DISABLED)
                assert task.note.startswith("s3.delete-enabled is false and there are no delete tags; it would expire")
                assert after.history == before.history, "nothing is committed"
                return
            assert (task.outcome, task.error) == (DONE, None)
            assert re.search(r"; \d+ files tagged$", task.note), task.note
            assert len(after.history) < len(before.history)
            assert not kept(keeping)

            async def refuse_tags(request: Request) -> Answer | None:
                return NO_RIGHT if request.method == "PUT" and "tagging" in request.target else None

            for _ in range(3):
                await keeping.refill()
            keeping.store.rule = refuse_tags
            refused = await expire(night)
            assert (refused.outcome, refused.reason) == (FAILED, Reason.NOT_VERIFIED), "S3FileIO itself only logs it"
            assert kept(keeping)
            keeping.store.rule = None
            taken = f"{box.s3.bucket}/{sorted(kept(keeping))[0]}"
            box.s3.filesystem().delete_file(taken)  # as a rule of the store takes what is tagged
            again = await expire(night)
            assert (again.outcome, again.error) == (DONE, None)
            assert not kept(keeping)


def adding(lab: Lab, target: str, block: str) -> Rule:
    """The REST catalog's answers, with s3.delete-enabled: false in a block of those to requests of this target."""

    def upstream(request: Request) -> bytes:
        with closing(http.client.HTTPConnection(*lab.catalog.upstream)) as connection:
            headers = {name: text for name, text in request.headers.items() if name != "accept-encoding"}
            connection.request(request.method, request.target, headers=headers)
            return connection.getresponse().read()

    async def rule(request: Request) -> Answer | None:
        if request.method != "GET" or not re.search(target, request.target.partition("?")[0]):
            return None
        document = json.loads(await asyncio.to_thread(upstream, request))
        document.setdefault(block, {})["s3.delete-enabled"] = "false"
        return Answer(200, json.dumps(document).encode())

    return rule


@pytest.mark.parametrize(("target", "block"), [("/v1/config$", "overrides"), ("/tables/[^/]+$", "config")])
async def test_a_catalog_or_its_answer_for_the_table_may_have_set_it(
    box: Sandbox, engine: SparkEngine, tmp_path: Path, target: str, block: str
) -> None:
    async with laboratory(box, engine, tmp_path, "rest") as rest:
        for _ in range(5):
            await rest.refill()
        rest.catalog.rule = adding(rest, target, block)
        async with rest.night(clock=later) as night:
            before = await night.state(COINBASE)
            task = await expire(night)
            assert (task.outcome, task.reason) == (HELD, Reason.DELETE_DISABLED), task.error
            assert (await night.state(COINBASE)).history == before.history


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("/metadata/snap-", id="manifest lists", marks=pytest.mark.long),
        pytest.param("-m0.avro", id="manifests"),
    ],
)
async def test_what_the_clean_up_could_not_read_after_the_commit_is_found_again(lab: Lab, lost: str) -> None:
    await with_old_files(lab)
    committed = False

    async def unreadable_after_the_commit(request: Request) -> Answer | None:
        nonlocal committed
        if request.method == "PUT" and request.target.partition("?")[0].endswith(".metadata.json"):
            committed = True
        if committed and request.method == "GET" and lost in request.target:
            return Answer(503, b"<Error><Code>SlowDown</Code></Error>", "application/xml")
        return None

    async with lab.night(clock=later) as night:
        before, stored = await night.state(COINBASE), night.store()
        lab.store.rule = unreadable_after_the_commit
        first = await expire(night)
        lab.store.rule = None
        assert len((await night.state(COINBASE)).history) < len(before.history), first.error
    async with lab.night(clock=later) as night:
        await expire(night)
        assert (await expire(night)).reason is Reason.NOTHING_EXPIRED
        gone = {key.rpartition("/")[2] for key in stored - night.store()}
        assert any(name.startswith("snap-") for name in gone)
        assert any(name.endswith(".parquet") for name in gone), "the data files that a compaction had replaced"
        assert not kept(lab)


async def test_an_expiry_reads_no_list_and_no_manifest_by_more_than_one_request(lab: Lab) -> None:
    await with_old_files(lab)
    asked: list[tuple[str, str]] = []

    async def note(request: Request) -> Answer | None:
        asked.append((request.method, request.target.partition("?")[0]))
        return None

    async with lab.night(clock=later) as night:
        history = (await night.state(COINBASE)).history
        going = tuple(snapshot.id for snapshot in history[:-3])
        lab.store.rule = note
        deleted = await night.services.ports.lakehouse.expire(COINBASE, going, 3, MINUTE)
        lab.store.rule = None
    assert deleted.left == 0
    first_delete = next(place for place, (method, _) in enumerate(asked) if method == "POST")
    reads = Counter(target for method, target in asked[:first_delete] if method != "PUT" and target.endswith(".avro"))
    assert set(reads.values()) == {1}
    assert sum("/snap-" in target for target in reads) == len(history)
