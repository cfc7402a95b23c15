"""The conformance kit: whether a provider keeps its contract, and if not, what it did.

    report = await check(EchoProvider(), message("Hi"))
    assert report.ok, report

Under pytest, one test per rule:

    @pytest.mark.parametrize("rule", RULES)
    async def test_the_contract(rule: str) -> None:
        await require(rule, EchoProvider, message("Hi"))

The turn should give an answer of at least two events. Each rule plays it anew, so a provider should answer it again and
again. A provider that is an async context manager is entered first. Tasks of a backend in the same loop count as the
provider's own: run a fake in a thread or a process.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

import msgspec

from providers.base import CAPABILITIES, DECLINED, ApprovalRequest, Decision, Message, Provider, Turn
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

__all__ = ["RULES", "Finding", "Report", "check", "message", "require"]

DEADLINE_SECONDS = 10.0
"""For a whole answer."""
STOP_SECONDS = 2.0
"""For a provider to stop when it is closed or cancelled."""
BLOCKING_SECONDS = 0.1
"""The most CPU time between two turns of the event loop."""
SESSION_BYTES = 64 * 1024

_EVENT_TYPES: tuple[type, ...] = get_args(Event)


class Broken(Exception):
    """The provider breaks the rule that is being looked at; the text says how."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one rule."""

    rule: str
    problem: str | None
    """None: the provider keeps it."""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one provider; as text, one line each."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.broken

    @property
    def broken(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.problem is not None)

    def __str__(self) -> str:
        return "\n".join(
            f"ok      {finding.rule}" if finding.problem is None else f"BROKEN  {finding.rule}: {finding.problem}"
            for finding in self.findings
        )


def message(content: str, **fields: Any) -> Turn:
    """A turn that begins with this message."""
    values: dict[str, Any] = {"thread_id": "thread", "turn_id": "turn", "user_id": "user", **fields}
    return Turn(messages=(Message("user", content),), **values)


async def check(provider: Provider, turn: Turn) -> Report:
    """Look at every rule, playing `turn` once or more for each."""
    async with _started(provider):
        return Report(tuple([Finding(rule, await _problem(look, provider, turn)) for rule, look in _RULES.items()]))


async def require(rule: str, factory: Callable[[], Provider], turn: Turn) -> None:
    """Look at one rule.

    Raises:
        AssertionError: the provider breaks it.
    """
    provider = factory()
    async with _started(provider):
        problem = await _problem(_RULES[rule], provider, turn)
    if problem is not None:
        raise AssertionError(f"{rule}: {problem}")


Look = Callable[[Provider, Turn], Awaitable[None]]
_RULES: dict[str, Look] = {}


def _rule(sentence: str) -> Callable[[Look], Look]:
    def register(look: Look) -> Look:
        _RULES[sentence] = look
        return look

    return register


@asynccontextmanager
async def _started(provider: Provider) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if isinstance(provider, AbstractAsyncContextManager):
            await stack.enter_async_context(provider)
        yield


async def _problem(look: Look, provider: Provider, turn: Turn) -> str | None:
    try:
        await look(provider, turn)
    except Broken as broken:
        return str(broken)
    except Exception as failure:  # whatever a provider raises is a finding
        return f"it raised {type(failure).__name__}"
    return None


async def _played(provider: Provider, turn: Turn) -> tuple[list[Any], Exception | None]:
    """All events of one answer, and what ended it if not its own end."""
    events: list[Any] = []
    generator = provider.stream(turn)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for event in generator:
                events.append(event)
    except TimeoutError:
        raise Broken(f"no end within {DEADLINE_SECONDS:g} s; the last event was {_last(events)}") from None
    except Exception as failure:
        return events, failure
    finally:
        await _closed(generator)
    return events, None


def _last(events: Sequence[Any]) -> str:
    return type(events[-1]).__name__ if events else "none at all"


async def _closed(generator: AsyncGenerator[Event]) -> None:
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await generator.aclose()
    except TimeoutError:
        raise Broken(f"aclose() took longer than {STOP_SECONDS:g} s") from None
    except RuntimeError as failure:
        raise Broken(f"aclose() failed: {failure}; the generator goes on after it was closed") from None


async def _answer(provider: Provider, turn: Turn) -> list[Any]:
    events, failure = await _played(provider, turn)
    if failure is not None:
        raise Broken(f"the turn failed with {type(failure).__name__}; give it one that can be answered")
    return events


