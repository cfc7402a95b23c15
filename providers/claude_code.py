"""Claude Code, Anthropic's coding agent, through `claude-agent-sdk` and the program that comes with it.

Each thread has a process of its own (about 200 MB each), at most `processes` at a time; an idle one that has to make
room comes back by `--resume` from the session that Claude Code keeps on disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from providers.base import Capability, Turn
from providers.children import directory_template, environment, find_command, supervised, working_directory
from providers.errors import ProviderError
from providers.events import Event
from providers.inbox import Inbox
from providers.pool import Pool
from providers.transcripts import transcript

try:
    import claude_agent_sdk
    from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny
except ImportError as error:
    raise ImportError("the claude_code provider needs its extra: pip install 'agentline[claude-code]'") from error

from providers.claude_code_approvals import decide
from providers.claude_code_messages import MessageReader
from providers.claude_code_process import Ask, ClaudeCodeProcess, Gone, Item, leave, stop

__all__ = ["ClaudeCodeProvider"]

_INTERRUPT_SECONDS = 3.0
"""How long Claude Code may take to stop before its process is ended."""
_LONGEST_LINE = 16 * 1024 * 1024
_MODES = frozenset(("default", "acceptEdits", "plan", "dontAsk"))
_SOURCES = frozenset(("user", "project", "local"))
_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}
"""No traffic but to the model, and no program that replaces itself."""


class ClaudeCodeProvider:
    """One configuration of Claude Code.

    Options:
        cwd: the directory it works in; required. `{user_id}` and `{thread_id}` stand for one path segment each, and
            such a directory is made when it is first needed.
        binary: the program; default is the one in the SDK's wheel, then `claude` on PATH.
        model: the model, as Claude Code names it.
        api_key, base_url: of the Messages API; else its own login and environment.
        system: added to Claude Code's own system prompt.
        permission_mode: `default`, `acceptEdits`, `plan` or `dontAsk`. A mode in which it asks nobody is refused.
        allowed_tools, disallowed_tools: rules as Claude Code writes them, `Bash(git status)`.
        mcp_servers: MCP servers by name, as in Claude Code's own configuration.
        setting_sources: which settings files count: `user`, `project`, `local`. Default is none, since they may allow
            what nobody here was asked about.
        max_turns: the most steps that one turn may take.
        commands: whether a message that begins with a slash is one of Claude Code's commands, and `@path` a file.
        config_dir: where it keeps sessions and its login; default is its own, `~/.claude`.
        env: further environment variables; the gateway's own settings are never passed on.
        processes: how many processes may live at once.
        idle_seconds: how long a process without a turn may live; 0 ends it with its turn.

    Raises:
        ValueError: an option is missing or wrong, or there is no such program.
    """

    name = "claude_code"
    capabilities: frozenset[Capability] = frozenset(("reasoning", "tools", "approvals"))

    def __init__(
        self,
        *,
        cwd: str | None = None,
        binary: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        system: str | None = None,
        permission_mode: str = "default",
        allowed_tools: Sequence[str] = (),
        disallowed_tools: Sequence[str] = (),
        mcp_servers: Mapping[str, Mapping[str, Any]] | None = None,
        setting_sources: Sequence[str] = (),
        max_turns: int | None = None,
        commands: bool = False,
        config_dir: str | None = None,
        env: Mapping[str, str] | None = None,
        processes: int = 8,
        idle_seconds: float = 900.0,
    ) -> None:
        if permission_mode not in _MODES:
            raise ValueError(f"the option permission_mode must be one of {', '.join(sorted(_MODES))}")
        if not set(setting_sources) <= _SOURCES:
            raise ValueError(f"the option setting_sources takes {', '.join(sorted(_SOURCES))}")
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            raise ValueError("the option processes must be a positive whole number")
        if any(not isinstance(value, str) for value in (env or {}).values()):
            raise ValueError("the option env must map names to strings")
        if isinstance(allowed_tools, str) or isinstance(disallowed_tools, str):
            raise ValueError("the options allowed_tools and disallowed_tools must be lists")
        self._cwd = directory_template(cwd)
        self._env = _QUIET | dict(env or {})
        for variable, value in (
            ("ANTHROPIC_API_KEY", api_key),
            ("ANTHROPIC_BASE_URL", base_url),
            ("CLAUDE_CONFIG_DIR", config_dir),
        ):
            if value is not None:
                self._env[variable] = value
        self._binary = _find(binary, environment(self._env))
        self._model = model
        self._system = system
        self._mode = permission_mode
        self._allowed = list(allowed_tools)
        self._disallowed = list(disallowed_tools)
        self._servers = {name: dict(server) for name, server in (mcp_servers or {}).items()}
        self._sources = list(setting_sources)
        self._max_turns = max_turns
        self._commands = commands
        self._processes = processes
        self._idle_seconds = idle_seconds
        self._pool: Pool[ClaudeCodeProcess] = Pool(processes, idle_seconds=idle_seconds)
        self._private: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        self._pool = Pool(self._processes, idle_seconds=self._idle_seconds)
        self._private = await asyncio.to_thread(self._prepare)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._pool.close()
        finally:
            if self._private is not None:
                await asyncio.to_thread(self._private.cleanup)
                self._private = None

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        """Answer `turn`; see `providers.base.Provider.stream`."""
        cwd = await working_directory(self._cwd, turn)
        key = (turn.user_id, turn.thread_id)
        wanted = (turn.session or {}).get("session_id")
        process, before = await self._acquire(key, turn, cwd, wanted if isinstance(wanted, str) else None)
        keep = False
        try:
            prompt = _Prompt(process, turn, cwd)
            try:
                await process.ask(before + turn.messages[-1].content)
                while not prompt.reader.ended:
                    item = await prompt.inbox.get()
                    if isinstance(item, Gone):
                        raise ProviderError(
                            "disconnected", "Claude Code ended before the answer was complete.", retryable=True
                        )
                    for event in prompt.read(item):
                        yield event
            finally:
                keep = await prompt.finish()
        finally:
            await self._pool.release(key, keep=keep)

    async def _acquire(
        self, key: tuple[str, str], turn: Turn, cwd: str, wanted: str | None
    ) -> tuple[ClaudeCodeProcess, str]:
        """A process with the thread's session, and what to tell it first if that session is gone."""

        async def start(session_id: str | None) -> ClaudeCodeProcess:
            return await ClaudeCodeProcess.start(self._options(cwd, session_id), seconds=turn.connect_seconds)

        async def resumed() -> ClaudeCodeProcess:
            return await start(wanted)

        async def fresh() -> ClaudeCodeProcess:
            return await start(None)

        seconds = turn.connect_seconds
        if wanted is not None:
            try:
                process = await self._pool.acquire(key, resumed, seconds=seconds)
            except ProviderError as error:
                if error.code != "connection_failed":
                    raise
            else:
                if process.session_id == wanted:
                    return process, ""
                await self._pool.release(key, keep=False)
        process = await self._pool.acquire(key, fresh, seconds=seconds)
        if process.session_id is not None:  # left over from a turn whose session nobody kept
            await self._pool.release(key, keep=False)
            process = await self._pool.acquire(key, fresh, seconds=seconds)
        return process, transcript(turn.messages[:-1])

    def _options(self, cwd: str, session_id: str | None) -> claude_agent_sdk.ClaudeAgentOptions:
        if self._private is None:
            raise ProviderError("provider_fault", "The provider was not entered.")
        preset: dict[str, Any] = {"type": "preset", "preset": "claude_code"}
        if self._system:
            preset["append"] = self._system
        servers = Path(self._private.name, "mcp.json")
        return claude_agent_sdk.ClaudeAgentOptions(
            cli_path=Path(self._private.name, "claude"),
            cwd=cwd,
            env=self._env,
            model=self._model,
            system_prompt=cast("Any", preset),
            permission_mode=cast("Any", self._mode),
            allowed_tools=self._allowed,
            disallowed_tools=self._disallowed,
            mcp_servers=servers if self._servers else {},
            strict_mcp_config=True,
            setting_sources=cast("Any", self._sources),
            max_turns=self._max_turns,
            resume=session_id,
            include_partial_messages=True,
            verbatim_prompts=not self._commands,
            max_buffer_size=_LONGEST_LINE,
            stderr=lambda line: None,  # else it would go to ours; it may repeat the conversation
        )

    def _prepare(self) -> tempfile.TemporaryDirectory[str]:
        """A private directory with what the SDK takes only as files.

        The program, which it must start under our supervisor, and the MCP servers, whose keys would else be on a
        command line that every user of the machine can read.
        """
        private = tempfile.TemporaryDirectory(prefix="agentline-")
        program = Path(private.name, "claude")
        program.write_text(f'#!/bin/sh\nexec {shlex.join(supervised([self._binary]))} "$@"\n')
        program.chmod(0o700)
        if self._servers:
            servers = Path(private.name, "mcp.json")
            servers.touch(mode=0o600)
            servers.write_text(json.dumps({"mcpServers": self._servers}))
        return private


