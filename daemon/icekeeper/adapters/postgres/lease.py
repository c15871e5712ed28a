"""The lease: which of the hosts that share one PostgreSQL leads. What the leader does is the service's business.

It is a session-level advisory lock on a connection of its own, so it needs no clock that hosts agree on: it ends with
its session, however that ends. Where the leader's host vanishes, nobody ends the session, and both sides give up by
themselves; the leader has to be the first. With `a` the instant of the last answer that reached it:

    a + 5 s     it asks again (_HEARTBEAT_S), and hears nothing
    a + 10 s    it gives up (_ANSWER_S): `held` is false by the clock alone, and `lost()` returns
    a + 15 s    the server frees the lock at the earliest: 20 s after the last thing that it heard (_KEEPALIVES), which
                was the leader's last question, asked at a - 5 s or later, since a slower answer would have been the end
    a + 30 s    the server frees it at the latest: it heard the last of the leader at a + 5 s, and probes every 5 s

So there are 5 s between two leaders. A commit that the old one sent before it gave up may still arrive: Iceberg
refuses it if the table has moved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from icekeeper.adapters.postgres.pool import CONNECT_TIMEOUT_S, FOREIGN_ERRORS, Target, translated
from icekeeper.adapters.postgres.pooler import find_pooler
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.night.ports import Sleep

log = structlog.get_logger(__name__)

# One lease a database: advisory locks are the database's. The migration's lock has another number.
_KEY = int.from_bytes(b"icelease", "big")
_NAME = "icekeeper lease "
_RETRY_S = 2.0
_HEARTBEAT_S = 5.0
_ANSWER_S = 5.0
_RELEASE_S = 2.0
_KEEPALIVES = {
    "tcp_keepalives_idle": "5s",
    "tcp_keepalives_interval": "5s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",  # where this is set, Linux goes by it instead of the count
}
# Why the database itself, rather than our settings, may refuse us for a while: a GRANT or a new password mends that.
_ABOUT_THE_DATABASE = (Reason.LEDGER_DOWN, Reason.ACCESS_DENIED)

# As a query and not at the session's start: a server before version 12 has no tcp_user_timeout, and refuses what it
# doesn't know.
_SET_KEEPALIVES = """
    SELECT count(set_config(name, value, false))
    FROM unnest($1::text[], $2::text[]) AS wanted (name, value) JOIN pg_settings USING (name)
"""
# A former primary that is a standby now grants locks, too, of its own.
_TRY = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_try_advisory_lock($1) END"
_FREE = "SELECT pg_advisory_unlock($1)"
# pg_locks shows the two halves of a 64-bit key.
_LOCKS = """
    FROM pg_locks AS lock LEFT JOIN pg_stat_activity AS session USING (pid)
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
      AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (lock.classid::bigint << 32) | lock.objid::bigint = $1
"""
_HOLDER = f"SELECT session.application_name AS name, session.backend_start AS since {_LOCKS}"
# Asks for the lock and not only for an answer: a pooler that was put in between may hand us somebody else's session.
_STILL_OURS = f"SELECT count(*) {_LOCKS} AND pid = pg_backend_pid()"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who leads, and since when; `since` None: PostgreSQL tells that to the holder's own role and to monitors only."""

    host: str
    since: datetime | None