@_rule("stream is a plain def, or an async def with yield, that returns an async generator at once")
async def _shape(provider: Provider, turn: Turn) -> None:
    if inspect.iscoroutinefunction(provider.stream):
        raise Broken("stream is a coroutine: it has to be awaited before it can be iterated")
    generator = provider.stream(turn)
    if not all(hasattr(generator, method) for method in ("__aiter__", "__anext__", "aclose", "athrow")):
        raise Broken(f"stream returns a {type(generator).__name__}, which is not an async generator")
    await generator.aclose()


@_rule("it has a name and known capabilities")
async def _identity(provider: Provider, turn: Turn) -> None:
    if not isinstance(provider.name, str) or not provider.name:
        raise Broken("name is not a non-empty string")
    if not isinstance(provider.capabilities, frozenset):
        raise Broken(f"capabilities is a {type(provider.capabilities).__name__}, not a frozenset")
    if unknown := provider.capabilities - CAPABILITIES:
        raise Broken(f"unknown capabilities: {', '.join(sorted(map(str, unknown)))}")


@_rule("it yields events only")
async def _types(provider: Provider, turn: Turn) -> None:
    for event in await _answer(provider, turn):
        if not isinstance(event, _EVENT_TYPES):
            raise Broken(f"it yielded a {type(event).__name__}")


@_rule("there is exactly one Completed, and it is last")
async def _completed(provider: Provider, turn: Turn) -> None:
    events = await _answer(provider, turn)
    count = sum(isinstance(event, Completed) for event in events)
    if count != 1:
        raise Broken(f"there were {count}; the last event was {_last(events)}")
    if not isinstance(events[-1], Completed):
        raise Broken(f"a {_last(events)} came after it")
    if not isinstance(events[-1].stop_reason, str) or not events[-1].stop_reason:
        raise Broken("its stop_reason is not a non-empty string")


@_rule("text is well-formed Unicode in named items")
async def _text(provider: Provider, turn: Turn) -> None:
    for event in await _answer(provider, turn):
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


@_rule("tool calls have ids of their own, and results belong to calls before them")
async def _tools(provider: Provider, turn: Turn) -> None:
    calls: set[str] = set()
    results: set[str] = set()
    for event in await _answer(provider, turn):
        if isinstance(event, ToolCall):
            if not event.call_id or event.call_id in calls:
                raise Broken("a call_id is empty or was used before")
            if not event.name:
                raise Broken("a tool has no name")
            _json("the arguments of a tool call", event.arguments)
            calls.add(event.call_id)
        elif isinstance(event, ToolResult):
            if event.call_id not in calls:
                raise Broken("a result belongs to no earlier call")
            if event.call_id in results:
                raise Broken("a call has two results")
            if event.status not in ("completed", "failed"):
                raise Broken("a result is neither completed nor failed")
            results.add(event.call_id)


@_rule("the session is JSON of at most 64 KiB")
async def _session(provider: Provider, turn: Turn) -> None:
    for event in await _answer(provider, turn):
        if isinstance(event, SessionUpdated):
            size = len(_json("the session", event.session))
            if size > SESSION_BYTES:
                raise Broken(f"it has {size} bytes")


@_rule("usage counts are whole numbers, never negative")
async def _usage(provider: Provider, turn: Turn) -> None:
    for event in await _answer(provider, turn):
        if isinstance(event, Usage):
            for name in Usage.__struct_fields__:
                value = getattr(event, name)
                if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                    raise Broken(f"{name} is not one")


@_rule("what it raises is a ProviderError with a known code")
async def _errors(provider: Provider, turn: Turn) -> None:
    for attempt in (turn, replace(turn, messages=(Message("user", " "),))):
        _, failure = await _played(provider, attempt)
        if failure is None:
            continue
        if not isinstance(failure, ProviderError):
            raise Broken(f"it raised {type(failure).__name__}")
        if failure.code not in ERROR_CODES:
            raise Broken("the code of its error is none of providers.ERROR_CODES")
        if not failure.message:
            raise Broken("its error has no message for a person")


@_rule("closing it early stops it at once and leaves no task")
async def _closing(provider: Provider, turn: Turn) -> None:
    before = asyncio.all_tasks()
    generator = provider.stream(turn)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await anext(generator)
    except (StopAsyncIteration, TimeoutError):
        raise Broken("there was no first event") from None
    finally:
        await _closed(generator)
    await _no_task_left(before)


