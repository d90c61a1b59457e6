"""A declared stream, a sink in memory that forgets nothing, and time that a test moves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from models.checkpoint import STATEMENT_TYPE, vkey
from models.declaration import Declaration
from models.digest import sm3
from models.extraction import Rule
from models.record import Encoding, Position, Record
from models.recount import recount_slice
from models.signature import SM2Signer
from models.slice import Kind, SliceHeader, check_link, check_tiling
from streaming.archive import unpack
from streaming.pipeline import Collecting, Pipeline
from streaming.port import Source
from streaming.processing import Plan
from streaming.sink import FinishedSlice, SinkRefused, SinkUnavailable
from streaming.slicer import CutRule

KEY = bytes(range(16))
SECRET = bytes(range(32))
SIGNER = SM2Signer.generate()
KEYWORDS = (b"AAA", b"buy")
RULE = Rule("account", b"acct=", b"0123456789", 6, 20, bits=4)


def declaration(
    stream_id: str = "s1", *, keywords: Sequence[bytes] = KEYWORDS, encoding: str = Encoding.LINE, max_silence_s: int = 3600
) -> Declaration:
    return Declaration.build(
        stream_id=stream_id, log="sandbox.test/log/1", source="test", collector=vkey("acct-1", SIGNER.public_key, STATEMENT_TYPE),
        keywords=keywords, rules=(RULE,), secret=SECRET, max_silence_s=max_silence_s, slice_proof_s=3600, encoding=encoding,
    )  # fmt: skip


def plan(stream_id: str = "s1", *, encoding: str = Encoding.LINE, max_silence_s: int = 3600) -> Plan:
    return Plan.of(declaration(stream_id, encoding=encoding, max_silence_s=max_silence_s), KEYWORDS, secret=SECRET)


class Tick:
    """A clock that goes on by a millisecond whenever it is asked, and by more when it is told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class ManualSleep:
    """Sleeps that end when a test says so; `after` times out those that are due by then."""

    def __init__(self, clock: Tick) -> None:
        self._clock = clock
        self._sleepers: list[tuple[datetime, asyncio.Event]] = []

    async def __call__(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self._clock.now + timedelta(seconds=seconds), woken))
        await woken.wait()

    async def after(self, seconds: float) -> None:
        await settled()
        self._clock.advance(seconds)
        for due, woken in self._sleepers:
            if due <= self._clock.now:
                woken.set()
        await settled()


async def settled(rounds: int = 40) -> None:
    """Whatever can go on without time passing has gone on; threads are given a moment in between."""
    for _ in range(rounds):
        await asyncio.sleep(0.001)


def numbered() -> Callable[[int], bytes]:
    """Another secret every time, the same in every run."""
    count = itertools.count()
    return lambda size: sm3(f"secret {next(count)}".encode())[:size]


@dataclass
class MemorySink:
    """Takes slices as a service does: each must follow the one before, be what it says, and come once."""

    slices: list[FinishedSlice] = field(default_factory=list)
    down: bool = False
    forget_answer: int = 0
    """So many of the next puts are taken without telling."""
    attempts: int = 0

    async def put(self, finished: FinishedSlice) -> None:
        self.attempts += 1
        if self.down:
            raise SinkUnavailable("service is away")
        header = finished.header
        if header.number < len(self.slices):
            if self.slices[header.number].header != header:
                raise SinkRefused(f"another slice has that number ({header.slice_id})")
            return
        if self.slices:
            check_link(self.slices[-1].header, header)
            check_tiling(self.slices[-1].header, header)
        else:
            assert header.number == 0
        header.check_kind()
        self._recompute(finished)
        self.slices.append(finished)
        if self.forget_answer:
            self.forget_answer -= 1
            raise SinkUnavailable("answer was lost")

    def _recompute(self, finished: FinishedSlice) -> None:
        """As the reference does it, without anything that is fast."""
        cell_keys = [finished.declaration.cells(RULE, secret=SECRET).keys]
        recount_slice(
            finished.header, finished.buffer, finished.declaration, KEYWORDS, secret=finished.secret, cell_keys=cell_keys
        )
        if finished.packed:
            assert list(unpack(finished.packed).records()) == list(finished.buffer.records())

    async def last(self) -> SliceHeader | None:
        if self.down:
            raise SinkUnavailable("service is away")
        return self.slices[-1].header if self.slices else None

    async def identity(self) -> str | None:
        return next((each.header.epoch.identity for each in reversed(self.slices) if each.header.epoch), None)

    # --- what a test asks -------------------------------------------------------------------------------------------

    @property
    def headers(self) -> list[SliceHeader]:
        return [finished.header for finished in self.slices]

    @property
    def records(self) -> list[tuple[int, Record]]:
        """Every record with its epoch, in order."""
        return [(each.header.start.epoch, record) for each in self.slices for record in each.buffer.records()]

    @property
    def payloads(self) -> list[bytes]:
        return [record.payload for _, record in self.records]

    @property
    def kinds(self) -> list[str]:
        return [header.kind for header in self.headers]

    def check(self) -> None:
        """No hole and no overlap in number, position or time (I8); counts are those of a recount (I9, on putting)."""
        for before, after in itertools.pairwise(self.headers):
            check_link(before, after)
            check_tiling(before, after)
            assert after.next_by is None or after.next_by > after.created_at
        for each in self.slices:
            positions = [record.position for record in each.buffer.records()]
            assert positions == sorted(set(positions))
            assert all(each.header.start.offset <= position < each.header.end.offset for position in positions)

    def restored(self, epoch: int) -> bytes:
        """The bytes of a file, from its lines: the next position tells whether an LF followed."""
        parts: list[bytes] = []
        for each in self.slices:
            if each.header.start.epoch != epoch or each.header.kind != Kind.DATA:
                continue
            records = list(each.buffer.records())
            ends = [record.position for record in records[1:]] + [each.header.end.offset]
            for record, end in zip(records, ends, strict=True):
                parts += [record.payload, b"\n" * (end - record.position - len(record.payload))]
        return b"".join(parts)


OpenAt = Callable[[Position | None, str | None], Awaitable[Source]]


def collecting(
    *, cut: CutRule | None = None, max_silence_s: int = 3600, encoding: str = Encoding.LINE, stream_id: str = "s1"
) -> Collecting:
    return Collecting(
        plan(stream_id, encoding=encoding, max_silence_s=max_silence_s),
        cut or CutRule(lines=100, seconds=None),
        Tick(),
        numbered(),
    )


@asynccontextmanager
async def running(told: Collecting, open_at: OpenAt, sink: MemorySink) -> AsyncIterator[Pipeline]:
    """A pipeline that runs; stopped and finished on leaving."""
    pipeline = Pipeline(told, open_at, sink)
    task = asyncio.ensure_future(pipeline.run())
    try:
        yield pipeline
        pipeline.stop()
        await asyncio.wait_for(task, 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_to_end(told: Collecting, open_at: OpenAt, sink: MemorySink) -> Pipeline:
    pipeline = Pipeline(told, open_at, sink)
    await asyncio.wait_for(pipeline.run(), 20)
    return pipeline


async def until(holds: Callable[[], bool], *, seconds: float = 10) -> None:
    """Waits for what another task or thread brings about."""
    for _ in range(int(seconds / 0.005)):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("what was waited for did not come")


