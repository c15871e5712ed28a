"""The client of a daemon on this host: its HTTP API over the control socket, and its problems as errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID

import aiohttp
from pydantic import BaseModel, ValidationError

from icekeeper.adapters.records import event_from_plain, from_plain
from icekeeper.adapters.users import clean_name, operator_name
from icekeeper.control.server import ACTOR_HEADER, SOCKET
from icekeeper.core.enums import Stage
from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.events import Event, RunEnded, RunStarted, Subscriber
from icekeeper.core.plain import to_plain
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.core.tables.plan import Plan
from icekeeper.execution.execute import Executed
from icekeeper.execution.lock import RunLockHeld
from icekeeper.night.order import StopRequest
from icekeeper.scheduling.orders import RunRequest
from icekeeper.status import run_schemas, schemas

M = TypeVar("M", bound=BaseModel)

_CONNECT_S = 5.0
_ANSWER_S = 30.0
# The last events of a run that is answered by its events: see http/events.py.
_SETTLED = "run_settled"
_ERROR = "error"
# Before the first event, with the run's id.
_ORDERED = "run_ordered"


class DaemonClient:
    """Asks the daemon that serves a state directory. Its refusals are raised as if they had happened in this process:
    ConfigError, RunLockHeld, else PermanentError; TransientError where it does not answer.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @classmethod
    async def find(cls, state_dir: Path) -> DaemonClient | None:
        """The client of the daemon there, None where there is none. PermanentError where its socket can't be opened."""
        path = state_dir / SOCKET
        try:
            _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), _CONNECT_S)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        except PermissionError as exc:
            text = f"{path} can't be opened: run this as the daemon's user (or as root)"
            raise PermanentError(text, reason=Reason.ACCESS_DENIED) from exc
        except TimeoutError as exc:
            raise TransientError(f"the daemon behind {path} does not answer: look at its log, or restart it") from exc
        writer.close()
        return cls(path)

    async def run(self, request: RunRequest, emit: Subscriber, stop: StopRequest) -> Executed:
        """Has a run done, and emits its events. Cancelled, it asks the daemon to end the run, and waits for the end.

        `stop` says whether an operator did so.
        """
        run_id: UUID | None = None
        begun, to_cancel = False, False
        report: RunReport | None = None
        events = self._events_of(request)
        following: asyncio.Future[tuple[str, Any]] | None = None
        while True:
            following = following or asyncio.ensure_future(anext(events))
            try:
                name, data = await asyncio.shield(following)
            except asyncio.CancelledError:
                if run_id is not None:
                    await self._end(run_id, stop)
                elif to_cancel:  # cancelled twice: the daemon begins no run for a command that has left
                    following.cancel()
                    await asyncio.wait([following])
                    raise
                to_cancel = True
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()  # answered by the report that is to come
                continue
            except StopAsyncIteration:
                raise _gone() from None
            following = None
            if name == _ORDERED:
                run_id = data
                if to_cancel:
                    await self._end(run_id, stop)
                continue
            if name == _ERROR:
                if to_cancel and not begun:
                    raise asyncio.CancelledError  # it was, before it could begin
                raise _error_of(data)
            if name == _SETTLED:
                if report is None:
                    raise _other_version(f"it sent no report of run {run_id}")
                return Executed(report, _error_or_none(data["not_recorded"]), _error_or_none(data["not_shipped"]))
            if (event := _event_of(name, data)) is None:
                continue
            if isinstance(event, RunStarted):
                begun = True
            elif isinstance(event, RunEnded):
                report = event.report
            emit(event)

    async def _end(self, run_id: UUID, stop: StopRequest) -> None:
        with suppress(PermanentError):  # it has just ended: its report is on its way, or here
            await self.cancel(run_id, by_operator=stop.by_operator)

    async def plan(self, request: RunRequest) -> tuple[list[Plan], dict[str, str]]:
        """What a run would do, and an error for every table that could not be read."""
        answer = await self._ask("POST", "/api/v1/runs", {**_body(request), "dry_run": True}, limit_s=None)
        return [from_plain(Plan, plan) for plan in answer["plans"]], answer["errors"]

    async def status(self) -> schemas.Status:
        """Its state, and the run under way."""
        return await self._get("/api/v1/status", schemas.Status)

    async def known_run(self, run_id: UUID) -> run_schemas.Run:
        """A run as the daemon knows it, also before PostgreSQL does. PermanentError where it knows none."""
        return await self._get(f"/api/v1/runs/{run_id}", run_schemas.Run)

    async def cancel(self, run_id: UUID, *, by_operator: bool = True) -> None:
        """Has a run end as `cancelled`, or as `interrupted` if not by an operator. PermanentError where none is."""
        outcome = "" if by_operator else "?outcome=interrupted"
        await self._ask("POST", f"/api/v1/runs/{run_id}/cancel{outcome}")

    async def accept_rewrites(self, table: str, note: str, by: str) -> schemas.Accepted:
        """Has a table's rewrite accepted that was found wrong."""
        body = {"note": note, "by": by}
        path = f"/api/v1/tables/{quote(table, safe='')}/accept-rewrite"
        return _parsed(schemas.Accepted, await self._ask("POST", path, body, limit_s=None, actor=by))

    async def hold(
        self, table: str, stages: Iterable[Stage], until: datetime | None, note: str, by: str
    ) -> tuple[OperatorHold, ...]:
        """Puts stages of a table on hold, and returns the holds."""
        body = {"stages": to_plain(tuple(stages)), "note": note, "by": by}
        return await self._of_holds(table, "hold", body if until is None else {**body, "until": to_plain(until)}, by)

    async def release(self, table: str, stages: Iterable[Stage], by: str) -> tuple[OperatorHold, ...]:
        """Ends the holds of these stages of a table, and returns them."""
        return await self._of_holds(table, "release", {"stages": to_plain(tuple(stages)), "by": by}, by)

    async def _of_holds(self, table: str, order: str, body: Mapping[str, Any], by: str) -> tuple[OperatorHold, ...]:
        try:
            answer = await self._ask("POST", f"/api/v1/tables/{quote(table, safe='')}/{order}", body, actor=by)
        except TransientError as exc:
            if not isinstance(exc.__cause__, TimeoutError):
                raise
            raise TransientError(f"{exc}; it may have been stored: see icekeeper hold --list {table}") from exc
        return tuple(from_plain(OperatorHold, one) for one in answer["items"])

    async def reload(self) -> schemas.Reloaded:
        """Has the configuration read again; what that changed. ConfigError where it is kept as it was."""
        return _parsed(schemas.Reloaded, await self._ask("POST", "/-/reload"))

    async def _get(self, path: str, model: type[M]) -> M:
        return _parsed(model, await self._ask("GET", path))

    async def _ask(
        self, method: str, path: str, body: Any = None, *, limit_s: float | None = _ANSWER_S, actor: str | None = None
    ) -> Any:
        try:
            async with (
                asyncio.timeout(limit_s),
                self._session(actor) as session,
                session.request(method, f"http://daemon{path}", json=body) as response,
            ):
                answer = await response.json(content_type=None)
        except TimeoutError as exc:
            raise TransientError("the daemon does not answer: look at its log, or restart it") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            raise _gone() from exc
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _error_of(answer)
        return answer

    async def _events_of(self, request: RunRequest) -> AsyncIterator[tuple[str, Any]]:
        """The names and data of a run's events, from its beginning until it is settled."""
        name = ""
        try:
            async with (
                self._session(request.actor) as session,
                session.post("http://daemon/api/v1/runs?events=true", json=_body(request)) as response,
            ):
                if response.status != HTTPStatus.OK:
                    raise _error_of(await response.json(content_type=None))
                if (location := response.headers.get("Location")) is None:
                    raise _other_version("its answer does not name the run")
                yield _ORDERED, UUID(location.rpartition("/")[2])
                async for raw in response.content:
                    field, _, value = raw.decode().rstrip("\n").partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        yield name, json.loads(value)
        except (aiohttp.ClientError, ValueError) as exc:
            raise _gone() from exc

    def _session(self, actor: str | None) -> aiohttp.ClientSession:
        # A run takes as long as it takes; the line of a report may be long.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        return aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self._socket)),
            headers={ACTOR_HEADER: clean_name(actor) or operator_name()},
            timeout=timeout,
            read_bufsize=2**24,
        )