@_rule("cancelling its task stops it at once and leaves no task")
async def _cancelling(provider: Provider, turn: Turn) -> None:
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def consume() -> None:
        generator = provider.stream(turn)
        try:
            async for _ in generator:
                begun.set()
        finally:
            begun.set()
            with suppress(RuntimeError):
                await generator.aclose()

    task = asyncio.create_task(consume())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await begun.wait()
    except TimeoutError:
        task.cancel()
        raise Broken("there was no first event") from None
    finished = task.done()
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=STOP_SECONDS)
    if not done:
        task.cancel()
        raise Broken(f"it still ran {STOP_SECONDS:g} s after it was cancelled")
    if not finished and not task.cancelled():
        failure = task.exception()
        raise Broken(f"CancelledError became {type(failure).__name__ if failure else 'a normal end'}")
    await _no_task_left(before)


@_rule("it does not block the event loop")
async def _blocking(provider: Provider, turn: Turn) -> None:
    longest = 0.0
    stop = False

    async def watch() -> None:
        """CPU time of this thread counts, so that a busy machine is not blamed on the provider; a provider that
        sleeps without using any shows in the clock alone, and counts when that is far too long."""
        nonlocal longest
        while not stop:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            elapsed, used = time.perf_counter() - wall, time.thread_time() - cpu
            longest = max(longest, elapsed if elapsed > 5 * BLOCKING_SECONDS else used)

    watcher = asyncio.create_task(watch())
    try:
        await asyncio.sleep(0)
        await _played(provider, turn)
    finally:
        stop = True
        await watcher
    if longest > BLOCKING_SECONDS:
        raise Broken(f"nothing else could run for {longest * 1000:.0f} ms")


@_rule("two turns at once do not mix")
async def _mixing(provider: Provider, turn: Turn) -> None:
    alone = await _answer(provider, turn)
    both = await asyncio.gather(
        _answer(provider, replace(turn, turn_id=turn.turn_id + "-a", thread_id=turn.thread_id + "-a")),
        _answer(provider, replace(turn, turn_id=turn.turn_id + "-b", thread_id=turn.thread_id + "-b")),
    )
    for events in both:
        if _said(events) != _said(alone):
            raise Broken("a turn says something else when another one runs beside it")


@_rule("an approval that is declined, or never answered, is honoured")
async def _approvals(provider: Provider, turn: Turn) -> None:
    asked: list[ApprovalRequest] = []

    async def declines(request: ApprovalRequest) -> Decision:
        asked.append(request)
        return Decision(DECLINED.id)

    async def never(request: ApprovalRequest) -> Decision:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    for event in await _answer(provider, replace(turn, approve=declines)):
        waiting = {request.call_id for request in asked if request.call_id is not None}
        if isinstance(event, ToolResult) and event.call_id in waiting and event.status == "completed":
            raise Broken("a tool that was declined has completed")
    if not asked:
        return
    if "approvals" not in provider.capabilities:
        raise Broken("it asks for approval without the capability")
    for request in asked:
        _json("the detail of an approval", request.detail)
        if not request.options or not request.title:
            raise Broken("an approval has no title or no options")
    reached = asyncio.Event()
    task = asyncio.create_task(_played(provider, replace(turn, approve=never)))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await reached.wait()
        done, _ = await asyncio.wait((task,), timeout=0.2)
        if done:
            raise Broken("it went on before the approval was answered")
    except TimeoutError:
        raise Broken("it asked once, and not again with the same turn") from None
    finally:
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=STOP_SECONDS)
    if not done:
        raise Broken("cancelling does not reach it while an approval is open")


def _said(events: Sequence[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def _json(what: str, value: Any) -> bytes:
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        raise Broken(f"{what} cannot be encoded as JSON") from None
    if not isinstance(msgspec.json.decode(encoded), dict):
        raise Broken(f"{what} is not a map")
    return encoded


async def _no_task_left(before: set[asyncio.Task[Any]]) -> None:
    """Tasks may need a moment to end, but no longer than closing itself may take."""
    deadline = time.monotonic() + STOP_SECONDS
    while left := asyncio.all_tasks() - before:
        if time.monotonic() > deadline:
            raise Broken(f"{len(left)} task(s) still run")
        await asyncio.wait(left, timeout=0.05)


RULES: tuple[str, ...] = tuple(_RULES)
"""All rules, as sentences."""
