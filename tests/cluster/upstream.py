"""What the agent `claude` of every node calls: a fake of the Messages API that says which node called for which turn.

A message says by itself how it is to be answered: `asking("t3-turn-7", pieces=20, interval=0.05)`. The answer's text is
made of the marker alone, so whatever was stored or shown of it can be held against `text_of`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.fakes.messages_api import Call, MessagesApi
from tests.fakes.messages_script import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Gate,
    Pause,
    Script,
    Step,
    end,
    start,
)

__all__ = ["Paid", "Upstream", "asking", "astray", "marker_of", "text_of"]

_ASKED = re.compile(r"\[(\S+) (\d+) ([\d.]+)\]")


def asking(marker: str, pieces: int = 10, interval: float = 0.02) -> str:
    """A message that is answered by so many pieces of text, one every `interval` seconds."""
    return f"[{marker} {pieces} {interval}]"


def marker_of(content: str) -> str:
    """What names a message that `asking` made; of several in one, the last. Empty if there is none."""
    asked = _ASKED.findall(content)
    return str(asked[-1][0]) if asked else ""


def _pieces(content: str) -> tuple[list[str], float]:
    asked = _ASKED.findall(content)
    if not asked:
        raise ValueError("no such message")
    marker, pieces, interval = asked[-1]
    return [f"{marker}/{number} " for number in range(int(pieces))], float(interval)


def text_of(content: str) -> str:
    """The whole answer to a message that `asking` made."""
    return "".join(_pieces(content)[0])


def astray(found: str, expected: str) -> str:
    """Where one text leaves the other, in words."""
    length = min(len(found), len(expected))
    begin = max(next((i for i in range(length) if found[i] != expected[i]), length) - 40, 0)
    return f"from {begin} on {found[begin : begin + 100]!r} instead of {expected[begin : begin + 100]!r}"


@dataclass(slots=True, eq=False)
class Paid:
    """One call, which somebody pays for."""

    marker: str
    node: str
    at: float
    """When it came; this and the other times as `time.time()`."""
    ended_at: float | None = None
    cut: bool = False
    """The node went away, or gave up, before the answer was complete."""


class Upstream:
    """One port for each node, so that every call has a name on it.

    `script` may put another answer in place of that which the message asks for. With `gated`, every answer stops behind
    its first piece until `open_gates`.
    """

    def __init__(self) -> None:
        self.calls: list[Paid] = []
        self.script: Callable[[Call], Script | None] = lambda call: None
        self._apis: dict[str, MessagesApi] = {}
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gates: list[Gate] = []
        self._gated = False
        self._changed = asyncio.Condition()

    async def port_of(self, node: str) -> int:
        """Where this node calls."""
        if node not in self._apis:
            api = MessagesApi(lambda call: self._answer(node, call))
            self._apis[node] = await self._stack.enter_async_context(api)
        return int(self._apis[node].url.rpartition(":")[2])

    def by_marker(self) -> dict[str, list[Paid]]:
        found: defaultdict[str, list[Paid]] = defaultdict(list)
        for call in self.calls:
            found[call.marker].append(call)
        return found

    def twice(self) -> dict[str, int]:
        """Markers that were paid for more than once."""
        return {marker: count for marker, count in Counter(c.marker for c in self.calls).items() if count > 1}

    def hold(self) -> None:
        """Every answer that begins from now on stops behind its first piece, until `let_go`."""
        self._gated = True

    def let_go(self) -> None:
        self._gated = False
        for gate in self._gates:
            gate.opened.set()
        self._gates.clear()

    async def called(self, marker: str, within: float = 15.0) -> Paid:
        """The first call with this marker, once it has come."""
        await self.until(lambda: marker in self.by_marker(), within)
        return self.by_marker()[marker][0]

    async def until(self, holds: Callable[[], bool], within: float = 15.0) -> None:
        """Wait until a call that came or ended has brought it about."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(holds)

    def _answer(self, node: str, call: Call) -> Script:
        question = call.question
        paid = Paid(marker_of(question), node, time.time())
        self.calls.append(paid)
        task = asyncio.get_running_loop().create_task(self._watch(call, paid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        special = self.script(call)
        if special is not None:
            return special
        pieces, interval = _pieces(question)
        steps: list[Step] = [*start(), BlockStart({"type": "text", "text": ""})]
        for number, piece in enumerate(pieces):
            steps.append(BlockDelta({"type": "text_delta", "text": piece}))
            if number == 0 and self._gated:
                self._gates.append(Gate())
                steps.append(self._gates[-1])
            if interval:
                steps.append(Pause(interval))
        return [*steps, BlockStop(), *end()]

    async def _watch(self, call: Call, paid: Paid) -> None:
        await self._notify()
        await call.finished.wait()
        paid.ended_at, paid.cut = time.time(), call.closed.is_set()
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        await self._stack.aclose()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        refusals = [refusal for api in self._apis.values() for refusal in api.refusals]
        assert not refusals, refusals
