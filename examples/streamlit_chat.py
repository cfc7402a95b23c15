"""A chat in Streamlit, on the blocking client.

    pip install streamlit agentline
    GATEWAY_URL=http://127.0.0.1:8080 GATEWAY_TOKEN=… streamlit run examples/streamlit_chat.py

Streamlit runs this script anew for every click, also in the middle of an answer. Each message therefore has an `id`
of its own that is kept in the session: the next run sends the same one, which starts nothing and shows the answer from
its beginning, as far as it is, and goes on.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import streamlit as st

from agentline import Agentline, AgentlineError, TurnFailed

AGENT = os.environ.get("GATEWAY_AGENT", "demo")
line = Agentline(os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080"), os.environ["GATEWAY_TOKEN"])

state = st.session_state
state.setdefault("thread_id", uuid.uuid4().hex)
state.setdefault("turns", [])


def pieces(turn: dict[str, Any], waiting: Any) -> Iterator[str]:
    """The answer as it comes. Where Streamlit stops the run, the connection is closed and the agent works on."""
    stream = line.stream_text(
        AGENT, turn["content"], id=turn["id"], thread_id=state.thread_id, seen=True, idle=0.5, within=600
    )
    with contextlib.closing(stream):
        for piece in stream:
            if piece:
                yield piece
            else:
                waiting.caption("at work …")  # nothing came for a while; any call lets Streamlit stop this run
    waiting.empty()


st.title(f"Talk to {AGENT}")
if prompt := st.chat_input("Your message"):
    state.turns.append({"id": uuid.uuid4().hex, "content": prompt, "answer": None})

for turn in state.turns:
    with st.chat_message("user"):
        st.markdown(turn["content"])
    with st.chat_message("assistant"):
        if turn["answer"] is not None:
            st.markdown(turn["answer"])
            continue
        try:
            turn["answer"] = st.write_stream(pieces(turn, st.empty()))
        except TurnFailed as failure:
            turn["answer"] = failure.done.content
            st.error(str(failure))
        except AgentlineError as error:
            st.error(str(error))
            st.stop()
