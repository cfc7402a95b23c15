"""Attachments' bytes in the database, for several nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attachment_bytes",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", "number", name="pk_attachment_bytes"),
        comment="pieces of attachments under their hash; of uploads under way, under names that begin with upload-",
    )
    if op.get_context().dialect.name == "postgresql":  # images are compressed already
        op.execute("ALTER TABLE attachment_bytes ALTER COLUMN bytes SET STORAGE EXTERNAL")
        op.create_table_comment("steers", "messages that were handed to a running turn under a client's id")
