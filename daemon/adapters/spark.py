"""The warm Spark session: one JVM, one thread that talks to it, deadlines, and a new JVM where the old one died.

What is done with the session lives in `iceberg.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import structlog
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from daemon.adapters.java_errors import is_engine_gone, translate
from daemon.adapters.spark_options import SparkOptions, prepare_environment, spark_conf
from daemon.core.errors import DeadlineExceeded, TransientError
from daemon.core.reasons import Reason

T = TypeVar("T")
log = structlog.get_logger(__name__)

# How long a session may take to start: the first start on a machine downloads the jars.
START_TIMEOUT = timedelta(minutes=10)
# How long cancelled work may go on (planning, commits and deletes are no Spark jobs) before the JVM is killed.
CANCEL_GRACE_S = 15.0
# Jobs of a rewrite start one after another, so a cancellation is repeated until the call has returned.
CANCEL_EVERY_S = 0.3
# java -XX:+ExitOnOutOfMemoryError leaves with this code.
_EXIT_OUT_OF_MEMORY = 3


class SparkEngine:
    """One session, used by one call at a time. Start is lazy: the first call, or `start`, brings the JVM up."""

    def __init__(self, options: SparkOptions) -> None:
        self.options = options
        self.restarts = 0
        self._sessions = 0
        self._turn = asyncio.Lock()
        self._thread = _new_thread()
        self._spark: SparkSession | None = None
        self._jvm: subprocess.Popen[bytes] | None = None

    @property
    def up(self) -> bool:
        """Whether a session is there and its JVM lives."""
        return self._spark is not None and self._jvm is not None and self._jvm.poll() is None

    @property
    def jvm_pid(self) -> int | None:
        return self._jvm.pid if self._jvm is not None and self._jvm.poll() is None else None

    async def start(self) -> None:
        """Brings the session up if it isn't. TransientError `engine_down`, PermanentError where no Java fits."""
        async with self._turn:
            await self._ensure_started()

    async def run(self, work: Callable[[SparkSession], T], *, timeout: timedelta, where: str | None = None) -> T:
        """Runs `work` in the session's thread and returns its result.

        DeadlineExceeded after `timeout`: the work is cancelled by its job tag, and where it will not stop, the JVM is
        killed. Cancelling the caller does the same. Errors come translated; after one that means that the JVM is
        gone, the next call starts a new one.
        """
        async with self._turn:
            await self._ensure_started()
            tag = f"icekeeper-{uuid.uuid4()}"
            context = contextvars.copy_context()  # run_in_executor would lose the log's run_id
            future = self._thread.submit(context.run, self._call, work, tag)
            waiter = asyncio.wrap_future(future)
            try:
                return await asyncio.wait_for(asyncio.shield(waiter), timeout.total_seconds())
            except TimeoutError as exc:
                if await self._stop_work(tag, future):
                    return await waiter  # it was over just then
                raise DeadlineExceeded(f"stopped after {timeout.total_seconds():.0f} s", where=where) from exc
            except asyncio.CancelledError:
                await asyncio.shield(self._stop_work(tag, future))
                raise
            except Exception as exc:
                raise self._translated(exc, where) from exc

    async def stop(self) -> None:
        """Ends the session and its JVM; there is none afterwards, whatever state it was in."""
        async with self._turn:
            await self._end_session()
            self._thread.shutdown(wait=False)

    async def recycle(self) -> None:
        """Ends the session, so that the next call starts a fresh one: with new settings, or an empty heap."""
        async with self._turn:
            await self._end_session()

    async def use(self, options: SparkOptions) -> None:
        """Takes other options over: where they differ, the session ends, and the next call starts one by them."""
        if options == self.options:
            return
        async with self._turn:
            await self._end_session()
            self.options = options

    # --- inside the turn

    async def _ensure_started(self) -> None:
        if self.up:
            return
        if self._sessions:
            self.restarts += 1
            self._discard()
        future = asyncio.wrap_future(self._thread.submit(self._start_session))
        try:
            await asyncio.wait_for(asyncio.shield(future), START_TIMEOUT.total_seconds())
        except TimeoutError as exc:
            self._kill()
            raise TransientError("Spark did not start in time", reason=Reason.ENGINE_DOWN) from exc
        except asyncio.CancelledError:
            self._kill()
            raise
        self._sessions += 1
        log.info("engine_started", master=self.options.master, session=self._sessions, jvm_pid=self.jvm_pid)

    def _start_session(self) -> None:
        # In this thread, not in the main one: there PySpark would replace the handler of SIGINT.
        options = self.options
        java = prepare_environment(options, os.environ)
        conf_values, secrets = spark_conf(options)
        (options.state_dir / "spark").mkdir(parents=True, exist_ok=True)
        log_path = options.state_dir / "spark.log"
        conf = SparkConf(loadDefaults=False)
        for key, value in conf_values.items():
            conf.set(key, value)
        try:
            with log_path.open("ab") as output:
                # A session of its own, so that a signal to our group does not reach the JVM; it watches its stdin.
                popen = {"stdout": output, "stderr": output, "start_new_session": True}
                gateway = launch_gateway(conf, popen_kwargs=popen)  # type: ignore[no-untyped-call]
            self._jvm = gateway.proc
            self._spark = SparkSession(SparkContext(conf=conf, gateway=gateway))
        except (PySparkRuntimeError, Py4JError, OSError) as exc:
            self._discard()
            tail = _tail(log_path)
            raise TransientError(
                f"Spark did not start with {java.origin} (Java {java.major}): {tail or exc}; see {log_path}",
                reason=Reason.ENGINE_DOWN,
            ) from exc
        for key, value in {**secrets, **options.session_conf}.items():
            if key.startswith("spark.hadoop."):
                self._spark.sparkContext._jsc.hadoopConfiguration().set(key.removeprefix("spark.hadoop."), value)
            else:
                self._spark.conf.set(key, value)

    def _call(self, work: Callable[[SparkSession], T], tag: str) -> T:
        if self._spark is None:
            raise TransientError("there is no session", reason=Reason.ENGINE_DOWN)
        context = self._spark.sparkContext
        context.addJobTag(tag)
        try:
            return work(self._spark)
        finally:
            try:
                context.clearJobTags()
            except Exception as exc:  # the JVM died under the call; its error is the one to report
                log.debug("job_tag_not_cleared", error=str(exc))

    async def _stop_work(self, tag: str, future: Future[Any]) -> bool:
        """Makes the work in the thread end; True if it ended well after all."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + CANCEL_GRACE_S
        while not future.done() and loop.time() < give_up:
            await asyncio.to_thread(self._cancel_jobs, tag)
            await asyncio.wait([asyncio.wrap_future(future)], timeout=CANCEL_EVERY_S)
        if future.done():
            return future.exception() is None
        log.error("engine_killed", reason="work did not stop when cancelled", grace_s=CANCEL_GRACE_S)
        self._kill()
        await asyncio.wait([asyncio.wrap_future(future)], timeout=CANCEL_GRACE_S)
        if not future.done():
            # The thread hangs in something that even the JVM's death doesn't end: it is left behind.
            self._thread.shutdown(wait=False)
            self._thread = _new_thread()
        return False

    def _cancel_jobs(self, tag: str) -> None:
        try:
            if self._spark is not None:
                self._spark.sparkContext.cancelJobsWithTag(tag)
        except Exception as exc:  # the JVM may be going down itself: the caller sees that by the future
            log.debug("cancel_failed", error=str(exc))

    def _translated(self, error: Exception, where: str | None) -> Exception:
        if not is_engine_gone(error):
            return translate(error, where)
        code = self._reap()
        if code == _EXIT_OUT_OF_MEMORY:
            memory = self.options.driver_memory
            return TransientError(
                f"the JVM ran out of its {memory} of heap", reason=Reason.ENGINE_OUT_OF_MEMORY, where=where
            )
        return TransientError(f"the JVM is gone (exit code {code})", reason=Reason.ENGINE_DOWN, where=where)

    async def _end_session(self) -> None:
        if self._spark is not None and self.up:
            stopping = asyncio.wrap_future(self._thread.submit(self._spark.stop))
            try:
                await asyncio.wait_for(asyncio.shield(stopping), CANCEL_GRACE_S)
            except Exception as exc:
                log.warning("engine_stop_failed", error=str(exc))
        self._kill()

    def _kill(self) -> None:
        if self._jvm is not None:
            if self._jvm.stdin is not None:
                self._jvm.stdin.close()
            self._jvm.kill()
            self._jvm.wait()
        self._discard()

    def _reap(self) -> int | None:
        """The exit code of a JVM whose connection broke; killed if it still lives without one."""
        if self._jvm is None:
            return None
        try:
            code: int | None = self._jvm.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self._kill()
        return code

    def _discard(self) -> None:
        """Forgets a session whose JVM is gone: PySpark keeps it in class attributes and would hand it out again."""
        gateway = SparkContext._gateway
        if gateway is not None:
            try:
                gateway.shutdown()
            except Exception as exc:  # there is nobody at the other end
                log.debug("gateway_shutdown_failed", error=str(exc))
        SparkContext._gateway = None
        SparkContext._jvm = None
        SparkContext._active_spark_context = None
        SparkSession._instantiatedSession = None
        self._spark = None
        self._jvm = None


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spark")


def _tail(path: Path, lines: int = 3) -> str:
    """The last lines of spark.log that say something."""
    try:
        text = path.read_text(errors="replace")[-8000:]
    except OSError:
        return ""
    telling = [line.strip() for line in text.splitlines() if "Exception" in line or "Error" in line]
    return " | ".join(telling[-lines:])
