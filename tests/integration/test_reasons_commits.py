"""Commits that are late, lost or conflict, files that are gone or stay: what a task reports, what it keeps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.cli.runs import EXIT_CODES
from icekeeper.core.audit.records import FindingKind
from icekeeper.core.enums import RunOutcome, Stage
from icekeeper.core.reasons import Reason
from icekeeper.core.tables import planning
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, SLOT, Night, world_clock
from tests.integration.evidence import DONE, FAILED, Scenario, collected_in, play
from tests.integration.faults import LOST, Answer, Request
from tests.integration.lab import LATER, Lab, laboratory, later

COMPACT, EXPIRE, AUDIT = Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT
SCENARIOS: list[Scenario] = []
ON_REST: list[Scenario] = []
scenario, on_rest = collected_in(SCENARIOS), collected_in(ON_REST)


@pytest.fixture(scope="module")
async def lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("commits")) as made:
        yield made


@pytest.fixture(scope="module")
async def rest_lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("commits"), "rest") as made:
        yield made


def writes_data(request: Request) -> bool:
    return request.method == "PUT" and "/data/" in request.target


def retried(document: dict[str, Any]) -> None:
    document |= {stage: {"retries": 1} for stage in ("compact", "expire", "audit")}


# --- deadlines


@scenario(Reason.DEADLINE, COMPACT, FAILED, "stopped after")
async def a_rewrite_is_stopped_and_its_finished_slices_are_kept(lab: Lab) -> AsyncIterator[Night]:
    for _ in range(3):
        await lab.refill()
    began, used = world_clock(), timedelta(0)

    async def hold_up_the_second(request: Request) -> None:
        nonlocal used
        if request.method == "PUT" and request.target.endswith(".metadata.json"):
            used = timedelta(minutes=10) - timedelta(seconds=5)  # the first is committed, and the time nearly up
        if used and writes_data(request):
            await asyncio.Event().wait()  # until the proxy lets it go

    async with lab.night(clock=lambda: began() + used) as night:
        before, pid = await night.state(COINBASE), lab.engine.jvm_pid
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "SLICE_MAX_FILES", 12)
            lab.store.rule = hold_up_the_second
            yield night
        after = await night.state(COINBASE)
        assert len(after.history) == len(before.history) + 1
        assert after.health.records == before.health.records
        assert lab.engine.jvm_pid == pid, "a rewrite that can be cancelled costs no JVM"


@scenario(Reason.DEADLINE, AUDIT, FAILED, "no count of bronze_trades_coinbase within 1 s")
async def a_count_in_the_source_takes_too_long(lab: Lab) -> AsyncIterator[Night]:
    async def hold_up_counts(request: Request) -> None:
        if b"SELECT count()" in request.body and b"EXPLAIN" not in request.body:
            await asyncio.Event().wait()

    def change(document: dict[str, Any]) -> None:
        document["audit"]["timeout"] = "1s"

    async with lab.night(change) as night:
        lab.source.rule = hold_up_counts
        yield night


# --- conflicts


async def delete_some_rows(lab: Lab) -> None:
    """What a writer of rows does meanwhile: it rewrites a file that the compaction is reading."""

    def delete() -> None:
        table = lab.world.pyiceberg_catalog().load_table(COINBASE)
        refilled = table.scan(f"exchange_timestamp >= '{SLOT:%Y-%m-%dT00:00:00+00:00}'", limit=1).to_arrow()
        table.delete(f"sequence_number = {refilled['sequence_number'][0]}")

    await asyncio.to_thread(delete)


def deletes_once(lab: Lab) -> None:
    left = [1]

    async def delete_first(request: Request) -> None:
        if writes_data(request) and left:
            left.pop()
            await delete_some_rows(lab)

    lab.store.rule = delete_first


@scenario(Reason.CONFLICT, COMPACT, FAILED, "ValidationException")
async def rows_are_deleted_from_the_files_of_a_rewrite(lab: Lab) -> AsyncIterator[Night]:
    await lab.refill()
    async with lab.night() as night:
        rows = lab.world.rows_iceberg(COINBASE)
        deletes_once(lab)
        yield night
        assert lab.world.rows_iceberg(COINBASE) == rows - 1


async def test_a_rewrite_that_lost_against_a_delete_is_done_by_its_second_attempt(lab: Lab) -> None:
    await lab.refill()
    async with lab.night(retried) as night:
        rows = lab.world.rows_iceberg(COINBASE)
        deletes_once(lab)
        (task,) = (await night.run(COMPACT)).tasks
        await lab.calm()
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, 2)
        assert lab.world.rows_iceberg(COINBASE) == rows - 1


# --- commits whose answer is lost


def commits_to(answers: list[Answer]) -> Any:
    """A rule that answers commits, one after another, in the catalog's place."""

    async def answer(request: Request) -> Answer | None:
        commits = request.method == "POST" and re.search(r"/tables/[^/]+$", request.target)
        return answers.pop(0) if commits and answers else None

    return answer


