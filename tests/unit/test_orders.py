"""What operators order: directly, through the API, and through its client on the control socket."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.spool import Spool
from icekeeper.control.client import DaemonClient
from icekeeper.control.server import SOCKET, ControlSocket
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import Decision, RunOutcome, Stage
from icekeeper.core.errors import Cancelled, ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.events import Event, RunEnded, RunStarted
from icekeeper.core.history import ConfigLoad
from icekeeper.core.reasons import Reason
from icekeeper.execution.execute import Executed
from icekeeper.execution.lock import RunLockHeld, run_lock
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.http.access import Access, Rules
from icekeeper.http.api import Api
from icekeeper.http.events import EventStream
from icekeeper.http.identity import TrustedProxies
from icekeeper.http.problems import problem
from icekeeper.night.order import StopRequest
from icekeeper.scheduling.orders import Orders, RunRequest
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.worker import Worker
from icekeeper.settings import Settings
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import StatusQueries
from tests.unit.builders import DAY, SLOT
from tests.unit.fakes import Step, World
from tests.unit.serving import TOKEN, serving
from tests.unit.test_worker import settings_of

TABLE = "cold.a"
# `now - 24h` of another job.
ODD = Window(SLOT - DAY + timedelta(minutes=7, milliseconds=250), SLOT + timedelta(minutes=7, milliseconds=250))
OTHER_VERSION = r"another version of icekeeper.*restart the daemon"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Lendable:
    """A configuration whose services can be had once `ready` is set."""

    services: Services
    ready: asyncio.Event

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Services]:
        await self.ready.wait()
        yield self.services


@dataclass
class Place:
    """A worker on a spool, with one table in memory, and what takes orders for it."""

    world: World
    orders: Orders
    api: Api
    state_dir: Path
    spool: Spool
    # Events of all recorded runs.
    events: list[Event] = field(default_factory=list)
    # Clear: no order gets its services.
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    # Why PostgreSQL does not have the records yet, and why this daemon stands by.
    not_shipped: IcekeeperError | None = None
    standby: str | None = None
    shipping: asyncio.Event | None = None

    def hold(self) -> asyncio.Event:
        """The next run does not end before this is set."""
        let = asyncio.Event()
        self.world.lakehouse.script("inspect", TABLE, Step(until=let))
        return let

    async def recorded(self) -> int:
        """How many records are on their way to PostgreSQL."""
        return (await self.spool.outbox.waiting()).records


@asynccontextmanager
async def a_place(root: Path, begin_s: float = 10.0, **blocks: Any) -> AsyncIterator[Place]:
    settings, world = settings_of(root, TABLE, **blocks), World()
    settings.state_dir.mkdir()
    for policy in settings.policies():
        world.add(policy)
    services = replace(build(settings, SparkEngine(spark_options(settings))), ports=world.ports)
    spool = await Spool.open(settings.state_dir, clock=world.clock)
    ready = asyncio.Event()
    ready.set()
    configuration = cast(Configuration, Lendable(services, ready))
    events: list[Event] = []

    async def standby() -> str | None:
        return made.standby

    async def shipped() -> IcekeeperError | None:
        if made.shipping is not None:
            await made.shipping.wait()
        return made.not_shipped

    async def reload() -> ConfigLoad:
        raise ConfigError(["tables: there is none", "schedule: it is no cron"])

    worker = Worker(configuration, spool, events.append, world.clock)
    orders = Orders(configuration, worker, standby, shipped, begin_s)
    plans = PlanCache(orders, world.clock)
    api = Api(cast(StatusQueries, None), orders, plans, EventStream(), reload, world.clock)
    made = Place(world, orders, api, settings.state_dir, spool, events, ready)
    try:
        yield made
    finally:
        await worker.stop()
        await spool.close()
        await services.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with a_place(tmp_path) as place:
        yield place


@asynccontextmanager
async def socket_of(place: Place) -> AsyncIterator[DaemonClient]:
    async with served(lambda app: place.api.add_to(app, None), place.state_dir) as client:
        yield client


@asynccontextmanager
async def served(add: Callable[[web.Application], None], state_dir: Path) -> AsyncIterator[DaemonClient]:
    """A client of what `add` adds to the application behind a control socket."""
    control = ControlSocket(add)
    await control.start(state_dir)
    try:
        client = await DaemonClient.find(state_dir)
        assert client is not None
        yield client
    finally:
        await control.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what happens in another task sets no event here
            await asyncio.sleep(0.01)


# --- orders


async def test_a_run_is_begun_and_its_id_returned_long_before_it_ends(place: Place) -> None:
    let = place.hold()
    run = await place.orders.begin(RunRequest(SLOT))
    (started,) = place.events[:1]
    assert isinstance(started, RunStarted)
    assert run.run_id == started.opening.run_id
    assert not run.end.done()
    let.set()
    done = await run.end
    assert (done.report.run_id, done.report.outcome) == (run.run_id, RunOutcome.SUCCESS)


async def test_why_a_run_can_not_begin_is_returned_to_the_caller(place: Place) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        await place.orders.begin(RunRequest(SLOT, tables=("cold.nowhere",)))
    with pytest.raises(ConfigError, match="lies in the future"):
        await place.orders.begin(RunRequest(SLOT + DAY))
    with run_lock(place.state_dir), pytest.raises(RunLockHeld, match="another run is under way"):
        await place.orders.begin(RunRequest(SLOT))
    place.standby = "this daemon stands by"
    with pytest.raises(RunLockHeld, match="stands by"):
        await place.orders.begin(RunRequest(SLOT))
    place.standby = None
    let = place.hold()
    run = await place.orders.begin(RunRequest(SLOT))
    with pytest.raises(RunLockHeld, match=f"under way in the daemon .run {run.run_id}"):
        await place.orders.begin(RunRequest(SLOT))
    let.set()
    await run.end


async def test_who_asked_and_is_gone_takes_nothing_from_the_run(place: Place) -> None:
    place.ready.clear()
    asking = asyncio.create_task(place.orders.begin(RunRequest(SLOT)))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    place.ready.set()
    await until(lambda: any(isinstance(event, RunEnded) for event in place.events))


async def test_an_error_whose_caller_is_gone_is_no_noise(place: Place) -> None:
    heard: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        place.standby = "another leads"
        asking = asyncio.create_task(place.orders.begin(RunRequest(SLOT)))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not place.orders._running)
        del asking
    finally:
        loop.set_exception_handler(None)
    assert heard == []


async def test_a_run_that_has_not_begun_yet_can_be_cancelled(place: Place) -> None:
    place.ready.clear()
    begin = asyncio.create_task(place.orders.begin(RunRequest(SLOT)))
    await until(lambda: place.orders._waiting)
    (run_id,) = place.orders._waiting
    assert place.orders.cancel(run_id)
    with pytest.raises(Cancelled):
        await begin
    place.ready.set()
    assert not place.orders.cancel(run_id)
    assert not await place.recorded()


# --- through the API


async def test_a_run_that_takes_long_to_begin_is_accepted_and_no_error_is_answered_though_it_begins(
    tmp_path: Path,
) -> None:
    async with (
        a_place(tmp_path, begin_s=0.05) as place,
        serving(lambda app: place.api.add_to(app, None), longest_s=2) as (_, client),
    ):
        place.ready.clear()
        async with client.post("/api/v1/runs", json={}) as answer:
            document = await answer.json()
            assert (answer.status, set(document)) == (202, {"run_id"}), document
            assert answer.headers["Location"] == f"/api/v1/runs/{document['run_id']}"
        place.ready.set()
        await until(lambda: place.events)
        started = place.events[0]
        assert isinstance(started, RunStarted)
        assert str(started.opening.run_id) == document["run_id"]


@pytest.mark.parametrize(("networks", "actor"), [(("127.0.0.0/8",), "ann@example.com"), ((), None)])
async def test_whom_a_trusted_proxy_names_is_in_every_log_line_of_what_was_ordered(
    place: Place, networks: tuple[str, ...], actor: str | None
) -> None:
    access = Access(lambda: Rules(TOKEN, proxies=TrustedProxies(networks, "X-Forwarded-User")), lambda: 0.0)
    headers = {**BEARER, "X-Forwarded-User": "ann@example.com"}
    with capture_logs(processors=[merge_contextvars]) as logged:
        async with serving(lambda app: place.api.add_to(app, access), access=access) as (_, client):
            body = {"stages": ["compact"]}
            async with client.post("/api/v1/runs?events=true", json=body, headers=headers) as answer:
                assert "run_settled" in await answer.text()
    lines = {line["event"]: line for line in logged}
    for event in ("run_ordered", "task_done", "run_ended"):
        assert lines[event].get("actor") == actor


async def test_a_run_is_answered_by_its_events_however_long_it_takes_and_never_without_the_token(
    place: Place,
) -> None:
    let = place.hold()
    access = Access(lambda: Rules(TOKEN), lambda: 0.0)
    async with serving(lambda app: place.api.add_to(app, access), longest_s=0.2) as (_, client):
        async with client.post("/api/v1/runs?events=true", json={}) as answer:
            assert answer.status == 401
        async with client.post("/api/v1/runs?events=true", json={"stages": ["compact"]}, headers=BEARER) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            await asyncio.sleep(0.4)  # longer than another answer may take
            let.set()
            lines = [line.decode().rstrip("\n") async for line in answer.content]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert (names[0], names[-2:]) == ("run_started", ["run_ended", "run_settled"])
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    run_id = data[0]["opening"]["run_id"]
    assert data[-1] == {"run_id": run_id, "not_recorded": None, "not_shipped": None}


@pytest.mark.parametrize(
    "body",
    [{"record": False}, {"record": False, "stages": ["audit", "compact"]}, {"record": "no", "stages": ["audit"]}],
)
async def test_only_an_audit_can_go_unrecorded(place: Place, body: dict[str, Any]) -> None:
    async with (
        serving(lambda app: place.api.add_to(app, None)) as (_, client),
        client.post("/api/v1/runs", json=body) as answer,
    ):
        assert answer.status == 422
    assert place.events == []


# --- through the client


async def test_only_the_daemons_user_can_open_the_socket(place: Place) -> None:
    async with socket_of(place):
        assert stat.S_IMODE((place.state_dir / SOCKET).stat().st_mode) == 0o600
    assert await DaemonClient.find(place.state_dir) is None


async def test_a_client_has_a_run_done_and_gets_its_events_and_report(place: Place) -> None:
    heard: list[Event] = []
    async with socket_of(place) as client:
        done = await client.run(RunRequest(SLOT, stages=(Stage.COMPACT,)), heard.append, StopRequest())
    assert heard == place.events
    ended = place.events[-1]
    assert isinstance(ended, RunEnded)
    assert done == Executed(ended.report)
    assert [task.outcome for task in done.report.tasks] == ["done"]
    assert await place.recorded()


async def test_a_client_hears_what_keeps_the_records_from_postgresql(place: Place) -> None:
    place.not_shipped = TransientError("does not answer", reason=Reason.LEDGER_DOWN, where="PostgreSQL db:5432/k2")
    async with socket_of(place) as client:
        done = await client.run(RunRequest(SLOT, stages=(Stage.EXPIRE,)), lambda _: None, StopRequest())
    assert done.not_recorded is None
    assert str(done.not_shipped) == "PostgreSQL db:5432/k2: does not answer"
    assert done.not_shipped is not None
    assert done.not_shipped.reason is Reason.LEDGER_DOWN


async def test_a_client_hears_what_keeps_the_records_from_the_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise PermanentError("the disk is full", reason=Reason.DISK_LOW)

    monkeypatch.setattr(place.spool, "close_run", full)
    async with socket_of(place) as client:
        done = await client.run(RunRequest(SLOT, stages=(Stage.EXPIRE,)), lambda _: None, StopRequest())
    assert done.report.outcome is RunOutcome.SUCCESS
    assert str(done.not_recorded) == "the disk is full"
    assert done.not_shipped is None


async def test_a_dry_audit_has_events_for_its_client_only(place: Place) -> None:
    heard: list[Event] = []
    async with socket_of(place) as client:
        done = await client.run(RunRequest(SLOT, stages=(Stage.AUDIT,), record=False), heard.append, StopRequest())
    assert done.report.outcome is RunOutcome.SUCCESS
    assert [type(event) for event in (heard[0], heard[-1])] == [RunStarted, RunEnded]
    assert place.events == []
    assert not await place.recorded()


@pytest.mark.parametrize(
    ("request_of", "window"),
    [
        (partial(RunRequest, SLOT), window_of(SLOT)),
        (partial(RunRequest, SLOT + timedelta(minutes=20), window_hours=6), Window(SLOT - timedelta(hours=6), SLOT)),
        (partial(RunRequest, SLOT, window=ODD), ODD),
    ],
    ids=["the day before the slot", "hours before its whole hour", "to the millisecond"],
)
async def test_an_audit_counts_the_window_that_was_ordered_here_and_through_the_daemon(
    tmp_path: Path, request_of: Callable[..., RunRequest], window: Window
) -> None:
    request = request_of(stages=(Stage.AUDIT,), record=False)
    audited = [{"name": TABLE, "source": "a", "timestamp": "at"}]
    async with a_place(tmp_path, tables=audited) as place, socket_of(place) as client:
        place.world.clock.now = SLOT + DAY
        run = await (await place.orders.begin(request)).end
        asked = await client.run(request, lambda _: None, StopRequest())
    for done in (run, asked):
        assert [audit.window for audit in done.report.audits] == [window]


@pytest.mark.parametrize(("by_operator", "outcome"), [(True, RunOutcome.CANCELLED), (False, RunOutcome.INTERRUPTED)])
async def test_a_client_that_is_cancelled_ends_the_run_and_has_its_report(
    place: Place, by_operator: bool, outcome: RunOutcome
) -> None:
    place.hold()
    stop, heard = StopRequest(), list[Event]()
    async with socket_of(place) as client:
        running = asyncio.create_task(client.run(RunRequest(SLOT), heard.append, stop))
        await until(lambda: heard)
        stop.by_operator = by_operator
        running.cancel()
        done = await running
    assert done.report.outcome is outcome


async def test_a_client_that_is_cancelled_while_the_records_are_shipped_still_has_the_report(place: Place) -> None:
    place.shipping, heard = asyncio.Event(), list[Event]()
    async with socket_of(place) as client:
        request = RunRequest(SLOT, stages=(Stage.EXPIRE,))
        running = asyncio.create_task(client.run(request, heard.append, StopRequest(by_operator=True)))
        await until(lambda: heard and isinstance(heard[-1], RunEnded) and not place.orders._worker.busy)
        running.cancel()
        await asyncio.wait([running], timeout=1)
        place.shipping.set()
        assert (await running).report.outcome is RunOutcome.SUCCESS


async def test_a_client_that_is_cancelled_before_the_run_begins_ends_it_when_it_does(place: Place) -> None:
    place.hold()
    place.ready.clear()
    async with socket_of(place) as client:
        running = asyncio.create_task(client.run(RunRequest(SLOT), lambda _: None, StopRequest(by_operator=True)))
        await until(lambda: place.orders._waiting)
        running.cancel()
        await asyncio.sleep(0)
        place.ready.set()
        assert (await running).report.outcome is RunOutcome.CANCELLED


async def test_a_plan_is_made_to_its_end_though_its_client_leaves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    let, begun, plan, ends = asyncio.Event(), asyncio.Event(), place.orders.plan, list[str]()

    async def slow(request: RunRequest) -> Any:
        begun.set()
        try:
            await let.wait()
            return await plan(request)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        finally:
            ends.append("ended")

    monkeypatch.setattr(place.orders, "plan", slow)
    async with socket_of(place) as client:
        planning = asyncio.create_task(client.plan(RunRequest(SLOT)))
        await begun.wait()
        planning.cancel()
        await asyncio.wait([planning])
        await asyncio.sleep(0.1)  # the daemon learns that its client has left
        let.set()
        await until(lambda: "ended" in ends)
    assert ends == ["ended"]


async def test_a_client_that_is_cancelled_twice_before_the_run_begins_leaves_none_behind(place: Place) -> None:
    place.ready.clear()
    async with socket_of(place) as client:
        running = asyncio.create_task(client.run(RunRequest(SLOT), lambda _: None, StopRequest(by_operator=True)))
        await until(lambda: place.orders._waiting)
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: not place.orders._running)
    place.ready.set()
    assert place.events == []


async def test_a_client_can_cancel_a_run_that_takes_long_to_begin(tmp_path: Path) -> None:
    async with a_place(tmp_path, begin_s=0.05) as place, socket_of(place) as client:
        place.ready.clear()
        running = asyncio.create_task(client.run(RunRequest(SLOT), lambda _: None, StopRequest(by_operator=True)))
        await until(lambda: place.orders._waiting)
        await asyncio.sleep(0.1)  # the answer has begun, the run has not
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: not place.orders._running)
        assert place.events == []


async def test_a_client_has_its_report_though_the_daemon_stops_while_the_records_are_shipped(place: Place) -> None:
    place.shipping, heard = asyncio.Event(), list[Event]()
    async with socket_of(place) as client:
        running = asyncio.create_task(client.run(RunRequest(SLOT, stages=(Stage.EXPIRE,)), heard.append, StopRequest()))
        await until(lambda: heard and isinstance(heard[-1], RunEnded) and not place.orders._worker.busy)
        place.orders.stop()
    done = await running
    assert (done.report.outcome, done.not_recorded) == (RunOutcome.SUCCESS, None)
    assert "stopped before PostgreSQL had taken" in str(done.not_shipped)


async def test_a_client_raises_what_the_daemon_refuses_for(place: Place) -> None:
    async with socket_of(place) as client:
        with pytest.raises(ConfigError) as no_table:
            await client.run(RunRequest(SLOT, tables=("cold.x", "cold.y")), lambda _: None, StopRequest())
        tables = [line.partition(":")[0] for line in no_table.value.problems]
        assert tables == ["--table cold.x", "--table cold.y"]
        with pytest.raises(ConfigError, match="nowhere"):
            await client.plan(RunRequest(SLOT, tables=("cold.nowhere",)))
        with (
            run_lock(place.state_dir),
            pytest.raises(RunLockHeld, match=r"under way .*: wait for its end$"),
        ):
            await client.run(RunRequest(SLOT), lambda _: None, StopRequest())
        with pytest.raises(ConfigError) as bad:
            await client.reload()
        assert bad.value.problems == ["tables: there is none", "schedule: it is no cron"]


async def test_a_run_that_breaks_off_is_an_error_of_its_client(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(place.spool, "close_run", breaks)
    async with socket_of(place) as client:
        with pytest.raises(PermanentError, match="A bug: the daemon's log says more"):
            await client.run(RunRequest(SLOT), lambda _: None, StopRequest())


async def test_a_client_gets_the_whole_plan(place: Place) -> None:
    async with socket_of(place) as client:
        plans, errors = await client.plan(RunRequest(SLOT))
    expected, _ = await place.orders.plan(RunRequest(SLOT))
    assert (plans, errors) == (expected, {})
    assert [plan.decision for plan in plans] == [Decision.ACT, Decision.ACT]
    assert plans[0].slices
    assert plans[1].snapshot_ids
    assert plans[0].health is not None


async def test_a_daemon_that_ends_without_an_answer_is_reported_to_have_ended(place: Place) -> None:
    place.hold()
    control = ControlSocket(lambda app: place.api.add_to(app, None))
    await control.start(place.state_dir)
    client = await DaemonClient.find(place.state_dir)
    assert client is not None
    heard: list[Event] = []
    running = asyncio.create_task(client.run(RunRequest(SLOT), heard.append, StopRequest()))
    await until(lambda: heard)
    await control.stop()
    with pytest.raises(TransientError, match="the daemon ended before it could answer"):
        await running


async def test_a_daemon_of_version_0_1_is_to_be_restarted(tmp_path: Path) -> None:
    """Its answers to what it does not know were taken from that version."""

    async def begin(request: web.Request) -> web.Response:
        errors = [{"at": name, "wrong": "Extra inputs are not permitted"} for name in request.query]
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "What was asked is not allowed.", errors=errors)

    async def status(request: web.Request) -> web.Response:
        return web.json_response({"state": "ok"})

    def add(app: web.Application) -> None:
        app.router.add_post("/api/v1/runs", begin)
        app.router.add_get("/api/v1/status", status)

    async with served(add, tmp_path) as client:
        with pytest.raises(PermanentError, match=OTHER_VERSION):
            await client.run(RunRequest(SLOT), lambda _: None, StopRequest())
        with pytest.raises(PermanentError, match=OTHER_VERSION):
            await client.status()
        with pytest.raises(PermanentError, match=OTHER_VERSION):
            await client.reload()


async def test_an_answer_that_does_not_name_its_run_is_from_another_version(tmp_path: Path) -> None:
    async def begin(request: web.Request) -> web.Response:
        return web.Response(content_type="text/event-stream", text="event: run_started\ndata: {}\n\n")

    def add(app: web.Application) -> None:
        app.router.add_post("/api/v1/runs", begin)

    async with served(add, tmp_path) as client:
        with pytest.raises(PermanentError, match=OTHER_VERSION):
            await client.run(RunRequest(SLOT), lambda _: None, StopRequest())
