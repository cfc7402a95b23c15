"""What a file is, by its first bytes. Its name and what its sender calls it count for nothing."""

from __future__ import annotations

HEAD_BYTES = 12
"""As many bytes tell every type that is taken."""
TAKEN = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf")


def content_type_of(head: bytes) -> str | None:
    """The content type of a file that begins with `head`; None if it is of no type that is taken.

    The signatures are those of the WHATWG's MIME Sniffing Standard, sections 6.1 and 7.1.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    return None


def usual_name(content_type: str) -> str:
    """A name for a file that came without one."""
    kind, _, ending = content_type.partition("/")
    return f"{'image' if kind == 'image' else 'document'}.{ending.replace('jpeg', 'jpg')}"
