"""What both sides agree on beside the frames: the version of the contract, its name, the close codes."""

from __future__ import annotations

from enum import IntEnum

VERSION = 1
SUBPROTOCOL = "agentline.v1"


class CloseCode(IntEnum):
    """4000–4499: reconnect and resume. 4500–4999: do not, until something changed."""

    FRAME_TOO_LARGE = 1009
    RESTART = 1012
    TOKEN_EXPIRED = 4401
    TOO_SLOW = 4408
    TOO_MANY = 4429
    BAD_TOKEN = 4501
    FORBIDDEN = 4503
    NO_SUCH_AGENT = 4504
    REPLACED = 4505
