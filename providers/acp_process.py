"""One process of an agent that speaks the Agent Client Protocol over its standard input and output."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from acp import PROTOCOL_VERSION, RequestError
from acp.connection import Connection
from acp.meta import AGENT_METHODS, CLIENT_METHODS
from acp.schema import (
    AgentCapabilities,
    ClientCapabilities,
    Implementation,
    InitializeRequest,
    InitializeResponse,
    RequestPermissionRequest,
)
from pydantic import BaseModel, ValidationError

from providers.children import Child
from providers.errors import ProviderError
from providers.inbox import Inbox
from providers.version import version

__all__ = ["AcpProcess", "Ended", "Item", "Permission", "Update", "leave"]

_LONGEST_LINE = 16 * 1024 * 1024
"""Bytes; a tool's whole output can come as one line."""
_CANCELLED: Mapping[str, Any] = {"outcome": {"outcome": "cancelled"}}


@dataclass(frozen=True, slots=True)
class Update:
    """One `session/update`; `fields` is its member `update`."""

    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Permission:
    """One `session/request_permission`. The agent waits until `answer` is set."""

    request: RequestPermissionRequest
    answer: asyncio.Future[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer to `session/prompt`: a result, or what went wrong instead."""

    result: Any = None
    error: Exception | None = None


Item: TypeAlias = Update | Permission | Ended


def leave(inbox: Inbox[Item]) -> None:
    """Close `inbox`; questions in it that nobody has read are answered as cancelled."""
    for item in inbox.close():
        if isinstance(item, Permission) and not item.answer.done():
            item.answer.set_result(_CANCELLED)


class _Pipes:
    """The library's transport seam over a child's pipes.

    The library's own makes one task of every line, logs what it cannot parse, and reads on however far the turn is
    behind. Here the stream of updates goes to the turn directly, in order and with back-pressure.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._writing = asyncio.Lock()
        self.inbox: Inbox[Item] | None = None
        self.session_id: str | None = None
        """The session whose updates go to `inbox`."""
        self.ended = False
        """The agent closed its output: it will never answer again, even if its process is still there."""

    async def send(self, message: dict[str, Any]) -> None:
        async with self._writing:
            try:
                self._child.stdin.write(msgspec.json.encode(message) + b"\n")
                await self._child.stdin.drain()
            except (ConnectionError, RuntimeError):
                # An answer to an agent that is gone concerns nobody; a question of ours does.
                if "method" in message and "id" in message:
                    raise ConnectionError("the agent is gone") from None

    async def receive(self) -> dict[str, Any] | None:
        message = await self._receive()
        self.ended = message is None
        return message

    async def _receive(self) -> dict[str, Any] | None:
        while True:
            try:
                line = await self._child.stdout.readline()
            except ValueError:  # longer than any line may be
                return None
            if not line.endswith(b"\n"):
                return None
            try:
                message = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # programs print to standard output by mistake
            if not isinstance(message, dict) or not isinstance(message.get("id"), (int, str, type(None))):
                continue
            if message.get("method") == CLIENT_METHODS["session_update"]:
                await self._update(message.get("params"))
            elif isinstance(message.get("method"), (str, type(None))):
                return message

    async def _update(self, params: object) -> None:
        inbox = self.inbox
        if inbox is None or not isinstance(params, dict) or params.get("sessionId") != self.session_id:
            return
        fields = params.get("update")
        if isinstance(fields, dict):
            await inbox.put(Update(fields))

    async def close(self) -> None:
        """The pipes are the child's: they end with it."""


class AcpProcess:
    """A running agent and the one session that it has open. Made by `start`; a resident of a `Pool`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._pipes = _Pipes(child)
        self._connection = Connection(self._handle, self._pipes)
        self.capabilities = AgentCapabilities()
        self.session_id: str | None = None
        """The session that is open in this process."""

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        auth_method: str | None,
        log_path: str | None,
        seconds: float,
    ) -> AcpProcess:
        """Start the agent and shake hands with it.

        Raises:
            ProviderError: it cannot be started, or does not answer within `seconds`. Nothing is left running.
        """
        log = None if log_path is None else await asyncio.to_thread(_open_log, log_path)
        try:
            child = await Child.start(command, cwd=cwd, env=env, line_bytes=_LONGEST_LINE, errors=log)
        except OSError:
            raise ProviderError("connection_failed", "The agent's program could not be started.") from None
        finally:
            if log is not None:
                log.close()
        process = cls(child)
        try:
            async with asyncio.timeout(seconds):
                await process._shake_hands(auth_method)
        except BaseException as error:
            await process.close(at_once=True)
            if isinstance(error, TimeoutError):
                message = "The agent's program did not answer in time."
                raise ProviderError("timeout", message, retryable=True, refused=True) from None
            raise
        return process

    @property
    def alive(self) -> bool:
        return self._child.alive and not self._pipes.ended

    def attach(self, inbox: Inbox[Item] | None) -> None:
        """Send what arrives for the open session to `inbox` from now on; None throws it away."""
        self._pipes.inbox = inbox
        self._pipes.session_id = self.session_id

    async def request(self, method: str, params: BaseModel | Mapping[str, Any]) -> Any:
        """Ask the agent and wait for its answer.

        Raises:
            RequestError: the agent's own refusal. Its text is the agent's and must not be shown.
            ConnectionError: the agent ended.
        """
        if isinstance(params, BaseModel):
            params = params.model_dump(mode="json", by_alias=True, exclude_none=True)
        return await self._connection.send_request(AGENT_METHODS[method], params)

    async def cancel(self, session_id: str) -> None:
        """Tell the agent to stop the session's turn. It answers the prompt itself once it has."""
        with suppress(ConnectionError):
            await self._connection.send_notification(AGENT_METHODS["session_cancel"], {"sessionId": session_id})

    async def close(self, *, at_once: bool = False) -> None:
        if self._pipes.inbox is not None:
            leave(self._pipes.inbox)
        try:
            await self._connection.close()
        finally:
            await self._child.stop(at_once=at_once)

    async def _shake_hands(self, auth_method: str | None) -> None:
        # No file system and no terminal of ours is offered: the agent works where it runs, under its own rules.
        hello = InitializeRequest(
            protocol_version=PROTOCOL_VERSION,
            client_capabilities=ClientCapabilities(),
            client_info=Implementation(name="agentline", title="Agentline", version=version()),
        )
        try:
            answer = InitializeResponse.model_validate(await self.request("initialize", hello))
            if auth_method is not None:
                await self.request("authenticate", {"methodId": auth_method})
        except RequestError:
            message = "The agent refused the connection; it may want a login on the gateway's machine."
            raise ProviderError("authentication", message) from None
        except ConnectionError:
            raise ProviderError("connection_failed", "The agent's program ended at once.", refused=True) from None
        except ValidationError:
            raise ProviderError("upstream_error", "The agent does not speak the Agent Client Protocol.") from None
        if answer.protocol_version != PROTOCOL_VERSION:
            raise ProviderError("upstream_error", "The agent speaks another version of the Agent Client Protocol.")
        self.capabilities = answer.agent_capabilities or AgentCapabilities()

    async def _handle(self, method: str, params: Any, notification: bool) -> Any:
        """Answer a request of the agent. The library logs every exception but `RequestError`, so there is no other."""
        if notification:
            return None
        if method != CLIENT_METHODS["session_request_permission"]:
            raise RequestError.method_not_found(method)
        try:
            request = RequestPermissionRequest.model_validate(params)
        except ValidationError:
            raise RequestError.invalid_params() from None
        inbox = self._pipes.inbox
        asked = Permission(request, asyncio.get_running_loop().create_future())
        if inbox is None or request.session_id != self._pipes.session_id or not await inbox.put(asked):
            return _CANCELLED
        return await asked.answer


def _open_log(path: str) -> Any:
    Path(path).touch(mode=0o600, exist_ok=True)
    return open(path, "ab")
