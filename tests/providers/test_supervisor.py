"""The supervisor as a process: what it hands on to its program, and what it makes of the program's end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
import uuid
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from providers import supervisor
from providers.children import supervised
from tests.providers.processes import gone, there_are

READY = "echo up; exec sleep 1000"


@pytest.fixture
def mark() -> str:
    return f"MARK_{uuid.uuid4().hex}"


async def run(*command: str, env: dict[str, str] | None = None, before: str = "") -> Process:
    """The supervisor over `command`, with standard output and error as pipes; `before` is run in it at its start."""
    line = supervised(command)
    if before:
        script = "import os, runpy, signal, sys\n{}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
        line = [*line[:3], "-c", f"import sys; del sys.argv[0]\n{script.format(textwrap.dedent(before))}", *line[3:]]
    return await asyncio.create_subprocess_exec(*line, env=os.environ | (env or {}), stdout=PIPE, stderr=PIPE)


async def up(process: Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(5):
        assert await process.stdout.readline() == b"up\n"


async def code(process: Process) -> int:
    async with asyncio.timeout(8):
        await process.communicate()
    assert process.returncode is not None
    return process.returncode


@pytest.mark.parametrize(
    ("script", "expected"),
    [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)],
)
async def test_it_exits_as_its_program_did(script: str, expected: int) -> None:
    assert await code(await run("sh", "-c", script)) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_asked_to_end_it_asks_its_program(number: signal.Signals) -> None:
    process = await run("bash", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done")
    await up(process)
    process.send_signal(number)
    assert await code(process) == 9


async def test_a_program_that_cannot_be_run_is_127(tmp_path: Path) -> None:
    assert await code(await run(str(tmp_path / "none"))) == 127


async def test_the_ends_of_the_programs_pipes_are_the_programs() -> None:
    """It holds neither of them itself."""
    process = await run("bash", "-c", "echo up; exec >&- 2>&-; exec sleep 1000")
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(5):
        assert (await process.stdout.read(), await process.stderr.read()) == (b"up\n", b"")
    assert process.returncode is None
    process.terminate()
    assert await code(process) == 143


async def test_its_program_gets_none_of_the_gateways_own_settings() -> None:
    process = await run("env", env={"AGENTLINE_AUTH__TOKENS": "hush", "OTHERS": "too"})
    out, _ = await process.communicate()
    assert b"OTHERS=too" in out
    assert supervisor.OWN_SETTINGS.encode() not in out


@pytest.mark.skipif(sys.platform != "linux", reason="needs proc_pid_status(5)")
async def test_its_program_has_the_usual_signals_and_neither_pythons_nor_the_gateways() -> None:
    process = await run(
        "cat", "/proc/self/status", before="signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGPIPE})"
    )
    out, _ = await process.communicate()
    masks = [int(line.split()[1], 16) for line in out.splitlines() if line[:6] in (b"SigBlk", b"SigIgn", b"SigCgt")]
    usual = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
    assert len(masks) == 3
    assert [mask & sum(1 << number - 1 for number in usual) for mask in masks] == [0, 0, 0]


async def test_it_can_be_ended_although_the_gateway_had_blocked_the_signal() -> None:
    process = await run("sh", "-c", READY, before="signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})")
    await up(process)
    process.terminate()
    assert await code(process) == 143


async def test_a_signal_for_a_program_that_is_just_being_started_is_not_lost() -> None:
    before = """
    fork = os.fork
    def fork_and_signal():
        pid = fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return pid
    os.fork = fork_and_signal
    """
    assert await code(await run("sleep", "1000", before=before)) == 143


@pytest.mark.skipif(sys.platform != "linux", reason="there it is as it is")
async def test_where_the_kernel_tells_of_nothing_the_program_itself_still_ends_with_the_gateway(mark: str) -> None:
    script = textwrap.dedent(
        """
        import asyncio
        from tests.providers.test_supervisor import READY, run, up

        async def main():
            process = await run("sh", "-c", READY, before="sys.platform = 'darwin'")
            await up(process)
            print("up", flush=True)
            await process.wait()

        asyncio.run(main())
        """
    )
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=os.environ | {mark: "1"}, stdout=PIPE, cwd=Path(__file__).parents[2]
    )
    await up(owner)
    await there_are(3, mark)  # the owner, the supervisor, the program
    owner.kill()
    await owner.wait()
    began = time.monotonic()
    await gone(mark, seconds=5)
    assert time.monotonic() - began < 3
