"""`/api/devices`: phones and browsers that are told when an answer is there."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.clock import now, rfc3339
from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.bodies import body_of
from gateway.endpoints.operations import operation
from gateway.errors import BadFrame, NotFound, SlowBody, TooLarge
from gateway.pushing import NOT_CONFIGURED
from gateway.services import Services
from notifications.records import Device, Outcome

DEVICE_ID = 128
TOKEN_CHARS = 4096


class DeviceBody(protocol.ClientFrame):
    """What a device hands in."""

    platform: Literal["ios", "android", "web", "ntfy"]
    token: Annotated[str, StringConstraints(min_length=1, max_length=TOKEN_CHARS)] | dict[str, Any]
    """The APNs or FCM token, the Web Push subscription, or the ntfy topic."""
    environment: Literal["production", "sandbox"] = "production"
    app_id: Annotated[str, Field(max_length=256)] | None = None
    notify: Literal["unseen", "always", "never"] | None = None


class DeviceShown(msgspec.Struct, frozen=True):
    """Without the token: whoever has it can push to the phone."""

    device_id: str
    platform: Literal["ios", "android", "web", "ntfy"]
    environment: Literal["production", "sandbox"]
    app_id: str | None
    notify: Literal["unseen", "always", "never"] | None
    registered_at: str
    deliverable: bool | UnsetType = UNSET
    """In the answer to a registration: whether this server can reach the platform."""


@operation("devices", body=DeviceBody, answers={200: DeviceShown}, errors=(TooLarge, SlowBody))
async def put_device(request: Request) -> Response:
    """`PUT /api/devices/{device_id}`: register it for push, or tell what is new about it."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    device_id = request.path_params["device_id"]
    if len(device_id) > DEVICE_ID:
        raise BadFrame(f"device_id: expected at most {DEVICE_ID} characters", field="device_id")
    body = await body_of(request, DeviceBody)
    device = Device(
        user_id=identity.user_id,
        device_id=device_id,
        platform=body.platform,
        token=_token(body),
        registered_at=now(),
        environment=body.environment,
        app_id=body.app_id,
        notify=body.notify,
    )
    refusal = services.pushing.refusal(device)
    if refusal not in ("", NOT_CONFIGURED):
        raise BadFrame(f"token: nothing can be sent there ({refusal})", field="token")
    await services.store.put_device(device, identity.token_id)
    return answer(msgspec.structs.replace(_shown(device), deliverable=not refusal))


class DeviceList(msgspec.Struct, frozen=True):
    devices: list[DeviceShown]
    platforms: dict[str, bool]
    """Which platforms this server can reach."""
    webpush_key: str | None
    """What a browser subscribes with (`applicationServerKey`)."""


class TestShown(msgspec.Struct, frozen=True):
    """How the test push went."""

    device_id: str
    outcome: Outcome
    reason: str


@operation("devices", answers={200: DeviceList})
async def devices(request: Request) -> Response:
    """`GET /api/devices`: the user's devices, and which platforms this server can reach."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    found = await services.store.devices(identity.user_id)
    return answer(DeviceList([_shown(device) for device in found], **services.pushing.described()))


@operation("devices", answers={200: DeviceShown}, errors=(NotFound,))
async def device(request: Request) -> Response:
    """`GET /api/devices/{device_id}`: one device."""
    return answer(_shown(await _own(request)))


@operation("devices", answers={204: None}, errors=(NotFound,))
async def delete_device(request: Request) -> Response:
    """`DELETE /api/devices/{device_id}`: nothing is pushed there any more."""
    found = await _own(request)
    services: Services = request.app.state.services
    await services.store.remove_device(found.user_id, found.device_id)
    return Response(status_code=204)


@operation("devices", answers={200: TestShown}, errors=(NotFound,))
async def try_device(request: Request) -> Response:
    """`POST /api/devices/{device_id}/test`: a test push, and how it went."""
    found = await _own(request)
    services: Services = request.app.state.services
    outcome, reason = await services.pushing.test(found)
    return answer(TestShown(found.device_id, outcome, reason))


async def _own(request: Request) -> Device:
    identity = await identity_of(request)
    services: Services = request.app.state.services
    found = await services.store.device(identity.user_id, request.path_params["device_id"])
    if found is None:
        raise NotFound("there is no such device", field="device_id")
    return found


def _token(body: DeviceBody) -> str:
    """The token as it is kept, one spelling for each phone: else it could stay another user's under a second one.

    An APNs token in lower case; of a Web Push subscription what a push needs, as JSON text; others as they are.
    """
    if body.platform == "web":
        subscription = protocol.parse_object(body.token, "token") if isinstance(body.token, str) else body.token
        keys = subscription.get("keys")
        if not isinstance(subscription.get("endpoint"), str) or not isinstance(keys, dict):
            raise BadFrame("token: expected the Web Push subscription, with endpoint and keys", field="token")
        needed = {"endpoint": subscription["endpoint"], "keys": {name: keys.get(name) for name in ("p256dh", "auth")}}
        text = protocol.encode_json(needed)
        if len(text) > TOKEN_CHARS:
            raise BadFrame(f"token: expected at most {TOKEN_CHARS} characters", field="token")
        return text
    if not isinstance(body.token, str):
        raise BadFrame("token: expected a string", field="token")
    return body.token.lower() if body.platform == "ios" else body.token


def _shown(device: Device) -> DeviceShown:
    return DeviceShown(
        device_id=device.device_id,
        platform=device.platform,
        environment=device.environment,
        app_id=device.app_id,
        notify=device.notify,
        registered_at=rfc3339(device.registered_at),
    )
