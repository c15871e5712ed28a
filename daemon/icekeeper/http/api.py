"""The JSON API, endpoint by endpoint. What it tells comes from `overview.py`, what it orders goes to `orders.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal
from uuid import UUID

from aiohttp import web
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field
from pydantic_core import PydanticSerializationError

from icekeeper.adapters.ledger.history import LogFilter, RunFilter, levels_from
from icekeeper.adapters.records import to_json
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.history import ConfigLoad
from icekeeper.http import openapi
from icekeeper.http.access import Access
from icekeeper.http.events import EventStream
from icekeeper.http.problems import Handler, problem
from icekeeper.http.routes import Answer, Nothing, Route, Taken
from icekeeper.night.ports import Clock
from icekeeper.scheduling.orders import Orders, RunRequest
from icekeeper.status import run_schemas, schemas
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import NotFoundError, StatusQueries, parse_cursor

# Text that PostgreSQL takes: it refuses NUL.
_NO_NUL = r"^[^\x00]*$"
# No table has rows of before; and it keeps clear of what datetime can't express.
_FIRST_YEAR = 1970


def _valid_cursor(text: str) -> str:
    parse_cursor(text)
    return text


def _valid_slot(slot: datetime) -> datetime:
    try:
        slot = slot.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("there is no such instant in UTC") from exc
    if slot.year < _FIRST_YEAR:
        raise ValueError(f"it lies before {_FIRST_YEAR}")
    return slot


class RunsWanted(Taken):
    limit: Annotated[int, Field(ge=1, le=200, description="How many at most.")] = 50
    after: Annotated[
        str | None, AfterValidator(_valid_cursor), Field(description="`next` of the page before.", max_length=100)
    ] = None
    outcome: Annotated[
        Literal["running"] | RunOutcome | None, Field(description="Only runs that ended so, or are under way.")
    ] = None
    trigger: Annotated[Trigger | None, Field(description="Only runs that were begun so.")] = None
    table: Annotated[
        str | None, Field(description="Only runs that were asked to work on it.", max_length=300, pattern=_NO_NUL)
    ] = None


class RunWanted(Taken):
    run_id: UUID


class LogsWanted(Taken):
    run_id: UUID
    after: Annotated[int, Field(ge=0, le=2**31 - 1, description="Only lines behind this one.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="How many at most.")] = 500
    level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, Field(description="Only lines at least as important.")
    ] = None
    text: Annotated[
        str | None, Field(description="Only lines that hold this, in any case.", max_length=200, pattern=_NO_NUL)
    ] = None

    def filter(self) -> LogFilter:
        return LogFilter(None if self.level is None else levels_from(self.level), self.text or None)


class NightsWanted(Taken):
    days: Annotated[int, Field(ge=1, le=400, description="How far back.")] = 60


class TableWanted(Taken):
    name: Annotated[str, Field(max_length=300, pattern=_NO_NUL)]
    days: Annotated[int, Field(ge=1, le=2000, description="How far back.")] = 60


class RunBody(Taken):
    """A run to be begun: by default all stages on all tables, for now."""

    slot: Annotated[
        Annotated[AwareDatetime, AfterValidator(_valid_slot)] | None,
        Field(description="The slot to answer for; default: now, to the minute."),
    ] = None
    stages: Annotated[tuple[Stage, ...], Field(description="Only these; default: all.", max_length=3)] = ()
    tables: Annotated[tuple[str, ...], Field(description="Only these; default: all.", max_length=1000)] = ()
    window_hours: Annotated[
        int | None, Field(ge=1, le=8784, description="Audits so many hours; default: the day before.")
    ] = None
    dry_run: Annotated[bool, Field(description="Answers what it would do, and changes nothing.")] = False

    def asked(self, now: datetime) -> RunRequest:
        slot = self.slot if self.slot is not None else now.replace(second=0, microsecond=0)
        return RunRequest(
            slot=slot, stages=self.stages or tuple(Stage), tables=self.tables, window_hours=self.window_hours
        )


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
        self.routes = self._made_routes()
        self._openapi = openapi.document(self.routes)

    def add_to(self, app: web.Application, access: Access | None) -> None:
        """`access` judges what changes something; None where whoever can connect may do so (the control socket)."""
        for route in self.routes:
            if route.method == "GET":  # and HEAD
                app.router.add_get(route.path, _handler(route, access), name=route.name)
            else:
                app.router.add_post(route.path, _handler(route, access), name=route.name)
        # A HEAD would wait for an end that doesn't come.
        app.router.add_get("/api/v1/events", self._events.serve, allow_head=False)
        app.router.add_get("/api/v1/openapi.json", self._document)

    def _made_routes(self) -> tuple[Route, ...]:
        ok, begun = HTTPStatus.OK, HTTPStatus.ACCEPTED
        not_found, taken = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
        v1 = "/api/v1"
        return (
            Route("GET", f"{v1}/status", "getStatus", "Is everything all right?", self._status, {ok: schemas.Status}),
            Route(
                "GET",
                f"{v1}/runs",
                "listRuns",
                "Runs, newest first.",
                self._runs,
                {ok: run_schemas.RunPage},
                RunsWanted,
            ),
            Route(
                "GET",
                f"{v1}/runs/{{run_id}}",
                "getRun",
                "A run with its tasks and audits.",
                self._run,
                {ok: run_schemas.Run},
                RunWanted,
                problems=(not_found,),
            ),
            Route(
                "GET",
                f"{v1}/runs/{{run_id}}/logs",
                "listLogs",
                "Log lines of a run, in their order.",
                self._logs,
                {ok: run_schemas.LogPage},
                LogsWanted,
            ),
            Route(
                "GET",
                f"{v1}/nights",
                "listNights",
                "How the slots of the last days were answered.",
                self._nights,
                {ok: run_schemas.Nights},
                NightsWanted,
            ),
            Route("GET", f"{v1}/tables", "listTables", "The tables as last seen.", self._tables, {ok: schemas.Tables}),
            Route(
                "GET",
                f"{v1}/tables/{{name}}",
                "getTable",
                "A table with its past.",
                self._table,
                {ok: schemas.Table},
                TableWanted,
                problems=(not_found,),
            ),
            Route("GET", f"{v1}/plan", "getPlan", "What a night would do now.", self._plan, {ok: schemas.Plan}),
            Route("GET", f"{v1}/config", "getConfig", "The settings in force.", self._config, {ok: schemas.Config}),
            Route(
                "POST",
                f"{v1}/runs",
                "beginRun",
                "Begins a run (202), or says what it would do (200).",
                self._begin,
                {begun: schemas.Ordered, ok: schemas.Plan},
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
                RunWanted,
                problems=(not_found,),
            ),
            Route(
                "POST",
                "/-/reload",
                "reload",
                "Reads the configuration again; a bad one changes nothing.",
                self._reload_asked,
                {ok: schemas.Reloaded},
            ),
        )

    async def _document(self, request: web.Request) -> web.Response:
        return web.json_response(self._openapi)

    async def _status(self, wanted: Nothing) -> Answer:
        return self._queries.status()

    async def _runs(self, wanted: RunsWanted) -> Answer:
        after = parse_cursor(wanted.after) if wanted.after is not None else None
        only = RunFilter(wanted.outcome, wanted.trigger, wanted.table)
        return await self._queries.runs(only, after, wanted.limit)

    async def _run(self, wanted: RunWanted) -> Answer:
        return await self._queries.run(wanted.run_id)

    async def _logs(self, wanted: LogsWanted) -> Answer:
        return await self._queries.logs(wanted.run_id, wanted.filter(), wanted.after, wanted.limit)

    async def _nights(self, wanted: NightsWanted) -> Answer:
        return await self._queries.nights(wanted.days)

    async def _tables(self, wanted: Nothing) -> Answer:
        return self._queries.tables()

    async def _table(self, wanted: TableWanted) -> Answer:
        return await self._queries.table(wanted.name, wanted.days)

    async def _plan(self, wanted: Nothing) -> Answer:
        return await self._plan_cache.plan()

    async def _config(self, wanted: Nothing) -> Answer:
        return self._queries.config()

    async def _begin(self, wanted: Nothing, body: RunBody) -> Answer:
        now = self._clock()
        if body.dry_run:
            return await self._plan_cache.make(body.asked(now), now)
        run_id = await self._orders.begin(body.asked(now))
        answer = web.json_response({"run_id": str(run_id)}, status=HTTPStatus.ACCEPTED)
        answer.headers["Location"] = f"/api/v1/runs/{run_id}"
        return answer

    async def _cancel(self, wanted: RunWanted) -> Answer:
        if not self._orders.cancel(wanted.run_id):
            raise NotFoundError(f"no run with the id {wanted.run_id} is under way")
        return web.json_response({"run_id": str(wanted.run_id)}, status=HTTPStatus.ACCEPTED)

    async def _reload_asked(self, wanted: Nothing) -> Answer:
        load = await self._reload()
        if load.problems:
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return problem(status, "The configuration is kept as it was.", problems=load.problems)
        return schemas.Reloaded.model_validate(load)


def _handler(route: Route, access: Access | None) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if route.changes and access is not None and (refusal := access.refusal(request)) is not None:
            return refusal
        answer = await route.handle(*await route.taken(request))
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.json_response(text=_json(answer))

    return handle


def _json(answer: BaseModel) -> str:
    try:
        return answer.model_dump_json()
    except PydanticSerializationError:  # a lone surrogate, as the path in an error message may hold
        return to_json(answer)
