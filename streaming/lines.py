"""Bytes become lines: without LF, each at the offset of its first byte, cut into pieces where they are too long.

A file is restored byte for byte from its lines: the next position tells whether an LF followed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from models.record import MAX_PIECE_BYTES
from models.slice import Epoch
from streaming.port import Batch, LineByLine


class LineCutter:
    """Takes bytes as they come and gives the lines that are complete; holds at most one piece and what came last.

    Where pieces are cut depends on the bytes alone, never on how they arrived.

    Source: formats §5.3 (bytes without LF, position = byte offset, pieces at 1 MiB).
    """

    def __init__(self, offset: int = 0, *, limit: int = MAX_PIECE_BYTES) -> None:
        self.offset = offset
        """Where the bytes begin that were taken but not given yet."""
        self._pending = b""
        self._limit = limit

    @property
    def taken(self) -> int:
        """The offset behind all that was taken."""
        return self.offset + len(self._pending)

    def feed(self, chunk: bytes, *, epoch: int, opened: Epoch | None = None) -> Batch | None:
        """The lines that `chunk` completes, or None if it completes none."""
        lines = chunk.split(b"\n")
        if self._pending:
            lines[0] = self._pending + lines[0]
        rest = lines.pop()
        # Only the first can be longer than what came, and so than the limit where what came is not.
        longest = len(lines[0]) if lines else 0
        if len(rest) <= self._limit and max(longest, len(chunk)) <= self._limit:
            return self._batch(lines, rest, self.taken + len(chunk), epoch, opened)
        return self._cut(lines, rest, epoch, opened)

    def rest(self, *, epoch: int, opened: Epoch | None = None) -> Batch | None:
        """The last line, which no LF follows, or None if there is none."""
        if not self._pending:
            return None
        last, start, self._pending = self._pending, self.offset, b""
        self.offset = start + len(last)
        return Batch(epoch, self.offset, [last], [len(last)], (start,), opened)

    def _batch(self, lines: list[bytes], rest: bytes, behind: int, epoch: int, opened: Epoch | None) -> Batch | None:
        start, self._pending = self.offset, rest
        if not lines:
            return None
        self.offset = behind - len(rest)
        sizes = list(map(len, lines))
        return Batch(epoch, self.offset, lines, sizes, LineByLine(start, sizes), opened)

    def _cut(self, lines: list[bytes], rest: bytes, epoch: int, opened: Epoch | None) -> Batch:
        pieces: list[bytes] = []
        positions = array("Q")
        at = self.offset
        for line in lines:
            for piece in self._pieces(line):
                positions.append(at)
                pieces.append(piece)
                at += len(piece)
            at += 1
        while len(rest) > self._limit:
            positions.append(at)
            pieces.append(rest[: self._limit])
            rest = rest[self._limit :]
            at += self._limit
        self.offset, self._pending = at, rest
        return Batch(epoch, at, pieces, list(map(len, pieces)), positions, opened)

    def _pieces(self, line: bytes) -> Iterable[bytes]:
        if len(line) <= self._limit:
            return (line,)
        return (line[at : at + self._limit] for at in range(0, len(line), self._limit))
