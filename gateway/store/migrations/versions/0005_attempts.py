"""Which node runs a turn, who wants it stopped, and which cancelled turns no log shows yet."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("turns", sa.Column("attempt", sa.String))
    op.add_column("turns", sa.Column("claimed_at", sa.BigInteger))
    op.add_column("turns", sa.Column("cancel_asked", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("turns", sa.Column("unshown", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index(
        "ix_turns_unshown",
        "turns",
        ["thread_key"],
        sqlite_where=sa.text("unshown = 1"),
        postgresql_where=sa.text("unshown"),
    )
