"""The process between us and an agent's process: it sees to it that nothing of the agent outlives the gateway.

Run as a script by `providers.children`, with our process id and the agent's command as arguments. It takes no part
in the conversation: the agent inherits standard input and output as they are.

An agent starts processes of its own (shells, language servers, daemons that leave their process group), and a
gateway that is killed with SIGKILL can clean nothing up. So the kernel tells this process that its parent died
(`PR_SET_PDEATHSIG`, prctl(2)), and gives it every orphan below it (`PR_SET_CHILD_SUBREAPER`), which makes them
findable. Elsewhere than on Linux it watches its parent's id once a second, and only the agent itself is stopped.
"""

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

OWN_SETTINGS = "AGENTLINE_"
"""Environment variables of the gateway (tokens, database passwords), which no agent gets."""
GRACE_SECONDS = 1.0
"""Between asking the agent to end and killing it."""
_REAP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _children() -> list[int]:
    """The process ids of our children, adopted orphans among them."""
    found: list[int] = []
    with suppress(OSError):
        for name in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{name}/children", encoding="ascii") as listing:
                found += [int(pid) for pid in listing.read().split()]
    return found


def _kill_all(main: int) -> None:
    """Kill everything below us, level by level: the children of the killed become ours."""
    until = time.monotonic() + _REAP_SECONDS
    while time.monotonic() < until:
        for pid in _children() or [main]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _execute(command: list[str], supervisor: int) -> None:
    """Become the agent. Never returns."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            os.execvp(command[0], command)  # noqa: S606 - the operator's own command, without a shell
    finally:
        os._exit(127)


def main(parent: int, command: list[str]) -> int:
    """Run `command` until it ends or we are told to end it, then end all that it left behind."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(woken, False)
    asked: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in signals:
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with suppress(PermissionError):  # it leads its session already
        os.setsid()
    for name in [name for name in os.environ if name.startswith(OWN_SETTINGS)]:
        del os.environ[name]
    if os.getppid() != parent:  # it died before the kernel knew whom to tell
        return 1

    own = os.getpid()
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for number in (*signals, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        _execute(command, own)
    # The agent alone holds the pipes: its end is their end.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)

    until: float | None = None
    status: int | None = None
    while status is None:
        pause = None if _LINUX else 1.0
        if until is not None:
            pause = max(until - time.monotonic(), 0.0)
        select.select([woken], [], [], pause)
        with suppress(BlockingIOError):
            os.read(woken, 4096)
        with suppress(ChildProcessError):
            while True:
                pid, ended = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == child:
                    status = ended
        if status is not None:
            break
        if until is None and (asked or os.getppid() != parent):
            os.kill(child, signal.SIGTERM)
            until = time.monotonic() + GRACE_SECONDS
        elif until is not None and time.monotonic() >= until:
            break
    _kill_all(child)
    if status is None:
        return 128 + signal.SIGKILL
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
