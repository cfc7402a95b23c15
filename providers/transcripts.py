"""A conversation as text, for an agent whose own memory of it is gone."""

from __future__ import annotations

from collections.abc import Sequence

from providers.base import Message

__all__ = ["transcript"]

_LONGEST = 200_000
"""Characters; older messages are left out whole."""


def transcript(messages: Sequence[Message]) -> str:
    """What to put before the newest message so that the agent knows `messages`, the ones before it; empty for none."""
    kept: list[str] = []
    length = 0
    for message in reversed(messages):
        if not message.content:
            continue
        entry = f"{'User' if message.role == 'user' else 'You'}: {message.content}"
        length += len(entry)
        if length > _LONGEST:
            break
        kept.append(entry)
    if not kept:
        return ""
    return "\n\n".join(("This conversation began earlier:", *reversed(kept), "Now the user writes:", ""))
