"""`GET /metrics`: for Prometheus."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from gateway.endpoints.bearer import identity_of
from gateway.endpoints.operations import Binary, operation
from gateway.errors import Forbidden
from gateway.metrics import Now
from gateway.services import Services

FORWARDED = ("forwarded", "via", "x-real-ip")
"""With everything that begins with `x-forwarded`: a proxy has passed the request on."""


@operation(
    "health", answers={200: Binary(("text/plain", "application/openmetrics-text"), "In Prometheus' text format.")}
)
async def metrics(request: Request) -> Response:
    """`GET /metrics`: for Prometheus. Open to who asks from this machine itself, else with an owner's token."""
    if not _from_here(request) and not (await identity_of(request)).owner:
        raise Forbidden("only the owner may see this")
    services: Services = request.app.state.services
    counts = services.hub.counts()
    now = Now(
        connections={agent.name: counts[agent.name] for agent in services.agents},
        running=services.runner.count,
        stuck=services.runner.stuck,
        outbox=await services.store.outbox_sizes(),
    )
    body, media_type = services.metrics.exposition(request.headers.get("accept", ""), now)
    return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})


def _from_here(request: Request) -> bool:
    """Whether a program on this machine asks for itself.

    A proxy or a tunnel on this machine connects from loopback as well. It says whom it speaks for in a header (which
    uvicorn believes, so the client may say loopback by itself), or passes on the name that the client asked for.
    """
    if any(name in FORWARDED or name.startswith("x-forwarded") for name in request.headers):
        return False
    client, asked_for = request.client, request.headers.get("host", "")
    return client is not None and _is_loopback(client.host) and _is_loopback(_without_port(asked_for))


def _without_port(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
