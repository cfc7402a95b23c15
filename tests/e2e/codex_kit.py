"""What the tests of Codex behind the gateway share."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tests.client import Client, Frame
from tests.fakes.responses_api import FunctionCall, Reply
from tests.providers.codex_kit import options, processes

PATCH = "*** Begin Patch\n*** Add File: hello.txt\n+hi there\n*** End Patch\n"
WITHIN = 30.0
"""Seconds that a turn of Codex may take on a machine that has much else to do."""


def codex_agent(home: Path, port: int, **more: Any) -> dict[str, Any]:
    """An agent whose Codex has `home` for itself, and its model at `port`. Its processes are known by that path.

    Every thread has a directory of its own below `home`: `directory` names it.
    """
    given = options(home, None, port=port, **{"cwd": str(home / "work" / "{user_id}" / "{thread_id}"), **more})
    return {"provider": "codex", **given}


def directory(home: Path, thread_id: str, user: str = "alice") -> Path:
    """Where Codex works in a thread of the user."""
    return home / "work" / user / thread_id


def codex_processes(home: Path) -> list[int]:
    """The app servers themselves, without their parents and children."""
    found = []
    for pid in processes(str(home)):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if line[0].endswith(b"codex") and line[1] == b"app-server":
                found.append(pid)
    return found


def command(cmd: str = "touch made", *, call_id: str = "c1", **more: Any) -> Reply:
    """The model wants this run."""
    return Reply(FunctionCall("exec_command", {"cmd": cmd, "login": False, **more}, call_id))


def escalated(cmd: str = "touch made", **more: Any) -> Reply:
    """The model wants this run outside the sandbox, for which a person must be asked."""
    return command(cmd, sandbox_permissions="require_escalated", justification="It must be made.", **more)


def patch() -> Reply:
    """The model wants a file made."""
    return command(f"apply_patch <<'EOF'\n{PATCH}EOF\n")


async def ask(phone: Client, content: str, thread_id: str, **fields: Any) -> Frame:
    """Send a message, and wait for the end of its turn."""
    accepted = await phone.message(content, thread_id=thread_id, **fields)
    return await phone.finish(accepted["turn_id"], within=WITHIN)
