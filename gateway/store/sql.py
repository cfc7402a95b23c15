"""The `Store` in a SQL database: SQLite in one file, or Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from sqlalchemy import text

from gateway.store import (
    adopting,
    attachmentbytes,
    attachments,
    devices,
    log,
    outbox,
    pairing,
    searching,
    secrets,
    steering,
    threads,
    turns,
)
from gateway.store.database import Database, open_database
from gateway.store.records import (
    Accepted,
    Adoption,
    Approval,
    Attachment,
    Checkpoint,
    Claim,
    DeviceToken,
    DeviceTokens,
    Found,
    Message,
    NewDeviceToken,
    NewTurn,
    Outcome,
    PairCode,
    PushOutcome,
    PushPlan,
    Segment,
    Thread,
    ThreadSummary,
    Turn,
)
from gateway.store.sqloutbox import SqlOutbox, keep_told
from notifications.records import Device, Platform
from notifications.records import Outcome as PushOutcomeKind

OnPushOutcome: TypeAlias = Callable[[Platform | None, PushOutcomeKind], None]


class SqlStore:
    """See `gateway.store.base.Store` for what each method promises."""

    def __init__(self, database: Database, on_push_outcome: OnPushOutcome) -> None:
        self.database = database
        self._on_push_outcome = on_push_outcome
        self._read, self._write = database.read, database.write

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, on_push_outcome: OnPushOutcome = lambda platform, outcome: None
    ) -> AsyncIterator[SqlStore]:
        """Make and migrate what is missing, and use the database until the block ends.

        `on_push_outcome` hears of every push that has its outcome, once that is committed.

        Raises:
            ValueError: `url` is of no use; its text does not repeat it.
            StoreUnavailable: it cannot be opened; `DatabaseTooNew` if a newer program wrote it.
        """
        async with open_database(url) as database:
            yield cls(database, on_push_outcome)

    def _tell(self, told: outbox.Told) -> None:
        for platform, outcome in told:
            self._on_push_outcome(platform, outcome)

    async def accept(self, new: NewTurn) -> Accepted:
        for _ in range(3):
            try:
                return await self._write(lambda connection: turns.accept(connection, new))
            except steering.IdTaken:
                found = await self._read(lambda connection: turns.existing(connection, new))
                if found is not None:
                    return found
        # Either the turn is deleted each time between the two, or it is not the client's id that is taken.
        raise ValueError("the turn_id was used before")

    async def adopt(self, adoption: Adoption) -> tuple[Thread, bool]:
        return await self._write(lambda connection: adopting.adopt(connection, adoption))

    async def unsteer(self, message_id: str) -> None:
        await self._write(lambda connection: steering.unsteer(connection, message_id))

    async def checkpoint(self, batch: Sequence[Checkpoint]) -> set[int]:
        if not batch:
            return set()
        return await self._write(lambda connection: log.checkpoint(connection, batch))

    async def append_at_rest(self, checkpoint: Checkpoint) -> bool:
        return await self._write(lambda connection: log.append_at_rest(connection, checkpoint))

    async def claim(self, turn_id: str, attempt: str, at: int) -> Claim | None:
        return await self._write(lambda connection: turns.claim(connection, turn_id, attempt, at))

    async def unclaimed(self, started_before: int, limit: int) -> list[str]:
        return await self._read(lambda connection: turns.unclaimed(connection, started_before, limit))

    async def claimed(self, limit: int) -> list[str]:
        return await self._read(lambda connection: turns.claimed(connection, limit))

    async def cancel_asked(self, limit: int) -> list[str]:
        return await self._read(lambda connection: turns.cancel_asked(connection, limit))

    async def ask_cancel(self, thread_key: int, turn_id: str | None) -> list[Turn]:
        return await self._write(lambda connection: turns.ask_cancel(connection, thread_key, turn_id))

    async def finish(self, outcome: Outcome) -> Turn | None:
        following, told = await self._write(keep_told(lambda connection, told: turns.finish(connection, outcome, told)))
        self._tell(told)
        return following

    async def cancel_queued(self, thread_key: int, turn_id: str | None, at: int) -> list[Turn]:
        return await self._write(lambda connection: turns.cancel_queued(connection, thread_key, turn_id, at))

    async def unshown(self, thread_key: int) -> list[Turn]:
        return await self._read(lambda connection: turns.unshown(connection, thread_key))

    async def with_unshown(self) -> list[int]:
        return await self._read(turns.with_unshown)

    async def start_next(self, thread_key: int, at: int) -> Turn | None:
        return await self._write(lambda connection: turns.start_next(connection, thread_key, at))

    async def running(self) -> list[tuple[Thread, Turn]]:
        return await self._read(turns.running)

    async def waiting(self) -> list[Thread]:
        return await self._read(turns.waiting)

    async def segments(self, thread_key: int, after: int, limit: int) -> list[Segment]:
        return await self._read(lambda connection: log.read(connection, thread_key, after, limit))

    async def trim(self, finished_before: int, limit: int, behind: int = 0) -> tuple[int, int | None]:
        return await self._write(lambda connection: log.trim(connection, finished_before, limit, behind))

    async def thread(self, user_id: str, thread_id: str) -> Thread | None:
        return await self._read(lambda connection: threads.thread(connection, user_id, thread_id))

    async def thread_by_key(self, thread_key: int) -> Thread | None:
        return await self._read(lambda connection: threads.thread_by_key(connection, thread_key))

    async def threads(self, user_id: str, *, agent: str | None, before: int | None, limit: int) -> list[ThreadSummary]:
        return await self._read(
            lambda connection: threads.summaries(connection, user_id, agent=agent, before=before, limit=limit)
        )

    async def summary(self, user_id: str, thread_id: str) -> ThreadSummary | None:
        return await self._read(lambda connection: threads.summary(connection, user_id, thread_id))

    async def rename(self, user_id: str, thread_id: str, title: str) -> Thread | None:
        return await self._write(lambda connection: threads.rename(connection, user_id, thread_id, title))

    async def delete(self, user_id: str, thread_id: str) -> bool:
        return await self._write(lambda connection: threads.remove(connection, user_id, thread_id))

    async def messages(
        self, thread_key: int, *, before: int | None = None, after: int | None = None, limit: int
    ) -> list[Message]:
        return await self._read(
            lambda connection: threads.history(connection, thread_key, before=before, after=after, limit=limit)
        )

    async def message(self, thread_key: int, message_id: str) -> Message | None:
        return await self._read(lambda connection: threads.message(connection, thread_key, message_id))

    async def turn(self, user_id: str | None, turn_id: str) -> tuple[Thread, Turn] | None:
        return await self._read(lambda connection: turns.turn(connection, user_id, turn_id))

    async def open_turns(self, thread_key: int) -> list[Turn]:
        return await self._read(lambda connection: turns.open_turns(connection, thread_key))

    async def mark_read(
        self, user_id: str, thread_id: str, message_id: str, device_id: str | None, at: int
    ) -> bool | None:
        return await self._write(
            lambda connection: threads.mark_read(connection, user_id, thread_id, message_id, device_id, at)
        )

    async def approval(self, user_id: str, approval_id: str) -> Approval | None:
        return await self._read(lambda connection: log.approval(connection, user_id, approval_id))

    async def put_device(self, device: Device, token_id: str | None = None) -> None:
        await self._write(lambda connection: devices.put(connection, device, token_id))

    async def devices(self, user_id: str) -> list[Device]:
        return await self._read(lambda connection: devices.of_user(connection, user_id))

    async def device(self, user_id: str, device_id: str) -> Device | None:
        return await self._read(lambda connection: devices.get(connection, user_id, device_id))

    async def remove_device(self, user_id: str, device_id: str) -> bool:
        return await self._write(lambda connection: devices.remove(connection, user_id, device_id))

    async def enqueue_push(self, turn_id: str, wanted: PushPlan, at: int) -> None:
        _, told = await self._write(
            keep_told(lambda connection, told: turns.enqueue_push(connection, turn_id, wanted, at, told))
        )
        self._tell(told)

    async def release_pushes(self, at: int) -> None:
        await self._write(lambda connection: outbox.release(connection, at))

    async def push_outcomes(self, turn_id: str) -> list[PushOutcome]:
        return await self._read(lambda connection: outbox.outcomes(connection, turn_id))

    @property
    def keeps_bytes(self) -> bool:
        return self.database.shared

    async def put_bytes(self, upload: str, number: int, content: bytes, at: int) -> None:
        await self._write(lambda connection: attachmentbytes.add(connection, upload, number, content, at))

    async def forget_upload(self, upload: str) -> None:
        await self._write(lambda connection: attachmentbytes.forget(connection, upload))

    async def forget_uploads(self, before: int) -> None:
        await self._write(lambda connection: attachmentbytes.forget_uploads(connection, before))

    async def attachment_bytes(self, sha256: str, number: int) -> bytes | None:
        return await self._read(lambda connection: attachmentbytes.get(connection, sha256, number))

    async def put_attachment(self, attachment: Attachment, room: int, upload: str | None = None) -> None:
        await self._write(lambda connection: attachments.put(connection, attachment, room, upload))

    async def attachments(self, user_id: str, ids: Sequence[str]) -> list[Attachment]:
        return await self._read(lambda connection: attachments.get(connection, user_id, ids))

    async def forget_unused_attachments(self, before: int) -> int:
        return await self._write(lambda connection: attachments.forget_unused(connection, before))

    async def thread_hashes(self, thread_key: int) -> set[str]:
        return await self._read(lambda connection: attachments.hashes_of_thread(connection, thread_key))

    async def known_hashes(self, hashes: Sequence[str]) -> set[str]:
        return await self._read(lambda connection: attachments.known_hashes(connection, hashes))

    async def search(
        self, user_id: str, words: Sequence[str], *, agent: str | None, before: str | None, limit: int
    ) -> list[Found] | None:
        return await self.database.search(
            lambda connection: searching.search(connection, user_id, words, agent=agent, before=before, limit=limit)
        )

    async def secret(self, name: str) -> bytes:
        return await self._write(lambda connection: secrets.secret(connection, name))

    async def add_pair_code(self, code: PairCode) -> None:
        await self._write(lambda connection: pairing.add_code(connection, code))

    async def pair(self, code_digest: bytes, new: NewDeviceToken) -> DeviceToken | None:
        # Anybody may try codes: what is wrong costs no write.
        if not await self._read(lambda connection: pairing.is_good(connection, code_digest, new.created_at)):
            return None
        return await self._write(lambda connection: pairing.pair(connection, code_digest, new))

    async def all_device_tokens(self, unless: tuple[int, int] | None) -> DeviceTokens | None:
        return await self._read(lambda connection: pairing.tokens(connection, unless))

    async def device_tokens(self, user_id: str) -> list[DeviceToken]:
        return await self._read(lambda connection: pairing.of_user(connection, user_id))

    async def remove_device_token(self, user_id: str, token_id: str) -> bool:
        return await self._write(lambda connection: pairing.remove(connection, user_id, token_id))

    @property
    def outbox(self) -> SqlOutbox:
        return SqlOutbox(self.database, self._on_push_outcome)

    async def outbox_sizes(self) -> dict[Platform, int]:
        return await self._read(outbox.sizes)

    async def ping(self) -> None:
        await self._read(lambda connection: connection.execute(text("SELECT 1")).all())
