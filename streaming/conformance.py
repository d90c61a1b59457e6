"""The laws of the source port, one test each: a suite that every source must pass unchanged.

A source's test file says

    class TestLaws(SourceLaws):
        ...

and gives a fixture `origin`: something real that the source reads from, which a test may write to
and open a source of. Nothing here knows a source: only the port and the harness.
"""

# ruff: noqa: D102, S101 - these are tests: each is named as the law it checks, and assert is how a test speaks
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import pytest

from models.record import Position, Record
from streaming.port import Batch, Source, SourceGap, SourceUnavailable

PATIENCE_S = 20.0
QUIET_S = 0.6


class Origin(Protocol):
    """What a source reads from, in the hands of a test. Payloads are whatever the source makes of the lines written."""

    rereadable: bool
    """Whether what was read once can be read again, from any position."""
    loses: bool
    """Whether it can lose records before they are read, which `lose_before` then brings about."""

    async def open(self, start: Position | None = None, identity: str | None = None, *, follow: bool = True) -> Source:
        """A source of it."""

    async def write(self, lines: Sequence[bytes]) -> None:
        """The lines come after all that were written before."""

    def line_of(self, payload: bytes) -> bytes:
        """The line that a payload was made of."""

    async def lose_before(self, record: int) -> None:
        """Of all that was written, the records before number `record` are gone."""

    async def make_anew(self) -> None:
        """It is another from here on, under the same address and empty."""

    async def finish(self) -> None:
        """Nothing more will be written; a source that only so finds its end does now."""


def numbered(start: int, end: int) -> list[bytes]:
    """Lines that all differ."""
    return [b"line %d of the origin" % number for number in range(start, end)]


class Read:
    """What came of a source: records with their epochs, gaps, what epochs said of themselves."""

    def __init__(self) -> None:
        self.records: list[tuple[int, Record]] = []
        self.gaps: list[tuple[Position, Position]] = []
        self.batches: list[Batch] = []
        self.end = Position(0, 0)

    def take(self, batch: Batch) -> None:
        self.batches.append(batch)
        records = list(batch.records())
        assert all(first.position < second.position < batch.end for first, second in pairwise(records))
        assert not records or records[-1].position < batch.end
        self.records += [(batch.epoch, record) for record in records]
        self.end = Position(batch.epoch, batch.end)

    def lines(self, origin: Origin) -> list[bytes]:
        return [origin.line_of(record.payload) for _, record in self.records]

    @property
    def epochs(self) -> list[int]:
        return sorted({batch.epoch for batch in self.batches})


async def read(source: Source, *, count: int | None = None, into: Read | None = None) -> Read:
    """What the source gives until there are `count` records, or to its end."""
    found = into or Read()
    async with asyncio.timeout(PATIENCE_S):
        while count is None or len(found.records) < count:
            try:
                found.take(await anext(source))
            except StopAsyncIteration:
                break
            except SourceGap as gap:
                found.gaps.append((gap.start, gap.end))
    return found


