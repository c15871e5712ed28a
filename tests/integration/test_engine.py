"""The warm session under deadlines, cancellations and a JVM that dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pyspark
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.errors import DeadlineExceeded, IcekeeperError
from icekeeper.core.reasons import Reason

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
async def own_engine(engine: SparkEngine) -> SparkEngine:
    """The shared session: a process has one. What these tests break, the engine itself must mend."""
    await engine.start()
    return engine


def slow_job(spark: SparkSession) -> Any:
    """A job that would take an hour."""
    return spark.sql("SELECT count(*) FROM range(0, 4000000000000, 1, 2) WHERE hash(id) = 42").collect()


def answer(spark: SparkSession) -> int:
    return int(spark.sql("SELECT 42").collect()[0][0])


async def test_work_past_its_deadline_is_cancelled_and_the_session_lives_on(own_engine: SparkEngine) -> None:
    pid, loop = own_engine.jvm_pid, asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DeadlineExceeded) as caught:
        await own_engine.run(slow_job, timeout=timedelta(seconds=1), where="cold.slow")
    assert loop.time() - began < 30  # of an hour; within its grace, as the same JVM shows below
    assert caught.value.reason is Reason.DEADLINE
    assert "cold.slow" in str(caught.value)
    assert await own_engine.run(answer, timeout=MINUTE) == 42
    assert own_engine.jvm_pid == pid


async def test_an_engine_that_was_never_started_ends_no_other_ones_session(
    own_engine: SparkEngine, tmp_path: Path
) -> None:
    pid = own_engine.jvm_pid
    await SparkEngine(SparkOptions("local[1]", "1g", tmp_path)).stop()
    assert await own_engine.run(answer, timeout=MINUTE) == 42
    assert own_engine.jvm_pid == pid


async def test_the_jvms_output_about_work_that_fails_is_in_its_log(own_engine: SparkEngine) -> None:
    def fail(spark: SparkSession) -> None:
        spark.sql("SELECT raise_error('a-word-of-this-test') FROM range(9)").collect()

    mark = own_engine.log.mark()
    with pytest.raises(IcekeeperError):
        await own_engine.run(fail, timeout=MINUTE)
    assert "a-word-of-this-test" in own_engine.log.all_since(mark)
    assert own_engine.log.since(mark), "its end"
    assert "a-word-of-this-test" in own_engine.options.log.read_text()


async def test_cancelling_the_caller_cancels_the_job(own_engine: SparkEngine) -> None:
    pid = own_engine.jvm_pid
    running = asyncio.create_task(own_engine.run(slow_job, timeout=MINUTE))
    await until(lambda: active_jobs(own_engine) > 0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await own_engine.run(answer, timeout=MINUTE) == 42
    assert active_jobs(own_engine) == 0
    assert own_engine.jvm_pid == pid


async def test_a_job_that_begins_while_its_call_is_interrupted_is_cancelled_too(
    own_engine: SparkEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icekeeper.adapters.spark import engine as spark

    # The second cancellation interrupts the call, and none comes before that has ended.
    monkeypatch.setattr(spark, "CANCEL_EVERY_S", 4.0)
    monkeypatch.setattr(spark, "INTERRUPT_AFTER_S", 1.0)

    jobs: list[Any] = []

    def prepare(session: SparkSession) -> Any:
        return session.range(0, 4_000_000_000_000, 1, 2).where("hash(id) = 42")._jdf.toJavaRDD()

    rows = await own_engine.run(prepare, timeout=MINUTE)

    def submit_when_interrupted(session: SparkSession) -> None:
        try:
            session._jvm.java.lang.Thread.sleep(600_000)  # type: ignore[union-attr]
        except Py4JJavaError:
            jobs.append(rows.countAsync())
            raise

    with pytest.raises(DeadlineExceeded):
        await own_engine.run(submit_when_interrupted, timeout=timedelta(seconds=1))
    (job,) = jobs
    await until(lambda: bool(job.isDone()))


async def test_a_jvm_that_is_killed_in_the_middle_is_engine_down_and_the_next_call_has_a_new_one(
    own_engine: SparkEngine,
) -> None:
    pid, restarts = own_engine.jvm_pid, own_engine.failures.total()
    assert pid is not None
    running = asyncio.create_task(own_engine.run(slow_job, timeout=MINUTE))
    await until(lambda: active_jobs(own_engine) > 0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(IcekeeperError) as caught:
        await running
    assert caught.value.reason is Reason.ENGINE_DOWN
    assert await own_engine.run(answer, timeout=MINUTE) == 42
    assert own_engine.jvm_pid not in (None, pid)
    assert own_engine.failures.total() == restarts + 1


async def test_work_that_will_not_stop_costs_the_jvm(own_engine: SparkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from icekeeper.adapters.spark import engine as spark

    monkeypatch.setattr(spark, "CANCEL_GRACE_S", 1.0)
    pid = own_engine.jvm_pid

    def stubborn(session: SparkSession) -> None:
        session._jvm.java.lang.Thread.sleep(600_000)  # type: ignore[union-attr]  # no Spark job: no tag can stop it

    with pytest.raises(DeadlineExceeded):
        await own_engine.run(stubborn, timeout=timedelta(seconds=1))
    assert not own_engine.up
    assert await own_engine.run(answer, timeout=MINUTE) == 42
    assert own_engine.jvm_pid != pid


async def test_a_jvm_that_does_not_answer_is_killed(own_engine: SparkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from icekeeper.adapters.spark import engine as spark

    monkeypatch.setattr(spark, "CANCEL_GRACE_S", 1.0)
    pid = own_engine.jvm_pid
    assert pid is not None
    running = asyncio.create_task(own_engine.run(slow_job, timeout=timedelta(seconds=3)))
    await until(lambda: active_jobs(own_engine) > 0)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        await running
    assert not psutil.pid_exists(pid)
    assert await own_engine.run(answer, timeout=MINUTE) == 42


async def test_a_start_whose_caller_was_cancelled_does_not_become_a_second_session(own_engine: SparkEngine) -> None:
    options = own_engine.options
    await own_engine.recycle()
    starting = asyncio.create_task(own_engine.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await own_engine.use(replace(options, driver_memory="1100m"))
    assert await own_engine.run(answer, timeout=MINUTE) == 42
    assert own_engine.jvm_pid is not None
    assert "-Xmx1100m" in psutil.Process(own_engine.jvm_pid).cmdline()
    jvms = [child for child in psutil.Process().children() if "java" in child.name() and child.status() != "zombie"]
    assert [child.pid for child in jvms] == [own_engine.jvm_pid]
    await own_engine.use(options)
    await own_engine.start()


async def test_no_secret_stands_on_the_command_line_and_no_port_is_open_to_others(own_engine: SparkEngine) -> None:
    pid = own_engine.jvm_pid
    assert pid is not None
    command = " ".join(psutil.Process(pid).cmdline())
    assert "icekeeper" in command
    for key, value in own_engine.options.session_conf.items():
        if "secret" in key or "password" in key:
            assert value not in command
    assert listening(pid) <= {"127.0.0.1", "::1"}


async def test_an_environment_of_another_spark_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from icekeeper.adapters.spark.options import prepare_environment

    old = {"SPARK_HOME": "/opt/old", "SPARK_CONF_DIR": "/etc/spark", "SPARK_DIST_CLASSPATH": "/opt/hadoop/*"}
    environ = {**os.environ, **old, "PYSPARK_PYTHON": "python3.8", "PYTHONPATH": "/opt/old/python"}
    prepare_environment(SparkOptions("local[1]", "1g", tmp_path), environ)
    assert not {"SPARK_CONF_DIR", "SPARK_DIST_CLASSPATH", "PYSPARK_PYTHON", "PYTHONPATH"} & environ.keys()
    assert environ["SPARK_HOME"] == str(Path(pyspark.__file__).parent)
    other = SparkOptions("local[1]", "1g", tmp_path, home=Path("/opt/chosen"))
    prepare_environment(other, environ)
    assert environ["SPARK_HOME"] == "/opt/chosen"


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for something that another thread or process brings about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.05)


def active_jobs(engine: SparkEngine) -> int:
    session = engine._session._spark
    return 0 if session is None else len(session.sparkContext.statusTracker().getActiveJobsIds())


def listening(pid: int) -> set[str]:
    """The addresses on which a process listens."""
    return {c.laddr.ip.removeprefix("::ffff:") for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"}
