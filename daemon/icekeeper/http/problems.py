"""Problem documents (RFC 9457): what a request is answered that can't be served. Nothing of ours leaks into them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from pydantic import ValidationError

from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.core.plain import plain
from icekeeper.execution.lock import RunLockHeld
from icekeeper.status.queries import NotFoundError

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NotAllowedError(Exception):
    """A request carries what its endpoint doesn't take. Of an answer of ours that is wrong it says nothing."""

    def __init__(self, of: ValidationError) -> None:
        super().__init__(str(of))
        self.of = of

    @property
    def said(self) -> str:
        """What is wrong where, in a line; without what was given: it may be a secret in the wrong place."""
        return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in self._errors())

    def _errors(self) -> list[Any]:
        return list(self.of.errors(include_url=False, include_input=False, include_context=False))

    def documents(self) -> list[dict[str, str]]:
        """The same, one by one."""
        return [{"at": ".".join(map(str, each["loc"])) or "body", "wrong": each["msg"]} for each in self._errors()]


def problem(status: HTTPStatus, detail: str, **more: Any) -> web.Response:
    """A problem document; `more` are members of its own."""
    document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **plain(more)}
    return web.json_response(document, status=status.value, content_type="application/problem+json")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers every error by a problem document, whatever was raised."""
    try:
        return await handler(request)
    except NotAllowedError as exc:
        said = f"What was asked is not allowed: {exc.said}."
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, said, errors=exc.documents())
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        answer = problem(HTTPStatus(exc.status), exc.reason)
        if "Allow" in exc.headers:
            answer.headers["Allow"] = exc.headers["Allow"]
        return answer
    except ConnectionError:
        return web.Response(status=HTTPStatus.BAD_REQUEST)  # whoever asked is gone, and nobody hears it
    except Exception as exc:
        return _of(exc)


def _of(error: Exception) -> web.Response:
    if isinstance(error, NotFoundError):
        return problem(HTTPStatus.NOT_FOUND, f"{error}.")
    if isinstance(error, ConfigError):
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(error.problems), problems=error.problems)
    if isinstance(error, RunLockHeld):
        return problem(HTTPStatus.CONFLICT, f"{error}.")
    if isinstance(error, IcekeeperError):
        answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}.", reason=error.reason, advice=error.reason.advice)
        answer.headers["Retry-After"] = "10"
        return answer
    if isinstance(error, asyncio.TimeoutError):
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "It took too long: try again, or look at /readyz.")
    log.exception("request_crashed")
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "A bug: the daemon's log says more, please report it.")
