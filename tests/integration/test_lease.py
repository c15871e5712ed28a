"""The lease on a real PostgreSQL: one host leads, whatever becomes of the others, and its end is seen in time."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.postgres.lease import Lease
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.night.ports import Sleep
from icekeeper.sandbox import Sandbox
from tests.integration.faults import FaultProxy, Mode, proxied
from tests.process.program import environment

# A host that leads until it is killed; its log says so on stdout.
LEADER = """
import asyncio, sys
from icekeeper.adapters.postgres.lease import Lease

async def lead():
    lease = Lease(sys.argv[1], sys.argv[2], host=sys.argv[3])
    await lease.acquire()
    await lease.lost()

asyncio.run(lead())
"""
SECONDS = 30.0


async def hurried(seconds: float) -> None:
    """A sleep in which ten seconds are one."""
    await asyncio.sleep(seconds / 10)


class Hosts:
    """Hosts that share a database."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.database = f"lease{uuid4().hex[:8]}"
        self.dsn = box.postgres.dsn(self.database)
        self.leases: list[Lease] = []
        box.postgres.create_database(self.database)

    def lease(self, host: str, *, dsn: str | None = None, sleep: Sleep = hurried, **options: Any) -> Lease:
        lease = Lease(dsn or self.dsn, self.box.postgres.password, host=host, sleep=sleep, **options)
        self.leases.append(lease)
        return lease

    def behind(self, port: int) -> str:
        return self.dsn.replace(str(self.box.postgres.port), str(port))

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        return self.box.postgres.execute(self.database, text)

    @contextmanager
    def process(self, host: str) -> Iterator[subprocess.Popen[str]]:
        """Another process that leads."""
        command = [sys.executable, "-c", LEADER, self.dsn, self.box.postgres.password, host]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            assert process.stdout is not None
            try:
                assert "lease_acquired" in process.stdout.readline()
                yield process
            finally:
                process.kill()


@pytest.fixture
async def hosts(box: Sandbox) -> AsyncIterator[Hosts]:
    made = Hosts(box)
    yield made
    for lease in made.leases:
        await lease.release()


@pytest.fixture
async def proxy(box: Sandbox) -> AsyncIterator[FaultProxy]:
    async with proxied(f"http://{box.postgres.host}:{box.postgres.port}") as before_postgres:
        yield before_postgres


