"""Decisions by HTTP: a notification's button needs no socket."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.bodies import body_of
from gateway.endpoints.operations import operation
from gateway.errors import NodeUnavailable, NotFound, SlowBody, TooLarge
from gateway.services import Services


class DecisionShown(msgspec.Struct, frozen=True):
    """The decision that stands, whoever made it."""

    approval_id: str
    thread_id: str
    turn_id: str
    decision: str
    by: str | None


@operation(
    "approvals",
    body=protocol.DecisionBody,
    answers={200: DecisionShown},
    errors=(NotFound, NodeUnavailable, TooLarge, SlowBody),
)
async def decide_approval(request: Request) -> Response:
    """`POST /api/approvals/{approval_id}`: decide it; the first decision stands."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    body = await body_of(request, protocol.DecisionBody)
    standing, _ = await services.approvals.decide(
        identity.user_id, request.path_params["approval_id"], body.decision, body.text, identity.user_id
    )
    return answer(
        DecisionShown(
            approval_id=standing.approval_id,
            thread_id=standing.thread_id,
            turn_id=standing.turn_id,
            decision=standing.decision,
            by=standing.by,
        )
    )
