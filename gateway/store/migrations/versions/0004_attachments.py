"""Attachments, and the threads that they are used in."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "attachments",
        sa.Column("attachment_id", sa.String, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("content_type", sa.String, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("attachment_id", name="pk_attachments"),
        comment="files that users handed in; the bytes are on disk under their hash",
    )
    op.create_index("ix_attachments_user_id", "attachments", ["user_id"])
    op.create_index("ix_attachments_sha256", "attachments", ["sha256"])
    op.create_index("ix_attachments_created_at", "attachments", ["created_at"])
    op.create_table(
        "attachment_uses",
        sa.Column("thread_key", KEY, nullable=False),
        sa.Column("attachment_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("thread_key", "attachment_id", name="pk_attachment_uses"),
        sa.ForeignKeyConstraint(
            ["thread_key"], ["threads.key"], name="fk_attachment_uses_thread_key", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["attachment_id"], ["attachments.attachment_id"], name="fk_attachment_uses_attachment_id"
        ),
        comment="threads with a message that has the attachment: it lives as long as one of them",
    )
    op.create_index("ix_attachment_uses_attachment_id", "attachment_uses", ["attachment_id"])
