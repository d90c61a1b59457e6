"""Records of a stream: where each stands, its bytes, and one contiguous buffer of them.

Everything that is done to a slice (salting, hashing, counting, compressing) reads this one buffer,
so that a native step can take it whole.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Final, NamedTuple

from models.canonical import JSONValue
from models.errors import Malformed

MAX_SLICE_BYTES: Final = 2 << 20
MAX_SLICE_RECORDS: Final = 1 << 16
MAX_PIECE_BYTES: Final = 1 << 20
ANSWERABLE_RECORDS: Final = 1 << 14
"""Up to so many records a slice can be shown whole within one JSON line of 4 MiB, whatever its lines are; cut there."""
MAX_OFFSET: Final = (1 << 63) - 1

_POSITION = re.compile(r"(0|[1-9][0-9]{0,15}):(0|[1-9][0-9]{0,18})", re.ASCII)
_NULL = 0xFFFFFFFF
_KAFKA_HEAD = 12


class Encoding(StrEnum):
    """What a payload is: the bytes of a line, or a Kafka record with time, key and value (formats §5.3)."""

    LINE = "line"
    KAFKA = "kafka"


class Position(NamedTuple):
    """A place in a stream: epochs count what the source was, offsets the place within it; as text `epoch:offset`."""

    epoch: int
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: JSONValue) -> Position:
        """The position that `text` states.

        Raises: Malformed if it is not epoch:offset in decimal without leading zeros.
        Source: formats §5.3.
        """
        match = _POSITION.fullmatch(text) if isinstance(text, str) else None
        if match is None or int(match[2]) > MAX_OFFSET:
            raise Malformed("position has wrong form: expected epoch:offset, for example 0:4096")
        return cls(int(match[1]), int(match[2]))


class Record(NamedTuple):
    """One record: its offset within the slice's epoch, and its bytes."""

    position: int
    payload: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """The records of a slice: payloads joined, where each starts in `data`, and its position in the source.

    Shapes: `offsets` u32 and `positions` u64, one each a record, ascending; `parts` the payloads one by one, where whoever made
        the buffer has them so; `tiled` if they are lines, at least one, none with an LF in it, that stood one behind the other:
        then the LF between any two is in `data` too, and positions ascend as offsets do.
    """

    data: bytes
    offsets: array[int]
    positions: array[int]
    parts: list[bytes] | None = field(default=None, repr=False)
    tiled: bool = False

    @classmethod
    def of(cls, records: Iterable[Record]) -> Buffer:
        """The buffer of `records`, in order.

        Raises: Malformed if there are more records or bytes than a slice holds, or positions do not ascend.
        Source: formats §11 (Streams: a slice holds ≤ 2 MiB of payload and ≤ 65,536 records).
        """
        parts: list[bytes] = []
        offsets, positions = array("I"), array("Q")
        size, last = 0, -1
        for position, payload in records:
            if not last < position <= MAX_OFFSET:
                raise Malformed(f"positions do not ascend: expected more than {last}, got {position}")
            offsets.append(size)
            positions.append(position)
            parts.append(payload)
            size += len(payload)
            last = position
            if size > MAX_SLICE_BYTES or len(parts) > MAX_SLICE_RECORDS:
                raise Malformed(f"slice is too large: expected at most {MAX_SLICE_BYTES} bytes and {MAX_SLICE_RECORDS} records")
        return cls(b"".join(parts), offsets, positions)

    @classmethod
    def of_lines(cls, text: bytes, start: int, lines: list[bytes], sizes: Iterable[int]) -> Buffer:
        """The buffer of `lines`, whose LF-joined `text` stood from `start` on in the source.

        Shapes: `lines` is text.split(LF), `sizes` the length of each.
        """
        offsets = list(accumulate([size + 1 for size in sizes], initial=0))
        offsets.pop()
        return cls(text, array("I", offsets), array("Q", [start + at for at in offsets]), lines, tiled=True)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size(self) -> int:
        """How many bytes the payloads have together."""
        return len(self.data) - (len(self) - 1 if self.tiled else 0)

    def ends(self) -> array[int]:
        """Where each payload ends in `data`."""
        ends = array("I", [start - 1 for start in self.offsets[1:]]) if self.tiled else self.offsets[1:]
        if self.offsets:
            ends.append(len(self.data))
        return ends

    def bounds(self) -> tuple[array[int], int]:
        """Where each payload starts, then where one more would, and how many bytes before the next one each ends.

        Shapes: n + 1 of u32, and 1 where lines are tiled, else 0.
        """
        gap = 1 if self.tiled else 0
        bounds = self.offsets[:]
        bounds.append(len(self.data) + gap)
        return bounds, gap

    def payloads(self) -> list[bytes]:
        """The payload of each record, in order."""
        if self.parts is not None:
            return self.parts
        data = self.data
        if self.tiled:
            return data.split(b"\n")
        return [data[start:end] for start, end in zip(self.offsets, self.ends(), strict=True)]

    def records(self) -> Iterator[Record]:
        """The records, in order."""
        for position, payload in zip(self.positions, self.payloads(), strict=True):
            yield Record(position, payload)


def buffer_of(records: Sequence[Record] | Buffer) -> Buffer:
    """`records` as a buffer; a buffer is given back as it is."""
    return records if isinstance(records, Buffer) else Buffer.of(records)


def kafka_payload(timestamp_ms: int, key: bytes | None, value: bytes | None) -> bytes:
    """The payload of a Kafka record.

    Shapes: i64 timestamp‖u32 length‖key‖u32 length‖value; length 0xFFFFFFFF is null.
    Source: formats §5.3.
    """
    parts = [timestamp_ms.to_bytes(8, signed=True)]
    for member in (key, value):
        parts += (_NULL.to_bytes(4), b"") if member is None else (len(member).to_bytes(4), member)
    return b"".join(parts)


def open_kafka(payload: bytes) -> tuple[int, bytes | None, bytes | None]:
    """Timestamp (milliseconds), key and value of a Kafka payload.

    Raises: Malformed if the lengths do not fill it exactly.
    """
    fields: list[bytes | None] = []
    at = 8
    for _ in range(2):
        length = int.from_bytes(payload[at : at + 4]) if len(payload) >= at + 4 else -1
        at += 4
        if length == _NULL:
            fields.append(None)
            continue
        member = payload[at : at + length] if length >= 0 else b""
        if length < 0 or len(member) != length:
            raise Malformed("payload is no Kafka record: expected time, key and value with their lengths")
        fields.append(member)
        at += length
    if at != len(payload):
        raise Malformed("payload is no Kafka record: it has bytes left over")
    return int.from_bytes(payload[:8], signed=True), fields[0], fields[1]


def counted_part(payload: bytes, encoding: str) -> bytes:
    """What of a payload keywords and rules are looked for in: a line whole, of a Kafka record its value.

    Raises: Malformed if the payload is not of that encoding.
    Source: formats §5.3.
    """
    if encoding != Encoding.KAFKA:
        return payload
    return open_kafka(payload)[2] or b""
