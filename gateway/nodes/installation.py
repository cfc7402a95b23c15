"""Whose Redis this is: keys of threads are numbers, so two installations on one Redis would end each other's turns."""

from __future__ import annotations

import contextlib
import hashlib

from redis.exceptions import ResponseError

from gateway.nodes.link import RedisDown, RedisLink
from gateway.settings import SettingsError
from gateway.store.base import Store

KEY = "agentline:installation"
SECRET = "installation"  # noqa: S105 - the name of one
"""In the store: the same for all nodes on one database, and for no other."""


async def expect_own(link: RedisLink, store: Store) -> None:
    """See that nodes on another database have not marked this Redis as theirs, and mark it. Does nothing while Redis
    does not answer.

    Raises:
        SettingsError: they have.
    """
    own = hashlib.sha256(await store.secret(SECRET)).hexdigest().encode()
    with contextlib.suppress(RedisDown, ResponseError):
        await link.run("SET", KEY, own, "NX")
        if await link.run("GET", KEY) not in (own, None):
            raise SettingsError(
                "redis_url: nodes with another database use this Redis. Give each installation a Redis or a database "
                "number of its own (redis://…/1), or empty this one (FLUSHDB) if the other is no more"
            )
