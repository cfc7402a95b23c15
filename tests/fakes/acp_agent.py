"""A strict, scripted agent of the Agent Client Protocol: a real program that speaks JSON-RPC over its standard pipes.

The last line of a prompt is its script, a JSON list of steps (see `Agent.step`). Every request is held against the
protocol's rules of order; what is wrong, and all that was asked, is appended to the file that `FAKE_ACP_REPORT` names,
one JSON object a line, and `check` holds it against the protocol's schema afterwards. Sessions are kept in the
directory `FAKE_ACP_HOME`, so that another process can load them. It shares no code with the client's library.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPORT = Path(os.environ.get("FAKE_ACP_REPORT", os.devnull))
HOME = Path(os.environ.get("FAKE_ACP_HOME", os.devnull))
CAN = os.environ.get("FAKE_ACP_CAN", "load")
"""`load`, `resume` or `nothing`: how an earlier session is opened."""

REQUESTS = {
    "initialize": "InitializeRequest",
    "authenticate": "AuthenticateRequest",
    "session/new": "NewSessionRequest",
    "session/load": "LoadSessionRequest",
    "session/resume": "ResumeSessionRequest",
    "session/prompt": "PromptRequest",
    "session/set_mode": "SetSessionModeRequest",
    "session/set_config_option": "SetSessionConfigOptionSelectRequest",
    "session/cancel": "CancelNotification",
}
"""The methods that it knows, and the schema's names for their parameters."""


def check(lines: list[dict[str, Any]]) -> list[str]:
    """What is wrong in a report: broken rules, and parameters that the protocol's schema does not allow."""
    from acp import schema  # here, because the agent itself starts ten times as fast without it
    from pydantic import ValidationError

    wrong = [line["what"] for line in lines if line["kind"] == "violation"]
    for line in lines:
        if line["kind"] in ("request", "notification") and line["method"] in REQUESTS:
            try:
                getattr(schema, REQUESTS[line["method"]]).model_validate(line["params"])
            except ValidationError as error:
                wrong.append(f"{line['method']}: {error}")
    return wrong


class Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def report(kind: str, **fields: Any) -> None:
    with REPORT.open("a") as file:
        file.write(json.dumps({"kind": kind, "pid": os.getpid(), **fields}) + "\n")


def daemonize(seconds: str) -> None:
    subprocess.Popen(["sleep", seconds], start_new_session=True)


