"""The rules about an answer: they look at one recording of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

from providers.base import Message
from providers.errors import ERROR_CODES, ProviderError
from providers.events import (
    Completed,
    Event,
    ReasoningDelta,
    SessionUpdated,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)
from providers.testing.play import Examination
from providers.testing.report import Broken, described
from providers.testing.rules import json_map, json_value, rule

__all__: list[str] = []

SESSION_BYTES = 64 * 1024
_EVENT_TYPES: tuple[type, ...] = get_args(Event)


@rule("the turn is answered", answer=False, plays=True)
async def _answered(it: Examination) -> None:
    if problem := (await it.recording()).problem:
        raise Broken(problem)


@rule("it yields events only")
async def _types(it: Examination) -> None:
    for event in (await it.answer()).events:
        if not isinstance(event, _EVENT_TYPES):
            raise Broken(f"it yielded a {type(event).__name__}")


@rule("there is exactly one Completed, and it is last")
async def _completed(it: Examination) -> None:
    recording = await it.answer()
    count = sum(isinstance(event, Completed) for event in recording.events)
    if count != 1:
        raise Broken(f"there were {count}; the last event: {recording.last}")
    last = recording.events[-1]
    if not isinstance(last, Completed):
        raise Broken(f"a {recording.last} came after it")
    if not isinstance(last.stop_reason, str) or not last.stop_reason:
        raise Broken("its stop_reason is not a non-empty string")


@rule("text is well-formed Unicode in named items")
async def _text(it: Examination) -> None:
    for event in (await it.answer()).events:
        if isinstance(event, TextDelta | ReasoningDelta):
            kind = type(event).__name__
            if not isinstance(event.text, str):
                raise Broken(f"the text of a {kind} is of type {type(event.text).__name__}")
            if not isinstance(event.item_id, str) or not event.item_id:
                raise Broken(f"the item_id of a {kind} is not a non-empty string")
            try:
                event.text.encode()
            except UnicodeEncodeError:
                raise Broken(f"the text of a {kind} holds half a surrogate pair") from None
        elif isinstance(event, TextReset) and event.item_id is not None and not isinstance(event.item_id, str):
            raise Broken("the item_id of a TextReset is not a string")


@rule("tool calls have ids of their own, and results belong to calls before them")
async def _tools(it: Examination) -> None:
    calls: set[str] = set()
    results: set[str] = set()
    for event in (await it.answer()).events:
        if isinstance(event, ToolCall):
            if not isinstance(event.call_id, str) or not event.call_id or event.call_id in calls:
                raise Broken("a call_id is empty, no string, or was used before")
            if not isinstance(event.name, str) or not event.name:
                raise Broken("a tool has no name")
            json_map("the arguments of a tool call", event.arguments)
            calls.add(event.call_id)
        elif isinstance(event, ToolResult):
            if event.call_id not in calls:
                raise Broken("a result belongs to no earlier call")
            if event.call_id in results:
                raise Broken("a call has two results")
            if event.status not in ("completed", "failed"):
                raise Broken("a result is neither completed nor failed")
            if not isinstance(event.summary, str):
                raise Broken("the summary of a result is not a string")
            results.add(event.call_id)


@rule("the session is JSON of at most 64 KiB")
async def _session(it: Examination) -> None:
    for event in (await it.answer()).events:
        if isinstance(event, SessionUpdated):
            if event.session is None:
                raise Broken("the session is None, which the next turn could not tell from none at all")
            size = len(json_value("the session", event.session))
            if size > SESSION_BYTES:
                raise Broken(f"it has {size} bytes")


@rule("usage counts are whole numbers, never negative")
async def _usage(it: Examination) -> None:
    for event in (await it.answer()).events:
        if isinstance(event, Usage):
            for name in Usage.__struct_fields__:
                value = getattr(event, name)
                if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                    raise Broken(f"{name} is not one")


@rule("what it shows and asks for is in its capabilities")
async def _capabilities(it: Examination) -> None:
    recording = await it.answer()
    kinds = {type(event) for event in recording.events}
    shown = {"reasoning": ReasoningDelta in kinds, "tools": ToolCall in kinds, "approvals": bool(recording.asked)}
    for capability, used in shown.items():
        if used and capability not in it.provider.capabilities:
            raise Broken(f"it has no {capability!r}, and makes use of it")
    if recording.steered != ("steer" in it.provider.capabilities):
        raise Broken("it reads turn.steering without 'steer'" if recording.steered else "'steer': nothing reads it")


@rule("it does not block the event loop")
async def _blocking(it: Examination) -> None:
    longest = (await it.answer()).blocked
    if longest > it.limits.blocking:
        raise Broken(f"nothing else could run for {longest * 1000:.0f} ms")


@rule("what it raises is a ProviderError with a known code, and without a cause", answer=False, plays=True, turns=1)
async def _errors(it: Examination) -> None:
    recording = await it.recording()
    if recording.failure is not None:
        _judge(recording.failure)
    if recording.problem is None:
        recording = await it.play(replace(it.turn, messages=(Message("user", " "),)))
        if recording.failure is not None:
            _judge(recording.failure)


def _judge(failure: Exception) -> None:
    if not isinstance(failure, ProviderError):
        raise Broken(f"it raised {described(failure)}")
    if failure.code not in ERROR_CODES:
        raise Broken("the code of its error is none of providers.ERROR_CODES")
    if not isinstance(failure.message, str) or not failure.message:
        raise Broken("its error has no message for a person")
    after: Any = failure.retry_after
    if after is not None and not (isinstance(after, int | float) and math.isfinite(after) and after >= 0):
        raise Broken("its retry_after is no number of seconds")
    hidden = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    if hidden is not None:
        raise Broken(
            f"its error drags a {type(hidden).__name__} along, whose text may quote anything: raise … from None"
        )
