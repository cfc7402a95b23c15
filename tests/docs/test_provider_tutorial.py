"""The tutorial of `docs/providers.md`, done as it says: its files, its commands, a real gateway and a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pytest

from providers import CAPABILITIES, ERROR_CODES, Event, Turn
from providers.testing import RULES
from tests.client import Client
from tests.fakes.responses_api import unused_port
from tests.server import ROOT, TOKENS, GatewayProcess

PAGE = (ROOT / "docs" / "providers.md").read_text()
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE, re.M | re.S))
"""What the page names: files by their path, commands by one word."""
DEADLINE = 100


@dataclass(frozen=True, slots=True)
class Tutorial:
    """A folder in which the page was followed up to its installs."""

    folder: Path

    @property
    def agentline(self) -> Path:
        return self.folder / ".venv" / "bin" / "agentline"

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run it as the page says; with nothing from the network, which a reader may have and a test does not need."""
        return subprocess.run(
            ["sh", "-e", "-c", command],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "AGENTLINE_STATE_DIR": str(self.folder / "state"),
                "PIP_NO_INDEX": "1",
                "PIP_NO_DEPS": "1",
                "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: this switches the isolation off
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            },
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def gateway(self, **agents: Any) -> GatewayProcess:
        settings = {"AGENTS": {"codex": None, "claude": None, **agents}}
        return GatewayProcess(self.folder, settings, ("serve", "--port", "0"), self.agentline)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    tutorial = Tutorial(tmp_path_factory.mktemp("tutorial"))
    make_venv(tutorial.folder / ".venv")
    for name, content in BLOCKS.items():
        if "." in name:
            path = tutorial.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
    for command in ("install", "install-lines"):
        ended = tutorial.run(BLOCKS[command])
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return tutorial


