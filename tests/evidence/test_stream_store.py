"""The rows of slices: which is the first from a time on, found by looking at few."""

from random import Random

import pytest
from sqlalchemy import Connection, create_engine, event

from evidence import stream_store as rows
from evidence.tables import METADATA

TIMES = [1000, 1010, 1011, 1500, 1501, 1502, 2000, 9000]


def put(connection: Connection, number: int, created_ms: int, *, row: int = 1) -> None:
    rows.add_slice(
        connection, row=row, number=number, leaf_index=number, declaration_number=0, epoch=0, created_ms=created_ms, lines=0,
        header=b"", object_id=None, counts=None, hashes=None,
    )  # fmt: skip


@pytest.mark.parametrize("missing", [(), (0,), (3,), (7,), (0, 1, 2), (2, 5, 6), tuple(range(1, 8))])
def test_first_from_a_time_is_the_first_there_is(missing: tuple[int, ...]) -> None:
    with create_engine("sqlite://").begin() as connection:
        METADATA.create_all(connection)
        assert rows.first_from(connection, 1, 0) is None
        held = [(number, at) for number, at in enumerate(TIMES) if number not in missing]
        for number, at in held:
            put(connection, number, at)
            put(connection, number, at - 700, row=2)
        for at in sorted({0, 10_000, *(time + step for time in TIMES for step in (-1, 0, 1))}):
            expected = next((number for number, created in held if created >= at), None)
            assert rows.first_from(connection, 1, at) == expected


def test_first_from_a_time_looks_at_few_rows() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        METADATA.create_all(connection)
        for number in range(500):
            put(connection, number, 10 * number)
        asked: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
        at = Random(1).randrange(5000)
        assert rows.first_from(connection, 1, at) == -(-at // 10)
        assert len(asked) <= 11
        assert not [text for text in asked if "created_ms >=" in text], "no time is looked for in all rows"
