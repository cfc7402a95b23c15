"""Names that the gateway gives."""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """An id that nobody can guess: `u-` and 24 hexadecimal digits, say."""
    return f"{prefix}-{secrets.token_hex(12)}"
