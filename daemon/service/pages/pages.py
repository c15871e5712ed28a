"""The page's routes: what each shows, and the forms that order something. How it looks: templates/ and static/."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from daemon.adapters.history import RunFilter
from daemon.core.errors import ConfigError, IcekeeperError
from daemon.core.history import ConfigLoad
from daemon.core.model import RunOutcome, Stage, Trigger
from daemon.ports import Clock
from daemon.service import documents
from daemon.service.http.access import Access
from daemon.service.http.api import LogsWanted, RunAsked, RunsWanted, RunWanted, TableWanted
from daemon.service.http.problems import NotAllowedError
from daemon.service.http.routes import Taken
from daemon.service.http.server import PIECE_S
from daemon.service.lock import RunLockHeld
from daemon.service.orders import Orders
from daemon.service.overview import NotFoundError, Overview, parse_cursor
from daemon.service.pages import charts, views
from daemon.service.pages.rendering import environment
from daemon.service.tonight import Tonight

_STATIC = Path(__file__).parent / "static"
_CALENDAR_DAYS = 60
# Paths that a browser can't take for another host's, and that hold nothing to be done.
_PAGE = re.compile(r"/(?:(?:runs|tables|plan|settings)(?:/[\w.%-]+)?)?")
_SPANS = (30, 90, 365, 1825)
_LOG_LINES = 300
_TABLE_NIGHTS = 30
# A run under way keeps the session busy.
_PATIENCE_S = 20.0

Wanted = TypeVar("Wanted", bound=Taken)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages:
    """`add_to` puts them into an application. Reading needs nothing; forms need a browser that has signed in."""

    def __init__(
        self,
        overview: Overview,
        orders: Orders,
        tonight: Tonight,
        access: Access,
        reload: Callable[[], Awaitable[ConfigLoad]],
        clock: Clock,
    ) -> None:
        self._overview = overview
        self._orders = orders
        self._tonight = tonight
        self._access = access
        self._reload = reload
        self._clock = clock
        self._templates = environment()

    def add_to(self, app: web.Application) -> None:
        looks: Mapping[str, Handler] = {
            "/": self._home,
            "/runs": self._runs,
            "/runs/{run_id}": self._run,
            "/runs/{run_id}/log.jsonl": self._download,
            "/tables": self._tables,
            "/tables/{name}": self._table,
            "/plan": self._plan,
            "/settings": self._settings,
            "/sign-in": self._sign_in_form,
        }
        for path, handler in looks.items():
            app.router.add_get(path, self._guarded(handler))
        orders: Mapping[str, Handler] = {
            "/orders/run": self._order_run,
            "/orders/cancel/{run_id}": self._order_cancel,
            "/orders/reload": self._order_reload,
            "/sign-out": self._sign_out,
        }
        for path, handler in orders.items():
            app.router.add_post(path, self._guarded(self._signed_in(handler)))
        app.router.add_post("/sign-in", self._guarded(self._sign_in))
        app.router.add_static("/static", _STATIC)

    # --- looking

    async def _home(self, request: web.Request) -> web.Response:
        status = self._overview.status()
        midnight = status.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        tomorrow = midnight + timedelta(days=1)
        nights: tuple[documents.Night, ...] = ()
        with suppress(IcekeeperError, TimeoutError):  # the status says it
            nights = (await self._overview.nights(_CALENDAR_DAYS + 7)).items
        return self._shown(
            request,
            "home.html",
            status=status,
            weeks=views.calendar(nights, midnight.date(), _CALENDAR_DAYS),
            durations=charts.durations(nights, tomorrow - timedelta(days=_CALENDAR_DAYS), tomorrow),
            nights_known=bool(nights) or status.parts.get("ledger") == "up",
            tables=self._overview.tables().items,
        )

    async def _runs(self, request: web.Request) -> web.Response:
        wanted = _parsed(RunsWanted, {key: value for key, value in request.query.items() if value})
        after = parse_cursor(wanted.after) if wanted.after is not None else None
        page = await self._overview.runs(RunFilter(wanted.outcome, wanted.trigger, wanted.table), after, wanted.limit)
        return self._shown(
            request,
            "runs.html",
            page=page,
            wanted=wanted,
            outcomes=[*RunOutcome, "running"],
            triggers=list(Trigger),
            names=self._choices()["names"],
        )

    async def _run(self, request: web.Request) -> web.Response:
        wanted = _logs_wanted(request)
        run = await self._overview.run(wanted.run_id)
        if run.outcome is None and not wanted.after:  # what goes on is at the end
            logs = await self._overview.newest_logs(wanted.run_id, wanted.filter(), wanted.limit)
        else:
            logs = documents.LogPage(items=(), next=None)
            with suppress(IcekeeperError):  # of a run that goes on here without PostgreSQL
                logs = await self._overview.logs(wanted.run_id, wanted.filter(), wanted.after, wanted.limit)
        status = self._overview.status()
        progress = status.run if status.run is not None and status.run.run_id == run.run_id else None
        return self._shown(
            request,
            "run.html",
            run=run,
            progress=progress,
            logs=logs,
            wanted=wanted,
            hours={audit.iceberg_table: views.hours(audit) for audit in run.audits},
            views=views,
        )

    async def _download(self, request: web.Request) -> web.StreamResponse:
        wanted = _logs_wanted(request)
        run = await self._overview.run(wanted.run_id)
        name = f"icekeeper-{run.slot:%Y-%m-%d}-{str(run.run_id)[:8]}.jsonl"
        headers = {"Content-Type": "application/x-ndjson", "Content-Disposition": f'attachment; filename="{name}"'}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        after: int | None = wanted.after
        while after is not None:
            page = await self._overview.logs(wanted.run_id, wanted.filter(), after, 1000)
            piece = "".join(f"{line.model_dump_json()}\n" for line in page.items)
            async with asyncio.timeout(PIECE_S):
                await response.write(piece.encode(errors="replace"))
            after = page.next
        return response

    async def _tables(self, request: web.Request) -> web.Response:
        return self._shown(request, "tables.html", tables=self._overview.tables().items)

    async def _table(self, request: web.Request) -> web.Response:
        given = {"days": request.query["days"]} if "days" in request.query else {"days": "90"}
        wanted = _parsed(TableWanted, {**given, "name": request.match_info["name"]})
        days = wanted.days
        table = await self._overview.table(wanted.name, days)
        now = self._clock()
        return self._shown(
            request,
            "table.html",
            table=table,
            charts=charts.of_table(table, now - timedelta(days=days), now),
            nights=views.nights_of(table, _TABLE_NIGHTS),
            unclean=views.unclean(table, _TABLE_NIGHTS),
            stages=list(Stage),
            days=days,
            spans=_SPANS,
        )

    async def _plan(self, request: web.Request) -> web.Response:
        plan: documents.Plan | None = None
        with suppress(TimeoutError):
            plan = await self._tonight.plan()
        return self._shown(request, "plan.html", plan=plan, dry_run=False, **self._choices())

    async def _settings(self, request: web.Request) -> web.Response:
        return self._shown(request, "settings.html", config=self._overview.config())

    # --- ordering

    async def _order_run(self, request: web.Request) -> web.Response:
        form = await _form(request)
        given: dict[str, Any] = {
            "stages": form.getall("stage", []),
            "tables": form.getall("table", []),
            "dry_run": "dry" in form,
        }
        if day := str(form.get("slot", "")).strip():
            given["slot"] = f"{day}:00Z" if len(day) == len("2026-02-18T02:00") else day
        now = self._clock()
        body = _parsed(RunAsked, given)
        if body.dry_run:
            plan: documents.Plan | None = None
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    plan = await self._tonight.make(body.asked(now), now)
            return self._shown(request, "plan.html", plan=plan, dry_run=True, **self._choices())
        run_id = await self._orders.begin(body.asked(now))
        raise web.HTTPSeeOther(f"/runs/{run_id}")

    async def _order_cancel(self, request: web.Request) -> web.Response:
        run_id = _parsed(RunWanted, request.match_info).run_id
        if not self._orders.cancel(run_id):
            raise NotFoundError(f"no run with the id {run_id} is under way")
        raise web.HTTPSeeOther(f"/runs/{run_id}")

    async def _order_reload(self, request: web.Request) -> web.Response:
        return self._shown(request, "reloaded.html", load=await self._reload())

    async def _sign_in_form(self, request: web.Request) -> web.Response:
        return self._shown(request, "sign_in.html", wrong=False, back=way_back(request.query.get("back", "")))

    async def _sign_in(self, request: web.Request) -> web.Response:
        form = await _form(request)
        back = way_back(str(form.get("back", "")))
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": back})
        if self._access.sign_in(request, str(form.get("token", "")), answer):
            return answer
        return self._shown(request, "sign_in.html", HTTPStatus.FORBIDDEN, wrong=True, back=back)

    async def _sign_out(self, request: web.Request) -> web.Response:
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/"})
        self._access.sign_out(request, answer)
        return answer

    # --- how

    def _choices(self) -> dict[str, Any]:
        return {"stages": list(Stage), "names": self._overview.names()}

    def _shown(
        self, request: web.Request, template: str, status_code: HTTPStatus = HTTPStatus.OK, **values: Any
    ) -> web.Response:
        text = self._templates.get_template(template).render(
            path=request.path,
            now=self._clock(),
            changes_allowed=self._access.changes_allowed,
            signed_in=self._access.signed_in(request),
            **values,
        )
        # A log line may hold half a character.
        body = text.encode(errors="replace")
        return web.Response(body=body, content_type="text/html", charset="utf-8", status=status_code)

    def _guarded(self, handler: Handler) -> Handler:
        """Answers what goes wrong in a way that people can read."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except NotFoundError as exc:
                return self._trouble(request, HTTPStatus.NOT_FOUND, f"{exc}.")
            except ConfigError as exc:
                return self._trouble(request, HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(exc.problems))
            except RunLockHeld as exc:
                return self._trouble(request, HTTPStatus.CONFLICT, f"{exc}.")
            except IcekeeperError as exc:
                return self._trouble(request, HTTPStatus.SERVICE_UNAVAILABLE, f"{exc}.", exc.reason.advice)
            except NotAllowedError as exc:
                return self._trouble(request, HTTPStatus.UNPROCESSABLE_ENTITY, f"That is not allowed: {exc.said}.")
            except TimeoutError:
                advice = "Try again, or look which part is down in /readyz."
                return self._trouble(request, HTTPStatus.SERVICE_UNAVAILABLE, "It took too long.", advice)

        return handle

    def _signed_in(self, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if not self._access.changes_allowed:
                text = "Nothing can be changed here: http.token is not set."
                return self._trouble(request, HTTPStatus.FORBIDDEN, text)
            if not self._access.signed_in(request):
                raise web.HTTPSeeOther("/sign-in")
            return await handler(request)

        return handle

    def _trouble(self, request: web.Request, status: HTTPStatus, text: str, advice: str = "") -> web.Response:
        return self._shown(request, "trouble.html", status, title=status.phrase, text=text, advice=advice)


def _logs_wanted(request: web.Request) -> LogsWanted:
    """What the form above the log says; the page shows more lines at once than it says there."""
    given = {key: value for key, value in request.query.items() if value and key in ("after", "level", "text")}
    return _parsed(LogsWanted, {**given, "run_id": request.match_info["run_id"], "limit": _LOG_LINES})


def _parsed(kind: type[Wanted], given: Mapping[str, Any]) -> Wanted:
    """What was asked for. NotAllowedError where it is nothing that can be."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as exc:
        raise NotAllowedError(exc) from exc


async def _form(request: web.Request) -> Any:
    """The fields of a form that was sent."""
    try:
        return await request.post()
    except (LookupError, ValueError) as exc:  # of a character set that is none, or no form at all
        raise web.HTTPBadRequest(reason="The form can't be read.") from exc


def way_back(path: str) -> str:
    """Where somebody came from who signs in; the overview where that is no page of ours."""
    return path if _PAGE.fullmatch(path) else "/"
