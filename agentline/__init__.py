"""The Python client of the Agentline gateway.

async with Agentline(url, token) as line:
    async for event in line.stream("claude", "Hi"):
        ...

for piece in Agentline(url, token).stream_text("claude", "Hi"):
    print(piece, end="")
"""

from agentline.address import Token
from agentline.blocking import Blocking
from agentline.client import Agentline
from agentline.deadlines import Deadlines
from agentline.errors import (
    AgentlineError,
    Busy,
    ContractBroken,
    Disconnected,
    Forbidden,
    IdConflict,
    NoSuchAgent,
    NotFound,
    Refused,
    Replaced,
    TimedOut,
    TooLarge,
    TurnFailed,
    Unauthorized,
    Unavailable,
    WrongAgent,
)
from agentline.events import (
    Accepted,
    ApprovalOption,
    ApprovalRequest,
    ApprovalResolved,
    Done,
    Event,
    Failure,
    Reasoning,
    Reset,
    ShownMessage,
    ShownTool,
    ShownTurn,
    Snapshot,
    Text,
    ToolCall,
    ToolResult,
    Typing,
    UserMessage,
)
from agentline.records import Agent, Decided, Sent, Thread, ThreadPage, Turn
from agentline.stream import Follow, TurnStream

__all__ = [
    "Accepted",
    "Agent",
    "Agentline",
    "AgentlineError",
    "ApprovalOption",
    "ApprovalRequest",
    "ApprovalResolved",
    "Blocking",
    "Busy",
    "ContractBroken",
    "Deadlines",
    "Decided",
    "Disconnected",
    "Done",
    "Event",
    "Failure",
    "Follow",
    "Forbidden",
    "IdConflict",
    "NoSuchAgent",
    "NotFound",
    "Reasoning",
    "Refused",
    "Replaced",
    "Reset",
    "Sent",
    "ShownMessage",
    "ShownTool",
    "ShownTurn",
    "Snapshot",
    "Text",
    "Thread",
    "ThreadPage",
    "TimedOut",
    "Token",
    "TooLarge",
    "ToolCall",
    "ToolResult",
    "Turn",
    "TurnFailed",
    "TurnStream",
    "Typing",
    "Unauthorized",
    "Unavailable",
    "UserMessage",
    "WrongAgent",
]
