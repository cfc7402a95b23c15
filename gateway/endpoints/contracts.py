"""The machine-readable contracts."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.asyncapi import asyncapi
from gateway.endpoints.answers import answer
from gateway.endpoints.operations import operation
from gateway.openapi import openapi


@operation("contracts", answers={200: dict[str, Any]}, token=False)
async def openapi_json(request: Request) -> Response:
    """`GET /openapi.json`: the HTTP interface as OpenAPI."""
    return answer(openapi(request.app.routes))


@operation("contracts", answers={200: dict[str, Any]}, token=False)
async def asyncapi_json(request: Request) -> Response:
    """`GET /asyncapi.json`: the sockets as AsyncAPI."""
    return answer(asyncapi())
