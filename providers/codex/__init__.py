"""Codex, by its own `codex app-server`: one shared process, JSON lines over stdio.

    options.py    what the operator may set, and the command line that follows from it
    process.py    the one process: started at first use under `providers.supervisor`, restarted with back-off
    client.py     requests, answers and notifications over its two pipes
    threads.py    opening a Codex thread for a turn and letting go of it afterwards
    turn.py       one turn: from the user's message to Completed
    mapping.py    Codex's notifications as events
    errors.py     Codex's error kinds as ProviderError
    approvals.py  Codex's questions as approval requests, and the answers
    sessions.py   sessions begun elsewhere, in a terminal say
    provider.py   the provider

The protocol is the one that `codex app-server generate-json-schema --experimental` prints (0.163.0).
"""

from providers.codex.provider import CodexProvider

__all__ = ["CodexProvider"]
