"""Agents, threads, turns and approvals by HTTP."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.auth import HeaderToken, presented_token
from gateway.clock import now, rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.errors import BadFrame, NotFound, TooLarge
from gateway.resume import shown_message
from gateway.services import Services
from gateway.store import records
from gateway.text import normalise

THREADS_AT_ONCE = 100
MESSAGES_AT_ONCE = 200
BODY_BYTES = 1024 * 1024

Body = TypeVar("Body", bound=BaseModel)


class TitleBody(protocol.ClientFrame):
    title: str


async def agents(request: Request) -> Response:
    """`GET /api/agents`"""
    identity_of(request)
    services: Services = request.app.state.services
    listed = [
        {
            "name": agent.name,
            "provider": agent.provider_name,
            "configured": agent.provider is not None,
            "reason": agent.reason,
            "capabilities": agent.capabilities,
        }
        for agent in services.agents
    ]
    return answer({"agents": listed})


async def sessions(request: Request) -> Response:
    """`GET /api/agents/{agent}/sessions`: what began elsewhere and can be adopted."""
    identity = identity_of(request)
    services: Services = request.app.state.services
    found = await services.sessions.listed(identity.user_id, request.path_params["agent"])
    listed = [
        {
            "id": session.id,
            "title": session.title,
            "cwd": session.cwd,
            "created_at": rfc3339(session.created_at),
            "updated_at": rfc3339(session.updated_at),
        }
        for session in found
    ]
    return answer({"sessions": listed})


async def adopt_session(request: Request) -> Response:
    """`POST /api/agents/{agent}/sessions/{session_id}`: go on with it as a thread."""
    identity = identity_of(request)
    services: Services = request.app.state.services
    path = request.path_params
    adopted, made = await services.sessions.adopt(identity.user_id, path["agent"], path["session_id"])
    summary = await _summary(services, identity.user_id, adopted.thread_id)
    return answer(_shown_thread(summary), 201 if made else 200)


async def send_message(request: Request) -> Response:
    """`POST /api/{agent}/messages`: a turn in the background."""
    identity = identity_of(request)
    services: Services = request.app.state.services
    body = await body_of(request, protocol.MessageBody)
    return _accepted(await services.turns.submit(identity.user_id, request.path_params["agent"], body))


async def threads(request: Request) -> Response:
    """`GET /api/threads?agent=&before=&limit=`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    limit = _number(request, "limit", 50, THREADS_AT_ONCE)
    before = _number(request, "before", None, None)
    agent = request.query_params.get("agent")
    found = await services.store.threads(identity.user_id, agent=agent, before=before, limit=limit or 1)
    more = found[-1].thread.updated_at if len(found) == limit else None
    return answer({"threads": [_shown_thread(summary) for summary in found], "before": more})


async def thread(request: Request) -> Response:
    """`GET /api/threads/{thread_id}`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    return answer(_shown_thread(await _summary(services, identity.user_id, request.path_params["thread_id"])))


async def rename_thread(request: Request) -> Response:
    """`PATCH /api/threads/{thread_id}`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    body = await body_of(request, TitleBody)
    title = normalise(body.title).strip()
    if not 0 < len(title) <= 200:
        raise BadFrame("title: expected 1 to 200 characters", field="title")
    thread_id = request.path_params["thread_id"]
    if await services.store.rename(identity.user_id, thread_id, title) is None:
        raise NotFound("there is no such thread", field="thread_id")
    await services.notices.changed(identity.user_id, thread_id)
    return answer(_shown_thread(await _summary(services, identity.user_id, thread_id)))


async def delete_thread(request: Request) -> Response:
    """`DELETE /api/threads/{thread_id}`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    await services.turns.delete_thread(identity.user_id, request.path_params["thread_id"])
    return Response(status_code=204)


async def messages(request: Request) -> Response:
    """`GET /api/threads/{thread_id}/messages?before=&after=&limit=`; `before` and `after` are message ids."""
    identity = identity_of(request)
    services: Services = request.app.state.services
    found = await services.store.thread(identity.user_id, request.path_params["thread_id"])
    if found is None:
        raise NotFound("there is no such thread", field="thread_id")
    places: dict[str, int] = {}
    for name in ("before", "after"):
        if message_id := request.query_params.get(name):
            message = await services.store.message(found.key, message_id)
            if message is None:
                raise NotFound("there is no such message in this thread", field=name)
            places[name] = message.position
    if len(places) == 2:
        raise BadFrame("expected either before or after, not both", field="after")
    limit = _number(request, "limit", 50, MESSAGES_AT_ONCE)
    page = await services.store.messages(
        found.key, before=places.get("before"), after=places.get("after"), limit=limit or 1
    )
    return answer({"messages": [shown_message(message) for message in page]})


async def turn(request: Request) -> Response:
    """`GET /api/turns/{turn_id}`: the whole answer, also where frames and pushes showed it cut."""
    services: Services = request.app.state.services
    turn_id = request.path_params["turn_id"]
    presented = presented_token(request.headers.get("authorization"))
    by_push = isinstance(presented, HeaderToken) and services.pushing.fetch_tokens.opens(
        presented.token, turn_id, now()
    )
    found = await services.store.turn(None if by_push else identity_of(request).user_id, turn_id)
    if found is None:
        raise NotFound("there is no such turn", field="turn_id")
    of_thread, stored = found
    running = services.runner.turn(stored.turn_id)
    if running is not None:
        content = running.view.content
    else:
        message = await services.store.message(of_thread.key, stored.answer_id)
        content = message.content if message is not None else ""
    pushes = [] if by_push else await services.store.push_outcomes(turn_id)
    return answer(_shown_turn(of_thread, stored, content) | {"pushes": [_shown_push(push) for push in pushes]})


async def cancel_turn(request: Request) -> Response:
    """`POST /api/turns/{turn_id}/cancel`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    await services.turns.cancel_turn(identity.user_id, request.path_params["turn_id"])
    return Response(status_code=204)


