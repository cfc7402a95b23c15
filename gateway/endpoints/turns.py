"""Messages sent by HTTP, and the turns that they start."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.auth import HeaderToken, presented_token
from gateway.clock import now, rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.bodies import body_of
from gateway.endpoints.operations import operation
from gateway.errors import (
    AgentUnavailable,
    Busy,
    Draining,
    IdConflict,
    NoAttachments,
    NoSuchAgent,
    NotFound,
    NotRetryable,
    SlowBody,
    TooLarge,
    WrongAgent,
)
from gateway.protocol import ShownAttachment, shown_attachments
from gateway.services import Services
from gateway.store import records

ACCEPTING = (AgentUnavailable, Busy, Draining, IdConflict, NoAttachments, NoSuchAgent, NotFound, WrongAgent)
"""What may refuse a new turn."""


class AcceptedShown(msgspec.Struct, frozen=True):
    thread_id: str
    turn_id: str
    message_id: str
    id: str | None
    duplicate: bool
    queued: int
    retry_of: str | UnsetType = UNSET
    """The turn that this one tries again."""


class PushShown(msgspec.Struct, frozen=True):
    device_id: str | None
    platform: str | None
    kind: str
    outcome: str
    reason: str
    at: str


class UserMessageShown(msgspec.Struct, frozen=True):
    message_id: str
    id: str | None
    content: str
    attachments: tuple[ShownAttachment, ...]


class TurnShown(msgspec.Struct, frozen=True):
    turn_id: str
    thread_id: str
    agent: str
    status: Literal["queued", "running", "completed", "cancelled", "failed", "interrupted"]
    message_id: str
    content: str
    """The whole answer, so far while the turn runs."""
    stop_reason: str | None
    usage: Mapping[str, int]
    error: Mapping[str, Any] | None
    """`{code, message, retryable, retry_after?}`."""
    duration_ms: int | None
    retry_of: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    user_message: UserMessageShown
    pushes: list[PushShown]


@operation("turns", body=protocol.MessageBody, answers={202: AcceptedShown}, errors=(*ACCEPTING, TooLarge, SlowBody))
async def send_message(request: Request) -> Response:
    """`POST /api/{agent}/messages`: a turn in the background."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    body = await body_of(request, protocol.MessageBody)
    return _accepted(await services.turns.submit(identity.user_id, request.path_params["agent"], body))


@operation("turns", answers={200: TurnShown}, errors=(NotFound,))
async def turn(request: Request) -> Response:
    """`GET /api/turns/{turn_id}`: the whole answer, also where frames and pushes showed it cut.

    Also opens with the `fetch_token` of the turn's push.
    """
    services: Services = request.app.state.services
    turn_id = request.path_params["turn_id"]
    presented = presented_token(request.headers.get("authorization"))
    by_push = isinstance(presented, HeaderToken) and services.pushing.fetch_tokens.opens(
        presented.token, turn_id, now()
    )
    found = await services.store.turn(None if by_push else (await identity_of(request)).user_id, turn_id)
    if found is None:
        raise NotFound("there is no such turn", field="turn_id")
    of_thread, stored = found
    content = await _content(services, of_thread, stored)
    pushes = [] if by_push else await services.store.push_outcomes(turn_id)
    return answer(_shown_turn(of_thread, stored, content, pushes))


async def _content(services: Services, thread: records.Thread, turn: records.Turn) -> str:
    """The answer, so far while the turn runs, on whichever node."""
    if turn.status == "running":
        with contextlib.suppress(LookupError):
            async with services.logs.held(thread.key) as log:
                if log.running is not None and log.running.turn_id == turn.turn_id:
                    return log.running.view.content
    message = await services.store.message(thread.key, turn.answer_id)
    return message.content if message is not None else ""


@operation("turns", answers={204: None}, errors=(NotFound,))
async def cancel_turn(request: Request) -> Response:
    """`POST /api/turns/{turn_id}/cancel`: stop it. One that has ended stays as it is."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    await services.turns.cancel_turn(identity.user_id, request.path_params["turn_id"])
    return Response(status_code=204)


@operation("turns", answers={202: AcceptedShown}, errors=(*ACCEPTING, NotRetryable))
async def retry_turn(request: Request) -> Response:
    """`POST /api/turns/{turn_id}/retry`: a new turn with the message of one that did not complete."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    return _accepted(await services.turns.retry(identity.user_id, request.path_params["turn_id"]))


def _accepted(accepted: records.Accepted) -> Response:
    turn = accepted.turn
    shown = AcceptedShown(
        thread_id=accepted.thread.thread_id,
        turn_id=turn.turn_id,
        message_id=turn.message_id,
        id=turn.client_id,
        duplicate=accepted.duplicate,
        queued=accepted.queued,
        retry_of=UNSET if turn.retry_of is None else turn.retry_of,
    )
    return answer(shown, 202)


def _shown_push(push: records.PushOutcome) -> PushShown:
    return PushShown(
        device_id=push.device_id,
        platform=push.platform,
        kind=push.kind,
        outcome=push.outcome,
        reason=push.reason,
        at=rfc3339(push.at),
    )


def _shown_turn(
    found: records.Thread, stored: records.Turn, content: str, pushes: list[records.PushOutcome]
) -> TurnShown:
    return TurnShown(
        turn_id=stored.turn_id,
        thread_id=found.thread_id,
        agent=stored.agent,
        status=stored.status,
        message_id=stored.answer_id,
        content=content,
        stop_reason=stored.stop_reason,
        usage=stored.usage or {},
        error=stored.error,
        duration_ms=stored.duration_ms,
        retry_of=stored.retry_of,
        created_at=rfc3339(stored.created_at),
        started_at=None if stored.started_at is None else rfc3339(stored.started_at),
        finished_at=None if stored.finished_at is None else rfc3339(stored.finished_at),
        user_message=UserMessageShown(
            stored.message_id, stored.client_id, stored.content, tuple(shown_attachments(stored.attachments))
        ),
        pushes=[_shown_push(push) for push in pushes],
    )
