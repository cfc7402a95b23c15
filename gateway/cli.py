"""The command `agentline`.

Whatever an operator can put right is one line on standard error, without a traceback. Exit codes: 0 a clean end,
1 a start or a stop that failed, 2 wrong settings or arguments, 128 + signal when a stop was forced.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import structlog

from gateway.auth import OwnerToken, OwnerTokenError, owner_token, token_url
from gateway.configuration import load_dotenv_for_libraries, load_settings
from gateway.logs import configure_logs, describe_exception
from gateway.settings import Settings, SettingsError
from providers.version import version

__all__ = ["main"]

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's). Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except SettingsError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _fail(_reason(error), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agentline", description="A gateway between phones and AI agents.")
    parser.add_argument("--version", action="version", version=f"agentline {version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start the gateway", description="Start the gateway.")
    worker = commands.add_parser(
        "worker",
        help="run turns for other nodes, without listening on a port",
        description="Run turns that other nodes have accepted. Needs a database and a Redis that the nodes share.",
    )
    worker.add_argument("--config", metavar="FILE", help="settings file (default: agentline.toml, if it is there)")
    worker.set_defaults(command=_worker)
    token = commands.add_parser("token", help="show the owner's link", description="Show the owner's link and token.")
    pair = commands.add_parser(
        "pair",
        help="pair a phone: a QR picture with a one-time code",
        description="Show a QR picture with which a phone gets a token of its own. The gateway must be running.",
    )
    pair.add_argument("--user", help="whose device it is (default: owner, or the only user)")
    for command in (serve, token, pair):
        command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
        command.add_argument("--port", help="port to listen on (default: 8080); 0 picks a free one")
        command.add_argument("--config", metavar="FILE", help="settings file (default: agentline.toml, if it is there)")
    serve.set_defaults(command=_serve)
    token.set_defaults(command=_token)
    pair.set_defaults(command=_pair)

    chat = commands.add_parser(
        "chat",
        help="talk to an agent in this terminal",
        description="Talk to an agent in this terminal. Ctrl-C stops its turn, Ctrl-D leaves.",
    )
    chat.add_argument("agent", nargs="?", default="demo", metavar="AGENT", help="default: demo")
    chat.add_argument("--url", help="the gateway's address, or its owner's link (default: as the settings say)")
    chat.add_argument("--token-file", metavar="FILE", type=Path, help="default: the owner token, without --url")
    chat.add_argument("--thread", metavar="ID", help="take up this conversation")
    chat.add_argument("--config", metavar="FILE", help="settings file (default: agentline.toml, if it is there)")
    chat.set_defaults(command=_chat, host=None, port=None)

    check = commands.add_parser(
        "check",
        help="see whether an agent works",
        description="Make an agent as the gateway would, show one live turn, and hold its provider to the contract.",
    )
    check.add_argument("agent", help="the agent's name in the settings")
    check.add_argument("--prompt", help="what to say in the live turn (default: a request for a single word)")
    check.add_argument("--no-live", action="store_true", help="play no turn: nothing is paid for, little is looked at")
    check.add_argument("--config", metavar="FILE", help="settings file (default: agentline.toml, if it is there)")
    check.set_defaults(command=_check)

    schema = commands.add_parser(
        "schema", help="print the JSON Schema of every frame", description="Print the JSON Schema of every frame."
    )
    schema.set_defaults(command=_schema)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    flags = {name: value for name in ("host", "port") if (value := getattr(options, name, None)) is not None}
    return load_settings(config=options.config, flags=flags)


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(options)
    load_dotenv_for_libraries()
    configure_logs(settings.log_level, settings.log_format)
    sys.unraisablehook = _log_unraisable
    settings.prepare_state_dir()

    from gateway.server import GatewayServer, listen

    listeners = listen(settings.host, settings.port)
    owner = None if settings.auth.tokens else owner_token(settings)

    # Late, because the providers' libraries take a second to import: wrong settings are answered at once.
    from gateway.app import create_app

    app = create_app(settings)
    port = listeners[0].getsockname()[1]
    on_listening = partial(_announce, settings, owner, port)
    server = GatewayServer(app, settings, app.state.drain, listeners=listeners, on_listening=on_listening)
    server.run()
    return server.exit_code


def _worker(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if settings.redis_url is None:
        return _fail(
            "a worker needs AGENTLINE_REDIS_URL and AGENTLINE_DATABASE_URL: it runs what other nodes accept", 2
        )
    if not settings.run_turns:
        return _fail("a worker with AGENTLINE_RUN_TURNS=false would have nothing to do", 2)
    load_dotenv_for_libraries()
    configure_logs(settings.log_level, settings.log_format)
    sys.unraisablehook = _log_unraisable

    from gateway.worker import work

    return work(settings)


def _announce(settings: Settings, owner: OwnerToken | None, port: int) -> None:
    """Show the owner's link when the token has just been made, else where it is. To standard error, in no log line."""
    if owner is None:
        return
    if owner.created:
        _say(f"open {token_url(settings.base_url(port), owner.token)}", sys.stderr)
    else:
        _say(f"the owner token is in {owner.path}; `agentline token` shows its link", sys.stderr)


