"""`/`, `/agentline.js` and the other files of the web console, under a policy that lets nothing else in.

The files are read once, when the application is made: a request touches no disk, and a running gateway serves one
version of them.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["CONTENT_SECURITY_POLICY", "StaticFile", "read_static_files", "routes"]

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types agentline",
    )
)
"""W3C CSP 3. No inline script or style, no other host, no frame around it, and no string that becomes markup (Trusted
Types; the one policy admits the service worker's address)."""
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
"""`no-cache` keeps a copy but asks before using it, so that the modules of one page are of one version."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""Named here, because those of the `mimetypes` module depend on the machine. A file of another kind is not served."""
START_PAGE = "index.html"
COMPRESSED = frozenset((".html", ".css", ".js", ".webmanifest", ".svg"))


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, ready to be sent."""

    path: str
    """As in the address; the start page's is `/`."""
    media_type: str
    content: bytes
    etag: str
    compressed: bytes | None
    """Gzip, where that is smaller."""
    compressed_etag: str


def read_static_files() -> dict[str, StaticFile]:
    """The console's files by path."""
    return {file.path: file for file in _walk(files("gateway") / "static", "/")}


def routes() -> list[Route]:
    """A route for each file. They answer GET and HEAD, need no token and hold no secret."""
    return [
        Route(file.path, _endpoint(file), methods=["GET"], include_in_schema=False)
        for file in read_static_files().values()
    ]


def _endpoint(file: StaticFile) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return _answer(file, request)

    return send


def _walk(directory: Traversable, prefix: str) -> Iterator[StaticFile]:
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
            continue
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:32]
            smaller = gzip.compress(content, 9, mtime=0) if suffix in COMPRESSED else content
            yield StaticFile(
                path="/" if prefix + entry.name == f"/{START_PAGE}" else prefix + entry.name,
                media_type=MEDIA_TYPES[suffix],
                content=content,
                etag=f'"{digest}"',
                compressed=smaller if len(smaller) < len(content) else None,
                compressed_etag=f'"{digest}-gzip"',
            )


def _answer(file: StaticFile, request: Request) -> Response:
    packed = file.compressed is not None and _accepts_gzip(request.headers.get("accept-encoding", ""))
    headers = HEADERS | {"ETag": file.compressed_etag if packed else file.etag}
    if _matches(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.compressed if packed else file.content, headers=headers, media_type=file.media_type)


def _accepts_gzip(header: str) -> bool:
    """RFC 9110, 12.5.3: named, and not with a weight of zero."""
    for part in header.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() == "gzip":
            weight = parameters.strip().removeprefix("q=")
            return weight.strip("0.") != "" or weight == ""
    return False


def _matches(header: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: any of the listed tags, compared weakly."""
    listed = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in listed or etag in listed
