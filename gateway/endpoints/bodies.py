"""Request bodies: read whole where they are JSON, piece by piece where they are files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request

from gateway import protocol
from gateway.errors import BadFrame, SlowBody, TooLarge

BODY_BYTES = 1024 * 1024
PIECE_SECONDS = 30.0
"""How long the next piece of a body may take to come."""

Body = TypeVar("Body", bound=BaseModel)


async def body_of(request: Request, model: type[Body]) -> Body:
    """The request's JSON body.

    Raises:
        BadFrame: it does not fit; the error names the field.
        TooLarge: it has more than `BODY_BYTES` bytes.
        SlowBody: it stopped coming.
    """
    body = bytearray()
    async with aclosing(pieces(request)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > BODY_BYTES:
                raise TooLarge(f"a body has at most {BODY_BYTES} bytes")
    return protocol.validate(model, protocol.parse_object(bytes(body), "the body"))


async def pieces(request: Request) -> AsyncGenerator[bytes]:
    """The body as it comes in.

    Raises:
        BadFrame: the client went away; nobody reads that answer.
        SlowBody: it stopped coming.
    """
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                async with asyncio.timeout(PIECE_SECONDS):
                    piece = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise SlowBody(f"no further piece of the body came within {PIECE_SECONDS:g} seconds") from None
            except ClientDisconnect:
                raise BadFrame("the body ended early") from None
            yield piece
