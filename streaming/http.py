"""A source that is fed: a producer pushes numbered records, and is told what of them is committed.

The producer numbers its records from 0 without a hole, and sends again what it got no answer for;
the number is the position. What is not committed when the process dies is the producer's to send
again, from the number it is told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Self

from models.errors import Malformed
from models.record import MAX_PIECE_BYTES, Encoding, Position, Record
from models.slice import Epoch
from streaming.port import Batch, SourceGap, SourceRefused, SourceUnavailable

QUEUE_BYTES: Final = 8 << 20
_RECORD_OVERHEAD: Final = 100
_FIRST = "first slice of the stream"
_REMADE = "producer began its numbers anew"


class Pushed:
    """Records pushed by one producer; see `Source`.

    `push` waits while more than `queue_bytes` are not read yet, so that the producer is held back.
    """

    encoding = Encoding.LINE
    bytewise = False

    def __init__(
        self, identity: str, *, start: Position | None, previous: str | None = None, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        self._identity = identity
        self._limit = queue_bytes
        remade = start is not None and previous != identity
        self._epoch = 0 if start is None else start.epoch + remade
        self._opening = Epoch(identity, start is None, _FIRST if start is None else _REMADE) if start is None or remade else None
        self._next = 0 if start is None or remade else start.offset
        """The number that the next record pushed has."""
        self._read_up_to = self._next
        self._committed = self._next
        self._queue: deque[Batch | SourceGap] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()
        self._ended = False
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def identity(self) -> str:
        """What the producer calls itself in this run of numbers."""
        return self._identity

    # --- the producer's side ----------------------------------------------------------------------------------------

    @property
    def expected(self) -> int:
        """The number of the next record that was not taken yet."""
        return self._next

    @property
    def committed_up_to(self) -> int:
        """All records below this number are durable."""
        return self._committed

    async def push(self, first: int, payloads: Sequence[bytes]) -> int:
        """Takes the records numbered from `first` on, leaving out those it has; the number that is expected next.

        Idempotent: the same records pushed again are left out. Taken is not committed: see `wait_committed`.

        Raises: Malformed if a payload is longer than 1 MiB or holds LF; SourceRefused if numbers below `first`
            were never pushed; SourceUnavailable once closed.
        """
        if first < 0:
            raise Malformed(f"number of a record is below 0: got {first}")
        for number, payload in enumerate(payloads, first):
            if len(payload) > MAX_PIECE_BYTES or b"\n" in payload:
                raise Malformed(f"record is no line: expected at most {MAX_PIECE_BYTES} bytes without LF (record {number})")
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._ended or self._bytes < self._limit or not self._bytes)
            self._check_open()
            if first > self._next:
                raise SourceRefused(
                    f"records are missing: expected number {self._next}, got {first}",
                    hint="send the missing records, or say that they are lost",
                )
            fresh = list(payloads[self._next - first :])
            if fresh:
                records = [Record(self._next + place, payload) for place, payload in enumerate(fresh)]
                self._next += len(fresh)
                self._put(Batch.of(records, epoch=self._epoch, end=self._next, opened=self._opening))
                self._opening = None
                self._changed.notify_all()
            return self._next

    async def lose(self, end: int, reason: str) -> None:
        """The records up to number `end` are lost at the producer: recorded as a gap. Idempotent.

        Raises: SourceUnavailable once closed.
        """
        async with self._changed:
            self._check_open()
            if end > self._next:
                if self._opening is not None:
                    self._put(Batch(self._epoch, self._next, opened=self._opening))
                    self._opening = None
                self._put(SourceGap(Position(self._epoch, self._next), Position(self._epoch, end), reason))
                self._next = end
                self._changed.notify_all()

    async def wait_committed(self, number: int) -> None:
        """All records below `number` are durable. Raises: SourceUnavailable if the source closes before."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._committed >= number)
            if self._committed < number:
                raise SourceUnavailable("collector stopped before the records were committed", hint="send them again")

    async def end(self) -> None:
        """Nothing more will be pushed: the source ends when all is read."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closed or self._ended:
            raise SourceUnavailable("collector takes no records now", hint="send them again later")

    def _put(self, entry: Batch | SourceGap) -> None:
        self._queue.append(entry)
        if isinstance(entry, Batch):
            self._bytes += entry.size + _RECORD_OVERHEAD * len(entry)

    # --- the reader's side ------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        async with self._changed:
            await self._changed.wait_for(lambda: self._queue or self._ended or self._closed)
            if self._closed:
                raise SourceUnavailable("queue of pushed records was closed")
            if not self._queue:
                raise StopAsyncIteration
            entry = self._queue.popleft()
            if isinstance(entry, SourceGap):
                self._read_up_to = entry.end.offset
                raise entry
            self._bytes -= entry.size + _RECORD_OVERHEAD * len(entry)
            self._read_up_to = entry.end
            self._changed.notify_all()
            return entry

    def behind(self) -> int | None:
        """Records that were pushed and not read yet."""
        return self._next - self._read_up_to

    def committed(self, position: Position) -> None:
        """The producer may forget all before `position`."""
        if position.epoch == self._epoch and position.offset > self._committed:
            self._committed = position.offset
            self._wake()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Nothing is taken and nothing waited for any more; records not committed are the producer's to send again."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()


async def open_source(url: str, *, start: Position | None, identity: str | None, follow: bool, key: bytes) -> Pushed:
    """The queue of the producer named in `http:NAME`; see `streaming.port.OpenSource`. The service feeds it."""
    del follow, key
    name = url.removeprefix("http:")
    if name == url or not name or len(name) > 128:
        raise Malformed("source has wrong form: expected http:PRODUCER, as the producer calls itself")
    return Pushed(f"producer {name}", start=start, previous=identity)
