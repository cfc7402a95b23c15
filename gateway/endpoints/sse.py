"""The frames of the protocol as server-sent events: one turn from its message on, or one thread for as long as wanted.

`id:` is the cursor of a logged frame, so a browser's `Last-Event-ID` is where to go on.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.bodies import body_of
from gateway.endpoints.eventstream import EventStream, Shown, closed_on_failure, open_connection
from gateway.endpoints.operations import Binary, operation
from gateway.endpoints.turns import ACCEPTING
from gateway.errors import Draining, LimitExceeded, NotFound, SlowBody, TooLarge
from gateway.services import Services

UNLOGGED = frozenset(("accepted", "attached", "snapshot"))
"""Frames with a cursor that are no event."""


class ThreadFrames:
    """Every frame of the thread."""

    def show(self, frame: str, shown: Shown) -> str:
        if shown.cursor and shown.type not in UNLOGGED:
            return f"id: {shown.cursor}\ndata: {frame}\n\n"
        return f"data: {frame}\n\n"


class TurnFrames(ThreadFrames):
    """The frames of one turn, and those of none."""

    def __init__(self, turn_id: str) -> None:
        self._turn_id = turn_id

    def show(self, frame: str, shown: Shown) -> str:
        return super().show(frame, shown) if shown.turn_id in ("", self._turn_id) else ""


@operation(
    "turns",
    body=protocol.MessageBody,
    answers={200: Binary(("text/event-stream",), "The turn's frames, as on a socket; ends after `done`.")},
    errors=(*ACCEPTING, TooLarge, SlowBody, LimitExceeded),
)
async def stream_turn(request: Request) -> Response:
    """`POST /api/{agent}/stream`: a turn, as `POST /api/{agent}/messages` starts it, and its frames."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    agent = request.path_params["agent"]
    body = await body_of(request, protocol.MessageBody)
    accepted = await services.turns.submit(identity.user_id, agent, body)
    connection = open_connection(services, identity.user_id, agent)
    with closed_on_failure(connection):
        await services.resume.follow_turn(connection, accepted, cursor=last_event_id(request))
    turn_id = accepted.turn.turn_id
    return EventStream(connection, services, TurnFrames(turn_id), turn_id=turn_id, token_id=identity.token_id)


@operation(
    "threads",
    answers={
        200: Binary(("text/event-stream",), "The thread's frames, as on a socket, for as long as the client stays.")
    },
    errors=(NotFound, Draining, LimitExceeded),
)
async def follow_thread(request: Request) -> Response:
    """`GET /api/threads/{thread_id}/events`: what `attach` on a socket shows."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    if services.runner.draining:
        raise Draining("this server is about to stop", retry_after=1.0)
    thread_id = request.path_params["thread_id"]
    thread = await services.store.thread(identity.user_id, thread_id)
    if thread is None:
        raise NotFound("there is no such thread", field="thread_id")
    connection = open_connection(services, identity.user_id, thread.agent)
    with closed_on_failure(connection):
        await services.resume.attach(connection, thread_id, last_event_id(request))
    return EventStream(connection, services, ThreadFrames(), token_id=identity.token_id)


def last_event_id(request: Request) -> str | None:
    """The cursor from which the client wants to go on. An empty one, as some clients send at first, is none."""
    return request.headers.get("last-event-id") or None
