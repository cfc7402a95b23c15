"""Providers that break the contract on purpose, each in one way, and the rule that it breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from providers import (
    ApprovalRequest,
    Completed,
    Event,
    Message,
    Option,
    ProviderError,
    ReasoningDelta,
    Session,
    SessionUpdated,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)

__all__ = [
    "WRONG",
    "CompletesTwice",
    "Fails",
    "FailsProperly",
    "Good",
    "NeverStops",
    "RaisesAnything",
    "WillNotStop",
    "WithSessions",
]


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


class NeverEnds(Good):
    async def more(self, turn: Turn) -> list[Any]:
        await asyncio.Event().wait()
        return []


class WillNotStop(Good):
    """Also when it is cancelled."""

    seconds = 4.0

    async def more(self, turn: Turn) -> list[Any]:
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(until - time.monotonic())
        return []


class NeverStops(WillNotStop):
    """Nothing but the end of the process ends it."""

    seconds = 3600.0


class Fails(Good):
    async def more(self, turn: Turn) -> list[Any]:
        raise KeyError("secret")


class FailsProperly(Good):
    async def more(self, turn: Turn) -> list[Any]:
        raise ProviderError("authentication", "The backend does not accept the key.")


class DragsItsCauseAlong(Good):
    async def more(self, turn: Turn) -> list[Any]:
        try:
            return [int("secret")]
        except ValueError:
            raise ProviderError("upstream_error", "The backend failed.")  # noqa: B904 - wrong on purpose


class ListsItsCause(Good):
    async def more(self, turn: Turn) -> list[Any]:
        raise ProviderError("upstream_error", "The backend failed.") from ValueError("secret")


class SaysNothingToThePerson(Good):
    async def more(self, turn: Turn) -> list[Any]:
        raise ProviderError("upstream_error", "")


class NegativePause(Good):
    async def more(self, turn: Turn) -> list[Any]:
        raise ProviderError("overloaded", "The backend is busy.", retry_after=-1)


class ListOfCapabilities(Good):
    capabilities = ["tools"]  # noqa: RUF012 - wrong on purpose


class NoStopReason(Good):
    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        yield TextDelta("t", "Hello")
        yield Completed("")


class TwoResults(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [ToolCall("c", "ls"), ToolResult("c"), ToolResult("c")]


class OddResult(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [ToolCall("c", "ls"), ToolResult("c", "maybe")]  # type: ignore[arg-type]  # wrong on purpose


class ListAsArguments(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [ToolCall("c", "ls", arguments=["-l"])]  # type: ignore[arg-type]  # wrong on purpose


class FractionOfAToken(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [Usage(output_tokens=0.5)]  # type: ignore[arg-type]  # wrong on purpose


class ReasonsUnannounced(Good):
    async def more(self, turn: Turn) -> list[Any]:
        return [ReasoningDelta("r", "Hm.")]


class ReadsSteeringUnannounced(Good):
    async def more(self, turn: Turn) -> list[Any]:
        asking = asyncio.ensure_future(anext(turn.steering))
        await asyncio.sleep(0)
        asking.cancel()
        return []


class AnnouncesSteeringAndIsDeaf(Good):
    capabilities: Any = frozenset(("steer",))


class FailsBesideAnother(Good):
    running = 0

    async def more(self, turn: Turn) -> list[Any]:
        self.running += 1
        try:
            await asyncio.sleep(0.01)
            if self.running > 1:
                raise ProviderError("overloaded", "One at a time.")
        finally:
            self.running -= 1
        return []


class TwoOptionsOfOneId(Good):
    async def more(self, turn: Turn) -> list[Any]:
        await turn.approve(ApprovalRequest("question", "Which?", options=(Option("a", "A"), Option("a", "B"))))
        return []


class DeafWhileItAsks(Good):
    async def more(self, turn: Turn) -> list[Any]:
        asking = asyncio.ensure_future(turn.approve(ApprovalRequest("command", "Run it?")))
        until = time.monotonic() + 4
        while not asking.done() and time.monotonic() < until:
            with suppress(asyncio.CancelledError):
                await asyncio.wait({asking}, timeout=until - time.monotonic())
        asking.cancel()
        return []


class NoSessionsAfterAll(Good):
    capabilities: Any = frozenset(("sessions",))


class WithSessions(NoSessionsAfterAll):
    """Not wrong in itself."""

    listed: Any = (
        Session(id="b", title="", created_at=1, updated_at=2, session={"id": "b"}),
        Session(id="a", title="", created_at=1, updated_at=1, session={"id": "a"}),
    )

    async def sessions(self, user_id: str) -> Any:
        return self.listed

    async def session_messages(self, user_id: str, session_id: str) -> Any:
        if session_id not in ("a", "b"):
            raise ProviderError("not_found", "There is no such session.")
        return [Message("user", "Hi")]


class OldestFirst(WithSessions):
    listed = WithSessions.listed[::-1]


class OneIdTwice(WithSessions):
    listed = WithSessions.listed[:1] * 2


class ListsStrings(WithSessions):
    listed = ("b",)


class FindsEverySession(WithSessions):
    async def session_messages(self, user_id: str, session_id: str) -> Any:
        return []


class OddlyMissing(WithSessions):
    async def session_messages(self, user_id: str, session_id: str) -> Any:
        if session_id == "b":
            return []
        raise ProviderError("upstream_error", "There is no such session.")


class SaysWordsOnly(WithSessions):
    async def session_messages(self, user_id: str, session_id: str) -> Any:
        return ["Hi"]


WRONG: list[tuple[type[Good], str]] = [
    (NoName, "it has a name"),
    (OddCapability, "it has a name"),
    (Coroutine, "stream is a plain def"),
    (ListOfEvents, "stream is a plain def"),
    (YieldsStrings, "it yields events only"),
    (NoStopReason, "there is exactly one Completed"),
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
    (AsksWithoutCapability, "what it shows and asks for"),
    (ReasonsUnannounced, "what it shows and asks for"),
    (ReadsSteeringUnannounced, "what it shows and asks for"),
    (AnnouncesSteeringAndIsDeaf, "what it shows and asks for"),
    (NeverEnds, "the turn is answered"),
    (WillNotStop, "the turn is answered"),
    (Fails, "the turn is answered"),
    (FailsProperly, "the turn is answered"),
    (Fails, "what it raises"),
    (DragsItsCauseAlong, "what it raises"),
    (ListsItsCause, "what it raises"),
    (SaysNothingToThePerson, "what it raises"),
    (NegativePause, "what it raises"),
    (ListOfCapabilities, "it has a name"),
    (TwoResults, "tool calls have ids"),
    (OddResult, "tool calls have ids"),
    (ListAsArguments, "tool calls have ids"),
    (FractionOfAToken, "usage counts"),
    (FailsBesideAnother, "two turns at once"),
    (TwoOptionsOfOneId, "an approval that is declined"),
    (DeafWhileItAsks, "an approval that is declined"),
    (NoSessionsAfterAll, "sessions are listed"),
    (OldestFirst, "sessions are listed"),
    (OneIdTwice, "sessions are listed"),
    (ListsStrings, "sessions are listed"),
    (FindsEverySession, "sessions are listed"),
    (OddlyMissing, "sessions are listed"),
    (SaysWordsOnly, "sessions are listed"),
]
