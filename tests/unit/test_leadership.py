"""Who may work, and until when: the lease is a scripted one, the rest is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from icekeeper.core.errors import TransientError
from icekeeper.scheduling import leadership
from icekeeper.scheduling.leadership import Leadership


class ScriptedLease:
    """A lease that is granted and taken away by hand."""

    def __init__(self) -> None:
        self.granted, self.gone = asyncio.Event(), asyncio.Event()
        self.held = False
        self.released = 0

    async def acquire(self) -> None:
        await self.granted.wait()
        self.held = True

    async def lost(self) -> None:
        await self.gone.wait()

    async def release(self) -> None:
        self.held = False
        self.released += 1


class Work:
    """Counts how often it is begun and stopped; fails as often as `failures` says."""

    def __init__(self, failures: int = 0) -> None:
        self.begun = self.stopped = 0
        self.failures = failures

    async def run(self) -> None:
        self.begun += 1
        if self.begun <= self.failures:
            raise TransientError("the ledger does not say which slots are done")
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.stopped += 1

    async def idle(self) -> None:
        return None


def replicas(wanted: bool) -> Any:
    return SimpleNamespace(replicas=wanted, postgres="a server", installation=None)


@asynccontextmanager
async def leading(
    monkeypatch: pytest.MonkeyPatch, leases: list[ScriptedLease | None], work: Work
) -> AsyncIterator[Leadership]:
    monkeypatch.setattr(leadership, "lease_of", lambda services: leases.pop(0) if leases else None)
    monkeypatch.setattr(leadership, "_RETRY_S", 0.02)
    configuration: Any = SimpleNamespace(settings=None, services=None)
    subject = Leadership(configuration)
    running = asyncio.create_task(subject.run(work))
    try:
        yield subject
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_without_replicas_it_leads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    async with leading(monkeypatch, [None], work) as subject:
        await settle()
        assert subject.leads()
        assert work.begun == 1


async def test_before_its_first_term_a_daemon_without_replicas_names_no_other_leader() -> None:
    leading = Leadership(SimpleNamespace(settings=replicas(False)))  # type: ignore[arg-type]
    assert await leading.standby_reason() == "this daemon is about to begin: try again in a few seconds"


async def test_it_works_as_long_as_the_lease_is_held_and_its_own_clock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lease, second, work = ScriptedLease(), ScriptedLease(), Work()
    async with leading(monkeypatch, [lease, second], work) as subject:
        seen = []
        await settle()
        seen.append(subject.leads())
        lease.granted.set()
        await settle()
        seen.append(subject.leads())
        lease.held = False  # the host was suspended; its lease is not lost yet
        seen.append(subject.leads())
        assert seen == [False, True, False]
        lease.held = True
        lease.gone.set()
        await settle()
        assert (work.begun, work.stopped, lease.released) == (1, 1, 1)
        assert not subject.leads()


async def test_a_term_that_can_not_begin_gives_the_lease_back_before_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    lease, second, work = ScriptedLease(), ScriptedLease(), Work(failures=1)
    lease.granted.set()
    async with leading(monkeypatch, [lease, second], work) as subject:
        await settle()
        assert (work.begun, lease.released, subject.leads()) == (1, 1, False)
        second.granted.set()
        async with asyncio.timeout(30):
            while not subject.leads():  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0.01)
        assert work.begun == 2


async def test_a_reload_reaches_a_daemon_that_stands_by(monkeypatch: pytest.MonkeyPatch) -> None:
    never, work = ScriptedLease(), Work()
    async with leading(monkeypatch, [never, None], work) as subject:
        await settle()
        assert (work.begun, subject.leads()) == (0, False)
        subject.follow(replicas(True), replicas(False))
        await settle()
        assert (work.begun, never.released, subject.leads()) == (1, 1, True)


async def test_a_daemon_that_stops_begins_no_other_term_and_keeps_the_lease_until_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ends(Work):
        """As the worker does: stopping makes the work end by itself."""

        def __init__(self) -> None:
            super().__init__()
            self.over = asyncio.Event()

        async def run(self) -> None:
            self.begun += 1
            await self.over.wait()

        async def stop(self) -> None:
            await super().stop()
            self.over.set()

    lease, second, work = ScriptedLease(), ScriptedLease(), Ends()
    lease.granted.set()
    second.granted.set()
    async with leading(monkeypatch, [lease, second], work) as subject:
        await settle()
        await subject.end()
        await settle()
        assert (work.begun, lease.released) == (1, 0)
    assert lease.released == 1


async def test_a_standby_that_stops_begins_no_term_though_it_is_given_the_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease, work = ScriptedLease(), Work()
    async with leading(monkeypatch, [lease], work) as subject:
        await settle()
        await subject.end()
        lease.granted.set()
        await settle()
        assert (work.begun, subject.in_term, subject.leads()) == (0, False, False)


async def test_a_daemon_that_stops_after_a_failed_term_begins_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(failures=1)
    async with leading(monkeypatch, [None, None], work) as subject:
        await settle()
        await subject.end()
        await asyncio.sleep(0.05)
        assert (work.begun, subject.in_term) == (1, False)


async def test_the_end_of_a_term_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Work):
        def __init__(self) -> None:
            super().__init__()
            self.recorded = asyncio.Event()

        async def stop(self) -> None:
            await self.recorded.wait()
            await super().stop()

    work = Slow()
    async with leading(monkeypatch, [None], work) as subject:
        await settle()
        ending = asyncio.create_task(subject.end())
        await settle()
        assert not ending.done()
        work.recorded.set()
        await settle()
        assert (ending.done(), work.stopped) == (True, 1)


async def test_an_overdue_answer_of_the_lease_stops_the_work_and_not_the_term(monkeypatch: pytest.MonkeyPatch) -> None:
    lease, work = ScriptedLease(), Work()
    lease.granted.set()
    async with leading(monkeypatch, [lease], work) as subject:
        await settle()
        lease.held = False
        assert (subject.leads(), subject.in_term) == (False, True)
