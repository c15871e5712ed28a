"""The engine: keeps one Spark session, calls it in one thread, enforces deadlines, and replaces a JVM that died.

Asyncio only: what blocks is in `session.py`, what the session is used for in adapters/iceberg.
"""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

import structlog
from pyspark.sql import SparkSession

from icekeeper.adapters.spark.errors import is_engine_gone, translate
from icekeeper.adapters.spark.jars import in_ivy_cache
from icekeeper.adapters.spark.log import SparkLog
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.adapters.spark.process import EXIT_OUT_OF_MEMORY, describe_exit
from icekeeper.adapters.spark.session import Session
from icekeeper.adapters.spark.stacks import CallTimedOut, blocked_on
from icekeeper.adapters.waiting import retrieve, uninterrupted
from icekeeper.core.errors import IcekeeperError, PermanentError, SessionSpent, TransientError
from icekeeper.core.reasons import Reason

T = TypeVar("T")
Refreshed = Callable[[SparkOptions], Awaitable[SparkOptions]]
log = structlog.get_logger(__name__)

# How long a session may take to start, and to download its jars before.
START_TIMEOUT = timedelta(minutes=2)
DOWNLOAD_TIMEOUT = timedelta(minutes=8)
# How long cancelled work may go on (planning, commits and deletes are no Spark jobs) before the JVM is killed.
CANCEL_GRACE_S = 15.0
# When its thread is interrupted as well: by then a commit under way has landed, and a wait before a retry is cut short.
INTERRUPT_AFTER_S = 7.0
# Jobs of a rewrite start one after another, so a cancellation is repeated until the call has returned.
CANCEL_EVERY_S = 0.3
# How long after the end of an interrupted call its jobs are still cancelled, and how often: adaptive execution submits
# jobs from threads of its own, on a busy host seconds after the call has ended.
LATE_JOBS_S, LATE_JOBS_EVERY_S = 60.0, 1.0
# A session whose credentials are refused is renewed at most this often: a start costs seconds.
RENEW_EVERY_S = 300.0
# How long a JVM may take to return its stacks: a healthy one does so at once.
STACKS_S = 3.0


class EngineFailure(StrEnum):
    """Why a session was lost and had to be replaced."""

    DIED = "died"
    OUT_OF_MEMORY = "out_of_memory"
    HUNG = "hung"


