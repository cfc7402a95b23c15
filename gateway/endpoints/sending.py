"""What all senders of a connection's frames have in common, over whatever transport."""

from __future__ import annotations

import asyncio

from gateway.connection import Connection
from gateway.errors import NotFound, StoreUnavailable
from gateway.follow import Follow
from gateway.services import Services
from gateway.store.base import STORE_RETRY_SECONDS

BURST = 32
"""Frames after which a sender lets others run: uvicorn's `send` returns at once until 64 KiB wait."""


async def catch_up(connection: Connection, follow: Follow, services: Services) -> None:
    """Read on from the store, or start over from a snapshot where it no longer has what is missing."""
    thread_id = follow.log.thread_id
    try:
        if not await follow.load(services.logs):
            await services.resume.attach(connection, thread_id, None)
    except NotFound:
        connection.unfollow(thread_id)
    except StoreUnavailable:
        await asyncio.sleep(STORE_RETRY_SECONDS)
