"""What a phone scans: the link with a one-time code, as a QR picture, and whether a phone can get there. No I/O."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

import segno

QUIET_ZONE = 4
"""Light modules around the picture (ISO/IEC 18004, 6.3.8)."""
DARK_ON_LIGHT, PLAIN = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
"""Black on white by number, whatever the terminal's own colours are."""
HALVES = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}


def pair_url(base_url: str, code: str) -> str:
    """The link that a phone opens, or an app takes apart. The code is in the fragment, which is sent to no server."""
    return f"{base_url}/#pair={code}"


@dataclass(frozen=True, slots=True)
class Picture:
    """A QR code with its quiet zone, row by row; 1 is dark."""

    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, text: str) -> Picture:
        code = segno.make_qr(text, error="m")
        return cls(tuple(tuple(int(dark) for dark in row) for row in code.matrix_iter(border=QUIET_ZONE)))

    @property
    def size(self) -> int:
        """Modules per side."""
        return len(self.rows)

    @property
    def path(self) -> str:
        """The dark modules as an SVG path in a view box of `size` by `size`."""
        runs = []
        for y, row in enumerate(self.rows):
            x = 0
            while x < len(row):
                width = 1
                while row[x] and x + width < len(row) and row[x + width]:
                    width += 1
                if row[x]:
                    runs.append(f"M{x} {y}h{width}v1h-{width}z")
                x += width
        return "".join(runs)

    def lines(self, *, colours: bool) -> list[str]:
        """For a terminal, two rows to a line; without `colours` dark modules have the text's own colour."""
        rows = [*self.rows, (0,) * self.size][: self.size + self.size % 2]
        drawn = [
            "".join(HALVES[pair] for pair in zip(upper, lower, strict=True))
            for upper, lower in zip(rows[::2], rows[1::2], strict=True)
        ]
        return [f"{DARK_ON_LIGHT}{line}{PLAIN}" for line in drawn] if colours else drawn


def reach_warning(url: str, *, public_url: bool) -> str | None:
    """Why a phone may not reach `url`; None if nothing speaks against it. `public_url`: the operator gave it."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = ipaddress.ip_address(host)
    except ValueError:
        address = None
    advice = "set AGENTLINE_PUBLIC_URL to the address under which phones reach the gateway"
    if (
        host == "localhost"
        or host.endswith(".localhost")
        or (address and (address.is_loopback or address.is_unspecified))
    ):
        return f"only this machine can open {url}: {advice}"
    if not public_url and ((address and not address.is_global) or "." not in host or host.endswith(".local")):
        return f"only devices in the same network can open {url}: {advice}"
    if parts.scheme == "http" and (address is None or address.is_global):
        return f"{url} is not encrypted: phones' apps refuse it by default, and the token can be read on the way"
    return None
