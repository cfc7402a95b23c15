"""One client's state, without I/O: what it follows, where it stands in each, and what to send next.

A sender takes `next_frame()` and sends it, one at a time, and waits with `news()` when there is none. Nothing is queued
per connection but answers to the client's own frames, of which there are at most `REPLIES`, and one notice per
thread for its list screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.clock import timestamp
from gateway.errors import LimitExceeded
from gateway.eventlog.log import ThreadLog
from gateway.follow import Follow
from gateway.protocol import Detached, Frame, encode

if TYPE_CHECKING:
    from gateway.eventlog.local import LocalEventLog

REPLIES = 64
"""Answers that may wait to be sent. Behind them the client's next frame is not read."""
NOTICES = 256
"""Threads about which a notice may wait; the oldest notice gives way, list screens reload from the history."""
FOLLOWS = 64
"""Threads that one connection may follow."""


class Connection:
    """What the gateway knows of one open socket. Belongs to one task that receives and one that sends."""

    __slots__ = (
        "_follows",
        "_join_chars",
        "_logs",
        "_news",
        "_notices",
        "_on_joined",
        "_ready",
        "_replies",
        "_room",
        "agent",
        "connection_id",
        "device_id",
        "user_id",
    )

    def __init__(
        self,
        *,
        connection_id: str,
        user_id: str,
        agent: str,
        device_id: str | None,
        logs: LocalEventLog,
        frame_bytes: int,
        on_joined: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_joined` is called for each frame that shows several pieces of text."""
        self.connection_id = connection_id
        self.user_id = user_id
        self.agent = agent
        self.device_id = device_id
        self._logs = logs
        self._on_joined = on_joined
        self._join_chars = frame_bytes // 8
        """A character takes at most 6 bytes in JSON; the rest is room for the other fields."""
        # Short lists: an empty deque takes 600 bytes more, in every idle socket.
        self._replies: list[str] = []
        self._notices: dict[tuple[str, str], str] = {}
        self._follows: dict[str, Follow] = {}
        self._ready: list[Follow] = []
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def reply(self, frame: Frame) -> None:
        """Send `frame` before anything of a followed thread."""
        self._replies.append(encode(frame))
        self.wake()

    def notify(self, kind: str, thread_id: str, encoded: str) -> None:
        """Send a notice about a thread; a newer one of the same kind and thread replaces one not yet sent."""
        self._notices.pop((kind, thread_id), None)
        self._notices[kind, thread_id] = encoded
        if len(self._notices) > NOTICES:
            del self._notices[next(iter(self._notices))]
        self.wake()

    def follow(self, log: ThreadLog, offset: int, *, from_turn: str | None = None) -> None:
        """Follow a thread from behind `offset`, from now on also if it was followed from elsewhere.

        `from_turn` is a turn that waits: nothing is shown before its first event.

        The caller holds `log`, and leaves it to this connection to release it.
        """
        self._drop(log.thread_id)
        follow = Follow(
            log,
            offset,
            join_chars=self._join_chars,
            on_news=self._on_news,
            on_joined=self._on_joined,
            from_turn=from_turn,
        )
        self._follows[log.thread_id] = follow
        log.add_follower(follow)
        follow.wake()

    def expect_room(self, thread_id: str | None) -> None:
        """Raise `LimitExceeded` if this connection cannot follow the thread (None: a new one) as well."""
        if len(self._follows) >= FOLLOWS and thread_id not in self._follows:
            raise LimitExceeded(f"one connection follows at most {FOLLOWS} threads: detach from one first")

    def following(self, thread_id: str) -> Follow | None:
        """What this client follows of the thread, if it does."""
        return self._follows.get(thread_id)

    def unfollow(self, thread_id: str) -> None:
        """Stop following, and say so: no frame of the thread comes behind `detached`."""
        self._drop(thread_id)
        self.reply(Detached(timestamp=timestamp(), thread_id=thread_id))

    def close(self) -> None:
        """Let go of everything."""
        for thread_id in list(self._follows):
            self._drop(thread_id)
        self._replies.clear()
        self._notices.clear()

    def next_frame(self) -> str | None:
        """The frame to send now, encoded; None if there is none, or `behind` must be loaded first."""
        if self._replies:
            frame = self._replies.pop(0)
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
            return frame
        if self._notices:
            return self._notices.pop(next(iter(self._notices)))
        ready = self._ready
        while ready:
            follow = ready[0]
            taken = follow.take()
            if taken is not None:
                if len(ready) > 1:
                    ready.append(ready.pop(0))
                return taken
            if follow.behind:
                return None
            follow.ready = False
            ready.pop(0)
        return None

    @property
    def caught_up(self) -> bool:
        """Whether there is nothing to send, nor to load."""
        return not (self._replies or self._notices or self._ready)

    @property
    def behind(self) -> Follow | None:
        """The follower whose next events must be loaded before `next_frame` can go on."""
        return self._ready[0] if self._ready and self._ready[0].behind else None

    async def news(self) -> None:
        """Return when `next_frame` may have something."""
        if not self.caught_up:
            return
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            self._news = None

    async def room(self) -> None:
        """Return when another reply may be added. The sender's deadline ends the wait if the client does not read."""
        while len(self._replies) >= REPLIES:
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None

    def _on_news(self, follow: Follow) -> None:
        follow.ready = True
        self._ready.append(follow)
        self.wake()

    def wake(self) -> None:
        """Let `news` return, even if there is nothing."""
        news = self._news
        if news is not None and not news.done():
            news.set_result(None)

    def _drop(self, thread_id: str) -> None:
        follow = self._follows.pop(thread_id, None)
        if follow is not None:
            follow.log.remove_follower(follow)
            if follow.ready:
                self._ready.remove(follow)
            follow.ready = True  # nothing wakes it any more
            self._logs.release(follow.log)


class StreamConnection(Connection):
    """A connection that shows one thread: notices about the user's threads are for list screens, on sockets."""

    __slots__ = ()

    def notify(self, kind: str, thread_id: str, encoded: str) -> None:
        """Nothing: see above."""
