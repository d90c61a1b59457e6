"""When a slice is full: by lines, bytes, seconds or a business attribute, whichever comes first.

Nothing here reads a clock or a source: batches go in, the records of full slices come out, and time
is told by the caller. Records that come twice are dropped by position.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Final, NamedTuple

from models.errors import Malformed
from models.extraction import Rule, values_in
from models.record import (
    ANSWERABLE_RECORDS,
    MAX_SLICE_BYTES,
    Buffer,
    Encoding,
    Position,
    counted_part,
    open_kafka,
)
from models.slice import Epoch
from streaming.port import Batch, LineByLine

DEFAULT_LINES: Final = 10_000
_AHEAD: Final = 512
"""So many records are looked at ahead, so that small slices of a large batch do not each look at all of it."""


@dataclass(frozen=True, slots=True)
class MessageKey:
    """A slice holds records of one message key: it ends where the key of a Kafka record changes."""


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A slice holds records with one value of a field: it ends where the first value of `rule` in a record changes.

    A record without the field belongs to the slice it comes in.
    """

    rule: Rule


Attribute = MessageKey | FieldValue
"""What of a record can end a slice. There are no patterns: a rule is declared in bytes (formats §5.9)."""


@dataclass(frozen=True, slots=True)
class CutRule:
    """When a slice ends: at the first of these that is reached; a limit of the formats always holds.

    Shapes: 1 ≤ lines ≤ 16,384, so that an answer can show a slice whole; 1 ≤ bytes ≤ 2 MiB of payload; `seconds` from its
        first record on, None: no such limit.
    Source: T/SAC 004—2024 C.3-a (frequency), C.3-b (size), C.3-c (business attribute).
    """

    lines: int = DEFAULT_LINES
    bytes: int = MAX_SLICE_BYTES
    seconds: float | None = 10.0
    attribute: Attribute | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.lines <= ANSWERABLE_RECORDS:
            raise Malformed(f"lines of a slice are out of range: expected 1 to {ANSWERABLE_RECORDS}, got {self.lines}")
        if not 1 <= self.bytes <= MAX_SLICE_BYTES:
            raise Malformed(f"bytes of a slice are out of range: expected 1 to {MAX_SLICE_BYTES}, got {self.bytes}")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise Malformed("seconds of a slice are out of range: expected more than 0")


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """The records of one slice, in one buffer, and the positions it stands for."""

    buffer: Buffer
    start: Position
    end: Position
    pieces: int
    epoch: Epoch | None


