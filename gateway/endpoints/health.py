"""`/api/health`, `/api/health/live`, `/api/health/ready`: for people, orchestrators and load balancers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.clock import timestamp
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_or_none
from gateway.endpoints.operations import operation
from gateway.errors import StoreUnavailable
from gateway.nodes.link import RedisLink
from gateway.nodes.presence import Standing, connections
from gateway.services import Services
from providers.version import version

STORE_SECONDS = 2.0
"""How long the database may take to answer before it counts as down."""


class Health(msgspec.Struct, frozen=True):
    status: Literal["ok", "degraded", "unavailable"]
    version: str
    timestamp: str
    connections: dict[str, int]
    """Open sockets by agent, of all nodes together."""
    checks: dict[str, str] | UnsetType = UNSET
    """In words, for the owner alone."""


class Readiness(msgspec.Struct, frozen=True):
    status: Literal["ok", "draining", "unavailable"]


@operation("health", answers={200: Health, 503: Health}, token=False)
async def health(request: Request) -> Response:
    """`GET /api/health`: how the gateway is. Open to all; with an owner's token also `checks`, in words."""
    services: Services = request.app.state.services
    store, nodes = await asyncio.gather(_store(services), services.presence.nodes())
    counts = connections(nodes)
    link = services.link
    blocks = services.loop_watch.recent()
    degraded = bool(blocks) or services.runner.stuck > 0 or (link is not None and not link.up)
    checks: dict[str, str] | UnsetType = UNSET
    identity = await identity_or_none(request)
    if identity is not None and identity.owner:
        checks = {
            "store": store or "answers",
            **({} if link is None else _cluster(link, nodes)),
            "draining": "yes" if services.runner.draining else "no",
            "turns": f"{services.runner.count} running",
            "providers": f"{services.runner.stuck} stuck: they did not end when they were stopped",
            "event loop": "; ".join(f"blocked by {block.task} at {block.where}" for block in blocks) or "never blocked",
            **{f"agent {agent.name}": agent.reason or "configured" for agent in services.agents},
        }
    shown = Health(
        status="unavailable" if store is not None else "degraded" if degraded else "ok",
        version=version(),
        timestamp=timestamp(),
        connections={agent.name: counts[agent.name] for agent in services.agents},
        checks=checks,
    )
    return answer(shown, 200 if store is None else 503)


@operation("health", answers={200: Readiness}, token=False)
async def live(request: Request) -> Response:
    """`GET /api/health/live`: the process answers."""
    return answer(Readiness("ok"))


@operation("health", answers={200: Readiness, 503: Readiness}, token=False)
async def ready(request: Request) -> Response:
    """`GET /api/health/ready`: new clients may be sent here."""
    services: Services = request.app.state.services
    if services.runner.draining:
        return answer(Readiness("draining"), 503)
    if await _store(services) is not None:
        return answer(Readiness("unavailable"), 503)
    return answer(Readiness("ok"))


def _cluster(link: RedisLink, nodes: Mapping[str, Standing]) -> dict[str, str]:
    """What the owner is told of Redis and the nodes."""
    told = [
        f"{'this one' if node_id == link.node_id else node_id}: "
        f"{sum(standing.connections.values())} connections, {standing.running} turns running"
        for node_id, standing in sorted(nodes.items(), key=lambda item: item[0] != link.node_id)
    ]
    return {
        "redis": "answers" if link.up else "does not answer: turns run on, and nodes do not hear of each other",
        "nodes": f"{len(nodes)} ({'; '.join(told)})",
    }


async def _store(services: Services) -> str | None:
    """What is wrong with the store; None if it answers."""
    try:
        async with asyncio.timeout(STORE_SECONDS):
            await services.store.ping()
    except TimeoutError:
        return "does not answer in time"
    except StoreUnavailable as error:
        return str(error)
    return None
