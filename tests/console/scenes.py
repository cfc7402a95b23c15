"""A provider that plays the conversations shown in the pictures of the README."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator

from providers import ApprovalRequest, Capability, Turn
from providers.base import APPROVED, DECLINED, Option
from providers.events import Completed, Event, ReasoningDelta, TextDelta, ToolCall, ToolResult, Usage

SLOWER = """\
The backup itself is healthy. It takes longer because **`uploads/previews` grew from 4 GB to 61 GB** last Tuesday, and \
`rsync` compares every file in it.

| Night | Duration | Copied |
|---|--:|--:|
| Mon 16 | 6 min | 3.8 GB |
| Tue 17 | 41 min | 57.2 GB |
| Wed 18 | 38 min | 0.4 GB |

Previews can be rendered again at any time, so they need not be in the backup:

```bash
rsync -a --delete \\
  --exclude 'uploads/previews/' \\
  /srv/ backup:/srv/
```

That brings a night back to about six minutes. Shall I change the unit file and free the space on the backup host?
"""
DONE = "The unit now leaves `uploads/previews` out, and a dry run takes **5 min 48 s**."


class Scenes:
    """Answers by what the last message is about. An option `pause` is the time between two pieces, in seconds."""

    name = "scenes"
    capabilities: frozenset[Capability] = frozenset(("reasoning", "tools", "approvals"))

    def __init__(self, *, pause: float = 0.0) -> None:
        self._pause = pause

    async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        said = turn.messages[-1].content
        if "slower" in said:
            yield ReasoningDelta("r1", "The log tells when it began; the sizes tell why.")
            command = "journalctl -u backup --since -7d"
            yield ToolCall("c1", "shell", command, {"command": command})
            yield ToolResult("c1", "completed", "Tue 17 02:41 backup: 57.2 GB in 41 min")
            yield ToolCall("c2", "shell", "du -sh /srv/uploads/*", {"command": "du -sh /srv/uploads/*"})
            yield ToolResult("c2", "completed", "61G  /srv/uploads/previews")
            async for event in self._say(SLOWER):
                yield event
            yield Usage(input_tokens=2210, output_tokens=236)
        elif "please" in said:
            async for event in self._say("I change the unit file, then free the space on the backup host."):
                yield event
            yield ToolCall("c1", "edit", "backup.service", {"path": "/etc/systemd/system/backup.service"})
            yield ToolResult("c1", "completed", "1 line added")
            command = "ssh backup rm -r /srv/uploads/previews"
            yield ToolCall("c2", "shell", command, {"command": command})
            request = ApprovalRequest(
                "command",
                "Delete the old previews on the backup host?",
                {"command": command, "cwd": "/etc/systemd/system"},
                "c2",
                (APPROVED, Option("approved_for_session", "Allow for this thread"), DECLINED),
            )
            await turn.approve(request)
            yield ToolResult("c2", "completed", "")
            async for event in self._say("\n\n" + DONE):
                yield event
        else:
            yield TextDelta("t1", "Done.")
        yield Completed("end_turn")

    async def _say(self, text: str) -> AsyncIterator[Event]:
        for piece in re.findall(r"\s*\S+\s*", text):
            await asyncio.sleep(self._pause)
            yield TextDelta("t1", piece)
