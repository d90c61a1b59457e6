"""Every source keeps the laws of the port: log file, standard input, pushed records, Kafka with either client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from collected_world import KEY

from kafka_broker import Cluster
from kafka_topics import Topic
from models.record import Position, open_kafka
from streaming.conformance import SourceLaws
from streaming.http import Pushed
from streaming.kafka import open_source
from streaming.logfile import LogFile
from streaming.port import Source, SourceUnavailable
from streaming.stdin import StandardInput


class FileOrigin:
    rereadable = True
    loses = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "origin.log"
        self._path.touch()

    async def open(self, start: Position | None = None, identity: str | None = None, *, follow: bool = True) -> Source:
        source = LogFile(self._path, key=KEY, follow=follow, poll_s=0.005, linger_s=0.02)
        source.open(start, identity)
        return source

    async def write(self, lines: Sequence[bytes]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))

    def line_of(self, payload: bytes) -> bytes:
        return payload

    async def make_anew(self) -> None:
        fresh = self._folder / "fresh"
        fresh.touch()
        fresh.rename(self._path)

    async def lose_before(self, record: int) -> None:
        raise AssertionError("this source loses nothing")

    async def finish(self) -> None:
        pass


class PipeOrigin:
    """Standard input: a pipe whose writer is a thread, as it may have to wait."""

    rereadable = False
    loses = False

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._ended = False

    async def open(self, start: Position | None = None, identity: str | None = None, *, follow: bool = True) -> Source:
        return StandardInput(self._read_end, start=start)

    async def write(self, lines: Sequence[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def write() -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(self._write_end, view) :]
            loop.call_soon_threadsafe(done.set)

        threading.Thread(target=write, daemon=True).start()
        await done.wait()

    def line_of(self, payload: bytes) -> bytes:
        return payload

    async def make_anew(self) -> None:
        self.close()
        self._open()

    async def lose_before(self, record: int) -> None:
        raise AssertionError("this source loses nothing")

    async def finish(self) -> None:
        os.close(self._write_end)
        self._ended = True

    def close(self) -> None:
        if not self._ended:
            os.close(self._write_end)


class PushOrigin:
    """A producer that keeps what it sent until it is committed, and sends everything again to whoever asks anew."""

    rereadable = True
    loses = True

    def __init__(self) -> None:
        self._run = 0
        self._lines: list[bytes] = []
        self._lost = 0
        self._source: Pushed | None = None
        self._finished = False

    async def open(self, start: Position | None = None, identity: str | None = None, *, follow: bool = True) -> Source:
        source = self._source = Pushed(f"producer run {self._run}", start=start, previous=identity, queue_bytes=1 << 20)
        await self._send_again()
        if self._finished:
            await source.end()
        return source

    async def _send_again(self) -> None:
        assert self._source is not None
        expected = self._source.expected
        if expected < self._lost:
            await self._source.lose(self._lost, "producer had no room")
            expected = self._lost
        await self._push(expected)

    async def _push(self, first: int) -> None:
        assert self._source is not None
        for start in range(first, len(self._lines), 500):
            # Sent twice and with overlap, as after an answer that was lost.
            overlap = max(self._lost, start - 3)
            await self._source.push(overlap, self._lines[overlap : start + 500])
            await self._source.push(start, self._lines[start : start + 500])

    async def write(self, lines: Sequence[bytes]) -> None:
        first = len(self._lines)
        self._lines += lines
        if self._source is not None:
            with contextlib.suppress(SourceUnavailable):
                await self._push(first)

    def line_of(self, payload: bytes) -> bytes:
        return payload

    async def make_anew(self) -> None:
        self._run += 1
        self._lines.clear()
        self._lost = 0
        self._source = None

    async def lose_before(self, record: int) -> None:
        self._lost = record

    async def finish(self) -> None:
        self._finished = True


class KafkaOrigin:
    rereadable = True
    loses = True

    def __init__(self, cluster: Cluster, client: str) -> None:
        self._topic = Topic(cluster)
        self._client = client

    async def open(self, start: Position | None = None, identity: str | None = None, *, follow: bool = True) -> Source:
        return await open_source(
            self._topic.url(client=self._client), start=start, identity=identity, follow=follow, key=KEY
        )

    async def write(self, lines: Sequence[bytes]) -> None:
        await asyncio.to_thread(self._topic.fill, lines)

    def line_of(self, payload: bytes) -> bytes:
        return open_kafka(payload)[2] or b""

    async def make_anew(self) -> None:
        await asyncio.to_thread(self._topic.make_anew)

    async def lose_before(self, record: int) -> None:
        await asyncio.to_thread(self._topic.forget_before, record)

    async def finish(self) -> None:
        pass


class TestLogFile(SourceLaws):
    @pytest.fixture
    def origin(self, tmp_path: Path) -> FileOrigin:
        return FileOrigin(tmp_path)


class TestStandardInput(SourceLaws):
    @pytest.fixture
    async def origin(self) -> AsyncIterator[PipeOrigin]:
        origin = PipeOrigin()
        yield origin
        origin.close()


class TestPushed(SourceLaws):
    @pytest.fixture
    def origin(self) -> PushOrigin:
        return PushOrigin()


class TestKafkaPython(SourceLaws):
    @pytest.fixture
    def origin(self, broker: Cluster) -> KafkaOrigin:
        return KafkaOrigin(broker, "python")


class TestKafkaFast(SourceLaws):
    @pytest.fixture
    def origin(self, broker: Cluster) -> KafkaOrigin:
        return KafkaOrigin(broker, "fast")


