"""Answers of the upstream that a test lets go on, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.fakes.messages_script import BlockDelta, BlockStart, BlockStop, Gate, Script, Step, end, start


@dataclass(slots=True)
class Paced:
    """A script with a gate before everything that the gateway will log. `text` is the whole answer."""

    steps: list[Step] = field(default_factory=start)
    gates: list[Gate] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def gate(self) -> None:
        self.gates.append(Gate())
        self.steps.append(self.gates[-1])

    def say(self, pieces: Sequence[str]) -> Paced:
        """A text block."""
        self.steps.append(BlockStart({"type": "text", "text": ""}))
        for piece in pieces:
            self.gate()
            self.steps.append(BlockDelta({"type": "text_delta", "text": piece}))
        self.steps.append(BlockStop())
        self.texts.append("".join(pieces))
        return self

    def think(self, pieces: Sequence[str]) -> Paced:
        """A thinking block."""
        self.steps.append(BlockStart({"type": "thinking", "thinking": "", "signature": ""}))
        for piece in pieces:
            self.gate()
            self.steps.append(BlockDelta({"type": "thinking_delta", "thinking": piece}))
        self.steps += [BlockDelta({"type": "signature_delta", "signature": "sig"}), BlockStop()]
        return self

    def block(self, *blocks: Sequence[Step]) -> Paced:
        """Blocks that are logged as one event each."""
        for block in blocks:
            self.gate()
            self.steps += block
        return self

    def finish(self) -> Paced:
        self.gate()
        self.steps += end()
        return self

    @property
    def script(self) -> Script:
        return self.steps

    @property
    def text(self) -> str:
        return "\n\n".join(self.texts)

    def open_all(self) -> None:
        for gate in self.gates:
            gate.opened.set()