class Agent:
    def __init__(self) -> None:
        self.greeted = False
        self.authenticated = "FAKE_ACP_LOGIN" not in os.environ
        self.seen: set[Any] = set()
        self.asked: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self.next_id = 0  # some real agents begin at 0
        self.running: dict[str, asyncio.Event] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def write(self, message: Mapping[str, Any]) -> None:
        sys.stdout.buffer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        sys.stdout.buffer.flush()

    def update(self, session: str, update: Mapping[str, Any]) -> None:
        params = {"sessionId": session, "update": update}
        self.write({"method": "session/update", "params": params})

    def text(self, session: str, text: str, kind: str = "agent_message_chunk") -> None:
        self.update(session, {"sessionUpdate": kind, "content": {"type": "text", "text": text}})

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        number = self.next_id
        self.next_id += 1
        self.asked[number] = asyncio.get_running_loop().create_future()
        self.write({"id": number, "method": method, "params": params})
        return await self.asked[number]

    async def run(self) -> None:
        reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            message = json.loads(line)
            if message.get("jsonrpc") != "2.0":
                report("violation", what="no jsonrpc 2.0")
            if "method" in message:
                task = asyncio.create_task(self.serve(message))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            elif message["id"] in self.asked:
                self.asked.pop(message["id"]).set_result(message)
            else:
                report("violation", what="an answer to nothing")
        report("eof")

    async def serve(self, message: Mapping[str, Any]) -> None:
        method: str = message["method"]
        params: Any = message.get("params")
        report("request" if "id" in message else "notification", method=method, params=params)
        if "id" not in message:
            if method != "session/cancel":
                report("violation", what=f"unknown notification {method}")
            elif params["sessionId"] not in self.running:
                report("violation", what="a cancel of nothing")
            else:
                self.running[params["sessionId"]].set()
            return
        if message["id"] in self.seen:
            report("violation", what="an id used twice")
        self.seen.add(message["id"])
        try:
            result = await self.answer(method, params)
        except Refused as error:
            fault = {"code": error.code, "message": f"secret words: {error}", "data": {"secret": "words"}}
            self.write({"id": message["id"], "error": fault})
        else:
            self.write({"id": message["id"], "result": result})

    async def answer(self, method: str, params: Any) -> Any:
        if method not in REQUESTS:
            report("violation", what=f"unknown method {method}")
            raise Refused(-32601, "Method not found")
        if (method == "initialize") == self.greeted:
            report("violation", what=f"{method} out of order")
        if method == "initialize":
            return await self.initialize(params)
        if method == "authenticate":
            self.authenticated = params["methodId"] == "fake-login"
            return {}
        if not self.authenticated:
            raise Refused(-32000, "Authentication required")
        if method in ("session/new", "session/load", "session/resume"):
            return self.open(method, params)
        if not (HOME / params["sessionId"]).exists():
            report("violation", what=f"{method} for no session")
        return await self.prompt(params) if method == "session/prompt" else {}

    async def initialize(self, params: Any) -> Any:
        self.greeted = True
        if params["protocolVersion"] != 1:
            report("violation", what="another version")
        if "FAKE_ACP_MUTE" in os.environ:
            await asyncio.Event().wait()
        capabilities: dict[str, Any] = {"loadSession": CAN == "load"}
        if CAN == "resume":
            capabilities["sessionCapabilities"] = {"resume": {}}
        number = int(os.environ.get("FAKE_ACP_VERSION", "1"))
        return {"protocolVersion": number, "agentCapabilities": capabilities, "authMethods": []}

    def open(self, method: str, params: Any) -> Any:
        if not Path(params["cwd"]).is_dir() or not Path(params["cwd"]).is_absolute():
            report("violation", what="no such cwd")
        if method == "session/new":
            session = f"s{len(list(HOME.iterdir()))}-{os.getpid()}"
            (HOME / session).write_text("0")
            return {"sessionId": session}
        if method != f"session/{CAN}":
            report("violation", what=f"{method} was not offered")
        if not (HOME / params["sessionId"]).exists():
            raise Refused(-32002, "no such session")
        if method == "session/load":
            self.text(params["sessionId"], "replayed question", "user_message_chunk")
            self.text(params["sessionId"], "replayed answer")
        return {}

    async def prompt(self, params: Any) -> Any:
        session = params["sessionId"]
        if session in self.running:
            report("violation", what="two prompts at once")
        self.running[session] = asyncio.Event()
        try:
            text = params["prompt"][0]["text"]
            turns = int((HOME / session).read_text()) + 1
            (HOME / session).write_text(str(turns))
            try:
                steps = json.loads(text.rpartition("\n")[2])
            except ValueError:
                raise Refused(-32602, "not a script") from None
            for name, *arguments in steps:
                stop = await self.step(session, text, turns, name, arguments)
                if isinstance(stop, dict):
                    return stop
            return {"stopReason": "end_turn"}
        finally:
            del self.running[session]

    async def step(self, session: str, prompt: str, turns: int, name: str, arguments: list[Any]) -> Any:
        match name:
            case "text" | "thought":
                kind = "agent_message_chunk" if name == "text" else "agent_thought_chunk"
                self.text(session, arguments[0], kind)
            case "update":
                self.update(session, arguments[0])
            case "permission":
                answer = await self.ask("session/request_permission", {"sessionId": session, **arguments[0]})
                if self.running[session].is_set() and answer["result"]["outcome"]["outcome"] != "cancelled":
                    report("violation", what="a permission after the cancel")
                self.text(session, json.dumps(answer["result"]["outcome"]))
            case "call":  # any method of the client
                answer = await self.ask(arguments[0], {"sessionId": session, **arguments[1]})
                self.text(session, json.dumps(answer.get("error", {}).get("code")))
            case "until_cancel":
                await self.running[session].wait()
                return {"stopReason": "cancelled"}
            case "ignore_cancel":
                await asyncio.Event().wait()
            case "daemon":  # a process that leaves our group, as development servers do
                daemonize(arguments[0])
            case "exit":
                os._exit(arguments[0])
            case "error":
                raise Refused(arguments[0], "no")
            case "raw":
                for number in (5, 77):  # requests that tests write so
                    self.asked.setdefault(number, asyncio.get_running_loop().create_future())
                sys.stdout.buffer.write(arguments[0].encode() + b"\n")
                sys.stdout.buffer.flush()
            case "flood":
                for number in range(arguments[0]):
                    self.text(session, f"{number} " + "x" * arguments[1])
            case "tell":
                facts = {"pid": os.getpid(), "cwd": os.getcwd(), "turns": turns, "prompt": prompt}
                facts["env"] = {key: os.environ.get(key) for key in arguments}
                self.text(session, json.dumps(facts))
            case "stderr":
                print(arguments[0], file=sys.stderr, flush=True)
            case "stop":
                return {"stopReason": arguments[0], **(arguments[1] if len(arguments) > 1 else {})}
            case _:
                report("violation", what=f"no such step {name}")
        return None


if __name__ == "__main__":
    asyncio.run(Agent().run())
