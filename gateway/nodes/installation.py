"""Whose Redis this is: keys of threads are numbers, so two installations on one Redis would end each other's turns."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time

from redis.exceptions import ResponseError

from gateway.nodes.link import RedisDown, RedisLink
from gateway.nodes.presence import SAY_SECONDS, STALE_SECONDS, standings
from gateway.settings import SettingsError
from gateway.store.base import Store

SECRET = "installation"  # noqa: S105 - the name of one
"""In the store: the same for all nodes on one database, and for no other."""
LOOK_SECONDS = 0.2


async def installation_of(store: Store) -> str:
    """What nodes on one database have in common, and with no others."""
    return hashlib.sha256(await store.secret(SECRET)).hexdigest()


async def expect_own(link: RedisLink, installation: str) -> None:
    """See that no living node of another installation uses this Redis: one that has died has left it seconds later.
    Does nothing while Redis does not answer.

    Raises:
        SettingsError: there is one.
    """
    gone = time.monotonic() + STALE_SECONDS + SAY_SECONDS
    with contextlib.suppress(RedisDown, ResponseError):
        while any(standing.installation != installation for standing in (await standings(link)).values()):
            if time.monotonic() > gone:
                raise SettingsError(
                    "redis_url: nodes with another database use this Redis. Give each installation a Redis or a "
                    "database number of its own (redis://…/1)"
                )
            await asyncio.sleep(LOOK_SECONDS)