class SparkEngine:
    """One session, used by one call at a time. The first call, or `start`, brings the JVM up."""

    def __init__(self, options: SparkOptions, refreshed: Refreshed | None = None) -> None:
        """`refreshed` gives the options of the session that follows one whose credentials were refused."""
        self.options = options
        self._refreshed = refreshed
        self.log = SparkLog(options.log)
        # Sessions that were lost; the next call after each started a new one.
        self.failures: Counter[EngineFailure] = Counter()
        # The next call gets a new session, with credentials, clients and memory of its own.
        self._spent = False
        # The options of the next session, where secrets were rotated.
        self._fresh: SparkOptions | None = None
        # When credentials were last renewed, by the loop's clock.
        self._renewed_at: float | None = None
        # Held during a call, a start and an end.
        self._lock = asyncio.Lock()
        self._thread = _new_thread()
        self._starting: Future[None] | None = None
        self._session = Session(options, self.log)
        self._cancelling: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether a session is there and its JVM lives."""
        return self._session.up

    @property
    def jvm_pid(self) -> int | None:
        return self._session.jvm_pid

    @property
    def busy(self) -> bool:
        """Whether a call, a start or an end is under way."""
        return self._lock.locked()

    @property
    def age(self) -> timedelta | None:
        """How long the session has been up; None where there is none."""
        return self._session.age

    async def start(self) -> None:
        """Brings the session up if it isn't. TransientError `engine_down`, PermanentError where no Java fits."""
        async with self._lock:
            await self._ensure_started()

    async def run(
        self, work: Callable[[SparkSession], T], *, timeout: timedelta, where: str | None = None, jobs: bool = True
    ) -> T:
        """Runs `work` in the session's thread and returns its result. `jobs`: whether it starts Spark jobs.

        DeadlineExceeded after `timeout`: the work is cancelled by its job tag and interrupted, and if it does not stop,
        the JVM is killed. Cancelling the caller does the same. Errors come translated; after one that means that the
        JVM is gone, the next call starts a new one.
        """
        async with self._lock:
            await self._ensure_started()
            tag = f"icekeeper-{uuid.uuid4()}" if jobs else None
            context = contextvars.copy_context()  # an executor does not copy it, and the log needs its run_id
            done = asyncio.wrap_future(self._thread.submit(context.run, self._session.call, work, tag, where))
            try:
                # Not wait_for: on Python 3.11 it swallows a cancellation that comes with the result.
                async with asyncio.timeout(timeout.total_seconds()):
                    return await asyncio.shield(done)
            except TimeoutError as exc:
                blocker, finished = await uninterrupted(self._stop_overdue(tag, done))
                if finished:
                    return done.result()  # it ended between the deadline and the cancellation
                raise CallTimedOut(timeout, blocker, where) from exc
            except asyncio.CancelledError:
                await uninterrupted(self._stop_work(tag, done))
                raise
            except SessionSpent as exc:
                raise await self.renewed_for(exc) from exc.__cause__
            except IcekeeperError:
                raise
            except Exception as exc:
                if is_engine_gone(exc):
                    raise await uninterrupted(self._lost_session(where)) from exc
                raise translate(exc, where) from exc

    async def has_fresh_secrets(self) -> bool:
        """After a refusal: whether the session's secrets were rotated since it was started."""
        options = self.options if self._refreshed is None else await self._refreshed(self.options)
        self._fresh = options if options != self.options else None
        return self._fresh is not None

    async def renewed_for(self, error: IcekeeperError) -> IcekeeperError:
        """Has the next call start a new session, and returns the SessionSpent that says so.

        `error` itself where a new session has not helped a while ago, and no secret was rotated since.
        """
        if error.reason is Reason.ACCESS_DENIED and not self._spent and not await self.has_fresh_secrets():
            now = asyncio.get_running_loop().time()
            if self._renewed_at is not None and (ago := now - self._renewed_at) < RENEW_EVERY_S:
                text = f"{error.args[0]}; the session was renewed {ago:.0f} s ago, and that did not help"
                kind = TransientError if isinstance(error, TransientError) else PermanentError
                return kind(text, reason=error.reason, where=error.where)
            self._renewed_at = now
        self._spent = True
        return SessionSpent(str(error.args[0]), reason=error.reason, where=error.where)

    async def check(self, timeout: timedelta) -> None:
        """Calls the JVM once: a session that has died is replaced, one that hangs is killed.

        Raises like `run`. A busy session is not checked: its call has a deadline of its own.
        """
        if not self.busy:
            await self.run(lambda spark: spark._jvm.System.nanoTime(), timeout=timeout)  # type: ignore[union-attr]

    async def use(self, options: SparkOptions) -> None:
        """Changes the options: where they differ, the session ends, and the next call starts one with the new ones."""
        if options == self.options:
            return
        async with self._lock:
            # Another caller may have brought the same options while this one waited.
            if options != self.options:
                await self._end_session()
                self.options, self._fresh = options, None

    async def recycle(self) -> None:
        """Ends the session, so that the next call starts a fresh one with an empty heap."""
        async with self._lock:
            await self._end_session()

    async def stop(self) -> None:
        """Ends the session and its JVM, whatever their state. The engine can't be used afterwards."""
        if self._starting is not None and not self.up:
            self.abort()  # a start may take minutes
        async with self._lock:
            for late in self._cancelling:
                late.cancel()
            await self._end_session()
            self._thread.shutdown(wait=False)

    def abort(self) -> None:
        """Kills the JVM at once, whatever it does; a call that waits for it fails with `engine_down`."""
        self._session.abort()

    # --- with the lock held

    async def _ensure_started(self) -> None:
        await self._settle_start()
        if self._spent:
            log.info("engine_recycled", why="its credentials, clients or memory are used up")
            await self._end_session()
            self.options, self._fresh = self._fresh or self.options, None
        if self.up:
            return
        if self._session.died:
            self._count_failure(_cause(await uninterrupted(asyncio.to_thread(self._session.bury))))
        self._session = Session(self.options, self.log)
        self._starting = self._thread.submit(self._session.start)
        starting = asyncio.wrap_future(self._starting)
        starting.add_done_callback(retrieve)
        no_download = in_ivy_cache(self.options.packages, self.options.conf)
        limit = START_TIMEOUT if no_download else START_TIMEOUT + DOWNLOAD_TIMEOUT
        # If this call is cancelled, the start goes on in its thread, and the next call waits for it first.
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await asyncio.shield(starting)
        except TimeoutError as exc:
            self.abort()
            text = f"Spark did not start within {limit.total_seconds():.0f} s; see {self.options.log}"
            raise TransientError(text, reason=Reason.ENGINE_DOWN) from exc
        log.info("engine_started", master=self.options.master, jvm_pid=self.jvm_pid)

    async def _settle_start(self) -> None:
        """Waits for a start whose caller was cancelled: a second one beside it would break both."""
        if self._starting is not None:
            settled = asyncio.wrap_future(self._starting)
            await asyncio.wait([settled])
            retrieve(settled)
            self._starting = None

    async def _stop_overdue(self, tag: str | None, done: asyncio.Future[Any]) -> tuple[Reason | None, bool]:
        """What the work is blocked on, read before it is stopped; and whether it ended well after all."""
        return await self._blocked_on(), await self._stop_work(tag, done)

    async def _stop_work(self, tag: str | None, done: asyncio.Future[Any]) -> bool:
        """Makes the work in the thread end; True if it ended well after all."""
        loop = asyncio.get_running_loop()
        give_up, interrupt = loop.time() + CANCEL_GRACE_S, loop.time() + INTERRUPT_AFTER_S
        cancelling: asyncio.Future[None] | None = None
        while not done.done() and loop.time() < give_up:
            # Not awaited: a JVM that hangs does not answer a cancellation either.
            if cancelling is None or cancelling.done():
                cancel = asyncio.to_thread(self._session.cancel, tag, interrupt=loop.time() > interrupt)
                cancelling = asyncio.ensure_future(cancel)
            await asyncio.wait([done], timeout=CANCEL_EVERY_S)
        if done.done():
            if cancelling is not None:  # an interrupt that is still on its way must not hit the next call
                await asyncio.wait([cancelling], timeout=STACKS_S)
            if tag is not None and loop.time() > interrupt:
                self._cancelling.add(late := asyncio.create_task(self._cancel_late_jobs(self._session, tag)))
                late.add_done_callback(self._cancelling.discard)
            return done.exception() is None
        log.error("engine_killed", why="work did not stop when it was cancelled", grace_s=CANCEL_GRACE_S)
        self._count_failure(EngineFailure.HUNG)
        self.abort()
        await asyncio.to_thread(self._session.kill)
        await asyncio.wait([done], timeout=CANCEL_GRACE_S)
        if done.done():
            done.exception()
        else:
            # The thread hangs in something that even the JVM's death doesn't end: it is abandoned.
            self._thread.shutdown(wait=False)
            self._thread = _new_thread()
        return False

    async def _cancel_late_jobs(self, session: Session, tag: str) -> None:
        """An interrupt ends a call, but not the jobs that it has submitted, or that other threads submit for it."""
        for _ in range(int(LATE_JOBS_S / LATE_JOBS_EVERY_S)):
            if session is not self._session or not session.up:
                return
            await asyncio.to_thread(session.cancel, tag, interrupt=False)
            await asyncio.sleep(LATE_JOBS_EVERY_S)

    async def _blocked_on(self) -> Reason | None:
        """What the work in the thread waits for; `engine_down` where the JVM itself does not answer."""
        reading = asyncio.ensure_future(asyncio.to_thread(self._session.stacks))
        await asyncio.wait([reading], timeout=STACKS_S)
        return blocked_on(reading.result()) if reading.done() else Reason.ENGINE_DOWN

    async def _lost_session(self, where: str | None) -> TransientError:
        """The error for a JVM whose connection broke; the JVM is dead afterwards."""
        code = await asyncio.to_thread(self._session.bury)
        cause = self._count_failure(_cause(code))
        if cause is EngineFailure.OUT_OF_MEMORY:
            text, reason = f"the JVM ran out of its {self.options.driver_memory} of heap", Reason.ENGINE_OUT_OF_MEMORY
        else:
            text, reason = f"the JVM is gone ({describe_exit(code)})", Reason.ENGINE_DOWN
        return TransientError(text, reason=reason, where=where)

    def _count_failure(self, cause: EngineFailure) -> EngineFailure:
        self.failures[cause] += 1
        log.error("engine_lost", why=cause, jvm_pid=self._session.pid)
        return cause

    async def _end_session(self) -> None:
        await self._settle_start()
        if self.up:
            stopping = asyncio.wrap_future(self._thread.submit(self._session.stop_spark))
            stopping.add_done_callback(retrieve)
            await asyncio.wait([stopping], timeout=CANCEL_GRACE_S)
            if stopping.done() and stopping.exception() is not None:
                log.warning("engine_stop_failed", error=str(stopping.exception()))
        await uninterrupted(asyncio.to_thread(self._session.close))
        self._spent = False


def _cause(exit_code: int | None) -> EngineFailure:
    return EngineFailure.OUT_OF_MEMORY if exit_code == EXIT_OUT_OF_MEMORY else EngineFailure.DIED


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spark")
