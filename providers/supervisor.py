"""The process between the gateway and an agent's program: nothing of the agent outlives the gateway.

Run as a script by `providers.children`: `python -I -S supervisor.py GATEWAY_PID COMMAND…`. It imports the standard
library only. It takes no part in the conversation: the program inherits the standard streams, and alone holds them.
It gets none of the gateway's own settings.

An agent starts processes of its own (shells, language servers, daemons that leave their process group), and a
gateway that is killed with SIGKILL can clean nothing up. So on Linux the kernel

  - tells this process when the gateway's thread that started it dies (PR_SET_PDEATHSIG, prctl(2)), and kills the
    program when this process itself dies;
  - gives it every orphan below it (PR_SET_CHILD_SUBREAPER), which makes them findable. Measured: without a sandbox,
    a command that daemonised itself outlives Codex.

Elsewhere it looks once a second whether the gateway is still its parent, and only the program itself is ended.

SIGTERM, SIGINT, SIGHUP: the program gets SIGTERM, after GRACE_SECONDS SIGKILL. Whenever the program has ended, what is
left below it is killed and waited for. Exits with the program's own code, 128 + the number of the signal that ended
it, or 127 if it could not be run.
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
"""Between asking the program to end and killing it."""
_SWEEP_SECONDS = 5.0
"""How long killing what it left may take."""
_LOOK_SECONDS = 1.0
"""How often to look for the gateway where the kernel does not tell of its end."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"
_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DEFAULT = (*_END, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
"""What is handled here, or ignored by every Python, is the program's to decide."""


def _prctl(option: int, value: int) -> bool:
    """Whether the kernel has agreed."""
    if not _LINUX:
        return False
    arguments = (ctypes.c_ulong(number) for number in (value, 0, 0, 0))
    return bool(ctypes.CDLL(None).prctl(option, *arguments) == 0)


def _children() -> list[int]:
    """The processes whose parent is this one, adopted orphans and zombies among them.

    From the parent that each process names (proc_pid_stat(5): after the last `)` and the state). The list that the
    kernel keeps of a task's children is not in every kernel, and is reliable only while they stand still
    (proc_tid_children(5)).
    """
    if not _LINUX:
        return []
    own = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == own:
                    found.append(int(name))
    return found


def _reap(program: int) -> tuple[int | None, bool]:
    """Collect all children that have ended: the wait status of `program` if it is one of them; is any child left?"""
    status = None
    try:
        while True:
            pid, ended = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return status, True
            if pid == program:
                status = ended
    except ChildProcessError:
        return status, False


def _sweep(program: int, status: int | None) -> int | None:
    """Kill all children, level by level: the children of the killed become ours. Returns the program's wait status."""
    until = time.monotonic() + _SWEEP_SECONDS
    while time.monotonic() < until:
        ended, left = _reap(program)
        status = ended if status is None else status
        if not left:
            break
        for pid in [program] * (status is None) + _children():
            with suppress(OSError):  # it has ended, or belongs to another user: the others must go all the same
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return status


def _become(command: list[str], supervisor: int) -> None:
    """Be the program. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in _DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvp(command[0], command)  # noqa: S606 - the operator's own command, without a shell
    finally:
        os._exit(127)


def main(gateway: int, command: list[str]) -> int:
    """Run `command` until it ends or we are told to end it, then end all that it left behind."""
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    asked: list[int] = []
    for number in _END:
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    told = _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with suppress(PermissionError):  # it leads its session already
        os.setsid()
    for name in [name for name in os.environ if name.startswith(OWN_SETTINGS)]:
        del os.environ[name]
    if os.getppid() != gateway:  # it died before the kernel knew whom to tell
        return 1

    own = os.getpid()
    # A signal for the program must not end in our handlers while it still has them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULT)
    program = os.fork()
    if program == 0:
        _become(command, own)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the program alone holds the pipes: its end is their end
        os.dup2(nowhere, stream)

    kill_at: float | None = None
    status: int | None = None
    while status is None and (kill_at is None or time.monotonic() < kill_at):
        pause = None if told else _LOOK_SECONDS
        if kill_at is not None:
            pause = max(kill_at - time.monotonic(), 0.0)
        select.select([woken], [], [], pause)
        with suppress(BlockingIOError):
            os.read(woken, 4096)
        status, _ = _reap(program)
        if status is None and kill_at is None and (asked or os.getppid() != gateway):
            os.kill(program, signal.SIGTERM)
            kill_at = time.monotonic() + GRACE_SECONDS
    status = _sweep(program, status)
    code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
