"""The live log of a thread in Redis: one stream, whose entries hold events as they were appended.

An entry's id is `<epoch>-<offset>` of the last event in it. Redis takes no id that is not behind the newest one, so a
node that goes on with a turn which another node has taken over, under a higher epoch, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from redis.asyncio.client import Pipeline

from gateway.eventlog.local import decode, encode_events
from gateway.protocol import Event

KEPT_MS = 3600 * 1000
"""How long a stream outlives the last sign of its turn. What a reader misses then, the store has."""
STARTS = "agentline:starts"
"""The stream that names every log in which somebody begins to write, so that nobody must read those at rest."""
STARTS_KEPT = 10_000
"""About. A node that falls further behind looks at all logs that it follows."""


class Batch(NamedTuple):
    """Adjacent events; none if the entry only says that the store has all up to `last`."""

    epoch: int
    first: int
    last: int
    durable: int
    """Offset up to which the store had the events when this was written."""
    encoded: bytes

    @property
    def events(self) -> list[Event]:
        return decode(self.encoded)


def key_of(thread_key: int) -> str:
    """The stream's key."""
    return f"agentline:log:{{{thread_key}}}"


def place(epoch: int, offset: int) -> str:
    """A place in a log as the id of an entry."""
    return f"{epoch}-{offset}"


def fields_of(events: list[Event], first: int, durable: int, attempt: str) -> tuple[Any, ...]:
    """An entry's fields, as XADD wants them. `attempt` is there for people who look into the stream."""
    return ("first", first, "durable", durable, "attempt", attempt, "events", encode_events(events))


def start_of(thread_key: int) -> tuple[Any, ...]:
    """The command that tells all nodes that this log grows, to be given after its first entry."""
    return ("XADD", STARTS, "MAXLEN", "~", STARTS_KEPT, "*", "thread", thread_key)


def write_nudge(pipeline: Pipeline, thread_key: int, epoch: int, head: int) -> None:
    """Tell mirrors that the store has all up to `head`, which nobody has written to the stream."""
    key = key_of(thread_key)
    pipeline.execute_command("XADD", key, place(epoch, head), *fields_of([], head + 1, head, ""))
    pipeline.execute_command("PEXPIRE", key, KEPT_MS)
    pipeline.execute_command(*start_of(thread_key))


def batch_of(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Batch:
    """What an entry says. Raises `KeyError` or `ValueError` if it is none of ours."""
    epoch, _, last = entry_id.partition(b"-")
    return Batch(int(epoch), int(fields[b"first"]), int(last), int(fields[b"durable"]), fields[b"events"])
