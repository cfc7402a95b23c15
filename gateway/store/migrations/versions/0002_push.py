"""Devices, the outbox and what became of each push; keys of the gateway's own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("device_id", sa.String, nullable=False),
        sa.Column("platform", sa.String, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("app_id", sa.String),
        sa.Column("notify", sa.String),
        sa.Column("registered_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", name="pk_devices"),
        sa.UniqueConstraint("platform", "token", name="uq_devices_platform_token"),
        comment="a token is on one phone, so it belongs to one device of one user: the last that handed it in",
    )
    op.create_table(
        "outbox",
        sa.Column("key", KEY, primary_key=True, autoincrement=True),
        sa.Column("delivery_id", sa.String, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("device_id", sa.String, nullable=False),
        sa.Column("platform", sa.String, nullable=False),
        sa.Column("policy", sa.String, nullable=False),
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("push", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("lease", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        comment="pushes that have no final outcome; while one is leased, due_at is the end of the lease",
    )
    op.create_index("ix_outbox_platform_due_at", "outbox", ["platform", "due_at"])
    op.create_table(
        "push_outcomes",
        sa.Column("key", KEY, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("device_id", sa.String),
        sa.Column("platform", sa.String),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("turn_id", sa.String, nullable=False),
        sa.Column("message_id", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_push_outcomes_turn_id", "push_outcomes", ["turn_id"])
    op.create_index("ix_push_outcomes_thread_key_position", "push_outcomes", ["thread_key", "position"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
        comment="keys that the gateway made for itself, the same on every node",
    )
