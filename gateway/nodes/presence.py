"""Which nodes there are, and what each says of itself: for health, and to be warned of wrong settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
import structlog
from redis.exceptions import ResponseError

from gateway.nodes.link import RETRY_SECONDS, RedisDown, RedisLink

KEY = "agentline:nodes"
SAY_SECONDS = 1.0
"""How often a node says something at the least."""
COALESCE_SECONDS = 0.05
"""Between two times at which it does, however much changes."""
STALE_SECONDS = 4.0
"""Who has said nothing for so long counts as gone."""
LEAVE_SECONDS = 1.0

_ALL = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] then
    redis.call('HSET', KEYS[1], ARGV[2], string.format('{"at":%.0f,', now) .. string.sub(ARGV[3], 2))
end
local all = redis.call('HGETALL', KEYS[1])
local live = {}
for i = 1, #all, 2 do
    local at = tonumber(string.match(all[i + 1], '^{"at":(%d+),'))
    if at and math.abs(now - at) <= tonumber(ARGV[1]) then
        live[#live + 1] = all[i]
        live[#live + 1] = all[i + 1]
    else
        redis.call('HDEL', KEYS[1], all[i])
    end
end
return live
"""
"""Write what a node says, if it is given one, and answer with what all say. Times are those of Redis' own clock: those
of the nodes' machines may differ."""

_log = structlog.get_logger(__name__)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself."""

    connections: Mapping[str, int]
    """Open sockets by agent."""
    running: int
    """Turns."""
    lease_seconds: float
    """As it is set there."""
    installation: str
    """As `installation_of` says."""


def connections(nodes: Mapping[str, Standing]) -> Counter[str]:
    """Open sockets by agent, of all nodes together."""
    total: Counter[str] = Counter()
    for standing in nodes.values():
        total.update(standing.connections)
    return total


async def standings(link: RedisLink, *own: str | bytes) -> dict[str, Standing]:
    """What every living node has said, by its id; first say `own`, an id and what that node says.

    Raises: `RedisDown`, `ResponseError`.
    """
    live = await link.run("EVAL", _ALL, 1, KEY, round(STALE_SECONDS * 1000), *own)
    nodes: dict[str, Standing] = {}
    for node_id, said in zip(live[::2], live[1::2], strict=True):
        with contextlib.suppress(msgspec.MsgspecError):  # of another version
            nodes[node_id.decode()] = msgspec.json.decode(said, type=Standing)
    return nodes


class Presence:
    """All nodes. Without a link, or while Redis does not answer, this one alone."""

    def __init__(self, own: Callable[[], Standing], link: RedisLink | None) -> None:
        self._own = own
        self._link = link
        self._news = asyncio.Event()
        self._differs = False
        """Whether a node with another lease was seen the last time."""
        self._shared = False
        """Whether a node with another database was."""
        self.node_id = "" if link is None else link.node_id

    def changed(self) -> None:
        """There is something new to say."""
        self._news.set()

    async def nodes(self) -> dict[str, Standing]:
        """What every node says, by its id; this one's is of this moment."""
        others: dict[str, Standing] = {}
        if self._link is not None and self._link.up:
            with contextlib.suppress(RedisDown, ResponseError):
                others = await standings(self._link)
        return others | {self.node_id: self._own()}

    async def run(self) -> None:
        """Say how it is with this node, until cancelled; then take it off the list."""
        if self._link is None:
            await asyncio.Event().wait()
            return
        try:
            while True:
                self._news.clear()
                said = await self._say(self._link)
                await asyncio.sleep(COALESCE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SAY_SECONDS if said else RETRY_SECONDS):
                        await self._news.wait()
        finally:
            if self._link.up:
                with contextlib.suppress(RedisDown, ResponseError, TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self._link.run("HDEL", KEY, self.node_id)

    async def _say(self, link: RedisLink) -> bool:
        """Whether it could be said."""
        own = self._own()
        try:
            nodes = await standings(link, self.node_id, msgspec.json.encode(own))
        except RedisDown:
            return False
        except ResponseError as error:
            _log.error("presence_refused", reason=str(error).partition(" ")[0])
        else:
            self._compare(own, nodes)
        return True

    def _compare(self, own: Standing, nodes: Mapping[str, Standing]) -> None:
        leases = {standing.lease_seconds for standing in nodes.values()} | {own.lease_seconds}
        if len(leases) > 1 and not self._differs:
            _log.warning("leases_differ", lease_seconds=own.lease_seconds, others=sorted(leases - {own.lease_seconds}))
        self._differs = len(leases) > 1
        strangers = [node_id for node_id, one in nodes.items() if one.installation != own.installation]
        if strangers and not self._shared:
            _log.error("redis_shared", others=len(strangers))  # they end each other's turns
        self._shared = bool(strangers)
