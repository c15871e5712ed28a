"""Asks the daemon on this host to do what a command wants. The other end of the socket is `control.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp

from icekeeper.adapters.records import event_from_plain, from_plain
from icekeeper.control.server import SOCKET
from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.events import RunStarted, Subscriber
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.core.tables.plan import Plan
from icekeeper.execution.execute import Executed
from icekeeper.execution.lock import RunLockHeld
from icekeeper.night.run import StopRequest
from icekeeper.scheduling.orders import RunRequest
from icekeeper.status import run_schemas, schemas

_CONNECT_S = 5.0
_ANSWER_S = 30.0


class Daemon:
    """The daemon that serves a state directory."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @classmethod
    async def find(cls, state_dir: Path) -> Daemon | None:
        """The daemon there, None where none is. PermanentError where there is one that is not ours to ask."""
        path = state_dir / SOCKET
        try:
            _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), _CONNECT_S)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        except PermissionError as exc:
            text = f"{path} is not ours to open: run this as the daemon's user (or as root)"
            raise PermanentError(text, reason=Reason.ACCESS_DENIED) from exc
        except TimeoutError as exc:
            raise TransientError(f"the daemon behind {path} does not answer: look at its log, or restart it") from exc
        writer.close()
        return cls(path)

    async def run(self, asked: RunRequest, emit: Subscriber, stop: StopRequest) -> Executed:
        """Has a run done and hears its events. Cancelled, it asks the daemon to end the run, and waits for that.

        `stop` says whether an operator did so.
        """
        run_id: str | None = None
        to_cancel = False  # as soon as it has begun
        lines = self._lines("/runs", asked)
        pending = asyncio.ensure_future(anext(lines))
        while True:
            try:
                line = await asyncio.shield(pending)
            except asyncio.CancelledError:
                if run_id is not None:
                    await self._cancel(run_id, by_operator=stop.by_operator)
                elif to_cancel:
                    raise  # asked twice: whoever asks wants to be gone
                to_cancel = True
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()  # answered by the report that is to come
                continue
            except StopAsyncIteration:
                raise _gone() from None
            if "report" in line:
                report = from_plain(RunReport, line["report"])
                return Executed(report, _error(line["not_recorded"]), _error(line["not_shipped"]))
            event = event_from_plain(line)
            if isinstance(event, RunStarted):
                run_id = str(event.opening.run_id)
                if to_cancel:
                    await self._cancel(run_id, by_operator=stop.by_operator)
            emit(event)
            pending = asyncio.ensure_future(anext(lines))

    async def plan(self, asked: RunRequest) -> tuple[list[Plan], dict[str, str]]:
        """PlanCache's plans, and an error for every table that could not be read."""
        async for line in self._lines("/plans", asked):
            return [from_plain(Plan, plan) for plan in line["plans"]], line["errors"]
        raise _gone()

    async def _lines(self, path: str, asked: RunRequest) -> AsyncIterator[dict[str, Any]]:
        try:
            async with (
                self._session() as session,
                session.post(f"http://daemon{path}", data=asked.model_dump_json()) as got,
            ):
                if got.status != HTTPStatus.OK:
                    raise PermanentError(f"the daemon refused it: {(await got.json(content_type=None))['detail']}")
                async for raw in got.content:
                    line: dict[str, Any] = json.loads(raw)
                    if "error" in line and set(line) == {"error"}:
                        raise _raised(line["error"])
                    yield line
        except aiohttp.ClientError as exc:
            raise _gone() from exc

    async def _cancel(self, run_id: str, *, by_operator: bool) -> None:
        by = "operator" if by_operator else "signal"
        try:
            async with (
                asyncio.timeout(_CONNECT_S),
                self._session() as session,
                session.post(f"http://daemon/runs/{run_id}/cancel?by={by}") as got,
            ):
                await got.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise _gone() from exc

    async def status(self) -> schemas.Status:
        """What it says of itself, in one glance."""
        return schemas.Status.model_validate(await self._asked("GET", "/api/v1/status"))

    async def known_run(self, run_id: UUID) -> run_schemas.Run:
        """A run as it knows it, also before PostgreSQL does. PermanentError where it knows none."""
        return run_schemas.Run.model_validate(await self._asked("GET", f"/api/v1/runs/{run_id}"))

    async def cancel(self, run_id: UUID) -> None:
        """Asks a run to end, as an operator does. PermanentError where it is not under way."""
        await self._asked("POST", f"/api/v1/runs/{run_id}/cancel")

    async def reload(self) -> schemas.Reloaded:
        """Has the configuration read again; what that changed. ConfigError where it is kept as it was."""
        return schemas.Reloaded.model_validate(await self._asked("POST", "/-/reload"))

    async def _asked(self, method: str, path: str) -> Any:
        try:
            async with (
                asyncio.timeout(_ANSWER_S),
                self._session() as session,
                session.request(method, f"http://daemon{path}") as got,
            ):
                answer = await got.json(content_type=None)
        except TimeoutError as exc:
            raise TransientError("the daemon does not answer: look at its log, or restart it") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            raise _gone() from exc
        if got.status == HTTPStatus.UNPROCESSABLE_ENTITY and "problems" in answer:
            raise ConfigError(answer["problems"])
        if got.status >= HTTPStatus.BAD_REQUEST:
            raise PermanentError(f"the daemon refused it: {answer['detail']}")
        return answer

    def _session(self) -> aiohttp.ClientSession:
        # A run takes as long as it takes; a line of a report may be long.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        return aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self._socket)), timeout=timeout, read_bufsize=2**24
        )


def _error(told: dict[str, Any] | None) -> IcekeeperError | None:
    return None if told is None else _raised(told)


def _raised(error: dict[str, Any]) -> IcekeeperError:
    """The daemon's error, as if it had happened here."""
    if error["kind"] == "config":
        return ConfigError(error["problems"])
    kind = RunLockHeld if error["kind"] == "lock" else PermanentError
    return kind(error["message"], reason=Reason.__members__[error["reason"].upper()])


def _gone() -> IcekeeperError:
    return TransientError(
        "the daemon ended before it could answer: its log says why; a run in hand is settled by its next start"
    )
