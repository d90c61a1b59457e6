"""A collector as a process of its own, whose sink is a folder: run as `kafka_collector.py ADDRESS FOLDER` and killed at will."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from collected_world import collecting

from models.record import Buffer, Encoding, Position
from models.slice import SliceHeader
from streaming.archive import unpack
from streaming.kafka import open_source
from streaming.pipeline import Pipeline
from streaming.port import Source
from streaming.sink import FinishedSlice
from streaming.slicer import CutRule


class FolderSink:
    """A slice is a file: header, LF, archive. It is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> list[tuple[SliceHeader, Buffer]]:
        found: list[tuple[SliceHeader, Buffer]] = []
        for number in itertools.count():
            path = self._folder / str(number)
            if not path.exists():
                return found
            header, _, packed = path.read_bytes().partition(b"\n")
            found.append((SliceHeader.parse(header), unpack(packed) if packed else Buffer.of(())))
        raise AssertionError

    async def put(self, finished: FinishedSlice) -> None:
        path = self._folder / str(finished.header.number)
        content = finished.header.data + b"\n" + finished.packed
        assert not path.exists() or path.read_bytes() == content
        half = path.with_suffix(".half")
        half.write_bytes(content)
        half.rename(path)

    async def last(self) -> SliceHeader | None:
        found = self.read()
        return found[-1][0] if found else None

    async def identity(self) -> str | None:
        return next((header.epoch.identity for header, _ in reversed(self.read()) if header.epoch), None)


async def main(url: str, folder: Path) -> None:
    async def open_at(start: Position | None, identity: str | None) -> Source:
        return await open_source(url, start=start, identity=identity, follow=True, key=bytes(16))

    told = collecting(cut=CutRule(lines=2, seconds=None), encoding=Encoding.KAFKA)
    await Pipeline(replace(told, clock=lambda: datetime.now(UTC), randomness=os.urandom), open_at, FolderSink(folder)).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
