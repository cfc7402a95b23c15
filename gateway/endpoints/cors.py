"""Which pages of other origins may read what the gateway answers (CORS, the Fetch standard)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.origins import origin_listed
from gateway.settings import Settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
REQUEST_HEADERS = ("Authorization", "Content-Type", "Last-Event-ID")
RESPONSE_HEADERS = ("Retry-After",)


class ListedOrigins(CORSMiddleware):
    """Starlette's, with the gateway's own rule for what an entry of `allowed_origins` names.

    No credentials: tokens are in a header that the page sets itself, and the gateway has no cookies.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Sequence[str]) -> None:
        super().__init__(app, allow_methods=METHODS, allow_headers=REQUEST_HEADERS, expose_headers=RESPONSE_HEADERS)
        self._allowed = allowed_origins

    def is_allowed_origin(self, origin: str) -> bool:
        return origin_listed(origin, self._allowed)


def cross_origin(settings: Settings) -> list[Middleware]:
    """The middleware for the settings: none where no page of another origin is allowed."""
    return [Middleware(ListedOrigins, settings.allowed_origins)] if settings.allowed_origins else []
