"""Copies of row groups that a fault breaks off: nothing is committed, and nothing of them stays in the store."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

import pytest

from icekeeper.adapters.iceberg.deleting.kept import KeptPaths
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.core.tables import planning
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, Night
from tests.integration.faults import Answer, Request, Rule
from tests.integration.lab import Lab, laboratory, later
from tests.integration.odd import Odd, contents, create, insert

WRONG = "cold.read_wrongly"
REFUSED = Answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>", "application/xml")


@pytest.fixture(scope="module")
async def lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    shutil.rmtree(engine.options.state_dir / "undeleted", ignore_errors=True)
    async with laboratory(box, engine, tmp_path_factory.mktemp("copying")) as made:
        yield made


Rules = Callable[[Night, set[str]], Rule]


def is_of_a_copy(request: Request, method: str, others: set[str]) -> bool:
    """`others`: copies of earlier tests. They are read as any file is."""
    named = request.target.partition("?")[0].rpartition("/")[2]
    return request.method == method and named.endswith("-copied.parquet") and not any(named in key for key in others)


def refusing(method: str) -> Rules:
    def rules(_: Night, others: set[str]) -> Rule:
        async def rule(request: Request) -> Answer | None:
            return REFUSED if is_of_a_copy(request, method, others) else None

        return rule

    return rules


def damaging(night: Night, others: set[str]) -> Rule:
    """What is read back of a copy's beginning is not what was written."""

    async def rule(request: Request) -> Answer | None:
        return damaged(night, request) if is_of_a_copy(request, "GET", others) else None

    return rule


def damaged(night: Night, request: Request) -> Answer | None:
    """The bytes from a file's first page on, where those are asked for: one of them is another one."""
    start, _, end = request.headers.get("range", "").removeprefix("bytes=").partition("-")
    if start != "4":
        return None
    with night.box.s3.filesystem().open_input_file(unquote(request.target.partition("?")[0]).lstrip("/")) as file:
        size = file.size()
        body = bytearray(file.read_at(int(end) - int(start) + 1, int(start)))
    body[len(body) // 2] ^= 1
    headers = (f"Content-Range: bytes {start}-{end}/{size}",)
    return Answer(206, bytes(body), "application/octet-stream", headers=headers)


def copies(night: Night) -> set[str]:
    return {key for key in night.store() if key.endswith("-copied.parquet")}


def copying(document: dict[str, Any]) -> None:
    document["compact"] |= {"strategy": "auto", "copy_row_groups": True}


def copied_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of files, and however many there are."""
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", 1)
    monkeypatch.setattr(planning, "SPREAD_MIN_FILES", 10**6)


def kept(lab: Lab) -> dict[str, int]:
    return dict(KeptPaths(lab.engine.options.state_dir).counts())


FAULTS = {
    "it can't be written": (refusing("PUT"), Reason.ACCESS_DENIED),
    "it can't be read back": (refusing("GET"), Reason.ACCESS_DENIED),
    "it is not what was written": (damaging, Reason.NOT_VERIFIED),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_copy_that_fails_is_not_committed_and_is_deleted(
    lab: Lab, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_always(monkeypatch)
    await lab.refill()
    rules, reason = FAULTS[fault]
    async with lab.night(copying) as night:
        rows, before, others = await contents(night, COINBASE), await night.state(COINBASE), copies(night)
        lab.store.rule = rules(night, others)
        (task,) = (await night.run(Stage.COMPACT)).tasks
        await lab.calm()
        assert (task.outcome, task.reason) == (TaskOutcome.FAILED, reason), task.error
        assert (await night.state(COINBASE)).history == before.history
        assert (copies(night), kept(lab)) == (others, {})
        (task,) = (await night.run(Stage.COMPACT)).tasks
        assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
        assert "; row groups copied; " in task.note
        assert await contents(night, COINBASE) == rows
        assert len(copies(night)) > len(others)


@pytest.mark.long
async def test_a_file_that_is_read_wrongly_once_is_copied_by_the_next_attempt(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is what was read, and a page of it is not what its checksum says. In the store it is, read once more."""
    copied_always(monkeypatch)
    hurt: list[str] = []

    async def rule(request: Request) -> Answer | None:
        if hurt or request.method != "GET" or "/read_wrongly/data/" not in request.target:
            return None
        answer = damaged(night, request)
        hurt.extend([request.target] if answer is not None else [])
        return answer

    def with_another(document: dict[str, Any]) -> None:
        copying(document)
        document["tables"].append({"name": WRONG, "compact": {"prove": "off", "retries": 1}})

    async with lab.night(with_another) as night:
        await create(night, WRONG, Odd((insert(),)))
        rows = await contents(night, WRONG)
        lab.store.rule = rule
        (task,) = (await night.run(Stage.COMPACT, tables=(WRONG,))).tasks
        await lab.calm()
        assert (task.outcome, task.error, task.attempts) == (TaskOutcome.DONE, None, 2)
        assert hurt
        assert "; row groups copied; " in task.note
        assert len({key for key in copies(night) if "/read_wrongly/" in key}) == 1
        assert kept(lab) == {}
        assert await contents(night, WRONG) == rows


@pytest.mark.long
async def test_what_a_killed_process_had_copied_is_deleted_by_the_next_expiry(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JVM is killed as it reads its copy back: that is in the store, and no table refers to it."""
    copied_always(monkeypatch)
    await lab.refill()

    async def kill(request: Request) -> Answer | None:
        if is_of_a_copy(request, "GET", others) and lab.engine.jvm_pid is not None:
            lab.store.rule = None
            os.kill(lab.engine.jvm_pid, signal.SIGKILL)
        return None

    async with lab.night(copying) as night:
        rows, before, others = await contents(night, COINBASE), await night.state(COINBASE), copies(night)
        lab.store.rule = kill
        (task,) = (await night.run(Stage.COMPACT)).tasks
        await lab.calm()
        assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.ENGINE_DOWN), task.error
    async with lab.night(copying, clock=later) as night:
        left = copies(night) - others
        assert left
        assert kept(lab)[COINBASE] >= len(left), "all that were to be written"
        assert (await night.state(COINBASE)).history == before.history
        assert await contents(night, COINBASE) == rows
        tasks = (await night.run(Stage.COMPACT, Stage.EXPIRE)).tasks
        assert [task.outcome for task in tasks] == [TaskOutcome.DONE] * 2
        assert not left & night.store()
        assert kept(lab) == {}
        assert await contents(night, COINBASE) == rows
