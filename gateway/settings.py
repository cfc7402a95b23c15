"""The settings: their names, types, bounds and defaults. `gateway.configuration` reads them from their sources.

Making a `Settings` by hand reads nothing from outside, so tests may make as many as they like. Every value
that is a secret is a `SecretStr`, and no error raised here repeats a value.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.origins import parse_origin

__all__ = [
    "DEFAULT_AGENTS",
    "OWNER",
    "UNSUPPORTED",
    "AgentSettings",
    "ApprovalSettings",
    "AuthSettings",
    "CompatSettings",
    "LimitSettings",
    "PushSettings",
    "Settings",
    "SettingsError",
    "TurnDeadlines",
]

OWNER = "owner"
"""The user who runs the gateway."""

DEFAULT_AGENTS: Mapping[str, Mapping[str, Any]] = {
    "claude": {"provider": "claude"},
    "codex": {"provider": "codex"},
    "demo": {"provider": "demo"},
}

UNSUPPORTED: dict[str, str] = {
    "auth.jwt": "JSON Web Tokens",
}
"""Settings whose feature this version does not have, with what they ask for: giving one stops the start."""

_AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_RESERVED = frozenset(("agents", "approvals", "attachments", "devices", "health", "pair", "search", "threads", "turns"))
"""Names that `/api/{agent}/…` would share with another path of the HTTP interface."""
_TOKEN = re.compile(r"[!-~]+")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)]


class SettingsError(Exception):
    """The settings do not allow a start. Its text is one line, names what is wrong, and holds no value."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TurnDeadlines(_Group):
    """The engine's deadlines for one turn."""

    connect_seconds: Seconds = 10
    first_event_seconds: Seconds = 120
    idle_seconds: Seconds = 120
    """Between two events; stands still while an approval is open."""
    total_seconds: Seconds = 3600


class _AgentDeadlines(_Group):
    """Those of the four that differ for one agent."""

    connect_seconds: Seconds | None = None
    first_event_seconds: Seconds | None = None
    idle_seconds: Seconds | None = None
    total_seconds: Seconds | None = None


class AgentSettings(_Group):
    """One agent: a provider with its options."""

    provider: str = Field(min_length=1)
    turn: _AgentDeadlines = _AgentDeadlines()
    options: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Every further key of the entry, as given. May hold secrets, so it is not shown."""

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, entry: Any) -> Any:
        if not isinstance(entry, Mapping):
            return entry
        known = {key: entry[key] for key in ("provider", "turn") if key in entry}
        return {**known, "options": {key: value for key, value in entry.items() if key not in known}}


class JwtSettings(_Group):
    issuer: str | None = None
    audience: str | None = None
    jwks_url: str | None = None
    secret: SecretStr | None = None
    algorithms: tuple[str, ...] | None = None


class AuthSettings(_Group):
    tokens: dict[str, SecretStr] = Field(default_factory=dict)
    """User to token. When empty, the user `owner` gets a token of the gateway's making."""
    jwt: JwtSettings | None = None

    @field_validator("tokens", mode="before")
    @classmethod
    def _check_tokens(cls, tokens: Any) -> Any:
        # Done before pydantic looks, so that no error's location is a key of the map: people swap user and token.
        if not isinstance(tokens, Mapping):
            raise ValueError("must be a map from user to token")
        seen: set[str] = set()
        for user, token in tokens.items():
            plain = token.get_secret_value() if isinstance(token, SecretStr) else token
            if not isinstance(user, str) or not 0 < len(user) <= 128 or not user.isprintable() or user != user.strip():
                raise ValueError("a user's name has 1 to 128 printable characters")
            if not isinstance(plain, str) or not _TOKEN.fullmatch(plain):
                raise ValueError("a token is text of visible ASCII characters without spaces")
            if plain in seen:
                raise ValueError("two users have the same token")
            seen.add(plain)
        return tokens


