"""The proofs of the blocks that items name are kept, so that a bundle shows them whatever the chain says on that day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table; items sealed before have no row in it."""
    op.create_table(
        "block",
        sa.Column("chain", sa.String(length=64), nullable=False),
        sa.Column("height", COUNTER, autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(length=128), nullable=False),
        sa.Column("proof", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("chain", "height", "hash"),
    )


def downgrade() -> None:
    """Bundles handed out show these proofs: there is no way back that keeps them."""
    raise RuntimeError("the proofs of blocks cannot be taken back")
