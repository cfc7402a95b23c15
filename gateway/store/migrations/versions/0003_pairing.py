"""Codes for pairing, and the tokens of paired devices."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("devices", sa.Column("token_id", sa.String))
    op.create_table(
        "pair_codes",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_pair_codes"),
        comment="one-time codes that have not been used, as their SHA-256",
    )
    op.create_index("ix_pair_codes_user_id_created_at", "pair_codes", ["user_id", "created_at"])
    op.create_table(
        "device_tokens",
        sa.Column("key", KEY, autoincrement=True, nullable=False),
        sa.Column("token_id", sa.String, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_device_tokens"),
        sa.UniqueConstraint("token_id", name="uq_device_tokens_token_id"),
        sa.UniqueConstraint("digest", name="uq_device_tokens_digest"),
        sqlite_autoincrement=True,
        comment="tokens of paired devices, as their SHA-256; a row never changes, and is deleted when it is revoked",
    )
    op.create_index("ix_device_tokens_user_id", "device_tokens", ["user_id"])
