"""Alembic's entry: runs the versions on the connection that `evidence.schema.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from evidence.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
