"""Holds HTTP answers against the OpenAPI document, strictly: what it does not declare is a mistake."""

from __future__ import annotations

from typing import Any

import httpx2
import jsonschema
from starlette.routing import Match, Route

from gateway.app import create_app
from gateway.endpoints.operations import operation_of
from gateway.openapi import openapi
from gateway.settings import Settings

_ROUTES = [  # a test of its own sees to it that none lacks its declaration
    route
    for route in create_app(Settings()).routes
    if isinstance(route, Route) and route.include_in_schema and operation_of(route.endpoint) is not None
]
DOCUMENT = openapi(_ROUTES)


class Undeclared(AssertionError):
    """An answer is not what `/openapi.json` says."""


async def check_answer(response: httpx2.Response) -> None:
    """Raises `Undeclared` unless the answer to a request of a published route is one that the document declares.

    Reads the body of JSON answers. A hook of a client: `event_hooks={"response": [check_answer]}`.
    """
    declared = _declared(response.request.method, response.request.url.path)
    if declared is None:
        return
    kind = response.headers.get("content-type", "").partition(";")[0]
    where = f"{response.request.method} {response.request.url.path}: {response.status_code}"
    answer = declared["responses"].get(str(response.status_code))
    if answer is None:
        raise Undeclared(f"{where} is not declared")
    content = answer.get("content", {})
    if kind not in content and (kind or content):
        raise Undeclared(f"{where}: {kind!r} is not among {sorted(content)}")
    if kind == "application/json" and "schema" in content[kind]:
        await response.aread()
        check(response.json(), content[kind]["schema"], where)


def check(value: Any, schema: dict[str, Any], where: str) -> None:
    """Raises `Undeclared` unless `value` is as the schema says, with no property that it does not name."""
    strict = {"components": {"schemas": _SCHEMAS}, **_strict(schema)}
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(strict).iter_errors(value))
    if problem is not None:
        raise Undeclared(f"{where}: {problem.json_path}: {problem.message}")


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict


_SCHEMAS = _strict(DOCUMENT["components"]["schemas"])


def _declared(method: str, path: str) -> dict[str, Any] | None:
    scope = {"type": "http", "method": method, "path": path}
    for route in _ROUTES:
        if route.matches(scope)[0] == Match.FULL:
            declared: dict[str, Any] = DOCUMENT["paths"][route.path_format]
            return declared.get(method.lower())
    return None
