"""The demo agent: answers without a network, a key or a model, always the same way.

An ordinary message gets a short answer at the pace of a real model. A message that begins with `/` is a script: one
directive per line, played in order; other lines are said as they stand. `docs/demo.md` lists the directives.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from providers.base import Capability, Turn
from providers.demo_directives import DIRECTIVES, Directive
from providers.demo_stage import Part, Play, Say, Stage, WrongArguments
from providers.events import Completed, Event, Usage

__all__ = ["DemoProvider"]

DEFAULT_PACE = 30.0
_REMEMBERED = 1000
"""Turns whose attempts are counted, for `/flaky`."""

_ANSWER = """\
You wrote: *{quote}*

I am the **demo agent**. I run without a key and without a network, so everything between this text and your \
screen is real except me:

- each piece is logged before you see it;
- close the app now, come back, and the rest is waiting;
- when the answer is complete, your phone gets a push.

Send `/help` to see what I can play, `/tool` or `/approval command` for instance.
"""


class DemoProvider:
    """Plays scripts.

    Options:
        pace: pieces per second, 30 by default; 0 does not wait at all.

    Raises:
        ValueError: `pace` is no number of at least 0.
    """

    name = "demo"
    capabilities: frozenset[Capability] = frozenset(("reasoning", "tools", "approvals"))

    def __init__(self, *, pace: float = DEFAULT_PACE) -> None:
        if isinstance(pace, bool) or not isinstance(pace, int | float) or not (math.isfinite(pace) and pace >= 0):
            raise ValueError("pace must be a number of at least 0")
        self._interval = 1 / pace if pace else 0.0
        self._attempts: OrderedDict[str, int] = OrderedDict()

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        stage = Stage(turn, self._interval, self._attempt)
        for play, rest in _program(turn.messages[-1].content):
            async with aclosing(play(stage, rest)) as parts:
                async for part in parts:
                    if isinstance(part, Say):
                        for event in part.events(stage):
                            await stage.wait()
                            yield event
                    else:
                        yield part
            if stage.over:
                break
        if stage.stop_reason is not None:
            yield Completed(stage.stop_reason)

    def _attempt(self, key: str) -> int:
        self._attempts[key] = self._attempts.pop(key, 0) + 1
        if len(self._attempts) > _REMEMBERED:
            self._attempts.popitem(last=False)
        return self._attempts[key]


def _program(content: str) -> Iterator[tuple[Play, str]]:
    """What to play, each with what stands behind its name."""
    if not content.lstrip().startswith("/"):
        yield _answer, content
        return
    for line in map(str.strip, re.split(r"\n|;\s*(?=/)", content)):
        if line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            yield (_checked(DIRECTIVES[name]), rest.strip()) if name in DIRECTIVES else (_unknown, name)
        elif line:
            yield DIRECTIVES["echo"].play, line


def _checked(directive: Directive) -> Play:
    """The directive, which says how it is used when its arguments are wrong."""

    async def play(stage: Stage, rest: str) -> AsyncGenerator[Part]:
        try:
            async with aclosing(directive.play(stage, rest)) as parts:
                async for part in parts:
                    yield part
        except WrongArguments:
            yield Say(f"Use it like this: `{directive.usage}`.")

    return play


async def _unknown(stage: Stage, name: str) -> AsyncGenerator[Part]:
    known = "\n".join(f"- `{directive.usage}`" for directive in DIRECTIVES.values())
    yield Say(f"I know no `/{name[:40]}`. I understand these, one per line:\n\n{known}\n")


async def _answer(stage: Stage, content: str) -> AsyncGenerator[Part]:
    quote = " ".join(content.split())
    text = _ANSWER.format(quote=quote if len(quote) <= 80 else quote[:79] + "…")
    yield Say(text)
    words = sum(len(message.content.split()) for message in stage.turn.messages)
    yield Usage(input_tokens=words, output_tokens=len(text.split()))
