"""`/api/pair`: a phone gets a token of its own for a one-time code, which a person with a token had made."""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.clock import rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import expect_known_origin, identity_of
from gateway.endpoints.bodies import body_of
from gateway.endpoints.operations import operation
from gateway.errors import Forbidden, LimitExceeded, NotFound, SlowBody, StoreUnavailable, TooLarge
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


class QrShown(msgspec.Struct, frozen=True):
    size: int
    """Side of the view box."""
    path: str
    """The picture as an SVG path, quiet zone included."""


class CodeShown(msgspec.Struct, frozen=True):
    code: str
    url: str
    expires_at: str
    qr: QrShown
    warning: str | None
    """Why a phone may not reach the URL."""


class PairedShown(msgspec.Struct, frozen=True):
    """The new device, with its token, which is shown this once."""

    token: str
    user_id: str
    id: str
    device_name: str
    created_at: str


class PairedDevice(msgspec.Struct, frozen=True):
    id: str
    device_name: str
    created_at: str
    current: bool
    """Whether it is the one that asks."""


class PairedList(msgspec.Struct, frozen=True):
    devices: list[PairedDevice]


@operation("pairing", answers={200: CodeShown}, errors=(LimitExceeded,))
async def new_code(request: Request) -> Response:
    """`POST /api/pair/codes`: a code for a further device of the user, and the picture that holds it."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    code, kept = await services.device_tokens.new_code(identity.user_id)
    base_url = _base_url(request)
    url = pair_url(base_url, code)
    picture = Picture.of(url)
    return answer(
        CodeShown(
            code=code,
            url=url,
            expires_at=rfc3339(kept.expires_at),
            qr=QrShown(picture.size, picture.path),
            warning=reach_warning(base_url, public_url=services.settings.public_url is not None),
        )
    )


@operation(
    "pairing",
    body=PairBody,
    answers={200: PairedShown},
    errors=(Forbidden, NotFound, LimitExceeded, StoreUnavailable, TooLarge, SlowBody),
    token=False,
)
async def pair(request: Request) -> Response:
    """`POST /api/pair`: open to whoever has a code."""
    expect_known_origin(request)
    services: Services = request.app.state.services
    body = await body_of(request, PairBody)
    token, paired = await services.device_tokens.pair(body.code, (body.device_name or "").strip())
    return answer(PairedShown(token, paired.user_id, paired.token_id, paired.name, rfc3339(paired.created_at)))


@operation("pairing", answers={200: PairedList})
async def paired_devices(request: Request) -> Response:
    """`GET /api/pair/devices`: the user's paired devices."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    found = await services.store.device_tokens(identity.user_id)
    return answer(PairedList([_shown(one, identity.token_id) for one in found]))


@operation("pairing", answers={204: None}, errors=(NotFound,))
async def revoke(request: Request) -> Response:
    """`DELETE /api/pair/devices/{id}`: its token is good for nothing from now on."""
    identity = await identity_of(request)
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


def _shown(token: DeviceToken, current: str | None) -> PairedDevice:
    return PairedDevice(token.token_id, token.name, rfc3339(token.created_at), current=token.token_id == current)
