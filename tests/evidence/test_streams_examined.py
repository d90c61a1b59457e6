"""Examination of streams: records, counts and roots of every slice derived again, and each injury named."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from api_service import running, settings_for
from sqlalchemy import create_engine, update
from stream_service import Stream

from evidence.bootstrap import utc_now
from evidence.examine import examine
from evidence.stream_store import slice_


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped home with one stream of four slices."""
    folder = tmp_path_factory.mktemp("examined")
    with running(folder / "home") as service:
        stream = Stream(service, folder, "app")
        stream.write(*[f"line {number} {'ERROR' if number % 3 == 0 else 'ok'}" for number in range(35)])
        stream.collect()
        stream.ask("ERROR")
    return folder / "home"


def damages(home: Path) -> list[tuple[str, str, str]]:
    found = examine(settings_for(home), clock=utc_now)
    return [(str(each.unit), str(each.how), each.where) for each in found.damages]


def archived(home: Path) -> list[Path]:
    return sorted(path for path in (home / "streams").glob("[0-9a-f][0-9a-f]/*"))


def test_a_whole_home_is_clean(home: Path) -> None:
    assert len(archived(home)) == 4
    assert damages(home) == []


def test_one_altered_bit_of_an_archive_is_named(home: Path) -> None:
    path = archived(home)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    try:
        ((unit, how, where),) = damages(home)
    finally:
        path.write_bytes(whole)
    assert (unit, how) == ("stream", "altered")
    assert where.endswith("records")


def test_an_archive_that_is_away_and_one_too_many_are_named(home: Path) -> None:
    path = archived(home)[1]
    spare = path.with_name("0" * 30)
    path.rename(spare)
    try:
        found = damages(home)
    finally:
        spare.rename(path)
    assert {(unit, how) for unit, how, _ in found} == {("stream", "missing"), ("file", "added")}


def test_counts_of_another_slice_are_named(home: Path) -> None:
    engine = create_engine(settings_for(home).database_url)
    with engine.begin() as connection:
        kept = {row.number: row.counts for row in connection.execute(slice_.select())}
        connection.execute(update(slice_).where(slice_.c.number == 1).values(counts=kept[2]))
    try:
        found = damages(home)
    finally:
        with engine.begin() as connection:
            connection.execute(update(slice_).where(slice_.c.number == 1).values(counts=kept[1]))
        engine.dispose()
    assert found == [("stream", "altered", "slice app/1 counts")]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE stream_slice SET leaf_index = -1 WHERE number = 3", "stream app newest slice"),
        ("UPDATE stream_slice SET declaration = 7 WHERE number = 1", "slice app/1 counts"),
        ("UPDATE stream_slice SET header = 'no bytes' WHERE number = 1", "leaf "),
        ("UPDATE stream_slice SET hashes = 'no bytes' WHERE number = 1", "slice app/1 counts"),
        ("UPDATE stream_slice SET counts = 1.5 WHERE number = 1", "slice app/1 counts"),
        ("UPDATE stream_slice SET object_id = 'no bytes' WHERE number = 1", "slice app/1 records"),
        ("UPDATE stream_declaration SET data = 'no bytes'", "stream app declaration"),
        ("UPDATE block SET proof = x'7b7d' WHERE height = (SELECT max(height) FROM block)", "block "),
        ("UPDATE block SET proof = x'31' WHERE height = (SELECT max(height) FROM block)", "block "),
    ],
    ids=range(9),
)
def test_a_row_that_holds_what_cannot_be_is_named_and_ends_nothing(home: Path, tmp_path: Path, change: str, named: str) -> None:
    copy = shutil.copytree(home, tmp_path / "home")
    with closing(sqlite3.connect(copy / "evidence.db")) as connection, connection:
        assert connection.execute(change).rowcount == 1
    found = damages(copy)
    assert [where for _, _, where in found if where.startswith(named)], found
