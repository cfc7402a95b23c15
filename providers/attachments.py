"""Which attachments of a conversation go into a request, and their content as base64."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass

from providers.base import Attachment, Message
from providers.errors import ProviderError

__all__ = ["AttachmentBounds", "Part", "loaded"]


STEP_BYTES = 3 * 128 * 1024
"""A multiple of three: base64 of the pieces, joined, is that of the whole."""


@dataclass(frozen=True, slots=True)
class AttachmentBounds:
    """What one request may carry, in bytes before base64."""

    image_bytes: int
    document_bytes: int
    total_bytes: int
    count: int

    def fits(self, attachment: Attachment) -> bool:
        """Whether it may be sent at all."""
        image = attachment.content_type.startswith("image/")
        return attachment.size <= (self.image_bytes if image else self.document_bytes)


@dataclass(frozen=True, slots=True)
class Part:
    """An attachment on its way to a backend."""

    attachment: Attachment
    data: str | None
    """Its content as base64; None where it is left out."""

    @property
    def is_image(self) -> bool:
        return self.attachment.content_type.startswith("image/")

    @property
    def url(self) -> str:
        """As a `data:` URL."""
        return f"data:{self.attachment.content_type};base64,{self.data}"

    @property
    def absence(self) -> str:
        """What the model is told instead of one that is left out."""
        return f"[The attachment {self.attachment.name!r} stood here. It is not sent again.]"


async def loaded(messages: Sequence[Message], bounds: AttachmentBounds) -> list[list[Part]]:
    """The attachments of each message. Where not all fit into `bounds`, the newest ones do.

    Raises:
        ProviderError: `too_large` if those of the last message do not fit: a person wants an answer about them.
    """
    total = count = 0
    chosen: set[tuple[int, int]] = set()
    for index in reversed(range(len(messages))):
        for place, attachment in enumerate(messages[index].attachments):
            if count < bounds.count and total + attachment.size <= bounds.total_bytes and bounds.fits(attachment):
                chosen.add((index, place))
                total += attachment.size
                count += 1
            elif index == len(messages) - 1:
                raise ProviderError("too_large", "The attachments are larger, or more, than this agent takes at once.")
    return [
        [
            Part(attachment, await _base64(attachment) if (index, place) in chosen else None)
            for place, attachment in enumerate(message.attachments)
        ]
        for index, message in enumerate(messages)
    ]


async def _base64(attachment: Attachment) -> str:
    content = await attachment.read()
    return await asyncio.to_thread(_encoded, content)


def _encoded(content: bytes) -> str:
    """In steps: each holds the interpreter's lock to its end, and so the event loop up."""
    steps = range(0, len(content), STEP_BYTES)
    return "".join(base64.b64encode(content[start : start + STEP_BYTES]).decode("ascii") for start in steps)
