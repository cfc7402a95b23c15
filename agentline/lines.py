"""Lines from a terminal or a pipe, by one reader with one buffer, blocking or not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

__all__ = ["Lines"]


class Lines:
    """Reads a file descriptor, standard input by default. Nothing reads ahead behind its back."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._ended = False

    def prompt(self, prompt: str) -> str | None:
        """Ask for a line and block for it; None at the end. A terminal's line may be edited and recalled."""
        if self._descriptor == 0 and sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - makes `input` edit
            try:
                return input(prompt)
            except EOFError:
                return None
        while (line := self._take()) is None:
            if self._ended:
                return None
            self._fill()
        return line

    async def next(self) -> str | None:
        """The next line; None at the end. May be cancelled: what was typed so far stays in the terminal."""
        loop = asyncio.get_running_loop()
        while (line := self._take()) is None:
            if self._ended:
                return None
            readable = asyncio.Event()
            try:
                loop.add_reader(self._descriptor, readable.set)
            except PermissionError:  # a regular file: it is always readable
                self._fill()
                continue
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._descriptor)
            self._fill()
        return line

    def _fill(self) -> None:
        data = os.read(self._descriptor, 4096)
        self._buffer += data
        self._ended = not data

    def _take(self) -> str | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline and not (self._ended and line):
            return None
        self._buffer = rest
        return line.decode(errors="replace").rstrip("\r")
