"""Starting what is measured, and reading what it has used."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[tuple[int, str]]:
    """A Python process and the URL that it says it listens on. Stopped at the end of the block."""
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield running.pid, _url(running, log.fileno())
        finally:
            running.terminate()
            running.wait(20)


def _url(running: subprocess.Popen[bytes], log: int) -> str:
    import time

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and running.poll() is None:
        found = re.search(rb"http://[0-9.]+:([1-9][0-9]*)", os.pread(log, 1 << 20, 0))
        if found:
            return found[0].decode()
        time.sleep(0.02)
    raise RuntimeError(f"did not start: {os.pread(log, 1 << 20, 0).decode()}")


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The local Messages API."""
    with process(["-m", "tests.fakes.messages_api", "--port", "0"], {}) as (_, url):
        yield url


@contextlib.contextmanager
def subject(name: str, upstream_url: str) -> Iterator[tuple[int, str, str, dict[str, str]]]:
    """One of `gateway`, `relay`, `floor`: its process, host, path and the headers that a client sends."""
    environment = {"ANTHROPIC_BASE_URL": upstream_url, "ANTHROPIC_API_KEY": "bench"}
    if name != "gateway":
        with process(["-m", f"bench.{name}"], environment) as (pid, url):
            yield pid, url.removeprefix("http://"), "/", {}
        return
    with tempfile.TemporaryDirectory() as state:
        environment |= {
            "AGENTLINE_STATE_DIR": state,
            "AGENTLINE_AUTH__TOKENS": '{"bench": "bench"}',
            "AGENTLINE_LOG_LEVEL": "warning",
            "AGENTLINE_AGENTS": '{"codex": null}',
        }
        with process(["-m", "gateway", "serve", "--port", "0"], environment) as (pid, url):
            yield pid, url.removeprefix("http://"), "/api/claude/ws", {"Authorization": "Bearer bench"}