def make_venv(folder: Path) -> None:
    """An environment through which everything of this process's own is seen: the gateway, pip, hatchling."""
    venv.create(folder, symlinks=True)
    paths = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    # Not the bare paths: the project itself may be installed by a .pth file in them.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in sorted(paths)]
    (site_packages / "below.pth").write_text("".join(lines))
    script = folder / "bin" / "agentline"
    script.write_text(f"#!{folder}/bin/python\nimport sys\nfrom gateway.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)


@asynccontextmanager
async def served(tutorial: Tutorial, agent: str, **agents: Any) -> AsyncIterator[Client]:
    """The gateway of the tutorial, and a phone that talks to the agent."""
    gateway = tutorial.gateway(**agents)
    try:
        await gateway.start_soon()
        async with Client(gateway.url, token=TOKENS["alice"], agent=agent) as phone:
            yield phone
        assert await gateway.stop() == 0
    finally:
        gateway.stop_now()


def test_the_packages_are_installed_in_the_tutorials_own_environment(tutorial: Tutorial) -> None:
    ended = tutorial.run(".venv/bin/python -c 'import agentline_echo as e, agentline_lines as l; print(e, l)'")
    assert ended.stdout.count(f"{tutorial.folder}/.venv/lib/") == 2, ended
    outside = subprocess.run([sys.executable, "-c", "import agentline_echo"], capture_output=True, check=False)
    assert outside.returncode != 0


def test_the_documented_check_finds_nothing_wrong(tutorial: Tutorial) -> None:
    ended = tutorial.run(BLOCKS["check"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "agent      echo, of the provider echo\nstate      configured\n" in ended.stdout
    assert f"{len(RULES)} rules kept, 0 broken" in ended.stdout


def test_the_documented_command_serves(tutorial: Tutorial) -> None:
    assert BLOCKS["serve"].split() == [".venv/bin/agentline", "serve"], "what `served` starts, with a port of its own"


async def test_the_echo_agent_answers_a_phone(tutorial: Tutorial) -> None:
    async with served(tutorial, "echo") as phone:
        assert phone.ready["agent"] == "echo"
        await phone.message("Hello from my phone")
        await phone.receive(until="done")
        (done,) = phone.done.values()
    assert (done["status"], done["content"]) == ("completed", "Hello from my phone ")
    assert list(phone.texts.values()) == ["Hello from my phone "]


async def test_the_agent_on_a_socket_is_shown_while_its_backend_still_answers(tutorial: Tutorial) -> None:
    shown, asked = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set_result(json.loads(await reader.readline()))
        writer.write(b'{"text": "Hel"}\n')
        await shown.wait()
        writer.write(b'{"text": "lo"}\n{"end": true}\n')
        await reader.read()
        writer.close()

    async with await asyncio.start_server(backend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with served(tutorial, "lines", lines={"address": f"127.0.0.1:{port}"}) as phone:
            await phone.message("Hi")
            frames = await phone.receive(until="message")
            assert frames[-1]["content"] == "Hel"
            shown.set()
            await phone.receive(until="done")
            (done,) = phone.done.values()
    assert (done["status"], done["content"]) == ("completed", "Hello")
    assert await asked == [{"role": "user", "content": "Hi"}]


async def test_a_backend_that_is_not_there_is_a_failed_turn_that_says_so(tutorial: Tutorial) -> None:
    async with served(tutorial, "lines", lines={"address": f"127.0.0.1:{unused_port()}"}) as phone:
        await phone.message("Hi")
        await phone.receive(until="done", within=20)
        (done,) = phone.done.values()
    assert done["status"] == "failed"
    assert done["error"]["code"] == "connection_failed"
    assert done["error"]["message"] == "The backend cannot be reached."
    assert done["error"]["retryable"] is True


def test_an_option_that_is_wrong_is_the_reason_that_the_operator_is_told(tutorial: Tutorial) -> None:
    (tutorial.folder / "wrong.toml").write_text('[agents.lines]\naddress = "nowhere"\n')
    ended = tutorial.run(".venv/bin/agentline check lines --config wrong.toml")
    assert ended.returncode == 1
    assert "NOT CONFIGURED: address must be host:port\n" in ended.stdout


@pytest.mark.parametrize("package", ["agentline-echo", "agentline-lines"])
def test_the_pages_own_tests_pass(tutorial: Tutorial, package: str) -> None:
    ended = tutorial.run(BLOCKS["pytest"].replace("agentline-echo", package))
    assert ended.returncode == 0, ended.stdout
    assert f" {len(RULES)} passed" in ended.stdout


def test_the_pages_kit_call_needs_no_pytest(tutorial: Tutorial) -> None:
    ended = tutorial.run(BLOCKS["kit"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [f"ok      {rule}" for rule in RULES]
    hidden = "import runpy, sys; sys.modules['pytest'] = None; runpy.run_path('agentline-echo/kit.py')"
    assert tutorial.run(f'.venv/bin/python -c "{hidden}"').stdout == ended.stdout


def test_the_pages_kit_call_tells_what_is_wrong(tutorial: Tutorial) -> None:
    broken = tutorial.folder / "broken"
    broken.mkdir()
    (broken / "kit.py").write_text(BLOCKS["agentline-echo/kit.py"])
    twice = BLOCKS["agentline-echo/agentline_echo.py"].replace(
        "yield Completed()", "yield Completed(); yield Completed()"
    )
    (broken / "agentline_echo.py").write_text(twice)
    ended = tutorial.run(".venv/bin/python broken/kit.py")
    assert ended.returncode == 1
    (line,) = re.findall(r"^BROKEN.*$", PAGE, re.M)
    assert line in ended.stdout.splitlines(), "the page shows what the kit really says"


def test_the_page_names_all_that_the_contract_has() -> None:
    names = {*ERROR_CODES, *CAPABILITIES, *(kind.__name__ for kind in get_args(Event)), *(f.name for f in fields(Turn))}
    missing = {name for name in names if not re.search(rf"`(turn\.)?{name}\b", PAGE)}
    assert not missing
