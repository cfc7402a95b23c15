"""The server process: what it listens on, how it treats sockets, and how it stops."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import small_app
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway import draining, request_deadline, server
from gateway.draining import drain_within
from gateway.server import GatewayServer, ListenError, StartupFailed, listen
from gateway.settings import Settings

DEADLINE = 15.0
ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def process(tmp_path: Path, *arguments: str, **env: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server process that accepts connections, and its address."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("small_app.py")),
        "serve",
        *(arguments or ("--port", "0")),
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AGENTLINE_STATE_DIR": str(tmp_path / "state"),
            **env,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            assert running.stdout is not None
            line = (await running.stdout.readline()).decode()
            if not line:
                assert running.stderr is not None
                raise AssertionError((await running.stderr.read()).decode())
        assert line.startswith("listening on http://")
        yield running, line.removeprefix("listening on http://").strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


async def get(address: str, path: str) -> str:
    """The whole answer, read to its end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return answer


class Observed(GatewayServer):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextlib.asynccontextmanager
async def serving(
    app: Starlette | None = None, drain: Callable[[], Awaitable[None]] | None = None, **given: Any
) -> AsyncIterator[tuple[GatewayServer, str]]:
    """A server in this process. Leaving asks it to stop and waits for that."""

    async def nothing() -> None:
        pass

    settings = Settings(**{"port": 0, **given})
    running = Observed(app or small_app.create_app(settings), settings, drain or nothing)
    task = asyncio.create_task(running.serve())
    listening = asyncio.create_task(running.listening.wait())
    await asyncio.wait((task, listening), timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if task.done():
        await task
    try:
        yield running, f"127.0.0.1:{running.port}"
    finally:
        running.should_exit = True
        async with asyncio.timeout(DEADLINE):
            await task


async def test_it_says_where_it_listens_in_exactly_one_line(tmp_path: Path) -> None:
    async with process(tmp_path) as (running, address):
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert "200 OK" in await get(address, "/finish")
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE):
            rest, _ = await running.communicate()
        assert rest == b""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_drains_while_it_still_accepts_and_then_ends_with_code_0(tmp_path: Path, stop: signal.Signals) -> None:
    async with process(tmp_path) as (running, address), asyncio.timeout(DEADLINE):
        async with connect(f"ws://{address}/ws") as early:
            assert await early.recv() == "ready"
            running.send_signal(stop)
            assert await early.recv() == "goodbye"
            async with connect(f"ws://{address}/ws") as late:
                assert await late.recv() == "draining"
                await early.send("still here")
                assert await early.recv() == "still here"
                await get(address, "/finish")
                assert [await close_code(early), await close_code(late)] == [1012, 1012]
        assert await running.wait() == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_forces_the_end(tmp_path: Path, stop: signal.Signals) -> None:
    async with process(tmp_path, SMALL_APP_DRAIN="forever") as (running, address), asyncio.timeout(DEADLINE):
        async with connect(f"ws://{address}/ws") as client:
            assert await client.recv() == "ready"
            running.send_signal(signal.SIGTERM)
            assert await client.recv() == "goodbye"
            running.send_signal(stop)
            assert await close_code(client) == 1012
        assert await running.wait() == 128 + stop


async def close_code(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    return closed.value.rcvd.code if closed.value.rcvd else None


async def test_a_drain_past_its_deadline_is_cut_off_and_the_exit_code_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DRAIN_MARGIN_SECONDS", 0.1)
    cancelled = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(drain=forever, drain_seconds=0) as (running, _):
        pass
    assert cancelled.is_set()
    assert running.drain_result == "timeout"
    assert running.exit_code == 1


async def test_a_request_that_never_ends_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACEFUL_SECONDS", 1)
    async with serving() as (running, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"first")
    assert running.exit_code == 0
    writer.close()


async def test_an_application_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACEFUL_SECONDS", 0)
    monkeypatch.setattr(server, "CLEANUP_SECONDS", 0.5)
    async with serving(small_app.create_app(Settings(), hang_at_the_end=True)) as (running, _):
        pass
    assert running.exit_code == 1


async def test_forcing_also_cuts_off_an_application_that_is_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FORCED_SECONDS", 0.1)
    app = small_app.create_app(Settings(), hang_at_the_end=True)
    async with asyncio.timeout(DEADLINE):
        async with serving(app) as (running, _):
            os.kill(os.getpid(), signal.SIGTERM)
            await app.state.ending.wait()
            os.kill(os.getpid(), signal.SIGINT)
    assert running.exit_code == 130


async def test_drains_end_in_one_of_four_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "_GIVE_UP_SECONDS", 0.05)
    force = asyncio.Event()

    async def done() -> None:
        pass

    async def fault() -> None:
        raise ValueError

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    assert await drain_within(done, 1, force) == "drained"
    assert await drain_within(fault, 1, force) == "failed"
    assert await drain_within(stubborn, 0.05, force) == "timeout"
    asyncio.get_running_loop().call_later(0.05, force.set)
    assert await drain_within(stubborn, DEADLINE, force) == "forced"


