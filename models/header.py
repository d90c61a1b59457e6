"""A slice header of the usual form, read from the one pattern that it matches: a quarter of the time of reading any JSON."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from json import loads
from typing import Any

from models.anchor import BlockRef, block_refs
from models.digest import Pair
from models.errors import Malformed
from models.extraction import rule_pairs
from models.record import MAX_SLICE_BYTES, MAX_SLICE_RECORDS, Position
from models.usual import HEADER


def usual_header(data: bytes) -> tuple[Any, ...] | None:
    """The members of a header, if it has the form that almost every one has and each is within its bounds.

    Shapes: all members of `SliceHeader` in its order, up to its bytes.
    """
    match = HEADER.fullmatch(data.decode("ascii")) if data.isascii() else None
    if match is None:
        return None
    (
        after, size, content2, content, declaration2, declaration, first_time, index2, index, kind, last_time, lines, next_by,
        number, pieces, previous2, previous, rules, created_at, end_epoch, end, name, count, start_epoch, start, stream_id,
    ) = match.groups()  # fmt: skip
    if (name, count) != (stream_id, number):
        return None
    if int(size) > MAX_SLICE_BYTES or int(lines) > MAX_SLICE_RECORDS or int(pieces) > MAX_SLICE_RECORDS:
        return None
    # Times of digits that the pattern matched may still name no time that exists: ValueError.
    unhex, moment = bytes.fromhex, datetime.fromisoformat
    try:
        return (
            _after(after),
            int(size),
            Pair(unhex(content), unhex(content2)),
            Pair(unhex(declaration), unhex(declaration2)),
            None,
            None if first_time is None else moment(first_time),
            None if index is None else Pair(unhex(index), unhex(index2)),
            kind,
            None if last_time is None else moment(last_time),
            int(lines),
            None if next_by is None else moment(next_by),
            int(number),
            int(pieces),
            None if previous is None else Pair(unhex(previous), unhex(previous2)),
            None,
            () if rules == "[]" else None if rules == "null" else rule_pairs(loads(rules)),
            moment(created_at),
            Position(int(end_epoch), int(end)),
            Position(int(start_epoch), int(start)),
            stream_id,
        )
    except (ValueError, Malformed):
        return None


@lru_cache(maxsize=8)
def _after(text: str) -> tuple[BlockRef, ...]:
    """The blocks of a list that the pattern matched: slice after slice names the same ones. Raises: Malformed."""
    return block_refs(loads(text), what="after")
