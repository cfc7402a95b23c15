"""Making turns and reading a provider's answer to them, for the tests of every provider."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from providers import ApprovalRequest, Decision, Event, Message, Provider, TextDelta, TextReset, Turn

__all__ = ["Approver", "answers", "collect", "make_turn", "text_of"]

T = TypeVar("T")

DEADLINE = 20.0
"""Seconds that any single turn of a test may take."""


class Approver:
    """A person who answers each request with the next of `decisions`, and remembers what was asked."""

    def __init__(self, *decisions: Decision | str) -> None:
        self.asked: list[ApprovalRequest] = []
        self.open = asyncio.Event()
        """Set while a request waits that has no prepared answer."""
        self._decisions = [Decision(item) if isinstance(item, str) else item for item in decisions]

    async def __call__(self, request: ApprovalRequest) -> Decision:
        self.asked.append(request)
        if self._decisions:
            return self._decisions.pop(0)
        self.open.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def make_turn(
    *contents: str,
    thread: str = "thread-1",
    user: str = "user-1",
    session: Mapping[str, Any] | None = None,
    approve: Callable[[ApprovalRequest], Awaitable[Decision]] | None = None,
    connect_seconds: float = 5.0,
    turn: str = "turn-1",
) -> Turn:
    """A turn whose conversation is `contents`, user and assistant by turns, ending with the user."""
    roles = ("user", "assistant") if len(contents) % 2 else ("assistant", "user")
    messages = [Message(roles[index % 2], content) for index, content in enumerate(contents or ("Hi",))]  # type: ignore[arg-type]  # a Literal by index
    more: dict[str, Any] = {} if approve is None else {"approve": approve}
    return Turn(
        thread_id=thread,
        turn_id=turn,
        user_id=user,
        messages=messages,
        session=session,
        connect_seconds=connect_seconds,
        **more,
    )


async def collect(provider: Provider, turn: Turn, into: list[Event] | None = None) -> list[Event]:
    """Every event of the turn; `into` keeps those that came before an error."""
    events: list[Event] = [] if into is None else into
    async with asyncio.timeout(DEADLINE), aclosing(provider.stream(turn)) as stream:
        async for event in stream:
            events.append(event)
    return events


def text_of(events: Sequence[Event]) -> str:
    """What a person sees: text items in the order in which they began, each after a blank line."""
    items: dict[str, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            items[event.item_id] = items.get(event.item_id, "") + event.text
        elif isinstance(event, TextReset):
            if event.item_id is None:
                items.clear()
            else:
                items.pop(event.item_id, None)
    return "\n\n".join(text for text in items.values() if text)


def answers(events: Sequence[Event], kind: type[T]) -> list[T]:
    """The events of one type."""
    return [event for event in events if isinstance(event, kind)]
