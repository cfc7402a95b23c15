"""The provider that `agentline` knows as `codex`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from providers.base import Capability, Message, Session, Turn
from providers.codex.lease import Leases
from providers.codex.options import Options, find_binary
from providers.codex.process import AppServer
from providers.codex.sessions import list_sessions, read_messages
from providers.codex.threads import SESSION_KEY, Threads
from providers.codex.turn import Run
from providers.errors import ProviderError
from providers.events import Event, SessionUpdated

__all__ = ["CodexProvider"]

LIST_SECONDS = 30.0


class CodexProvider:
    """Codex for all users of one agent, through one process. Enter it before the first turn, leave it after the last.

    The options are those of `docs/codex.md`. A session is `{"codex_thread_id": …}`.
    """

    name = "codex"
    capabilities: frozenset[Capability] = frozenset(("reasoning", "tools", "approvals", "steer", "sessions"))

    def __init__(
        self,
        *,
        binary: str | None = None,
        model: str | None = None,
        model_provider: str | None = None,
        cwd: str | None = None,
        sandbox: str = "read-only",
        approval_policy: str = "on-request",
        codex_home: str | None = None,
        env: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        session_users: Sequence[str] | None = None,
    ) -> None:
        """
        Raises:
            ValueError: an option is wrong, or there is no Codex binary.
        """
        self._options = Options(
            binary=binary,
            model=model,
            model_provider=model_provider,
            cwd=cwd,
            sandbox=sandbox,
            approval_policy=approval_policy,
            codex_home=codex_home,
            env=env,
            config=config,
            session_users=session_users,
        )
        self._command = self._options.command(find_binary(binary))
        self._threads = Threads(self._options)
        self._stack: contextlib.AsyncExitStack | None = None
        self._leases: Leases | None = None
        self._server: AppServer | None = None

    @property
    def server(self) -> AppServer:
        """The process, for health reports.

        Raises:
            ProviderError: the provider was not entered.
        """
        if self._server is None:
            raise ProviderError("provider_fault", "The Codex provider is not running.", refused=True)
        return self._server

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            group = await stack.enter_async_context(asyncio.TaskGroup())
            self._server = AppServer(self._command, self._options.environment(), group)
            self._leases = Leases(group)
            stack.push_async_callback(self._leases.end)
            stack.push_async_callback(self._server.stop)  # first of all: it ends every turn that still runs
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stack is not None  # noqa: S101 - entered before
        try:
            # What happened in the body goes on as it is: the task group would wrap it.
            await self._stack.__aexit__(None, None, None)
        finally:
            self._server = self._leases = self._stack = None

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        """Answer the turn. Closed or cancelled, it interrupts Codex and waits, bounded, until that is done."""
        client = await self.server.client(turn.connect_seconds)
        assert self._leases is not None  # noqa: S101 - `server` looked
        async with self._leases.hold(self._threads.open(client, turn)) as lease:
            inbox = lease.value
            if (turn.session or {}).get(SESSION_KEY) != inbox.thread_id:
                yield SessionUpdated({SESSION_KEY: inbox.thread_id})
            run = Run(client, inbox, turn)
            lease.before_leaving = run.close
            async with contextlib.aclosing(run.events()) as events:
                async for event in events:
                    yield event

    async def sessions(self, user_id: str) -> list[Session]:
        """Sessions that the user may adopt, newest first: those begun in a terminal on this machine.

        Raises:
            ProviderError
        """
        client = await self.server.client(LIST_SECONDS)
        return await list_sessions(client, self._options, user_id)

    async def session_messages(self, user_id: str, session_id: str) -> list[Message]:
        """What was said in a session so far.

        Raises:
            ProviderError: `not_found`, also if the user may not see it.
        """
        client = await self.server.client(LIST_SECONDS)
        return await read_messages(client, self._options, user_id, session_id)
