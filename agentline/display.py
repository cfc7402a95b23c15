"""How `agentline chat` shows a turn: plain text anywhere, Markdown where `rich` is installed and the output is a
terminal.

What a model wrote may hold escape sequences that rewrite the screen or the clipboard; none reaches the terminal.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from agentline.events import ApprovalRequest, Done, ToolCall, ToolResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

__all__ = ["Display", "PlainDisplay", "RichDisplay", "display", "printable"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 and C1 but tab and line feed, and what turns the direction of writing."""
_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)


def printable(text: str) -> str:
    """`text` without what a terminal would take for a command."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


class Display(Protocol):
    """Shows one conversation. Everything is shown as it comes."""

    def text(self, piece: str) -> None: ...

    def reset(self, content: str) -> None:
        """The answer so far is exactly this."""

    def reasoning(self, piece: str) -> None: ...

    def tool(self, event: ToolCall | ToolResult) -> None: ...

    def approval(self, request: ApprovalRequest) -> None:
        """The question, and how to answer it."""

    def done(self, done: Done) -> None: ...

    def note(self, text: str) -> None:
        """A word of the client's own."""

    def pause(self) -> None:
        """Something else writes to the terminal now."""


class PlainDisplay:
    """Appends to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._section = ""
        self._at_line_start = True

    def text(self, piece: str) -> None:
        self._begin("text")
        self._write(printable(piece))

    def reset(self, content: str) -> None:
        self.note("the answer starts over")
        if content:
            self.text(content)

    def reasoning(self, piece: str) -> None:
        if self._section != "reasoning":
            self._begin("reasoning")
            self._write("(thinking) ")
        self._write(printable(piece))

    def tool(self, event: ToolCall | ToolResult) -> None:
        self.note(_tool_line(event))

    def approval(self, request: ApprovalRequest) -> None:
        self.note(f"{request.title or 'May I go on?'} {_detail(request)}".rstrip())
        self.note(_choices(request))

    def done(self, done: Done) -> None:
        if (line := _end_line(done)) is not None:
            self.note(line)
        self._begin("")

    def note(self, text: str) -> None:
        self._begin("note")
        self._write(f"[{printable(text)}]\n")

    def pause(self) -> None:
        self._begin("")

    def _begin(self, section: str) -> None:
        if section != self._section and not self._at_line_start:
            self._write("\n")
        self._section = section

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()
            self._at_line_start = text.endswith("\n")


class RichDisplay:
    """Renders Markdown. Finished paragraphs are printed for good; only the last one is drawn again as it grows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._open = ""
        self._reasoning = False

    def text(self, piece: str) -> None:
        from rich.live import Live
        from rich.markdown import Markdown

        self._end_reasoning()
        self._open += printable(piece)
        whole, self._open = split_finished(self._open)
        if whole:
            self._stop()
            self._console.print(Markdown(whole))
            self._console.print()
        if self._open.strip():
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=12, transient=True)
                self._live.start()
            self._live.update(Markdown(self._open))

    def reset(self, content: str) -> None:
        self.note("the answer starts over")
        if content:
            self.text(content)

    def reasoning(self, piece: str) -> None:
        if not self._reasoning:
            self._settle()
        self._reasoning = True
        self._console.print(printable(piece), end="", style="dim italic", markup=False, highlight=False)

    def tool(self, event: ToolCall | ToolResult) -> None:
        self.note(_tool_line(event))

    def approval(self, request: ApprovalRequest) -> None:
        from rich.panel import Panel
        from rich.text import Text

        self._settle()
        question = Text(printable(_detail(request)))
        title = Text(printable(request.title) or "May I go on?")
        self._console.print(Panel(question, title=title, subtitle=Text(_choices(request)), border_style="yellow"))

    def done(self, done: Done) -> None:
        self._settle()
        if (line := _end_line(done)) is not None:
            self.note(line)

    def note(self, text: str) -> None:
        self._settle()
        self._console.print(printable(text), style="dim", markup=False, highlight=False)

    def pause(self) -> None:
        self._settle()

    def _settle(self) -> None:
        """Print for good what is still being drawn."""
        from rich.markdown import Markdown

        self._stop()
        self._end_reasoning()
        text, self._open = self._open, ""
        if text.strip():
            self._console.print(Markdown(text))

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _end_reasoning(self) -> None:
        if self._reasoning:
            self._reasoning = False
            self._console.print()


def split_finished(text: str) -> tuple[str, str]:
    """The paragraphs that no further text can change, and the rest: cut at the last blank line outside a code block."""
    cut = len(text)
    while (cut := text.rfind("\n\n", 0, cut)) >= 0:
        if len(_FENCE.findall(text, 0, cut)) % 2 == 0:
            return text[:cut], text[cut + 2 :]
    return "", text


def display(stream: TextIO | None = None) -> Display:
    """The best that there is for `stream`, standard output by default."""
    stream = stream if stream is not None else sys.stdout
    if stream.isatty():
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            return RichDisplay(Console(file=stream))
    return PlainDisplay(stream)


def _tool_line(event: ToolCall | ToolResult) -> str:
    if isinstance(event, ToolCall):
        return f"{event.name}: {event.title}" if event.title else event.name
    return f"→ {event.status}" if not event.summary else f"→ {event.status}: {event.summary[:200]}"


def _detail(request: ApprovalRequest) -> str:
    return "\n".join(f"{name}: {value}" for name, value in request.detail.items())


def _choices(request: ApprovalRequest) -> str:
    listed = ", ".join(f"{number} {option.label}" for number, option in enumerate(request.options, 1))
    free = "; words of your own behind it" if request.free_text else ""
    return printable(f"{listed} (a number{free})")


def _end_line(done: Done) -> str | None:
    if done.status == "completed":
        return f"stopped: {done.stop_reason}" if done.stop_reason in ("max_tokens", "refusal") else None
    return done.status if done.error is None else f"{done.status}: {done.error.message} ({done.error.code})"
