"""What list screens need to know: a thread has changed, a message was read elsewhere."""

from __future__ import annotations

from typing import Any

import structlog

from gateway.clock import now, timestamp
from gateway.connection import Connection
from gateway.errors import NotFound, StoreUnavailable
from gateway.hub import Hub
from gateway.nodes.control import Control, Solo
from gateway.protocol import Read, ThreadUpdated
from gateway.pushing import Pushing
from gateway.sharedwork import SharedWork
from gateway.store.base import Store
from gateway.store.records import Thread, ThreadSummary

PREVIEW_CHARS = 200

_log = structlog.get_logger(__name__)


class Notices:
    """Tells all sockets of a user, on every node. A notice is a hint: it is not logged, and the history has it all."""

    def __init__(self, store: Store, hub: Hub, pushing: Pushing, control: Control | None = None) -> None:
        self._store = store
        self._pushing = pushing
        self._hub = hub
        self._loading: dict[tuple[str, str], SharedWork] = {}
        """By thread: its summary is never loaded twice at once, so that what is shown last is the newest."""
        self._control = Solo() if control is None else control
        self._control.on("changed", self._changed_elsewhere)
        self._control.on("deleted", self._deleted_elsewhere)
        self._control.on("read", self._read_elsewhere)

    async def changed(self, user_id: str, thread_id: str) -> None:
        """Show the thread as it is now. Does nothing where the user has no socket, or the store does not answer."""
        await self._control.tell("changed", user_id=user_id, thread_id=thread_id)
        await self._show(user_id, thread_id)

    async def deleted(self, thread: Thread) -> None:
        """The thread is gone: nobody can follow it any more."""
        await self._control.tell(
            "deleted",
            user_id=thread.user_id,
            thread_id=thread.thread_id,
            thread_key=thread.key,
            agent=thread.agent,
            title=thread.title,
        )
        self._forget(thread.user_id, thread.thread_id, thread.key, thread.agent, thread.title)

    async def seen(self, user_id: str, thread_id: str, message_id: str, by: Connection | None) -> None:
        """Move the read mark, and tell the user's other devices if it moved. Raises `NotFound`."""
        device_id = by.device_id if by is not None else None
        moved = await self._store.mark_read(user_id, thread_id, message_id, device_id, now())
        if moved is None:
            raise NotFound("there is no such message in this thread", field="message_id")
        if moved:
            await self._control.tell("read", user_id=user_id, thread_id=thread_id, message_id=message_id)
            self._hub.tell(user_id, _read(thread_id, message_id), but=by)
            self._pushing.wake()
            await self.changed(user_id, thread_id)

    async def _show(self, user_id: str, thread_id: str) -> None:
        if not self._hub.of(user_id):
            return
        key = (user_id, thread_id)
        loading = self._loading.setdefault(key, SharedWork())
        try:
            await loading.done(lambda: self._load(user_id, thread_id))
        except StoreUnavailable:
            pass
        except Exception:  # it is only a hint: whoever gave it has more to do
            _log.exception("notice_not_shown")
        finally:
            if not loading.users:
                self._loading.pop(key, None)

    async def _load(self, user_id: str, thread_id: str) -> None:
        summary = await self._store.summary(user_id, thread_id)
        if summary is not None:
            self._hub.tell(user_id, _shown(summary))

    def _forget(self, user_id: str, thread_id: str, thread_key: int, agent: str, title: str) -> None:
        for connection in self._hub.of(user_id):
            follow = connection.following(thread_id)
            if follow is not None and follow.log.key == thread_key:  # not one that was made anew under this id
                connection.unfollow(thread_id)
        notice = ThreadUpdated(
            timestamp=timestamp(),
            thread_id=thread_id,
            agent=agent,
            title=title,
            status="deleted",
            unread=0,
            preview="",
        )
        self._hub.tell(user_id, notice)

    async def _changed_elsewhere(self, payload: dict[str, Any]) -> None:
        await self._show(**payload)

    async def _deleted_elsewhere(self, payload: dict[str, Any]) -> None:
        self._forget(**payload)

    async def _read_elsewhere(self, payload: dict[str, Any]) -> None:
        self._hub.tell(payload["user_id"], _read(payload["thread_id"], payload["message_id"]))


def _read(thread_id: str, message_id: str) -> Read:
    return Read(timestamp=timestamp(), thread_id=thread_id, message_id=message_id)


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