async def retry_turn(request: Request) -> Response:
    """`POST /api/turns/{turn_id}/retry`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    return _accepted(await services.turns.retry(identity.user_id, request.path_params["turn_id"]))


async def decide_approval(request: Request) -> Response:
    """`POST /api/approvals/{approval_id}`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    body = await body_of(request, protocol.DecisionBody)
    standing, _ = await services.approvals.decide(
        identity.user_id, request.path_params["approval_id"], body.decision, body.text, identity.user_id
    )
    return answer(
        {
            "approval_id": standing.approval_id,
            "thread_id": standing.thread_id,
            "turn_id": standing.turn_id,
            "decision": standing.decision,
            "by": standing.by,
        }
    )


async def body_of(request: Request, model: type[Body]) -> Body:
    """The request's JSON body.

    Raises:
        BadFrame: it does not fit; the error names the field.
        TooLarge: it has more than `BODY_BYTES` bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise TooLarge(f"a body has at most {BODY_BYTES} bytes")
    return protocol.validate(model, protocol.parse_object(bytes(body), "the body"))


def _number(request: Request, name: str, default: int | None, most: int | None) -> int | None:
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise BadFrame(f"{name}: expected a whole number from 1 on", field=name)
    return int(text) if most is None else min(int(text), most)


async def _summary(services: Services, user_id: str, thread_id: str) -> records.ThreadSummary:
    summary = await services.store.summary(user_id, thread_id)
    if summary is None:
        raise NotFound("there is no such thread", field="thread_id")
    return summary


def _accepted(accepted: records.Accepted) -> Response:
    shown = {
        "thread_id": accepted.thread.thread_id,
        "turn_id": accepted.turn.turn_id,
        "message_id": accepted.turn.message_id,
        "id": accepted.turn.client_id,
        "duplicate": accepted.duplicate,
        "queued": accepted.queued,
    }
    if accepted.turn.retry_of is not None:
        shown["retry_of"] = accepted.turn.retry_of
    return answer(shown, 202)


def _shown_thread(summary: records.ThreadSummary) -> dict[str, Any]:
    found = summary.thread
    return {
        "thread_id": found.thread_id,
        "agent": found.agent,
        "title": found.title,
        "status": "running" if summary.running else "idle",
        "unread": summary.unread,
        "read_message_id": summary.read_message_id,
        "last_message": shown_message(summary.last_message, 2048) if summary.last_message is not None else None,
        "created_at": rfc3339(found.created_at),
        "updated_at": rfc3339(found.updated_at),
    }


def _shown_push(push: records.PushOutcome) -> dict[str, Any]:
    return {
        "device_id": push.device_id,
        "platform": push.platform,
        "kind": push.kind,
        "outcome": push.outcome,
        "reason": push.reason,
        "at": rfc3339(push.at),
    }


def _shown_turn(found: records.Thread, stored: records.Turn, content: str) -> dict[str, Any]:
    return {
        "turn_id": stored.turn_id,
        "thread_id": found.thread_id,
        "agent": stored.agent,
        "status": stored.status,
        "message_id": stored.answer_id,
        "content": content,
        "stop_reason": stored.stop_reason,
        "usage": stored.usage or {},
        "error": stored.error,
        "duration_ms": stored.duration_ms,
        "retry_of": stored.retry_of,
        "created_at": rfc3339(stored.created_at),
        "started_at": None if stored.started_at is None else rfc3339(stored.started_at),
        "finished_at": None if stored.finished_at is None else rfc3339(stored.finished_at),
        "user_message": {"message_id": stored.message_id, "id": stored.client_id, "content": stored.content},
    }