def since_boot() -> float:
    """Seconds that go on while the machine is suspended, unlike `time.monotonic`: the server doesn't stop either."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One host's part in the election. `acquire`, `try_acquire` and `release` are for one task, one after another.

    `sleep` waits between tries and between heartbeats; `clock` gives seconds.
    """

    def __init__(
        self,
        dsn: str,
        password: str | None,
        *,
        host: str,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        """Connects to nothing. ConfigError where the DSN can't be read."""
        self.target = Target.of(dsn)
        self.host = host
        self._dsn = dsn
        self._password = password
        self._sleep = sleep
        self._clock = clock
        # While another host leads, ours looks whether it still does.
        self._session: _Session | None = None
        self._direct = False
        self._leads = False
        self._answered_at = 0.0
        self._over = asyncio.Event()
        self._over.set()
        self._watch: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether this host leads. False also while an answer is overdue: then it is lost, or soon true again.

        So it is false at once where this process or its machine was suspended, before anything else has run.
        """
        return self._leads and self._clock() - self._answered_at <= _HEARTBEAT_S + _ANSWER_S

    async def acquire(self) -> None:
        """Waits until it is ours. Says what stands against it once, and again when that changes.

        PermanentError where only other settings help, as with a PgBouncer in between.
        """
        told = against = ""
        while True:
            try:
                if await self.try_acquire():
                    return
                holder = await self._look()
                against = f"{holder.host} leads" if holder else told
            except IcekeeperError as exc:
                if isinstance(exc, PermanentError) and exc.reason not in _ABOUT_THE_DATABASE:
                    raise
                against = str(exc)
            if against != told:
                told = against
                log.warning("lease_waiting", host=self.host, told=told)
            await self._sleep(_RETRY_S)

    async def try_acquire(self) -> bool:
        """One try. False: another host leads, or an answer is overdue.

        TransientError `ledger_down` where PostgreSQL is away, PermanentError where it refuses us or a PgBouncer stands
        in between. A session stays open until `release`, also after a try in vain.
        """
        if self._leads:
            return self.held
        if await self._look() is not None:
            return False
        # Each term has a session of its own: what PostgreSQL knows of its beginning is the term's.
        await self._end_session()
        await self._examine()
        session = self._session = await self._open()
        (granted,) = await session.ask(_TRY, _KEY)
        if granted is None:
            raise TransientError("is a standby server", reason=Reason.LEDGER_DOWN, where=str(self.target))
        if granted:
            self._leads, self._answered_at = True, self._clock()
            self._over.clear()
            session.when_ended(self._session_ended)
            self._watch = asyncio.create_task(self._keep_watch(session))
            log.info("lease_acquired", host=self.host, server=str(self.target))
        return bool(granted)

    async def holder(self) -> Holder | None:
        """Who leads, asked on a connection of its own; raises like `try_acquire`."""
        session = await self._open()
        try:
            return _holder(await session.ask(_HOLDER, _KEY))
        finally:
            await session.close()

    async def lost(self) -> None:
        """Returns when this host leads no more, whatever the cause; at once where it doesn't."""
        await self._over.wait()

    async def release(self) -> None:
        """Gives it back, so that another host gets it at its next try; takes 4 s at most.

        Not while `acquire` is under way: cancel that first.
        """
        session, led = self._session, self._leads
        self._give_up()
        if session is not None and led:
            # What is said to a server that doesn't listen frees nothing; it finds out by itself.
            with suppress(IcekeeperError):
                await session.ask(_FREE, _KEY, timeout=_RELEASE_S)
        await self._end_session()
        if led:
            log.info("lease_released", host=self.host)

    # --- while it is ours

    async def _keep_watch(self, session: _Session) -> None:
        try:
            while True:
                await self._sleep(_HEARTBEAT_S)
                (ours,) = await session.ask(_STILL_OURS, _KEY)
                if not ours:
                    await session.close()
                    raise TransientError("the session has changed", reason=Reason.LEDGER_DOWN, where=str(self.target))
                self._answered_at = self._clock()
        except Exception as exc:  # whatever it is: what nobody watches any more must not count as held
            self._lose(session, str(exc))

    def _session_ended(self, session: _Session) -> None:
        self._lose(session, f"{self.target}: the connection has ended")

    def _lose(self, session: _Session, why: str) -> None:
        # Both who watch may see the same end, and see it when the next term has begun.
        if self._leads and session is self._session:
            self._give_up()
            log.error("lease_lost", host=self.host, told=why)

    def _give_up(self) -> None:
        self._leads = False
        self._over.set()
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        self._watch = None

    # --- sessions

    async def _look(self) -> Holder | None:
        """Who leads, as the open session sees it; None also where there is none."""
        if self._session is None or self._session.ended:
            return None
        return _holder(await self._session.ask(_HOLDER, _KEY))

    async def _examine(self) -> None:
        """Refuses a PgBouncer. Asked until it was answered once: it is a matter of settings."""
        if self._direct:
            return
        pooler = await find_pooler(self._dsn, self._password)
        if pooler.bouncer or pooler.shares:
            # One that pools by session would do, but for a host that vanishes: the keepalives of the server's side
            # end at the pooler, which keeps its session.
            raise PermanentError(
                "a PgBouncer is in the way, through which the lease of `replicas: true` can't be held: set "
                "postgres.lease_dsn to a DSN that leads straight to the server",
                where=str(self.target),
            )
        self._direct = True

    async def _open(self) -> _Session:
        try:
            connection = await asyncpg.connect(
                self._dsn,
                password=self._password,
                timeout=CONNECT_TIMEOUT_S,
                statement_cache_size=0,
                server_settings={"application_name": f"{_NAME}{self.host}", "timezone": "UTC"},
            )
        except FOREIGN_ERRORS as exc:
            raise translated(exc, self.target) from exc
        session = _Session(connection, self.target)
        await session.ask(_SET_KEEPALIVES, list(_KEEPALIVES), list(_KEEPALIVES.values()))
        return session

    async def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _Session:
    """One connection, asked one thing at a time, each within a time limit. What goes unanswered ends it."""

    def __init__(self, connection: Any, target: Target) -> None:
        self._connection = connection
        self._target = target
        self._asking = False

    @property
    def ended(self) -> bool:
        return bool(self._connection.is_closed())

    def when_ended(self, tell: Callable[[_Session], None]) -> None:
        """Tells of an end between two questions; whoever asks is told by the answer, which knows more."""
        self._connection.add_termination_listener(lambda _: None if self._asking else tell(self))

    async def ask(self, query: str, *values: object, timeout: float = _ANSWER_S) -> Any:
        """The first row; None where there is none."""
        asking = asyncio.ensure_future(self._connection.fetchrow(query, *values))
        self._asking = True
        try:
            # Not by asyncpg's timeout or a cancellation: both connect once more to cancel the statement, and wait.
            await asyncio.wait([asking], timeout=timeout)
            if not asking.done():
                raise TransientError("does not answer", reason=Reason.LEDGER_DOWN, where=str(self._target))
            return asking.result()
        except FOREIGN_ERRORS as exc:
            raise translated(exc, self._target) from exc
        finally:
            if not asking.done() or asking.cancelled() or asking.exception() is not None:
                self._connection.terminate()
                await asyncio.gather(asking, return_exceptions=True)
            self._asking = False

    async def close(self) -> None:
        try:
            await self._connection.close(timeout=_RELEASE_S)
        except FOREIGN_ERRORS:
            self._connection.terminate()


def _holder(row: Any) -> Holder | None:
    return None if row is None else Holder((row["name"] or "").removeprefix(_NAME), row["since"])
