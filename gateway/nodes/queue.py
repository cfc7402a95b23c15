"""The queue of turns in Redis, and the leases of those who run them.

enqueue ────▶ stream ────▶ take        one node of the consumer group gets the entry
                           beat        and says every few seconds that it lives (XCLAIM … JUSTID)
                           done        until the turn has ended
                           overdue     or falls silent for a lease: another node gets the entry (XAUTOCLAIM)

A turn has one entry, however often it is enqueued. What Redis forgets is enqueued again by the sweeper; that a turn is
begun once is not decided here but by its claim in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from gateway.nodes.link import BLOCK_MS, Reader, RedisLink

QUEUE = "{agentline}:queue"
QUEUED = "{agentline}:queued"
"""Turn → its entry."""
GROUP = "nodes"
FORGOTTEN_MS = 3600 * 1000
"""A node that has not been heard of for so long, and has nothing, is no longer listed."""

_ENQUEUE = """
local id = redis.call('HGET', KEYS[2], ARGV[1])
if not id or #redis.call('XRANGE', KEYS[1], id, id) == 0 then
    id = redis.call('XADD', KEYS[1], '*', 'turn', ARGV[1])
    redis.call('HSET', KEYS[2], ARGV[1], id)
end
"""
_ENQUEUE_ALL = f"""
for number, turn in ipairs(ARGV) do
    local ARGV = {{turn}}
    {_ENQUEUE}
end
return #ARGV
"""
_ENQUEUE_AND_TAKE = f"""
{_ENQUEUE}
local got = redis.call('XREADGROUP', 'GROUP', '{GROUP}', ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
return got and got[1][2] or {{}}
"""
_KEEP = f"""
{_ENQUEUE}
redis.call('XCLAIM', KEYS[1], '{GROUP}', ARGV[2], 0, id, 'FORCE', 'JUSTID')
return id
"""
_DONE = f"""
redis.call('XACK', KEYS[1], '{GROUP}', ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
if redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] then
    redis.call('HDEL', KEYS[2], ARGV[1])
end
return 1
"""
_GIVE_BACK = f"""
if redis.call('XACK', KEYS[1], '{GROUP}', ARGV[2]) == 1 then
    redis.call('XDEL', KEYS[1], ARGV[2])
    {_ENQUEUE}
end
return 1
"""


class Entry(NamedTuple):
    """A turn's place in the queue."""

    entry_id: str
    turn_id: str


class TurnQueue:
    """All methods raise `RedisDown`. What was asked for may have happened then; asking again does no harm."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._enqueue_all = link.client.register_script(_ENQUEUE_ALL)
        self._enqueue_and_take = link.client.register_script(_ENQUEUE_AND_TAKE)
        self._keep = link.client.register_script(_KEEP)
        self._done = link.client.register_script(_DONE)
        self._give_back = link.client.register_script(_GIVE_BACK)

    async def enqueue(self, turn_ids: Sequence[str]) -> None:
        """Queue these turns, unless they are queued or run already."""
        if turn_ids:
            await self._link.ask(self._enqueue_all(keys=[QUEUE, QUEUED], args=turn_ids))

    async def enqueue_and_take(self, turn_id: str) -> Entry | None:
        """Queue the turn, and take the oldest that nobody has taken: that very turn, unless others wait."""
        entries = await self._grouped(
            lambda: self._link.ask(self._enqueue_and_take(keys=[QUEUE, QUEUED], args=[turn_id, self._link.node_id]))
        )
        return _entry(entries[0][0], entries[0][1][1]) if entries else None

    async def take(self, reader: Reader, count: int) -> list[Entry]:
        """Turns that nobody has taken, at most `count`; none if there were none for a while."""
        command = ("XREADGROUP", "GROUP", GROUP, self._link.node_id, "COUNT", count, "BLOCK", BLOCK_MS)
        answer = await self._grouped(lambda: reader.read(*command, "STREAMS", QUEUE, ">"))
        return [
            _entry(entry_id, fields[b"turn"])
            for _, entries in answer or ()
            for entry_id, fields in entries
            if b"turn" in fields  # else it is of another version: nobody here knows what to do
        ]

    async def beat(self, entries: Iterable[Entry]) -> list[Entry]:
        """Keep these for another lease. Returns those that Redis does not know any more, or not as the turn's entry: it
        may have made another one since. `keep` them."""
        kept = {entry.entry_id: entry for entry in entries}
        if not kept:
            return []
        known = await self._grouped(
            lambda: self._link.ask(
                self._link.client.xclaim(QUEUE, GROUP, self._link.node_id, 0, list(kept), justid=True)
            )
        )
        alive = {entry_id.decode() for entry_id in known}
        listed = await self._link.run("HMGET", QUEUED, *(entry.turn_id for entry in kept.values()))
        return [
            entry
            for entry, entry_id in zip(kept.values(), listed, strict=True)
            if entry.entry_id not in alive or entry_id != entry.entry_id.encode()
        ]

    async def keep(self, turn_id: str) -> Entry:
        """Have the turn's entry, made anew if it is gone."""
        entry_id = await self._grouped(
            lambda: self._link.ask(self._keep(keys=[QUEUE, QUEUED], args=[turn_id, self._link.node_id]))
        )
        return _entry(entry_id, turn_id.encode())

    async def overdue(self, lease_ms: int, count: int = 100) -> list[Entry]:
        """Take over turns whose node has not been heard of for a lease: `count` at most, or one more look's worth.

        One look passes over ten times `count` entries of those who live; it takes several to see all.
        """
        command = ("XAUTOCLAIM", QUEUE, GROUP, self._link.node_id, lease_ms)
        found: list[Entry] = []
        cursor = b"0-0"
        while len(found) < count:
            cursor, entries, *_ = await self._grouped(lambda: self._link.run(*command, cursor, "COUNT", count))  # noqa: B023 - awaited at once
            found += [_entry(entry_id, fields[b"turn"]) for entry_id, fields in entries if fields and b"turn" in fields]
            if cursor == b"0-0":
                break
        return found

    async def done(self, entry: Entry) -> None:
        """The turn has ended."""
        await self._link.ask(self._done(keys=[QUEUE, QUEUED], args=[entry.turn_id, entry.entry_id]))

    async def give_back(self, entry: Entry) -> None:
        """Have another node run the turn, which this one has not claimed."""
        await self._link.ask(self._give_back(keys=[QUEUE, QUEUED], args=[entry.turn_id, entry.entry_id]))

    async def expose(self, entry: Entry) -> None:
        """Have another node take the turn over at its next look, as if this one had been silent for long."""
        await self._link.ask(
            self._link.client.xclaim(
                QUEUE, GROUP, self._link.node_id, 0, [entry.entry_id], idle=FORGOTTEN_MS, justid=True
            )
        )

    async def forget_nodes(self) -> None:
        """Remove nodes from the group that died long ago. Those that still have entries stay."""
        for node in await self._grouped(lambda: self._link.ask(self._link.client.xinfo_consumers(QUEUE, GROUP))):
            if not node["pending"] and node["idle"] > FORGOTTEN_MS:
                await self._link.run("XGROUP", "DELCONSUMER", QUEUE, GROUP, node["name"])

    async def _grouped(self, ask: Any) -> Any:
        """Ask; where the consumer group is gone, or was never made, make it and ask again."""
        try:
            return await ask()
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error).lower():
                raise
        try:
            await self._link.run("XGROUP", "CREATE", QUEUE, GROUP, "0", "MKSTREAM")
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        return await ask()


def _entry(entry_id: bytes, turn_id: bytes) -> Entry:
    return Entry(entry_id.decode(), turn_id.decode())
