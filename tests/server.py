"""The gateway as a process of its own, for tests: started, killed, stopped and started again on one state directory."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from tests.contracts import check_answer
from tests.process import ServerProcess

ROOT = Path(__file__).parent.parent
TOKENS = {"alice": "token-of-alice", "bob": "token-of-bob"}
START_SECONDS = 30.0
MODULE = ("-m", "gateway", "serve", "--port", "0")
LISTENING = "listening on "


class GatewayProcess(ServerProcess):
    """`python -m gateway serve --port 0` with nothing of this process's environment but what it needs to run.

    `state_dir` is also its working directory, so that no settings file of the checkout is read. `environment` holds its
    variables, `AGENTLINE_` left out; values that are no strings are given as JSON. `command` stands in for
    `-m gateway serve --port 0`, `python` for this process's own interpreter, `ready` for how the line begins that it
    prints when it has started.
    """

    def __init__(
        self,
        state_dir: Path,
        environment: Mapping[str, Any] | None = None,
        command: Sequence[str] = MODULE,
        python: Path | str = sys.executable,
        ready: str = LISTENING,
        start_seconds: float = START_SECONDS,
    ) -> None:
        super().__init__()
        self._ready = ready
        self.start_seconds = start_seconds
        self.state_dir = state_dir
        self.environment: dict[str, Any] = {
            "AUTH__TOKENS": TOKENS,
            "LOG_FORMAT": "json",
            "AGENTS": {"codex": None, "claude": None, "demo": {"pace": 0}},
            **(environment or {}),
        }
        self.command = (str(python), *command)
        self.url = ""

    @property
    def log_path(self) -> Path:
        """Standard error of all its lives."""
        return self.state_dir / "gateway.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def rss(self) -> int:
        """Bytes of memory that it uses now."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def _popen(self) -> subprocess.Popen[bytes]:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        variables = {
            f"AGENTLINE_{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in self.environment.items()
        }
        variables |= {
            "AGENTLINE_STATE_DIR": str(self.state_dir),
            "HOME": str(self.state_dir),
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
        }
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                self.command,
                cwd=self.state_dir,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def _await_readiness(self) -> str:
        """It has printed its line."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        deadline, said = time.monotonic() + self.start_seconds, b""
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([process.stdout], [], [], max(left, 0))
            chunk = os.read(process.stdout.fileno(), 4096) if readable else b""
            if not chunk:
                self._failed()
            said += chunk
        line = said.decode().strip()
        assert line.startswith(self._ready), line
        self.url = line.removeprefix(self._ready)
        return self.url

    def http(self, user: str | None = "alice") -> httpx2.AsyncClient:
        """A client of its HTTP interface with the user's token, to be closed by the caller.

        Fails at an answer that `/openapi.json` does not declare.
        """
        headers = {} if user is None else {"Authorization": f"Bearer {TOKENS[user]}"}
        hooks = {"response": [check_answer]}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=10, trust_env=False, event_hooks=hooks)

    async def get(self, path: str, user: str | None = "alice") -> Any:
        """The JSON that `GET path` answers with 200."""
        async with self.http(user) as http:
            answer = await http.get(path)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    async def post(self, path: str, body: Any = None, user: str | None = "alice") -> httpx2.Response:
        async with self.http(user) as http:
            return await http.post(path, json=body) if body is not None else await http.post(path)
