"""Which daemon may run nights: this one or, with `replicas: true`, the one that holds the lease (adapters/postgres)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

import structlog

from icekeeper.adapters.postgres.lease import Lease
from icekeeper.adapters.waiting import first_of
from icekeeper.core.errors import IcekeeperError
from icekeeper.execution.standalone import lease_of
from icekeeper.scheduling.reload import Configuration
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)

# How long to wait after a term that failed; longer than a standby waits between two tries.
_RETRY_S = 5.0


class Work(Protocol):
    """What only a leader does: the worker."""

    async def run(self) -> None:
        """Works until `stop`."""

    async def stop(self) -> None:
        """Ends the run under way, and `run` with it."""

    async def idle(self) -> None:
        """Returns when no run is under way."""


class Leadership:
    """Runs the work during the terms of this daemon. Without replicas its one term lasts from start to stop."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._lease: Lease | None = None
        self._in_term = False
        self._term_over = asyncio.Event()
        self._term_over.set()
        self._settings_changed = asyncio.Event()
        self._ending = asyncio.Event()
        # Until PostgreSQL is queried, a standby assumes that another host leads.
        self._another_leads = True

    @property
    def in_term(self) -> bool:
        """Whether a term is under way. An overdue answer of the lease does not end it: see `leads`."""
        return self._in_term

    def leads(self) -> bool:
        """Whether this daemon may work now. False also while an answer of the lease is overdue."""
        return self._in_term and (self._lease is None or self._lease.held)

    def someone_leads(self) -> bool:
        """Whether any daemon leads, by the last `find_leader`."""
        return self.leads() or self._another_leads

    async def find_leader(self) -> None:
        """Asks PostgreSQL whether another host leads, where this one does not."""
        if not self.leads():
            self._another_leads = self._configuration.settings.replicas and await self._holder() is not None

    async def standby_reason(self) -> str | None:
        """Why this daemon runs nothing now, in a sentence; None where it leads."""
        if self.leads():
            return None
        if not self._configuration.settings.replicas:
            return "this daemon is about to begin: try again in a few seconds"
        holder = await self._holder()
        where = f"the daemon on {holder} leads: run it there" if holder else "no host holds the lease at the moment"
        return f"this daemon stands by: {where}"

    def follow(self, old: Settings, new: Settings) -> None:
        """A change of what the lease depends on: a new term begins as soon as no run is under way."""
        if (old.replicas, old.postgres, old.installation) != (new.replicas, new.postgres, new.installation):
            self._settings_changed.set()

    async def end(self) -> None:
        """Ends the term under way, and begins no other. The lease is kept until `run` is cancelled: what the last run
        recorded has to be in the ledger before another host reads it."""
        self._ending.set()
        await self._term_over.wait()

    async def run(self, work: Work) -> None:
        """Runs `work` whenever this daemon leads, until cancelled.

        Raises an error of `work` that is not an IcekeeperError: a bug must not look like a worker that waits.
        """
        while not self._ending.is_set():
            self._settings_changed.clear()
            self._lease = lease_of(self._configuration.services)
            failed = False
            try:
                if self._lease is None or await self._acquired(self._lease):
                    await self._term(work)
                if self._ending.is_set():
                    await asyncio.Event().wait()
            except IcekeeperError as exc:
                log.error("term_ended", error=str(exc), advice=exc.reason.advice, retry_s=_RETRY_S)
                failed = True
            finally:
                self._in_term = False
                if self._lease is not None:
                    await self._lease.release()
            if failed:  # without the lease: another host may fare better
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_S):
                        await self._ending.wait()

    async def _acquired(self, lease: Lease) -> bool:
        """Waits for the lease; False where the settings change or the daemon stops first."""
        log.info("lease_awaited")
        acquiring, *_ = await first_of(lease.acquire(), self._settings_changed.wait(), self._ending.wait())
        if acquiring.cancelled():
            return False
        acquiring.result()
        log.info("lease_taken")
        return True

    async def _term(self, work: Work) -> None:
        if self._ending.is_set():
            return
        self._in_term = True
        self._term_over.clear()
        working = asyncio.create_task(work.run())
        try:
            await first_of(
                asyncio.wait([working]), self._settings_changed_and_idle(work), self._lost(), self._ending.wait()
            )
        finally:
            try:
                await work.stop()
            finally:
                working.cancel()
                await asyncio.wait([working])
                self._term_over.set()
        if not working.cancelled() and (error := working.exception()) is not None:
            raise error

    async def _lost(self) -> None:
        if self._lease is None:
            await asyncio.Event().wait()
        else:
            await self._lease.lost()

    async def _settings_changed_and_idle(self, work: Work) -> None:
        await self._settings_changed.wait()
        await work.idle()

    async def _holder(self) -> str | None:
        """The host that leads; None where none does or PostgreSQL does not answer."""
        if self._lease is None:
            return socket.gethostname()
        try:
            holder = await self._lease.holder()
        except IcekeeperError:
            return None
        return holder.host if holder is not None else None
