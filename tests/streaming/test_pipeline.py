"""From source to sink with time in the hands of the test: deadlines, silence, gaps, a sink that is away, restarts."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from collected_world import (
    KEYWORDS,
    ManualSleep,
    MemorySink,
    OpenAt,
    Tick,
    collecting,
    declaration,
    run_to_end,
    running,
    settled,
    until,
)  # fmt: skip

from models.declaration import Declaration
from models.errors import Malformed
from models.record import Position
from models.slice import SliceHeader
from streaming.http import Pushed
from streaming.pipeline import Collecting, Pipeline, State
from streaming.port import Batch, Source, SourceRefused, SourceUnavailable
from streaming.processing import Plan
from streaming.sink import FinishedSlice, SinkRefused
from streaming.slicer import CutRule
from streaming.stdin import StandardInput


class Producer:
    """Opens the queue of one producer, and is the producer."""

    def __init__(self, run: str = "run 0") -> None:
        self.run = run
        self.sources: list[Pushed] = []

    async def __call__(self, start: Position | None, identity: str | None) -> Source:
        self.sources.append(Pushed(self.run, start=start, previous=identity))
        return self.sources[-1]

    async def push(self, first: int, *lines: bytes) -> None:
        await self.sources[-1].push(first, lines)
        await settled()


def http(told: Collecting) -> Collecting:
    """The same for a stream that producers push."""
    data = told.plan.declaration.data.replace(b'"source":"test"', b'"source":"http:test"')
    return replace(told, plan=replace(told.plan, declaration=Declaration.parse(data)))


def told(*, seconds: float | None = None, lines: int = 100, max_silence_s: int = 100) -> tuple[Collecting, ManualSleep, Tick]:
    clock = Tick()
    sleep = ManualSleep(clock)
    base = http(collecting(cut=CutRule(lines=lines, seconds=seconds), max_silence_s=max_silence_s))
    return replace(base, clock=clock, sleep=sleep), sleep, clock


# --- time ------------------------------------------------------------------------------------------------------------


async def test_slice_is_cut_when_its_seconds_are_over() -> None:
    given, sleep, _ = told(seconds=5)
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink):
        await until(lambda: bool(producer.sources))
        await producer.push(0, b"one")
        await sleep.after(3)
        await producer.push(1, b"two")
        assert sink.slices == []
        await sleep.after(2.1)
        await until(lambda: len(sink.records) == 2)
        await sleep.after(5)
        assert len(sink.slices) == 1
    sink.check()


async def test_nothing_to_collect_gives_heartbeats_before_they_are_due() -> None:
    given, sleep, _ = told(max_silence_s=100)
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink):
        await until(lambda: bool(producer.sources))
        for number in range(3):
            await settled()
            await sleep.after(76)
            await until(lambda wanted=number + 1: len(sink.slices) == wanted)  # type: ignore[misc]
        await producer.push(0, b"one")
        await sleep.after(76)
        await until(lambda: len(sink.records) == 1)
    sink.check()
    assert sink.kinds[:4] == ["heartbeat"] * 3 + ["data"]
    for before, after in zip(sink.headers, sink.headers[1:], strict=False):
        assert before.next_by is not None
        assert after.created_at <= before.next_by


async def test_times_increase_though_the_clock_goes_back() -> None:
    given, sleep, clock = told(lines=1)
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink):
        await until(lambda: bool(producer.sources))
        for number in range(6):
            clock.advance(-3600 if number % 2 else 1)
            await producer.push(number, b"x")
        await until(lambda: len(sink.slices) == 6)
        await sleep.after(80)
        await until(lambda: len(sink.slices) == 7)
    sink.check()


async def test_silent_collector_is_told_of_within_one_deadline() -> None:
    given, _, clock = told(lines=1)
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink) as pipeline:
        await until(lambda: bool(producer.sources))
        await producer.push(0, b"x")
        await until(lambda: pipeline.progress.number == 0)
        assert not pipeline.progress.is_silent(clock())
        assert not pipeline.progress.is_silent(clock() + timedelta(seconds=90))
        assert pipeline.progress.is_silent(clock() + timedelta(seconds=101))


# --- the sink --------------------------------------------------------------------------------------------------------


async def test_sink_that_is_away_holds_the_source_back_and_loses_nothing() -> None:
    given, sleep, _ = told(lines=2)
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink) as pipeline:
        await until(lambda: bool(producer.sources))
        sink.down = True
        source = producer.sources[-1]
        for number in range(40):
            await source.push(number, [b"line %d" % number])
        await until(lambda: pipeline.progress.state == State.HELD)
        behind = source.behind()
        assert behind is not None
        assert behind > 20
        assert pipeline.progress.pending <= given.pending_slices + 2
        assert pipeline.progress.error == "service is away"
        sink.down = False
        await sleep.after(1)
        await until(lambda: len(sink.records) == 40)
        assert source.committed_up_to == 40
        assert pipeline.progress.error is None
    sink.check()
    assert sink.payloads == [b"line %d" % number for number in range(40)]


async def test_lost_answer_of_the_sink_doubles_nothing() -> None:
    given, sleep, _ = told(lines=1)
    producer, sink = Producer(), MemorySink(forget_answer=3)
    async with running(given, producer, sink):
        await until(lambda: bool(producer.sources))
        await producer.push(0, b"a", b"b", b"c")
        for _ in range(6):
            await sleep.after(1)
        await until(lambda: len(sink.slices) == 3)
    sink.check()
    assert sink.attempts >= 6


async def test_sink_that_refuses_ends_the_pipeline_with_its_reason() -> None:
    class Refusing(MemorySink):
        async def put(self, finished: FinishedSlice) -> None:
            raise SinkRefused("another slice has that number")

    given, _, _ = told(lines=1)
    producer = Producer()
    pipeline = Pipeline(given, producer, Refusing())
    task = asyncio.ensure_future(pipeline.run())
    await until(lambda: bool(producer.sources))
    await producer.push(0, b"a")
    with pytest.raises(SinkRefused):
        await asyncio.wait_for(task, 10)
    assert pipeline.progress.state == State.FAILED
    assert pipeline.progress.error == "another slice has that number"
    with pytest.raises(SourceUnavailable):
        await producer.sources[-1].push(1, [b"b"])


async def test_stop_ends_the_wait_for_a_sink_that_was_never_there() -> None:
    given, _, _ = told()
    pipeline = Pipeline(given, Producer(), MemorySink(down=True))
    task = asyncio.ensure_future(pipeline.run())
    await settled()
    pipeline.stop()
    assert (await asyncio.wait_for(task, 10)).state == State.STOPPED


# --- stopping and going on -------------------------------------------------------------------------------------------


async def test_stop_cuts_a_last_slice() -> None:
    given, _, _ = told()
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink):
        await until(lambda: bool(producer.sources))
        await producer.push(0, b"a", b"b")
    assert sink.payloads == [b"a", b"b"]
    assert sink.kinds == ["data"]


async def test_end_is_signed_and_nothing_follows_it() -> None:
    given, _, _ = told()
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink) as pipeline:
        await until(lambda: bool(producer.sources))
        await producer.push(0, b"a")
        pipeline.end("system is shut down")
    sink.check()
    assert sink.kinds == ["data", "end"]
    assert sink.headers[-1].next_by is None
    assert sink.headers[-1].reason == "system is shut down"
    with pytest.raises(Malformed, match="has ended"):
        await run_to_end(given, producer, sink)


async def test_records_the_producer_lost_are_a_gap() -> None:
    given, _, _ = told()
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink):
        await until(lambda: bool(producer.sources))
        await producer.push(0, b"a", b"b")
        await producer.sources[-1].lose(7, "disk of the producer was full")
        await producer.sources[-1].lose(5, "said again")
        await producer.push(7, b"h")
    sink.check()
    assert sink.kinds == ["data", "gap", "data"]
    assert (str(sink.headers[1].start), str(sink.headers[1].end)) == ("0:2", "0:7")
    assert sink.headers[1].reason == "disk of the producer was full"


async def test_gap_at_the_very_beginning_opens_the_stream() -> None:
    given, _, _ = told()
    producer, sink = Producer(), MemorySink()
    async with running(given, producer, sink):
        await until(lambda: bool(producer.sources))
        await producer.sources[-1].lose(3, "retention")
        await producer.push(3, b"d")
    sink.check()
    assert sink.kinds == ["gap", "data"]
    assert sink.headers[0].epoch is not None


async def test_producer_goes_on_where_the_sink_stands_after_a_crash() -> None:
    given, _, _ = told(lines=2)
    producer, sink = Producer(), MemorySink()
    task = asyncio.ensure_future(Pipeline(given, producer, sink).run())
    await until(lambda: bool(producer.sources))
    await producer.push(0, b"0", b"1", b"2")
    await until(lambda: len(sink.records) == 2)
    waiting = asyncio.ensure_future(producer.sources[-1].wait_committed(3))
    await settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(SourceUnavailable):
        await waiting
    async with running(given, producer, sink):
        await until(lambda: len(producer.sources) == 2)
        assert producer.sources[-1].expected == 2
        with pytest.raises(SourceRefused, match="expected number 2, got 3"):
            await producer.push(3, b"3")
        await producer.push(0, b"0", b"1", b"2", b"3")
        await producer.sources[-1].wait_committed(4)
    sink.check()
    assert sink.payloads == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("line", [b"a\nb", b"x" * ((1 << 20) + 1)])
async def test_refuses_pushed_records_that_are_no_lines(line: bytes) -> None:
    with pytest.raises(Malformed):
        await Pushed("run", start=None).push(0, [line])


async def test_pipe_is_collected_to_its_end() -> None:
    read_end, write_end = os.pipe()
    sink = MemorySink()

    async def open_at(start: Position | None, identity: str | None) -> Source:
        return StandardInput(read_end, start=start)

    os.write(write_end, b"one\ntwo\nlast")
    os.close(write_end)
    await run_to_end(collecting(), open_at, sink)
    os.close(read_end)
    sink.check()
    assert sink.payloads == [b"one", b"two", b"last"]


# --- the source ------------------------------------------------------------------------------------------------------


class Failing(Pushed):
    """Says the errors it is given before anything else."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__("run 0", start=None)
        self._errors = list(errors)

    async def __anext__(self) -> Batch:
        if self._errors and not self._queue:
            raise self._errors.pop(0)
        return await super().__anext__()


