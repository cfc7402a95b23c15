"""The agents, and the sessions that began elsewhere."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.clock import rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.operations import operation
from gateway.endpoints.threads import ThreadShown, shown_thread, summary_of
from gateway.errors import AgentUnavailable, NoSuchAgent, NotFound, UpstreamFailed
from gateway.services import Services


class AgentShown(msgspec.Struct, frozen=True):
    name: str
    provider: str
    configured: bool
    reason: str | None
    """Why it is not configured, for the operator."""
    capabilities: list[str]


class AgentList(msgspec.Struct, frozen=True):
    agents: list[AgentShown]


class SessionShown(msgspec.Struct, frozen=True):
    id: str
    title: str
    cwd: str
    created_at: str
    updated_at: str


class SessionList(msgspec.Struct, frozen=True):
    sessions: list[SessionShown]


@operation("agents", answers={200: AgentList})
async def agents(request: Request) -> Response:
    """`GET /api/agents`: the agents, their capabilities, and what is missing where one is not configured."""
    await identity_of(request)
    services: Services = request.app.state.services
    listed = [
        AgentShown(
            name=agent.name,
            provider=agent.provider_name,
            configured=agent.provider is not None,
            reason=agent.reason,
            capabilities=agent.capabilities,
        )
        for agent in services.agents
    ]
    return answer(AgentList(listed))


@operation("agents", answers={200: SessionList}, errors=(NotFound, NoSuchAgent, AgentUnavailable, UpstreamFailed))
async def sessions(request: Request) -> Response:
    """`GET /api/agents/{agent}/sessions`: what began elsewhere and can be adopted."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    found = await services.sessions.listed(identity.user_id, request.path_params["agent"])
    listed = [
        SessionShown(
            id=session.id,
            title=session.title,
            cwd=session.cwd,
            created_at=rfc3339(session.created_at),
            updated_at=rfc3339(session.updated_at),
        )
        for session in found
    ]
    return answer(SessionList(listed))


@operation(
    "agents",
    answers={200: ThreadShown, 201: ThreadShown},
    errors=(NotFound, NoSuchAgent, AgentUnavailable, UpstreamFailed),
)
async def adopt_session(request: Request) -> Response:
    """`POST /api/agents/{agent}/sessions/{session_id}`: go on with it as a thread. Again: the same thread."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    path = request.path_params
    adopted, made = await services.sessions.adopt(identity.user_id, path["agent"], path["session_id"])
    summary = await summary_of(services, identity.user_id, adopted.thread_id)
    return answer(shown_thread(summary), 201 if made else 200)
