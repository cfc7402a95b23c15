"""The token with which a phone that got a cut push gets the rest, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac

KEY_NAME = "fetch-tokens"
SIGNATURE_BYTES = 18
"""144 bits: nobody guesses them, and they take only 24 characters of a payload in which room is text."""


class FetchTokens:
    """Signed, not stored: `<expiry in hexadecimal seconds>.<signature>`, good for one turn until then."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, turn_id: str, expires_at: int) -> str:
        """A token for the turn that is good until `expires_at` (milliseconds)."""
        expiry = f"{expires_at // 1000:x}"
        return f"{expiry}.{self._signature(turn_id, expiry)}"

    def opens(self, token: str, turn_id: str, now: int) -> bool:
        """Whether the token is good for this turn at `now` (milliseconds)."""
        expiry, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(turn_id, expiry).encode()):
            return False
        return int(expiry, 16) * 1000 > now

    def _signature(self, turn_id: str, expiry: str) -> str:
        digest = hmac.digest(self._key, f"{turn_id}\n{expiry}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:SIGNATURE_BYTES]).decode()
