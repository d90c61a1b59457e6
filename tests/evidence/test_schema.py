"""The schema: what the versions make is what the program reads, on both databases; a start elsewhere is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from evidence.errors import HomeRefused
from evidence.schema import METADATA, check_version, upgrade
from evidence.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    url = f"sqlite:///{tmp_path / 'evidence.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres").url
    return Store(url)


def test_versions_make_the_very_tables_of_the_program(store: Store) -> None:
    upgrade(store)
    upgrade(store)
    check_version(store)
    with store.reading() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    store.close()
    assert differences == []


def test_database_of_another_schema_is_refused(store: Store) -> None:
    upgrade(store)
    with store.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(HomeRefused, match="schema 9999"):
        check_version(store)
    store.close()


def test_upgrade_that_fails_half_way_leaves_nothing(store: Store) -> None:
    with store.writing() as connection:
        connection.execute(text("CREATE TABLE tile (x INTEGER)"))
    with pytest.raises(Exception, match=r"(?i)already exists"):
        upgrade(store)
    with store.reading() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() is None
    store.close()