@on_rest(Reason.COMMIT_UNKNOWN, COMPACT, FAILED, "CommitStateUnknownException", attempts=2)
async def commits_never_land_and_no_error_says_so(lab: Lab) -> AsyncIterator[Night]:
    await lab.refill()
    async with lab.night(retried) as night:
        before = await night.state(COINBASE)
        lab.catalog.rule = commits_to([Answer(504)] * 2)
        yield night
        assert await night.state(COINBASE) == before


@pytest.mark.parametrize(
    ("answer", "attempts"),
    [(Answer(504, late=True), 1), (LOST, 2), (Answer(504), 2)],
    ids=["landed and a gateway gave up", "landed and the answer was lost", "not landed"],
)
async def test_a_commit_of_unknown_state_is_settled_by_reading_the_table(
    rest_lab: Lab, answer: Answer, attempts: int
) -> None:
    await rest_lab.refill()
    async with rest_lab.night(retried) as night:
        before = await night.state(COINBASE)
        rest_lab.catalog.rule = commits_to([answer])
        (task,) = (await night.run(COMPACT)).tasks
        await rest_lab.calm()
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, attempts)
        after = await night.state(COINBASE)
        assert len(after.history) == len(before.history) + 1
        assert rest_lab.world.rows_iceberg(COINBASE) == before.health.records


@pytest.mark.parametrize("stage", [COMPACT, EXPIRE])
async def test_a_commit_whose_answer_is_lost_on_the_way_from_postgresql_is_done_once(lab: Lab, stage: Stage) -> None:
    await lab.refill()
    rows = lab.world.rows_iceberg(COINBASE)
    async with lab.night(retried, clock=later) as night:
        before = await night.state(COINBASE)
        lab.catalog.cut_after = [b"UPDATE iceberg_tables"]
        (task,) = (await night.run(stage, slot=LATER)).tasks
        assert not lab.catalog.cut_after
        assert (task.outcome, task.reason) == (DONE, None), task.error
        after = await night.state(COINBASE)
        assert len(after.history) == (len(before.history) + 1 if stage is COMPACT else 3)
        assert lab.world.rows_iceberg(COINBASE) == rows
        # Its manifests and files are there: a commit that is sent again may clean up after the one that landed.
        assert await night.sql(f"SELECT count(price) FROM {{c}}.{COINBASE}") == [(rows,)]


