"""What list screens need to know: a thread has changed, a message was read elsewhere."""

from __future__ import annotations

from gateway.clock import now, timestamp
from gateway.connection import Connection
from gateway.errors import NotFound, StoreUnavailable
from gateway.hub import Hub
from gateway.protocol import Read, ThreadUpdated
from gateway.pushing import Pushing
from gateway.store.base import Store
from gateway.store.records import Thread, ThreadSummary

PREVIEW_CHARS = 200


class Notices:
    """Tells all sockets of a user. A notice is a hint: it is not logged, and the history has it all."""

    def __init__(self, store: Store, hub: Hub, pushing: Pushing) -> None:
        self._store = store
        self._pushing = pushing
        self._hub = hub

    async def changed(self, user_id: str, thread_id: str) -> None:
        """Show the thread as it is now. Does nothing when the user has no socket, or the store does not answer."""
        if not self._hub.of(user_id):
            return
        try:
            summary = await self._store.summary(user_id, thread_id)
        except StoreUnavailable:
            return
        if summary is not None:
            self._hub.tell(user_id, _shown(summary))

    def deleted(self, thread: Thread) -> None:
        """The thread is gone: nobody can follow it any more."""
        for connection in self._hub.of(thread.user_id):
            if connection.following(thread.thread_id) is not None:
                connection.unfollow(thread.thread_id)
        notice = ThreadUpdated(
            timestamp=timestamp(),
            thread_id=thread.thread_id,
            agent=thread.agent,
            title=thread.title,
            status="deleted",
            unread=0,
            preview="",
        )
        self._hub.tell(thread.user_id, notice)

    async def seen(self, user_id: str, thread_id: str, message_id: str, by: Connection | None) -> None:
        """Move the read mark, and tell the user's other devices if it moved. Raises `NotFound`."""
        device_id = by.device_id if by is not None else None
        moved = await self._store.mark_read(user_id, thread_id, message_id, device_id, now())
        if moved is None:
            raise NotFound("there is no such message in this thread", field="message_id")
        if moved:
            notice = Read(timestamp=timestamp(), thread_id=thread_id, message_id=message_id)
            self._hub.tell(user_id, notice, but=by)
            self._pushing.wake()
            await self.changed(user_id, thread_id)


def _shown(summary: ThreadSummary) -> ThreadUpdated:
    thread, last = summary.thread, summary.last_message
    return ThreadUpdated(
        timestamp=timestamp(),
        thread_id=thread.thread_id,
        agent=thread.agent,
        title=thread.title,
        status="running" if summary.running else "idle",
        unread=summary.unread,
        preview=last.content[:PREVIEW_CHARS] if last is not None else "",
    )