class SourceLaws:
    """Every source keeps these."""

    async def test_gives_what_was_written_in_order_and_once(self, origin: Origin) -> None:
        await origin.write(numbered(0, 50))
        source = await origin.open()
        found = await read(source, count=50)
        await origin.write(numbered(50, 80))
        await read(source, count=80, into=found)
        await source.aclose()
        assert found.lines(origin) == numbered(0, 80)
        assert [position for _, (position, _) in found.records] == sorted({position for _, (position, _) in found.records})

    async def test_first_batch_says_what_the_source_is(self, origin: Origin) -> None:
        await origin.write(numbered(0, 1))
        source = await origin.open()
        found = await read(source, count=1)
        await source.aclose()
        opened = found.batches[0].opened
        assert opened is not None
        assert opened.identity == source.identity
        assert found.epochs == [0]
        assert all(batch.opened is None for batch in found.batches[1:])

    async def test_goes_on_at_the_exact_position(self, origin: Origin) -> None:
        await origin.write(numbered(0, 20))
        source = await origin.open()
        found = await read(source, count=20)
        identity = source.identity
        await source.aclose()
        if not origin.rereadable:
            return
        for place in (0, 1, 7, 19):
            again = await origin.open(Position(0, found.records[place][1].position), identity)
            rest = await read(again, count=20 - place)
            await again.aclose()
            assert rest.records == found.records[place:]
            assert all(batch.opened is None for batch in rest.batches)

    async def test_end_of_a_batch_is_where_the_next_one_begins(self, origin: Origin) -> None:
        await origin.write(numbered(0, 10))
        source = await origin.open()
        found = await read(source, count=10)
        identity = source.identity
        await source.aclose()
        if not origin.rereadable:
            return
        await origin.write(numbered(10, 15))
        again = await origin.open(found.end, identity)
        rest = await read(again, count=5)
        await again.aclose()
        assert rest.lines(origin) == numbered(10, 15)

    async def test_source_that_is_not_followed_ends_at_its_present_end(self, origin: Origin) -> None:
        await origin.write(numbered(0, 10))
        await origin.finish()
        source = await origin.open(follow=False)
        found = await read(source)
        with pytest.raises(StopAsyncIteration):
            await anext(source)
        await source.aclose()
        assert found.lines(origin) == numbered(0, 10)

    async def test_waits_while_there_is_nothing(self, origin: Origin) -> None:
        await origin.write(numbered(0, 1))
        source = await origin.open()
        found = await read(source, count=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await read(source, count=2, into=found)
        await origin.write(numbered(1, 2))
        await read(source, count=2, into=found)
        await source.aclose()
        assert found.lines(origin) == numbered(0, 2)

    async def test_cancelled_read_loses_nothing(self, origin: Origin) -> None:
        source = await origin.open()
        found = Read()
        for number in range(8):
            waiting = asyncio.ensure_future(anext(source))
            await asyncio.sleep(0)
            await origin.write(numbered(number, number + 1))
            await asyncio.sleep(0.02 * (number % 3))
            if waiting.done():
                found.take(waiting.result())
            else:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        await read(source, count=8, into=found)
        await source.aclose()
        assert found.lines(origin) == numbered(0, 8)

    async def test_reader_that_does_not_ask_holds_the_source_back(self, origin: Origin) -> None:
        """What was not asked for is not in memory but in the origin: it is all there later, in batches of bounded size."""
        writing = asyncio.ensure_future(origin.write([b"%06d " % number + b"x" * 1000 for number in range(6000)]))
        source = await origin.open()
        await asyncio.sleep(0.1)
        found = await read(source, count=6000)
        await writing
        await source.aclose()
        assert len({record.payload for _, record in found.records}) == 6000
        assert max(batch.size for batch in found.batches) <= 4 << 20

    async def test_committed_position_is_taken_at_any_time(self, origin: Origin) -> None:
        await origin.write(numbered(0, 5))
        source = await origin.open()
        found = await read(source, count=5)
        source.committed(found.end)
        source.committed(Position(0, 0))
        behind = source.behind()
        await source.aclose()
        assert behind is None or behind >= 0

    async def test_closed_source_says_that_it_is_unavailable(self, origin: Origin) -> None:
        await origin.write(numbered(0, 1))
        source = await origin.open()
        await source.aclose()
        await source.aclose()
        with pytest.raises(SourceUnavailable):
            await anext(source)

    async def test_what_is_made_anew_opens_an_epoch(self, origin: Origin) -> None:
        await origin.write(numbered(0, 5))
        source = await origin.open()
        found = await read(source, count=5)
        identity = source.identity
        await source.aclose()
        await origin.make_anew()
        await origin.write(numbered(100, 110))
        again = await origin.open(found.end, identity)
        rest = await read(again, count=10)
        await again.aclose()
        assert rest.lines(origin) == numbered(100, 110)
        assert rest.epochs == [1]
        assert rest.batches[0].opened is not None
        assert not rest.batches[0].opened.previous_complete

    async def test_what_is_gone_is_a_gap_and_never_skipped(self, origin: Origin) -> None:
        if not origin.loses:
            return
        await origin.write(numbered(0, 10))
        await origin.lose_before(4)
        source = await origin.open()
        found = await read(source, count=6)
        identity = source.identity
        await source.aclose()
        assert found.lines(origin) == numbered(4, 10)
        assert found.gaps == [(Position(0, 0), Position(0, found.records[0][1].position))]
        await origin.write(numbered(10, 20))
        await origin.lose_before(15)
        again = await origin.open(found.end, identity)
        rest = await read(again, count=5)
        await again.aclose()
        assert rest.lines(origin) == numbered(15, 20)
        assert rest.gaps == [(found.end, Position(0, rest.records[0][1].position))]
