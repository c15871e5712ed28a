"""The JSON API, endpoint by endpoint. What it shows comes from status/queries.py, orders go to scheduling/orders.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid4

from aiohttp import web
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from icekeeper.adapters.ledger.history import RunFilter
from icekeeper.adapters.records import to_json
from icekeeper.core.enums import RunOutcome
from icekeeper.core.history import ConfigLoad
from icekeeper.http import inputs, openapi
from icekeeper.http.access import Access
from icekeeper.http.events import EventStream, RunStream
from icekeeper.http.identity import actor
from icekeeper.http.problems import Handler, problem
from icekeeper.http.routes import Answer, Answers, Input, NoInput, Route
from icekeeper.night.ports import Clock
from icekeeper.scheduling.orders import Orders
from icekeeper.status import audit_schemas, run_schemas, schemas
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import NotFoundError, StatusQueries, parse_cursor

T = TypeVar("T", bound=Callable[..., Awaitable[Answer]])

_OK, _ACCEPTED = HTTPStatus.OK, HTTPStatus.ACCEPTED
_NOT_FOUND, _CONFLICT = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
ROUTES: list[Route] = []


def _endpoint(
    method: Literal["GET", "POST"],
    path: str,
    name: str,
    answers: Answers,
    parameters: type[Input] = NoInput,
    problems: tuple[HTTPStatus, ...] = (),
    body: type[Input] | None = None,
) -> Callable[[T], T]:
    """Makes a method of `Api` an endpoint; its docstring is the summary in the OpenAPI document."""

    def register(handle: T) -> T:
        summary = handle.__doc__ or ""
        ROUTES.append(Route(method, path, name, summary, handle, answers, parameters, body, problems))
        return handle

    return register


@dataclass(frozen=True)
class Api:
    """The endpoints; `add_to` puts them into an application."""

    queries: StatusQueries
    orders: Orders
    plan_cache: PlanCache
    events: EventStream
    reload: Callable[[], Awaitable[ConfigLoad]]
    clock: Clock

    def add_to(self, app: web.Application, access: Access | None) -> None:
        """`access` judges requests that change something; None on the control socket: its file mode does that."""
        for route in ROUTES:
            if route.method == "GET":  # and HEAD
                app.router.add_get(route.path, self._handler(route, access), name=route.name)
            else:
                app.router.add_post(route.path, self._handler(route, access), name=route.name)
        # A HEAD would wait for an end that doesn't come.
        app.router.add_get("/api/v1/events", self.events.serve, allow_head=False)
        app.router.add_get("/api/v1/openapi.json", partial(_show, openapi.document(ROUTES)))

    def _handler(self, route: Route, access: Access | None) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if route.changes and access is not None and (refusal := access.refusal(request)) is not None:
                return refusal
            answer = await route.handle(self, *await route.input_of(request))
            if isinstance(answer, web.StreamResponse):
                return answer
            if isinstance(answer, BaseModel):
                return web.json_response(text=_json(answer))
            return await answer(request)

        return handle

    @_endpoint("GET", "/api/v1/status", "getStatus", {_OK: schemas.Status})
    async def _status(self, given: NoInput) -> Answer:
        """Is everything all right?"""
        return self.queries.status()

    @_endpoint("GET", "/api/v1/runs", "listRuns", {_OK: run_schemas.RunPage}, inputs.RunsInput)
    async def _runs(self, given: inputs.RunsInput) -> Answer:
        """Runs, newest first."""
        after = parse_cursor(given.after) if given.after is not None else None
        only = RunFilter(given.outcome, given.trigger, given.table, given.installation)
        return await self.queries.runs(only, after, given.limit)

    @_endpoint("GET", "/api/v1/runs/{run_id}", "getRun", {_OK: run_schemas.Run}, inputs.RunInput, (_NOT_FOUND,))
    async def _run(self, given: inputs.RunInput) -> Answer:
        """A run with its tasks and audits."""
        return await self.queries.run(given.run_id)

    @_endpoint("GET", "/api/v1/runs/{run_id}/logs", "listLogs", {_OK: run_schemas.LogPage}, inputs.LogsInput)
    async def _logs(self, given: inputs.LogsInput) -> Answer:
        """Log lines of a run, in their order."""
        return await self.queries.logs(given.run_id, given.filter(), given.after, given.limit)

    @_endpoint("GET", "/api/v1/nights", "listNights", {_OK: run_schemas.Nights}, inputs.NightsInput)
    async def _nights(self, given: inputs.NightsInput) -> Answer:
        """How the slots of the last days were answered."""
        return await self.queries.nights(given.days)

    @_endpoint("GET", "/api/v1/days", "listDays", {_OK: audit_schemas.AuditedDays}, inputs.DaysInput)
    async def _days(self, given: inputs.DaysInput) -> Answer:
        """What the last UTC days of the tables are worth: their verdicts and certificates."""
        return await self.queries.days(given.days, given.table)

    @_endpoint("GET", "/api/v1/findings", "listFindings", {_OK: audit_schemas.Findings}, inputs.FindingsInput)
    async def _findings(self, given: inputs.FindingsInput) -> Answer:
        """Where both sides differ, by the newest audits of the last days' windows."""
        return await self.queries.findings(given.days, given.table, given.limit, open_only=given.open)

    @_endpoint(
        "GET",
        "/api/v1/certificates",
        "listCertificates",
        {_OK: audit_schemas.Certificates},
        inputs.CertificatesInput,
        (_NOT_FOUND,),
    )
    async def _certificates(self, given: inputs.CertificatesInput) -> Answer:
        """Which days are certified, and why others are not."""
        first, last = given.days(self.clock().date())
        return await self.queries.certificates(given.table, first, last, given.by)

    @_endpoint("GET", "/api/v1/tables", "listTables", {_OK: schemas.Tables})
    async def _tables(self, given: NoInput) -> Answer:
        """The tables as last seen."""
        return self.queries.tables()

    @_endpoint("GET", "/api/v1/tables/{name}", "getTable", {_OK: schemas.Table}, inputs.TableInput, (_NOT_FOUND,))
    async def _table(self, given: inputs.TableInput) -> Answer:
        """A table with its past."""
        return await self.queries.table(given.name, given.days)

    @_endpoint("GET", "/api/v1/plan", "getPlan", {_OK: schemas.Plan})
    async def _plan(self, given: NoInput) -> Answer:
        """What a night would do now."""
        return await self.plan_cache.plan()

    @_endpoint("GET", "/api/v1/config", "getConfig", {_OK: schemas.Config})
    async def _config(self, given: NoInput) -> Answer:
        """The settings in force."""
        return self.queries.config()

    @_endpoint(
        "POST",
        "/api/v1/runs",
        "beginRun",
        {_ACCEPTED: schemas.Ordered, _OK: (schemas.Plan, openapi.EVENTS)},
        inputs.BeginInput,
        (_CONFLICT,),
        inputs.RunBody,
    )
    async def _begin(self, given: inputs.BeginInput, body: inputs.RunBody) -> Answer:
        """Begins a run (202, or 200 and its events), or says what it would do (200)."""
        now = self.clock()
        if body.dry_run:
            return await self.plan_cache.make(body.request(now), now)
        if given.events:
            events, run_id = RunStream(), uuid4()
            try:
                run = await self.orders.begin(body.request(now, actor()), events.observe, run_id)
            except asyncio.CancelledError:  # the client has left, which could not know the run's id yet
                self.orders.cancel(run_id)
                raise
            return partial(events.serve, run)
        run = await self.orders.begin(body.request(now, actor()))
        return _accepted(run.run_id, Location=f"/api/v1/runs/{run.run_id}")

    @_endpoint(
        "POST",
        "/api/v1/runs/{run_id}/cancel",
        "cancelRun",
        {_ACCEPTED: schemas.Ordered},
        inputs.CancelInput,
        (_NOT_FOUND,),
    )
    async def _cancel(self, given: inputs.CancelInput) -> Answer:
        """Asks a run under way to end."""
        if not self.orders.cancel(given.run_id, by_operator=given.outcome is RunOutcome.CANCELLED):
            raise NotFoundError(f"no run with the id {given.run_id} is under way")
        return _accepted(given.run_id)

    @_endpoint(
        "POST",
        "/api/v1/tables/{name}/accept-rewrite",
        "acceptRewrite",
        {_OK: schemas.Accepted},
        inputs.AcceptInput,
        (_CONFLICT,),
        inputs.AcceptBody,
    )
    async def _accept_rewrite(self, given: inputs.AcceptInput, body: inputs.AcceptBody) -> Answer:
        """Accepts a rewrite that was found wrong: its tag is removed, and the table is maintained again."""
        tags = await self.orders.accept_rewrites(given.name, body.note, actor() or body.by)
        return schemas.Accepted(table=given.name, tags=tags)

    @_endpoint("GET", "/api/v1/holds", "listHolds", {_OK: schemas.Holds}, inputs.HoldsInput)
    async def _holds(self, given: inputs.HoldsInput) -> Answer:
        """What operators have put on hold, the newest first."""
        return await self.queries.holds(given.table, given.limit, in_force=given.in_force)

    @_endpoint(
        "POST",
        "/api/v1/tables/{name}/hold",
        "holdTable",
        {_OK: schemas.Holds},
        inputs.HeldTable,
        body=inputs.HoldBody,
    )
    async def _hold(self, given: inputs.HeldTable, body: inputs.HoldBody) -> Answer:
        """Puts stages of a table on hold, beside any holds that they have."""
        by = actor() or body.by
        try:
            held = await self.orders.hold(given.name, body.stages, body.until, body.note, by)
        finally:  # it may have been stored though an error is answered
            self.plan_cache.forget()
        return schemas.Holds.of(held)

    @_endpoint(
        "POST",
        "/api/v1/tables/{name}/release",
        "releaseTable",
        {_OK: schemas.Holds},
        inputs.HeldTable,
        body=inputs.ReleaseBody,
    )
    async def _release(self, given: inputs.HeldTable, body: inputs.ReleaseBody) -> Answer:
        """Ends the holds of a table, and answers with them; none: it had none."""
        released = await self.orders.release(given.name, body.stages, actor() or body.by)
        self.plan_cache.forget()
        return schemas.Holds.of(released)

    @_endpoint("POST", "/-/reload", "reload", {_OK: schemas.Reloaded})
    async def _reload_now(self, given: NoInput) -> Answer:
        """Reads the configuration again; a bad one changes nothing."""
        load = await self.reload()
        if load.problems:
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return problem(status, "The configuration is kept as it was.", problems=load.problems)
        return schemas.Reloaded.model_validate(load)


async def _show(document: Mapping[str, Any], request: web.Request) -> web.Response:
    return web.json_response(document)


def _accepted(run_id: UUID, **headers: str) -> web.Response:
    return web.json_response({"run_id": str(run_id)}, status=_ACCEPTED, headers=headers)


def _json(answer: BaseModel) -> str:
    try:
        return answer.model_dump_json()
    except PydanticSerializationError:  # a lone surrogate, as the path in an error message may hold
        return to_json(answer.model_dump())
