"""nginx and Caddy as processes of their own, on the files that ship.

What differs from a machine in use is replaced in those very files: addresses, certificates, folders. A replacement
whose text is not in the file fails, so that the tests cannot go on with a file that has moved on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.contracts import check_answer
from tests.e2e.eventsource import EventSource
from tests.server import ROOT, TOKENS

DEPLOY = ROOT / "deploy"
START_SECONDS = 15.0

SERVER_LINE = "    server 127.0.0.1:8080 max_fails=1 fail_timeout=5s;\n"
TLS_LISTEN = "listen 443 ssl http2;"
PLAIN_PORT = "listen 80;"
CERTIFICATE = "/etc/ssl/agentline/fullchain.pem"
KEY = "/etc/ssl/agentline/privkey.pem"


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """`text` with each key replaced by its value, wherever it stands; it must stand somewhere."""
    for old, new in changes.items():
        assert old in text, f"the file that ships has no {old!r}"
        text = text.replace(old, new)
    return text


class Proxy(ABC):
    """One process of a proxy, which listens on `port`, without TLS unless asked for.

    `changes` are further replacements in its configuration. `folder` is all that it writes to.
    """

    name = ""

    def __init__(
        self, folder: Path, port: int, upstreams: Sequence[str], changes: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.port = port
        self.upstreams = [urlsplit(url).netloc for url in upstreams]
        self.changes = dict(changes or {})
        self.url = f"http://127.0.0.1:{port}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.second_port: int = probe.getsockname()[1]
            """For what it listens on besides."""
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def needed(cls) -> str:
        """The path of its program; skips the test where there is none."""
        path = shutil.which(cls.name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
        if path is None:
            pytest.skip(f"{cls.name} is not installed")
        return path

    @property
    def logs(self) -> str:
        """All that it has logged."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    @abstractmethod
    def render(self) -> None:
        """Write its configuration, from the files that ship."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def reload(self) -> None:
        """What an operator does after a change; returns when new connections are served by the new configuration."""

    def start(self) -> str:
        """Start it and wait until it accepts connections. Blocks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.render()
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self.url
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{self.name} did not start; it said:\n{self.logs[-4000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)}

    def http(self, user: str | None = "alice", **options: Any) -> httpx2.AsyncClient:
        """A client of the gateways behind it. Fails at an answer that `/openapi.json` does not declare."""
        headers = {} if user is None else {"Authorization": f"Bearer {TOKENS[user]}"}
        hooks = {"response": [check_answer]}
        settings: dict[str, Any] = {"base_url": self.url, "timeout": 10, "event_hooks": hooks, **options}
        return httpx2.AsyncClient(headers=headers, trust_env=False, **settings)

    @contextlib.asynccontextmanager
    async def events(
        self, path: str, body: Any = None, last: str | None = None, within: float = 10
    ) -> AsyncIterator[EventSource]:
        """The event stream of `path`, asked for with POST if there is a body. Leaving the block hangs up."""
        sent = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
        async with (
            self.http(timeout=within) as http,
            http.stream("GET" if body is None else "POST", path, json=body, headers=sent) as answer,
        ):
            yield EventSource(answer)


class Nginx(Proxy):
    name = "nginx"
    certificate: Path | None = None
    """With its key, in one file; makes it listen with TLS."""

    def render(self) -> None:
        site = self.folder / "agentline.conf"
        own = {
            SERVER_LINE: "".join(SERVER_LINE.replace("127.0.0.1:8080", upstream) for upstream in self.upstreams),
            PLAIN_PORT: f"listen 127.0.0.1:{self.second_port};",
            TLS_LISTEN: f"listen 127.0.0.1:{self.port}{' ssl http2' if self.certificate else ''};",
            "/var/log/nginx/access.log": f"{self.folder}/access.log",
        }
        if self.certificate:
            own |= dict.fromkeys((CERTIFICATE, KEY), str(self.certificate))
        else:
            own |= {f"    ssl_certificate     {CERTIFICATE};\n": "", f"    ssl_certificate_key {KEY};\n": ""}
        text = replaced((DEPLOY / "nginx" / "agentline.conf").read_text(), own)
        main = {
            "/etc/nginx/conf.d/agentline.conf": str(site),
            "/run/nginx.pid": f"{self.folder}/nginx.pid",
            "/var/log/nginx/error.log": f"{self.folder}/error.log",
            "worker_processes auto;": "worker_processes 2;",
            "http {\n": "http {\n"
            + "".join(
                f"    {kind}_temp_path {self.folder}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
        }
        settings = replaced((DEPLOY / "nginx.conf").read_text(), main)
        for old, new in self.changes.items():
            assert old in text + settings, f"the files that ship have no {old!r}"
            text, settings = text.replace(old, new), settings.replace(old, new)
        site.write_text(text)
        (self.folder / "nginx.conf").write_text(settings)

    def command(self) -> list[str]:
        # Its workers use the test's own folder, which root's tests have for root alone.
        user = "user root;" if os.getuid() == 0 else ""
        config = str(self.folder / "nginx.conf")
        return [self.needed(), "-p", str(self.folder), "-c", config, "-g", f"daemon off; {user}"]

    def reload(self) -> None:
        before = self._workers()
        subprocess.run([*self.command(), "-s", "reload"], check=True, timeout=10, capture_output=True)
        deadline = time.monotonic() + START_SECONDS
        while len(self._workers() - before) < 2:
            assert time.monotonic() < deadline, f"nginx did not reload; it said:\n{self.logs[-4000:]}"
            time.sleep(0.01)

    def _workers(self) -> set[str]:
        return set(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())


class Caddy(Proxy):
    name = "caddy"
    secure = False
    """Whether it listens with TLS, as `localhost`, with a certificate of an authority of its own."""

    @property
    def admin(self) -> str:
        return f"127.0.0.1:{self.second_port}"

    def render(self) -> None:
        # It would put its own authority among those that the machine trusts, and take port 80.
        first = "\t# For `caddy reload`."
        own = {first: f"\tskip_install_trust\n\tauto_https disable_redirects\n{first}"}
        (self.folder / "Caddyfile").write_text(replaced((DEPLOY / "Caddyfile").read_text(), {**own, **self.changes}))

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "SITE": f"https://localhost:{self.port}" if self.secure else f"http://:{self.port}",
            "UPSTREAMS": " ".join(self.upstreams),
            "CADDY_ADMIN": self.admin,
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }

    def command(self) -> list[str]:
        return [self.needed(), "run", "--config", str(self.folder / "Caddyfile"), "--adapter", "caddyfile"]

    def reload(self) -> None:
        command = [self.needed(), "reload", "--config", str(self.folder / "Caddyfile"), "--adapter", "caddyfile"]
        done = subprocess.run(
            [*command, "--address", self.admin, "--force"],
            check=False,
            timeout=30,
            capture_output=True,
            env=self.environment(),
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]


PROXIES: Mapping[str, type[Proxy]] = {"nginx": Nginx, "caddy": Caddy}


IMPATIENT: Mapping[str, dict[str, str]] = {
    "nginx": {},
    "caddy": {"\tlb_try_duration 5s\n": "\tlb_try_duration 300ms\n"},
}
"""Changes with which a proxy does not wait for a gateway that a test will not start again."""


@contextlib.contextmanager
def running(proxy: Proxy) -> Iterator[Proxy]:
    proxy.needed()
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


async def reload(proxy: Proxy) -> None:
    """`Proxy.reload`, without blocking the loop."""
    await asyncio.to_thread(proxy.reload)
