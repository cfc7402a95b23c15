"""What both kinds of socket have in common."""

from __future__ import annotations

import logging

__all__ = ["SERVER_FRAME_BYTES", "SILENT"]

SERVER_FRAME_BYTES = 4 * 1024 * 1024
"""More than any gateway sends; a bound on what one frame may make this process hold."""

SILENT = logging.getLogger("agentline.sockets")
"""Says nothing at any level: at its debug level the library logs frames and headers whole, messages and the token."""
SILENT.setLevel(logging.CRITICAL + 1)
SILENT.disabled = True
