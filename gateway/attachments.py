"""Attachments: images and documents that users hand in once and name in messages.

The store holds a row for each, the state directory the bytes, under their hash: two attachments of the same content
share a file. Every file operation runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from gateway.clock import now
from gateway.errors import AttachmentsFull, BadFrame, NotFound, StoreUnavailable, TooLarge, UnsupportedType
from gateway.filetypes import HEAD_BYTES, TAKEN, content_type_of, usual_name
from gateway.ids import new_id
from gateway.store.base import Store
from gateway.store.records import Attachment
from gateway.text import normalise
from providers import Attachment as ProviderAttachment
from providers import ProviderError

CHUNK_BYTES = 256 * 1024
"""What is held in memory of a file on its way in or out."""
NAME_CHARS = 200
UNUSED_MS = 24 * 3600 * 1000
"""How long an attachment that no message names is kept."""
SWEEP_SECONDS = 3600.0
LEFT_ALONE_SECONDS = 3600.0
"""A file younger than this may belong to an upload that is under way, here or on another node."""
ASKED_AT_ONCE = 500

_log = structlog.get_logger(__name__)


class Attachments:
    """All attachments of this gateway."""

    def __init__(self, store: Store, directory: Path, attachment_bytes: int, user_bytes: int) -> None:
        self._store = store
        self._directory = directory
        self._user_bytes = user_bytes
        self._changing = asyncio.Lock()
        """Held while a file and its row come, or go, together."""
        self.attachment_bytes = attachment_bytes
        """The most that one may have."""

    async def take(self, user_id: str, name: str | None, content: AsyncIterator[bytes]) -> Attachment:
        """Keep what `content` yields. Cancelled, or refused, it leaves nothing behind.

        Raises:
            UnsupportedType: it is no image or document that is taken; known after the first bytes.
            TooLarge: it has more than `attachment_bytes` bytes.
            AttachmentsFull: the user has too many already.
        """
        partial = self._directory / f"partial-{secrets.token_hex(12)}"
        file = await asyncio.to_thread(_create, partial)
        try:
            try:
                size, digest, content_type = await self._write(file, content)
            finally:
                await asyncio.to_thread(file.close)
            attachment = Attachment(
                attachment_id=new_id("f"),
                user_id=user_id,
                name=_plain_name(name) or usual_name(content_type),
                content_type=content_type,
                size=size,
                sha256=digest,
                created_at=now(),
            )
            async with self._changing:
                # The file first: a row promises that its bytes are there.
                await asyncio.to_thread(_settle, partial, self._path(digest))
                try:
                    await self._store.put_attachment(attachment, self._user_bytes)
                except AttachmentsFull:
                    await self._let_go([digest])
                    raise
        except BaseException:
            # Not through the event loop: this may run while the task is being cancelled. One file's name goes, no more.
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        return attachment

    async def _write(self, file: BinaryIO, content: AsyncIterator[bytes]) -> tuple[int, str, str]:
        """Returns how many bytes came, their hash, and their content type."""
        hasher = hashlib.sha256()
        pending = bytearray()
        size, content_type = 0, None

        def write(piece: bytes) -> None:
            hasher.update(piece)
            file.write(piece)

        async for piece in content:
            size += len(piece)
            if size > self.attachment_bytes:
                raise TooLarge(f"an attachment has at most {self.attachment_bytes} bytes")
            pending += piece
            if content_type is None and len(pending) >= HEAD_BYTES:
                content_type = _taken(pending)
            if len(pending) >= CHUNK_BYTES:
                await asyncio.to_thread(write, bytes(pending))
                pending.clear()
        content_type = content_type or _taken(pending)
        await asyncio.to_thread(write, bytes(pending))
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
        """The attachments of a message as providers get them: read when a provider asks, not before."""
        return tuple(self._for_provider(user_id, one) for one in shown)

    def _for_provider(self, user_id: str, shown: Mapping[str, Any]) -> ProviderAttachment:
        attachment_id = str(shown["id"])

        async def read() -> bytes:
            try:
                attachment = await self.get(user_id, attachment_id)
                return await asyncio.to_thread(self._path(attachment.sha256).read_bytes)
            except (NotFound, OSError):
                raise ProviderError("invalid_request", "An attachment of this conversation cannot be read.") from None

        return ProviderAttachment(attachment_id, shown["name"], shown["content_type"], shown["size"], read)

    async def open(self, attachment: Attachment) -> AsyncGenerator[bytes]:
        """Open the file, then stream it. Raises `NotFound` if it is gone."""
        try:
            file = await asyncio.to_thread(self._path(attachment.sha256).open, "rb")
        except OSError:
            raise NotFound("there is no such attachment", field="attachment_id") from None
        return _pieces(file)

    async def let_go(self, hashes: set[str]) -> None:
        """Remove the files of those that no attachment has any more."""
        asked = sorted(hashes)
        for start in range(0, len(asked), ASKED_AT_ONCE):
            async with self._changing:
                await self._let_go(asked[start : start + ASKED_AT_ONCE])

    async def _let_go(self, hashes: list[str]) -> None:
        known = await self._store.known_hashes(hashes)
        await asyncio.to_thread(_remove, [self._path(one) for one in hashes if one not in known])

    async def keep_sweeping(self) -> None:
        """Forget what nobody used for a day, and files without an owner, now and every hour; until cancelled."""
        while True:
            try:
                await self.sweep()
            except StoreUnavailable:
                _log.warning("attachments_not_swept")
            except OSError as error:
                _log.error("attachments_not_swept", reason=error.strerror)
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Forget unused attachments and remove every file, older than `LEFT_ALONE_SECONDS`, that no attachment has."""
        forgotten = await self._store.forget_unused_attachments(now() - UNUSED_MS)
        before = time.time() - LEFT_ALONE_SECONDS
        await self.let_go(await asyncio.to_thread(_finished, self._directory, before))
        await asyncio.to_thread(_remove_partial, self._directory, before)
        if forgotten:
            _log.info("attachments_forgotten", count=forgotten)

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest


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


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _settle(partial: Path, path: Path) -> None:
    """Durable before it has its name; a file of the same content is replaced, which makes it young again."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def _pieces(file: BinaryIO) -> AsyncGenerator[bytes]:
    try:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece
    finally:
        file.close()


def _finished(directory: Path, before: float) -> set[str]:
    """The names of all whole files that were last written before that time."""
    return {path.name for path in _files(directory.glob("[0-9a-f][0-9a-f]/*"), before)}


def _remove_partial(directory: Path, before: float) -> None:
    """Uploads that a process left unfinished when it died."""
    _remove(list(_files(directory.glob("partial-*"), before)))


def _files(paths: Iterator[Path], before: float) -> Iterator[Path]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                yield path


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
