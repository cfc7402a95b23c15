"""Turns to try providers with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from providers import Event, Message, Provider, ProviderError, TextDelta, Turn

DEADLINE = 5.0


def turn(*contents: str, **fields: Any) -> Turn:
    """A turn whose history is these messages, a user's and an assistant's in turn."""
    messages = [Message("user" if number % 2 == 0 else "assistant", content) for number, content in enumerate(contents)]
    values: dict[str, Any] = {"thread_id": "t1", "turn_id": "u1", "user_id": "alice", "messages": messages, **fields}
    return Turn(**values)


async def collected(provider: Provider, wanted: Turn) -> list[Event]:
    async with asyncio.timeout(DEADLINE), aclosing(provider.stream(wanted)) as events:
        return [event async for event in events]


async def failed(
    provider: Provider, wanted: Turn, on_text: Callable[[], None] | None = None
) -> tuple[list[Event], ProviderError]:
    """The events before the error, and the error. `on_text` is called at every piece of text."""
    seen: list[Event] = []
    try:
        async with asyncio.timeout(DEADLINE), aclosing(provider.stream(wanted)) as events:
            async for event in events:
                seen.append(event)
                if on_text is not None and isinstance(event, TextDelta):
                    on_text()
    except ProviderError as error:
        return seen, error
    raise AssertionError(f"the turn did not fail; it yielded {seen}")


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))
