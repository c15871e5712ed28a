"""The routes of pages that only show. Forms: form_pages.py; markup and style: templates/ and static/."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from icekeeper.adapters.ledger.history import RunFilter
from icekeeper.core.enums import NIGHT, RunOutcome, Trigger
from icekeeper.core.errors import IcekeeperError
from icekeeper.http.inputs import LogsInput, RunsInput, TableInput
from icekeeper.http.server import PIECE_S
from icekeeper.night.ports import Clock
from icekeeper.pages import audited_days, charts, views
from icekeeper.pages.responses import Handler, Responses, parsed
from icekeeper.status import audit_schemas, run_schemas, schemas
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import StatusQueries, parse_cursor

_STATIC = Path(__file__).parent / "static"
_CALENDAR_DAYS = 60
_SPANS = (30, 90, 365, 1825)
_LOG_LINES = 300
_TABLE_NIGHTS = 30


@dataclass(frozen=True)
class ReadPages:
    """`add_to` registers their routes. They need no token."""

    responses: Responses
    queries: StatusQueries
    plan_cache: PlanCache
    clock: Clock

    def add_to(self, app: web.Application) -> None:
        routes: Mapping[str, Handler] = {
            "/": self._home,
            "/runs": self._runs,
            "/runs/{run_id}": self._run,
            "/runs/{run_id}/log.jsonl": self._download,
            "/tables": self._tables,
            "/tables/{name}": self._table,
            "/plan": self._plan,
            "/settings": self._settings,
        }
        for path, handler in routes.items():
            app.router.add_get(path, self.responses.with_error_pages(handler))
        app.router.add_static("/static", _STATIC)

    async def _home(self, request: web.Request) -> web.Response:
        status = self.queries.status()
        midnight = status.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        tomorrow = midnight + timedelta(days=1)
        nights: tuple[run_schemas.Night, ...] = ()
        with suppress(IcekeeperError, TimeoutError):  # the page's status shows that the ledger is down
            nights = (await self.queries.nights(_CALENDAR_DAYS + 7)).items
        return self.responses.rendered(
            request,
            "home.html",
            status=status,
            weeks=views.calendar(nights, midnight.date(), _CALENDAR_DAYS),
            durations=charts.durations(nights, tomorrow - timedelta(days=_CALENDAR_DAYS), tomorrow),
            nights_known=bool(nights) or status.parts.get("ledger") == "up",
            tables=self.queries.tables().items,
        )

    async def _runs(self, request: web.Request) -> web.Response:
        query = parsed(RunsInput, {key: value for key, value in request.query.items() if value})
        after = parse_cursor(query.after) if query.after is not None else None
        only = RunFilter(query.outcome, query.trigger, query.table, query.installation)
        page = await self.queries.runs(only, after, query.limit)
        return self.responses.rendered(
            request,
            "runs.html",
            page=page,
            query=query,
            outcomes=[*RunOutcome, "running"],
            triggers=list(Trigger),
            names=self.queries.names(),
            installations=await self.queries.installations(),
        )

    async def _run(self, request: web.Request) -> web.Response:
        query = _log_query(request)
        run = await self.queries.run(query.run_id)
        if run.outcome is None and not query.after:  # of a run under way the newest lines matter
            logs = await self.queries.newest_logs(query.run_id, query.filter(), query.limit)
        else:
            logs = run_schemas.LogPage(items=(), next=None)
            with suppress(IcekeeperError):  # a run of this process, shown without PostgreSQL
                logs = await self.queries.logs(query.run_id, query.filter(), query.after, query.limit)
        status = self.queries.status()
        progress = status.run if status.run is not None and status.run.run_id == run.run_id else None
        return self.responses.rendered(
            request,
            "run.html",
            run=run,
            progress=progress,
            logs=logs,
            query=query,
            views=views,
        )

    async def _download(self, request: web.Request) -> web.StreamResponse:
        query = _log_query(request)
        run = await self.queries.run(query.run_id)
        name = f"icekeeper-{run.slot:%Y-%m-%d}-{str(run.run_id)[:8]}.jsonl"
        headers = {"Content-Type": "application/x-ndjson", "Content-Disposition": f'attachment; filename="{name}"'}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        after: int | None = query.after
        while after is not None:
            page = await self.queries.logs(query.run_id, query.filter(), after, 1000)
            piece = "".join(f"{line.model_dump_json()}\n" for line in page.items)
            async with asyncio.timeout(PIECE_S):
                await response.write(piece.encode(errors="replace"))
            after = page.next
        return response

    async def _tables(self, request: web.Request) -> web.Response:
        yesterday = self.clock().astimezone(UTC).date() - timedelta(days=1)
        items: tuple[audit_schemas.AuditedDay, ...] | None = None
        with suppress(IcekeeperError, TimeoutError):
            items = (await self.queries.days(_CALENDAR_DAYS + 1)).items
        return self.responses.rendered(
            request,
            "tables.html",
            tables=self.queries.tables().items,
            days_known=items is not None,
            rows=audited_days.day_rows(items or (), self.queries.names(), yesterday, _CALENDAR_DAYS),
            days=audited_days,
        )

    async def _table(self, request: web.Request) -> web.Response:
        given = {"days": request.query["days"]} if "days" in request.query else {"days": "90"}
        query = parsed(TableInput, {**given, "name": request.match_info["name"]})
        days = query.days
        table = await self.queries.table(query.name, days)
        now = self.clock()
        return self.responses.rendered(
            request,
            "table.html",
            table=table,
            charts=charts.of_table(table, now - timedelta(days=days), now),
            nights=views.nights_of(table, _TABLE_NIGHTS),
            unclean=views.unclean(table, _TABLE_NIGHTS),
            stages=list(NIGHT),
            days=days,
            spans=_SPANS,
        )

    async def _plan(self, request: web.Request) -> web.Response:
        plan: schemas.Plan | None = None
        with suppress(TimeoutError):
            plan = await self.plan_cache.plan()
        return self.responses.rendered(request, "plan.html", plan=plan, dry_run=False, **choices(self.queries))

    async def _settings(self, request: web.Request) -> web.Response:
        return self.responses.rendered(request, "settings.html", config=self.queries.config())


def _log_query(request: web.Request) -> LogsInput:
    """The filter that the form above the log sends; the page has a limit of its own."""
    given = {key: value for key, value in request.query.items() if value and key in ("after", "level", "text")}
    return parsed(LogsInput, {**given, "run_id": request.match_info["run_id"], "limit": _LOG_LINES})


def choices(queries: StatusQueries) -> dict[str, Any]:
    """The stages and tables that the run form offers, and what the commits of a run wait for."""
    return {"stages": list(NIGHT), "names": queries.names(), "commits_wait": queries.commits_wait()}
