"""Apple's push service as far as a provider sees it: real TLS, ALPN h2, and strict about every rule.

A breach that Apple would answer is answered as Apple does; a breach of HTTP/2 itself (more streams than
allowed, more bytes than the window) is also kept in `violations`, and tests require that to stay empty.
A `script` decides per request what goes wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import socket
import struct
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from tests.fakes.push_tls import Authority

LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer other than 200, or none of Apple's making. `reason` None leaves the body empty."""

    status: int
    reason: str | None = None
    timestamp: int | None = None
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """RST_STREAM instead of an answer; `processed` says whether the phone got the push all the same."""

    code: ErrorCodes
    processed: bool = False


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer on this stream, ever."""

    processed: bool = False


@dataclass(frozen=True, slots=True)
class Goaway:
    """`graceful`: streams up to this one are answered, later ones not looked at. `abrupt`: the connection
    closes with all earlier streams unanswered but processed; those after this one were not looked at."""

    manner: Literal["graceful", "abrupt"]


@dataclass(frozen=True, slots=True)
class Fin:
    """The connection is closed in good order, with answers owed."""


@dataclass(frozen=True, slots=True)
class TcpReset:
    """The connection is reset."""


@dataclass(frozen=True, slots=True)
class BlackHole:
    """From here on nothing gets through on this connection, in either direction, and nothing says so."""


@dataclass(frozen=True, slots=True)
class Streams:
    """A new limit on concurrent streams; the request itself is served."""

    most: int


Fault: TypeAlias = Answer | Reset | Silent | Goaway | Fin | TcpReset | BlackHole | Streams


@dataclass(frozen=True, slots=True)
class Request:
    number: int
    """Over all connections, from 1."""
    connection: int
    stream: int
    headers: dict[str, str]
    body: bytes
    token: str
    """The device's."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One push as the phone gets it."""

    apns_id: str
    token: str
    headers: dict[str, str]
    payload: Any
    at: float


@dataclass
class ApnsFake:
    key: ec.EllipticCurvePublicKey
    key_id: str = "KEY1234567"
    team_id: str = "TEAM123456"
    topics: frozenset[str] = frozenset({"org.example.app"})
    latency: float = 0.0
    streams: int = 1000
    one_until_authenticated: bool = False
    window: int = 65_535
    """Initial window of each stream, in bytes."""
    lazy_windows: bool = False
    """Give flow control credit back only with the answer."""
    early: Answer | None = None
    """Given to every request as soon as its headers are there."""
    script: Callable[[Request], Fault | None] = lambda request: None
    clock: Callable[[], float] = time.time
    shown: list[Shown] = field(default_factory=list)
    requests: int = 0
    connections: int = 0
    pings: int = 0
    violations: list[str] = field(default_factory=list)
    provider_tokens: dict[str, int] = field(default_factory=dict)
    """Every one seen, and when it was issued."""
    port: int = 0
    open: set[_Peer] = field(default_factory=set)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with every request."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def times(self) -> Counter[str]:
        """How often each apns-id reached a phone."""
        return Counter(shown.apns_id for shown in self.shown)

    @asynccontextmanager
    async def serving(self, authority: Authority, port: int = 0) -> AsyncIterator[ApnsFake]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Peer(self), "127.0.0.1", port, ssl=authority.context(["h2"]), ssl_shutdown_timeout=0.2
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for peer in list(self.open):
                peer.reset()
            await server.wait_closed()

    def goaway(self) -> None:
        """Say goodbye on every connection, between requests."""
        for peer in list(self.open):
            peer.goaway(peer.highest)

    def refusal(self, request: Request) -> Answer | None:
        """What Apple would say against this request."""
        headers = request.headers
        if headers.get(":method") != "POST":
            return Answer(405, "MethodNotAllowed")
        if not re.fullmatch(r"/3/device/[^/]+", headers.get(":path", "")):
            return Answer(404, "BadPath")
        scheme, _, provider = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not provider:
            return Answer(403, "MissingProviderToken")
        refused = self._token_refusal(provider)
        if refused is not None:
            return refused
        try:
            uuid.UUID(headers["apns-id"])
        except (KeyError, ValueError):
            return Answer(400, "BadMessageId")
        if not re.fullmatch(r"(?:[0-9a-f]{2}){32}", request.token):
            return Answer(400, "BadDeviceToken")
        if headers.get("apns-push-type") not in ("alert", "background"):
            return Answer(400, "InvalidPushType")
        if headers.get("apns-topic") not in self.topics:
            return Answer(400, "TopicDisallowed")
        if headers.get("apns-priority") not in ("1", "5", "10"):
            return Answer(400, "BadPriority")
        if not re.fullmatch(r"0|[1-9]\d{9}", headers.get("apns-expiration", "")):
            return Answer(400, "BadExpirationDate")
        if not 1 <= len(headers.get("apns-collapse-id", "").encode()) <= 64:
            return Answer(400, "BadCollapseId")
        if not request.body:
            return Answer(400, "PayloadEmpty")
        if len(request.body) > LIMIT:
            return Answer(413, "PayloadTooLarge")
        try:
            payload = json.loads(request.body.decode("utf-8"))
            json.dumps(payload, ensure_ascii=False).encode("utf-8")
        except ValueError:
            return Answer(400, "BadPayload")
        if not isinstance(payload, dict) or not isinstance(payload.get("aps"), dict):
            return Answer(400, "BadPayload")
        return None

    def _token_refusal(self, provider: str) -> Answer | None:
        if provider not in self.provider_tokens:
            try:
                header = jwt.get_unverified_header(provider)
                claims = jwt.decode(
                    provider, self.key, algorithms=["ES256"], options={"verify_iat": False, "require": ["iss", "iat"]}
                )
            except jwt.PyJWTError:
                return Answer(403, "InvalidProviderToken")
            if header.get("kid") != self.key_id or claims["iss"] != self.team_id:
                return Answer(403, "InvalidProviderToken")
            self.provider_tokens[provider] = claims["iat"]
        if not self.clock() - 3600 <= self.provider_tokens[provider] <= self.clock() + 60:
            return Answer(403, "ExpiredProviderToken")
        return None

    async def until(self, holds: Callable[[], bool], within: float = 15.0) -> None:
        """Wait until a request made `holds` true."""
        async with asyncio.timeout(within):
            while not holds():
                self.arrived.clear()
                await self.arrived.wait()


