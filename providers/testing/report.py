"""What the kit found out."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import PurePath

from providers.errors import ProviderError

__all__ = ["Broken", "Finding", "Report", "Unanswered", "described"]


class Broken(Exception):
    """The provider breaks the rule that is being looked at; the text says how."""


class Unanswered(Exception):
    """The rule needs an answer to look at, and there is none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one rule."""

    rule: str
    problem: str | None
    """None: the provider keeps it, as far as it was looked at."""
    skipped: bool = False
    """It was not looked at: the turn was not answered, or was not to be played."""

    def __str__(self) -> str:
        if self.skipped:
            return f"-       {self.rule}: not looked at"
        return f"ok      {self.rule}" if self.problem is None else f"BROKEN  {self.rule}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one provider; as text, one line each."""

    findings: tuple[Finding, ...]
    turns: int = 0
    """How many turns were played for it: so many times, at least, the backend was called."""
    failure: str | None = None
    """Why the recorded turn was not answered, if it was not. The message of a `ProviderError`, else the kit's words."""
    first_text: float | None = None
    """Seconds from the start of the recorded turn to its first piece of text."""
    seconds: float = 0.0
    """How long the recorded turn took."""

    @property
    def ok(self) -> bool:
        """Whether no rule that was looked at is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.problem is not None)

    @property
    def skipped(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.skipped)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


def described(failure: BaseException) -> str:
    """The failure's type and the place it comes from. Never its text, which may quote a conversation or a key."""
    kind = type(failure).__name__
    if isinstance(failure, ProviderError):
        return f"{kind} ({failure.code})"
    frames = traceback.extract_tb(failure.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_HERE)]
    return f"{kind} at {PurePath(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name}" if own else kind


_HERE = str(PurePath(__file__).parent)
