"""`agentline chat` as a process of its own: over pipes in plain text, on a terminal with `rich`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentline.display import printable, split_finished
from tests.agentline.conftest import line_to
from tests.server import ROOT, TOKENS, GatewayProcess

SECONDS = 20.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


class Chat:
    """The running command. `said` is what it wrote so far, escape sequences left out."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, descriptor: int) -> None:
        self.process = process
        self._reader = reader
        self._descriptor = descriptor
        self.raw = ""
        self._passed = 0

    @property
    def said(self) -> str:
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def until(self, text: str) -> str:
        """Read until it has said `text` behind where the last wait ended."""
        try:
            async with asyncio.timeout(SECONDS):
                while (at := self.said.find(text, self._passed)) < 0:
                    data = await self._reader.read(4096)
                    assert data, f"it ended; it said:\n{self.said[-2000:]}"
                    self.raw += data.decode(errors="replace")
        except TimeoutError:
            raise AssertionError(f"no {text!r}; it said:\n{self.said[-2000:]}") from None
        self._passed = at + len(text)
        return self.said

    async def interrupted_until(self, text: str) -> None:
        """Ctrl-C until it says `text`: one that comes just before the prompt waits is not looked at by `readline`."""
        waiting = asyncio.ensure_future(self.until(text))
        while not waiting.done():
            self.process.send_signal(signal.SIGINT)
            await asyncio.wait((waiting,), timeout=0.3)
        waiting.result()

    async def ended(self) -> int:
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(OSError):  # how a terminal ends
                while data := await self._reader.read(4096):
                    self.raw += data.decode(errors="replace")
            return await self.process.wait()


