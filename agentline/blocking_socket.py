"""One WebSocket in the calling thread: no loop, no second thread, nothing that outlives `close`.

The protocol is that of `websockets`, without its I/O.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from agentline.address import Address
from agentline.deadlines import Deadlines
from agentline.endings import Lost, closed, refused_upgrade
from agentline.errors import ContractBroken
from agentline.sockets import SERVER_FRAME_BYTES, SILENT

__all__ = ["BlockingSocket"]

READ_BYTES = 64 * 1024


class BlockingSocket:
    """Connected by its constructor. For one thread at a time; `close` may come from any, also from the collector.

    Raises:
        Lost, Refused, ContractBroken
    """

    def __init__(self, address: Address, agent: str, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._texts: list[bytes] = []
        self._received: list[str] = []
        self._pinged = False
        uri = parse_uri(address.socket(agent))
        self._protocol = ClientProtocol(uri, max_size=SERVER_FRAME_BYTES, logger=SILENT)
        by = time.monotonic() + deadlines.connect
        try:
            self._socket = socket.create_connection((uri.host, uri.port), timeout=deadlines.connect)
        except OSError as error:
            raise Lost(str(error) or type(error).__name__) from None
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if uri.secure:
                self._secure(address.tls or ssl.create_default_context(), uri.host, by)
            self._upgrade(address, by)
        except BaseException:
            self._socket.close()
            raise
        self._heard = time.monotonic()

    def _secure(self, tls: ssl.SSLContext, host: str, by: float) -> None:
        self._socket.settimeout(_left(by))
        try:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise ContractBroken(f"the gateway's certificate: {error.verify_message}") from None
        except OSError as error:
            raise Lost(str(error) or type(error).__name__) from None

    def _upgrade(self, address: Address, by: float) -> None:
        request = self._protocol.connect()
        request.headers.update(address.bearer())
        self._protocol.send_request(request)
        self._write(_left(by))
        while True:
            self._read(_left(by))
            for event in self._protocol.events_received():
                if isinstance(event, Response):
                    self._check_response(event)
                else:
                    self._take(event)
            if (failed := self._protocol.handshake_exc) is not None:
                if isinstance(failed, InvalidHandshake) and not isinstance(failed, InvalidMessage):
                    raise ContractBroken(f"this is no gateway: {failed}")
                raise Lost(f"the upgrade failed: {failed}")
            if self._protocol.state is not State.CONNECTING:
                return
            if time.monotonic() > by:
                raise Lost("the gateway did not answer in time")

    def _check_response(self, response: Response) -> None:
        if isinstance(self._protocol.handshake_exc, InvalidStatus):
            raise refused_upgrade(response.status_code, response.headers, response.body or b"")

    def send(self, text: str) -> None:
        """Send one frame, and wait until the system has taken it. Raises `Lost`."""
        self._protocol.send_text(text.encode())
        self._write(self._deadlines.answer)

    def receive(self, seconds: float | None = None) -> str | None:
        """The next frame; None if there is none for so long. Pings the gateway when it is silent.

        Raises:
            Refused: the gateway closed the connection for good.
            Lost: it is gone, or silent for two heartbeats.
            ContractBroken
        """
        heartbeat = self._deadlines.heartbeat
        self._heard = max(self._heard, time.monotonic() - heartbeat)  # the caller's own pauses prove nothing
        by = None if seconds is None else time.monotonic() + seconds
        while not self._received:
            if self._protocol.state in (State.CLOSING, State.CLOSED):
                self._ended()
            now = time.monotonic()
            if by is not None and now >= by:
                return None
            silent = now - self._heard
            if silent >= 2 * heartbeat:
                raise Lost("the gateway fell silent")
            if silent >= heartbeat and not self._pinged:
                self._protocol.send_ping(b"")
                self._write(self._deadlines.answer)
                self._pinged = True
            wait = (2 * heartbeat if self._pinged else heartbeat) - silent
            self._read_some(wait if by is None else min(wait, by - now))
        return self._received.pop(0)

    def close(self) -> None:
        """Let go at once."""
        self._socket.close()

    def close_in_order(self) -> None:
        """Say goodbye and wait for the gateway's, for at most `Deadlines.close`: our last frames are read then."""
        by = time.monotonic() + self._deadlines.close
        with contextlib.suppress(Lost, OSError):
            self._protocol.send_close(1000)
            self._write(_left(by))
            while self._protocol.state is not State.CLOSED and time.monotonic() < by:
                self._read(_left(by))
        self._socket.close()

    def _read_some(self, seconds: float) -> None:
        try:
            self._read(max(seconds, 0.001))
        except _Silence:
            return
        for event in self._protocol.events_received():
            self._take(event)

    def _read(self, seconds: float) -> None:
        """Read once. Raises `_Silence` when nothing comes, `Lost` when nothing can come any more."""
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(READ_BYTES)
        except (TimeoutError, ssl.SSLWantReadError):
            raise _Silence("the gateway did not answer in time") from None
        except OSError as error:
            raise Lost(str(error) or type(error).__name__) from None
        self._heard, self._pinged = time.monotonic(), False
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        with contextlib.suppress(Lost):  # what was read counts, also when no answer to it can be sent
            self._write(self._deadlines.answer)

    def _write(self, seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            for data in self._protocol.data_to_send():
                if data:
                    self._socket.sendall(data)
        except OSError as error:
            raise Lost(str(error) or type(error).__name__) from None

    def _take(self, event: object) -> None:
        if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.CONT, Opcode.BINARY):
            return
        if event.opcode is Opcode.BINARY:
            raise ContractBroken("a binary frame")
        self._texts.append(bytes(event.data))
        if event.fin:
            whole, self._texts = b"".join(self._texts), []
            try:
                self._received.append(whole.decode())
            except UnicodeDecodeError:
                raise ContractBroken("a frame that is not UTF-8") from None

    def _ended(self) -> None:
        received, sent = self._protocol.close_rcvd, self._protocol.close_sent
        if received is not None:
            raise closed(received.code)
        raise closed(None if sent is None else int(sent.code), by_gateway=False)


class _Silence(Lost):
    """Nothing came in time."""


def _left(by: float) -> float:
    return max(by - time.monotonic(), 0.001)
