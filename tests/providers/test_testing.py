"""Each rule of the conformance kit bites: a provider that breaks it is named with it, and ours break none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any

import pytest

from providers import (
    ApprovalRequest,
    Completed,
    Event,
    ProviderError,
    SessionUpdated,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
    testing,
)
from providers.claude import ClaudeProvider
from providers.demo import DemoProvider
from providers.testing import RULES, check, message, require
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import answer, server_tool, text, thinking, web_search


class Good:
    name = "good"
    capabilities: Any = frozenset(("approvals", "tools"))

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        for piece in ("Hel", "lo"):
            await asyncio.sleep(0)
            yield TextDelta("t", piece)
        for event in await self.more(turn):
            yield event
        yield Completed()

    async def more(self, turn: Turn) -> list[Any]:
        return []


class NoName(Good):
    name = ""


class OddCapability(Good):
    capabilities = frozenset(("telepathy",))


class Coroutine(Good):
    async def stream(self, turn: Turn, /) -> Any:  # type: ignore[override]  # wrong on purpose
        return Good().stream(turn)


class ListOfEvents(Good):
    def stream(self, turn: Turn, /) -> Any:
        return [Completed()]


class YieldsStrings(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return ["text"]


class CompletesTwice(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [Completed()]


class NeverCompletes(Good):
    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        yield TextDelta("t", "Hel")
        yield TextDelta("t", "lo")


class GoesOnAfterwards(Good):
    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        yield TextDelta("t", "Hel")
        yield Completed()
        yield TextDelta("t", "lo")


class BytesAsText(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [TextDelta("t", b"x")]  # type: ignore[arg-type]  # wrong on purpose


class HalfASurrogate(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [TextDelta("t", "\ud83d")]


class UnnamedItem(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [TextDelta("", "x")]


class SameCallTwice(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [ToolCall("c", "ls"), ToolCall("c", "ls")]


class ResultOfNothing(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [ToolResult("c")]


class HugeSession(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [SessionUpdated({"x": "y" * 70_000})]


class UnencodableSession(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [SessionUpdated({"x": object()})]


class NegativeUsage(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [Usage(input_tokens=-1)]


class RaisesAnything(Good):
    async def more(self, turn: Turn) -> list[Any]:
        if turn.messages[-1].content.strip():
            return []
        raise KeyError("secret")


class RaisesUnknownCode(Good):
    async def more(self, turn: Turn) -> list[Any]:
        if turn.messages[-1].content.strip():
            return []
        raise ProviderError("tired", "I am tired.")  # type: ignore[arg-type]  # wrong on purpose


class GoesOnWhenClosed(Good):
    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        try:
            yield TextDelta("t", "Hel")
        finally:
            yield TextDelta("t", "lo")
        yield Completed()


class SlowToClose(Good):
    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        try:
            yield TextDelta("t", "Hello")
            yield Completed()
        except GeneratorExit:
            await asyncio.sleep(60)


class LeavesATask(Good):
    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        self.task = asyncio.create_task(asyncio.sleep(3))
        yield TextDelta("t", "Hello")
        await asyncio.sleep(0.01)
        yield Completed()


class SwallowsCancellation(Good):
    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        yield TextDelta("t", "Hello")
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.2)
        yield Completed()


class Blocks(Good):
    async def more(self, turn: Turn) -> list[Any]:
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            pass
        return []


class SleepsTheWholeProcess(Good):
    async def more(self, turn: Turn) -> list[Any]:
        time.sleep(0.6)  # noqa: ASYNC251  wrong on purpose
        return []


class SharesItsBuffer(Good):
    def __init__(self) -> None:
        self.buffer: list[str] = []

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        self.buffer.clear()
        for piece in ("Hel", "lo"):
            self.buffer.append(piece)
            await asyncio.sleep(0.01)
        yield TextDelta("t", "".join(self.buffer))
        yield Completed()


class IgnoresTheDecision(Good):
    async def more(self, turn: Turn) -> list[Any]:
        await turn.approve(ApprovalRequest("command", "Run it?", {}, "c"))
        return [ToolCall("c", "rm"), ToolResult("c", "completed")]


class DoesNotWaitForTheDecision(Good):
    async def more(self, turn: Turn) -> list[Any]:
        asking = asyncio.ensure_future(turn.approve(ApprovalRequest("command", "Run it?")))
        await asyncio.sleep(0)
        asking.cancel()
        return []


class AsksWithoutCapability(Good):
    capabilities: Any = frozenset()

    async def more(self, turn: Turn) -> list[Any]:
        await turn.approve(ApprovalRequest("command", "Run it?"))
        return []


WRONG: list[tuple[type[Good], str]] = [
    (NoName, "it has a name"),
    (OddCapability, "it has a name"),
    (Coroutine, "stream is a plain def"),
    (ListOfEvents, "stream is a plain def"),
    (YieldsStrings, "it yields events only"),
    (CompletesTwice, "there is exactly one Completed"),
    (NeverCompletes, "there is exactly one Completed"),
    (GoesOnAfterwards, "there is exactly one Completed"),
    (BytesAsText, "text is well-formed"),
    (HalfASurrogate, "text is well-formed"),
    (UnnamedItem, "text is well-formed"),
    (SameCallTwice, "tool calls have ids"),
    (ResultOfNothing, "tool calls have ids"),
    (HugeSession, "the session is JSON"),
    (UnencodableSession, "the session is JSON"),
    (NegativeUsage, "usage counts"),
    (RaisesAnything, "what it raises"),
    (RaisesUnknownCode, "what it raises"),
    (GoesOnWhenClosed, "closing it early"),
    (SlowToClose, "closing it early"),
    (LeavesATask, "closing it early"),
    (LeavesATask, "cancelling its task"),
    (SwallowsCancellation, "cancelling its task"),
    (Blocks, "it does not block"),
    (SleepsTheWholeProcess, "it does not block"),
    (SharesItsBuffer, "two turns at once"),
    (IgnoresTheDecision, "an approval that is declined"),
    (DoesNotWaitForTheDecision, "an approval that is declined"),
    (AsksWithoutCapability, "an approval that is declined"),
]


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "STOP_SECONDS", 0.5)


def rule_like(beginning: str) -> str:
    (rule,) = [rule for rule in RULES if rule.startswith(beginning)]
    return rule


@pytest.mark.parametrize(("wrong", "beginning"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_provider_that_breaks_a_rule_is_caught_by_it(wrong: type[Good], beginning: str) -> None:
    with pytest.raises(AssertionError, match="^" + beginning):
        await require(rule_like(beginning), wrong, message("Hi"))


def test_every_rule_has_a_provider_that_breaks_it() -> None:
    assert {rule_like(beginning) for _, beginning in WRONG} == set(RULES)


async def test_a_good_provider_breaks_none() -> None:
    report = await check(Good(), message("Hi"))
    assert report.ok, report
    assert [finding.rule for finding in report.findings] == list(RULES)


async def test_a_report_says_what_was_wrong_in_one_line_per_rule() -> None:
    report = await check(CompletesTwice(), message("Hi"))
    assert [finding.rule for finding in report.broken] == [rule_like("there is exactly one Completed")]
    assert "BROKEN  there is exactly one Completed, and it is last: there were 2" in str(report)
    assert len(str(report).splitlines()) == len(RULES)


async def test_a_report_never_repeats_the_text_of_a_foreign_exception() -> None:
    assert "secret" not in str(await check(RaisesAnything(), message("Hi")))


@pytest.mark.parametrize(
    "script",
    [
        "Hello",
        "/reasoning; /tool; /tool failed; /session; /usage; /reset; /echo done",
        "/approval command; /approval file_change; /approval tool; /approval question",
        "/long 20000",
    ],
)
async def test_the_demo_agent_keeps_the_contract(script: str) -> None:
    report = await check(DemoProvider(pace=0), message(script))
    assert report.ok, report


@pytest.fixture
def talkative() -> Iterator[str]:
    """The URL of a fake in a thread of its own: the kit counts every task of its own loop."""
    script = answer(
        thinking("Hm."), text("Hel", "lo"), server_tool("web_search", '{"query": "x"}'), web_search("T"), text("Bye")
    )
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        async with MessagesApi(script) as api:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            started.set_result((api.url, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, stop = started.result(timeout=10)
    yield url
    stop()
    thread.join(timeout=10)


@pytest.mark.parametrize("rule", RULES)
async def test_claude_keeps_the_contract(talkative: str, rule: str) -> None:
    await require(rule, lambda: ClaudeProvider(api_key="sk-secret", base_url=talkative), message("Hi"))
