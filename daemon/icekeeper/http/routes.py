"""An endpoint of the API: what it takes, what it answers, who may ask. From these comes the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from icekeeper.http.problems import NotAllowedError

Answer = BaseModel | web.StreamResponse


class Taken(BaseModel):
    """What a request carries: strictly this."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Nothing(Taken):
    """No parameter."""


@dataclass(frozen=True, slots=True)
class Route:
    """`parameters` are of the path and the query, `body` is JSON. `answers` by status: a model, or a media type."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    handle: Callable[..., Awaitable[Answer]]
    answers: Mapping[HTTPStatus, type[BaseModel] | str]
    parameters: type[Taken] = Nothing
    body: type[Taken] | None = None
    # Statuses of problem documents, beside those that any request may get.
    problems: tuple[HTTPStatus, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether it needs the bearer token."""
        return self.method == "POST"

    async def taken(self, request: web.Request) -> tuple[Taken, ...]:
        """What the request carries, checked. NotAllowedError says what is wrong, HTTPException of what kind it is."""
        given: dict[str, Any] = dict(request.query)
        if len(given) < len(request.query) or given.keys() & request.match_info.keys():
            raise web.HTTPUnprocessableEntity(reason="A parameter is given twice.")
        try:
            parameters = self.parameters.model_validate({**given, **request.match_info})
            if self.body is None:
                return (parameters,)
            if request.content_type != "application/json":
                raise web.HTTPUnsupportedMediaType(reason="The body has to be application/json.")
            return (parameters, self.body.model_validate_json(await request.read(), strict=True))
        except ValidationError as exc:
            raise NotAllowedError(exc) from exc
