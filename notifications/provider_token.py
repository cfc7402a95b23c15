"""The signed token by which APNs knows a team: one for all connections and both environments."""

from __future__ import annotations

import time
from collections.abc import Callable

import jwt

__all__ = ["MIN_AGE_SECONDS", "RENEW_SECONDS", "ProviderToken"]

RENEW_SECONDS = 50 * 60
"""Apple refuses a token older than an hour."""
MIN_AGE_SECONDS = 20 * 60
"""Apple answers TooManyProviderTokenUpdates to a team that makes new ones more often."""


class ProviderToken:
    """`clock` is wall time in seconds: Apple compares `iat` with its own clock."""

    def __init__(self, key: str, key_id: str, team_id: str, clock: Callable[[], float] = time.time) -> None:
        """Raises ValueError (without the key in its text) if `key` is no P-256 private key in PEM."""
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        self._token = ""
        self._made = 0.0
        self._forced = float("-inf")
        try:
            self._make()
        except (ValueError, TypeError, jwt.PyJWTError):
            raise ValueError("the APNs key is not a P-256 private key in PEM") from None

    def current(self) -> str:
        """The token for a request; made anew at 50 minutes, or when the clock was set back."""
        age = self._clock() - self._made
        if age >= RENEW_SECONDS or age < 0:
            self._make()
        return self._token

    def expired(self, used: str) -> bool:
        """APNs refused `used` as expired: make a new one, once. Whether a repeat is worth it.

        All requests under way hear the refusal; the first makes the new token, the others find it made. A
        second refusal within 20 minutes means that a clock is wrong, and another token would not help.
        """
        if used != self._token:
            return True
        if self._clock() - self._forced < MIN_AGE_SECONDS:
            return False
        self._forced = self._clock()
        self._make()
        return True

    def _make(self) -> None:
        self._made = self._clock()
        self._token = jwt.encode(
            {"iss": self._team_id, "iat": int(self._made)},
            self._key,
            algorithm="ES256",
            headers={"kid": self._key_id},
        )
