"""Images and documents: handed in once, named in messages, given back to their owner alone."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.endpoints.answers import answer
from gateway.endpoints.bearer import identity_of
from gateway.endpoints.bodies import pieces
from gateway.endpoints.multipart import file_of, name_in
from gateway.endpoints.operations import Binary, operation
from gateway.errors import LimitExceeded, NotFound, SlowBody, TooLarge, UnsupportedType
from gateway.filetypes import TAKEN
from gateway.protocol import ShownAttachment
from gateway.services import Services
from gateway.store.records import Attachment

MULTIPART_BYTES = 64 * 1024
"""What a multipart body may have beside its file."""

UPLOAD = Binary(
    ("application/octet-stream", *TAKEN, "multipart/form-data"),
    "The file itself, its name in `Content-Disposition`; or a form with the field `file`.",
)


@operation(
    "attachments",
    body=UPLOAD,
    answers={201: ShownAttachment},
    errors=(TooLarge, UnsupportedType, LimitExceeded, SlowBody),
)
async def upload(request: Request) -> Response:
    """`POST /api/attachments`: keep a PNG, JPEG, GIF, WebP or PDF file. What it is, its content decides.

    One that no message names within a day is forgotten.
    """
    identity = await identity_of(request)
    services: Services = request.app.state.services
    body = pieces(request)
    try:
        _expect_room(request, services.attachments.attachment_bytes)
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            name, content = await file_of(request.headers["content-type"], body)
        else:
            name, content = name_in(request.headers.get("content-disposition", "")), body
        async with contextlib.aclosing(content):
            kept = await services.attachments.take(identity.user_id, name, content)
    finally:
        await body.aclose()
    return answer(_shown(kept), 201)


@operation(
    "attachments", answers={200: Binary(TAKEN, "The file, to be saved: browsers do not show it.")}, errors=(NotFound,)
)
async def download(request: Request) -> Response:
    """`GET /api/attachments/{attachment_id}`: the file."""
    identity = await identity_of(request)
    services: Services = request.app.state.services
    attachment = await services.attachments.get(identity.user_id, request.path_params["attachment_id"])
    content = await services.attachments.open(attachment)
    headers = {
        "Content-Length": str(attachment.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(attachment.name, safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "private, no-store",
    }
    return StreamingResponse(content, media_type=attachment.content_type, headers=headers)


def _expect_room(request: Request, most: int) -> None:
    """Refuse by its length what is too large, before it is sent where the client waits to be asked for it."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > most + MULTIPART_BYTES:
        raise TooLarge(f"an attachment has at most {most} bytes")


def _shown(attachment: Attachment) -> ShownAttachment:
    return ShownAttachment(attachment.attachment_id, attachment.name, attachment.content_type, attachment.size)
