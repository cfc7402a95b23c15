"""The file of a `multipart/form-data` body (RFC 7578), piece by piece; and a file's name in a header."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from email.message import Message

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from gateway.errors import BadFrame

FIELD = "file"
HEAD_BYTES = 16 * 1024
"""What may stand before the file: other fields, and the headers of its part."""


class _Reader:
    """The parser's callbacks: notes the headers of each part and queues the bytes of the file."""

    def __init__(self, boundary: bytes) -> None:
        self.name: str | None = None
        self.begun = False
        """The headers of the file's part were read."""
        self.ended = False
        """The file's part is over."""
        self.content: deque[bytes] = deque()
        self._here = False
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        callbacks = {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._part,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
        }
        self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # a TypedDict, all keys optional

    def feed(self, piece: bytes) -> None:
        """Raises `BadFrame`."""
        try:
            self._parser.write(piece)
        except MultipartParseError:
            raise BadFrame("the body is no multipart form") from None

    def _header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _part(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        self._here = not self.begun and options.get(b"name") == FIELD.encode()
        if self._here:
            self.begun, self.name = True, options.get(b"filename", b"").decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._here:
            self.content.append(data[start:end])

    def _part_end(self) -> None:
        self.ended = self.ended or self._here
        self._here = False


async def file_of(content_type: str, body: AsyncGenerator[bytes]) -> tuple[str | None, AsyncGenerator[bytes]]:
    """The name and the bytes of the field `file`, as soon as its headers have come.

    Raises:
        BadFrame: the body is no form, or has no such field; also while the bytes are read.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary or len(boundary) > 256:
        raise BadFrame("the form has no boundary", field=FIELD)
    reader = _Reader(boundary)
    size = 0
    async for piece in body:
        reader.feed(piece)
        size += len(piece)
        if reader.begun:
            return reader.name, _content(reader, body)
        if size > HEAD_BYTES:
            break
    raise BadFrame(f"{FIELD}: is missing, or does not stand at the beginning of the form", field=FIELD)


async def _content(reader: _Reader, body: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    while True:
        while reader.content:
            yield reader.content.popleft()
        if reader.ended:  # what follows it is nothing to wait for
            return
        piece = await anext(body, None)
        if piece is None:
            raise BadFrame("the form ended early", field=FIELD)
        reader.feed(piece)


def name_in(disposition: str) -> str | None:
    """The `filename` of a `Content-Disposition` header, also in the extended form of RFC 6266 (`filename*`)."""
    header = Message()
    # Servers read headers as Latin-1, clients write them as UTF-8.
    header["Content-Disposition"] = disposition.encode("latin-1", "replace").decode("utf-8", "replace")
    return header.get_filename()
