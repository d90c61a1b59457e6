"""The tables of streams (T/SAC 004—2024 Appendix C)."""

from __future__ import annotations

from alembic import op

from evidence.stream_store import TABLES

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables of streams; a home made after them has them from the first schema on."""
    for table in TABLES:
        table.create(op.get_bind(), checkfirst=True)


def downgrade() -> None:
    """Evidence is append-only: there is no way back that keeps it."""
    raise RuntimeError("the schema of streams cannot be taken back")
