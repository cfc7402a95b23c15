"""`GET /api/{agent}/ws`: one socket of a phone, from its handshake to its end.

receive → protocol.decode → commands.perform      one frame after another
connection.next_frame → send                      one frame after another, at its own pace
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway import commands, protocol
from gateway.auth import HeaderToken, Identity, NoToken, SubprotocolToken, presented_token
from gateway.clock import rfc3339, timestamp
from gateway.connection import FOLLOWS, Connection
from gateway.devicetokens import TokenRevoked, Watch
from gateway.endpoints.answers import refusal
from gateway.endpoints.sending import BURST, catch_up
from gateway.errors import (
    BadFrame,
    Draining,
    Forbidden,
    GatewayError,
    NoSuchAgent,
    Unauthorized,
)
from gateway.ids import new_id
from gateway.origins import origin_allowed
from gateway.protocol import CloseCode
from gateway.services import Services

DEVICE_ID_CHARS = 128
CLOSE_SECONDS = 1.0
"""For the close frame to a peer that reads nothing."""

_log = structlog.get_logger(__name__)


class _Close(Exception):
    """End the socket with this code."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class AgentSocket:
    """Serves one socket until either side ends it.

    An ASGI application of its own: what Starlette would wrap around it costs 6 KB in every idle socket, and time in
    every frame.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services: Services = scope["app"].state.services
        try:
            admitted = await _admit(WebSocket(scope, receive, send), services)
            if admitted is not None:
                connection, token_id = admitted
                if token_id is None:
                    await _serve(connection, receive, send, services, None)
                else:
                    async with services.device_tokens.watch(token_id) as watch:
                        await _serve(connection, receive, send, services, watch)
        except (WebSocketDisconnect, OSError):  # the peer is gone; uvicorn says so with an OSError in `send`
            pass
        except TokenRevoked:
            await _close(send, CloseCode.BAD_TOKEN, "the token was revoked")
        except _Close as close:
            await _close(send, close.code, close.reason)


async def _close(send: Send, code: CloseCode, reason: str) -> None:
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await send({"type": "websocket.close", "code": code, "reason": reason})


async def _admit(websocket: WebSocket, services: Services) -> tuple[Connection, str | None] | None:
    """The connection of a socket whose user is known, with `ready` to send, and the id of the device token that it
    showed, if it was one; None if the upgrade was refused."""
    scope, headers = websocket.scope, websocket.headers
    refused: GatewayError | None = None
    presented = presented_token(headers.get("authorization"), scope["subprotocols"])
    identity = None if isinstance(presented, NoToken) else await services.authenticator.authenticate(presented.token)
    if not origin_allowed(headers.get("origin"), headers.get("host"), services.settings):
        refused = Forbidden("this page's origin is not among allowed_origins")
    elif isinstance(presented, HeaderToken) and identity is None:
        refused = Unauthorized("the token is not valid")
    elif services.runner.draining:
        refused = Draining("this server is about to stop", retry_after=1.0)
    if refused is not None:
        await websocket.send_denial_response(refusal(refused))
        return None
    offered = protocol.SUBPROTOCOL in scope["subprotocols"]
    await websocket.accept(subprotocol=protocol.SUBPROTOCOL if offered else None)
    if isinstance(presented, SubprotocolToken) and identity is None:
        raise _Close(CloseCode.BAD_TOKEN, "the token is not valid")
    if identity is None:
        identity = await _authenticate(websocket, services)
    try:
        agent = services.agents.get(websocket.path_params["agent"])
    except NoSuchAgent as error:
        raise _Close(CloseCode.NO_SUCH_AGENT, error.message[:120]) from None
    connection = Connection(
        connection_id=new_id("c"),
        user_id=identity.user_id,
        agent=agent.name,
        device_id=websocket.query_params.get("device_id", "")[:DEVICE_ID_CHARS] or None,
        logs=services.logs,
        frame_bytes=services.settings.limits.server_frame_bytes,
        on_joined=services.metrics.frames_joined,
    )
    connection.reply(_ready(connection, services, identity))
    return connection, identity.token_id


async def _authenticate(websocket: WebSocket, services: Services) -> Identity:
    """Wait for the `auth` frame that a socket without a token begins with."""
    try:
        async with asyncio.timeout(services.settings.auth_seconds):
            while True:
                try:
                    value = protocol.parse_object(_text(await websocket.receive()), "a frame")
                    if value.get("type") != "auth":
                        raise Unauthorized('the first frame is {"type":"auth","token":"…"}')
                    frame = protocol.validate(protocol.Auth, value)
                except GatewayError as error:
                    await websocket.send_text(protocol.encode(commands.refusal(error)))
                    continue
                identity = await services.authenticator.authenticate(frame.token)
                if identity is None:
                    raise _Close(CloseCode.BAD_TOKEN, "the token is not valid")
                return identity
    except TimeoutError:
        raise _Close(CloseCode.BAD_TOKEN, "no token came in time") from None


def _text(message: Message) -> str:
    """The text of a frame that came.

    Raises:
        BadFrame: it was a binary one.
        WebSocketDisconnect: there are no more.
    """
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
    text: str | None = message.get("text")
    if text is None:
        raise BadFrame("a frame is a text message that holds one JSON object; this one is binary")
    return text


async def _serve(connection: Connection, receive: Receive, send: Send, services: Services, watch: Watch | None) -> None:
    services.hub.add(connection)
    opened = asyncio.get_running_loop().time()
    _log.info(
        "socket_opened", connection_id=connection.connection_id, user_id=connection.user_id, agent=connection.agent
    )
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_send_all(connection, send, services))
            try:
                await _receive_all(connection, receive, services, watch)
            finally:
                sending.cancel()
    except BaseExceptionGroup as group:
        raise _end_in(group) or group from None
    finally:
        services.hub.remove(connection)
        connection.close()
        seconds = round(asyncio.get_running_loop().time() - opened, 1)
        _log.info("socket_closed", connection_id=connection.connection_id, seconds=seconds)


def _end_in(group: BaseExceptionGroup[Any]) -> BaseException | None:
    """Why the socket ended, if it ended as sockets do: our own decision before the peer's."""
    ends = (_Close, WebSocketDisconnect, OSError)
    for kind in ends:
        ended: BaseException | None = group.subgroup(kind)
        while isinstance(ended, BaseExceptionGroup):
            ended = ended.exceptions[0]
        if ended is not None and group.split(ends)[1] is None:
            return ended
    return None


