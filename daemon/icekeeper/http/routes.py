"""An endpoint of the API: its parameters, answers and rights. The OpenAPI document is made of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from icekeeper.http.problems import NotAllowedError

# A function serves an answer that goes on: it gets the request.
Answer = BaseModel | web.StreamResponse | Callable[[web.Request], Awaitable[web.StreamResponse]]
Content = type[BaseModel] | str
Answers = Mapping[HTTPStatus, Content | tuple[Content, ...]]


class Input(BaseModel):
    """What a request may hold, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoInput(Input):
    """No parameter."""


@dataclass(frozen=True, slots=True)
class Route:
    """`parameters` are of the path and the query, `body` is JSON. `answers` by status: models, or media types."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    handle: Callable[..., Awaitable[Answer]]
    answers: Answers
    parameters: type[Input] = NoInput
    body: type[Input] | None = None
    # Statuses of problem documents, beside those of every endpoint.
    problems: tuple[HTTPStatus, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether it changes something: such requests need the bearer token."""
        return self.method == "POST"

    async def input_of(self, request: web.Request) -> tuple[Input, ...]:
        """The request's parameters and body, validated. NotAllowedError where they are wrong, HTTPException else."""
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
