"""The tables, as SQLAlchemy sees them. Migrations make them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

Key = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of exactly the type INTEGER."""
Json = JSON(none_as_null=True)
Millis = BigInteger()


def _of_thread() -> Column[int]:
    return Column("thread_key", Key, ForeignKey("threads.key", ondelete="CASCADE"), nullable=False)


threads = Table(
    "threads",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("user_id", String, nullable=False),
    Column("thread_id", String, nullable=False),
    Column("agent", String, nullable=False),
    Column("title", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("head", BigInteger, nullable=False),
    Column("read_position", BigInteger, nullable=False),
    Column("session", Json),
    Column("created_at", Millis, nullable=False),
    Column("updated_at", Millis, nullable=False),
    UniqueConstraint("user_id", "thread_id"),
    Index(None, "user_id", "updated_at"),
    sqlite_autoincrement=True,  # the key of a deleted thread is never given to another
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    comment="deleted threads: one made again under such an id starts behind this epoch",
)

turns = Table(
    "turns",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("turn_id", String, nullable=False),
    _of_thread(),
    Column("number", Integer, nullable=False),
    Column("user_id", String, nullable=False),
    Column("client_id", String),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("thread_chosen", Boolean, nullable=False),
    Column("agent", String, nullable=False),
    Column("status", String, nullable=False),
    Column("message_id", String, nullable=False),
    Column("answer_id", String, nullable=False),
    Column("start", BigInteger),
    Column("retry_of", String),
    Column("created_at", Millis, nullable=False),
    Column("started_at", Millis),
    Column("finished_at", Millis),
    Column("stop_reason", String),
    Column("usage", Json),
    Column("error", Json),
    Column("duration_ms", BigInteger),
    Column("attempt", String),
    Column("claimed_at", Millis),
    Column("cancel_asked", Boolean, nullable=False, server_default=false()),
    Column("unshown", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("turn_id"),
    UniqueConstraint("thread_key", "number"),
    Index("uq_turns_user_id_client_id", "user_id", "client_id", unique=True),
    Index(
        "uq_turns_running",
        "thread_key",
        unique=True,
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
    Index(
        "ix_turns_open",
        "thread_key",
        "number",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index("ix_turns_unshown", "thread_key", sqlite_where=text("unshown = 1"), postgresql_where=text("unshown")),
    Index(None, "finished_at"),
    Index(None, "retry_of"),
)

POSITIONS = 1000
"""Places in the order of a thread's messages that belong to one turn: the first is the user's message, the last the
answer, and those between are messages that were handed to the turn while it ran."""

messages = Table(
    "messages",
    metadata,
    Column("thread_key", Key, ForeignKey("threads.key", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("message_id", String, nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("attachments", Json),
    Column("content", Text, nullable=False),
    UniqueConstraint("message_id"),
    comment="position = 1000 * turns.number for the user's message, the last before the next turn's for the answer",
)

steers = Table(
    "steers",
    metadata,
    Column("message_id", String, primary_key=True),
    _of_thread(),
    Column("user_id", String, nullable=False),
    Column("client_id", String, nullable=False),
    Column("fingerprint", LargeBinary(32), nullable=False),
    UniqueConstraint("user_id", "client_id"),
    comment="messages that were handed to a running turn under a client's id",
)

segments = Table(
    "segments",
    metadata,
    Column("thread_key", Key, ForeignKey("threads.key", ondelete="CASCADE"), primary_key=True),
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("events", LargeBinary, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", String, primary_key=True),
    _of_thread(),
    Column("turn_id", String, nullable=False),
    Column("request", Json, nullable=False),
    Column("decision", String),
    Column("by", String),
    Column("text", Text),
    Column("created_at", Millis, nullable=False),
    Column("expires_at", Millis, nullable=False),
    Column("resolved_at", Millis),
    Index(None, "thread_key"),
)

devices = Table(
    "devices",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("device_id", String, primary_key=True),
    Column("platform", String, nullable=False),
    Column("token", Text, nullable=False),
    Column("environment", String, nullable=False),
    Column("app_id", String),
    Column("notify", String),
    Column("registered_at", Millis, nullable=False),
    Column("token_id", String),
    UniqueConstraint("platform", "token"),
    comment="a token is on one phone, so it belongs to one device of one user: the last that handed it in",
)

outbox = Table(
    "outbox",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("delivery_id", String, nullable=False),
    Column("user_id", String, nullable=False),
    Column("device_id", String, nullable=False),
    Column("platform", String, nullable=False),
    Column("policy", String, nullable=False),
    Column("thread_key", Key, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("push", LargeBinary, nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("expires_at", Millis, nullable=False),
    Column("due_at", Millis, nullable=False),
    Column("lease", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Index(None, "platform", "due_at"),
    comment="pushes that have no final outcome; while one is leased, due_at is the end of the lease",
)

push_outcomes = Table(
    "push_outcomes",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("user_id", String, nullable=False),
    Column("device_id", String),
    Column("platform", String),
    Column("kind", String, nullable=False),
    Column("thread_key", Key, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("turn_id", String, nullable=False),
    Column("message_id", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", Millis, nullable=False),
    Index(None, "turn_id"),
    Index(None, "thread_key", "position"),
)

attachments = Table(
    "attachments",
    metadata,
    Column("attachment_id", String, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created_at", Millis, nullable=False),
    Index(None, "user_id"),
    Index(None, "sha256"),
    Index(None, "created_at"),
    comment="files that users handed in; the bytes are on disk under their hash",
)

attachment_bytes = Table(
    "attachment_bytes",
    metadata,
    Column("name", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Millis, nullable=False),
    Column("bytes", LargeBinary, nullable=False),
    comment="pieces of attachments under their hash; of uploads under way, under names that begin with upload-",
)

attachment_uses = Table(
    "attachment_uses",
    metadata,
    Column("thread_key", Key, ForeignKey("threads.key", ondelete="CASCADE"), primary_key=True),
    Column("attachment_id", String, ForeignKey("attachments.attachment_id"), primary_key=True),
    Index(None, "attachment_id"),
    comment="threads with a message that has the attachment: it lives as long as one of them",
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    comment="keys that the gateway made for itself, the same on every node",
)

pair_codes = Table(
    "pair_codes",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("user_id", String, nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("expires_at", Millis, nullable=False),
    Index(None, "user_id", "created_at"),
    comment="one-time codes that have not been used, as their SHA-256",
)

device_tokens = Table(
    "device_tokens",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("token_id", String, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("user_id", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Millis, nullable=False),
    UniqueConstraint("token_id"),
    UniqueConstraint("digest"),
    Index(None, "user_id"),
    sqlite_autoincrement=True,  # the highest key and the number of rows tell whether anything has changed
    comment="tokens of paired devices, as their SHA-256; a row never changes, and is deleted when it is revoked",
)
