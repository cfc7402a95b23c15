"""Looking at one rule or at all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from providers.base import Message, Provider, Turn
from providers.errors import ProviderError
from providers.events import Event
from providers.testing import answers, conduct, identity
from providers.testing.play import Examination, Limits, Recording
from providers.testing.report import Broken, Finding, Report, Unanswered, described
from providers.testing.rules import RULES_BY_SENTENCE, Rule

__all__ = ["RULES", "check", "examine", "message", "require", "turns_at_most"]

_ORDER = (identity, answers, conduct)

RULES: tuple[str, ...] = tuple(
    sentence
    for module in _ORDER
    for sentence, rule in RULES_BY_SENTENCE.items()
    if rule.look.__module__ == module.__name__
)
"""All rules, as sentences, in the order in which they are looked at."""


def message(content: str, **fields: Any) -> Turn:
    """A turn that begins with this message."""
    values: dict[str, Any] = {"thread_id": "thread", "turn_id": "turn", "user_id": "user", **fields}
    return Turn(messages=(Message("user", content),), **values)


def turns_at_most() -> int:
    """How many turns `check` plays at the most. An agent that asks for no approval takes one less."""
    return 1 + sum(rule.turns for rule in RULES_BY_SENTENCE.values())


async def check(provider: Provider, turn: Turn, *, repeatable: bool = True, limits: Limits | None = None) -> Report:
    """Start the provider, look at every rule, and stop it.

    `repeatable`: the same turn is answered with the same text every time.
    """
    async with _started(provider):
        return await examine(provider, turn, repeatable=repeatable, limits=limits)


async def examine(
    provider: Provider,
    turn: Turn,
    *,
    repeatable: bool = True,
    limits: Limits | None = None,
    play: bool = True,
    watch: Callable[[Event], None] | None = None,
) -> Report:
    """Look at every rule of a provider that was started already.

    `play=False` plays no turn at all: most rules are not looked at then. `watch` gets each event of the turn that is
    recorded for all rules, as it comes. If that turn is not answered, no other is played.
    """
    it = Examination(provider, turn, limits=limits or Limits(), repeatable=repeatable, watch=watch)
    findings = [
        await _finding(rule, it) if play or not rule.plays else Finding(rule.sentence, None, skipped=True)
        for rule in map(RULES_BY_SENTENCE.__getitem__, RULES)
    ]
    played = await it.recording() if play else Recording()
    failure = str(played.failure) if isinstance(played.failure, ProviderError) else played.problem
    return Report(tuple(findings), it.turns, failure, played.first_text, played.seconds)


async def require(
    rule: str,
    factory: Callable[[], Provider],
    turn: Turn,
    *,
    repeatable: bool = True,
    limits: Limits | None = None,
) -> None:
    """Look at one rule of a new provider.

    Raises:
        AssertionError: the provider breaks it, or did not answer the turn.
        KeyError: there is no such rule.
    """
    wanted = RULES_BY_SENTENCE[rule]
    provider = factory()
    async with _started(provider):
        it = Examination(provider, turn, limits=limits or Limits(), repeatable=repeatable)
        finding = await _finding(wanted, it)
        if finding.skipped:
            raise AssertionError(f"{rule}: not looked at, because {(await it.recording()).problem}")
    if finding.problem is not None:
        raise AssertionError(f"{rule}: {finding.problem}")


@asynccontextmanager
async def _started(provider: Provider) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if isinstance(provider, AbstractAsyncContextManager):
            await stack.enter_async_context(provider)
        yield


async def _finding(rule: Rule, it: Examination) -> Finding:
    try:
        if rule.answer and rule.plays:
            await it.answer()
        await rule.look(it)
    except Unanswered:
        return Finding(rule.sentence, None, skipped=True)
    except Broken as broken:
        return Finding(rule.sentence, str(broken))
    except Exception as failure:  # whatever a provider raises is a finding
        return Finding(rule.sentence, f"it raised {described(failure)}")
    return Finding(rule.sentence, None)
