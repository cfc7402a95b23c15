"""`agentline chat`: a conversation in the terminal.

Ctrl-C stops the agent's turn, a second one leaves it running and gives the prompt back; Ctrl-D ends the chat.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

from agentline.client import Agentline
from agentline.display import Display, display
from agentline.errors import AgentlineError
from agentline.events import (
    ApprovalRequest,
    ApprovalResolved,
    Done,
    Reasoning,
    Reset,
    Text,
    ToolCall,
    ToolResult,
)
from agentline.lines import Lines
from agentline.stream import TurnStream

__all__ = ["chat"]

RECALLED = 6
"""Messages of the thread that are shown when it is taken up again."""


def chat(
    url: str,
    token: str | None,
    agent: str,
    thread_id: str | None = None,
    *,
    lines: Lines | None = None,
    shown: Display | None = None,
) -> int:
    """Talk to an agent until the input ends. Returns the exit code."""
    lines = lines if lines is not None else Lines()
    shown = shown if shown is not None else display()
    try:
        line = Agentline(url, token)
        _greet(line, agent, thread_id, shown)
        while True:
            shown.pause()
            try:
                content = lines.prompt(f"{agent}> ")
            except KeyboardInterrupt:
                shown.note("Ctrl-D leaves")
                continue
            if content is None:
                return 0
            if content.strip():
                thread_id = asyncio.run(_turn(line, agent, content, thread_id, lines, shown)) or thread_id
    except (AgentlineError, ValueError) as error:
        shown.pause()
        sys.stderr.write(f"agentline: {error}\n")
        return 1


def _greet(line: Agentline, agent: str, thread_id: str | None, shown: Display) -> None:
    if thread_id is None:
        return
    thread = line.blocking.thread(thread_id)
    if thread.agent != agent:
        raise ValueError(f"this thread belongs to the agent {thread.agent!r}")
    shown.note(thread.title)
    for message in line.blocking.messages(thread_id, limit=RECALLED):
        if message.role == "user":
            shown.note(f"you: {message.content}")
        else:
            shown.text(message.content)
        shown.pause()


async def _turn(
    line: Agentline, agent: str, content: str, thread_id: str | None, lines: Lines, shown: Display
) -> str | None:
    """Send one message and show its turn. Returns the thread's id."""
    asking = asyncio.Lock()

    async def decide(request: ApprovalRequest) -> str | tuple[str, str] | None:
        async with asking:  # one question at a time
            shown.approval(request)
            return await _answer(request, lines, shown)

    async with line, line.stream(agent, content, thread_id=thread_id, on_approval=decide, seen=True) as stream:
        async with _interruptible(stream, shown) as left:
            showing = asyncio.ensure_future(_show(stream, shown))
            leaving = asyncio.ensure_future(left.wait())
            try:
                await asyncio.wait((showing, leaving), return_when=asyncio.FIRST_COMPLETED)
                if showing.done():
                    showing.result()
                else:
                    shown.note("the turn goes on without us")
            finally:
                showing.cancel()
                leaving.cancel()
                await asyncio.wait((showing, leaving))
        return stream.thread_id


async def _show(stream: TurnStream, shown: Display) -> None:
    async for event in stream:
        match event:
            case Text():
                shown.text(event.content)
            case Reset():
                shown.reset(event.content)
            case Reasoning():
                shown.reasoning(event.content)
            case ToolCall() | ToolResult():
                shown.tool(event)
            case ApprovalResolved():
                shown.note(f"decided: {event.decision}")
            case Done():
                shown.done(event)
            case _:
                pass


async def _answer(request: ApprovalRequest, lines: Lines, shown: Display) -> str | tuple[str, str] | None:
    """The person's decision; None when the input ends: another device may still decide."""
    while (typed := await lines.next()) is not None:
        choice, _, words = typed.strip().partition(" ")
        for number, option in enumerate(request.options, 1):
            if choice in (str(number), option.id):
                return (option.id, words.strip()) if request.free_text and words.strip() else option.id
        shown.note("a number from the list, please")
    return None


@contextlib.asynccontextmanager
async def _interruptible(stream: TurnStream, shown: Display) -> AsyncIterator[asyncio.Event]:
    """Within this block Ctrl-C stops the turn; a second one, or one before there is a turn, sets the event."""
    loop, left = asyncio.get_running_loop(), asyncio.Event()
    cancelling: list[asyncio.Task[None]] = []

    async def cancel() -> None:
        try:
            await stream.cancel()
        except AgentlineError as error:
            shown.note(f"the turn could not be stopped: {error}")

    def interrupted() -> None:
        if cancelling or stream.turn_id is None:
            left.set()
        else:
            shown.note("stopping")
            cancelling.append(loop.create_task(cancel()))

    try:
        loop.add_signal_handler(signal.SIGINT, interrupted)
    except (NotImplementedError, RuntimeError):  # no such signals here, or not the main thread: Ctrl-C just ends it
        yield left
        return
    try:
        yield left
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if cancelling:
            cancelling[0].cancel()
            await asyncio.wait(cancelling)
