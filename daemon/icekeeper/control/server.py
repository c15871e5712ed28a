"""The control socket: a command on this host asks the daemon, so that no second session comes up beside it.

A Unix socket in state_dir, which only the daemon's user can reach. Each answer is a stream of JSON lines: the events of
the run as they happen, and at last what came out. `asking.py` is the other end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from aiohttp import web
from pydantic import ValidationError

from icekeeper.adapters.records import event_to_json, to_plain
from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.core.events import Event
from icekeeper.execution.lock import RunLockHeld
from icekeeper.http.problems import NotAllowedError, problems
from icekeeper.scheduling.orders import Orders, RunRequest

log = structlog.get_logger(__name__)

SOCKET = "control.sock"


class ControlSocket:
    """Listens for commands."""

    def __init__(
        self,
        orders: Orders,
        shipped: Callable[[], Awaitable[IcekeeperError | None]],
        api: Callable[[web.Application], None] = lambda app: None,
    ) -> None:
        """`shipped` waits until what a run recorded is in PostgreSQL, and says what stands in the way; `api` adds the
        routes that commands share with the HTTP server."""
        self._orders = orders
        self._shipped = shipped
        self._api = api
        self._runner: web.AppRunner | None = None
        self._path: Path | None = None
        self._working: set[asyncio.Task[None]] = set()

    async def start(self, state_dir: Path) -> None:
        """OSError where the socket can't be made."""
        path = state_dir / SOCKET
        path.unlink(missing_ok=True)  # of a daemon that died: who holds the daemon's lock is the only one
        app = web.Application(middlewares=[problems])
        app.router.add_post("/runs", self._run)
        app.router.add_post("/runs/{run_id}/cancel", self._cancel)
        app.router.add_post("/plans", self._plan)
        self._api(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        path.chmod(0o600)
        self._runner, self._path = runner, path

    async def stop(self) -> None:
        """Listens no more; who asks now finds no daemon."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _run(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request)
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        def emit(event: Event) -> None:
            lines.put_nowait(event_to_json(event))

        async def work() -> None:
            try:
                lines.put_nowait(json.dumps(await self._ordered(asked, emit)))
            except Exception as exc:
                lines.put_nowait(json.dumps({"error": _error(exc)}))
            finally:
                lines.put_nowait(None)

        # On its own: a command that is gone takes nothing from a run that it ordered.
        self._working.add(working := asyncio.create_task(work()))
        working.add_done_callback(self._working.discard)
        response = await _stream(request)
        while (line := await lines.get()) is not None:
            await response.write(line.encode() + b"\n")
        await working
        await response.write_eof()
        return response

    async def _ordered(self, asked: RunRequest, emit: Callable[[Event], None]) -> dict[str, Any]:
        done = await self._orders.run(asked, emit)
        not_shipped = await self._shipped() if asked.record and done.not_recorded is None else None
        return {
            "report": to_plain(done.report),
            "not_recorded": _error_or_none(done.not_recorded),
            "not_shipped": _error_or_none(not_shipped),
        }

    async def _cancel(self, request: web.Request) -> web.Response:
        by_operator = request.query.get("by") != "signal"
        try:
            run_id = UUID(request.match_info["run_id"])
        except ValueError as exc:
            raise web.HTTPBadRequest(reason="That is no run's id.") from exc
        if not self._orders.cancel(run_id, by_operator=by_operator):
            raise web.HTTPNotFound(reason="No such run is under way.")
        return web.Response(status=202)

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request)
        try:
            plans, errors = await self._orders.plan(asked)
            answer: dict[str, Any] = {"plans": [to_plain(plan) for plan in plans], "errors": errors}
        except Exception as exc:
            answer = {"error": _error(exc)}
        response = await _stream(request)
        await response.write(json.dumps(answer).encode() + b"\n")
        await response.write_eof()
        return response


async def _asked(request: web.Request) -> RunRequest:
    try:
        return RunRequest.model_validate_json(await request.read())
    except ValidationError as exc:
        raise NotAllowedError(exc) from exc


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    return response


def _error_or_none(error: IcekeeperError | None) -> dict[str, Any] | None:
    return None if error is None else _error(error)


def _error(error: Exception) -> dict[str, Any]:
    """An error so that the other end can raise it again."""
    if isinstance(error, ConfigError):
        return {"kind": "config", "problems": error.problems}
    if isinstance(error, IcekeeperError):
        kind = "lock" if isinstance(error, RunLockHeld) else "other"
        return {"kind": kind, "message": str(error), "reason": error.reason.value}
    log.exception("command_crashed")
    return {"kind": "other", "message": f"{type(error).__name__}: {error}", "reason": "unexpected"}
