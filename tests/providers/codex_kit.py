"""What the Codex tests share: a provider on the real binary whose model is the fake Responses API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_cli_bin import bundled_codex_path  # type: ignore[import-untyped]  # the wheel has no types

from providers import (
    APPROVED,
    Completed,
    Decision,
    Event,
    Message,
    ProviderError,
    SessionUpdated,
    TextDelta,
    TextReset,
    Turn,
)
from providers.base import ApprovalRequest
from providers.codex import CodexProvider
from tests.fakes.responses_api import ResponsesApi

BINARY = str(bundled_codex_path())
SECONDS = 30.0


def config(api: ResponsesApi | None, *, port: int | None = None, **more: Any) -> dict[str, Any]:
    """One of the two says where the model is."""
    assert api is not None or port is not None
    base_url = f"http://127.0.0.1:{api.port if api is not None and port is None else port}/v1"
    return {
        "model_providers.fake": {
            "name": "fake",
            "base_url": base_url,
            "wire_api": "responses",
            "env_key": "FAKE_KEY",
            "request_max_retries": 1,
            "stream_max_retries": 1,
        },
        "features.shell_snapshot": False,
        **more,
    }


def options(home: Path, api: ResponsesApi | None, *, port: int | None = None, **more: Any) -> dict[str, Any]:
    """Options of a provider that asks the fake. `config` in `more` is added to what that needs."""
    return {
        "binary": BINARY,
        "model": "test-model",
        "model_provider": "fake",
        "codex_home": str(home / "codex-home"),
        "cwd": str(home / "work"),
        "env": {"FAKE_KEY": "test-key", "HOME": str(home)},
        **more,
        "config": config(api, port=port, **more.get("config", {})),
    }


def turn(content: str, /, *, history: Sequence[Message] = (), **fields: Any) -> Turn:
    given: dict[str, Any] = {"thread_id": "t1", "turn_id": "u1", "user_id": "alice", "connect_seconds": 20.0}
    return Turn(**given | {"messages": (*history, Message("user", content))} | fields)


async def collect(provider: CodexProvider, what: Turn, into: list[Event]) -> None:
    """Run a turn as the gateway does, keeping its events whatever becomes of it."""
    async with contextlib.aclosing(provider.stream(what)) as stream:
        async for event in stream:
            into.append(event)


async def run(provider: CodexProvider, what: Turn) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(SECONDS):
        await collect(provider, what, events)
    assert isinstance(events[-1], Completed)
    assert sum(isinstance(event, Completed) for event in events) == 1
    return events


async def failure(provider: CodexProvider, what: Turn) -> ProviderError:
    try:
        await run(provider, what)
    except ProviderError as error:
        return error
    raise AssertionError("the turn did not fail")


def text(events: Sequence[Event]) -> str:
    """The answer as the gateway puts it together."""
    items: dict[str, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            items[event.item_id] = items.get(event.item_id, "") + event.text
        elif isinstance(event, TextReset):
            if event.item_id is None:
                items.clear()
            else:
                items.pop(event.item_id)
    return "\n\n".join(items.values())


def session(events: Sequence[Event]) -> Mapping[str, Any]:
    return [event.session for event in events if isinstance(event, SessionUpdated)][-1]


def of(kind: type[Event], events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


class Person:
    """Answers approval requests by `choose`, and remembers them."""

    def __init__(self, choose: Callable[[ApprovalRequest], Decision] | None = None) -> None:
        self.asked: list[ApprovalRequest] = []
        self.choose = choose or (lambda request: Decision(APPROVED.id))

    async def __call__(self, request: ApprovalRequest) -> Decision:
        self.asked.append(request)
        return self.choose(request)


class Wait:
    """A person who does not answer until the turn is cancelled."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.cancelled = False

    async def __call__(self, request: ApprovalRequest) -> Decision:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError


@contextlib.asynccontextmanager
async def codex(home: Path, api: ResponsesApi, **more: Any) -> AsyncIterator[CodexProvider]:
    async with CodexProvider(**options(home, api, **more)) as provider:
        yield provider


async def terminal(home: Path, api: ResponsesApi, *arguments: str, cwd: Path | None = None) -> str:
    """What a person at the desk does: `codex exec …` on the same Codex home. Returns what it printed."""
    overrides = {"model": "test-model", "model_provider": "fake", **config(api)}
    from providers.codex.options import toml

    (home / "codex-home").mkdir(exist_ok=True)
    line = [BINARY, "exec", "--skip-git-repo-check"]
    for key, value in overrides.items():
        line += ["-c", f"{key}={toml(value)}"]
    process = await asyncio.create_subprocess_exec(
        *line,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd or home,
        env={**os.environ, "CODEX_HOME": str(home / "codex-home"), "FAKE_KEY": "test-key"},
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def processes(marker: str) -> list[int]:
    """The processes whose command line or environment holds the marker, whoever their parent is."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marker.encode() in known and state != "Z":
                found.append(int(entry.name))
    return found


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    """Wait for something that other processes do, of which nobody tells."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - see above: there is no event to wait for
            await asyncio.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and the children it has waited for have used (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def child_of(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(pid)]).split()[0])


def resident_bytes(pid: int) -> int:
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
