"""Nothing holds up the event loop: the CPU time of the longest single callback under a hundred turns at once."""

import asyncio
import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from providers import Completed, Event, TextDelta, Turn
from providers.base import Capability
from tests.e2e.inprocess import GatewayHere, gateway_here
from tests.server import ROOT, TOKENS

TURNS = 100
CLIENTS = 20
PIECES = 60
SCRIPT = json.dumps({"pieces": PIECES, "interval": 0.05})
BOUND = 0.05
"""Seconds of CPU that one callback may take. Measured: 3 to 10 ms."""
BUSY = 0.2
"""Seconds that the bad provider computes without letting anybody else run."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """The address of a Messages API in a process of its own."""
    command = [sys.executable, "-m", "tests.fakes.messages_api", "--pieces", "20"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


class Busy:
    """A provider that makes one synchronous call."""

    name = "busy"
    capabilities: frozenset[Capability] = frozenset()

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        yield TextDelta("a", "x")
        until = time.thread_time() + BUSY
        while time.thread_time() < until:
            pass
        yield Completed()


class Callbacks:
    """The longest callback of the loops of one thread."""

    def __init__(self) -> None:
        self.thread = 0
        self.longest = 0.0
        self.what = ""
        self.count = 0
        self.total = 0.0

    def forget(self) -> None:
        self.longest, self.what, self.count, self.total = 0.0, "", 0, 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = asyncio.Handle._run

        def timed(handle: Any) -> None:
            if threading.get_ident() != self.thread:
                run(handle)
                return
            began = time.thread_time()
            run(handle)
            taken = time.thread_time() - began
            self.count += 1
            self.total += taken
            if taken > self.longest:
                self.longest, self.what = taken, repr(handle)[:200]

        monkeypatch.setattr(asyncio.Handle, "_run", timed)


@contextlib.asynccontextmanager
async def gateway_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upstream: str, callbacks: Callbacks
) -> AsyncIterator[GatewayHere]:
    """A gateway with a loop of its own, so that the clients' work is not taken for its."""
    told: queue.Queue[Any] = queue.Queue()

    async def serve() -> None:
        callbacks.thread = threading.get_ident()
        stop = asyncio.Event()
        claude = {"provider": "claude", "base_url": upstream, "api_key": "sk-ant-test"}
        async with gateway_here(
            tmp_path, monkeypatch, providers={"busy": Busy()}, agents={"claude": claude}, log_level="error"
        ) as here:
            told.put((here, asyncio.get_running_loop(), stop))
            await stop.wait()

    callbacks.install(monkeypatch)
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        here, loop, stop = await asyncio.to_thread(told.get, timeout=30)
        try:
            yield here
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()


async def hundred_turns(here: GatewayHere) -> int:
    """Run them, each watched by the socket that asked for it. Returns how many ran at the same time."""
    at_once = 0

    async def watch(number: int) -> None:
        nonlocal at_once
        url = here.url.replace("http", "ws", 1) + "/api/claude/ws"
        headers = {"Authorization": f"Bearer {TOKENS[('alice', 'bob')[number % 2]]}"}
        async with connect(url, additional_headers=headers, proxy=None, compression=None) as socket:
            for _ in range(TURNS // CLIENTS):
                await socket.send(json.dumps({"type": "message", "content": SCRIPT}))
            done = 0
            async for text in socket:
                frame = json.loads(text)
                at_once = max(at_once, here.services.runner.count)
                if frame["type"] == "done":
                    assert (frame["status"], len(frame["content"].split())) == ("completed", PIECES)
                    done += 1
                    if done == TURNS // CLIENTS:
                        break

    async with asyncio.timeout(40):
        await asyncio.gather(*(watch(number) for number in range(CLIENTS)))
    return at_once


async def test_no_callback_is_long_under_a_hundred_turns_and_one_synchronous_call_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upstream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = Callbacks()
    async with gateway_in_a_thread(tmp_path, monkeypatch, upstream, callbacks) as here:
        async with here.client(agent="claude") as first:
            accepted = await first.message("the first call imports and connects")
            await first.finish(accepted["turn_id"])
        callbacks.forget()
        began = time.monotonic()
        at_once = await hundred_turns(here)
        seconds = time.monotonic() - began
        good, what, count, total = callbacks.longest, callbacks.what, callbacks.count, callbacks.total

        callbacks.forget()
        async with here.client(agent="busy") as client:
            accepted = await client.message("Hi")
            await client.finish(accepted["turn_id"])
        bad = callbacks.longest
    with capsys.disabled():
        print(
            f"\n{at_once} turns at once: {count} callbacks, {total:.2f} s of CPU in {seconds:.1f} s, "
            f"the longest {good * 1000:.1f} ms; with one synchronous call {bad * 1000:.0f} ms"
        )
    assert at_once == TURNS
    assert good < BOUND, what
    assert bad > BOUND, "the measurement did not see a call that blocked the loop"
