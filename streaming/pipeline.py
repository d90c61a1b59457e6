"""From a source to a sink: read, cut, process, hand over; in bounded memory, and never a record lost or doubled.

Two tasks run for each stream, with a bounded queue between them: one reads and makes slices, the
other puts them into the sink. What is slow holds back what is before it, down to the source. A slice
that the sink cannot take now is tried again; what was read but not taken is read again after a
restart, from where the last header ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

from models.anchor import BlockRef
from models.errors import EvidenceError, Malformed
from models.record import Buffer, Encoding, Position
from models.recount import counts_bytes
from models.slice import Epoch, Kind, SliceHeader
from streaming.port import Batch, Source, SourceGap, SourceUnavailable
from streaming.processing import Plan, Process, process
from streaming.sink import FinishedSlice, Sink, SinkUnavailable
from streaming.slicer import CutRule, Filled, Slicer

SECRET_BYTES: Final = 32
_RETRY_FIRST_S: Final = 0.2
_RETRY_MOST_S: Final = 30.0
_SIGN_OF_LIFE: Final = 0.75
"""After this share of the declared silence a slice is cut or a heartbeat made, so that it is there before the deadline."""
_MILLISECOND: Final = timedelta(milliseconds=1)
_JUST_NOW: Final = timedelta(seconds=1)
_NOTHING: Final = Buffer.of(())
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TIME_MS: Final = 253_402_300_800_000
T = TypeVar("T")


class State(StrEnum):
    """What a pipeline is doing."""

    STARTING = "starting"
    READING = "reading"
    WAITING = "waiting for the source"
    HELD = "held back by the sink"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one stream is: for lists, metrics and alarms. Positions, times and numbers only.

    `next_by` is when the next slice must be there; `behind` what the source has that was not read, in
    its offsets; `pending` the slices that the sink has not taken yet.
    """

    stream_id: str
    state: State = State.STARTING
    number: int | None = None
    position: Position | None = None
    created_at: datetime | None = None
    next_by: datetime | None = None
    behind: int | None = None
    pending: int = 0
    lines: int = 0
    payload_bytes: int = 0
    slices: int = 0
    retries: int = 0
    error: str | None = None

    def is_silent(self, now: datetime) -> bool:
        """Whether the slice that was due by now is missing: the alarm of a collector that does nothing."""
        return self.next_by is not None and now > self.next_by


@dataclass(frozen=True, slots=True)
class Collecting:
    """What a pipeline is told: what to collect, when to cut, and what it may not make up itself.

    `sleep` and `clock` are the only time there is; `randomness` gives the secret of each slice;
    `after` the newest final block of each chain that stood at the time of a slice.
    """

    plan: Plan
    cut: CutRule
    clock: Callable[[], datetime]
    randomness: Callable[[int], bytes]
    after: Callable[[datetime], Sequence[BlockRef]] = field(default=lambda _at: ())
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    step: Process = process
    executor: Executor | None = None
    pending_slices: int = 4

    @property
    def silence(self) -> timedelta:
        """How long nothing may happen before a sign of life is due."""
        return timedelta(seconds=self.plan.declaration.max_silence_s * _SIGN_OF_LIFE)


class _Stopped(Exception):
    """The pipeline was asked to stop: the open slice is cut, and that is all."""


_Event = Batch | EvidenceError | None
"""What was read: records, a gap, the error with which the source refused, or its end."""

OpenAt = Callable[[Position | None, str | None], Awaitable[Source]]
"""Opens the source at the position and identity that the last header states."""


