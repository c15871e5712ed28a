"""Credentials that are refused in mid-night: whose refusal it is, when the session is renewed, what has landed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage
from icekeeper.core.history import ConfigLoad
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.sandbox import Sandbox
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.secret_files import SecretFiles
from tests.conftest import COINBASE, Night, no_waiting
from tests.integration.evidence import DONE, FAILED
from tests.integration.faults import Answer, Request
from tests.integration.lab import LATER, Lab, laboratory, later

COMPACT, EXPIRE, AUDIT = Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT
OTHER = "cold.other"


@pytest.fixture(scope="module")
async def jdbc(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("jdbc")) as made:
        yield made


@pytest.fixture(scope="module")
async def rest(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("rest"), "rest") as made:
        yield made


@pytest.fixture(autouse=True)
def not_renewed_lately(engine: SparkEngine) -> None:
    engine._renewed_at = None


def of_catalog(status: int, kind: str) -> Answer:
    """A REST catalog's refusal (its OpenAPI specification: ErrorModel)."""
    error = {"error": {"message": "refused", "type": kind, "code": status}}
    return Answer(status, json.dumps(error).encode())


def of_store(code: str, status: int = 403) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode(), "application/xml")


Pick = Callable[[Request], bool]


def refuses(lab: Lab, answer: Answer, begins: Pick, *, renewed: bool = True) -> Callable[[Request], Awaitable[Any]]:
    """A rule that refuses every request from the first that `begins` on; `renewed`: but not those of a new session."""
    pid, refusing = lab.engine.jvm_pid, False

    async def rule(request: Request) -> Answer | None:
        nonlocal refusing
        refusing = refusing or begins(request)
        old = lab.engine.jvm_pid == pid or not renewed
        return answer if refusing and old and "/oauth/" not in request.target else None

    return rule


def is_commit(request: Request) -> bool:
    return request.method == "POST" and re.search(r"/tables/[^/]+$", request.target) is not None


def is_write(request: Request) -> bool:
    return request.method == "PUT" and "/data/" in request.target


def is_new_metadata(request: Request) -> bool:
    return request.method == "PUT" and request.target.endswith(".metadata.json")


async def readable(night: Night, rows: int) -> None:
    """Every file that the table names is there."""
    assert await night.sql(f"SELECT count(price) FROM {{c}}.{COINBASE}") == [(rows,)]


# --- the whole session is refused


@pytest.mark.parametrize(
    ("answer", "begins"),
    [
        (of_store("InvalidAccessKeyId"), is_write),
        pytest.param(of_store("InvalidTokenId"), is_new_metadata, marks=pytest.mark.long),
        pytest.param(of_store("ExpiredToken", 400), is_write, marks=pytest.mark.long),
        pytest.param(of_store("AccessDenied"), is_write, marks=pytest.mark.long),
    ],
    ids=["InvalidAccessKeyId", "InvalidTokenId", "ExpiredToken", "AccessDenied"],
)
async def test_keys_that_a_store_refuses_in_mid_night_cost_the_session_and_not_the_task(
    jdbc: Lab, answer: Answer, begins: Pick
) -> None:
    await jdbc.refill()
    async with jdbc.night() as night:
        before, pid, failures = await night.state(COINBASE), jdbc.engine.jvm_pid, jdbc.engine.failures.total()
        jdbc.store.rule = refuses(jdbc, answer, begins)
        report = await night.run(COMPACT, AUDIT)
        await jdbc.calm()
        task = report.tasks[0]
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, 2), task.error
        assert report.audits[0].status is AuditStatus.OK
        assert jdbc.engine.jvm_pid not in (None, pid)
        assert jdbc.engine.failures.total() == failures, "nothing was lost: the session was renewed"
        await readable(night, before.health.records)


@pytest.mark.parametrize(
    ("answer", "begins"),
    [
        pytest.param(of_catalog(401, "NotAuthorizedException"), lambda request: True, marks=pytest.mark.long),
        (of_catalog(419, "AuthenticationTimeoutException"), lambda request: True),
        pytest.param(of_catalog(403, "ForbiddenException"), is_commit, marks=pytest.mark.long),
        pytest.param(of_catalog(401, "NotAuthorizedException"), is_commit, marks=pytest.mark.long),
    ],
    ids=["401", "419", "403 from the commit on", "401 from the commit on"],
)
async def test_a_token_that_a_catalog_refuses_in_mid_night_costs_the_session_and_not_the_task(
    rest: Lab, answer: Answer, begins: Pick
) -> None:
    await rest.refill()
    async with rest.night() as night:
        before, pid = await night.state(COINBASE), rest.engine.jvm_pid
        rest.catalog.rule = refuses(rest, answer, begins)
        (task,) = (await night.run(COMPACT)).tasks
        await rest.calm()
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, 2), task.error
        assert rest.engine.jvm_pid not in (None, pid)
        assert len((await night.state(COINBASE)).history) == len(before.history) + 1
        await readable(night, before.health.records)


