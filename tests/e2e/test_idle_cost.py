"""What a socket costs that says nothing."""

import asyncio
import base64
import os
import resource
import time
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import NewGateway
from tests.server import TOKENS, GatewayProcess

BYTES_PER_SOCKET = 32 * 1024
FILES_BESIDE_SOCKETS = 500


def allow_files(count: int) -> None:
    """Raise the limit of open files, which child processes inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + FILES_BESIDE_SOCKETS
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} open files, the system allows {hard}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def open_sockets(gateway: GatewayProcess, count: int) -> list[asyncio.StreamWriter]:
    """So many authorised sockets that have been told `ready`; by hand, so that this side of them is cheap."""
    parts, at_once = urlsplit(gateway.url), asyncio.Semaphore(64)

    async def open_one() -> asyncio.StreamWriter:
        async with at_once, asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4096)
            writer.write(
                f"GET /api/demo/ws HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
                f"Authorization: Bearer {TOKENS['alice']}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            await reader.readuntil(b'"type":"ready"')
            return writer

    return list(await asyncio.gather(*(open_one() for _ in range(count))))


async def measure(gateway: GatewayProcess, count: int) -> tuple[float, float]:
    """Bytes per socket, and seconds that opening them took."""
    writers = await open_sockets(gateway, 100)  # what the first connections cost once is not theirs
    try:
        before = gateway.rss()
        began = time.monotonic()
        writers += await open_sockets(gateway, count)
        seconds = time.monotonic() - began
        health = await gateway.get("/api/health")
        assert health["connections"]["demo"] == count + 100
        return (gateway.rss() - before) / count, seconds
    finally:
        for writer in writers:
            writer.transport.abort()


@pytest.mark.parametrize("count", [1_000, pytest.param(5_000, marks=pytest.mark.soak)])
async def test_an_idle_socket_costs_at_most_32_kb(
    new_gateway: NewGateway, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    allow_files(count)
    gateway = new_gateway(HEARTBEAT_SECONDS="300")
    await gateway.start_soon()
    each, seconds = await measure(gateway, count)
    with capsys.disabled():
        print(f"\n{count} idle sockets: {each / 1024:.1f} KB each, opened in {seconds:.1f} s")
    assert each <= BYTES_PER_SOCKET