class Pipeline:
    """One stream from its source to its sink. `run` it once; `stop` it when it is enough.

    Cancelling `run` leaves at once: what the sink has not taken is read again next time, by sources that can be read again.
    """

    def __init__(self, collecting: Collecting, open_at: OpenAt, sink: Sink) -> None:
        self._told = collecting
        self._declaration = collecting.plan.declaration
        self._open_at = open_at
        self._sink = sink
        self._finished: asyncio.Queue[FinishedSlice | None] = asyncio.Queue(collecting.pending_slices)
        self._stopping = asyncio.Event()
        self._end_reason: str | None = None
        self._source: Source
        self._slicer: Slicer
        self._last: SliceHeader | None = None
        self._epoch: int | None = None
        self._since: datetime | None = None
        self._made_at: datetime | None = None
        self.progress = Progress(self._declaration.stream_id)

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> Progress:
        """Collects until the source ends or `stop` is called; then all that was collected is in the sink.

        A source that is not followed ends at its present end, which makes this one pass.

        Raises: Malformed if source and declaration do not fit or the stream has ended; SourceRefused and SinkRefused. What
            was collected before a source refused is in the sink.
        """
        try:
            if await self._resume():
                try:
                    await self._run_tasks()
                finally:
                    await self._source.aclose()
        except BaseException as error:
            self._tell(state=State.FAILED, error=error.message if isinstance(error, EvidenceError) else type(error).__name__)
            raise
        self._tell(state=State.STOPPED)
        return self.progress

    def stop(self) -> None:
        """What is collected so far is cut into a last slice, and `run` returns when the sink has it."""
        self._stopping.set()

    def end(self, reason: str) -> None:
        """As `stop`, and the stream is ended for ever: its last slice says so, and why."""
        self._end_reason = reason
        self._stopping.set()

    def behind(self) -> int | None:
        """How much the source has now that was not read; None while source or sink cannot be asked, or it cannot say."""
        if self.progress.error is not None or not hasattr(self, "_source"):
            return None
        return self._source.behind()

    async def _run_tasks(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hand_over())
                failure = await self._cut()
                await self._finished.put(None)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        if failure is not None:
            raise failure

    async def _resume(self) -> bool:
        """Learns where the stream stands and opens the source there; whether it was not stopped before."""
        try:
            self._last = last = await self._patiently(self._sink.last, self._stopping)
            identity = await self._patiently(self._sink.identity, self._stopping)
            if last is not None:
                if last.kind == Kind.END:
                    raise Malformed(f"stream has ended: nothing follows its last slice ({last.slice_id})")
                self._epoch = last.end.epoch
                self._tell(number=last.number, position=last.end, created_at=last.created_at, next_by=last.next_by)
            start = None if last is None else last.end
            self._source = await self._patiently(lambda: self._open_at(start, identity), self._stopping)
        except _Stopped:
            return False
        declared, source = self._declaration.encoding, self._source
        if source.encoding != declared or source.bytewise != counts_bytes(self._declaration):
            await source.aclose()
            raise Malformed(f"source gives other records or positions than the stream is declared with: expected {declared}")
        self._slicer = Slicer(self._told.cut, start or Position(0, 0), encoding=declared, bytewise=self._source.bytewise)
        self._made_at = self._told.clock()
        return True

    async def _patiently(self, attempt: Callable[[], Awaitable[T]], unless: asyncio.Event | None = None) -> T:
        """What `attempt` gives as soon as it gives anything. Raises: what is no matter of waiting; _Stopped."""
        wait_s = _RETRY_FIRST_S
        while True:
            try:
                done = await attempt()
            except (SinkUnavailable, SourceUnavailable) as error:
                self._tell(error=error.message, retries=self.progress.retries + 1)
                await self._wait(wait_s, unless)
                wait_s = min(2 * wait_s, _RETRY_MOST_S)
            else:
                self._tell(error=None)
                return done

    async def _wait(self, seconds: float, unless: asyncio.Event | None) -> None:
        if unless is None:
            await self._told.sleep(seconds)
            return
        tasks = [asyncio.ensure_future(self._told.sleep(seconds)), asyncio.ensure_future(unless.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(*tasks)
        if unless.is_set():
            raise _Stopped

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _next(self) -> _Event:
        """What the source gives next, as soon as it can.

        It is asked when that is wanted and not before: so it is held back, and reading does not take turns with the step on
        one interpreter.
        """
        wait_s = _RETRY_FIRST_S
        event: _Event
        while True:
            try:
                event = await anext(self._source)
            except StopAsyncIteration:
                event = None
            except SourceGap as gap:
                event = gap
            except SourceUnavailable as error:
                self._tell(state=State.WAITING, error=error.message, retries=self.progress.retries + 1)
                await self._told.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_MOST_S)
                continue
            except EvidenceError as error:
                event = error
            if wait_s > _RETRY_FIRST_S:
                self._tell(error=None)
            return event

    async def _cut(self) -> EvidenceError | None:
        """Makes slices of what is read until there is no more; the error with which the source refused, if it did."""
        waiting: asyncio.Task[_Event] | None = None
        stop = asyncio.ensure_future(self._stopping.wait())
        failure: EvidenceError | None = None
        try:
            while not self._stopping.is_set():
                waiting = waiting or asyncio.ensure_future(self._next())
                if not await self._is_there(waiting, stop):
                    await self._sign_of_life()
                    continue
                if not waiting.done():
                    break
                event, waiting = waiting.result(), None
                if event is None or (isinstance(event, EvidenceError) and not isinstance(event, SourceGap)):
                    failure = event
                    break
                await self._take(event)
            if waiting is not None:
                await self._drain(waiting)
            await self._last_slice()
        finally:
            await _cancel(stop, *([waiting] if waiting else []))
        return failure

    async def _is_there(self, waiting: asyncio.Task[_Event], stop: asyncio.Future[Any]) -> bool:
        """Whether something was read or `stop` called before the next slice is due."""
        left_s = self._left_s()
        if left_s <= 0:
            return False
        timer = asyncio.ensure_future(self._told.sleep(left_s))
        try:
            await asyncio.wait((waiting, stop, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        return waiting.done() or stop.done()

    async def _drain(self, waiting: asyncio.Task[_Event]) -> None:
        """Takes what was read before the stop: some sources cannot be read again."""
        await _cancel(waiting)
        if not waiting.cancelled():
            event = waiting.result()
            if isinstance(event, Batch | SourceGap):
                await self._take(event)

    # --- time -------------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        """The clock; where it went back, what is measured from begins now."""
        now = self._told.clock()
        if self._since is not None and now < self._since:
            self._since = now
        if self._made_at is not None and now < self._made_at:
            self._made_at = now
        return now

    def _due(self) -> datetime:
        """When the open slice has to be cut, or a sign of life given."""
        now = self._now()
        due = (self._made_at or now) + self._told.silence
        if self._since is not None and self._told.cut.seconds is not None:
            due = min(due, self._since + timedelta(seconds=self._told.cut.seconds))
        return due

    def _left_s(self) -> float:
        return (self._due() - self._now()).total_seconds()

    async def _sign_of_life(self) -> None:
        filled = self._slicer.take()
        if filled is not None:
            await self._finish(filled)
        else:
            await self._without_records(Kind.HEARTBEAT)

    # --- slices -----------------------------------------------------------------------------------------------------

    async def _take(self, event: Batch | SourceGap) -> None:
        if isinstance(event, SourceGap):
            await self._gap(event)
            return
        self._tell(state=State.READING, behind=self._source.behind())
        if event.opened is not None and (self._epoch is None or event.epoch > self._epoch):
            await self._flush()
            self._slicer.open_epoch(event.epoch, event.opened)
            self._epoch = event.epoch
        if event.epoch != self._slicer.position.epoch:
            if event.epoch > self._slicer.position.epoch:
                raise Malformed("source changed its epoch without saying what it is now")
            return
        for filled in self._slicer.add(event):
            await self._finish(filled)
        if self._slicer.lines and self._since is None:
            self._since = self._told.clock()

    async def _gap(self, gap: SourceGap) -> None:
        await self._flush()
        if gap.end > self._slicer.position:
            await self._without_records(Kind.GAP, end=gap.end, reason=gap.reason)
            self._slicer.skip(gap.end)

    async def _flush(self) -> None:
        filled = self._slicer.take()
        if filled is not None:
            await self._finish(filled)

    async def _last_slice(self) -> None:
        """The open slice is closed; with none open a heartbeat says until when there was nothing."""
        await self._flush()
        if self._end_reason is not None:
            await self._without_records(Kind.END, reason=self._end_reason)
        elif self.progress.slices == 0 or self._made_at is None or self._now() - self._made_at > _JUST_NOW:
            await self._without_records(Kind.HEARTBEAT)

    async def _without_records(self, kind: Kind, *, end: Position | None = None, reason: str | None = None) -> None:
        if self._last is None and self._epoch is None:
            self._slicer.open_epoch(0, Epoch(self._source.identity, True, "first slice of the stream"))
            self._epoch = 0
        start = self._slicer.start
        filled = Filled(_NOTHING, start, start if end is None else end, 0, self._slicer.named())
        await self._finish(filled, kind=kind, reason=reason)

    async def _finish(self, filled: Filled, *, kind: Kind = Kind.DATA, reason: str | None = None) -> None:
        """Makes the slice and queues it for the sink. Its time is that of the cut: what comes after belongs to the next."""
        told, last = self._told, self._last
        now = self._now()
        created_at = now + timedelta(microseconds=-now.microsecond % 1000)
        if last is not None:
            created_at = max(created_at, last.created_at + _MILLISECOND)
        self._made_at, self._since = now, None
        secret = told.randomness(SECRET_BYTES)
        number = 0 if last is None else last.number + 1
        step = partial(told.step, filled.buffer, told.plan, secret=secret, number=number)
        made = await asyncio.get_running_loop().run_in_executor(told.executor, step)
        first, latest = _event_times(filled.buffer, self._declaration.encoding)
        header = SliceHeader.build(
            self._declaration, made.commitment, previous=last, start=filled.start, end=filled.end, created_at=created_at,
            kind=kind, epoch=filled.epoch, pieces=filled.pieces, reason=reason, first_time=first, last_time=latest,
            after=told.after(created_at),
        )  # fmt: skip
        self._last = header
        if self._finished.full():
            self._tell(state=State.HELD)
        self._tell(pending=self.progress.pending + 1, slices=self.progress.slices + 1)
        await self._finished.put(
            FinishedSlice(header, self._declaration, secret, replace(filled.buffer, parts=None), made.commitment, made.packed)
        )

    async def _hand_over(self) -> None:
        """Puts one slice after the other into the sink, each as often as it takes; then the source may forget them."""
        while (finished := await self._finished.get()) is not None:
            await self._patiently(partial(self._sink.put, finished))
            header = finished.header
            self._source.committed(header.end)
            self._tell(
                number=header.number,
                position=header.end,
                created_at=header.created_at,
                next_by=header.next_by,
                pending=self.progress.pending - 1,
                lines=self.progress.lines + header.lines,
                payload_bytes=self.progress.payload_bytes + header.payload_bytes,
                behind=self._source.behind(),
            )

    def _tell(self, **changes: Any) -> None:
        self.progress = replace(self.progress, **changes)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _event_times(buffer: Buffer, encoding: str) -> tuple[datetime | None, datetime | None]:
    """The earliest and the latest time that the records themselves state; lines state none."""
    if encoding != Encoding.KAFKA:
        return None, None
    stated = [int.from_bytes(buffer.data[start : start + 8], signed=True) for start in buffer.offsets]
    stated = [time_ms for time_ms in stated if 0 <= time_ms < _MAX_TIME_MS]
    if not stated:
        return None, None
    return _EPOCH + min(stated) * _MILLISECOND, _EPOCH + max(stated) * _MILLISECOND
