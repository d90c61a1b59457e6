"""The leaves of a slice's trees: how a line and an index entry become bytes, and what shown ones say.

A shown leaf is hashed as it stands; what it says is read only in its one form.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from json import loads
from struct import Struct
from typing import Final, NamedTuple

from models.canonical import JSONValue, b64u, parse_canonical, unb64u
from models.counting import Counted
from models.errors import Malformed, VerificationError
from models.nodes import SALT_BYTES
from models.record import Buffer, Record
from models.usual import INDEX_LEAF

LINE_TAG: Final = b"cz-line/1"
INDEX_TAG: Final = "cz-index/1"
LINE_HEAD_BYTES: Final = len(LINE_TAG) + SALT_BYTES + 8
MAX_LEAF_BYTES: Final = 4 << 20


def opened(text: JSONValue, tag: str, count: int, what: str) -> list[JSONValue]:
    """The `count` members after the tag of a leaf that is canonical JSON.

    Raises: VerificationError if it is anything else.
    Source: formats §11 (Streams: a disclosed d that is JSON is canonical or refused).
    """
    if not isinstance(text, str):
        raise VerificationError(f"{what} is not text")
    try:
        value = parse_canonical(text.encode("utf-8", "surrogatepass"), max_bytes=MAX_LEAF_BYTES, what=what)
    except Malformed as error:
        raise VerificationError(error.message) from error
    if not isinstance(value, list) or len(value) != count + 1 or value[0] != tag:
        raise VerificationError(f"{what} has wrong form: expected an array of {count + 1} beginning with {tag}")
    return value[1:]


def unbased(text: JSONValue, what: str, size: int | None = None) -> bytes:
    """The bytes of a member in b64u. Raises: VerificationError if it has another form or size."""
    try:
        return unb64u(text, size=size, what=what)
    except Malformed as error:
        raise VerificationError(error.message) from error


def occurrences(value: JSONValue, n: JSONValue, what: str, *, lines: int) -> list[tuple[int, int]]:
    """The (line, count) pairs of an index leaf or entry, which agree with its n.

    Raises: VerificationError unless lines ascend below `lines`, every count is ≥ 1 and n is their sum.
    Source: formats §4 check 28, §11 (28).
    """
    if type(n) is not int or not isinstance(value, list):
        raise VerificationError(f"{what} has wrong form: expected n and an array of positions")
    found: list[tuple[int, int]] = []
    last, total = -1, 0
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not int:
            raise VerificationError(f"{what} has wrong form: expected positions of line and count")
        line, times = pair
        if not last < line < lines or times < 1:
            raise VerificationError(f"{what} has a position out of order: expected ascending lines below {lines}, counts from 1")
        found.append((line, times))
        last, total = line, total + times
    if total != n:
        raise VerificationError(f"n lowered: {what} says n = {n}, its positions say {total}")
    return found


def line_leaf(salt: bytes, position: int, payload: bytes) -> bytes:
    """The d of a line: tag, salt, u64 position, payload (formats §1)."""
    return LINE_TAG + salt + position.to_bytes(8) + payload


class LineParts(NamedTuple):
    """Some lines of a slice as they are hashed, not joined: of each u32 length of d and tag, salt and position, payload."""

    frames: list[bytes]
    heads: list[bytes]
    payloads: list[bytes]


def line_parts(buffer: Buffer, stream: bytes) -> Iterator[LineParts]:
    """The lines of a slice in order, 512 at a time, so that they stay in the processor's cache.

    Shapes: `stream` the salts of the lines joined, 16 bytes a line.
    Source: formats §1, §5.5.
    """
    size, frame_of = SALT_BYTES + 8, _Frames().__getitem__
    raw = memoryview(line_heads(buffer, stream))
    payloads = buffer.payloads()
    for first in range(0, len(buffer), FRAMED_AT_ONCE):
        some = payloads[first : first + FRAMED_AT_ONCE]
        heads = [head for (head,) in _HEAD.iter_unpack(raw[first * size : (first + FRAMED_AT_ONCE) * size])]
        yield LineParts(list(map(frame_of, map(len, some))), heads, some)


def line_heads(buffer: Buffer, stream: bytes) -> bytes:
    """Salt and position of every line, 24 bytes each, joined; `stream` as in `line_parts`."""
    places = buffer.positions[:]
    if sys.byteorder == "little":
        places.byteswap()
    # Salts and positions in columns of eight bytes: a tenth of the time of joining them line by line.
    drawn, everything = array("Q", stream), array("Q", bytes((SALT_BYTES + 8) * len(buffer)))
    everything[::3], everything[1::3], everything[2::3] = drawn[::2], drawn[1::2], places
    return everything.tobytes()


class _Frames(dict[int, bytes]):
    """What stands before salt and position in a flat, by the length of the payload: most lines of a log are of few lengths."""

    def __missing__(self, size: int) -> bytes:
        self[size] = frame = (LINE_HEAD_BYTES + size).to_bytes(4) + LINE_TAG
        return frame


FRAMED_AT_ONCE: Final = 512
"""So many lines are put together at a time: they stay in the processor's cache."""
_HEAD: Final = Struct(f"{SALT_BYTES + 8}s")


def open_line(d: bytes) -> tuple[bytes, Record]:
    """Salt and record of the d of a line. Raises: VerificationError if its form is wrong."""
    if not d.startswith(LINE_TAG) or len(d) < LINE_HEAD_BYTES:
        raise VerificationError("line has wrong form: expected tag, salt, position and payload")
    head = len(LINE_TAG) + SALT_BYTES
    return d[len(LINE_TAG) : head], Record(int.from_bytes(d[head:LINE_HEAD_BYTES]), d[LINE_HEAD_BYTES:])


def index_leaf(salt: bytes, counted: Counted) -> bytes:
    """The d of an index entry: tag, salt, keyword, n and its lines (formats §5.5)."""
    if {n for _, n in counted.lines} <= {1}:  # as of most words: a third of the time
        lines = ",1],[".join([str(line) for line, _ in counted.lines])
        lines = f"[{lines},1]" if lines else ""
    else:
        lines = ",".join([f"[{line},{n}]" for line, n in counted.lines])
    return f'["{INDEX_TAG}","{b64u(salt)}","{b64u(counted.keyword)}",{counted.n},[{lines}]]'.encode()


class IndexEntry(NamedTuple):
    """What an index leaf says."""

    salt: bytes
    keyword: bytes
    n: int
    lines: list[tuple[int, int]]


def open_index(text: JSONValue, *, lines: int) -> IndexEntry:
    """What the d of an index entry says of a slice of `lines` lines.

    Raises: VerificationError if it is not canonical, lines do not ascend below `lines`, a count is 0, or n is not their sum.
    Source: formats §4 check 28.
    """
    if isinstance(text, str) and INDEX_LEAF.fullmatch(text):
        _, salt, keyword, n, places = loads(text)
    else:
        salt, keyword, n, places = opened(text, INDEX_TAG, 4, "index leaf")
    found = occurrences(places, n, "index leaf", lines=lines)
    return IndexEntry(unbased(salt, "salt of an index leaf", SALT_BYTES), unbased(keyword, "keyword of an index leaf"), n, found)
