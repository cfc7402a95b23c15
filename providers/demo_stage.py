"""What the scripts of the demo agent are made of, and what they work with while they are played."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from providers.base import Turn
from providers.events import Event, ReasoningDelta, TextDelta

__all__ = ["Part", "Play", "Say", "Stage", "WrongArguments"]


class WrongArguments(ValueError):
    """The directive exists but does not understand what stands behind it."""


@dataclass(slots=True)
class Stage:
    """What a running script works with."""

    turn: Turn
    interval: float
    """Seconds between two pieces; 0 does not wait."""
    attempts: Callable[[str], int]
    """Counts the calls made with this key, this one included."""
    over: bool = False
    """Nothing further is played."""
    stop_reason: str | None = "end_turn"
    """None: end without `Completed`."""
    _numbers: dict[str, int] = field(default_factory=dict)
    _waits: int = 0

    def name(self, kind: str) -> str:
        """A new id within the turn."""
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}{self._numbers[kind]}"

    async def wait(self, interval: float | None = None) -> None:
        """Between two pieces. A script without pauses still lets others run every now and then."""
        self._waits += 1
        seconds = self.interval if interval is None else interval
        if (seconds > 0 and self._waits > 1) or self._waits % 20 == 0:
            await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Say:
    """Text to be shown in small pieces, by whoever plays the script."""

    text: str
    item: str = ""
    """The text item; empty makes a new one."""
    reasoning: bool = False

    def events(self, stage: Stage) -> Iterator[Event]:
        item = self.item or stage.name("t")
        kind = ReasoningDelta if self.reasoning else TextDelta
        return (kind(item, piece) for piece in re.findall(r"\s*\S{1,8}\s*|\s+", self.text))


Part: TypeAlias = Event | Say
Play: TypeAlias = Callable[[Stage, str], AsyncGenerator[Part]]
