"""The gateway with one of its guarantees switched off: `python -m tests.cluster.sabotage NAME serve --port 0`.

Each function here patches the product inside its own process and nowhere else. A test that passes all the same does not
look at what it says it looks at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["SABOTAGES"]


def lose_pieces() -> None:
    """Every 20th frame of text is never sent."""
    from gateway.follow import Follow

    take = Follow.take
    count = 0

    def losing(self: Follow) -> str | None:
        nonlocal count
        frame = take(self)
        if frame is not None and '"type":"message"' in frame:
            count += 1
            if count % 20 == 0:
                return take(self)
        return frame

    Follow.take = losing  # type: ignore[method-assign]  # that is what it is for


def steerable() -> None:
    """No sabotage: one more provider, which says what it is told while it runs, until it is told `stop`."""
    from collections.abc import AsyncGenerator, Mapping
    from typing import Any

    import gateway.agents
    from providers import Completed, Event, TextDelta, Turn
    from providers.base import Capability
    from providers.registry import create

    class Steerable:
        name = "steerable"
        capabilities: frozenset[Capability] = frozenset(("steer",))

        async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
            yield TextDelta("a", "begun")
            async for message in turn.steering:
                yield TextDelta("a", f", {message.content}")
                if message.content == "stop":
                    break
            yield Completed()

    def create_or_steer(name: str, options: Mapping[str, Any]) -> Any:
        return Steerable() if name == "steerable" else create(name, options)

    gateway.agents.create = create_or_steer  # type: ignore[attr-defined]  # where it is looked up


SABOTAGES: dict[str, Callable[[], None]] = {
    "lose-pieces": lose_pieces,
    "steerable": steerable,
}


if __name__ == "__main__":
    from gateway.cli import main

    SABOTAGES[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
