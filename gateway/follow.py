"""A follower: a position in a thread's log, from which one frame at a time is taken. No queue, no I/O of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.clock import timestamp
from gateway.eventlog.log import ThreadLog
from gateway.protocol import Done, Event, Message, Reasoning, Typing, encode

if TYPE_CHECKING:
    from gateway.eventlog.local import LocalEventLog


def joined(events: list[Event]) -> Event:
    """One event that shows adjacent text events of one item; its cursor and time are those of the last."""
    if len(events) == 1:
        return events[0]
    content = "".join([event.content for event in events if isinstance(event, Message | Reasoning)])
    return msgspec.structs.replace(events[-1], content=content)


class Follow:
    """What one client follows in one thread, and where it stands.

    A client that falls behind finds more text between its position and the head; adjacent text is then
    joined into one frame. Memory for it is one position, and at most one page of the store's events while it catches
    up with what this process no longer holds.
    """

    __slots__ = (
        "_join_chars",
        "_on_joined",
        "_on_news",
        "_page",
        "_typing",
        "_waits_for",
        "epoch",
        "log",
        "position",
        "ready",
    )

    def __init__(
        self,
        log: ThreadLog,
        position: int,
        *,
        join_chars: int,
        on_news: Callable[[Follow], None],
        on_joined: Callable[[], None] = lambda: None,
        from_turn: str | None = None,
    ) -> None:
        self.log = log
        self.epoch = log.epoch
        self.position = position
        """Offset of the last event that was taken."""
        self.ready = False
        """Whether the owner knows that there may be something to take. The owner's to set and clear."""
        self._join_chars = join_chars
        self._on_news = on_news
        self._on_joined = on_joined
        self._page: list[Event] = []
        """Events behind `position`, read from the store."""
        self._waits_for = from_turn
        """The turn with whose first event the client begins; what comes before it is passed over."""
        self._typing: str | None = None
        """The turn that the client believes to be at work."""

    def wake(self) -> None:
        """The log has grown."""
        if not self.ready:
            self._on_news(self)

    @property
    def behind(self) -> bool:
        """Whether the next event must be read from the store, or is not to be had any more: see `load`."""
        return (not self._page and self.position < self.log.base) or self.epoch != self.log.epoch

    @property
    def at_rest(self) -> bool:
        """Whether nothing runs in the thread, and the client was shown all of it."""
        log = self.log
        return log.running is None and self._waits_for is None and self.epoch == log.epoch and self.position >= log.head

    async def load(self, logs: LocalEventLog) -> bool:
        """Read a page of events from the store. False if it no longer has them: the client must attach anew.

        Raises:
            StoreUnavailable: nothing has changed.
        """
        page = await logs.read(self.log, self.position)
        if self.epoch != self.log.epoch:
            return False
        self._page = page
        return bool(page)

    def take(self) -> str | None:
        """The next frame, encoded, and move behind it. None if there is none, or it must be loaded first."""
        log = self.log
        if self.epoch != log.epoch:
            return None
        if self._page:
            events, index = self._page, 0
        elif self.position < log.base:
            return None
        else:
            events, index = log.events, self.position - log.base
        if self._waits_for is not None:
            index = self._skip(events, index)
        if index >= len(events):
            return self._typing_frame()
        first = events[index]
        if isinstance(first, Done) and self._typing == first.turn_id:
            self._typing = None
            return self._typing_as(first.turn_id, False)
        if self._typing is None and (frame := self._typing_frame()) is not None:
            return frame
        shown = events[index : index + self._adjacent(events, index)]
        self.position += len(shown)
        if events is self._page:
            del self._page[: len(shown)]
        elif len(shown) == 1:
            return log.encoded(self.position)
        if len(shown) > 1:
            self._on_joined()
        return encode(joined(shown))

    def _skip(self, events: list[Event], index: int) -> int:
        """Move on to the first event of the turn that this follower waits for. Returns its index, or the end."""
        begin = index
        while index < len(events) and events[index].turn_id != self._waits_for:
            index += 1
        self.position += index - begin
        if index < len(events):
            self._waits_for = None
        if events is self._page:
            del self._page[: index - begin]
            return 0
        return index

    def _adjacent(self, events: list[Event], index: int) -> int:
        """How many events from `index` on one frame can show."""
        first = events[index]
        if not isinstance(first, Message | Reasoning):
            return 1
        room = self._join_chars - len(first.content)
        end = index + 1
        while end < len(events):
            event = events[end]
            if (
                type(event) is not type(first)
                or event.item_id != first.item_id
                or event.turn_id != first.turn_id
                or (room := room - len(event.content)) < 0
            ):
                break
            end += 1
        return end - index

    def _typing_frame(self) -> str | None:
        """What has changed about the agent being at work, seen from this position."""
        running = self.log.running
        if (
            running is None
            or self._waits_for is not None
            or self._typing == running.turn_id
            or self.position <= running.start
        ):
            return None
        self._typing = running.turn_id
        return self._typing_as(running.turn_id, True)

    def _typing_as(self, turn_id: str, active: bool) -> str:
        return encode(Typing(timestamp=timestamp(), thread_id=self.log.thread_id, turn_id=turn_id, active=active))
