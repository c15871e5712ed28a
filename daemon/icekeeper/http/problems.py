"""Problem documents (RFC 9457): the answer to a request that can't be served. They hold no internals of the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from pydantic import ValidationError

from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.core.plain import to_plain
from icekeeper.execution.lock import RunLockHeld
from icekeeper.status.queries import NotFoundError

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NotAllowedError(Exception):
    """A request has what its endpoint doesn't take. Not for answers of the daemon that are wrong."""

    def __init__(self, of: ValidationError) -> None:
        super().__init__(str(of))
        self.of = of

    @property
    def text(self) -> str:
        """What is wrong where, in a line; without the value given: it may be a secret in the wrong place."""
        return "; ".join(f"{error['at']}: {error['wrong']}" for error in self.documents())

    def documents(self) -> list[dict[str, str]]:
        """The same, one by one."""
        errors = self.of.errors(include_url=False, include_input=False, include_context=False)
        return [{"at": ".".join(map(str, error["loc"])) or "body", "wrong": error["msg"]} for error in errors]


def problem(status: HTTPStatus, detail: str, **more: Any) -> web.Response:
    """A problem document as an answer; `more` are members of its own."""
    return _response(_document(status, detail, **more))


def problem_document(error: BaseException) -> dict[str, Any]:
    """The problem document of an error. One that is a bug is logged, and its text stays in the log."""
    if isinstance(error, NotFoundError):
        return _document(HTTPStatus.NOT_FOUND, f"{error}.")
    if isinstance(error, NotAllowedError):
        status, detail = HTTPStatus.UNPROCESSABLE_ENTITY, f"What was asked is not allowed: {error.text}."
        return _document(status, detail, errors=error.documents())
    if isinstance(error, ConfigError):
        return _document(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(error.problems), problems=error.problems)
    if isinstance(error, RunLockHeld):
        return _document(HTTPStatus.CONFLICT, f"{error}.")
    if isinstance(error, IcekeeperError):
        status, reason = HTTPStatus.SERVICE_UNAVAILABLE, error.reason
        return _document(status, f"{error}.", reason=reason, advice=reason.advice)
    if isinstance(error, asyncio.TimeoutError):
        return _document(HTTPStatus.SERVICE_UNAVAILABLE, "It took too long: try again, or look at /readyz.")
    log.error("request_crashed", exc_info=error)
    return _document(HTTPStatus.INTERNAL_SERVER_ERROR, "A bug: the daemon's log says more, please report it.")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers every error by a problem document, whatever was raised."""
    try:
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        answer = problem(HTTPStatus(exc.status), exc.reason)
        if "Allow" in exc.headers:
            answer.headers["Allow"] = exc.headers["Allow"]
        return answer
    except ConnectionError:
        return web.Response(status=HTTPStatus.BAD_REQUEST)  # the client is gone: nothing reaches it
    except Exception as exc:
        answer = _response(problem_document(exc))
        if isinstance(exc, IcekeeperError) and answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            answer.headers["Retry-After"] = "10"
        return answer


def _document(status: HTTPStatus, detail: str, **more: Any) -> dict[str, Any]:
    return {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **to_plain(more)}


def _response(document: dict[str, Any]) -> web.Response:
    return web.json_response(document, status=document["status"], content_type="application/problem+json")
