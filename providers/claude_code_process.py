"""One process of Claude Code, driven by `claude-agent-sdk`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    PermissionResultAllow,
    PermissionResultDeny,
    ResultMessage,
    SystemMessage,
    ToolPermissionContext,
)

from providers.errors import ProviderError
from providers.inbox import Inbox
from providers.shielding import to_the_end

__all__ = ["Ask", "ClaudeCodeProcess", "Gone", "Item", "Message", "deny", "leave", "stop"]

_CLOSE_SECONDS = 25.0
"""More than the SDK's own way from end of input to SIGKILL takes."""

# The SDK's debug lines repeat what Claude Code writes, which may be the conversation.
logging.getLogger("claude_agent_sdk").setLevel(logging.WARNING)

Answer: TypeAlias = PermissionResultAllow | PermissionResultDeny


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the SDK."""

    body: object


@dataclass(frozen=True, slots=True)
class Ask:
    """Claude Code wants to use a tool, and waits until `answer` is set."""

    name: str
    arguments: Mapping[str, Any]
    context: ToolPermissionContext
    answer: asyncio.Future[Answer]


@dataclass(frozen=True, slots=True)
class Gone:
    """The process ended, or said something that the SDK does not understand."""


Item: TypeAlias = Message | Ask | Gone


def deny() -> PermissionResultDeny:
    return PermissionResultDeny(message="The person did not allow this.")


def stop() -> PermissionResultDeny:
    """A no that also ends the turn, so that the model is not asked what to do instead."""
    return PermissionResultDeny(message="The turn was cancelled.", interrupt=True)


def leave(inbox: Inbox[Item]) -> None:
    """Close `inbox`; what was asked and nobody has read is denied."""
    for item in inbox.close():
        if isinstance(item, Ask) and not item.answer.done():
            item.answer.set_result(stop())


class ClaudeCodeProcess:
    """A running Claude Code and its one session. Made by `start`; a resident of a `Pool`."""

    def __init__(self, client: ClaudeSDKClient) -> None:
        self._client = client
        self._inbox: Inbox[Item] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.session_id: str | None = None
        """Known once the first turn has begun; the session to resume before that."""

    @classmethod
    async def start(cls, options: ClaudeAgentOptions, *, seconds: float) -> ClaudeCodeProcess:
        """Start Claude Code and wait until it is ready.

        Raises:
            ProviderError: it did not start within `seconds`. Nothing is left running.
        """
        client = ClaudeSDKClient(options)
        process = cls(client)
        options.can_use_tool = process._permit
        process.session_id = options.resume
        try:
            # Cancelling the SDK's own start midway would cancel its cleanup too; so it has a task to itself.
            connecting = asyncio.ensure_future(client.connect())
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.shield(connecting)
            except BaseException:
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                await process.close()
                raise
        except TimeoutError:
            message = "Claude Code did not start in time."
            raise ProviderError("timeout", message, retryable=True, refused=True) from None
        except Exception:  # the SDK raises bare Exceptions with the program's own words
            message = "Claude Code could not be started."
            raise ProviderError("connection_failed", message, refused=True) from None
        process._reading = asyncio.create_task(process._read(), name="claude code reader")
        return process

    @property
    def alive(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def attach(self, inbox: Inbox[Item] | None) -> None:
        """Send what arrives to `inbox` from now on; None throws it away and denies what is asked."""
        self._inbox = inbox

    async def ask(self, text: str) -> None:
        """Begin a turn.

        Raises:
            ProviderError: the process is gone.
        """
        try:
            if not self.alive:
                raise ClaudeSDKError
            self._idle.clear()
            await self._client.query(text)
        except ClaudeSDKError:
            raise ProviderError("disconnected", "Claude Code ended before the turn began.", retryable=True) from None

    async def interrupt(self) -> bool:
        """Stop the turn; returns whether Claude Code said that it has. Wait with a deadline of your own."""
        if self._idle.is_set():
            return self.alive
        with suppress(Exception):  # the SDK raises bare Exceptions; whatever it is, the turn has not stopped
            await self._client.interrupt()
        await self._idle.wait()
        return self.alive

    async def close(self) -> None:
        """End the process; cancelled, it ends it all the same, and then lets the cancellation pass."""
        if self._inbox is not None:
            leave(self._inbox)
        await to_the_end(self._close())

    async def _close(self) -> None:
        hangs = not self._idle.is_set()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if hangs:
            # It did not stop when it was told to, so it will not end by itself either; the SDK would give it five
            # seconds. Should the SDK rename its fields, it only takes that long.
            process = getattr(getattr(self._client, "_transport", None), "_process", None)
            if process is not None:
                with suppress(AttributeError, ProcessLookupError):
                    process.terminate()
        with suppress(Exception):  # the process may be gone already, in whatever way
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.disconnect()

    async def _read(self) -> None:
        """Read all that Claude Code says, for as long as it lives."""
        try:
            async for message in self._client.receive_messages():
                if isinstance(message, SystemMessage) and message.subtype == "init":
                    self.session_id = message.data.get("session_id") or self.session_id
                if self._inbox is not None:
                    await self._inbox.put(Message(message))
                if isinstance(message, ResultMessage):
                    self._idle.set()
        except Exception:  # noqa: S110 - the SDK raises bare Exceptions with the program's own words
            pass
        finally:
            self._idle.set()
        if self._inbox is not None:
            await self._inbox.put(Gone())

    async def _permit(self, name: str, arguments: dict[str, Any], context: ToolPermissionContext) -> Answer:
        """Claude Code's question, answered by the turn that is attached; nobody there means no."""
        ask = Ask(name, arguments, context, asyncio.get_running_loop().create_future())
        if self._inbox is None or not await self._inbox.put(ask):
            return stop()
        return await ask.answer
