"""Any agent that speaks the Agent Client Protocol over stdio: Gemini CLI, Goose, OpenCode, Claude Code and others.

Each thread has a process of its own, at most `processes` at a time; an idle one that has to make room comes back by
`session/load`. The protocol would allow one process for all threads, but its agents are written for one person at
one desk: a cancel that an agent ignores can only be enforced by ending its process, and that must not end the turns
of others, nor may one user's agent remember another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from providers.base import ApprovalRequest, Capability, Turn
from providers.children import directory_template, environment, find_command, working_directory
from providers.errors import ErrorCode, ProviderError
from providers.events import Completed, Event, SessionUpdated
from providers.inbox import Inbox
from providers.pool import Pool
from providers.transcripts import transcript

try:
    from acp import RequestError
    from acp.schema import NewSessionRequest, NewSessionResponse, PromptResponse
except ImportError as error:
    raise ImportError("the acp provider needs its extra: pip install 'agentline[acp]'") from error

from pydantic import ValidationError

from providers.acp_process import AcpProcess, Ended, Item, Permission, Update, leave
from providers.acp_updates import UpdateReader, usage_of

__all__ = ["AcpProvider"]

_CANCEL_SECONDS = 3.0
"""How long an agent may take to stop before its process is ended."""

_LOGIN_WANTED = -32000
_ERRORS: dict[int, tuple[ErrorCode, str]] = {
    _LOGIN_WANTED: ("authentication", "The agent wants a login on the gateway's machine first."),
    -32002: ("not_found", "The agent does not find what the request needs."),
    -32601: ("invalid_request", "The agent does not know this request."),
    -32602: ("invalid_request", "The agent does not accept the request as it stands."),
}
"""Error codes of the protocol; every other is a failure on the agent's side."""