class _Peer(asyncio.Protocol):
    def __init__(self, fake: ApnsFake) -> None:
        self.fake = fake
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.limit = 1 if fake.one_until_authenticated else fake.streams
        self.h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: self.limit,
                SettingCodes.INITIAL_WINDOW_SIZE: fake.window,
            },
        )
        self.incoming: dict[int, tuple[dict[str, str], bytearray]] = {}
        self.owed: dict[int, int] = {}
        """Streams whose answer is under way, and their bytes not yet credited."""
        self.highest = 0
        self.last: int | None = None
        """Of a GOAWAY sent."""
        self.dead = False
        self.authenticated = False
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            self.fake.violations.append("no ALPN h2")
            self.transport.abort()
            return
        self.fake.connections += 1
        self.number = self.fake.connections
        self.fake.open.add(self)
        self.h2.initiate_connection()
        self.flush()

    def is_dead(self) -> bool:
        return self.dead

    def connection_lost(self, exc: Exception | None) -> None:
        self.dead = True
        self.fake.open.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.dead:
            return
        try:
            events = self.h2.receive_data(data)
        except H2Error as error:
            self.fake.violations.append(repr(error))
            self.flush()
            self.transport.close()
            return
        for event in events:
            if self.is_dead():
                return
            if isinstance(event, RequestReceived):
                headers = dict(cast("list[tuple[str, str]]", event.headers))
                if self.last is not None and event.stream_id > self.last:
                    continue
                if len(self.incoming) + len(self.owed) >= self.limit:
                    self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                    continue
                self.highest = event.stream_id
                if self.fake.early is not None:
                    self.h2.send_headers(event.stream_id, [(":status", str(self.fake.early.status))], end_stream=True)
                    continue
                self.incoming[event.stream_id] = (headers, bytearray())
            elif isinstance(event, DataReceived):
                found = self.incoming.get(event.stream_id)
                if found is not None:
                    found[1].extend(event.data)
                if not self.fake.lazy_windows or found is None:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                if event.stream_id in self.incoming:
                    self.serve(event.stream_id, *self.incoming.pop(event.stream_id))
            elif isinstance(event, StreamReset):
                self.incoming.pop(event.stream_id, None)
                self.owed.pop(event.stream_id, None)
            elif type(event).__name__ == "PingReceived":
                self.fake.pings += 1
        self.flush()

    def serve(self, stream: int, headers: dict[str, str], body: bytearray) -> None:
        fake = self.fake
        fake.requests += 1
        fake.arrived.set()
        token = headers.get(":path", "").rpartition("/")[2]
        request = Request(fake.requests, self.number, stream, headers, bytes(body), token)
        self.owed[stream] = len(body)
        refusal = fake.refusal(request)
        if refusal is not None:
            self.answer_later(stream, refusal, request)
            return
        if not self.authenticated:
            self.authenticated = True
            if fake.one_until_authenticated:
                self.set_limit(fake.streams)
        fault = fake.script(request)
        match fault:
            case None:
                self.show(request)
                self.answer_later(stream, None, request)
            case Answer():
                self.answer_later(stream, fault, request)
            case Reset():
                if fault.processed:
                    self.show(request)
                self.owed.pop(stream)
                self.h2.reset_stream(stream, fault.code)
            case Silent():
                if fault.processed:
                    self.show(request)
            case Goaway("graceful"):
                self.show(request)
                self.goaway(stream)
                self.answer_later(stream, None, request)
            case Goaway():
                self.show(request)
                self.goaway(stream)
                self.dead = True
                self.transport.close()
            case Fin():
                self.flush()
                self.dead = True
                self.transport.close()
            case TcpReset():
                self.reset()
            case BlackHole():
                self.dead = True
                self.transport.pause_reading()
            case Streams():
                self.set_limit(fault.most)
                self.show(request)
                self.answer_later(stream, None, request)

    def set_limit(self, most: int) -> None:
        self.limit = most
        self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: most})

    def goaway(self, last: int) -> None:
        self.flush()
        self.last = last
        # By hand: h2 would refuse to send the answers still owed.
        self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=0).serialize())
        for stream in [stream for stream in self.incoming if stream > last]:
            del self.incoming[stream]
        self.close_if_drained()

    def close_if_drained(self) -> None:
        if self.last is not None and not self.owed and not self.incoming:
            self.transport.close()

    def reset(self) -> None:
        self.dead = True
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def show(self, request: Request) -> None:
        self.fake.shown.append(
            Shown(
                request.headers["apns-id"],
                request.token,
                request.headers,
                json.loads(request.body),
                asyncio.get_running_loop().time(),
            )
        )

    def answer_later(self, stream: int, answer: Answer | None, request: Request) -> None:
        loop = asyncio.get_running_loop()
        if self.fake.latency:
            loop.call_later(self.fake.latency, self.answer, stream, answer, request)
        else:
            loop.call_soon(self.answer, stream, answer, request)

    def answer(self, stream: int, answer: Answer | None, request: Request) -> None:
        if self.dead or stream not in self.owed:
            return
        size = self.owed.pop(stream)
        headers = [("apns-id", request.headers.get("apns-id", ""))]
        if answer is None:
            self.h2.send_headers(stream, [(":status", "200"), *headers], end_stream=True)
        else:
            if answer.retry_after is not None:
                headers.append(("retry-after", str(answer.retry_after)))
            body: dict[str, Any] = {}
            if answer.reason is not None:
                body["reason"] = answer.reason
            if answer.timestamp is not None:
                body["timestamp"] = answer.timestamp
            self.h2.send_headers(stream, [(":status", str(answer.status)), *headers], end_stream=not body)
            if body:
                self.h2.send_data(stream, json.dumps(body).encode(), end_stream=True)
        if self.fake.lazy_windows and size:
            self.h2.increment_flow_control_window(size)
        self.flush()
        self.close_if_drained()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)


async def _serve(options: argparse.Namespace, key: ec.EllipticCurvePublicKey) -> None:
    """A fake of its own process: prints its port, and at SIGTERM what reached the phone."""
    fake = ApnsFake(key, latency=options.latency, streams=options.streams)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with fake.serving(Authority(Path(), Path(options.chain))):
        print(fake.port, flush=True)
        await stop.wait()
        times = fake.times
        print(
            json.dumps(
                {
                    "delivered": len(times),
                    "twice": sum(1 for count in times.values() if count > 1),
                    "connections": fake.connections,
                    "violations": fake.violations,
                    "seconds": fake.shown[-1].at - fake.shown[0].at if fake.shown else 0,
                }
            ),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chain", required=True)
    parser.add_argument("--public-key", required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--streams", type=int, default=1000)
    options = parser.parse_args()
    key = cast("ec.EllipticCurvePublicKey", load_pem_public_key(Path(options.public_key).read_bytes()))
    asyncio.run(_serve(options, key))


if __name__ == "__main__":
    main()
