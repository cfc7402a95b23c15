"""The application: routes and lifespan, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from gateway.endpoints import (
    agents,
    approvals,
    attachments,
    compat,
    console,
    contracts,
    devices,
    export,
    health,
    metrics,
    pairing,
    search,
    sse,
    threads,
    turns,
)
from gateway.endpoints.answers import failure, refused
from gateway.endpoints.cors import cross_origin
from gateway.endpoints.websocket import AgentSocket
from gateway.errors import GatewayError
from gateway.services import Services, open_services
from gateway.settings import Settings

GOODBYE_SPREAD_MS = 3000
"""Clients come back spread over this time, not all at once."""
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

_log = structlog.get_logger(__name__)


class Gateway(Starlette):
    """Starlette, but sockets go straight to their route: no middleware has anything to do for them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope["app"] = self
            await self.router(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> Starlette:
    """A gateway as an ASGI application; `app.state.drain` is its orderly end, to be awaited before its shutdown."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

    app = Gateway(
        routes=[
            WebSocketRoute("/api/{agent}/ws", AgentSocket()),
            Route("/api/health", health.health),
            Route("/health", health.health, include_in_schema=False),  # as /api/health
            Route("/api/health/live", health.live),
            Route("/api/health/ready", health.ready),
            Route("/metrics", metrics.metrics),
            Route("/openapi.json", contracts.openapi_json),
            Route("/asyncapi.json", contracts.asyncapi_json),
            Route("/api/agents", agents.agents),
            Route("/api/agents/{agent}/sessions", agents.sessions),
            Route("/api/agents/{agent}/sessions/{session_id}", agents.adopt_session, methods=["POST"]),
            Route("/api/threads", threads.threads),
            Route("/api/threads/{thread_id}", threads.thread),
            Route("/api/threads/{thread_id}", threads.rename_thread, methods=["PATCH"]),
            Route("/api/threads/{thread_id}", threads.delete_thread, methods=["DELETE"]),
            Route("/api/threads/{thread_id}/messages", threads.messages),
            Route("/api/threads/{thread_id}/events", sse.follow_thread),
            Route("/api/threads/{thread_id}/export", export.export_thread),
            Route("/api/search", search.search),
            Route("/api/attachments", attachments.upload, methods=["POST"]),
            Route("/api/attachments/{attachment_id}", attachments.download),
            Route("/api/turns/{turn_id}", turns.turn),
            Route("/api/turns/{turn_id}/cancel", turns.cancel_turn, methods=["POST"]),
            Route("/api/turns/{turn_id}/retry", turns.retry_turn, methods=["POST"]),
            Route("/api/devices", devices.devices),
            Route("/api/devices/{device_id}", devices.device),
            Route("/api/devices/{device_id}", devices.put_device, methods=["PUT"]),
            Route("/api/devices/{device_id}", devices.delete_device, methods=["DELETE"]),
            Route("/api/devices/{device_id}/test", devices.try_device, methods=["POST"]),
            Route("/api/approvals/{approval_id}", approvals.decide_approval, methods=["POST"]),
            Route("/api/pair", pairing.pair, methods=["POST"]),
            Route("/api/pair/codes", pairing.new_code, methods=["POST"]),
            Route("/api/pair/devices", pairing.paired_devices),
            Route("/api/pair/devices/{id}", pairing.revoke, methods=["DELETE"]),
            Route("/api/{agent}/messages", turns.send_message, methods=["POST"]),
            Route("/api/{agent}/stream", sse.stream_turn, methods=["POST"]),
            Route("/query_stream", compat.query_stream, methods=["POST"]),
            Route("/projects/{project_id}/threads/{thread_id}/query/stream", compat.project_query, methods=["POST"]),
            *console.routes(),
        ],
        exception_handlers={GatewayError: refused, HTTPException: _http_error, Exception: _internal_error},
        middleware=cross_origin(settings),
        lifespan=lifespan,
    )

    async def drain() -> None:
        services: Services = app.state.services
        services.runner.draining = True
        services.hub.say_goodbye("the server restarts", GOODBYE_SPREAD_MS)
        await services.runner.drain(settings.drain_seconds)

    app.state.drain = drain
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return failure(status, HTTP_CODES.get(status, "bad_request"), "there is nothing like that here")


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("request_failed", exc_info=error)
    return failure(500, "internal", "the server made a mistake; it is in its log", retryable=True)
