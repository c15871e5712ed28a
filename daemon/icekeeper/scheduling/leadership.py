"""Who may run nights: this daemon, or with `replicas: true` whoever holds the lease.."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from icekeeper.adapters.postgres.lease import Lease
from icekeeper.core.errors import IcekeeperError
from icekeeper.execution.standalone import lease_of
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)

# How long to wait after a term that could not even begin; longer than it takes a standby to look again.
_AGAIN_S = 5.0


class Leadership:
    """Lets the work go on as long as this daemon leads."""

    def __init__(self, settings: Callable[[], Settings], idle: Callable[[], Awaitable[None]]) -> None:
        """`idle` returns when no run is under way: only then a change of the settings takes the lease away."""
        self._settings = settings
        self._idle = idle
        self._changed = asyncio.Event()
        self._lease: Lease | None = None
        self._leads = False
        self._last_term = False

    @property
    def leading(self) -> bool:
        """Whether this daemon may work now: of a lease, its own clock says so before PostgreSQL could."""
        return self._leads and (self._lease is None or self._lease.held)

    def end(self) -> None:
        """No other term follows this one: the daemon stops. The lease is kept until `run` is cancelled."""
        self._last_term = True

    def changed(self) -> None:
        """The settings that the lease depends on have changed."""
        self._changed.set()

    async def holder(self) -> str | None:
        """The host that leads, None where nobody does or PostgreSQL does not say."""
        if self._lease is None:
            return socket.gethostname()
        try:
            holder = await self._lease.holder()
        except IcekeeperError:
            return None
        return holder.host if holder is not None else None

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` whenever this daemon leads, and ends it by `stop` when it does no longer. For ever.

        Raises what `work` raises where that is none of ours: a worker with a bug must not be taken for one that waits.
        """
        while True:
            self._changed.clear()
            self._lease = lease_of(self._settings())
            failed = False
            try:
                if self._lease is None or await self._acquired(self._lease):
                    self._leads = True
                    await self._term(work, stop)
                if self._last_term:
                    await asyncio.Event().wait()  # until we are cancelled: what the run recorded is shipped before
            except IcekeeperError as exc:
                log.error("term_ended", error=str(exc), advice=exc.reason.advice, retry_s=_AGAIN_S)
                failed = True
            finally:
                self._leads = False
                if self._lease is not None:
                    await self._lease.release()
            if failed:  # without the lease: another host may do better meanwhile
                await asyncio.sleep(_AGAIN_S)

    async def _acquired(self, lease: Lease) -> bool:
        """Waits for the lease; False where the settings have changed before it was ours."""
        log.info("lease_awaited")
        acquiring = asyncio.create_task(lease.acquire())
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([acquiring, changed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (acquiring, changed):
                task.cancel()
            await asyncio.gather(acquiring, changed, return_exceptions=True)
        if acquiring.cancelled():
            return False
        acquiring.result()
        log.info("lease_taken")
        return True

    async def _term(self, work: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.create_task(work())
        changed = asyncio.create_task(self._changed_and_idle())
        lost = asyncio.create_task(self._lost())
        try:
            await asyncio.wait([working, changed, lost], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await stop()
            for task in (working, changed, lost):
                task.cancel()
            await asyncio.gather(working, changed, lost, return_exceptions=True)
        if not working.cancelled() and (error := working.exception()) is not None:
            raise error

    async def _lost(self) -> None:
        if self._lease is None:
            await asyncio.Event().wait()
        else:
            await self._lease.lost()

    async def _changed_and_idle(self) -> None:
        await self._changed.wait()
        await self._idle()
