"""What the benchmarks of streams share: lines, a declared stream, and two sinks: slices kept here, or by a whole service."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from evidence.access import Caller
from evidence.bootstrap import Service, initialise, open_service, utc_now
from evidence.settings import load_settings
from evidence.stream_wire import DeclareBody, Origin, SliceBody, declare_body, signature_of
from models.checkpoint import STATEMENT_TYPE, vkey
from models.commitment import derive
from models.declaration import Declaration
from models.leaf import open_index
from models.record import ANSWERABLE_RECORDS, Encoding, Position
from models.signature import SM2Signer
from models.slice import SliceHeader
from streaming.archive import NONCE_BYTES, compress, decompress, open_sealed, seal
from streaming.pipeline import Collecting, OpenAt, Pipeline, Progress
from streaming.port import Source, open_source
from streaming.processing import Plan
from streaming.sink import FinishedSlice, Sink
from streaming.slicer import CutRule

_WORDS = """
ERROR WARN timeout rejected cancel withdraw margin override admin delete login logout
撤单 委托 成交 资金 转账 冻结 解冻 风控 越权 异常 重试 失败 超时 断开 重连 密码 开户 销户 质押 平仓
"""
KEYWORDS = tuple(sorted(word.encode() for word in _WORDS.split()))
LINE_BYTES = 200
STREAM = "bench"
_OTHERS = (b"place", b"query", b"price", b"quote", b"heartbeat", b"snapshot")
_TABLE = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE slice (number INTEGER PRIMARY KEY, slice_id TEXT NOT NULL UNIQUE, secret BLOB NOT NULL, header BLOB NOT NULL,
    statement BLOB NOT NULL, signature TEXT NOT NULL, file TEXT NOT NULL, counts BLOB NOT NULL);
"""


def log_line(number: int) -> bytes:
    """A line of 200 bytes without LF, no two alike; two in five hold one keyword."""
    drawn = sha256(b"%d" % number).digest()
    pick = int.from_bytes(drawn[:4])
    word = KEYWORDS[pick % len(KEYWORDS)] if drawn[4] < 102 else _OTHERS[pick % len(_OTHERS)]
    text = (
        b"2026-11-21T10:%02d:%02d.%03d+08:00 INFO gateway-%d session=%s account=%010d order=%012d %s price=%d.%02d qty=%d"
        b" latency_us=%d node=%c state=ok "
    ) % (
        number // 60_000 % 60, number // 1000 % 60, number % 1000, drawn[5] % 8, drawn[6:14].hex().encode(), pick, number, word,
        drawn[14], drawn[15] % 100, 100 * drawn[16], int.from_bytes(drawn[17:19]) % 10_000, 97 + drawn[19] % 6,
    )  # fmt: skip
    return text.ljust(LINE_BYTES, b".")[:LINE_BYTES]


def log_lines(start: int, end: int) -> bytes:
    """Lines `start` to `end`, each ended by LF."""
    return b"".join([log_line(number) + b"\n" for number in range(start, end)])


# --- a stream and its collector -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """A declared stream with its secret, the key that signs its slices, and for whom they are."""

    plan: Plan
    secret: bytes
    signer: SM2Signer
    origin: Origin

    @classmethod
    def of(cls, source: str, *, origin: Origin | None = None, encoding: str = Encoding.LINE) -> World:
        """A stream of all keywords from `source`, slice and index private (Table C.1)."""
        signer, secret = SM2Signer.generate(), os.urandom(32)
        given = origin or Origin("sandbox.localhost/log/1", "bench", "91310000MA00000000", "Bench")
        declaration = Declaration.build(
            stream_id=STREAM, log=given.log, source=source, encoding=encoding, keywords=KEYWORDS, rules=(), secret=secret,
            collector=vkey(given.submitter, signer.public_key, STATEMENT_TYPE), max_silence_s=3600, slice_proof_s=86_400,
        )  # fmt: skip
        return cls(Plan.of(declaration, KEYWORDS, secret=secret), secret, signer, given)


def pipeline_over(world: World, open_at: OpenAt, sink: Sink) -> Pipeline:
    """The pipeline, with slices as large as they may be."""
    return Pipeline(Collecting(world.plan, CutRule(lines=ANSWERABLE_RECORDS), utc_now, os.urandom), open_at, sink)


async def collected(world: World, url: str, sink: Sink, *, at_end: Callable[[Progress], bool] | None = None) -> Progress:
    """The source at `url` read to its end, or until `at_end` says so, and all of it in the sink."""

    async def open_at(start: Position | None, identity: str | None) -> Source:
        return await open_source(url, start=start, identity=identity, follow=at_end is not None, key=bytes(16))

    pipeline = pipeline_over(world, open_at, sink)
    if at_end is None:
        return await pipeline.run()
    running = asyncio.ensure_future(pipeline.run())
    while not running.done() and not at_end(pipeline.progress):
        await asyncio.wait((running,), timeout=0.01)
    pipeline.stop()
    return await running


