"""A server as a process of its own, for tests: started, frozen, killed, stopped, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn, Self

__all__ = ["ServerProcess", "reserved_port"]


def reserved_port() -> socket.socket:
    """A socket with a port of 127.0.0.1 that no one else is given while it is open; a server may listen there."""
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


class ServerProcess(ABC):
    """All lives of one server; a subclass says how one begins. What is named twice blocks, or does not block the loop:
    `start` and `start_soon`, `kill_now` and `kill`, `stop_now` and `stop`.
    """

    start_seconds = 30.0

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen_since: float | None = None
        """`time.time()`."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    @abstractmethod
    def log(self) -> str:
        """What it wrote, in all its lives."""

    # --- its begin ---

    def start(self) -> str:
        """Start it, and return its URL once it can be used."""
        self._launch()
        return self._await_readiness()

    async def start_soon(self) -> str:
        """`start`, without blocking the loop."""
        self._launch()
        return await asyncio.to_thread(self._await_readiness)

    async def restart(self) -> str:
        """Start it again, on what it has on disk."""
        return await self.start_soon()

    def _launch(self) -> None:
        assert self._process is None, "runs already, or has died by itself"
        self._process = self._popen()

    @abstractmethod
    def _popen(self) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _await_readiness(self) -> str: ...

    def _until(self, ready: Callable[[], bool]) -> None:
        """Ask until it is ready."""
        deadline = time.monotonic() + self.start_seconds
        while not ready():
            if not self.running or time.monotonic() > deadline:
                self._failed()
            time.sleep(0.02)

    def _failed(self) -> NoReturn:
        """It did not start."""
        self.kill_now()
        raise AssertionError(f"{type(self).__name__} did not start; it said:\n{self.log[-4000:]}")

    # --- its ends ---

    def kill_now(self) -> None:
        """`kill -9`: it gets no chance to do anything. What it has written to a file is there all the same."""
        if self._process is not None:
            self._process.kill()
            self._reaped(self._process.wait(timeout=10))

    async def kill(self) -> None:
        """`kill_now`, of one that runs."""
        assert self._process is not None, "not running"
        self._process.kill()
        await self.exited()

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM), and do not wait."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGTERM)

    async def exited(self, within: float = 15.0) -> int:
        """Wait until it has ended. Returns the exit code."""
        assert self._process is not None, "not running"
        return self._reaped(await asyncio.to_thread(self._process.wait, within))

    async def stop(self) -> int:
        """Ask it to stop, and wait. Returns the exit code."""
        self.terminate()
        return await self.exited()

    def stop_now(self) -> None:
        """End it in order if it runs, by force if it does not end."""
        if self._process is None:
            return
        self.thaw()
        self.terminate()
        try:
            self._reaped(self._process.wait(timeout=10))
        except subprocess.TimeoutExpired:
            self.kill_now()

    def _reaped(self, code: int) -> int:
        """It has ended."""
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self._process = self.frozen_since = None
        return code

    def close(self) -> None:
        """End it by force: it is not needed any more."""
        self.kill_now()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- standing still ---

    def freeze(self) -> None:
        """Make it stand still (SIGSTOP): its connections stay open, and nothing comes from it."""
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen_since = time.time()

    def thaw(self) -> None:
        """Let it go on; nothing happens if it is not frozen."""
        if self.frozen_since is not None and self.running:
            os.kill(self.pid, signal.SIGCONT)
        self.frozen_since = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this block it stands still."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()
