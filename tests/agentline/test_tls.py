"""A gateway behind TLS: its certificate is checked, by the socket and by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agentline import Agentline, ContractBroken
from tests.agentline.conftest import QUICK
from tests.server import TOKENS, GatewayProcess

push_tls = pytest.importorskip("tests.fakes.push_tls")


@contextlib.asynccontextmanager
async def behind_tls(gateway: GatewayProcess, context: ssl.SSLContext) -> AsyncIterator[str]:
    """A proxy that ends TLS, as a reverse proxy does."""
    target = urlsplit(gateway.url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(target.hostname, target.port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_certificate_of_ones_own_authority_is_accepted_and_any_other_is_not(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    authority = push_tls.make_authority(tmp_path)
    trusting = ssl.create_default_context(cafile=authority.ca_path)
    async with behind_tls(gateway, authority.context()) as url:
        line = Agentline(url, TOKENS["alice"], deadlines=QUICK, tls=trusting)
        text = await asyncio.to_thread(lambda: "".join(line.stream_text("demo", "/echo blocking")))
        assert text == "blocking"
        assert await asyncio.to_thread(line.blocking.agents)
        async with line:
            stream = line.stream("demo", "/echo asynchronous")
            async for _ in stream:
                pass
            assert stream.text == "asynchronous"
            assert await line.agents()
        stranger = Agentline(url, TOKENS["alice"], deadlines=QUICK)
        with pytest.raises(ContractBroken, match="certificate"):
            await asyncio.to_thread(lambda: list(stranger.stream_text("demo", "Hi")))
        async with stranger:
            with pytest.raises(ContractBroken, match="certificate"):
                await anext(stranger.stream("demo", "Hi"))
            with pytest.raises(ContractBroken, match="certificate"):
                await stranger.agents()
