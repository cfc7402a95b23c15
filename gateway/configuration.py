"""Where settings come from: `agentline.toml`, then `.env`, the environment, and the command line, each over the last.

A name that no setting knows stops the start, wherever it stands: a misspelt deadline must not be silently
the default. Errors name the setting and its source, and never a value: it may be a secret.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError

from gateway.settings import UNSUPPORTED, Settings, SettingsError

__all__ = ["CONFIG_FILE", "PREFIX", "load_dotenv_for_libraries", "load_settings"]

PREFIX = "AGENTLINE_"
CONFIG_FILE = "agentline.toml"
_CONFIG_VARIABLE = f"{PREFIX}CONFIG"
_DOTENV = ".env"

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one source says."""

    origin: str
    """Where it stands, for a person; empty for the environment, whose names speak for themselves."""
    style: str
    """How its names are written: `variable`, `key` or `flag`."""
    values: dict[str, Any]

    def holds(self, path: KeyPath) -> bool:
        """Whether it gives a value at the path, or inside it."""
        here: Any = self.values
        for step in path:
            if not isinstance(here, Mapping) or step not in here:
                return False
            here = here[step]
        return True

    def label(self, path: KeyPath) -> str:
        match self.style:
            case "variable":
                name = "PORT" if path == ("port",) and self.values.get(_BARE_PORT) else _variable(path)
            case "flag":
                name = f"--{path[0]}"
            case _:
                name = ".".join(path)
        return f"{name} in {self.origin}" if self.origin else name


_BARE_PORT = "\0bare_port"
"""Marks, within a layer, that its port came from plain `PORT`; taken out before the layers are merged."""


def load_settings(
    *,
    config: str | os.PathLike[str] | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """Read every source and check the whole.

    `config` is the file of the command line, which must exist, as must one named by `AGENTLINE_CONFIG`; without
    either, `agentline.toml` in `directory` (default: the current one) is read if it is there. `flags` are top-level
    settings from the command line. Empty variables count as not set.

    Raises:
        SettingsError: an unknown name, a wrong value, an unreadable file, or a feature that is not there.
    """
    where = directory if directory is not None else Path.cwd()
    environment = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
    dotenv = _read_dotenv(where / _DOTENV)
    named = config or environment.get(_CONFIG_VARIABLE) or dotenv.get(_CONFIG_VARIABLE)
    layers = [
        _toml_layer(where / Path(named).expanduser() if named else where / CONFIG_FILE, required=named is not None),
        _variable_layer(_DOTENV, dotenv),
        _variable_layer("", environment),
        _Layer("", "flag", dict(flags or {})),
    ]
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, {key: value for key, value in layer.values.items() if key != _BARE_PORT})
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, layers)) from None
    for dotted, feature in UNSUPPORTED.items():
        if _given(settings, path := tuple(dotted.split("."))):
            raise SettingsError(f"{_label(path, layers)} is not supported by this version ({feature})")
    return settings


