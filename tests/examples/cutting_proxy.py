"""A TCP proxy that loses connections at chosen places, as networks do: no close frame, an RST or nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Cut = Callable[[bytes, bytes], bool]
"""Whether to cut the connection now, told all that the client and the server have sent; asked before each piece of the
server is passed on, which is lost then too."""


class CuttingProxy:
    """Passes bytes on to `target`. The connections that upgrade are cut as `cuts` say, one each; further ones live."""

    def __init__(self, target: Callable[[], str], cuts: Iterator[Cut]) -> None:
        self._target = target
        self._cuts = cuts
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.made = 0
        """Connections that reached the gateway's answer to the upgrade."""

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(self._target())
        try:
            up_reader, up_writer = await asyncio.open_connection(target.hostname, target.port)
        except OSError:
            writer.transport.abort()
            return
        sent = bytearray()
        upstream = asyncio.create_task(_pass_on(reader, up_writer, sent))
        try:
            await self._downstream(up_reader, writer, sent)
        finally:
            upstream.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upstream
            for side in (writer, up_writer):
                side.transport.abort()

    async def _downstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytearray) -> None:
        received = bytearray()
        cut: Cut | None = None
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                if not received and data.startswith(b"HTTP/1.1 101"):
                    self.made += 1
                    cut = next(self._cuts, None)
                received += data
                if cut is not None and cut(bytes(sent), bytes(received)):
                    return
                writer.write(data)
                await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            sent += data
            writer.write(data)
            await writer.drain()