async def test_a_renewal_that_does_not_help_is_final_and_not_repeated_for_the_next_table(rest: Lab) -> None:
    await rest.refill()
    async with rest.night() as night:
        await night.state(COINBASE)
        pid, refusal = rest.engine.jvm_pid, of_catalog(401, "NotAuthorizedException")
        rest.catalog.rule = refuses(rest, refusal, lambda request: True, renewed=False)
        report = await night.run(COMPACT, EXPIRE)
        renewed = rest.engine.jvm_pid
        again = await night.run(COMPACT)
        await rest.calm()
        assert report.outcome is RunOutcome.FAILED or report.outcome is RunOutcome.PARTIAL
        assert [reason_of(task) for task in (*report.tasks, *again.tasks)] == [Reason.ACCESS_DENIED] * 3
        assert [task.attempts for task in (*report.tasks, *again.tasks)] == [2, 1, 1]
        assert renewed not in (None, pid)
        assert rest.engine.jvm_pid == renewed, "once in five minutes"


def reason_of(task: StageResult) -> Reason | None:
    assert task.outcome is FAILED
    return task.reason


# --- one table is refused


@pytest.mark.parametrize("part", ["catalog", pytest.param("store", marks=pytest.mark.long)])
async def test_a_refusal_of_one_table_alone_is_its_own_and_final(jdbc: Lab, rest: Lab, part: str) -> None:
    lab = rest if part == "catalog" else jdbc

    def both(document: dict[str, Any]) -> None:
        document["tables"] = [*document["tables"], {"name": OTHER}]
        document["compact"]["retries"] = 1

    async def of_other(request: Request) -> Answer | None:
        if "/other" not in request.target:
            return None
        return of_catalog(403, "ForbiddenException") if part == "catalog" else of_store("AccessDenied")

    await lab.refill()
    async with lab.night(both) as night:
        await night.sql(f"CREATE TABLE {{c}}.{OTHER} (id INT) USING iceberg")
        await night.sql(f"INSERT INTO {{c}}.{OTHER} VALUES (1)")
        pid = lab.engine.jvm_pid
        proxy = lab.catalog if part == "catalog" else lab.store
        proxy.rule = of_other
        ours, other = (await night.run(COMPACT)).tasks
        await lab.calm()
        await night.sql(f"DROP TABLE {{c}}.{OTHER}")
        assert ours.outcome is DONE, ours.error
        assert (other.outcome, other.reason, other.attempts) == (FAILED, Reason.ACCESS_DENIED, 1)
        assert lab.engine.jvm_pid == pid, "the session goes on"


# --- rotated


@pytest.mark.long
@pytest.mark.parametrize("late", [False, True], ids=["files first", "files after the first refusals"])
async def test_keys_that_were_rotated_in_mid_night_are_read_from_their_files(
    jdbc: Lab, box: Sandbox, engine: SparkEngine, tmp_path: Path, late: bool
) -> None:
    statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    names = [f"{age}{late}{jdbc.world.name}" for age in ("before", "after")]
    for name in names:
        document = {"Version": "2012-10-17", "Statement": [statement]}
        await asyncio.to_thread(box.s3.add_identity, name, f"secret-of-{name}", document)
    files = {"s3.access-key-id": tmp_path / "id", "s3.secret-access-key": tmp_path / "key"}

    def hand_over(name: str) -> None:
        files["s3.access-key-id"].write_text(name)
        files["s3.secret-access-key"].write_text(f"secret-of-{name}")

    def from_files(document: dict[str, Any]) -> None:
        for key, file in files.items():
            del document["catalog"]["properties"][key]
            document["catalog"]["properties"][f"{key}_file"] = str(file)

    async def refuse_old(request: Request) -> Answer | None:
        return of_store("InvalidAccessKeyId") if names[0] in request.headers.get("authorization", "") else None

    hand_over(names[0])
    await engine.recycle()  # it may have opened the catalog with other keys
    await jdbc.refill()
    async with jdbc.night(from_files) as night:
        configuration = Configuration(night.config, night.services, night.services.ports.clock, no_waiting)

        async def taken_up(load: ConfigLoad | None) -> None:
            assert load is None or not load.problems, load

        engine._refreshed = SecretFiles(configuration, taken_up, no_waiting).after_refusal
        try:
            before = await night.state(COINBASE)
            jdbc.store.rule = refuse_old
            if late:
                (task,) = (await night.run(COMPACT)).tasks
                assert (reason_of(task), task.attempts) == (Reason.ACCESS_DENIED, 2), "the files hold the old keys"
            hand_over(names[1])
            (task,) = (await night.run(COMPACT)).tasks
        finally:
            engine._refreshed = None
            await jdbc.calm()
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, 2), task.error
        await readable(night, before.health.records)


