"""The first schema."""

from __future__ import annotations

from alembic import op

from evidence.schema import METADATA

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    METADATA.create_all(op.get_bind())


def downgrade() -> None:
    """Evidence is append-only: there is no way back that keeps it."""
    raise RuntimeError("the first schema cannot be taken back")