async def within(seconds: float, what: Callable[[], Any]) -> float:
    """Waits for a coroutine function's end; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        await what()
    return time.monotonic() - began


async def becomes_true(seen: Callable[[], bool]) -> bool:
    """Whether that is within ten seconds."""
    for _ in range(200):
        if seen():
            return True
        await asyncio.sleep(0.05)
    return False


async def test_one_host_leads_and_another_follows_when_it_gives_the_lease_back(hosts: Hosts) -> None:
    first, second = hosts.lease("a"), hosts.lease("b")
    assert await first.holder() is None
    await first.acquire()
    assert (first.held, second.held) == (True, False)
    assert not await second.try_acquire()
    assert await first.try_acquire()  # it has it

    with capture_logs() as logs:
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        await first.release()
        assert not first.held
        await within(SECONDS, first.lost)
        await within(SECONDS, lambda: waiting)
    assert second.held
    obstacles = [line["message"] for line in logs if line["event"] == "lease_waiting"]
    assert obstacles == ["a leads"]
    assert [line["host"] for line in logs if line["event"] == "lease_acquired"] == ["b"]


async def test_the_holder_is_known_by_its_host_and_the_beginning_of_its_term(hosts: Hosts) -> None:
    first, second = hosts.lease("leader.example.org"), hosts.lease("standby")
    await first.acquire()
    assert not await second.try_acquire()
    for lease in (first, second):
        seen = await lease.holder()
        assert seen is not None
        assert seen.host == "leader.example.org"
        assert seen.since is not None
        assert abs(seen.since - datetime.now(UTC)) < timedelta(seconds=10)

    await asyncio.sleep(1.0)
    await first.release()
    ended = datetime.now(UTC)
    await second.acquire()
    seen = await first.holder()
    assert seen is not None
    assert seen.host == "standby"
    # Not since it began to wait.
    assert seen.since is not None
    assert seen.since >= ended


async def test_two_databases_have_a_leader_each(box: Sandbox, hosts: Hosts) -> None:
    elsewhere = Hosts(box)
    one, other = hosts.lease("a"), elsewhere.lease("a")
    assert await one.try_acquire()
    assert await other.try_acquire()
    await other.release()
    assert one.held


async def test_another_host_leads_seconds_after_the_leader_was_killed(hosts: Hosts) -> None:
    standby = hosts.lease("standby", sleep=asyncio.sleep)
    with hosts.process("leader") as leader:
        seen = await standby.holder()
        assert seen is not None
        assert seen.host == "leader"
        assert not await standby.try_acquire()
        leader.kill()
        assert await within(SECONDS, standby.acquire) < 15.0
    assert standby.held


async def test_a_terminated_backend_is_a_lost_lease(hosts: Hosts) -> None:
    lease = hosts.lease("a", sleep=asyncio.sleep)
    await lease.acquire()
    with capture_logs() as logs:
        hosts.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'icekeeper lease a'")
        assert await within(SECONDS, lease.lost) < 4.0  # before a heartbeat would find out
    assert not lease.held
    assert [line["event"] for line in logs] == ["lease_lost"]
    assert await lease.try_acquire()
    assert lease.held


async def test_a_restarted_server_ends_the_term_and_the_waiting_begins_again(box: Sandbox, hosts: Hosts) -> None:
    lease = hosts.lease("a")
    await lease.acquire()
    box.postgres.stop()
    try:
        await within(SECONDS, lease.lost)
        with pytest.raises(TransientError) as raised:
            await lease.try_acquire()
        assert raised.value.reason is Reason.LEDGER_DOWN
        with capture_logs() as logs:
            waiting = asyncio.create_task(lease.acquire())
            await asyncio.sleep(1.5)
            assert not waiting.done()
    finally:
        box.postgres.start()
    await within(SECONDS, lambda: waiting)
    assert lease.held
    assert sum(line["event"] == "lease_waiting" for line in logs) == 1


async def test_a_server_that_falls_silent_is_given_up_before_it_gives_up_the_leader(
    hosts: Hosts, proxy: FaultProxy
) -> None:
    """The network swallows everything: no connection is closed. At the real pace."""
    lease = hosts.lease("a", dsn=hosts.behind(proxy.port), sleep=asyncio.sleep)
    await lease.acquire()
    await proxy.set(Mode.HANG)
    with capture_logs() as logs:
        assert 4.0 < await within(SECONDS, lease.lost) < 20.0
    assert not lease.held
    assert [(line["event"], "does not answer" in line["message"]) for line in logs] == [("lease_lost", True)]
    # The server has not noticed anything: no other host leads yet.
    other = hosts.lease("b")
    assert not await other.try_acquire()
    seen = await other.holder()
    assert seen is not None
    assert seen.host == "a"


async def test_giving_it_back_to_a_silent_server_does_not_take_long(hosts: Hosts, proxy: FaultProxy) -> None:
    lease = hosts.lease("a", dsn=hosts.behind(proxy.port), sleep=asyncio.sleep)
    await lease.acquire()
    await proxy.set(Mode.HANG)
    assert await within(SECONDS, lease.release) < 10.0
    assert not lease.held


async def test_after_a_suspension_it_is_not_held_before_the_server_has_answered(hosts: Hosts) -> None:
    now = 1000.0
    awake = asyncio.Event()

    async def sleep(_: float) -> None:
        await awake.wait()

    lease = hosts.lease("a", clock=lambda: now, sleep=sleep)
    await lease.acquire()
    now += 10.0
    before = lease.held
    now += 1.0
    assert (before, lease.held) == (True, False)
    assert not await lease.try_acquire()  # it is overdue, and not given up
    awake.set()
    seen = await becomes_true(lambda: lease.held)
    awake.clear()
    assert seen


async def test_through_a_pgbouncer_it_is_refused_with_the_way_out(hosts: Hosts, bouncer: Callable[..., int]) -> None:
    ignoring = "ignore_startup_parameters = statement_timeout"
    for port in (bouncer("transaction", ignoring), bouncer("session"), bouncer("transaction")):
        lease = hosts.lease("a", dsn=hosts.behind(port))
        with pytest.raises(PermanentError, match=r"PgBouncer.*postgres\.lease_dsn"):
            await lease.try_acquire()
        with pytest.raises(PermanentError, match=r"postgres\.lease_dsn"):
            await within(SECONDS, lease.acquire)
    assert await hosts.lease("a").try_acquire()


async def test_a_refused_login_is_no_end_of_the_waiting(hosts: Hosts) -> None:
    lease = Lease(hosts.dsn, "wrong", host="a", sleep=hurried)
    with pytest.raises(IcekeeperError) as raised:
        await lease.try_acquire()
    assert raised.value.reason is Reason.ACCESS_DENIED
    waiting = asyncio.create_task(lease.acquire())
    await asyncio.sleep(0.5)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    await lease.release()


@pytest.mark.full
def test_a_vanished_host_frees_the_lease_after_its_leader_has_given_up() -> None:
    """In a network of its own, where packets can be dropped."""
    if not all(map(shutil.which, ("unshare", "ip", "iptables"))):
        pytest.skip("needs unshare, ip and iptables")
    command = ["unshare", "--net", sys.executable, "-m", "tests.integration.vanishing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("needs the right to make a network namespace")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])  # after its log
    assert seen["given_up_s"] < 12.0
    assert 15.0 < seen["taken_over_s"] < 28.0


async def test_a_leader_of_before_there_were_installations_leads_beside_none(hosts: Hosts) -> None:
    def of(number: int) -> Callable[[], Awaitable[UUID]]:
        async def installation() -> UUID:
            return UUID(int=number)

        return installation

    before, new, beside = (
        hosts.lease("before"),
        hosts.lease("new", installation=of(1)),
        hosts.lease("b", installation=of(2)),
    )
    assert await before.try_acquire()
    assert not await new.try_acquire()
    assert (holder := await new.holder()) is not None
    assert holder.host == "before"
    await before.release()
    assert await new.try_acquire()
    assert await beside.try_acquire()
    assert not await before.try_acquire()
    assert (holder := await beside.holder()) is not None
    assert holder.host == "b"
    await new.release()
    assert not await before.try_acquire()
    await beside.release()
    assert await before.try_acquire()
