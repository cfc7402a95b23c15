"""The contract between the gateway and the agents behind it, and the providers that come with it."""

from providers.base import (
    APPROVED,
    CAPABILITIES,
    DECLINED,
    ApprovalRequest,
    Capability,
    Decision,
    Message,
    Option,
    Provider,
    Turn,
)
from providers.errors import ERROR_CODES, ErrorCode, ProviderError, UnknownProvider
from providers.events import (
    Completed,
    Event,
    Progress,
    ReasoningDelta,
    SessionUpdated,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)

__all__ = [
    "APPROVED",
    "CAPABILITIES",
    "DECLINED",
    "ERROR_CODES",
    "ApprovalRequest",
    "Capability",
    "Completed",
    "Decision",
    "ErrorCode",
    "Event",
    "Message",
    "Option",
    "Progress",
    "Provider",
    "ProviderError",
    "ReasoningDelta",
    "SessionUpdated",
    "TextDelta",
    "TextReset",
    "ToolCall",
    "ToolResult",
    "Turn",
    "UnknownProvider",
    "Usage",
]
