"""The page's forms: signing in, and what a signed-in browser may order. Pages that only show: read_pages.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from icekeeper.core.history import ConfigLoad
from icekeeper.http.access import Access
from icekeeper.http.identity import actor
from icekeeper.http.inputs import RunBody, RunInput
from icekeeper.night.ports import Clock
from icekeeper.pages.read_pages import choices
from icekeeper.pages.responses import Handler, Responses, form_of, parsed
from icekeeper.scheduling.orders import Orders
from icekeeper.status import schemas
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import NotFoundError, StatusQueries

# Paths that no browser resolves to another host, and that only show.
_PAGE = re.compile(r"/(?:(?:runs|tables|plan|settings)(?:/[\w.%-]+)?)?")
# A dry run may have to wait for the Spark session, which a run under way uses.
_WAIT_S = 20.0


@dataclass(frozen=True)
class FormPages:
    """`add_to` registers their routes."""

    responses: Responses
    queries: StatusQueries
    orders: Orders
    plan_cache: PlanCache
    access: Access
    reload: Callable[[], Awaitable[ConfigLoad]]
    clock: Clock

    def add_to(self, app: web.Application) -> None:
        responses = self.responses
        orders: Mapping[str, Handler] = {
            "/orders/run": self._order_run,
            "/orders/cancel/{run_id}": self._order_cancel,
            "/orders/reload": self._order_reload,
            "/sign-out": self._sign_out,
        }
        for path, handler in orders.items():
            app.router.add_post(path, responses.with_error_pages(responses.for_signed_in(handler)))
        app.router.add_get("/sign-in", responses.with_error_pages(self._sign_in_form))
        app.router.add_post("/sign-in", responses.with_error_pages(self._sign_in))

    async def _order_run(self, request: web.Request) -> web.Response:
        form = await form_of(request)
        given: dict[str, Any] = {
            "stages": form.getall("stage", []),
            "tables": form.getall("table", []),
            "dry_run": "dry" in form,
        }
        if day := str(form.get("slot", "")).strip():
            given["slot"] = f"{day}:00Z" if len(day) == len("2026-02-18T02:00") else day
        if hours := str(form.get("window_hours", "")).strip():
            given["window_hours"] = hours
        now = self.clock()
        body = parsed(RunBody, given)
        if body.dry_run:
            plan: schemas.Plan | None = None
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_S):
                    plan = await self.plan_cache.make(body.request(now), now)
            return self.responses.rendered(request, "plan.html", plan=plan, dry_run=True, **choices(self.queries))
        run = await self.orders.begin(body.request(now, actor()))
        raise web.HTTPSeeOther(f"/runs/{run.run_id}")

    async def _order_cancel(self, request: web.Request) -> web.Response:
        run_id = parsed(RunInput, request.match_info).run_id
        if not self.orders.cancel(run_id):
            raise NotFoundError(f"no run with the id {run_id} is under way")
        raise web.HTTPSeeOther(f"/runs/{run_id}")

    async def _order_reload(self, request: web.Request) -> web.Response:
        return self.responses.rendered(request, "reloaded.html", load=await self.reload())

    async def _sign_in_form(self, request: web.Request) -> web.Response:
        return self.responses.rendered(
            request, "sign_in.html", wrong=False, back=way_back(request.query.get("back", ""))
        )

    async def _sign_in(self, request: web.Request) -> web.Response:
        form = await form_of(request)
        back = way_back(str(form.get("back", "")))
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": back})
        if self.access.sign_in(request, str(form.get("token", "")), answer):
            return answer
        return self.responses.rendered(request, "sign_in.html", HTTPStatus.FORBIDDEN, wrong=True, back=back)

    async def _sign_out(self, request: web.Request) -> web.Response:
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/"})
        self.access.sign_out(request, answer)
        return answer


def way_back(path: str) -> str:
    """The page to return to after signing in; the overview where `path` is none of the pages."""
    return path if _PAGE.fullmatch(path) else "/"
