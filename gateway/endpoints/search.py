"""Search over the user's own messages."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.clock import rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.operations import Number, Text, operation
from gateway.endpoints.threads import AGENT
from gateway.errors import BadFrame, NotFound
from gateway.services import Services
from gateway.store.records import Found
from gateway.text import normalise, snippet

WORDS = 8
QUERY = Text("q", "Words, each of which the message holds, as parts of words and in whatever case.", 200, required=True)
BEFORE = Text("before", "Go on behind an earlier page: its `before`.")
LIMIT = Number("limit", "How many; at most 50.", most=50, default=20)


class Hit(msgspec.Struct, frozen=True):
    thread_id: str
    title: str
    agent: str
    message_id: str
    turn_id: str
    role: Literal["user", "assistant"]
    snippet: str
    """The message around the first of the words."""
    created_at: str


class HitPage(msgspec.Struct, frozen=True):
    results: list[Hit]
    """Newest first."""
    before: str | None
    """Asks for the next page; null if this is the last."""


@operation("threads", query=(QUERY, AGENT, BEFORE, LIMIT), answers={200: HitPage}, errors=(NotFound,))
async def search(request: Request) -> Response:
    """`GET /api/search`: the user's messages that hold all of the words."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    words = tuple(dict.fromkeys(normalise(QUERY.of(request) or "").split()))
    if not 0 < len(words) <= WORDS:
        raise BadFrame(f"q: expected 1 to {WORDS} words", field="q")
    limit = LIMIT.of(request) or 1
    found = await services.store.search(
        identity.user_id, words, agent=AGENT.of(request), before=BEFORE.of(request), limit=limit
    )
    if found is None:
        raise NotFound("there is no such message", field="before")
    more = found[-1].message.message_id if len(found) == limit else None
    return answer(HitPage([_hit(one, words) for one in found], more))


def _hit(found: Found, words: tuple[str, ...]) -> Hit:
    thread, message = found.thread, found.message
    return Hit(
        thread_id=thread.thread_id,
        title=thread.title,
        agent=thread.agent,
        message_id=message.message_id,
        turn_id=message.turn_id,
        role=message.role,
        snippet=snippet(message.content, words),
        created_at=rfc3339(message.created_at),
    )
