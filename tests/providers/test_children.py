"""Nothing of a child outlives its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from providers.children import Child, environment, find_command, working_directory
from tests.providers.asking import make_turn
from tests.providers.processes import gone, there_are, with_environment

DAEMONS = "setsid sleep 1000 & sleep 1000 & echo up; cat"
"""A program with one child that left its process group and one that did not."""
DEAF = "setsid sleep 1000 & sleep 1000 & echo up; exec sleep 1000"
"""The same, but the end of its input does not end it."""


@pytest.fixture
def mark() -> str:
    return f"MARK_{uuid.uuid4().hex}"


async def start(mark: str, script: str, cwd: Path) -> Child:
    child = await Child.start(["bash", "-c", script], cwd=str(cwd), env=environment({mark: "1"}), line_bytes=64 * 1024)
    assert await child.stdout.readline() == b"up\n"
    return child


async def test_a_stopped_child_takes_its_descendants_with_it(mark: str, tmp_path: Path) -> None:
    child = await start(mark, DAEMONS, tmp_path)
    await there_are(4, mark)
    async with asyncio.timeout(5):
        await child.stop()
    assert with_environment(mark) == set()


async def test_a_child_that_ends_by_itself_leaves_nothing_behind(mark: str, tmp_path: Path) -> None:
    child = await start(mark, "setsid sleep 1000 & echo up; read line", tmp_path)
    child.stdin.write(b"go\n")
    await gone(mark)
    await child.stop()


@pytest.mark.parametrize("deaf", ["trap '' TERM; echo up; while :; do sleep 1; done", "echo up; kill -STOP $$"])
async def test_a_child_that_hears_nothing_is_killed(mark: str, tmp_path: Path, deaf: str) -> None:
    child = await start(mark, deaf, tmp_path)
    async with asyncio.timeout(8):
        await child.stop(at_once=True)
    assert with_environment(mark) == set()


async def test_a_child_whose_supervisor_hangs_is_killed_with_it(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.children._STOP_SECONDS", 0.3)
    child = await start(mark, "echo up; exec sleep 1000", tmp_path)
    os.kill(child.pid, signal.SIGSTOP)
    async with asyncio.timeout(5):
        await child.stop(at_once=True)
    await gone(mark)


async def test_a_child_whose_output_nobody_reads_can_be_stopped(mark: str, tmp_path: Path) -> None:
    child = await start(mark, "echo up; yes", tmp_path)
    async with asyncio.timeout(8):
        await child.stop(at_once=True)
    assert with_environment(mark) == set()


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelling_the_stop_still_ends_the_child(mark: str, tmp_path: Path, times: int) -> None:
    child = await start(mark, "echo up; while :; do sleep 1; done", tmp_path)
    task = asyncio.create_task(child.stop())
    for _ in range(times):
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert with_environment(mark) == set()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_owner_leaves_nothing_behind(mark: str, tmp_path: Path, end: signal.Signals) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio
        from providers.children import Child, environment

        async def main():
            children = [
                await Child.start(
                    ["bash", "-c", {DEAF!r}], cwd="/", env=environment({{{mark!r}: "1"}}), line_bytes=1000
                )
                for _ in range(3)
            ]
            for child in children:
                await child.stdout.readline()
            print("up", flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
        """
    )
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"up\n"
    await there_are(13, mark)  # the owner's command line has the mark too
    owner.send_signal(end)
    await owner.wait()
    await gone(mark)


async def test_the_gateways_own_settings_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTLINE_AUTH__TOKENS", "hush")
    assert "AGENTLINE_AUTH__TOKENS" not in environment({"MORE": "1"})
    assert environment({"MORE": "1"})["MORE"] == "1"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no-such-program"):
        find_command("no-such-program", {"PATH": str(tmp_path)})


@pytest.mark.parametrize("user", ["..", "../../etc", "a/b", ".", "auth0|x y", "ü"])
async def test_an_id_is_one_path_segment_whatever_it_holds(tmp_path: Path, user: str) -> None:
    path = Path(await working_directory(f"{tmp_path}/{{user_id}}/{{thread_id}}", make_turn(user=user, thread="t")))
    assert path.parent.parent == tmp_path
    mode = os.stat(path).st_mode
    assert stat.S_ISDIR(mode)
    assert mode & 0o077 == 0