@contextlib.asynccontextmanager
async def chatting(
    gateway: GatewayProcess, tmp_path: Path, *arguments: str, terminal: bool = False, token: str | None = None
) -> AsyncIterator[Chat]:
    token_file = tmp_path / "token"
    token_file.write_text(token if token is not None else TOKENS["alice"])
    command = [sys.executable, "-W", "error", "-m", "gateway", "chat", *arguments]
    command += ["--url", gateway.url, "--token-file", str(token_file)]
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    theirs_in, ours_in = os.pipe() if not terminal else (-1, -1)
    ours_out, theirs_out = os.pipe() if not terminal else (-1, -1)
    if terminal:
        ours_in, theirs_in = pty.openpty()
        ours_out, theirs_out = os.dup(ours_in), os.dup(theirs_in)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=theirs_in, stdout=theirs_out, stderr=theirs_out, cwd=tmp_path, env=environment
    )
    os.close(theirs_in)
    os.close(theirs_out)
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    file = os.fdopen(ours_out, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    chat = Chat(process, reader, ours_in)
    try:
        yield chat
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        transport.close()
        with contextlib.suppress(OSError):
            os.close(ours_in)


async def test_a_pipe_gets_plain_text_turn_after_turn_in_one_thread(gateway: GatewayProcess, tmp_path: Path) -> None:
    async with chatting(gateway, tmp_path, "demo") as chat:
        chat.type("/echo one\n")
        await chat.until("one")
        chat.type("/tool\n/history\n")
        await chat.until("shell: ls /srv")
        await chat.until("completed: www")
        await chat.until("5 messages")
        os.close(chat._descriptor)
        assert await chat.ended() == 0
    assert "\x1b" not in chat.raw


async def test_an_approval_is_decided_by_a_number(gateway: GatewayProcess, tmp_path: Path) -> None:
    async with chatting(gateway, tmp_path) as chat:
        chat.type("/approval question\n")
        await chat.until("Which colour?")
        await chat.until("2 Blue")
        chat.type("purple\n2 like the sky\n")
        await chat.until("a number from the list")
        await chat.until("You chose blue and said: like the sky.")


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_decision_on_another_device_ends_the_question(
    gateway: GatewayProcess, tmp_path: Path, terminal: bool
) -> None:
    thread_id = f"chat-{terminal}"
    async with line_to(gateway.url) as line:
        async for _ in line.stream("demo", "/echo hi", thread_id=thread_id):
            pass
        async with chatting(gateway, tmp_path, "--thread", thread_id, terminal=terminal) as chat:
            await chat.until("you: /echo hi")
            chat.type("/approval command\n")
            follow = line.follow(thread_id)
            await chat.until("3 Decline")
            snapshot = await anext(follow)
            await line.decide(snapshot.approvals[0].approval_id, "declined")
            await chat.until("decided: declined")
            await chat.until("The answer was declined")


async def test_ctrl_c_stops_the_turn_and_not_the_chat(gateway: GatewayProcess, tmp_path: Path) -> None:
    async with chatting(gateway, tmp_path, terminal=True) as chat:
        await chat.until("demo> ")
        chat.type("/echo so far; /hang\n")
        await chat.until("so far")  # the echo of it
        await chat.until("so far")
        chat.process.send_signal(signal.SIGINT)
        await chat.until("cancelled")
        await chat.until("demo> ")
        await chat.interrupted_until("Ctrl-D leaves")
        chat.type("/echo still here\n")
        await chat.until("still here")  # the echo of it
        await chat.until("still here")
        await chat.until("demo> ")
        chat.type("\x04")
        assert await chat.ended() == 0


async def test_a_terminal_gets_markdown(gateway: GatewayProcess, tmp_path: Path) -> None:
    pytest.importorskip("rich")
    async with chatting(gateway, tmp_path, terminal=True) as chat:
        await chat.until("demo> ")
        chat.type("/markdown\n")
        await chat.until("demo> ")
    assert "\x1b[" in chat.raw
    assert "**" not in chat.said
    assert "```" not in chat.said


async def test_a_bad_token_or_a_wrong_thread_is_one_line(gateway: GatewayProcess, tmp_path: Path) -> None:
    async with chatting(gateway, tmp_path, token="wrong-token") as chat:
        chat.type("Hi\n")
        await chat.until("agentline: the token is not valid (unauthorized)\n")
        assert await chat.ended() == 1
    async with chatting(gateway, tmp_path, "--thread", "no-such") as chat:
        await chat.until("agentline: there is no such thread (not_found)\n")
        assert await chat.ended() == 1
    assert "Traceback" not in chat.raw


async def test_the_owners_token_is_found_in_the_state_directory_and_goes_to_no_other_address(
    new_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    gateway = new_gateway(AUTH__TOKENS={})
    await gateway.start_soon()
    token = (gateway.state_dir / "owner-token").read_text().strip()
    environment = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "AGENTLINE_STATE_DIR": str(gateway.state_dir),
        "AGENTLINE_PORT": gateway.url.rsplit(":", 1)[1],
    }

    async def chat(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "chat", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path, env=environment,
        )  # fmt: skip
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate(b"/echo hello\n")
        return process.returncode, said.decode()

    for code, said in await asyncio.gather(chat(), chat("--url", f"{gateway.url}/#token={token}")):
        assert (code, "\nhello" in said or "hello\n" in said) == (0, True), said
    code, said = await chat("--url", gateway.url)
    assert code == 1
    assert "a token is needed" in said
    assert token not in said


def test_what_a_model_writes_cannot_command_the_terminal() -> None:
    assert printable("a\x1b]52;c;aGk=\x07b\x9b31m\u202ec\td\n") == "a�]52;c;aGk=�b�31m�c\td\n"


def test_only_what_no_further_text_can_change_is_printed_for_good() -> None:
    assert split_finished("one\n\ntwo") == ("one", "two")
    assert split_finished("one\n\n```\na\n\nb") == ("one", "```\na\n\nb")
    assert split_finished("```\na\n\nb\n```\n\nc") == ("```\na\n\nb\n```", "c")
    assert split_finished("one") == ("", "one")
