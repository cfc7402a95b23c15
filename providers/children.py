"""Child processes that never outlive their owner: not on a normal end, not on cancellation, not on `kill -9`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

from providers import supervisor
from providers.base import Turn
from providers.errors import ProviderError
from providers.shielding import to_the_end

__all__ = ["Child", "directory_template", "environment", "find_command", "supervised", "working_directory"]

_END_SECONDS = 2.0
"""How long a child may take to end by itself once its standard input is closed; Codex takes 0.04."""
_STOP_SECONDS = supervisor.GRACE_SECONDS + 7.0


def supervised(command: Sequence[str]) -> list[str]:
    """The command that runs `command` under `providers.supervisor`, for a child of this very process."""
    return [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), *command]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment for a child, without the gateway's own settings (tokens, database passwords)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(supervisor.OWN_SETTINGS)}
    return inherited | dict(extra or {})


def find_command(name: str, env: Mapping[str, str]) -> str:
    """The absolute path of the program `name`.

    Raises:
        ValueError: there is no such program.
    """
    found = shutil.which(name, path=env.get("PATH"))
    if found is None:
        raise ValueError(f"there is no program {name!r} on PATH")
    return str(Path(found).absolute())


def directory_template(cwd: str | None) -> str:
    """The option `cwd` of an agent as `working_directory` wants it.

    Raises:
        ValueError: it is missing, names no directory, or would give two users the same one by a thread's id.
    """
    if not cwd:
        raise ValueError("the option cwd is missing: the directory in which the agent works")
    path = Path(cwd).expanduser().absolute()
    if "{thread_id}" in cwd and "{user_id}" not in cwd:
        raise ValueError("the option cwd has {thread_id} without {user_id}: users may choose the same thread id")
    if "{user_id}" not in cwd and not path.is_dir():
        raise ValueError("the directory that the option cwd names does not exist")
    return str(path)


async def working_directory(template: str, turn: Turn) -> str:
    """The directory that `template` names, with `{user_id}` and `{thread_id}` filled in; made when it has either.

    Ids come from outside: each becomes exactly one path segment.

    Raises:
        ProviderError: it does not exist or cannot be made.
    """
    try:
        return await asyncio.to_thread(_directory, template, turn.user_id, turn.thread_id)
    except OSError:
        raise ProviderError("invalid_request", "The agent's working directory cannot be made.") from None


def _directory(template: str, user_id: str, thread_id: str) -> str:
    path = template.replace("{user_id}", _segment(user_id)).replace("{thread_id}", _segment(thread_id))
    if path != template:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not Path(path).is_dir():
        raise NotADirectoryError(path)
    return str(Path(path).absolute())


def _segment(identifier: str) -> str:
    quoted = quote(identifier, safe="")
    return quoted.replace(".", "%2E") if not quoted.strip(".") else quoted


class Child:
    """A running child with pipes for standard input and output."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a child needs both pipes")
        self._process = process
        self.stdin = process.stdin
        self.stdout = process.stdout

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        line_bytes: int,
        cwd: str | None = None,
        errors: IO[bytes] | None = None,
    ) -> Child:
        """Start `command`, in our own directory if there is no `cwd`. No line of its output may exceed `line_bytes`.

        What it writes to standard error goes to `errors`, else nowhere: it may repeat the conversation, so it is
        never ours to log. Neither way is there a pipe that would hold the child up when it is full.

        Raises:
            OSError: the process could not be started.
        """
        process = await asyncio.create_subprocess_exec(
            *supervised(command),
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors or DEVNULL,
            cwd=cwd,
            env=dict(env),
            limit=line_bytes,
            start_new_session=True,  # a Ctrl-C in the gateway's terminal is the gateway's to handle
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Of the supervisor; the program is its first child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def stop(self, *, at_once: bool = False) -> None:
        """End the child and all its descendants; returns when they are gone, within twelve seconds.

        Nobody may be reading `stdout` any more. Cancelled, however often, it ends them at once, and only then lets
        the cancellation pass.
        """
        await to_the_end(self._end(at_once), hurry=self._terminate)

    async def _end(self, at_once: bool) -> None:
        """Close its input; if that does not do, SIGTERM to the supervisor, which sees to the rest."""
        self.stdin.close()
        if at_once or not await self._gone(_END_SECONDS):
            self._terminate()
            if not await self._gone(_STOP_SECONDS):  # the supervisor itself hangs; the kernel kills the program with it
                self._kill()
                await self._gone(_END_SECONDS)

    async def _gone(self, seconds: float) -> bool:
        """Whether it ends within `seconds`. Output is thrown away: asyncio reports no end while any of it is unread."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.stdout.read(65536):
                    pass
                await self._process.wait()
                return True
        return False

    def _terminate(self) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
