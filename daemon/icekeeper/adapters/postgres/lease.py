"""The lease: which of the hosts that share one PostgreSQL leads. What a leader does: scheduling/leadership.py.

The lease is a session-level advisory lock on a connection of its own: it ends with its session, however that ends, and
needs no agreement between the clocks of hosts. Where the leader's host vanishes, the session stays, and each side has
to give up by its own timeout, the leader first. With `a` the instant at which the leader received its last answer:

    a + 5 s     the leader sends its next query (_HEARTBEAT_S), which is lost
    a + 10 s    the leader gives up (ANSWER_S): `held` is false by the clock alone, and `lost()` returns
    a + 15 s    the earliest that the server frees the lock: 20 s after the last packet it received (_KEEPALIVES). That
                was a query of the leader sent at a - 5 s or later, since it was answered within ANSWER_S
    a + 30 s    the latest that the server frees it: the last packet came at a + 5 s, and it probes every 5 s

So there are at least 5 s between two leaders. A commit that the old one sent before it gave up may still arrive:
Iceberg refuses it if the table has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from icekeeper.adapters.postgres.pool import CONNECT_TIMEOUT_S, FOREIGN_ERRORS, Target, translated
from icekeeper.adapters.postgres.pooler import find_pooler
from icekeeper.adapters.postgres.watched_session import ANSWER_S, CLOSE_S, WatchedSession
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.night.ports import Sleep

log = structlog.get_logger(__name__)

# Before there were installations, the lease was one a database: those leases are exclusive under this key, and the
# leaders of installations share it, so that neither leads beside the other while replicas are upgraded one by one.
_KEY = int.from_bytes(b"icelease", "big")
_NAME = "icekeeper lease "
_RETRY_S = 2.0
_HEARTBEAT_S = 5.0
_KEEPALIVES = {
    "tcp_keepalives_idle": "5s",
    "tcp_keepalives_interval": "5s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",  # where this is set, Linux goes by it instead of the count
}
# Refusals that may end without a change of our settings: the server comes back, or the right is granted.
_MAY_PASS = (Reason.LEDGER_DOWN, Reason.ACCESS_DENIED)

# A query rather than startup parameters: a server before version 12 has no tcp_user_timeout, and would refuse it there.
_SET_KEEPALIVES = """
    SELECT count(set_config(name, value, false))
    FROM unnest($1::text[], $2::text[]) AS wanted (name, value) JOIN pg_settings USING (name)
"""
# A standby server grants advisory locks of its own, which exclude no one on the primary.
_TRY = """
    SELECT CASE WHEN pg_is_in_recovery() THEN NULL WHEN NOT pg_try_advisory_lock($1) THEN false
                WHEN $2::bigint = $1 THEN true ELSE pg_try_advisory_lock_shared($2) END
"""
_FREE = "SELECT pg_advisory_unlock_all()"
# pg_locks shows the two halves of a 64-bit key.
_LOCKS = """
    FROM pg_locks AS lock LEFT JOIN pg_stat_activity AS session USING (pid)
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1 AND lock.mode = 'ExclusiveLock'
      AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (lock.classid::bigint << 32) | lock.objid::bigint = ANY($1::bigint[])
