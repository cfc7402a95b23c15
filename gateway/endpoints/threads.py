"""Threads and their history."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.clock import rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.bodies import body_of
from gateway.endpoints.operations import Number, Text, operation
from gateway.errors import BadFrame, Busy, NotFound, SlowBody, TooLarge
from gateway.protocol import ShownMessage
from gateway.resume import shown_message
from gateway.services import Services
from gateway.store import records
from gateway.text import normalise

LAST_MESSAGE_BYTES = 2048

AGENT = Text("agent", "Only of this agent.")
THREADS_LIMIT = Number("limit", "How many; at most 100.", most=100, default=50)
OLDER = Number("before", "Go on behind an earlier page: its `before`.")
MESSAGES_LIMIT = Number("limit", "How many; at most 200.", most=200, default=50)
BEFORE = Text("before", "The last ones before the message of this id.")
AFTER = Text("after", "The first ones behind the message of this id.")


class TitleBody(protocol.ClientFrame):
    title: str
    """1 to 200 characters, the blanks around it aside."""


class ThreadShown(msgspec.Struct, frozen=True):
    thread_id: str
    agent: str
    title: str
    status: Literal["running", "idle"]
    unread: int
    """Answers behind the read mark."""
    read_message_id: str | None
    last_message: ShownMessage | None
    """Its content may be cut."""
    created_at: str
    updated_at: str


class ThreadPage(msgspec.Struct, frozen=True):
    threads: list[ThreadShown]
    before: int | None
    """Asks for the next page; null if this is the last."""


class MessagePage(msgspec.Struct, frozen=True):
    messages: list[ShownMessage]
    """Oldest first."""


@operation("threads", query=(AGENT, OLDER, THREADS_LIMIT), answers={200: ThreadPage})
async def threads(request: Request) -> Response:
    """`GET /api/threads`: the user's threads, newest first."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    limit = THREADS_LIMIT.of(request) or 1
    found = await services.store.threads(
        identity.user_id, agent=AGENT.of(request), before=OLDER.of(request), limit=limit
    )
    more = found[-1].thread.updated_at if len(found) == limit else None
    return answer(ThreadPage([shown_thread(summary) for summary in found], more))


@operation("threads", answers={200: ThreadShown}, errors=(NotFound,))
async def thread(request: Request) -> Response:
    """`GET /api/threads/{thread_id}`: one thread."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    return answer(shown_thread(await summary_of(services, identity.user_id, request.path_params["thread_id"])))


@operation("threads", body=TitleBody, answers={200: ThreadShown}, errors=(NotFound, TooLarge, SlowBody))
async def rename_thread(request: Request) -> Response:
    """`PATCH /api/threads/{thread_id}`: give it another title."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    body = await body_of(request, TitleBody)
    title = normalise(body.title).strip()
    if not 0 < len(title) <= 200:
        raise BadFrame("title: expected 1 to 200 characters", field="title")
    thread_id = request.path_params["thread_id"]
    if await services.store.rename(identity.user_id, thread_id, title) is None:
        raise NotFound("there is no such thread", field="thread_id")
    await services.notices.changed(identity.user_id, thread_id)
    return answer(shown_thread(await summary_of(services, identity.user_id, thread_id)))


@operation("threads", answers={204: None}, errors=(NotFound, Busy))
async def delete_thread(request: Request) -> Response:
    """`DELETE /api/threads/{thread_id}`: stop what runs in it, and delete it with all that belongs to it."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    await services.turns.delete_thread(identity.user_id, request.path_params["thread_id"])
    return Response(status_code=204)


@operation("threads", query=(BEFORE, AFTER, MESSAGES_LIMIT), answers={200: MessagePage}, errors=(NotFound,))
async def messages(request: Request) -> Response:
    """`GET /api/threads/{thread_id}/messages`: the history in pages; without a place, its end."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    found = await services.store.thread(identity.user_id, request.path_params["thread_id"])
    if found is None:
        raise NotFound("there is no such thread", field="thread_id")
    places: dict[str, int] = {}
    for parameter in (BEFORE, AFTER):
        if message_id := parameter.of(request):
            message = await services.store.message(found.key, message_id)
            if message is None:
                raise NotFound("there is no such message in this thread", field=parameter.name)
            places[parameter.name] = message.position
    if len(places) == 2:
        raise BadFrame("expected either before or after, not both", field="after")
    page = await services.store.messages(
        found.key, before=places.get("before"), after=places.get("after"), limit=MESSAGES_LIMIT.of(request) or 1
    )
    return answer(MessagePage([shown_message(message) for message in page]))


async def summary_of(services: Services, user_id: str, thread_id: str) -> records.ThreadSummary:
    """Raises `NotFound`."""
    summary = await services.store.summary(user_id, thread_id)
    if summary is None:
        raise NotFound("there is no such thread", field="thread_id")
    return summary


def shown_thread(summary: records.ThreadSummary) -> ThreadShown:
    found, last = summary.thread, summary.last_message
    return ThreadShown(
        thread_id=found.thread_id,
        agent=found.agent,
        title=found.title,
        status="running" if summary.running else "idle",
        unread=summary.unread,
        read_message_id=summary.read_message_id,
        last_message=shown_message(last, LAST_MESSAGE_BYTES) if last is not None else None,
        created_at=rfc3339(found.created_at),
        updated_at=rfc3339(found.updated_at),
    )