class AcpProvider:
    """One agent program.

    Options:
        command: the program and its arguments, `["opencode", "acp"]`; required.
        cwd: the directory it works in; required. `{user_id}` and `{thread_id}` stand for one path segment each, and
            such a directory is made when it is first needed.
        env: further environment variables; the gateway's own settings are never passed on.
        mcp_servers: MCP servers for every session, as the protocol describes them.
        mode: the session mode to choose (`session/set_mode`), as the agent names it.
        config: the session's configuration options to choose, by id (a model, say).
        auth_method: the id of the agent's authentication method to use after the start.
        processes: how many processes may live at once.
        idle_seconds: how long a process without a turn may live; 0 ends it with its turn.
        session_seconds: how long opening or loading a session may take.
        log_path: a file for what the program writes to standard error. It may repeat conversations.

    Raises:
        ValueError: an option is missing or wrong, or there is no such program.
    """

    name = "acp"
    capabilities: frozenset[Capability] = frozenset(("reasoning", "tools", "approvals"))

    def __init__(
        self,
        *,
        command: Sequence[str] | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        mcp_servers: Sequence[Mapping[str, Any]] = (),
        mode: str | None = None,
        config: Mapping[str, str | bool] | None = None,
        auth_method: str | None = None,
        processes: int = 8,
        idle_seconds: float = 900.0,
        session_seconds: float = 60.0,
        log_path: str | None = None,
    ) -> None:
        if isinstance(command, str) or not command or not all(isinstance(part, str) for part in command):
            raise ValueError('the option command must be a list: the program and its arguments, ["opencode", "acp"]')
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            raise ValueError("the option processes must be a positive whole number")
        if any(not isinstance(value, str) for value in (env or {}).values()):
            raise ValueError("the option env must map names to strings")
        self._cwd = directory_template(cwd)
        self._env = environment(env)
        self._command = [find_command(command[0], self._env), *command[1:]]
        self._servers = _servers(mcp_servers)
        self._mode = mode
        self._config = dict(config or {})
        self._auth_method = auth_method
        self._session_seconds = session_seconds
        self._log_path = log_path
        self._pool: Pool[AcpProcess] = Pool(processes, idle_seconds=idle_seconds)
        self._processes = processes
        self._idle_seconds = idle_seconds

    async def __aenter__(self) -> Self:
        self._pool = Pool(self._processes, idle_seconds=self._idle_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        """Answer `turn`; see `providers.base.Provider.stream`."""
        cwd = await working_directory(self._cwd, turn)
        key = (turn.user_id, turn.thread_id)

        async def start() -> AcpProcess:
            return await AcpProcess.start(
                self._command,
                cwd=cwd,
                env=self._env,
                auth_method=self._auth_method,
                log_path=self._log_path,
                seconds=turn.connect_seconds,
            )

        process = await self._pool.acquire(key, start, seconds=turn.connect_seconds)
        keep = False
        try:
            before = await self._open(process, turn, cwd)
            yield SessionUpdated({"session_id": process.session_id, "cwd": cwd})
            prompt = _Prompt(process, turn)
            try:
                prompt.begin(before + turn.messages[-1].content)
                while not isinstance(item := await prompt.inbox.get(), Ended):
                    for event in prompt.read(item):
                        yield event
                for event in _ending(item):
                    yield event
            finally:
                keep = await prompt.finish()
        finally:
            await self._pool.release(key, keep=keep)

    async def _open(self, process: AcpProcess, turn: Turn, cwd: str) -> str:
        """Have the thread's session open in `process`; returns what to tell a session that knows nothing yet."""
        wanted = (turn.session or {}).get("session_id")
        if wanted is not None and wanted == process.session_id:
            return ""
        process.session_id = None
        try:
            async with asyncio.timeout(self._session_seconds):
                if isinstance(wanted, str) and await self._reopen(process, wanted, cwd):
                    return ""
                answer = await process.request("session_new", self._session(cwd))
                session_id = NewSessionResponse.model_validate(answer).session_id
                await self._configure(process, session_id)
        except TimeoutError:
            message = "The agent did not open a session in time."
            raise ProviderError("timeout", message, retryable=True, refused=True) from None
        except (RequestError, ConnectionError, ValidationError) as error:
            raise _failure(error) from None
        process.session_id = session_id
        return transcript(turn.messages[:-1])

    async def _reopen(self, process: AcpProcess, session_id: str, cwd: str) -> bool:
        """Open an earlier session, where the agent can and still has it."""
        sessions = process.capabilities.session_capabilities
        if sessions is not None and sessions.resume is not None:
            method = "session_resume"
        elif process.capabilities.load_session:
            method = "session_load"  # the agent replays the conversation; nobody is attached, so nobody sees it
        else:
            return False
        try:
            await process.request(method, {**self._session(cwd), "sessionId": session_id})
        except RequestError as error:
            if error.code == _LOGIN_WANTED:
                raise
            return False
        await self._configure(process, session_id)
        process.session_id = session_id
        return True

    async def _configure(self, process: AcpProcess, session_id: str) -> None:
        if self._mode is not None:
            await process.request("session_set_mode", {"sessionId": session_id, "modeId": self._mode})
        for name, value in self._config.items():
            chosen = {"type": "boolean", "value": value} if isinstance(value, bool) else {"value": value}
            await process.request("session_set_config_option", {"sessionId": session_id, "configId": name, **chosen})

    def _session(self, cwd: str) -> dict[str, Any]:
        return {"cwd": cwd, "mcpServers": self._servers}


class _Prompt:
    """One prompt in flight: the request, what arrives for it, and the people asked meanwhile."""

    def __init__(self, process: AcpProcess, turn: Turn) -> None:
        self._process = process
        self._turn = turn
        self._session_id = process.session_id or ""
        self._reader = UpdateReader()
        self._deciding: set[asyncio.Task[None]] = set()
        self._asking: asyncio.Task[None] | None = None
        self.inbox: Inbox[Item] = Inbox()
        process.attach(self.inbox)

    def begin(self, text: str) -> None:
        self._asking = asyncio.create_task(self._ask(text), name="acp prompt")

    def read(self, item: Update | Permission) -> list[Event]:
        """What to show for `item`. A permission is then asked for beside the stream, which goes on."""
        if isinstance(item, Update):
            return list(self._reader.read(item.fields))
        shown, question, answers = self._reader.permission(item.request)
        task = asyncio.create_task(self._decide(item, question, answers), name="acp permission")
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        return shown

    async def finish(self) -> bool:
        """End what is still going on; returns whether the process can serve another turn.

        The agent is told to stop and given a moment to do so, so that nothing is done for a turn that has ended.
        """
        asking = self._asking
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                if asking is not None and not asking.done():
                    await self._process.cancel(self._session_id)
                await self._close_questions()
                if asking is not None:
                    await asyncio.wait((asking,))
        except TimeoutError:
            return False
        finally:
            self._process.attach(None)
            await self._close_questions()
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        return self._process.alive

    async def _close_questions(self) -> None:
        """Answer as cancelled whatever the agent still asks, as the protocol wants it after a cancel."""
        for task in tuple(self._deciding):
            task.cancel()
        await asyncio.gather(*self._deciding, return_exceptions=True)
        leave(self.inbox)

    async def _ask(self, text: str) -> None:
        prompt = [{"type": "text", "text": text}]
        try:
            result = await self._process.request("session_prompt", {"sessionId": self._session_id, "prompt": prompt})
        except (RequestError, ConnectionError) as error:
            await self.inbox.put(Ended(error=error))
        else:
            await self.inbox.put(Ended(result))

    async def _decide(self, item: Permission, question: ApprovalRequest, answers: Mapping[str, str]) -> None:
        """Ask a person. Only an option that the agent offered and a person chose is ever selected."""
        outcome: dict[str, Any] = {"outcome": "cancelled"}
        try:
            chosen = answers.get((await self._turn.approve(question)).option)
            if chosen is not None:
                outcome = {"outcome": "selected", "optionId": chosen}
        finally:
            if not item.answer.done():
                item.answer.set_result({"outcome": outcome})


def _ending(ended: Ended) -> Iterator[Event]:
    if ended.error is not None:
        raise _failure(ended.error) from None
    try:
        answer = PromptResponse.model_validate(ended.result)
    except ValidationError as error:
        raise _failure(error) from None
    usage = usage_of(answer)
    if usage is not None:
        yield usage
    yield Completed(answer.stop_reason)


def _failure(error: Exception) -> ProviderError:
    """What an agent's error means, in our own words."""
    if isinstance(error, RequestError):
        code, message = _ERRORS.get(error.code, ("upstream_error", "The agent failed."))
        return ProviderError(code, message, retryable=code == "upstream_error")
    if isinstance(error, ConnectionError):
        return ProviderError(
            "disconnected", "The agent's program ended before the answer was complete.", retryable=True
        )
    return ProviderError("upstream_error", "The agent does not keep to the Agent Client Protocol.")


def _servers(servers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`servers` as the protocol has them; `env` and `headers` may be maps."""
    given: list[dict[str, Any]] = []
    for server in servers:
        entry = dict(server)
        for name in ("env", "headers"):
            if isinstance(entry.get(name), Mapping):
                entry[name] = [{"name": key, "value": value} for key, value in entry[name].items()]
        if "command" in entry:
            entry.setdefault("args", [])
            entry.setdefault("env", [])
        elif "url" in entry:
            entry.setdefault("type", "http")
            entry.setdefault("headers", [])
        given.append(entry)
    try:
        checked = NewSessionRequest.model_validate({"cwd": "/", "mcpServers": given})
    except ValidationError:
        checked = None
    # The schema drops entries that it does not understand; a server that is silently missing is a wrong option too.
    if checked is None or len(checked.mcp_servers) != len(given):
        raise ValueError("the option mcp_servers holds an entry that is not an MCP server of the protocol")
    return given
