"""The JSON API, endpoint by endpoint. What it shows comes from status/queries.py, orders go to scheduling/orders.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from icekeeper.adapters.ledger.history import RunFilter
from icekeeper.adapters.records import to_json
from icekeeper.core.enums import RunOutcome
from icekeeper.core.history import ConfigLoad
from icekeeper.http import openapi
from icekeeper.http.access import Access
from icekeeper.http.events import EventStream, RunStream
from icekeeper.http.inputs import (
    BeginInput,
    CancelInput,
    LogsInput,
    NightsInput,
    RunBody,
    RunInput,
    RunsInput,
    TableInput,
)
from icekeeper.http.problems import Handler, problem
from icekeeper.http.routes import Answer, NoInput, Route
from icekeeper.night.ports import Clock
from icekeeper.scheduling.orders import Orders
from icekeeper.status import run_schemas, schemas
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import NotFoundError, StatusQueries, parse_cursor


class Api:
    """The endpoints; `add_to` puts them into an application."""

    def __init__(
        self,
        queries: StatusQueries,
        orders: Orders,
        plan_cache: PlanCache,
        events: EventStream,
        reload: Callable[[], Awaitable[ConfigLoad]],
        clock: Clock,
    ) -> None:
        self._queries = queries
        self._orders = orders
        self._plan_cache = plan_cache
        self._events = events
        self._reload = reload
        self._clock = clock
        self.routes = self._make_routes()
        self._openapi = openapi.document(self.routes)

    def add_to(self, app: web.Application, access: Access | None) -> None:
        """`access` judges requests that change something; None on the control socket: its file mode does that."""
        for route in self.routes:
            if route.method == "GET":  # and HEAD
                app.router.add_get(route.path, _handler(route, access), name=route.name)
            else:
                app.router.add_post(route.path, _handler(route, access), name=route.name)
        # A HEAD would wait for an end that doesn't come.
        app.router.add_get("/api/v1/events", self._events.serve, allow_head=False)
        app.router.add_get("/api/v1/openapi.json", self._document)

    def _make_routes(self) -> tuple[Route, ...]:
        ok, begun = HTTPStatus.OK, HTTPStatus.ACCEPTED
        not_found, taken = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
        v1 = "/api/v1"
        return (
            Route("GET", f"{v1}/status", "getStatus", "Is everything all right?", self._status, {ok: schemas.Status}),
            Route(
                "GET", f"{v1}/runs", "listRuns", "Runs, newest first.", self._runs, {ok: run_schemas.RunPage}, RunsInput
            ),
            Route(
                "GET",
                f"{v1}/runs/{{run_id}}",
                "getRun",
                "A run with its tasks and audits.",
                self._run,
                {ok: run_schemas.Run},
                RunInput,
                problems=(not_found,),
            ),
            Route(
                "GET",
                f"{v1}/runs/{{run_id}}/logs",
                "listLogs",
                "Log lines of a run, in their order.",
                self._logs,
                {ok: run_schemas.LogPage},
                LogsInput,
            ),
            Route(
                "GET",
                f"{v1}/nights",
                "listNights",
                "How the slots of the last days were answered.",
                self._nights,
                {ok: run_schemas.Nights},
                NightsInput,
            ),
            Route("GET", f"{v1}/tables", "listTables", "The tables as last seen.", self._tables, {ok: schemas.Tables}),
            Route(
                "GET",
                f"{v1}/tables/{{name}}",
                "getTable",
                "A table with its past.",
                self._table,
                {ok: schemas.Table},
                TableInput,
                problems=(not_found,),
            ),
            Route("GET", f"{v1}/plan", "getPlan", "What a night would do now.", self._plan, {ok: schemas.Plan}),
            Route("GET", f"{v1}/config", "getConfig", "The settings in force.", self._config, {ok: schemas.Config}),
            Route(
                "POST",
                f"{v1}/runs",
                "beginRun",
                "Begins a run (202, or 200 and its events), or says what it would do (200).",
                self._begin,
                {begun: schemas.Ordered, ok: (schemas.Plan, openapi.EVENTS)},
                BeginInput,
                body=RunBody,
                problems=(taken,),
            ),
            Route(
                "POST",
                f"{v1}/runs/{{run_id}}/cancel",
                "cancelRun",
                "Asks a run under way to end.",
                self._cancel,
                {begun: schemas.Ordered},
                CancelInput,
                problems=(not_found,),
            ),
            Route(
                "POST",
                "/-/reload",
                "reload",
                "Reads the configuration again; a bad one changes nothing.",
                self._reload_now,
                {ok: schemas.Reloaded},
            ),
        )

    async def _document(self, request: web.Request) -> web.Response:
        return web.json_response(self._openapi)

    async def _status(self, given: NoInput) -> Answer:
        return self._queries.status()

    async def _runs(self, given: RunsInput) -> Answer:
        after = parse_cursor(given.after) if given.after is not None else None
        only = RunFilter(given.outcome, given.trigger, given.table)
        return await self._queries.runs(only, after, given.limit)

    async def _run(self, given: RunInput) -> Answer:
        return await self._queries.run(given.run_id)

    async def _logs(self, given: LogsInput) -> Answer:
        return await self._queries.logs(given.run_id, given.filter(), given.after, given.limit)

    async def _nights(self, given: NightsInput) -> Answer:
        return await self._queries.nights(given.days)

    async def _tables(self, given: NoInput) -> Answer:
        return self._queries.tables()

    async def _table(self, given: TableInput) -> Answer:
        return await self._queries.table(given.name, given.days)

    async def _plan(self, given: NoInput) -> Answer:
        return await self._plan_cache.plan()

    async def _config(self, given: NoInput) -> Answer:
        return self._queries.config()

    async def _begin(self, given: BeginInput, body: RunBody) -> Answer:
        now = self._clock()
        if body.dry_run:
            return await self._plan_cache.make(body.request(now), now)
        if given.events:
            events = RunStream()
            return partial(events.serve, await self._orders.begin(body.request(now), events.observe))
        run = await self._orders.begin(body.request(now))
        return _accepted(run.run_id, Location=f"/api/v1/runs/{run.run_id}")

    async def _cancel(self, given: CancelInput) -> Answer:
        if not self._orders.cancel(given.run_id, by_operator=given.outcome is RunOutcome.CANCELLED):
            raise NotFoundError(f"no run with the id {given.run_id} is under way")
        return _accepted(given.run_id)

    async def _reload_now(self, given: NoInput) -> Answer:
        load = await self._reload()
        if load.problems:
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return problem(status, "The configuration is kept as it was.", problems=load.problems)
        return schemas.Reloaded.model_validate(load)


def _handler(route: Route, access: Access | None) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if route.changes and access is not None and (refusal := access.refusal(request)) is not None:
            return refusal
        answer = await route.handle(*await route.input_of(request))
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, BaseModel):
            return web.json_response(text=_json(answer))
        return await answer(request)

    return handle


def _accepted(run_id: UUID, **headers: str) -> web.Response:
    return web.json_response({"run_id": str(run_id)}, status=HTTPStatus.ACCEPTED, headers=headers)


def _json(answer: BaseModel) -> str:
    try:
        return answer.model_dump_json()
    except PydanticSerializationError:  # a lone surrogate, as the path in an error message may hold
        return to_json(answer.model_dump())