def load_dotenv_for_libraries(directory: Path | None = None) -> None:
    """Put the variables of `.env` that are not the gateway's into the process's environment, unless they are there.

    Backends' libraries look for theirs (`ANTHROPIC_API_KEY`) in the environment only. The gateway's own stay out:
    its tokens are nothing that a child process should inherit.
    """
    where = directory if directory is not None else Path.cwd()
    for name, value in _read_dotenv(where / _DOTENV).items():
        if not name.upper().startswith(PREFIX) and name != "PORT":
            os.environ.setdefault(name, value)


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {name: value for name, value in dotenv_values(path, encoding="utf-8").items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {_reason(error)}") from None


def _toml_layer(path: Path, *, required: bool) -> _Layer:
    if not required and not path.exists():
        return _Layer(path.name, "key", {})
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        # The error's own words can quote the file; where it is wrong is enough.
        place = re.search(r"\((at [a-z0-9 ,]+)\)$", str(error))
        raise SettingsError(f"{path} is not valid TOML{f' ({place[1]})' if place else ''}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {_reason(error)}") from None
    for key_path in _unknown_keys(values, Settings, ()):
        guess = _nearest(".".join(key_path), {".".join(known) for known in _known(Settings, ())})
        raise SettingsError(f"unknown setting {'.'.join(key_path)} in {path.name}{guess}")
    return _Layer(path.name, "key", values)


def _variable_layer(origin: str, variables: Mapping[str, str]) -> _Layer:
    values: dict[str, Any] = {}
    if port := variables.get("PORT"):
        values.update({"port": port, _BARE_PORT: True})
    # Shorter paths first: a map given as JSON, then single keys of it.
    for name in sorted(variables, key=lambda name: (name.count("__"), name)):
        if not name.upper().startswith(PREFIX) or name == _CONFIG_VARIABLE:
            continue
        path = tuple(name[len(PREFIX) :].lower().split("__"))
        suffix = f" in {origin}" if origin else ""
        kind = _kind(path)
        if kind is None:
            guess = _nearest(name.upper(), {_variable(known) for known in _known(Settings, ())})
            raise SettingsError(f"unknown setting {name}{suffix}{guess}")
        try:
            value = _parse(kind, variables[name])
        except ValueError:
            raise SettingsError(f"{name}{suffix} must be JSON") from None
        if path == ("port",):
            values.pop(_BARE_PORT, None)
        _merge(values, _nest(path, value))
    return _Layer(origin, "variable", values)


def _kind(path: KeyPath) -> Any:
    """The type at the end of the path, or None if no setting stands there. `Any` inside an agent's options."""
    here: Any = Settings
    for step in path:
        here = _without_none(here)
        if here is Any:
            continue
        if not step:
            return None
        if _is_model(here):
            if step in here.model_fields and not (here.__name__ == "AgentSettings" and step == "options"):
                here = here.model_fields[step].annotation
            elif here.__name__ == "AgentSettings":
                here = Any
            else:
                return None
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return None
    return _without_none(here)


def _parse(kind: Any, text: str) -> Any:
    """What a variable's text means. Maps and groups are JSON; within an agent's options, JSON where it is JSON.

    Raises:
        ValueError: it is not the JSON that it must be.
    """
    if kind is Any:
        try:
            return json.loads(text)
        except ValueError:
            return text
    if _is_model(kind) or get_origin(kind) is dict:
        return json.loads(text)
    if get_origin(kind) is tuple and text.lstrip().startswith("["):
        return json.loads(text)
    return text


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        return options[0] if len(options) == 1 else kind
    return kind


def _known(model: type[BaseModel], prefix: KeyPath) -> Iterator[KeyPath]:
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        kind = _without_none(field.annotation)
        if _is_model(kind):
            yield from _known(kind, (*prefix, name))


def _unknown_keys(values: Mapping[str, Any], model: type[BaseModel], prefix: KeyPath) -> Iterator[KeyPath]:
    for key, value in values.items():
        if key not in model.model_fields:
            yield (*prefix, key)
            continue
        kind = _without_none(model.model_fields[key].annotation)
        if _is_model(kind) and isinstance(value, Mapping):
            yield from _unknown_keys(value, kind, (*prefix, key))


def _merge(into: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        below = into.get(key)
        if isinstance(value, Mapping):
            merged = dict(below) if isinstance(below, Mapping) else {}
            _merge(merged, value)
            into[key] = merged
        else:
            into[key] = value


def _nest(path: KeyPath, value: Any) -> dict[str, Any]:
    for step in reversed(path):
        value = {step: value}
    return dict(value)


def _given(settings: Settings, path: KeyPath) -> bool:
    here: Any = settings
    for step in path:
        if not isinstance(here, BaseModel):
            return False
        here = getattr(here, step)
    return here is not None


def _variable(path: KeyPath) -> str:
    return PREFIX + "__".join(path).upper()


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _label(path: KeyPath, layers: list[_Layer]) -> str:
    """The setting's name as the strongest source writes it; a part of the path that no source has is left out."""
    for layer in reversed(layers):
        if layer.holds(path):
            return layer.label(path)
    return _label(path[:-1], layers) if len(path) > 1 else _variable(path)


def _explain(error: ValidationError, layers: list[_Layer]) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = tuple(str(step) for step in first["loc"])
    if not path:  # a rule about several settings, which names them itself
        return first["msg"].removeprefix("Value error, ")
    label = _label(path, layers)
    match first["type"]:
        case "extra_forbidden":
            siblings = {known[-1] for known in _known(Settings, ()) if known[-2:-1] == path[-2:-1]}
            return f"unknown setting {path[-1]} in {_label(path[:-1], layers)}{_nearest(path[-1], siblings)}"
        case "missing":
            return f"{_label(path[:-1], layers)} lacks {path[-1]}"
        case _:
            words = first["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
            return f"{label} is wrong: {words[:1].lower()}{words[1:]}"


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is not UTF-8"
