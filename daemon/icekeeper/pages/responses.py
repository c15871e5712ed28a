"""What all pages share: rendering templates, errors as pages, parsing queries and forms. No routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from icekeeper.core.errors import IcekeeperError
from icekeeper.http.access import Access
from icekeeper.http.problems import NotAllowedError, problem_document
from icekeeper.http.routes import Input
from icekeeper.night.ports import Clock
from icekeeper.pages import views
from icekeeper.pages.filters import FILTERS
from icekeeper.status.queries import NotFoundError

Parameters = TypeVar("Parameters", bound=Input)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Responses:
    """Renders pages, and turns the errors of handlers into pages."""

    def __init__(self, access: Access, clock: Clock) -> None:
        self._access = access
        self._clock = clock
        self._templates = environment(lambda: access.root)

    def rendered(
        self, request: web.Request, template: str, status_code: HTTPStatus = HTTPStatus.OK, **values: Any
    ) -> web.Response:
        text = self._templates.get_template(template).render(
            path=request.path,
            now=self._clock(),
            changes_allowed=self._access.changes_allowed,
            signed_in=self._access.signed_in(request),
            sign_in_possible=self._access.sign_in_possible,
            **values,
        )
        # A log line may hold a lone surrogate.
        body = text.encode(errors="replace")
        return web.Response(body=body, content_type="text/html", charset="utf-8", status=status_code)

    def with_error_pages(self, handler: Handler) -> Handler:
        """The handler, its errors shown as pages."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except (NotFoundError, IcekeeperError) as exc:
                known = problem_document(exc)
                return self._error(request, HTTPStatus(known["status"]), known["detail"], known.get("advice", ""))
            except NotAllowedError as exc:
                return self._error(request, HTTPStatus.UNPROCESSABLE_ENTITY, f"That is not allowed: {exc.text}.")
            except TimeoutError:
                advice = "Try again; /readyz names the components that are down."
                return self._error(request, HTTPStatus.SERVICE_UNAVAILABLE, "It took too long.", advice)

        return handle

    def for_signed_in(self, handler: Handler) -> Handler:
        """The handler, for signed-in browsers only."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if not self._access.changes_allowed:
                text = "Nothing can be changed over HTTP: http.token is not set."
                return self._error(request, HTTPStatus.FORBIDDEN, text)
            if not self._access.signed_in(request):
                raise web.HTTPSeeOther("/sign-in")
            return await handler(request)

        return handle

    def _error(self, request: web.Request, status: HTTPStatus, text: str, advice: str = "") -> web.Response:
        return self.rendered(request, "error.html", status, title=status.phrase, text=text, advice=advice)


def environment(root: Callable[[], str] = lambda: "") -> Environment:
    """The templates with their filters, loaded: everything is escaped, and an undefined name is an error.

    `root`: the path that links begin with.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.globals["root"] = root
    templates.filters.update(FILTERS, by_table=views.by_table)
    # All at once, because a package upgraded under a running daemon brings templates for newer code.
    for name in templates.list_templates():
        templates.get_template(name)
    return templates


def parsed(kind: type[Parameters], given: Mapping[str, Any]) -> Parameters:
    """The validated parameters. NotAllowedError says which are invalid."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as exc:
        raise NotAllowedError(exc) from exc


async def form_of(request: web.Request) -> Any:
    """The fields of a submitted form."""
    try:
        return await request.post()
    except (LookupError, ValueError) as exc:  # an unknown character set, or no form at all
        raise web.HTTPBadRequest(reason="The form can't be read.") from exc