def _body(request: RunRequest) -> dict[str, Any]:
    # A daemon of before doesn't know every key. Who orders is in a header of each request.
    return {key: value for key, value in to_plain(request).items() if value not in (None, [], {}) and key != "actor"}


def _event_of(name: str, data: Any) -> Event | None:
    try:
        return event_from_plain({"event": name, "data": data})
    except ValueError:  # one that only a newer daemon knows
        return None


def _parsed(model: type[M], answer: Any) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError as exc:
        raise _other_version(f"{exc.error_count()} fields of its answer are missing or unknown") from exc


def _error_or_none(problem: Mapping[str, Any] | None) -> IcekeeperError | None:
    return None if problem is None else _error_of(problem)


def _error_of(problem: Mapping[str, Any]) -> IcekeeperError:
    """The error that a problem document is about."""
    if "problems" in problem:
        return ConfigError(problem["problems"])
    detail, status = str(problem["detail"]).removesuffix("."), problem["status"]
    if "errors" in problem or detail == HTTPStatus.NOT_FOUND.phrase:  # this version's own requests are right
        return _other_version(detail)
    if status == HTTPStatus.CONFLICT:
        return RunLockHeld(detail)
    known = {reason.value: reason for reason in Reason}
    return PermanentError(detail, reason=known.get(problem.get("reason", "")))


def _gone() -> IcekeeperError:
    return TransientError(
        "the daemon ended before it could answer: its log says why; its next start settles the run that was under way"
    )


def _other_version(detail: str) -> IcekeeperError:
    text = f"the daemon runs another version of icekeeper, which does not understand this command ({detail})"
    return PermanentError(f"{text}: restart the daemon, then give the command again")
