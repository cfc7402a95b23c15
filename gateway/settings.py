"""The settings: their names, types, bounds and defaults. `gateway.configuration` reads them from their sources.

Making a `Settings` by hand reads nothing from outside, so tests may make as many as they like. Every value
that is a secret is a `SecretStr`, and no error raised here repeats a value.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.settingvalues import Bytes, DatabaseUrl, Origins, PublicUrl, RedisUrl, Seconds, Tokens

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
    tokens: Tokens = Field(default_factory=dict)
    """User to token. When empty, the user `owner` gets a token of the gateway's making."""
    jwt: JwtSettings | None = None


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
    database_url: DatabaseUrl | None = None
    redis_url: RedisUrl | None = None
    """Given: this is one of many nodes, which share the database and this Redis."""
    public_url: PublicUrl | None = None
    """How people reach the gateway."""
    allowed_origins: Origins = ()
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
