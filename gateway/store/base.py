"""The store: the truth about threads, turns, messages and approvals.

Every method is one transaction. Cancelling a call leaves the transaction either committed or undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from gateway.errors import IdConflict, QueueFull, StoreUnavailable, WrongAgent
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
from notifications.outbox import OutboxStore
from notifications.records import Device, Platform

__all__ = [
    "STORE_RETRY_SECONDS",
    "IdConflict",
    "QueueFull",
    "Store",
    "StoreUnavailable",
    "WrongAgent",
    "once_it_answers",
]

Result = TypeVar("Result")

STORE_RETRY_SECONDS = 0.5
"""Between two tries of what must be stored or read, while the database does not answer."""


async def once_it_answers(ask: Callable[[], Awaitable[Result]]) -> Result:
    """What `ask` returns; it is called again for as long as it raises `StoreUnavailable`."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(STORE_RETRY_SECONDS)


class Store(Protocol):
    """All methods raise `StoreUnavailable` when the database does not answer."""

    async def accept(self, new: NewTurn) -> Accepted:
        """Commit a user's message and its turn; make the thread if the user has none of that id.

        The turn is `running` (with `start` = the thread's head) if no other turn of the thread is running or
        queued, else `queued`. The same `client_id` of the same user again gives the first turn as
        `duplicate` and changes nothing, however many calls come at once, from however many processes: a unique
        constraint decides, not a look beforehand. What a duplicate must have in common with the first: content,
        agent, attachments and thread; see `NewTurn.thread_chosen_by_client`.

        Raises:
            IdConflict, WrongAgent, QueueFull: nothing was stored. A duplicate is never refused as QueueFull; a used id
                sent to another agent is an IdConflict.
            NotFound: an attachment is gone; nothing was stored.
            ValueError: the `turn_id` was used before.
        """
        ...

    async def adopt(self, adoption: Adoption) -> tuple[Thread, bool]:
        """Make the thread with its session and its history, unless the user has one of that id, or one of that agent
        with that session. Returns it, and whether it was made just now."""
        ...

    async def unsteer(self, message_id: str) -> None:
        """Take back a message that `accept` handed to a running turn, and that the turn did not take."""
        ...

    async def checkpoint(self, batch: Sequence[Checkpoint]) -> set[int]:
        """Make events, sessions and approvals durable, and move the heads of their threads. One transaction.

        Writing a segment again does no harm; it may have grown. A resolved approval changes no more. What belongs
        to a deleted thread, or to another epoch than its thread has now, is passed over. Returns the keys of those
        threads whose epoch is another: somebody else has gone on with them.

        Raises:
            ValueError: a segment begins behind the place after its thread's head; nothing of the batch was stored.
        """
        ...

    async def append_at_rest(self, checkpoint: Checkpoint) -> bool:
        """The same for a thread in which nothing runs, behind its very head. False, and nothing is stored: a turn
        runs in it, it has another epoch or another head, or is deleted."""
        ...

    async def claim(self, turn_id: str, attempt: str, at: int) -> Claim | None:
        """Write `attempt` into the running turn unless another is there; who reads back his own has it, nobody else.

        None: there is no such turn, or it is not running.
        """
        ...

    async def unclaimed(self, started_before: int, limit: int) -> list[str]:
        """Running turns that nobody has claimed and that have been running since before that time, oldest first."""
        ...

    async def claimed(self, limit: int) -> list[str]:
        """Running turns that somebody has claimed, oldest first."""
        ...

    async def cancel_asked(self, limit: int) -> list[str]:
        """Running turns that somebody has claimed and that shall be cancelled, oldest first."""
        ...

    async def ask_cancel(self, thread_key: int, turn_id: str | None) -> list[Turn]:
        """Note that the thread's running turn (if it is that one) is to be stopped. Returns it, as it is now."""
        ...

    async def finish(self, outcome: Outcome) -> Turn | None:
        """End a running turn: its state, its answer's message, the rest of its log.

        Returns the turn that is now running in its place (`start` = the thread's new head), if one waited
        and `start_next`.

        Raises:
            LookupError: the turn is not running, or under another attempt, or its thread has another epoch than the
                checkpoint and `outcome.epoch` is not given; nothing was stored.
            ValueError: the checkpoint belongs to another thread, or leaves a gap; nothing was stored.
        """
        ...

    async def cancel_queued(self, thread_key: int, turn_id: str | None, at: int) -> list[Turn]:
        """Make queued turns of the thread (one, or all) `cancelled`, each with an empty answer; returns them.

        Their `start` is the thread's durable head: what is logged about them comes behind it. Until a checkpoint says
        that it is, `unshown` lists them.
        """
        ...

    async def unshown(self, thread_key: int) -> list[Turn]:
        """Turns that were cancelled before they started, and whose end no log shows yet, in order."""
        ...

    async def with_unshown(self) -> list[int]:
        """The keys of all threads that have such turns."""
        ...

    async def start_next(self, thread_key: int, at: int) -> Turn | None:
        """Make the first queued turn running if none is."""
        ...

    async def running(self) -> list[tuple[Thread, Turn]]:
        """Every turn that the store holds as running."""
        ...

    async def waiting(self) -> list[Thread]:
        """Every thread that has queued turns but no running one."""
        ...

    async def segments(self, thread_key: int, after: int, limit: int) -> list[Segment]:
        """At most `limit` segments that hold events behind offset `after`, in order."""
        ...

    async def trim(self, finished_before: int, limit: int, behind: int = 0) -> tuple[int, int | None]:
        """Forget segments all of whose events belong to turns that ended before that time; at most `limit` rows, of
        some of the threads whose keys are behind `behind`.

        Returns how many went, and behind which key to go on; None if all threads were looked at. A thread's newest
        segments stay contiguous: only a prefix goes.
        """
        ...

    async def thread(self, user_id: str, thread_id: str) -> Thread | None: ...

    async def thread_by_key(self, thread_key: int) -> Thread | None: ...

    async def threads(self, user_id: str, *, agent: str | None, before: int | None, limit: int) -> list[ThreadSummary]:
        """Newest first by `updated_at`; `before` is an `updated_at`, exclusive.

        Accepting, finishing and cancelling move `updated_at`: to their `at`, or one behind the user's newest other
        thread if that is later. Only threads that change at the very same time, on Postgres, may share one. Such are
        never parted, so pages lose none: the last of a page brings its equals with it, beyond `limit`.
        """
        ...

    async def summary(self, user_id: str, thread_id: str) -> ThreadSummary | None: ...

    async def rename(self, user_id: str, thread_id: str, title: str) -> Thread | None: ...

    async def delete(self, user_id: str, thread_id: str) -> bool:
        """Delete the thread with all that belongs to it. A thread made again under the same id has a higher epoch and
        another key. False: the user has no such thread.

        Raises:
            Busy: a turn of it has not ended.
        """
        ...

    async def messages(
        self, thread_key: int, *, before: int | None = None, after: int | None = None, limit: int
    ) -> list[Message]:
        """Messages of turns that are not queued, oldest first: the last `limit` before position `before` (or the
        very last), or the first `limit` behind position `after`."""
        ...

    async def message(self, thread_key: int, message_id: str) -> Message | None:
        """None also for the message of a queued turn."""
        ...

    async def turn(self, user_id: str | None, turn_id: str) -> tuple[Thread, Turn] | None:
        """The turn of this user, or of any for None."""
        ...

    async def open_turns(self, thread_key: int) -> list[Turn]:
        """The running turn and the queued ones, in order."""
        ...

    async def mark_read(
        self, user_id: str, thread_id: str, message_id: str, device_id: str | None, at: int
    ) -> bool | None:
        """Move the read mark up to the message; it never moves back. None: no such thread or message of this
        user, or its turn is queued. Else whether it moved; then what other devices than `device_id` show of it is
        withdrawn by a push."""
        ...

    async def approval(self, user_id: str, approval_id: str) -> Approval | None: ...

    async def put_device(self, device: Device, token_id: str | None = None) -> None:
        """Register the device, or what is new about it. Another device with the same token is forgotten. `token_id` is
        the device token that registers it, if it is one: what revokes that also ends the pushes."""
        ...

    async def devices(self, user_id: str) -> list[Device]: ...

    async def device(self, user_id: str, device_id: str) -> Device | None: ...

    async def remove_device(self, user_id: str, device_id: str) -> bool: ...

    async def enqueue_push(self, turn_id: str, wanted: PushPlan, at: int) -> None:
        """A push about a turn that still runs. Nothing happens if there is no such turn."""
        ...

    async def release_pushes(self, at: int) -> None:
        """Make due at once what is leased and was never heard of again: for the start of the only process that sends.

        One that comes back to life all the same sends twice, under the same ids.
        """
        ...

    async def push_outcomes(self, turn_id: str) -> list[PushOutcome]:
        """What became of the turn's pushes; those on their way are not among them."""
        ...

    @property
    def keeps_bytes(self) -> bool:
        """Whether the bytes of attachments are to be kept here, because several nodes use them."""
        ...

    async def put_bytes(self, upload: str, number: int, content: bytes, at: int) -> None:
        """Add the next piece, from 0 on, to an upload: some name that no other has."""
        ...

    async def forget_upload(self, upload: str) -> None:
        """Remove what was put under this name."""
        ...

    async def forget_uploads(self, before: int) -> None:
        """Remove uploads that began before that time and that no attachment was made of."""
        ...

    async def put_attachment(self, attachment: Attachment, room: int, upload: str | None = None) -> None:
        """Add it, with the bytes of `upload`: from here on they are kept as long as some attachment has this hash, and
        no longer.

        Raises:
            AttachmentsFull: the user's attachments would have more than `room` bytes together; nothing was changed.
        """
        ...

    async def attachment_bytes(self, sha256: str, number: int) -> bytes | None:
        """One piece, as it was put; None behind the last one."""
        ...

    async def attachments(self, user_id: str, ids: Sequence[str]) -> list[Attachment]:
        """Those of these that the user has, in no order."""
        ...

    async def forget_unused_attachments(self, before: int) -> int:
        """Delete those that no message names and that were handed in before that time. Returns how many."""
        ...

    async def thread_hashes(self, thread_key: int) -> set[str]:
        """The hashes of the attachments of a thread."""
        ...

    async def known_hashes(self, hashes: Sequence[str]) -> set[str]:
        """Those of the hashes that some attachment of anyone has; at most 500."""
        ...

    async def search(
        self, user_id: str, words: Sequence[str], *, agent: str | None, before: str | None, limit: int
    ) -> list[Found] | None:
        """The user's messages that hold all of the words, as parts of words and in whatever case, newest first.

        `before` is the id of a message of this user, exclusive; None is returned if there is no such message. Messages
        of queued turns are not found.
        """
        ...

    async def secret(self, name: str) -> bytes:
        """A key of 32 random bytes, made at the first call and the same ever after, on every node."""
        ...

    async def add_pair_code(self, code: PairCode) -> None:
        """Add a one-time code; forget those that have expired, and the user's oldest where there are too many."""
        ...

    async def pair(self, code_digest: bytes, new: NewDeviceToken) -> DeviceToken | None:
        """Use the code up and add the token for its user, both or none; None: there is no such code, or it was used or
        has expired. Of several calls at once with one code, one succeeds.

        Raises:
            LimitExceeded: the user has too many devices; nothing was changed.
        """
        ...

    async def all_device_tokens(self, unless: tuple[int, int] | None) -> DeviceTokens | None:
        """The tokens of all users; None if nothing has changed since they had the mark `unless`."""
        ...

    async def device_tokens(self, user_id: str) -> list[DeviceToken]:
        """Those of one user, oldest first."""
        ...

    async def remove_device_token(self, user_id: str, token_id: str) -> bool:
        """Forget the token, and the devices that were registered for push with it. False: the user has no such."""
        ...

    @property
    def outbox(self) -> OutboxStore:
        """The pushes that are to be sent."""
        ...

    async def outbox_sizes(self) -> dict[Platform, int]:
        """How many pushes have no outcome yet, for every platform."""
        ...

    async def ping(self) -> None:
        """Do a trivial read."""
        ...
