"""Where the bytes of attachments are: in files under the state directory, or in the store, where every node finds them.

Kept under their hash: two attachments of the same content share them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from gateway.clock import now
from gateway.errors import AttachmentsFull, StoreUnavailable
from gateway.store.base import Store
from gateway.store.records import Attachment

CHUNK_BYTES = 256 * 1024
"""What is held in memory of an attachment on its way in or out."""
LEFT_ALONE_SECONDS = 3600.0
"""Bytes younger than this may belong to an upload that is under way, here or on another node."""
ASKED_AT_ONCE = 500


class Upload(Protocol):
    """Bytes on their way in. Ended by `keep` or by `discard`."""

    async def write(self, piece: bytes) -> None: ...

    async def keep(self, attachment: Attachment, user_bytes: int) -> None:
        """Make them, and the attachment whose they are, durable. Raises `AttachmentsFull`: neither was kept."""
        ...

    async def discard(self) -> None:
        """Leave nothing behind. Also called while a cancellation is on its way: it waits for little."""
        ...


class Bytes(Protocol):
    async def begin(self) -> Upload: ...

    async def open(self, digest: str, size: int) -> AsyncGenerator[bytes]:
        """Raises `LookupError`: they are gone. So does what it returns if they go meanwhile."""
        ...

    async def let_go(self, digests: set[str]) -> None:
        """Remove those of these that no attachment has any more."""
        ...

    async def sweep(self) -> None:
        """Remove what no attachment has and what has been left unfinished, older than `LEFT_ALONE_SECONDS`."""
        ...


class StoredBytes:
    """In the store: they come and go in one transaction with the attachments whose they are."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def begin(self) -> Upload:
        return _Rows(self._store)

    async def open(self, digest: str, size: int) -> AsyncGenerator[bytes]:
        return self._pieces(digest, size, await self._piece(digest, 0))

    async def _pieces(self, digest: str, left: int, piece: bytes) -> AsyncGenerator[bytes]:
        for number in itertools.count(1):
            yield piece
            left -= len(piece)
            if left <= 0:
                return
            piece = await self._piece(digest, number)

    async def _piece(self, digest: str, number: int) -> bytes:
        piece = await self._store.attachment_bytes(digest, number)
        if piece is None:
            raise LookupError(digest)
        return piece

    async def let_go(self, digests: set[str]) -> None:
        """They went with the last attachment."""

    async def sweep(self) -> None:
        await self._store.forget_uploads(now() - int(LEFT_ALONE_SECONDS * 1000))


class _Rows:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = f"upload-{secrets.token_hex(12)}"
        self._written = 0

    async def write(self, piece: bytes) -> None:
        await self._store.put_bytes(self._name, self._written, piece, now())
        self._written += 1

    async def keep(self, attachment: Attachment, user_bytes: int) -> None:
        await self._store.put_attachment(attachment, user_bytes, self._name)

    async def discard(self) -> None:
        if self._written:
            with contextlib.suppress(StoreUnavailable):  # then the sweep finds them
                await self._store.forget_upload(self._name)


class FileBytes:
    """In files of one directory, for the only process that uses it. Every file operation runs in a thread."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._changing = asyncio.Lock()
        """Held while a file and its row come, or go, together."""

    async def begin(self) -> Upload:
        partial = self._directory / f"partial-{secrets.token_hex(12)}"
        return _File(self, partial, await asyncio.to_thread(_create, partial))

    async def keep(self, partial: Path, attachment: Attachment, user_bytes: int) -> None:
        async with self._changing:
            # The file first: a row promises that its bytes are there.
            await asyncio.to_thread(_settle, partial, self._path(attachment.sha256))
            try:
                await self._store.put_attachment(attachment, user_bytes)
            except AttachmentsFull:
                await self._let_go([attachment.sha256])
                raise

    async def open(self, digest: str, size: int) -> AsyncGenerator[bytes]:
        try:
            file = await asyncio.to_thread(self._path(digest).open, "rb")
        except OSError:
            raise LookupError(digest) from None
        return _pieces(file)

    async def let_go(self, digests: set[str]) -> None:
        asked = sorted(digests)
        for start in range(0, len(asked), ASKED_AT_ONCE):
            async with self._changing:
                await self._let_go(asked[start : start + ASKED_AT_ONCE])

    async def _let_go(self, digests: list[str]) -> None:
        known = await self._store.known_hashes(digests)
        await asyncio.to_thread(_remove, [self._path(one) for one in digests if one not in known])

    async def sweep(self) -> None:
        before = time.time() - LEFT_ALONE_SECONDS
        await self.let_go(await asyncio.to_thread(_finished, self._directory, before))
        await asyncio.to_thread(_remove_partial, self._directory, before)

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest


class _File:
    def __init__(self, files: FileBytes, partial: Path, file: BinaryIO) -> None:
        self._files = files
        self._partial = partial
        self._file = file

    async def write(self, piece: bytes) -> None:
        await asyncio.to_thread(self._file.write, piece)

    async def keep(self, attachment: Attachment, user_bytes: int) -> None:
        await asyncio.to_thread(self._file.close)
        await self._files.keep(self._partial, attachment, user_bytes)

    async def discard(self) -> None:
        # Not through the event loop: this may run while the task is being cancelled. One file's name goes, no more.
        self._file.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()


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