def keep_file(path: Path, content: bytes) -> None:
    """The file is durable, its name too."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- slices kept here -----------------------------------------------------------------------------------------------


class DurableSink:
    """Keeps a slice as a service does, without recomputing it: file, sealed index, signed header, in one committed row."""

    def __init__(self, folder: Path, world: World) -> None:
        folder.mkdir()
        self._world = world
        self._folder = folder
        self._database = sqlite3.connect(folder / "rows", isolation_level=None, check_same_thread=False)
        self._database.executescript(_TABLE)
        self._last: SliceHeader | None = None
        self.lines = 0

    async def put(self, finished: FinishedSlice) -> None:
        """The slice is durable."""
        await asyncio.to_thread(self._keep, finished)
        self._last = finished.header
        self.lines += finished.header.lines

    def _keep(self, finished: FinishedSlice) -> None:
        header, secret = finished.header, finished.secret
        statement = self._world.origin.of_slice(header)
        signature = str(signature_of(statement, self._world.signer)["value"])
        name = f"{header.number}.bin"
        keep_file(self._folder / name, self._sealed(finished.packed, "cz-slice-file/1", finished))
        counts = self._sealed(compress(b"\n".join(finished.commitment.leaves)), "cz-slice-counts/1", finished)
        row = (header.number, header.slice_id, secret, header.data, statement.data, signature, name, counts)
        self._database.execute("INSERT INTO slice VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    @staticmethod
    def _sealed(packed: bytes, tag: str, finished: FinishedSlice) -> bytes:
        slice_id = finished.slice_id
        return seal(packed, key=derive(finished.secret, tag, slice_id), nonce=os.urandom(NONCE_BYTES), slice_id=slice_id)

    async def last(self) -> SliceHeader | None:
        """The newest header."""
        return self._last

    async def identity(self) -> str | None:
        """None: a sink of the benchmarks begins with the stream."""
        return None

    def forget(self) -> None:
        """Nothing is kept any more."""
        for (name,) in self._database.execute("SELECT file FROM slice").fetchall():
            (self._folder / name).unlink()
        self._database.execute("DELETE FROM slice")

    def totals(self) -> list[int]:
        """How often each keyword stood in all slices, from the rows."""
        found = [0] * len(KEYWORDS)
        for slice_id, secret, header, counts in self._database.execute("SELECT slice_id, secret, header, counts FROM slice"):
            lines = SliceHeader.parse(header).lines
            key = derive(secret, "cz-slice-counts/1", slice_id)
            leaves = decompress(open_sealed(counts, key=key, slice_id=slice_id)) if lines else b""
            for rank, leaf in enumerate(leaves.split(b"\n") if leaves else ()):
                found[rank] += open_index(leaf.decode(), lines=lines).n
        return found

    def close(self) -> None:
        """The database is closed."""
        self._database.close()


# --- a whole service ------------------------------------------------------------------------------------------------


class ServiceIntake:
    """The service in this process as a sink: every slice goes through its whole intake, as if it had come by HTTP."""

    def __init__(self, service: Service, world: World, caller: Caller) -> None:
        self._service, self._world, self._caller = service, world, caller
        self.lines = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls, home: Path, source: str) -> AsyncIterator[Self]:
        """A service of its own, running, with the stream declared."""
        settings = load_settings({"EVIDENCE_HOME": str(home)})
        token = initialise(settings).token_file.read_text().strip()
        async with AsyncExitStack() as undo:
            service = await open_service(settings)
            undo.push_async_callback(service.stop)
            await service.start()
            caller = service.access.authenticate(token)
            world = World.of(source, origin=service.streams.origin(caller))
            body = declare_body(
                world.plan.declaration, 0, KEYWORDS, origin=world.origin, secret=world.secret, signer=world.signer
            )
            await service.streams.declare(DeclareBody.parse(body), caller, request_id="bench")
            yield cls(service, world, caller)

    @property
    def world(self) -> World:
        """The declared stream."""
        return self._world

    async def put(self, finished: FinishedSlice) -> None:
        """The slice is preserved."""
        statement = self._world.origin.of_slice(finished.header)
        signature = signature_of(statement, self._world.signer)
        sent = SliceBody(finished.header, statement, signature, finished.secret, finished.packed).to_bytes()
        await self._service.streams.put_slice(STREAM, SliceBody.parse(sent), self._caller, request_id="bench")
        self.lines += finished.header.lines

    async def last(self) -> SliceHeader | None:
        """None: the stream begins here."""
        return None

    async def identity(self) -> str | None:
        """None: the stream begins here."""
        return None
