"""The one process: it starts when needed, comes back when it dies, serves many at once, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from providers import Event
from providers.codex import CodexProvider, threads
from providers.codex import turn as turn_module
from providers.codex.client import Client
from providers.codex.options import INHERITED, find_binary
from tests.fakes.responses_api import STALL, FunctionCall, Reply, ResponsesApi, Text
from tests.providers.codex_kit import (
    BINARY,
    SECONDS,
    child_of,
    codex,
    collect,
    cpu_seconds,
    failure,
    options,
    processes,
    resident_bytes,
    run,
    text,
    turn,
    until,
)

ROOT = Path(__file__).parents[2]
ESCAPES = "(setsid nohup sleep 600 >/dev/null 2>&1 &); sleep 600 & sleep 600"
"""A command that leaves its process group, its terminal and its parent."""


@pytest.fixture
async def api() -> AsyncIterator[ResponsesApi]:
    async with ResponsesApi() as server:
        yield server


@pytest.fixture
def mark() -> Iterator[str]:
    """Put into Codex's environment, it is in that of everything that Codex ever starts. Cleans up what is left."""
    marker = f"mark-{uuid.uuid4()}"
    yield marker
    for pid in processes(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def marked(mark: str, home: Path) -> dict[str, str]:
    return {"FAKE_KEY": "test-key", "HOME": str(home), "MARK": mark}


def escaping() -> Reply:
    return Reply(FunctionCall("exec_command", {"cmd": ESCAPES, "login": False}, "c1"))


def sleepers(mark: str) -> int:
    count = 0
    for pid in processes(mark):
        with contextlib.suppress(OSError):  # it has just ended
            count += Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"
    return count


GATEWAY = """
import asyncio, json, sys
from providers import Message, Turn, children
from providers.codex import CodexProvider

async def main():
    given = json.loads(sys.argv[1])
    if not given.pop("supervised"):
        children.supervised = list
    async with CodexProvider(**given) as provider:
        turn = Turn(thread_id="t", turn_id="u", user_id="a", messages=[Message("user", "go")], connect_seconds=20)
        async for event in provider.stream(turn):
            print(type(event).__name__, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of processes that left their parent")
async def test_kill_9_of_the_gateway_leaves_no_process_behind(
    api: ResponsesApi, tmp_path: Path, mark: str, supervised: bool
) -> None:
    """The second case shows that it is the supervisor that sees to it."""
    api.script(escaping())
    given = options(tmp_path, api, env=marked(mark, tmp_path), sandbox="danger-full-access", approval_policy="never")
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY, json.dumps({**given, "supervised": supervised}), cwd=ROOT
    )
    try:
        await until(lambda: sleepers(mark) == 3, SECONDS)
        assert len(processes(mark)) >= 4
        gateway.kill()
        await gateway.wait()
        if supervised:
            await until(lambda: processes(mark) == [])
        else:
            await until(lambda: processes(BINARY + "\0app-server") == [])  # it saw the end of its input
            assert sleepers(mark) >= 1
    finally:
        if gateway.returncode is None:
            gateway.kill()
            await gateway.wait()


async def test_leaving_the_provider_leaves_no_process_behind_whatever_runs(
    api: ResponsesApi, tmp_path: Path, mark: str
) -> None:
    api.script(escaping())
    began = time.monotonic()
    async with codex(
        tmp_path, api, env=marked(mark, tmp_path), sandbox="danger-full-access", approval_policy="never"
    ) as provider:
        running = asyncio.create_task(failure(provider, turn("go")))
        await until(lambda: sleepers(mark) == 3, SECONDS)
        began = time.monotonic()
    took = time.monotonic() - began
    assert processes(mark) == []
    assert (await running).code == "disconnected"
    assert took < 5.0


async def test_when_the_supervisor_is_killed_codex_dies_too_and_the_next_turn_has_a_new_one(
    api: ResponsesApi, tmp_path: Path, mark: str
) -> None:
    async with codex(tmp_path, api, env=marked(mark, tmp_path)) as provider:
        await run(provider, turn("one"))
        client = await provider.server.client(1.0)
        assert provider.server.pid is not None
        inner = child_of(provider.server.pid)
        os.kill(provider.server.pid, signal.SIGKILL)
        await until(lambda: inner not in processes(mark) and client.closed)
        assert text(await run(provider, turn("two", thread_id="t2"))) == "ok"
        assert provider.server.starts == 2


async def test_nothing_is_started_before_the_first_turn(api: ResponsesApi, tmp_path: Path, mark: str) -> None:
    async with codex(tmp_path, api, env=marked(mark, tmp_path)) as provider:
        assert provider.server.starts == 0
        assert processes(mark) == []


async def test_a_codex_that_cannot_start_fails_the_turn_as_refused_and_is_tried_ever_more_rarely(
    api: ResponsesApi, tmp_path: Path
) -> None:
    began = time.monotonic()
    async with codex(tmp_path, api, binary="/bin/false") as provider:
        for _ in range(3):
            error = await failure(provider, turn("go"))
            assert (error.code, error.retryable, error.refused) == ("connection_failed", True, True)
        assert provider.server.starts == 3
        assert time.monotonic() - began > 0.75 * (0.2 + 0.4)
        error = await failure(provider, turn("go", connect_seconds=0.05))
        assert error.retry_after is not None
        assert error.retry_after > 0.1


async def test_a_process_that_no_longer_answers_is_replaced_and_killed(
    api: ResponsesApi, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "INTERRUPT_SECONDS", 0.3)
    api.script(Reply(Text("Hel", STALL)))
    async with codex(tmp_path, api, env=marked(mark, tmp_path)) as provider, asyncio.timeout(SECONDS):
        events: list[Event] = []
        task = asyncio.create_task(collect(provider, turn("one"), events))
        await api.called(1)
        assert provider.server.pid is not None
        stuck = child_of(provider.server.pid)
        os.kill(stuck, signal.SIGSTOP)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert text(await run(provider, turn("two", thread_id="t2"))) == "ok"
        assert provider.server.starts == 2
        await until(lambda: stuck not in processes(mark))


async def test_what_the_process_writes_to_stderr_holds_nothing_up_and_is_neither_logged_nor_printed(
    api: ResponsesApi, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    noisy = tmp_path / "codex"
    noisy.write_text(f'#!/bin/sh\nyes "a private matter" | head -c 3000000 >&2\nexec "{BINARY}" "$@"\n')
    noisy.chmod(0o755)
    caplog.set_level("DEBUG")
    async with codex(tmp_path, api, binary=str(noisy)) as provider:
        assert text(await run(provider, turn("another private matter"))) == "ok"
    shown = capfd.readouterr()
    assert "private" not in caplog.text + shown.out + shown.err


async def test_the_gateways_own_secrets_are_not_in_the_environment_of_commands(
    api: ResponsesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTLINE_AUTH__TOKENS", '{"alice": "s3cret"}')
    monkeypatch.setenv("ANTHROPIC_API_KEY", "s3cret")
    api.script(
        Reply(FunctionCall("exec_command", {"cmd": "env; cat /proc/$PPID/environ", "login": False}, "c1")),
        Reply(Text("ok")),
    )
    async with codex(tmp_path, api, sandbox="danger-full-access", approval_policy="never") as provider:
        await run(provider, turn("go"))
    assert "PATH=" in api.calls[1].output("c1")
    assert "s3cret" not in api.calls[1].output("c1")


async def many(api: ResponsesApi, home: Path, count: int) -> None:
    """`count` turns at once, each held upstream until all are there."""
    together = asyncio.Event()
    api.answer = lambda call: Reply(Text("re ", together, call.last_user_text))
    async with codex(home, api, cwd=str(home / "{user_id}" / "{thread_id}")) as provider:
        await run_one(provider, together)
        assert provider.server.pid is not None
        pid = child_of(provider.server.pid)
        client = await provider.server.client(1.0)
        asked, now, most = client.request, 0, 0

        async def counting(method: str, params: dict[str, Any], **more: float) -> Any:
            nonlocal now, most
            now += method == "thread/start"
            most = max(most, now)
            try:
                return await asked(method, params, **more)
            finally:
                now -= method == "thread/start"

        client.request = counting  # type: ignore[method-assign]  # counts, changes nothing
        together.clear()
        cpu, memory, began = cpu_seconds(pid), resident_bytes(pid), time.monotonic()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            turns = [group.create_task(run(provider, turn(f"{n}", thread_id=f"t{n}"))) for n in range(count)]
            await api.called(1 + count, within=50)
            started, peak = time.monotonic() - began, resident_bytes(pid) - memory
            together.set()
        took, used = time.monotonic() - began, cpu_seconds(pid) - cpu
        assert [text(task.result()) for task in turns] == [f"re {n}" for n in range(count)]
        assert provider.server.starts == 1
        assert 1 < most <= threads.STARTS_AT_ONCE
        loaded = await client.request("thread/loaded/list", {})
        assert loaded["data"] == []
    print(
        f"\n{count} turns at once: all upstream after {started:.2f} s, done after {took:.2f} s, "
        f"{1000 * used / count:.0f} ms CPU and {peak / count / 1e6:.1f} MB a turn"
    )
    assert used / count < 0.5
    assert peak / count < 10e6


async def run_one(provider: CodexProvider, together: asyncio.Event) -> None:
    together.set()
    await run(provider, turn("warm", thread_id="warm"))


async def test_fifty_turns_run_at_once_in_one_process(api: ResponsesApi, tmp_path: Path) -> None:
    await many(api, tmp_path, 50)


@pytest.mark.soak
async def test_two_hundred_turns_run_at_once_in_one_process(api: ResponsesApi, tmp_path: Path) -> None:
    await many(api, tmp_path, 200)


async def test_a_cancelled_turn_is_over_in_a_fraction_of_a_second(api: ResponsesApi, tmp_path: Path) -> None:
    api.answer = lambda call: Reply(Text("Hel", STALL))
    took = []
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        for number in range(1, 11):
            task = asyncio.create_task(collect(provider, turn("go", thread_id=f"t{number}"), []))
            call = await api.called(number)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            took.append(time.monotonic() - began)
            await call.ended.wait()
    print(f"\ncancel: median {1000 * sorted(took)[5]:.0f} ms, longest {1000 * max(took):.0f} ms")
    assert max(took) < 1.0


async def test_a_turn_cancelled_at_any_moment_of_its_start_leaves_nothing_loaded(
    api: ResponsesApi, tmp_path: Path
) -> None:
    api.answer = lambda call: Reply(Text("Hel", STALL))
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        client = await provider.server.client(20.0)
        for step in range(12):
            task = asyncio.create_task(collect(provider, turn("go", thread_id=f"t{step}"), []))
            await asyncio.sleep(step * 0.004)  # somewhere between its first request and its first event
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(_unloaded(client), 5.0)
        assert provider.server.starts == 1
    assert api.open == 0


async def _unloaded(client: Client) -> None:
    while (await client.request("thread/loaded/list", {}))["data"]:  # noqa: ASYNC110 - Codex does not tell us
        await asyncio.sleep(0.02)


async def test_cancelled_twice_the_turn_still_ends_upstream(api: ResponsesApi, tmp_path: Path) -> None:
    api.answer = lambda call: Reply(Text("Hel", STALL))
    async with codex(tmp_path, api) as provider, asyncio.timeout(SECONDS):
        task = asyncio.create_task(collect(provider, turn("go"), []))
        call = await api.called(1)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await call.ended.wait()
    assert call.left


async def test_a_turn_before_the_provider_was_entered_is_refused(api: ResponsesApi, tmp_path: Path) -> None:
    error = await failure(CodexProvider(**options(tmp_path, api)), turn("go"))
    assert (error.code, error.refused) == ("provider_fault", True)


def test_without_a_binary_the_reason_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary(None) == BINARY  # the wheel's
    monkeypatch.setitem(sys.modules, "codex_cli_bin", None)
    with pytest.raises(ValueError, match="install the extra"):
        CodexProvider()
    with pytest.raises(ValueError, match=r"binary: .* is not an executable file"):
        CodexProvider(binary=str(tmp_path / "none"))
    (tmp_path / "codex").write_text("#!/bin/sh\n")
    (tmp_path / "codex").chmod(0o755)
    assert find_binary(None) == str(tmp_path / "codex")


@pytest.mark.parametrize("name", ["AGENTLINE_AUTH__TOKENS", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "PATHS"])
def test_only_known_variables_are_inherited(name: str) -> None:
    assert INHERITED.fullmatch(name) is None
    assert INHERITED.fullmatch("PATH")
    assert INHERITED.fullmatch("OPENAI_API_KEY")
