"""A TCP proxy between two parts: cut, held still, or led elsewhere, and mended again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from types import TracebackType
from typing import Self

__all__ = ["Over", "Wire"]


class Over(Exception):
    """End this connection on both sides."""


class Wire:
    """Listens on a port of 127.0.0.1 that stays its own, and leads what comes to `target`, another such port.

    With `refuse` set it takes no new connection; given `tls`, it speaks that to those who come. Who wants to look at
    the bytes on their way overrides `_pump`.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self.refuse = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._pipes: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None
        self.port = 0
        self.connections = 0
        """How many were made to the target."""

    @property
    def open(self) -> int:
        return len(self._pipes)

    def cut(self) -> None:
        """Reset all connections, and every new one, until `mend`."""
        self.refuse = True
        self.reset()

    def reset(self) -> None:
        """Reset all connections; new ones are taken."""
        for writers in self._pipes.values():
            _abort(writers)

    def pause(self) -> None:
        """From now on nothing goes either way and no one is told, until `mend`."""
        self._flows.clear()

    def mend(self) -> None:
        """Undo `cut` and `pause`: what was held goes on."""
        self.refuse = False
        self._flows.set()

    def switch(self, target: int) -> None:
        """Lead all connections to come elsewhere, and reset those that are."""
        self._target = target
        self.reset()

    async def until_all_closed(self, within: float = 5.0) -> None:
        async with asyncio.timeout(within):
            while self._pipes:
                await asyncio.wait(list(self._pipes), return_when=asyncio.FIRST_COMPLETED)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._pipes):
            task.cancel()
        if self._pipes:
            await asyncio.wait(list(self._pipes))
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._pipes[task] = [writer]
        try:
            if self.refuse:
                return
            await self._flows.wait()
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(there_writer)
            number = self.connections
            self.connections += 1
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._one_way(number, False, reader, there_writer))
                ways.create_task(self._one_way(number, True, there_reader, writer))
        except* (OSError, EOFError, Over):
            pass
        except* asyncio.CancelledError:
            pass  # this proxy closes; nothing waits for the outcome
        finally:
            _abort(writers)
            del self._pipes[task]

    async def _one_way(
        self, number: int, down: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await self._pump(number, down, reader, writer)
        await self._flows.wait()
        raise Over

    async def _pump(self, number: int, down: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on what comes until there is no more, of the connection `number`, counted from 0; `down` is towards the
        one who made it. `Over` ends it on both sides."""
        while data := await reader.read(65536):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()


def _abort(writers: list[asyncio.StreamWriter]) -> None:
    """RST: a linger of 0 throws away what is not sent, too."""
    for writer in writers:
        raw = writer.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
