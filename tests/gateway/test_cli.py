"""The command `agentline`: what it prints where, and its exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_app import SECRET

ROOT = Path(__file__).parents[2]
SMALL_APP = Path(__file__).with_name("small_app.py")
DEADLINE = 20
port_of: dict[int, int] = {}
"""The port of each process that `started`."""


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AGENTLINE_STATE_DIR": str(tmp_path / "state"),
        "AGENTLINE_PORT": "0",
        **more,
    }


def agentline(tmp_path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SMALL_APP), *arguments],
        cwd=tmp_path,
        env=environment(tmp_path, **more),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@contextlib.contextmanager
def started(tmp_path: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A server that accepts connections."""
    process = subprocess.Popen(
        [sys.executable, str(SMALL_APP), "serve", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        port_of[process.pid] = int(line.rpartition(":")[2])
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str]) -> str:
    """Force the end; returns what it wrote to standard error."""
    process.send_signal(signal.SIGKILL)
    return process.communicate(timeout=DEADLINE)[1]


def test_the_owners_link_is_shown_once_and_later_the_files_name(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        first = stop(process)
    token = (tmp_path / "state" / "owner-token").read_text().strip()
    assert re.search(rf"^open http://127\.0\.0\.1:[1-9]\d*/#token={re.escape(token)}$", first, re.M)
    assert first.count(token) == 1
    with started(tmp_path) as process:
        second = stop(process)
    assert token not in second
    assert f"the owner token is in {tmp_path / 'state' / 'owner-token'}; " in second


def test_with_tokens_in_the_settings_there_is_no_owner_token(tmp_path: Path) -> None:
    with started(tmp_path, AGENTLINE_AUTH__TOKENS='{"alice": "token-a"}') as process:
        assert "token" not in stop(process)
    assert not (tmp_path / "state" / "owner-token").exists()
    shown = agentline(tmp_path, "token", AGENTLINE_AUTH__TOKENS='{"alice": "token-a"}')
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "token-a" not in shown.stderr


def test_the_token_is_shown_again_to_the_operator(tmp_path: Path) -> None:
    first = agentline(tmp_path, "token", "--port", "8081")
    assert first.returncode == 0
    token = (tmp_path / "state" / "owner-token").read_text().strip()
    assert first.stdout == f"http://127.0.0.1:8081/#token={token}\n"
    again = agentline(tmp_path, "token", AGENTLINE_PUBLIC_URL="https://chat.example")
    assert again.stdout == f"https://chat.example/#token={token}\n"


@pytest.mark.parametrize(
    ("variables", "arguments", "line"),
    [
        ({"AGENTLINE_PROT": SECRET}, (), "agentline: unknown setting AGENTLINE_PROT (did you mean AGENTLINE_PORT?)\n"),
        (
            {"AGENTLINE_HEARTBEAT_SECONDS": SECRET},
            (),
            "agentline: AGENTLINE_HEARTBEAT_SECONDS is wrong: input should be",
        ),
        ({}, ("--port", SECRET), "agentline: --port is wrong: input should be a valid integer\n"),
        ({}, ("--config", "missing.toml"), "agentline: "),
        ({"AGENTLINE_STATE_DIR": "/proc/x"}, (), "agentline: the state directory /proc/x cannot be used: "),
    ],
)
def test_wrong_settings_are_one_line_and_code_2(
    tmp_path: Path, variables: dict[str, str], arguments: tuple[str, ...], line: str
) -> None:
    ended = agentline(tmp_path, "serve", *arguments, **variables)
    assert ended.returncode == 2
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1
    assert SECRET not in ended.stderr
    assert ended.stdout == ""


def test_a_taken_port_is_one_line_and_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = agentline(tmp_path, "serve", "--port", port)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"agentline: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("start", "line"),
    [
        ("store", r"^agentline: the database does not answer$"),
        ("fault", r"^agentline: internal error: ValueError at \S+small_app\.py:\d+ in lifespan$"),
    ],
)
def test_a_start_that_fails_ends_in_one_line_without_a_traceback(tmp_path: Path, start: str, line: str) -> None:
    ended = agentline(tmp_path, "serve", SMALL_APP_START=start)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.search(line, ended.stderr.splitlines()[-1])
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stderr


@pytest.mark.parametrize("path", ["/fail", "/orphan"])
def test_what_a_request_or_a_task_raised_is_logged_without_its_text(tmp_path: Path, path: str) -> None:
    with started(tmp_path, AGENTLINE_LOG_FORMAT="json") as process:
        ask(process, f"{path}?token=in-the-query")
        logged = stop(process)
    assert "ValueError" in logged
    assert "Traceback" not in logged
    assert SECRET not in logged
    assert "in-the-query" not in logged


def test_backends_find_their_keys_of_dotenv_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANTHROPIC_API_KEY=key\nAGENTLINE_LOG_LEVEL=warning\n")
    with started(tmp_path) as process:
        seen = ask(process, "/environment")
    assert "ANTHROPIC_API_KEY=key" in seen
    assert "AGENTLINE_LOG_LEVEL" not in seen


def ask(process: subprocess.Popen[str], path: str) -> str:
    """The whole answer to a request."""
    with socket.create_connection(("127.0.0.1", port_of[process.pid]), timeout=DEADLINE) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    return answer.decode()


def test_version_and_help_need_no_settings(tmp_path: Path) -> None:
    version = agentline(tmp_path, "--version", AGENTLINE_PROT="x")
    assert (version.returncode, version.stdout[:10]) == (0, "agentline ")
    assert agentline(tmp_path, "serve", "--help").returncode == 0
    assert agentline(tmp_path).returncode == 2


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "--version"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ended.returncode, ended.stdout[:10]) == (0, "agentline ")
