"""The rules by their sentences, and a check that several need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from providers.testing.play import Examination
from providers.testing.report import Broken

__all__ = ["RULES_BY_SENTENCE", "Rule", "json_map", "json_value", "rule"]

Look: TypeAlias = Callable[[Examination], Awaitable[None]]
"""Raises `Broken` when the provider breaks the rule, `Unanswered` when there is no answer to look at."""


@dataclass(frozen=True, slots=True)
class Rule:
    sentence: str
    look: Look
    plays: bool
    """Whether it needs turns to be played at all."""
    answer: bool
    """Whether it can only be looked at if the turn was answered."""
    turns: int
    """The most turns that it plays beside the one that is recorded for all."""


RULES_BY_SENTENCE: dict[str, Rule] = {}


def rule(sentence: str, *, answer: bool = True, plays: bool = True, turns: int = 0) -> Callable[[Look], Look]:
    def register(look: Look) -> Look:
        RULES_BY_SENTENCE[sentence] = Rule(sentence, look, plays, answer, turns)
        return look

    return register


def json_map(what: str, value: Any) -> bytes:
    """The value as JSON.

    Raises:
        Broken: it is not a map of JSON values.
    """
    encoded = json_value(what, value)
    if not isinstance(msgspec.json.decode(encoded), dict):
        raise Broken(f"{what} is not a map")
    return encoded


def json_value(what: str, value: Any) -> bytes:
    """The value as JSON. Raises `Broken`: it cannot be encoded."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        raise Broken(f"{what} cannot be encoded as JSON") from None
