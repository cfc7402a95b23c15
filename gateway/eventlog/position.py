"""Where somebody stands in the log of a thread."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

_CURSOR = re.compile(r"([0-9]{1,18}):([0-9]{1,18})", re.ASCII)


def new_epoch() -> int:
    """Microseconds since 1970: what begins anew gets an epoch that nothing else has."""
    return time.time_ns() // 1000


class Position(NamedTuple):
    """The place behind the event `offset` of the log's `epoch`.

    Why two numbers: a server shows events 126, 127 and 128 to a phone and dies when only 126 is durable. After its
    start the log goes on behind 126, so the next event is 127 again, with other text. A phone that says
    "I have seen up to 128" would miss two events and never know. Therefore the log gets a new epoch whenever an
    offset that may have been shown could be given a second time, and a position of another epoch is refused.
    Epochs begin with the time of day, so that a thread made anew under an old id, or in a new database, has one
    that was never handed out.
    """

    epoch: int
    offset: int

    @property
    def cursor(self) -> str:
        """The position as clients keep it."""
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, cursor: str) -> Position | None:
        """The position that `cursor` names; None if it is no cursor of ours."""
        match = _CURSOR.fullmatch(cursor)
        return cls(int(match[1]), int(match[2])) if match else None