class ApprovalSettings(_Group):
    timeout_seconds: Seconds = 600
    """How long a person has to answer an approval."""


class LimitSettings(_Group):
    client_frame_bytes: Bytes = 256 * 1024
    server_frame_bytes: Bytes = 512 * 1024
    """Sockets of iOS refuse frames over 1 MiB."""
    attachment_bytes: Bytes = 20 * 1024 * 1024
    """The largest file that may be attached to a message."""
    user_attachment_bytes: int = Field(default=2 * 1024**3, ge=1024)
    """All attachments of one user together."""
    queue: int = Field(default=8, ge=0, le=1000)
    """How many turns may wait in a thread behind the running one."""


class CompatSettings(_Group):
    """The two older front ends."""

    agent: str = "claude"
    trust_user_id: bool = False


class ApnsSettings(_Group):
    key_path: Path
    key_id: str
    team_id: str
    topic: str
    endpoint: str | None = None
    ca_path: Path | None = None


class FcmSettings(_Group):
    credentials_path: Path
    endpoint: str | None = None
    token_endpoint: str | None = None
    ca_path: Path | None = None


class WebPushSettings(_Group):
    private_key_path: Path
    subject: str
    """Whom a push service may write to about trouble: a `mailto:` or `https:` URL."""
    ca_path: Path | None = None
    allow_http: bool = False
    """Also push to endpoints without TLS, in a closed network."""


class NtfySettings(_Group):
    server: str
    token: SecretStr | None = None
    ca_path: Path | None = None


class PushSettings(_Group):
    policy: Literal["unseen", "always", "never"] = "unseen"
    grace_seconds: float = Field(default=3, ge=0, allow_inf_nan=False)
    ttl_seconds: Seconds = 24 * 3600
    """How long a push is worth delivering, and how long its `fetch_token` is good."""
    id_only: bool = False
    """No text of a conversation passes through Apple, Google or anyone: ids and `fetch_token` only."""
    apns: ApnsSettings | None = None
    fcm: FcmSettings | None = None
    webpush: WebPushSettings | None = None
    ntfy: NtfySettings | None = None


