"""Attaching a client to a thread: exactly from its cursor on, or openly from a snapshot."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from gateway.clock import rfc3339, timestamp
from gateway.connection import Connection
from gateway.errors import NotFound
from gateway.eventlog.local import LocalEventLog
from gateway.eventlog.log import ThreadLog
from gateway.eventlog.position import Position
from gateway.follow import Follow
from gateway.metrics import Metrics
from gateway.protocol import Accepted, ApprovalRequest, Attached, OpenTurn, ShownMessage, Snapshot, shown_attachments
from gateway.store import records
from gateway.store.base import Store
from gateway.text import cut, cut_json, json_size

SNAPSHOT_MESSAGES = 50
APPROVAL_FIELDS = ("approval_id", "turn_id", "kind", "title", "detail", "options", "free_text", "expires_at", "call_id")


class Resume:
    """Finds the place from which a client goes on."""

    def __init__(self, store: Store, logs: LocalEventLog, metrics: Metrics, frame_bytes: int) -> None:
        self._store = store
        self._logs = logs
        self._metrics = metrics
        self._frame_bytes = frame_bytes

    async def attach(self, connection: Connection, thread_id: str, cursor: str | None) -> None:
        """Let the connection follow the thread: `attached`, a snapshot unless the cursor is good, then the rest.

        Raises:
            NotFound: the connection's user has no such thread.
            LimitExceeded: the connection follows too many.
        """
        connection.expect_room(thread_id)
        thread = await self._store.thread(connection.user_id, thread_id)
        if thread is None:
            raise NotFound("there is no such thread", field="thread_id")
        log = await self._hold(thread)
        try:
            position = Position.parse(cursor) if cursor is not None else None
            good = position is not None and await self._logs.vouches(log, position)
            turns = _listed(await self._store.open_turns(log.key)) if good else []
            # Behind the last wait: if the log has begun anew meanwhile, offsets mean other events.
            if good and position is not None and position.epoch == log.epoch:
                connection.reply(_attached(log, True, position, turns))
                self._metrics.resumed("exact")
            else:
                position = await self._snapshot(connection, log)
                if cursor is not None:
                    self._metrics.resumed("refused")
        except BaseException:
            self._logs.release(log)
            raise
        connection.follow(log, position.offset)

    async def follow_turn(
        self, connection: Connection, accepted: records.Accepted, *, cursor: str | None = None
    ) -> None:
        """Answer a message with `accepted`, and follow its thread from just before the turn's first event.

        To be called behind `announce`, which the engine calls before the turn starts.

        With the `cursor` that a client has of a turn it asks for again: from there, if that is later. A connection that
        follows the thread already stays where it is: nothing comes twice, and nothing is skipped.
        """
        if _followed(connection, accepted) is not None:
            return  # `announce` has answered it
        thread, turn = accepted.thread, accepted.turn
        log = await self._hold(thread)
        start = turn.start if turn.start is not None else log.head
        position, recovered = Position(log.epoch, start), True
        try:
            if cursor is None or not accepted.duplicate:
                recovered = start >= log.head or await self._logs.vouches(log, position)
            else:
                asked = Position.parse(cursor)
                recovered = asked is not None and await self._logs.vouches(log, asked)
                position = max(asked or position, position) if recovered else position
                self._metrics.resumed("exact" if recovered else "refused")
        except BaseException:
            self._logs.release(log)
            raise
        connection.reply(_accepted(accepted, position))
        if not recovered:
            try:
                position = await self._snapshot(connection, log)
            except BaseException:
                self._logs.release(log)
                raise
        waits = recovered and turn.start is None
        connection.follow(log, position.offset, from_turn=turn.turn_id if waits else None)

    def announce(self, connection: Connection, accepted: records.Accepted) -> None:
        """Answer a message of a thread that the connection follows already, before the turn's first event is logged."""
        follow = _followed(connection, accepted)
        if follow is not None:
            connection.reply(_accepted(accepted, Position(follow.epoch, follow.position)))

    async def _hold(self, thread: records.Thread) -> ThreadLog:
        """The thread's log, with all that the store has of it."""
        try:
            log = await self._logs.hold(thread.key)
        except LookupError:
            raise NotFound("there is no such thread", field="thread_id") from None
        try:
            await self._catch_up(log, thread)
        except BaseException:
            self._logs.release(log)
            raise
        return log

    async def _catch_up(self, log: ThreadLog, thread: records.Thread | None) -> None:
        """A log whose turn runs elsewhere may be a moment behind the store."""
        try:
            if thread is None:
                raise LookupError(log.key)
            if (log.epoch, log.head) < (thread.epoch, thread.head):
                await self._logs.catch_up(log, thread)
        except LookupError:
            raise NotFound("there is no such thread", field="thread_id") from None

    async def _snapshot(self, connection: Connection, log: ThreadLog) -> Position:
        """Show the thread as it is, and return the place that this is. Raises `NotFound` if it is being deleted."""
        while True:
            mark = log.turns_started
            messages = await self._store.messages(log.key, limit=SNAPSHOT_MESSAGES)
            turns = await self._store.open_turns(log.key)
            await self._catch_up(log, await self._store.thread_by_key(log.key))
            if mark == log.turns_started:
                break
        # From here to the end nothing waits: what is shown is one moment of the log.
        position, running = log.position, log.running
        shown_turn = running.view.shown(running.turn_id, self._frame_bytes // 3) if running is not None else None
        opened = list(running.view.approvals.values()) if running is not None else []
        approvals = [_approval(event, self._frame_bytes // (8 * len(opened))) for event in opened]
        unshown = {turn.turn_id for turn in turns if running is None or turn.turn_id != running.turn_id}
        listed = [
            shown_message(message)
            for message in messages
            if message.turn_id not in unshown
            and not (running is not None and message.turn_id == running.turn_id and message.role == "assistant")
        ]
        room = self._frame_bytes - json_size(shown_turn) - json_size(approvals) - 1024
        connection.reply(_attached(log, False, position, _listed(turns)))
        connection.reply(
            Snapshot(
                timestamp=timestamp(),
                thread_id=log.thread_id,
                cursor=position.cursor,
                messages=_newest_that_fit(listed, room),
                turn=shown_turn,
                approvals=approvals,
            )
        )
        return position


def _followed(connection: Connection, accepted: records.Accepted) -> Follow | None:
    """What the connection follows of the message's thread; not what is left of a deleted one of the same id."""
    follow = connection.following(accepted.thread.thread_id)
    return follow if follow is not None and follow.log.key == accepted.thread.key else None


def _accepted(accepted: records.Accepted, position: Position) -> Accepted:
    turn = accepted.turn
    return Accepted(
        timestamp=timestamp(),
        id=turn.client_id,
        thread_id=accepted.thread.thread_id,
        turn_id=turn.turn_id,
        message_id=turn.message_id,
        cursor=position.cursor,
        duplicate=accepted.duplicate,
        queued=accepted.queued,
    )


def shown_message(message: records.Message, limit: int | None = None) -> ShownMessage:
    """A message as snapshots and the history show it, its content cut to at most `limit` bytes."""
    shown = ShownMessage(
        message_id=message.message_id,
        turn_id=message.turn_id,
        role=message.role,
        content=message.content,
        created_at=rfc3339(message.created_at),
        attachments=shown_attachments(message.attachments) if message.role == "user" else UNSET,
        status=message.status if message.role == "assistant" else UNSET,
    )
    return shown if limit is None else _cut(shown, limit)


def _cut(message: ShownMessage, limit: int) -> ShownMessage:
    content = cut(message.content, limit)
    if len(content) == len(message.content):
        return message
    return msgspec.structs.replace(message, content=content, truncated=True, length=len(message.content))


def _newest_that_fit(messages: list[ShownMessage], room: int) -> list[ShownMessage]:
    """The newest messages that take at most `room` bytes together; a single one that is too long comes cut."""
    chosen: list[ShownMessage] = []
    for message in reversed(messages):
        size = json_size(message) + 1
        if size > room:
            if not chosen:
                around = json_size(message) - json_size(message.content) + len(',"truncated":true,"length":') + 20
                chosen.append(_cut(message, max(room - around, 2)))
            break
        room -= size
        chosen.append(message)
    return chosen[::-1]


def _attached(log: ThreadLog, recovered: bool, position: Position, turns: list[OpenTurn]) -> Attached:
    return Attached(
        timestamp=timestamp(), thread_id=log.thread_id, recovered=recovered, cursor=position.cursor, turns=turns
    )


def _listed(turns: list[records.Turn]) -> list[OpenTurn]:
    return [OpenTurn(turn.turn_id, turn.status, ahead) for ahead, turn in enumerate(turns)]


def _approval(event: ApprovalRequest, limit: int) -> dict[str, Any]:
    shown = {name: getattr(event, name) for name in APPROVAL_FIELDS}
    shown["title"] = cut(event.title, max(limit // 2, 2))
    shown["detail"] = cut_json(dict(event.detail), limit)
    return shown