def always(source: Source) -> OpenAt:
    async def open_at(start: Position | None, identity: str | None) -> Source:
        return source

    return open_at


async def test_source_that_is_away_is_asked_again() -> None:
    given, sleep, _ = told()
    source = Failing(SourceUnavailable("broker is away"), SourceUnavailable("broker is away"))
    sink = MemorySink()
    async with running(given, always(source), sink) as pipeline:
        await until(lambda: pipeline.progress.state == State.WAITING)
        assert pipeline.progress.error == "broker is away"
        await sleep.after(1)
        await sleep.after(1)
        await source.push(0, [b"a"])
        await until(lambda: pipeline.progress.state == State.READING)
        assert pipeline.progress.error is None
    assert sink.payloads == [b"a"]


async def test_what_was_read_before_the_source_refused_is_kept() -> None:
    given, _, _ = told()
    source = Failing(SourceRefused("permission was taken away"))
    await source.push(0, [b"a"])
    sink = MemorySink()
    with pytest.raises(SourceRefused):
        await run_to_end(given, always(source), sink)
    assert sink.payloads == [b"a"]


async def test_refuses_a_source_of_another_kind_than_declared() -> None:
    with pytest.raises(Malformed, match="positions"):
        await run_to_end(collecting(), Producer(), MemorySink())


def test_refuses_keywords_or_secret_that_are_not_the_declarations() -> None:
    with pytest.raises(Malformed):
        Plan.of(declaration(), KEYWORDS[:1], secret=bytes(range(32)))
    with pytest.raises(Malformed):
        Plan.of(declaration(), KEYWORDS, secret=bytes(range(1, 33)))


# --- much -----------------------------------------------------------------------------------------------------------


async def test_memory_is_bounded_whatever_comes() -> None:
    """16 MiB of long lines to a sink that keeps nothing: never more than a few slices are held."""

    class Forgetting(MemorySink):
        header: SliceHeader | None = None

        async def put(self, finished: FinishedSlice) -> None:
            self.header = finished.header

        async def last(self) -> SliceHeader | None:
            return self.header

    class Endless(StandardInput):
        left = 64

        def _read(self) -> bytes:
            self.left -= 1
            return b"x" * (1 << 18) if self.left > 0 else b""

    sink = Forgetting()
    tracemalloc.start()
    await run_to_end(collecting(), always(Endless(0)), sink)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sink.header is not None
    assert sink.header.end == Position(0, 63 << 18)
    assert peak < 64 << 20