async def test_a_repair_whose_answer_is_lost_on_the_way_from_postgresql_is_done_once(lab: Lab) -> None:
    def keyed(document: dict[str, Any]) -> None:
        document["tables"][0]["audit"] = {"key": ["symbol", "sequence_number"]}

    def delete() -> None:
        table = lab.world.pyiceberg_catalog().load_table(COINBASE)
        noon = SLOT.replace(hour=0) - timedelta(hours=3)
        table.delete(f"exchange_timestamp >= '{noon.isoformat()}'"
                     f" and exchange_timestamp < '{(noon + timedelta(hours=1)).isoformat()}'")  # fmt: skip

    async with lab.night(keyed) as night:
        rows = lab.world.rows_iceberg(COINBASE)
        await asyncio.to_thread(delete)
        lost = rows - lab.world.rows_iceberg(COINBASE)
        assert lost
        (audit,) = (await night.run(AUDIT)).audits
        missing = [one.id for one in audit.findings if one.kind is FindingKind.MISSING]
        before = await night.state(COINBASE)
        lab.catalog.cut_after = [b"UPDATE iceberg_tables"]
        (task, again) = (await night.run(Stage.REPAIR, AUDIT, window=audit.window, findings=tuple(missing[:1]))).tasks
        assert not lab.catalog.cut_after
        assert (task.outcome, again.outcome) == (DONE, DONE), (task.error, again.error)
        assert len((await night.state(COINBASE)).history) == len(before.history) + 1
        assert lab.world.rows_iceberg(COINBASE) == rows
        assert night.ledger("SELECT state FROM maintenance_repairs WHERE finding_id = $1", missing[0]) == [
            ("repaired",)
        ]


# --- files


@scenario(Reason.NOT_VERIFIED, EXPIRE, FAILED, "check the right to delete", options={"slot": LATER})
async def files_of_expired_snapshots_may_not_be_deleted(lab: Lab) -> AsyncIterator[Night]:
    async def refuse_deletions(request: Request) -> Answer | None:
        if request.method != "POST" or "delete" not in request.target:
            return None
        keys = re.findall(rb"<Key>.*?</Key>", request.body)
        refused = b"".join(b"<Error>%s<Code>AccessDenied</Code><Message>no</Message></Error>" % key for key in keys)
        return Answer(200, b"<DeleteResult>%s</DeleteResult>" % refused, "application/xml")

    for _ in range(4):
        await lab.refill()
    async with lab.night(clock=later) as night:
        lab.store.rule = refuse_deletions
        yield night
        assert len((await night.state(COINBASE)).history) == 3


@scenario(Reason.FILE_MISSING, COMPACT, FAILED, "Location does not exist: s3://warehouse/")
async def a_data_file_is_gone(lab: Lab) -> AsyncIterator[Night]:
    await lab.refill()
    async with lab.night() as night:
        ((path, *_), *_) = await night.sql(f"SELECT file_path FROM {{c}}.{COINBASE}.files ORDER BY file_size_in_bytes")
        store, key = lab.box.s3.filesystem(), path.removeprefix("s3://")
        store.move(key, f"{key}.gone")
        yield night
        store.move(f"{key}.gone", key)


@scenario(Reason.METADATA_MISSING, COMPACT, FAILED, ".metadata.json")
async def the_metadata_file_that_a_catalog_names_is_gone(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        query = "SELECT metadata_location FROM iceberg_tables WHERE table_name = $1"
        ((location,),) = night.ledger(query, COINBASE.partition(".")[2])
        store, key = lab.box.s3.filesystem(), location.removeprefix("s3://")
        store.move(key, f"{key}.gone")
        yield night
        store.move(f"{key}.gone", key)


# --- an end before its time


@scenario(
    Reason.CANCELLED, COMPACT, FAILED, "stopped while it was under way",
    run_outcome=RunOutcome.CANCELLED,
)  # fmt: skip
async def an_operator_ends_a_run(lab: Lab) -> AsyncIterator[Night]:
    await lab.refill()
    run = asyncio.current_task()
    assert run is not None

    async with lab.night() as night:

        async def cancel(request: Request) -> None:
            if writes_data(request):
                night.stop.by_operator = True
                run.cancel()
                await asyncio.Event().wait()

        lab.store.rule = cancel
        yield night
        assert EXIT_CODES[RunOutcome.CANCELLED] == 130


# --- all of them


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_what_happens_to_a_commit_is_shown_in_all_places(lab: Lab, scenario: Scenario) -> None:
    await play(lab, scenario)


@pytest.mark.parametrize("scenario", ON_REST, ids=str)
async def test_what_happens_to_a_commit_on_a_rest_catalog_is_shown_in_all_places(
    rest_lab: Lab, scenario: Scenario
) -> None:
    await play(rest_lab, scenario)
