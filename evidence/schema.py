"""The schema of the main database as versions: created and brought up to date by Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import evidence.access
import evidence.archive
import evidence.signing
import evidence.stream_store
from evidence.errors import HomeRefused
from evidence.store import Store
from evidence.tables import METADATA

_OWNERS = (evidence.access, evidence.archive, evidence.signing, evidence.stream_store)
"""Modules whose tables stand in the same metadata: named, so that importing this one makes it whole."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade(store: Store) -> None:
    """The database has the present schema; one transaction, so that a kill in the middle leaves the old one.

    Idempotent.
    """
    config = _config()
    with store.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_version(store: Store) -> None:
    """Return if the database has the very schema of this program.

    Raises: HomeRefused, which names what to run.
    """
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    with store.reading() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found != wanted:
        raise HomeRefused(
            f"the database has schema {found}, this program needs {wanted}",
            hint="run evidence init: it brings the schema up to date",
        )


__all__ = ["METADATA", "check_version", "upgrade"]
