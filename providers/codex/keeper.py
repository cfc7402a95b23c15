"""The parent of `codex app-server` on Linux: when the gateway is gone, in whatever way, so is all that Codex began.

Run as a script: `python -I -S keeper.py GATEWAY_PID COMMAND…`. It imports the standard library only, hands its
own standard streams to the command and stays in between for what the command cannot do about itself:

  - The kernel tells it when the gateway's thread that started it dies (PR_SET_PDEATHSIG, prctl(2)), SIGKILL included,
    and kills the command when the keeper itself dies.
  - It adopts every orphan below it (PR_SET_CHILD_SUBREAPER), so that a command of the agent that daemonised
    itself is still found. Measured: without a sandbox, such a process outlives Codex.

SIGTERM: the command gets SIGTERM, after GRACE seconds SIGKILL. Whenever the command has ended, all remaining
descendants are killed and waited for. Exits with the command's own code, or 128 + the number of its signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE = 1.0
SWEEP = 5.0
"""Seconds that killing the descendants may take."""


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _children() -> list[int]:
    """The processes whose parent is this one. proc_pid_stat(5): the parent follows the state, after the last `)`."""
    me = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent == me:
                found.append(int(name))
    return found


def _reap() -> dict[int, int]:
    """Collect all children that have ended, without waiting: pid → wait status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _sweep() -> None:
    """Kill what is left. A killed process hands its children to this one, so it takes a round per generation."""
    deadline = time.monotonic() + SWEEP
    while time.monotonic() < deadline:
        children = _children()
        if not children:
            return
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.002)
        _reap()


def main(gateway: int, command: list[str]) -> int:
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != gateway:  # it died before the kernel was told
        return 1
    me = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execv(command[0], command)  # noqa: S606 - the operator's own binary
        finally:
            os._exit(127)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the pipes are the command's alone: its end must be their end
        os.dup2(nothing, stream)
    kill_at: float | None = None
    status: int | None = None
    while status is None:
        wait = 3600.0 if kill_at is None else max(0.0, kill_at - time.monotonic())
        received = signal.sigtimedwait(signals, wait)
        if received is not None and received.si_signo == signal.SIGTERM and kill_at is None:
            os.kill(child, signal.SIGTERM)
            kill_at = time.monotonic() + GRACE
        elif received is None and kill_at is not None:
            os.kill(child, signal.SIGKILL)
            kill_at = time.monotonic() + GRACE
        status = _reap().get(child)
    _sweep()
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