def _ready(connection: Connection, services: Services, identity: Identity) -> protocol.Ready:
    settings = services.settings
    return protocol.Ready(
        timestamp=timestamp(),
        protocol=protocol.VERSION,
        agent=connection.agent,
        user_id=connection.user_id,
        connection_id=connection.connection_id,
        heartbeat_seconds=settings.heartbeat_seconds,
        capabilities=services.agents.get(connection.agent).capabilities,
        limits={
            "client_frame_bytes": settings.limits.client_frame_bytes,
            "server_frame_bytes": settings.limits.server_frame_bytes,
            "attachment_bytes": settings.limits.attachment_bytes,
            "queue": settings.limits.queue,
            "follows": FOLLOWS,
        },
        expires_at=None if identity.expires_at is None else rfc3339(round(identity.expires_at * 1000)),
    )


async def _receive_all(connection: Connection, receive: Receive, services: Services, watch: Watch | None) -> None:
    while True:
        client_id: str | None = None
        thread_id: str | None = None
        try:
            frame = protocol.decode(_text(await receive()))
            client_id, thread_id = getattr(frame, "id", None), getattr(frame, "thread_id", None)
            await connection.room()
            if isinstance(frame, protocol.Auth):
                await _authenticate_again(frame, connection, services, watch)
            else:
                await commands.perform(frame, connection, services)
        except GatewayError as error:
            if isinstance(error, BadFrame) and client_id is None:
                client_id = error.id
            await connection.room()
            connection.reply(commands.refusal(error, client_id, thread_id))


async def _authenticate_again(
    frame: protocol.Auth, connection: Connection, services: Services, watch: Watch | None
) -> None:
    identity = await services.authenticator.authenticate(frame.token)
    if identity is None:
        raise _Close(CloseCode.BAD_TOKEN, "the token is not valid")
    if identity.user_id != connection.user_id:
        raise Unauthorized("this token is another user's: open a socket of its own for it", field="token")
    if watch is not None:
        watch.token_id = identity.token_id
    connection.reply(_ready(connection, services, identity))


async def _send_all(connection: Connection, send: Send, services: Services) -> None:
    time = asyncio.get_running_loop().time
    burst = 0
    try:
        async with services.send_deadlines.watch() as deadline:
            while True:
                frame = connection.next_frame()
                if frame is None:
                    burst = 0
                    if (follow := connection.behind) is None:
                        await connection.news()
                    else:
                        await catch_up(connection, follow, services)
                    continue
                deadline.since = time()
                await send({"type": "websocket.send", "text": frame})
                deadline.since = None
                burst += 1
                if burst % BURST == 0:
                    await asyncio.sleep(0)
    except TimeoutError:
        raise _Close(CloseCode.TOO_SLOW, "the client does not read") from None