# --- what landed


@pytest.mark.parametrize("status", [401, pytest.param(403, marks=pytest.mark.long)])
async def test_a_commit_that_landed_and_was_answered_no_is_done(rest: Lab, status: int) -> None:
    await rest.refill()
    async with rest.night() as night:
        before, pid = await night.state(COINBASE), rest.engine.jvm_pid
        answers = [Answer(status, of_catalog(status, "Refused").body, late=True)]

        async def refuse_the_answer(request: Request) -> Answer | None:
            return answers.pop() if is_commit(request) and answers else None

        rest.catalog.rule = refuse_the_answer
        (task,) = (await night.run(COMPACT)).tasks
        await rest.calm()
        assert not answers
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, 1), task.error
        assert rest.engine.jvm_pid == pid
        assert len((await night.state(COINBASE)).history) == len(before.history) + 1
        await readable(night, before.health.records)


@pytest.mark.parametrize("stage", [COMPACT, pytest.param(EXPIRE, marks=pytest.mark.long)])
async def test_a_commit_that_landed_in_a_session_that_was_refused_from_then_on_is_found_by_the_next(
    rest: Lab, stage: Stage
) -> None:
    for _ in range(4):
        await rest.refill()
    async with rest.night(clock=later) as night:
        before, pid = await night.state(COINBASE), rest.engine.jvm_pid
        landed, refusal = False, of_catalog(401, "NotAuthorizedException")

        async def refuse_from_the_answer_on(request: Request) -> Answer | None:
            nonlocal landed
            if rest.engine.jvm_pid != pid or "/oauth/" in request.target:
                return None
            late = not landed and is_commit(request)
            landed = landed or late
            return Answer(401, refusal.body, late=late) if landed else None

        rest.catalog.rule = refuse_from_the_answer_on
        (task,) = (await night.run(stage, slot=LATER)).tasks
        await rest.calm()
        assert landed
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, 2), task.error
        after = await night.state(COINBASE)
        assert len(after.history) == (len(before.history) + 1 if stage is COMPACT else 3)
        await readable(night, before.health.records)


async def test_a_commit_that_was_refused_and_did_not_land_leaves_the_table_as_it_was(rest: Lab) -> None:
    await rest.refill()
    async with rest.night() as night:
        before, objects = await night.state(COINBASE), night.store()

        async def refuse_commits(request: Request) -> Answer | None:
            return of_catalog(403, "ForbiddenException") if is_commit(request) else None

        rest.catalog.rule = refuse_commits
        (task,) = (await night.run(COMPACT)).tasks
        await rest.calm()
        assert (task.outcome, task.reason, task.attempts) == (FAILED, Reason.ACCESS_DENIED, 1)
        assert await night.state(COINBASE) == before
        assert night.store() == objects, "Iceberg has removed what it had written"


# --- clients


@pytest.mark.long
async def test_a_client_that_was_closed_under_its_users_costs_the_session_and_not_the_task(rest: Lab) -> None:
    await rest.refill()
    async with rest.night() as night:
        await night.state(COINBASE)
        pid = rest.engine.jvm_pid

        def close(session: SparkSession) -> None:
            IcebergJvm(session).open_catalog(night.catalog).icebergCatalog().close()

        await rest.engine.run(close, timeout=timedelta(minutes=1))
        (task,) = (await night.run(COMPACT)).tasks
        assert (task.outcome, task.attempts) == (DONE, 2), task.error
        assert rest.engine.jvm_pid not in (None, pid)
