"""The warm Spark session: one JVM, one thread that talks to it, deadlines, and a new JVM where the old one died.

What is done with the session lives in `iceberg.py`, how it is started in `spark_options.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

import structlog
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from icekeeper.adapters.spark.errors import is_engine_gone, translate
from icekeeper.adapters.spark.jars import fetched_before, without_resolving, write_down
from icekeeper.adapters.spark.launch import connect, forget, spawn
from icekeeper.adapters.spark.log import SparkLog
from icekeeper.adapters.spark.options import (
    SparkOptions,
    clear_scratch,
    prepare_environment,
    spark_conf,
    take_scratch,
    write_properties,
)
from icekeeper.adapters.spark.process import EXIT_OUT_OF_MEMORY, errors_in, left, not_started
from icekeeper.adapters.spark.stacks import Overdue, stacks, waited_for
from icekeeper.core.errors import CredentialsExpired, IcekeeperError, TransientError
from icekeeper.core.reasons import Reason

T = TypeVar("T")
log = structlog.get_logger(__name__)

# How long a session may take to start, and to download its jars before.
START_TIMEOUT = timedelta(minutes=2)
DOWNLOAD_TIMEOUT = timedelta(minutes=8)
# How long cancelled work may go on (planning, commits and deletes are no Spark jobs) before the JVM is killed.
CANCEL_GRACE_S = 15.0
# When its thread is interrupted besides: by then a commit under way has landed, and who waits to try again gives up.
INTERRUPT_AFTER_S = 7.0
# Jobs of a rewrite start one after another, so a cancellation is repeated until the call has returned.
CANCEL_EVERY_S = 0.3
# How long a JVM may take to say what it waits for: one that is alive does so at once.
STACKS_S = 3.0


class Loss(StrEnum):
    """Why a session had to be rebuilt."""

    DIED = "died"
    OUT_OF_MEMORY = "out_of_memory"
    HUNG = "hung"


class SparkEngine:
    """One session, used by one call at a time. Start is lazy: the first call, or `start`, brings the JVM up."""

    def __init__(self, options: SparkOptions) -> None:
        self.options = options
        self.log = SparkLog(options.log)
        # Sessions that were lost, by why: each was rebuilt by whoever needed one next.
        self.losses: Counter[Loss] = Counter()
        self._started_at = 0.0
        # Its credentials have run out: whoever comes next gets a session that asks for new ones.
        self._stale = False
        self._turn = asyncio.Lock()
        self._thread = _new_thread()
        self._starting: Future[None] | None = None
        self._spark: SparkSession | None = None
        self._jvm: subprocess.Popen[bytes] | None = None
        # The JVM's class of threads, and the one that does what ours asks for: PySpark pins one to the other.
        self._threads: Any = None
        self._worker: Any = None

    @property
    def up(self) -> bool:
        """Whether a session is there and its JVM lives."""
        return self._spark is not None and self.jvm_pid is not None

    @property
    def jvm_pid(self) -> int | None:
        return self._jvm.pid if self._jvm is not None and self._jvm.poll() is None else None

    @property
    def busy(self) -> bool:
        """Whether a call, a start or an end is under way."""
        return self._turn.locked()

    @property
    def age(self) -> timedelta | None:
        """How long the session has been up; None where there is none."""
        return timedelta(seconds=time.monotonic() - self._started_at) if self.up else None

    @property
    def restarts(self) -> int:
        return self.losses.total()

    async def start(self) -> None:
        """Brings the session up if it isn't. TransientError `engine_down`, PermanentError where no Java fits."""
        async with self._turn:
            await self._ensure_started()

    async def run(
        self, work: Callable[[SparkSession], T], *, timeout: timedelta, where: str | None = None, jobs: bool = True
    ) -> T:
        """Runs `work` in the session's thread and returns its result. `jobs`: whether it starts Spark jobs.

        DeadlineExceeded after `timeout`: the work is cancelled by its job tag and interrupted, and where it will not
        stop, the JVM is killed. Cancelling the caller does the same. Errors come translated; after one that means that
        the JVM is gone, the next call starts a new one.
        """
        async with self._turn:
            await self._ensure_started()
            tag = f"icekeeper-{uuid.uuid4()}" if jobs else None
            context = contextvars.copy_context()  # run_in_executor would lose the log's run_id
            done = asyncio.wrap_future(self._thread.submit(context.run, self._call, work, tag, where))
            try:
                # Not wait_for: on Python 3.11 it swallows a cancellation that comes with the result.
                async with asyncio.timeout(timeout.total_seconds()):
                    return await asyncio.shield(done)
            except TimeoutError as exc:
                part, ended_well = await _to_its_end(self._stop_overdue(tag, done))
                if ended_well:
                    return done.result()  # it was over just then
                raise Overdue(timeout, part, where) from exc
            except asyncio.CancelledError:
                await _to_its_end(self._stop_work(tag, done))
                raise
            except CredentialsExpired:
                self._stale = True
                raise
            except IcekeeperError:
                raise
            except Exception as exc:
                if is_engine_gone(exc):
                    raise await self._lost_session(where) from exc
                raise translate(exc, where) from exc

    async def check(self, timeout: timedelta) -> None:
        """Asks the session for a sign of life: one that has died is rebuilt, one that hangs is killed.

        Raises like `run`. A session that is at work is left alone: its call has a deadline of its own.
        """
        if not self.busy:
            await self.run(lambda spark: spark._jvm.System.nanoTime(), timeout=timeout)  # type: ignore[union-attr]

    async def use(self, options: SparkOptions) -> None:
        """Takes other options over: where they differ, the session ends, and the next call starts one by them."""
        if options == self.options:
            return
        async with self._turn:
            await self._end_session()
            self.options = options

    async def recycle(self) -> None:
        """Ends the session, so that the next call starts a fresh one with an empty heap."""
        async with self._turn:
            await self._end_session()

    async def stop(self) -> None:
        """Ends the session and its JVM; there is none afterwards, whatever state it was in."""
        if self._starting is not None and self._spark is None:
            self.abort()  # nobody waits for a start any more, and it may take minutes
        async with self._turn:
            await self._end_session()
            self._thread.shutdown(wait=False)

    def abort(self) -> None:
        """Kills the JVM, at once and whatever it does; who waits for it hears that it is gone."""
        if self._jvm is not None:
            self._jvm.kill()

    # --- inside the turn

    async def _ensure_started(self) -> None:
        await self._settle_start()
        if self._stale:
            log.info("engine_recycled", why="its credentials have expired")
            await self._end_session()
        if self.up:
            return
        if self._jvm is not None:  # it died while nobody asked it for anything
            self._note_loss(_why(self._jvm.poll()))
        self._discard()
        self._starting = self._thread.submit(self._start_session)
        starting = asyncio.wrap_future(self._starting)
        starting.add_done_callback(_seen)
        ready = fetched_before(self.options.packages, self.options.conf)
        limit = START_TIMEOUT if ready else START_TIMEOUT + DOWNLOAD_TIMEOUT
        # Cancelled, the start goes on in its thread; whoever comes next settles it first.
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await asyncio.shield(starting)
        except TimeoutError as exc:
            self.abort()
            text = f"Spark did not start within {limit.total_seconds():.0f} s; see {self.options.log}"
            raise TransientError(text, reason=Reason.ENGINE_DOWN) from exc
        log.info("engine_started", master=self.options.master, jvm_pid=self.jvm_pid)

    async def _settle_start(self) -> None:
        """Waits for a start that its caller has left alone: a second one beside it would break both."""
        if self._starting is not None:
            settled = asyncio.wrap_future(self._starting)
            await asyncio.wait([settled])
            settled.exception()  # seen, so that nobody complains of it later
            self._starting = None

    def _start_session(self) -> None:
        # In this thread, not in the main one: there PySpark would replace the handler of SIGINT.
        options = self.options
        try:
            java = prepare_environment(options, os.environ)
            clear_scratch(options)
            take_scratch(options)
        except OSError as exc:
            raise not_started(str(exc), options) from exc
        properties = options.scratch / "icekeeper.properties"
        asked = spark_conf(options)
        conf = without_resolving(asked, options.resolved)
        said_before = self.log.mark()
        try:
            write_properties(conf, properties)
            self._jvm, said_at = spawn(options, properties)
            assert self._jvm.stdout is not None  # it is a pipe
            self.log.follow(self._jvm.stdout)
            gateway = connect(self._jvm, said_at)
            settings = SparkConf(loadDefaults=False).setAll(list(conf.items()))
            session = SparkSession(SparkContext(conf=settings, gateway=gateway))
            for key, value in options.session_conf.items():
                session.conf.set(key, value)
            if conf == asked:
                write_down(asked, str(session.sparkContext.getConf().get("spark.jars", "")), options.resolved)
        except Exception as exc:  # whatever it was, no half-made session may stay
            self._kill()
            options.resolved.unlink(missing_ok=True)  # perhaps it was one of the jars
            said = errors_in(self.log.all_since(said_before)) or str(exc)
            raise not_started(f"{java.origin} (Java {java.major}): {said}; see {options.log}", options) from exc
        finally:
            properties.unlink(missing_ok=True)
        self._started_at = time.monotonic()
        self._threads = session._jvm.java.lang.Thread  # type: ignore[union-attr]
        self._worker = self._threads.currentThread()
        self._spark = session

    def _call(self, work: Callable[[SparkSession], T], tag: str | None, where: str | None) -> T:
        if self._spark is None:
            raise TransientError("there is no session", reason=Reason.ENGINE_DOWN)
        context = self._spark.sparkContext
        self._threads.interrupted()  # clears what came too late for the call before
        if tag is not None:
            context.addJobTag(tag)
        try:
            return work(self._spark)
        except Exception as exc:
            if isinstance(exc, IcekeeperError) or is_engine_gone(exc):
                raise
            # Here, for it asks the JVM: in the loop's thread one that hangs would hang everything.
            raise translate(exc, where) from exc
        finally:
            try:
                if tag is not None:
                    context.clearJobTags()
            except Exception as exc:  # the JVM died under the call; its error is the one to report
                log.debug("job_tag_not_cleared", error=str(exc))

    async def _stop_overdue(self, tag: str | None, done: asyncio.Future[Any]) -> tuple[Reason | None, bool]:
        """Whom the work waits for, asked before it is made to end; and whether it ended well after all."""
        return await self._waited_for(), await self._stop_work(tag, done)

    async def _stop_work(self, tag: str | None, done: asyncio.Future[Any]) -> bool:
        """Makes the work in the thread end; True if it ended well after all."""
        loop = asyncio.get_running_loop()
        give_up, interrupt = loop.time() + CANCEL_GRACE_S, loop.time() + INTERRUPT_AFTER_S
        cancelling: asyncio.Future[None] | None = None
        while not done.done() and loop.time() < give_up:
            # Not awaited: a JVM that hangs does not answer a cancellation either.
            if cancelling is None or cancelling.done():
                cancelling = asyncio.ensure_future(asyncio.to_thread(self._cancel_jobs, tag, loop.time() > interrupt))
            await asyncio.wait([done], timeout=CANCEL_EVERY_S)
        if done.done():
            if cancelling is not None:  # one that is still on its way must not strike the next call
                await asyncio.wait([cancelling], timeout=STACKS_S)
            return done.exception() is None
        log.error("engine_killed", why="work did not stop when it was cancelled", grace_s=CANCEL_GRACE_S)
        self._note_loss(Loss.HUNG)
        self._kill()
        await asyncio.wait([done], timeout=CANCEL_GRACE_S)
        if done.done():
            done.exception()
        else:
            # The thread hangs in something that even the JVM's death doesn't end: it is left behind.
            self._thread.shutdown(wait=False)
            self._thread = _new_thread()
        return False

    def _cancel_jobs(self, tag: str | None, interrupt: bool) -> None:
        try:
            if self._spark is not None and tag is not None:
                self._spark.sparkContext.cancelJobsWithTag(tag)
            if interrupt:
                self._worker.interrupt()
        except Exception as exc:  # the JVM may be going down itself: the caller sees that by the future
            log.debug("cancel_failed", error=str(exc))

    async def _waited_for(self) -> Reason | None:
        """What the work in the thread waits for; `engine_down` where the JVM itself does not answer."""
        asked = asyncio.ensure_future(asyncio.to_thread(self._ask_for_stacks))
        await asyncio.wait([asked], timeout=STACKS_S)
        return waited_for(asked.result()) if asked.done() else Reason.ENGINE_DOWN

    def _ask_for_stacks(self) -> str:
        try:
            return "" if self._spark is None else stacks(self._spark)
        except Exception as exc:  # the JVM may be going down itself: the caller sees that by the future
            log.debug("stacks_not_told", error=str(exc))
            return ""

    async def _lost_session(self, where: str | None) -> TransientError:
        """What to say of a JVM whose connection broke; it is dead afterwards."""
        code = await asyncio.to_thread(left, self._jvm) if self._jvm is not None else None
        loss = self._note_loss(_why(code))
        self._kill()
        if loss is Loss.OUT_OF_MEMORY:
            text, reason = f"the JVM ran out of its {self.options.driver_memory} of heap", Reason.ENGINE_OUT_OF_MEMORY
        else:
            text, reason = f"the JVM is gone ({_said(code)})", Reason.ENGINE_DOWN
        return TransientError(text, reason=reason, where=where)

    def _note_loss(self, why: Loss) -> Loss:
        self.losses[why] += 1
        log.error("engine_lost", why=why, jvm_pid=self._jvm.pid if self._jvm is not None else None)
        return why

    async def _end_session(self) -> None:
        await self._settle_start()
        if self._spark is not None and self.up:
            stopping = asyncio.wrap_future(self._thread.submit(self._spark.stop))
            await asyncio.wait([stopping], timeout=CANCEL_GRACE_S)
            if stopping.done() and stopping.exception() is not None:
                log.warning("engine_stop_failed", error=str(stopping.exception()))
            if self._jvm is not None and self._jvm.stdin is not None:
                self._jvm.stdin.close()  # that is how it is told to leave
                await asyncio.to_thread(left, self._jvm)
        self._kill()
        self._stale = False
        clear_scratch(self.options)

    def _kill(self) -> None:
        if (jvm := self._jvm) is not None:
            if jvm.stdin is not None:
                jvm.stdin.close()
            jvm.kill()
            left(jvm)
        self._discard()

    def _discard(self) -> None:
        forget()
        self._spark = None
        self._jvm = None


def _why(exit_code: int | None) -> Loss:
    return Loss.OUT_OF_MEMORY if exit_code == EXIT_OUT_OF_MEMORY else Loss.DIED


def _said(exit_code: int | None) -> str:
    """An exit code in words: who was killed from outside has a negative one."""
    if exit_code == -signal.SIGKILL:
        return "killed; if nobody did it by hand, the host or the container ran out of memory"
    return f"exit code {exit_code}"


def _seen(future: asyncio.Future[Any]) -> None:
    """Takes note of an exception that nobody waits for any more, or Python would complain of it."""
    if not future.cancelled():
        future.exception()


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits it, however often its caller is cancelled meanwhile: work that nobody stops would hold the thread up."""
    task, told = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            told = told or exc
    if told is not None:
        raise told
    return task.result()


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spark")