async def test_accepted_connections_have_the_listeners_options() -> None:
    async with serving() as (running, address), connect(f"ws://{address}/ws") as client:
        await client.recv()
        (accepted,) = running.server_state.connections
        transport: Any = accepted.transport
        inside: socket.socket = transport.get_extra_info("socket")
        # Linux doubles what is asked for, for its own bookkeeping.
        assert inside.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) in (64 * 1024, 2 * 64 * 1024)
        assert inside.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert inside.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000


async def test_what_start_up_made_is_out_of_the_collectors_sight_while_it_serves() -> None:
    async with serving():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


async def test_frames_are_bounded_and_not_compressed_and_the_server_has_no_name() -> None:
    async with serving(limits={"client_frame_bytes": 1024}) as (_, address):
        async with connect(f"ws://{address}/ws") as client:
            assert client.response is not None
            assert "Sec-WebSocket-Extensions" not in client.response.headers
            assert "Server" not in client.response.headers
            assert await client.recv() == "ready"
            await client.send("x" * 1024)
            assert len(await client.recv()) == 1024
            await client.send("x" * 1025)
            assert await close_code(client) == 1009
        assert "server:" not in (await get(address, "/finish")).lower()


async def test_a_peer_that_answers_no_ping_is_closed() -> None:
    async with serving(heartbeat_seconds=0.1) as (running, _), asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2 + len("ready")) == b"\x81\x05ready"
        assert (await reader.readexactly(2 + 4))[:2] == b"\x89\x04"
        close = await reader.read()
        assert close[0] == 0x88
        assert struct.unpack("!H", close[2:4]) == (1011,)
        writer.close()


async def test_a_request_that_does_not_come_is_not_waited_for_and_one_under_way_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_deadline, "HEAD_SECONDS", 0.2)
    async with (
        serving(small_app.create_app(Settings())) as (running, address),
        connect(f"ws://{address}/ws") as client,
        asyncio.timeout(DEADLINE),
    ):
        assert await client.recv() == "ready"
        endless, endless_writer = await asyncio.open_connection("127.0.0.1", running.port)
        endless_writer.write(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        await endless.readuntil(b"first")
        for whole in (False, True):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            if whole:
                writer.write(b"GET /finish HTTP/1.1\r\nHost: h\r\n\r\n")
                await reader.readuntil(b"\r\n\r\nok")
            writer.write(b"GET /fin")
            async with asyncio.timeout(3):  # uvicorn's own deadline for an idle connection is 5 s
                assert await reader.read() == b""
            writer.close()
        await client.send("still here")
        assert await client.recv() == "still here"
        assert not endless.at_eof()
        endless_writer.close()


def test_a_taken_port_and_an_unknown_host_are_one_line() -> None:
    (first,) = listen("127.0.0.1", 0)
    with first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(ListenError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use$"):
            listen("127.0.0.1", port)
    with pytest.raises(ListenError, match=r"^cannot listen on nowhere\.invalid:1: no such host$"):
        listen("nowhere.invalid", 1)


def test_every_address_of_a_host_is_on_one_port() -> None:
    listeners = listen("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
    finally:
        for listener in listeners:
            listener.close()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_is_written_in_brackets(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(host="::1") as (running, _):
        assert f"listening on http://[::1]:{running.port}" in capfd.readouterr().out.splitlines()
        assert "200 OK" in await get(f"[::1]:{running.port}", "/finish")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_the_ipv6_wildcard_takes_ipv4_too() -> None:
    async with serving(host="::") as (running, address):
        assert "200 OK" in await get(address, "/finish")
        assert "200 OK" in await get(f"[::1]:{running.port}", "/finish")


async def test_an_application_that_does_not_start_gives_its_reason_and_no_text_to_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SMALL_APP_START", "fault")
    with pytest.raises(StartupFailed) as failed:
        async with serving():
            pass
    assert isinstance(failed.value.__cause__, ValueError)
    assert small_app.SECRET not in "".join(record.getMessage() for record in caplog.records)


async def test_an_application_that_fails_while_serving_ends_the_server_and_the_exit_code_says_so(
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(port=0)
    app = small_app.create_app(settings)
    running = Observed(app, settings, app.state.drain)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        tasks.create_task(running.serve())
        await running.listening.wait()
        app.state.fault.set()
    assert running.exit_code == 1
    assert "application_failed" in capfd.readouterr().out
