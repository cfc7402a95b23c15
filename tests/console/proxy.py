"""A TCP proxy between a client and the gateway, which a test cuts, silences and mends."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on until told otherwise. `async with` it."""

    def __init__(self, target: str) -> None:
        self.lead_to(target)
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self.url = ""
        self.accepted = 0
        """Connections so far."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._pairs:
            await asyncio.wait(set(self._pairs), timeout=5)
        await self._server.wait_closed()

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; `refuse` resets further ones too, until `mend`."""
        self._refusing = refuse
        for writers in self._pairs.values():
            for writer in writers:
                writer.transport.abort()

    def silence(self) -> None:
        """Pass nothing on, and close nothing: what a phone sees that walked out of reach."""
        self._passing.clear()

    def mend(self) -> None:
        """Pass on again."""
        self._refusing = False
        self._passing.set()

    def lead_to(self, target: str) -> None:
        """Further connections go there."""
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = (writer,)
        self.accepted += 1
        try:
            if self._refusing:
                writer.transport.abort()
                return
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
            self._pairs[task] = (writer, up_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, up_writer))
                group.create_task(self._pass(up_reader, writer))
        except* OSError:
            pass
        finally:
            for each in self._pairs.pop(task):
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                await self._passing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort() if writer.is_closing() else writer.close()