"""
_HOLDER = f"SELECT session.application_name AS name, session.backend_start AS since {_LOCKS}"
# Checks the lock rather than the connection: a pooler that was put in between may hand us another session.
_STILL_OURS = f"SELECT count(*) {_LOCKS} AND pid = pg_backend_pid()"


@dataclass(frozen=True, slots=True)
class Holder:
    """The host that leads, and since when; None where PostgreSQL hides that from our role (pg_monitor sees it)."""

    host: str
    since: datetime | None


def since_boot() -> float:
    """Seconds that count while the machine is suspended, unlike `time.monotonic`: the server goes on meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One host's candidacy. `acquire`, `try_acquire` and `release` must not overlap.

    `installation` gives whose lease it is: each has one; None: the database's, as before there were installations.
    `sleep` waits between tries and between heartbeats; `clock` gives seconds.
    """

    def __init__(
        self,
        dsn: str,
        password: str | None,
        *,
        host: str,
        installation: Callable[[], Awaitable[UUID]] | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        """Connects to nothing. ConfigError where the DSN can't be read."""
        self.target = Target.of(dsn)
        self.host = host
        self._dsn = dsn
        self._password = password
        self._installation = installation
        self._key: int | None = _KEY if installation is None else None
        self._sleep = sleep
        self._clock = clock
        # Of a leader: it holds the lock. Of a standby: it checks whether the other host still leads.
        self._session: WatchedSession | None = None
        self._direct = False
        self._leads = False
        self._answered_at = 0.0
        self._over = asyncio.Event()
        self._over.set()
        self._watch: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether this host leads. False also while an answer is overdue; it is true again once that arrives.

        So it is false at once after this process or its machine was suspended, before anything else has run.
        """
        return self._leads and self._clock() - self._answered_at <= _HEARTBEAT_S + ANSWER_S

    async def acquire(self) -> None:
        """Waits for the lease. Logs the obstacle once, and again when it changes.

        PermanentError where only other settings help, as with a PgBouncer in between.
        """
        logged = obstacle = ""
        while True:
            try:
                if await self.try_acquire():
                    return
                holder = await self._seen_holder()
                obstacle = f"{holder.host} leads" if holder else logged
            except IcekeeperError as exc:
                if isinstance(exc, PermanentError) and exc.reason not in _MAY_PASS:
                    raise
                obstacle = str(exc)
            if obstacle != logged:
                logged = obstacle
                log.warning("lease_waiting", host=self.host, message=obstacle)
            await self._sleep(_RETRY_S)

    async def try_acquire(self) -> bool:
        """One attempt. False: another host leads, or an answer is overdue.

        TransientError `ledger_down` where PostgreSQL does not answer, PermanentError where it refuses us or a PgBouncer
        is in between. The session stays open until `release`, also after a failed attempt.
        """
        if self._leads:
            return self.held
        key = await self._own_key()
        if await self._seen_holder() is not None:
            return False
        # Each term has a session of its own, so that the session's start is the term's.
        await self._end_session()
        await self._refuse_pooler()
        session = self._session = await self._open()
        (granted,) = await session.query(_TRY, key, _KEY)
        if granted is None:
            raise TransientError("is a standby server", reason=Reason.LEDGER_DOWN, where=str(self.target))
        if not granted:  # perhaps one of the two locks was
            await session.query(_FREE)
        else:
            self._leads, self._answered_at = True, self._clock()
            self._over.clear()
            session.on_end(self._session_ended)
            self._watch = asyncio.create_task(self._keep_watch(session))
            log.info("lease_acquired", host=self.host, server=str(self.target))
        return bool(granted)

    async def holder(self) -> Holder | None:
        """Who leads, by a connection of its own; raises like `try_acquire`."""
        keys = [await self._own_key(), _KEY]
        session = await self._open()
        try:
            return _holder(await session.query(_HOLDER, keys))
        finally:
            await session.close()

    async def lost(self) -> None:
        """Returns when this host no longer leads, whatever the cause; at once where it never did."""
        await self._over.wait()

    async def release(self) -> None:
        """Frees the lease, so that another host gets it at its next attempt; takes 4 s at most.

        Cancel an `acquire` under way first.
        """
        session, led = self._session, self._leads
        self._give_up()
        if session is not None and led:
            # A server that does not answer frees it by itself, see above.
            with suppress(IcekeeperError):
                await session.query(_FREE, timeout=CLOSE_S)
        await self._end_session()
        if led:
            log.info("lease_released", host=self.host)

    # --- while it is held

    async def _keep_watch(self, session: WatchedSession) -> None:
        try:
            while True:
                await self._sleep(_HEARTBEAT_S)
                (ours,) = await session.query(_STILL_OURS, [self._key])
                if not ours:
                    await session.close()
                    raise TransientError("the session has changed", reason=Reason.LEDGER_DOWN, where=str(self.target))
                self._answered_at = self._clock()
        except Exception as exc:  # also after a bug: a lease that is no longer watched must not count as held
            self._lose(session, str(exc))

    def _session_ended(self, session: WatchedSession) -> None:
        self._lose(session, f"{self.target}: the connection has ended")

    def _lose(self, session: WatchedSession, why: str) -> None:
        # The watch and the listener may report the same end, and only after the next term has begun.
        if self._leads and session is self._session:
            self._give_up()
            log.error("lease_lost", host=self.host, message=why)

    def _give_up(self) -> None:
        self._leads = False
        self._over.set()
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        self._watch = None

    # --- sessions

    async def _seen_holder(self) -> Holder | None:
        """Who leads, by the open session; None also where there is no session."""
        if self._session is None or self._session.ended:
            return None
        return _holder(await self._session.query(_HOLDER, [self._key, _KEY]))

    async def _own_key(self) -> int:
        if self._key is None:
            assert self._installation is not None  # else it has one
            name = hashlib.sha256(b"icelease" + (await self._installation()).bytes)
            self._key = int.from_bytes(name.digest()[:8], "big", signed=True)
        return self._key

    async def _refuse_pooler(self) -> None:
        """PermanentError where a PgBouncer is in between. Checked until PostgreSQL has answered once."""
        if self._direct:
            return
        pooler = await find_pooler(self._dsn, self._password)
        if pooler.bouncer or pooler.shares:
            # Session pooling would do, except when a host vanishes: the server's keepalives reach the pooler only,
            # which keeps the session open.
            raise PermanentError(
                "the lease of `replicas: true` can't be held through a PgBouncer: set postgres.lease_dsn to a DSN that "
                "connects to the server itself",
                where=str(self.target),
            )
        self._direct = True

    async def _open(self) -> WatchedSession:
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
        session = WatchedSession(connection, self.target)
        await session.query(_SET_KEEPALIVES, list(_KEEPALIVES), list(_KEEPALIVES.values()))
        return session

    async def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _holder(row: Any) -> Holder | None:
    return None if row is None else Holder((row["name"] or "").removeprefix(_NAME), row["since"])
