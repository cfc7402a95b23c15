"""`/api/pair`: a phone gets a token of its own for a one-time code, which a person with a token had made."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.clock import rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import expect_known_origin, identity_of
from gateway.endpoints.rest import body_of
from gateway.origins import parse_origin
from gateway.pairing import Picture, pair_url, reach_warning
from gateway.services import Services
from gateway.store.records import DeviceToken

CODE_CHARS = 128
NAME_CHARS = 100


class PairBody(protocol.ClientFrame):
    """What a phone hands in."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=CODE_CHARS)]
    device_name: Annotated[str, StringConstraints(max_length=NAME_CHARS)] | None = None


async def new_code(request: Request) -> Response:
    """`POST /api/pair/codes`: a code for a further device of the user, and the picture that holds it."""
    identity = identity_of(request)
    services: Services = request.app.state.services
    code, kept = await services.device_tokens.new_code(identity.user_id)
    base_url = _base_url(request)
    url = pair_url(base_url, code)
    picture = Picture.of(url)
    return answer(
        {
            "code": code,
            "url": url,
            "expires_at": rfc3339(kept.expires_at),
            "qr": {"size": picture.size, "path": picture.path},
            "warning": reach_warning(base_url, public_url=services.settings.public_url is not None),
        }
    )


async def pair(request: Request) -> Response:
    """`POST /api/pair`: open to whoever has a code."""
    expect_known_origin(request)
    services: Services = request.app.state.services
    body = await body_of(request, PairBody)
    token, paired = await services.device_tokens.pair(body.code, (body.device_name or "").strip())
    return answer({"token": token, "user_id": paired.user_id, **_shown(paired)})


async def paired_devices(request: Request) -> Response:
    """`GET /api/pair/devices`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    found = await services.store.device_tokens(identity.user_id)
    return answer({"devices": [_shown(one) | {"current": one.token_id == identity.token_id} for one in found]})


async def revoke(request: Request) -> Response:
    """`DELETE /api/pair/devices/{id}`"""
    identity = identity_of(request)
    services: Services = request.app.state.services
    await services.device_tokens.revoke(identity.user_id, request.path_params["id"])
    return Response(status_code=204)


def _base_url(request: Request) -> str:
    """`public_url`, else where the asking person reached the gateway."""
    services: Services = request.app.state.services
    if services.settings.public_url is not None:
        return services.settings.public_url
    host = request.headers.get("host", "")
    try:
        parse_origin(host)
    except ValueError:
        return services.settings.base_url()
    return f"{request.url.scheme}://{host}"


def _shown(token: DeviceToken) -> dict[str, Any]:
    return {"id": token.token_id, "device_name": token.name, "created_at": rfc3339(token.created_at)}