def _token(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if settings.auth.tokens:
        return _fail("the tokens are those of AGENTLINE_AUTH__TOKENS; there is no owner token", 1)
    owner = owner_token(settings)
    _say(token_url(settings.base_url(), owner.token), sys.stdout)
    _say(f"from {owner.path}", sys.stderr)
    return 0


def _chat(options: argparse.Namespace) -> int:
    from agentline.terminal import chat

    url: str | None = options.url
    if options.token_file is not None:
        try:
            token = options.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return _fail(f"the token file {options.token_file} cannot be read", 2)
    elif url is not None:
        token = None  # the link holds it; the token of this machine's gateway goes to no other address
    else:
        settings = _settings(options)
        if settings.auth.tokens:
            return _fail("the tokens are those of AGENTLINE_AUTH__TOKENS: name a file with one, as --token-file", 2)
        token = owner_token(settings).token
    return chat(url if url is not None else _settings(options).base_url(), token, options.agent, options.thread)


def _pair(options: argparse.Namespace) -> int:
    settings = _settings(options)

    from gateway.paircommand import PairFailed, show_code

    try:
        show_code(settings, options.user, sys.stdout, sys.stderr)
    except PairFailed as error:
        return _fail(str(error), 1)
    return 0


def _check(options: argparse.Namespace) -> int:
    settings = _settings(options)
    load_dotenv_for_libraries()
    configure_logs("error", settings.log_format)
    if options.agent not in settings.agents:
        known = ", ".join(settings.agents)
        return _fail(f"there is no agent {options.agent[:40]!r} in the settings; there are: {known}", 2)

    from gateway.checking import PROMPT, check_agent, run_bounded

    prompt = PROMPT if options.prompt is None else options.prompt
    well = run_bounded(check_agent(settings, options.agent, _show, prompt=prompt, live=not options.no_live))
    return 0 if well else 1


def _schema(options: argparse.Namespace) -> int:
    from gateway.protocol import schema

    _say(json.dumps(schema(), indent=2), sys.stdout)
    return 0


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    log.error("unraisable_exception", exc_info=unraisable.exc_value)


def _reason(error: BaseException) -> str:
    """What to tell the operator. Texts are shown of those exceptions alone that are written for them."""
    from gateway.server import ListenError, StartupFailed
    from gateway.store.base import StoreUnavailable

    match error:
        case StartupFailed(__cause__=BaseException() as cause):
            return _reason(cause)
        case BaseExceptionGroup(exceptions=(only,)):
            return _reason(only)
        case SettingsError() | ListenError() | OwnerTokenError() | StoreUnavailable() | StartupFailed():
            return " ".join(str(error).split()) or type(error).__name__
        case _:
            described = describe_exception(error)[0]
            frames = described["frames"]
            return f"internal error: {described['type']}{f' at {frames[-1]}' if frames else ''}"


def _fail(reason: str, code: int) -> int:
    _say(f"agentline: {reason}", sys.stderr)
    return code


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str, stream: TextIO) -> None:
    stream.write(f"{line}\n")
    stream.flush()