class Settings(BaseSettings):
    """Everything that an operator can set. Immutable."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    """0 picks a free one."""
    state_dir: Path = Path("~/.agentline")
    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    """Given: this is one of many nodes, which share the database and this Redis."""
    public_url: str | None = None
    """How people reach the gateway, without a slash at the end."""
    allowed_origins: tuple[str, ...] = ()
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_format: Literal["console", "json"] | None = None
    """None: console on a terminal, else json."""
    heartbeat_seconds: Seconds = 20
    send_seconds: Seconds = 20
    """A socket that takes no frame for this long is dropped."""
    auth_seconds: Seconds = 10
    """How long a socket may take to show its token."""
    drain_seconds: float = Field(default=30, ge=0, allow_inf_nan=False)
    """How long running turns may go on once the gateway is asked to stop."""
    lease_seconds: Seconds = 10
    """How long a node may be silent before others take its turns over."""
    run_turns: bool = True
    """Whether turns run on this node, or on others alone."""
    agents: dict[str, AgentSettings] = Field(default_factory=dict, validate_default=True)
    """The defaults with the operator's entries laid over them."""
    auth: AuthSettings = AuthSettings()
    turn: TurnDeadlines = TurnDeadlines()
    approval: ApprovalSettings = ApprovalSettings()
    limits: LimitSettings = LimitSettings()
    push: PushSettings = PushSettings()
    compat: CompatSettings = CompatSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: `gateway.configuration` does the reading, with the names and sources at hand."""
        return (init_settings,)

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        entries = value.split(",") if isinstance(value, str) else value
        if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
            raise ValueError("must be origins separated by commas")
        cleaned = tuple(entry.strip().rstrip("/") for entry in entries if entry.strip())
        for entry in cleaned:
            try:
                parse_origin(entry)
            except ValueError:
                raise ValueError("every entry must be scheme://host[:port] or host[:port]") from None
        return cleaned

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment or "@" in parts.netloc or not _TOKEN.fullmatch(value):
            raise ValueError("must be a URL such as https://chat.example.org, without user, query or fragment")
        return value.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        scheme, separator, rest = value.get_secret_value().partition("://")
        if scheme in ("postgres", "postgresql", "postgresql+asyncpg") and separator:
            return SecretStr(f"postgresql+asyncpg://{rest}")
        if scheme not in ("sqlite", "sqlite+aiosqlite") or not separator:
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return SecretStr(f"sqlite://{rest}")

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value.get_secret_value())
            named = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            named = False
        if not named or not re.fullmatch(r"(/[0-9]*)?", parts.path):
            raise ValueError("must be a URL such as redis://:password@host:6379/0")
        # What the client library reads there would go before what the nodes need of a connection.
        if any(not name.startswith("ssl_") for name in parse_qs(parts.query, keep_blank_values=True)):
            raise ValueError("behind a question mark it may have only settings of TLS, such as ssl_ca_certs")
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _ignore_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("agents", mode="before")
    @classmethod
    def _over_the_defaults(cls, entries: Any) -> Any:
        if not isinstance(entries, Mapping):
            raise ValueError("must be a map from agent to its provider and options")
        merged: dict[str, Any] = {name: dict(entry) for name, entry in DEFAULT_AGENTS.items()}
        for name, entry in entries.items():
            if not isinstance(name, str) or not _AGENT_NAME.fullmatch(name):
                raise ValueError("an agent's name is 1 to 32 of a-z, 0-9, - and _, and begins with a letter or digit")
            if name in _RESERVED:
                raise ValueError(f"no agent can be named one of {', '.join(sorted(_RESERVED))}")
            if entry is None:
                merged.pop(name, None)
            elif isinstance(entry, Mapping):
                merged[name] = {"provider": name, **merged.get(name, {}), **entry}
            elif isinstance(entry, AgentSettings):
                merged[name] = entry
            else:
                raise ValueError("an agent's entry is a map of its provider and options, or null")
        return merged

    @model_validator(mode="after")
    def _check_compat_agent(self) -> Settings:
        if "agent" in self.compat.model_fields_set and self.compat.agent not in self.agents:
            raise ValueError("compat.agent must name one of the agents")
        return self

    @model_validator(mode="after")
    def _check_nodes(self) -> Settings:
        if self.redis_url is not None and not self.database.startswith("postgresql"):
            raise ValueError("redis_url is for many nodes, which need a database_url that names Postgres as well")
        if self.redis_url is None and not self.run_turns:
            raise ValueError("run_turns can be false only with a redis_url: no other node would run the turns")
        return self

    @property
    def state_path(self) -> Path:
        """The state directory, absolute. May not exist yet."""
        return self.state_dir.expanduser().absolute()

    @property
    def database(self) -> str:
        """The database's URL for SQLAlchemy. May hold a password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.state_path / 'agentline.db'}"

    def deadlines(self, agent: str) -> TurnDeadlines:
        """The deadlines of the agent's turns: its own, and the common ones where it has none.

        Raises:
            KeyError: no such agent.
        """
        return self.turn.model_copy(update=self.agents[agent].turn.model_dump(exclude_none=True))

    def base_url(self, port: int | None = None) -> str:
        """What links say: `public_url`, else the host and the port; `port` is the real one where 0 was asked for."""
        if self.public_url is not None:
            return self.public_url
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port if port is None else port}"

    def prepare_state_dir(self) -> Path:
        """Make the state directory (mode 0700) unless it is there, and see that it can be written to.

        Raises:
            SettingsError: it cannot.
        """
        path = self.state_path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SettingsError(f"the state directory {path} cannot be used: {reason}") from error
        return path