class Slicer:
    """Collects batches into slices; what is not full yet stays open.

    `position` is where the next slice begins or the open one ends: all before it is in slices or in the open one.
    """

    def __init__(
        self, rule: CutRule, position: Position, *, encoding: str = Encoding.LINE, bytewise: bool = True
    ) -> None:
        if isinstance(rule.attribute, MessageKey) and encoding != Encoding.KAFKA:
            raise Malformed("slices by message key need a source of messages: lines have no key")
        self.position = position
        self._rule = rule
        self._encoding = encoding
        self._bytewise = bytewise
        self._start = position
        self._opened: Epoch | None = None
        self._parts: list[_Part] = []
        self._value: bytes | None = None
        self.lines = 0
        self.bytes = 0
        """Records and payload bytes of the open slice."""

    @property
    def start(self) -> Position:
        """Where the open slice began, or the next one will."""
        return self._start

    # --- epochs -----------------------------------------------------------------------------------------------------

    def open_epoch(self, number: int, epoch: Epoch) -> None:
        """The next slice begins epoch `number`. The open slice has been taken before."""
        if self.lines:
            raise Malformed("epoch changes within a slice: the open slice is taken first")
        self.position = self._start = Position(number, 0)
        self._opened = epoch

    def skip(self, end: Position) -> None:
        """What lies before `end` is not collected: a gap was recorded for it. The open slice has been taken before."""
        if self.lines:
            raise Malformed("gap lies within a slice: the open slice is taken first")
        self.position = self._start = end

    @property
    def opened(self) -> Epoch | None:
        """The epoch that the next slice has to name, if it is the first of it."""
        return self._opened

    def named(self) -> Epoch | None:
        """The epoch that a slice names which is made now; the next one no longer does."""
        epoch, self._opened = self._opened, None
        return epoch

    # --- records ----------------------------------------------------------------------------------------------------

    def add(self, batch: Batch) -> Iterator[Filled]:
        """Every slice that `batch` fills, one by one as the caller asks; the rest of it is in the open slice at the end."""
        positions, begins, count = batch.positions, self.position.offset, len(batch)
        at = 0 if not count or positions[0] >= begins else bisect_left(positions, begins)
        tiled = isinstance(positions, LineByLine)
        first = positions[at] if at < count else 0
        while at < count:
            sizes = self._room(batch, at)
            if sizes:
                self._keep(batch, at, sizes, first)
                at += len(sizes)
                # Of lines one behind the other the next stands where the last ended: to ask again would be to add all up again.
                first = self.position.offset if tiled or at == count else positions[at]
            if at < count or self._is_full():
                filled = self.take()
                if filled is not None:
                    yield filled
        if batch.end > self.position.offset:
            self.position = Position(self.position.epoch, batch.end)

    def take(self) -> Filled | None:
        """The open slice, which is closed by it; None if it holds no record."""
        if not self._parts:
            return None
        buffer = _joined(self._parts)
        # A record is followed by its LF iff the next position says so: what the range has beyond the payloads are LFs.
        size = self.position.offset - self._start.offset
        pieces = self.lines - (size - self.bytes) if self._bytewise else 0
        filled = Filled(buffer, self._start, self.position, max(0, pieces), self.named())
        self._start = self.position
        self._parts, self.lines, self.bytes, self._value = [], 0, 0, None
        return filled

    def _is_full(self) -> bool:
        return self.lines >= self._rule.lines or self.bytes >= self._rule.bytes

    def _room(self, batch: Batch, at: int) -> list[int]:
        """The sizes of the records from `at` on that still belong to the open slice."""
        most, limit = self._rule.lines - self.lines, self._rule.bytes - self.bytes
        sizes: list[int] = []
        size = 0
        while size <= limit and (some := batch.sizes[at + len(sizes) : at + min(most, len(sizes) + _AHEAD)]):
            sizes += some
            size += sum(some)
        if size > limit:
            del sizes[bisect_right(list(accumulate(sizes)), limit) :]
        if not sizes and not self.lines:
            sizes = [batch.sizes[at]]  # a record larger than the rule allows is a slice of its own
        if self._rule.attribute is not None:
            del sizes[self._same_value(batch, at, at + len(sizes)) :]
        return sizes

    def _same_value(self, batch: Batch, start: int, end: int) -> int:
        for number in range(start, end):
            value = self._value_of(batch.payloads[number])
            if value is None:
                continue
            if self._value is None:
                self._value = value
            elif value != self._value:
                return number - start
        return max(0, end - start)

    def _value_of(self, payload: bytes) -> bytes | None:
        if isinstance(self._rule.attribute, FieldValue):
            found = values_in(counted_part(payload, self._encoding), self._rule.attribute.rule)
            return found[0] if found else None
        return open_kafka(payload)[1]

    def _keep(self, batch: Batch, start: int, sizes: list[int], first: int) -> None:
        end = start + len(sizes)
        payloads, positions = batch.payloads[start:end], batch.positions
        size = sum(sizes)
        if isinstance(positions, LineByLine):
            behind = first + size + len(sizes)
            self._parts.append(_Part(payloads, sizes, LineByLine(first, sizes), behind))
        else:
            behind = positions[end] if end < len(batch) else batch.end
            self._parts.append(_Part(payloads, sizes, positions[start:end], -1))
        self.lines += len(sizes)
        self.bytes += size
        self.position = Position(self.position.epoch, behind)


class _Part(NamedTuple):
    """What of a batch is in the open slice; `behind` is where lines end that stand one behind the other, else -1."""

    payloads: list[bytes]
    sizes: list[int]
    positions: Sequence[int]
    behind: int


def _joined(parts: list[_Part]) -> Buffer:
    """One buffer of all; no byte is copied before."""
    payloads = list(chain.from_iterable(part.payloads for part in parts))
    sizes = chain.from_iterable(part.sizes for part in parts)
    if all(before.behind == after.positions[0] for before, after in pairwise(parts)) and parts[-1].behind >= 0:
        return Buffer.of_lines(b"\n".join(payloads), parts[0].positions[0], payloads, sizes)
    offsets, positions = array("I", accumulate(sizes, initial=0)), array("Q")
    offsets.pop()
    for part in parts:
        positions.extend(part.positions)
    return Buffer(b"".join(payloads), offsets, positions, payloads)
