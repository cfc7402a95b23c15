"""What an operator may set for Codex, checked, and what follows from it: command line, environment, directories."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Options", "find_binary", "toml"]

SANDBOXES = ("read-only", "workspace-write", "danger-full-access")
APPROVAL_POLICIES = ("untrusted", "on-request", "never")
PLACEHOLDERS = frozenset(("user_id", "thread_id"))
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TERM|TZ|TMPDIR|XDG_\w+|SSL_CERT_(FILE|DIR)"
    r"|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy|(CODEX|OPENAI)_\w+"
    r"|SYSTEMROOT|USERPROFILE|APPDATA|LOCALAPPDATA|TEMP|TMP|COMSPEC|PATHEXT"
)
"""Names of the gateway's variables that Codex gets. All others stay out: the agent's commands can print their
environment, and the gateway's holds its tokens and the keys of other agents."""


def find_binary(binary: str | None) -> str:
    """The path of the Codex binary: the given one, else `codex` on PATH, else the one of its wheel.

    Raises:
        ValueError: there is none.
    """
    if binary is not None:
        found = shutil.which(os.path.expanduser(binary))
        if found is None:
            raise ValueError(f"binary: {binary} is not an executable file")
        return os.path.abspath(found)
    found = shutil.which("codex")
    if found is not None:
        return os.path.abspath(found)
    try:
        from codex_cli_bin import bundled_codex_path  # type: ignore[import-untyped]  # the wheel has no types

        return str(bundled_codex_path())
    except (ImportError, FileNotFoundError):
        raise ValueError(
            "no Codex binary: put `codex` on PATH, install the extra `agentline[codex]`, or set the option `binary`"
        ) from None


def toml(value: Any) -> str:
    """A JSON value as an inline TOML value, as Codex's `-c key=value` reads it."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, float, str)):
        if value is None:
            raise ValueError("config: TOML has no null")
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = (f"{k if _BARE_KEY.fullmatch(k) else json.dumps(k)} = {toml(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    raise ValueError(f"config: {type(value).__name__} is not a JSON value")


def _segment(value: str) -> str:
    """`value` as one name in a path; two different values never make the same name."""
    if _SAFE.fullmatch(value):
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', value)[:40]}.{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Checked options; making one raises ValueError for a wrong one, naming it."""

    binary: str | None = None
    model: str | None = None
    model_provider: str | None = None
    cwd: str | None = None
    """Where new threads work; may hold `{user_id}` and `{thread_id}`, which become names of directories."""
    sandbox: str = "read-only"
    approval_policy: str = "on-request"
    codex_home: str | None = None
    env: Mapping[str, str] | None = None
    config: Mapping[str, Any] | None = None
    session_users: Sequence[str] | None = None
    """Who may see and adopt sessions begun in a terminal; None is every user of the agent."""

    def __post_init__(self) -> None:
        if self.sandbox not in SANDBOXES:
            raise ValueError(f"sandbox: one of {', '.join(SANDBOXES)}")
        if self.approval_policy not in APPROVAL_POLICIES:
            raise ValueError(f"approval_policy: one of {', '.join(APPROVAL_POLICIES)}")
        if self.cwd is not None:
            try:
                fields = list(string.Formatter().parse(self.cwd))
            except ValueError:
                raise ValueError("cwd: unbalanced braces") from None
            for _, name, spec, conversion in fields:
                if name is not None and (name not in PLACEHOLDERS or spec or conversion):
                    raise ValueError("cwd: only {user_id} and {thread_id} may stand in braces")
            above = self.cwd.partition("{thread_id}")[0].rpartition("/")[0]
            if "{thread_id}" in self.cwd and "{user_id}" not in above:  # a thread id is unique within its user only
                raise ValueError("cwd: {thread_id} must stand in a directory below that of {user_id}")
        if self.env is not None and not all(isinstance(v, str) for v in self.env.values()):
            raise ValueError("env: every value must be text")
        toml(self.config or {})

    def command(self, binary: str) -> list[str]:
        """The command line of the app server. Every user of the machine can see it: no secret belongs in `config`."""
        overrides: dict[str, Any] = {
            # Unload a thread as soon as nobody follows it: only then can a terminal continue it (one writer per
            # session), and only then do the commands of a finished turn end.
            "thread_unload_delay_secs": 0,
        }
        if self.model is not None:
            overrides["model"] = self.model
        if self.model_provider is not None:
            overrides["model_provider"] = self.model_provider
        overrides |= self.config or {}
        arguments = [binary, "app-server"]
        for key, value in overrides.items():
            arguments += ["-c", f"{key}={toml(value)}"]
        return arguments

    def environment(self) -> dict[str, str]:
        """The process's whole environment."""
        environment = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
        if self.codex_home is not None:
            environment["CODEX_HOME"] = str(Path(self.codex_home).expanduser().absolute())
        return environment | dict(self.env or {})

    @property
    def per_user(self) -> bool:
        """Whether every user works below a directory of their own."""
        return self.cwd is not None and "{user_id}" in self.cwd

    def directory(self, user_id: str, thread_id: str) -> str:
        """Where a new thread works; made if it does not exist, readable by the owner alone. Blocks briefly.

        Raises:
            ValueError: the path leads outside the part of `cwd` before the first placeholder.
            OSError: the directory cannot be made.
        """
        if self.cwd is None:
            return os.getcwd()
        filled = self.cwd.format(user_id=_segment(user_id), thread_id=_segment(thread_id))
        path = Path(filled).expanduser().absolute()
        if "{" in self.cwd:
            root = Path(self.cwd.partition("{")[0] + "x").expanduser().absolute().parent
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.resolve().is_relative_to(root.resolve()):
                raise ValueError("cwd leads outside its root")
        else:
            path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def user_root(self, user_id: str) -> Path | None:
        """The directory that holds all threads of the user, and no other user's; None without `{user_id}`."""
        if self.cwd is None or not self.per_user:
            return None
        before, _, after = self.cwd.partition("{user_id}")
        own = before + _segment(user_id) + after.partition("/")[0].replace("{user_id}", _segment(user_id))
        return Path(own).expanduser().absolute()
