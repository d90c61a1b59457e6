"""The rows of anchors: per chain one list that begins at `first` and has no hole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from evidence import tables

OPEN, FINAL = "open", "final"
_ITEMS_PER_READ = 256


@dataclass(frozen=True, slots=True)
class AnchorRow:
    """One anchor: the intent, then its transaction, then its receipt."""

    number: int
    chain: str
    start: int
    end: int
    size: int
    key: bytes
    payload: bytes
    opened_ms: int
    state: str
    tx_id: str | None
    receipt: bytes | None
    block_ms: int | None
    final_ms: int | None
    reason: str | None


def _row(row: Any) -> AnchorRow:
    values = row._asdict()
    for name in ("key", "payload", "receipt"):
        values[name] = None if values[name] is None else bytes(values[name])
    return AnchorRow(**values)


def join_chain(connection: Connection, chain: str, size: int, at_ms: int) -> int:
    """Where this chain's list of anchors begins: as recorded, or at the present size for a chain that joins now."""
    c = tables.chain.c
    first = connection.execute(select(c.first).where(c.id == chain)).scalar()
    if first is None:
        connection.execute(insert(tables.chain).values(id=chain, first=size, joined_ms=at_ms))
        return size
    return int(first)


def first_of(connection: Connection, chain: str) -> int | None:
    """Where the chain's list begins, or None if the log never joined it."""
    return connection.execute(select(tables.chain.c.first).where(tables.chain.c.id == chain)).scalar()


def newest(connection: Connection, chain: str) -> AnchorRow | None:
    """The last anchor of the chain's list."""
    c = tables.anchor.c
    row = connection.execute(select(tables.anchor).where(c.chain == chain).order_by(c.start.desc()).limit(1)).one_or_none()
    return None if row is None else _row(row)


def covering(connection: Connection, chain: str, leaf_index: int) -> AnchorRow | None:
    """The anchor of `chain` whose range holds `leaf_index`; for a leaf from before the chain joined, its first one.

    Ranges have no hole, so it is the last that begins at the leaf or before: one look into the index, however long the list.
    """
    c = tables.anchor.c
    mine = select(tables.anchor).where(c.chain == chain)
    row = connection.execute(mine.where(c.start <= leaf_index).order_by(c.start.desc()).limit(1)).one_or_none()
    if row is None:
        row = connection.execute(mine.order_by(c.start).limit(1)).one_or_none()
    return None if row is None or row.end <= leaf_index else _row(row)


class Proven(NamedTuple):
    """A final anchor's range, and the time of the block that holds it."""

    start: int
    end: int
    block_ms: int


def proven_from(connection: Connection, chain: str, leaf_index: int, *, limit: int = 512) -> list[Proven]:
    """The final anchors of a chain from the one that holds `leaf_index` on, in order."""
    first = covering(connection, chain, leaf_index)
    if first is None:
        return []
    c = tables.anchor.c
    held = (c.chain == chain, c.start >= first.start, c.state == FINAL, c.block_ms.is_not(None))
    rows = connection.execute(select(c.start, c.end, c.block_ms).where(*held).order_by(c.start).limit(limit))
    return [Proven(*row) for row in rows]


def page(connection: Connection, chain: str, *, start: int, limit: int) -> list[AnchorRow]:
    """Anchors of a chain from range start `start` on, in order."""
    c = tables.anchor.c
    rows = connection.execute(select(tables.anchor).where(c.chain == chain, c.start >= start).order_by(c.start).limit(limit))
    return [_row(row) for row in rows]


def open_anchor(connection: Connection, values: dict[str, Any]) -> AnchorRow:
    """Write the intent down, before any call to the chain.

    An earlier one under the same key is replaced: the chain rejected it for good, or holds another payload of ours.
    """
    c = tables.anchor.c
    connection.execute(tables.anchor.delete().where(c.chain == values["chain"], c.start == values["start"], c.state == OPEN))
    connection.execute(insert(tables.anchor).values(state=OPEN, **values))
    row = newest(connection, values["chain"])
    if row is None or row.start != values["start"]:
        raise LookupError("the anchor just written is not the newest of its chain")
    return row


def note_transaction(connection: Connection, number: int, tx_id: str) -> None:
    """The transaction that carries the anchor is known."""
    connection.execute(update(tables.anchor).where(tables.anchor.c.number == number).values(tx_id=tx_id, reason=None))


def note_reason(connection: Connection, number: int, reason: str) -> None:
    """Why the anchor is not on its chain yet."""
    connection.execute(update(tables.anchor).where(tables.anchor.c.number == number).values(reason=reason[:512]))


def note_receipt(connection: Connection, number: int, *, receipt: bytes, tx_id: str, block_ms: int, final_ms: int) -> None:
    """The final receipt is stored; a stored one is never changed (formats §4.4)."""
    c = tables.anchor.c
    connection.execute(
        update(tables.anchor)
        .where(c.number == number, c.receipt.is_(None))
        .values(receipt=receipt, tx_id=tx_id, block_ms=block_ms, final_ms=final_ms, state=FINAL, reason=None)
    )


def recorded_items(connection: Connection, start: int, stop: int) -> Iterator[tuple[int, bytes, str]]:
    """(leaf_index, E, commitment) of the items in [start, stop) that have a record of their own on the chain, in order."""
    c = tables.evidence.c
    place = start
    while place < stop:
        query = (
            select(c.leaf_index, c.data, c.commitment)
            .where(c.leaf_index >= place, c.leaf_index < stop, c.commitment != "merkle", c.data.is_not(None))
            .order_by(c.leaf_index)
            .limit(_ITEMS_PER_READ)
        )
        found: Sequence[Any] = connection.execute(query).all()
        for row in found:
            yield row[0], bytes(row[1]), row[2]
        if len(found) < _ITEMS_PER_READ:
            return
        place = found[-1][0] + 1


def created_ms(connection: Connection, leaf_index: int) -> int | None:
    """When the item at `leaf_index` was sealed."""
    return connection.execute(select(tables.evidence.c.created_ms).where(tables.evidence.c.leaf_index == leaf_index)).scalar()


def final_between(connection: Connection, chain: str, low_ms: int | None, high_ms: int | None, size: int) -> tuple[int, int]:
    """[start, stop) of the leaves that `chain` made final in [low, high): its anchors become final in log order."""
    c = tables.anchor.c
    query = select(func.min(c.start), func.max(c.end)).where(c.chain == chain, c.state == FINAL)
    if low_ms is not None:
        query = query.where(c.final_ms >= low_ms)
    if high_ms is not None:
        query = query.where(c.final_ms < high_ms)
    start, stop = connection.execute(query).one()
    return (0, 0) if start is None else (start, min(stop, size))
