"""Whose request it is."""

from __future__ import annotations

from starlette.requests import Request

from gateway.auth import HeaderToken, Identity, presented_token
from gateway.errors import Forbidden, Unauthorized
from gateway.origins import origin_allowed
from gateway.services import Services


async def identity_or_none(request: Request) -> Identity | None:
    """The user whose token the request shows; None if it shows none, or a bad one."""
    services: Services = request.app.state.services
    presented = presented_token(request.headers.get("authorization"))
    if not isinstance(presented, HeaderToken):
        return None
    return await services.authenticator.authenticate(presented.token)


async def identity_of(request: Request) -> Identity:
    """The user whose token the request shows.

    Raises:
        Unauthorized: no token, or a bad one.
        Forbidden: a browser sent it for a page of a foreign origin.
    """
    expect_known_origin(request)
    identity = await identity_or_none(request)
    if identity is None:
        raise Unauthorized("a valid token is needed, as Authorization: Bearer …")
    return identity


def expect_known_origin(request: Request) -> None:
    """Raise `Forbidden` if a browser sent the request for a page of a foreign origin."""
    services: Services = request.app.state.services
    if not origin_allowed(request.headers.get("origin"), request.headers.get("host"), services.settings):
        raise Forbidden("this page's origin is not among allowed_origins")
