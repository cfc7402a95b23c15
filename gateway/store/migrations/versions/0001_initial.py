"""Threads, turns, messages, the log's segments, approvals."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "threads",
        sa.Column("key", KEY, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("thread_id", sa.String, nullable=False),
        sa.Column("agent", sa.String, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("head", sa.BigInteger, nullable=False),
        sa.Column("read_position", sa.BigInteger, nullable=False),
        sa.Column("session", sa.JSON),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_threads"),
        sa.UniqueConstraint("user_id", "thread_id", name="uq_threads_user_id_thread_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_threads_user_id_updated_at", "threads", ["user_id", "updated_at"])
    op.create_table(
        "tombstones",
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("thread_id", sa.String, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "thread_id", name="pk_tombstones"),
        comment="deleted threads: one made again under such an id starts behind this epoch",
    )
    op.create_table(
        "turns",
        sa.Column("key", KEY, primary_key=True, autoincrement=True),
        sa.Column("turn_id", sa.String, nullable=False),
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("client_id", sa.String),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("thread_chosen", sa.Boolean, nullable=False),
        sa.Column("agent", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("message_id", sa.String, nullable=False),
        sa.Column("answer_id", sa.String, nullable=False),
        sa.Column("start", sa.BigInteger),
        sa.Column("retry_of", sa.String),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("stop_reason", sa.String),
        sa.Column("usage", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("duration_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("key", name="pk_turns"),
        sa.ForeignKeyConstraint(["thread_key"], ["threads.key"], name="fk_turns_thread_key", ondelete="CASCADE"),
        sa.UniqueConstraint("turn_id", name="uq_turns_turn_id"),
        sa.UniqueConstraint("thread_key", "number", name="uq_turns_thread_key_number"),
    )
    op.create_index("uq_turns_user_id_client_id", "turns", ["user_id", "client_id"], unique=True)
    op.create_index(
        "uq_turns_running",
        "turns",
        ["thread_key"],
        unique=True,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "ix_turns_open",
        "turns",
        ["thread_key", "number"],
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index("ix_turns_finished_at", "turns", ["finished_at"])
    op.create_index("ix_turns_retry_of", "turns", ["retry_of"])
    op.create_table(
        "messages",
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("message_id", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("attachments", sa.JSON),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("thread_key", "position", name="pk_messages"),
        sa.ForeignKeyConstraint(["thread_key"], ["threads.key"], name="fk_messages_thread_key", ondelete="CASCADE"),
        sa.UniqueConstraint("message_id", name="uq_messages_message_id"),
        comment="position = 1000 * turns.number for the user's message, the last before the next turn's for the answer",
    )
    op.create_table(
        "steers",
        sa.Column("message_id", sa.String, nullable=False),
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("client_id", sa.String, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name="pk_steers"),
        sa.ForeignKeyConstraint(["thread_key"], ["threads.key"], name="fk_steers_thread_key", ondelete="CASCADE"),
        sa.UniqueConstraint("user_id", "client_id", name="uq_steers_user_id_client_id"),
    )
    op.create_table(
        "segments",
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("events", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_key", "first", name="pk_segments"),
        sa.ForeignKeyConstraint(["thread_key"], ["threads.key"], name="fk_segments_thread_key", ondelete="CASCADE"),
    )
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.String, nullable=False),
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("turn_id", sa.String, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("decision", sa.String),
        sa.Column("by", sa.String),
        sa.Column("text", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("resolved_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("approval_id", name="pk_approvals"),
        sa.ForeignKeyConstraint(["thread_key"], ["threads.key"], name="fk_approvals_thread_key", ondelete="CASCADE"),
    )
    op.create_index("ix_approvals_thread_key", "approvals", ["thread_key"])