class _Prompt:
    """One turn of one process: what arrives for it, and the people asked meanwhile."""

    def __init__(self, process: ClaudeCodeProcess, turn: Turn, cwd: str) -> None:
        self._process = process
        self._turn = turn
        self._cwd = cwd
        self._deciding: set[asyncio.Task[None]] = set()
        self.reader = MessageReader(cwd)
        self.inbox: Inbox[Item] = Inbox()
        process.attach(self.inbox)

    def read(self, item: Item) -> list[Event]:
        """What to show for `item`. A question is then asked beside the stream, which goes on."""
        if not isinstance(item, Ask):
            return list(self.reader.read(getattr(item, "body", None)))
        shown = list(self.reader.call(item.context.tool_use_id or "", item.name, item.arguments))
        task = asyncio.create_task(self._decide(item), name="claude code permission")
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        return shown

    async def finish(self) -> bool:
        """End what is still going on; returns whether the process can serve another turn."""
        try:
            async with asyncio.timeout(_INTERRUPT_SECONDS):
                await self._close_questions()
                return await self._process.interrupt()
        except TimeoutError:
            return False
        finally:
            self._process.attach(None)
            await self._close_questions()

    async def _close_questions(self) -> None:
        for task in tuple(self._deciding):
            task.cancel()
        await asyncio.gather(*self._deciding, return_exceptions=True)
        leave(self.inbox)

    async def _decide(self, ask: Ask) -> None:
        answer: PermissionResultAllow | PermissionResultDeny = stop()
        try:
            answer = await decide(self._turn, ask, self._cwd)
        finally:
            if not ask.answer.done():
                ask.answer.set_result(answer)


def _find(binary: str | None, env: Mapping[str, str]) -> str:
    if binary is not None:
        return find_command(binary, env)
    bundled = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    return str(bundled) if os.access(bundled, os.X_OK) else find_command("claude", env)
