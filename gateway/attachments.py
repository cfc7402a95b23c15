"""Attachments: images and documents that users hand in once and name in messages."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from gateway.attachmentbytes import CHUNK_BYTES, Bytes, FileBytes, StoredBytes, Upload
from gateway.clock import now
from gateway.errors import BadFrame, NotFound, StoreUnavailable, TooLarge, UnsupportedType
from gateway.filetypes import HEAD_BYTES, TAKEN, content_type_of, usual_name
from gateway.ids import new_id
from gateway.store.base import Store, once_it_answers
from gateway.store.records import Attachment
from gateway.text import normalise
from providers import Attachment as ProviderAttachment
from providers import ProviderError

NAME_CHARS = 200
UNUSED_MS = 24 * 3600 * 1000
"""How long an attachment that no message names is kept."""
SWEEP_SECONDS = 3600.0

_log = structlog.get_logger(__name__)


class Attachments:
    """All attachments of this gateway."""

    def __init__(self, store: Store, directory: Path, attachment_bytes: int, user_bytes: int) -> None:
        """`directory` is for the bytes, unless the store keeps them itself."""
        self._store = store
        self._bytes: Bytes = StoredBytes(store) if store.keeps_bytes else FileBytes(store, directory)
        self._user_bytes = user_bytes
        self.attachment_bytes = attachment_bytes
        """The most that one may have."""

    async def take(self, user_id: str, name: str | None, content: AsyncIterator[bytes]) -> Attachment:
        """Keep what `content` yields. Cancelled, or refused, it leaves nothing behind.

        Raises:
            UnsupportedType: it is no image or document that is taken; known after the first bytes.
            TooLarge: it has more than `attachment_bytes` bytes.
            AttachmentsFull: the user has too many already.
        """
        upload = await self._bytes.begin()
        try:
            size, digest, content_type = await self._write(upload, content)
            attachment = Attachment(
                attachment_id=new_id("f"),
                user_id=user_id,
                name=_plain_name(name) or usual_name(content_type),
                content_type=content_type,
                size=size,
                sha256=digest,
                created_at=now(),
            )
            await upload.keep(attachment, self._user_bytes)
        except BaseException:
            await upload.discard()
            raise
        return attachment

    async def _write(self, upload: Upload, content: AsyncIterator[bytes]) -> tuple[int, str, str]:
        """Returns how many bytes came, their hash, and their content type."""
        hasher = hashlib.sha256()
        pending = bytearray()
        size, content_type = 0, None

        async def write(piece: bytes) -> None:
            await asyncio.to_thread(hasher.update, piece)
            await upload.write(piece)

        async for piece in content:
            size += len(piece)
            if size > self.attachment_bytes:
                raise TooLarge(f"an attachment has at most {self.attachment_bytes} bytes")
            pending += piece
            if content_type is None and len(pending) >= HEAD_BYTES:
                content_type = _taken(pending)
            if len(pending) >= CHUNK_BYTES:
                await write(bytes(pending))
                pending.clear()
        content_type = content_type or _taken(pending)
        await write(bytes(pending))
        return size, hasher.hexdigest(), content_type

    async def get(self, user_id: str, attachment_id: str) -> Attachment:
        """Raises `NotFound`: the user has no such attachment."""
        found = await self._store.attachments(user_id, [attachment_id])
        if not found:
            raise NotFound("there is no such attachment", field="attachment_id")
        return found[0]

    async def shown(self, user_id: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """These attachments of the user as a message names them, in this order.

        Raises:
            BadFrame: one is named twice.
            NotFound: the user has not all of them.
        """
        if not ids:
            return []
        if len(set(ids)) < len(ids):
            raise BadFrame("attachments: one is named twice", field="attachments")
        found = {one.attachment_id: one for one in await self._store.attachments(user_id, ids)}
        if len(found) < len(ids):
            raise NotFound("there is no such attachment", field="attachments")
        return [
            {"id": one.attachment_id, "name": one.name, "content_type": one.content_type, "size": one.size}
            for one in (found[attachment_id] for attachment_id in ids)
        ]

    def for_provider(self, user_id: str, shown: Sequence[Mapping[str, Any]]) -> tuple[ProviderAttachment, ...]:
        """The attachments of a message as providers get them: read when a provider asks, not before; while the store is
        away, it waits for as long as its deadlines allow."""
        return tuple(self._for_provider(user_id, one) for one in shown)

    def _for_provider(self, user_id: str, shown: Mapping[str, Any]) -> ProviderAttachment:
        attachment_id = str(shown["id"])

        async def found() -> bytes:
            attachment = await self.get(user_id, attachment_id)
            pieces = await self._bytes.open(attachment.sha256, attachment.size)
            return b"".join([piece async for piece in pieces])

        async def read() -> bytes:
            try:
                return await once_it_answers(found)
            except (NotFound, LookupError, OSError):
                raise ProviderError("invalid_request", "An attachment of this conversation cannot be read.") from None

        return ProviderAttachment(attachment_id, shown["name"], shown["content_type"], shown["size"], read)

    async def open(self, attachment: Attachment) -> AsyncGenerator[bytes]:
        """Find the bytes, then stream them. Raises `NotFound` if they are gone."""
        try:
            return await self._bytes.open(attachment.sha256, attachment.size)
        except LookupError:
            raise NotFound("there is no such attachment", field="attachment_id") from None

    async def let_go(self, hashes: set[str]) -> None:
        """Remove the bytes of those that no attachment has any more."""
        await self._bytes.let_go(hashes)

    async def keep_sweeping(self) -> None:
        """Forget what nobody used for a day, and files without an owner, now and every hour; until cancelled."""
        while True:
            try:
                await self.sweep()
            except StoreUnavailable:
                _log.warning("attachments_not_swept")
            except OSError as error:
                _log.error("attachments_not_swept", reason=error.strerror)
            except Exception:
                _log.exception("attachments_not_swept")
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Forget unused attachments, and the bytes that no attachment has."""
        forgotten = await self._store.forget_unused_attachments(now() - UNUSED_MS)
        await self._bytes.sweep()
        if forgotten:
            _log.info("attachments_forgotten", count=forgotten)


def _plain_name(name: str | None) -> str:
    """A file's name without its directory and without what no name should have."""
    last = normalise(name or "").replace("\\", "/").rpartition("/")[2]
    printable = "".join(character if character.isprintable() else " " for character in last)
    return " ".join(printable.split())[:NAME_CHARS].strip(". ")


def _taken(head: bytes | bytearray) -> str:
    content_type = content_type_of(bytes(head[:HEAD_BYTES]))
    if content_type is None:
        raise UnsupportedType(f"an attachment is one of {', '.join(TAKEN)}, by its content")
    return content_type
