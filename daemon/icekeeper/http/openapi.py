"""Makes the API's OpenAPI document of its routes."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from icekeeper import __version__
from icekeeper.http.routes import Content, NoInput, Route
from icekeeper.status.schemas import Problem

_REF = "#/components/schemas/{model}"
_PROBLEM = {"application/problem+json": {"schema": {"$ref": _REF.format(model=Problem.__name__)}}}
_ABOUT = """
What the icekeeper daemon knows: its nights, tables, plans and logs. Reading needs no token unless `http.read_token` is
set; what changes something needs `http.token` as a bearer token, and answers 403 where none is configured. The daemon's
control socket has the same API and needs no token. Every error is a problem document (RFC 9457). Instants are ISO 8601
in UTC, durations seconds, sizes bytes.
"""
# OpenAPI 3.1 has no schema for a stream: this is the one of an event, whose `data` is JSON as text.
EVENTS = "text/event-stream"
_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["event", "data"],
}
# Problems that every endpoint may answer with.
_ALWAYS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)
_FOR_CHANGES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
_FOR_BODIES = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    routes = tuple(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        # Relative to this document, so that it is right below a proxy's path, too.
        "servers": [{"url": "../.."}],
        "info": {"title": "icekeeper", "version": __version__, "description": _ABOUT.strip()},
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "http.token"}},
        },
    }


def _schemas(routes: Iterable[Route]) -> dict[str, Any]:
    answered: set[type[BaseModel]] = {Problem}
    for route in routes:
        for contents in route.answers.values():
            answered.update(content for content in _each(contents) if not isinstance(content, str))
    bodies = {route.body for route in routes if route.body is not None}
    wanted: list[Any] = [
        *((kind, "serialization") for kind in sorted(answered, key=lambda kind: kind.__name__)),
        *((kind, "validation") for kind in sorted(bodies, key=lambda kind: kind.__name__)),
    ]
    _, schema = models_json_schema(wanted, ref_template=_REF)
    published = {body.__name__: _name(body) for body in bodies}
    schemas = {published.get(name, name): found for name, found in schema["$defs"].items()}
    for route in routes:
        for name, found in _schema_of_parameters(route).get("$defs", {}).items():
            if schemas.setdefault(name, found) != found:
                raise ValueError(f"two schemas are called {name}")
    return schemas


def _name(body: type[BaseModel]) -> str:
    """The published name of a body's schema: pydantic names it by the class, whatever its title."""
    return body.model_config.get("title") or body.__name__


def _operation(route: Route) -> dict[str, Any]:
    refused = {*_ALWAYS, *route.problems}
    if route.changes:
        refused.update(_FOR_CHANGES)
    if route.body is not None:
        refused.update(_FOR_BODIES)
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": {
            **{
                str(status.value): {"description": status.phrase, "content": dict(map(_content, _each(contents)))}
                for status, contents in route.answers.items()
            },
            **{str(status.value): {"description": status.phrase, "content": _PROBLEM} for status in sorted(refused)},
        },
    }
    if route.body is not None:
        schema = {"$ref": _REF.format(model=_name(route.body))}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if route.changes:
        operation["security"] = [{"token": []}]
    return operation


def _schema_of_parameters(route: Route) -> dict[str, Any]:
    return route.parameters.model_json_schema(ref_template=_REF)


def _parameters(route: Route) -> list[dict[str, Any]]:
    if route.parameters is NoInput:
        return []
    schema = _schema_of_parameters(route)
    required = schema.get("required", [])
    parameters = []
    for name, each in schema["properties"].items():
        in_path = f"{{{name}}}" in route.path
        rest = {key: value for key, value in each.items() if key not in ("title", "description")}
        parameters.append(
            {
                "name": name,
                "in": "path" if in_path else "query",
                "required": in_path or name in required,
                "description": each.get("description", ""),
                "schema": rest,
            }
        )
    return parameters


def _content(content: Content) -> tuple[str, dict[str, Any]]:
    if content == EVENTS:
        return content, {"schema": _EVENT}
    if isinstance(content, str):
        return content, {"schema": {"type": "string"}}
    return "application/json", {"schema": {"$ref": _REF.format(model=content.__name__)}}


def _each(contents: Content | tuple[Content, ...]) -> tuple[Content, ...]:
    return contents if isinstance(contents, tuple) else (contents,)
