"""G3: memory stays flat while 10⁷ lines are collected: the real pipeline, fed through a pipe, read at intervals.

A process of its own writes 2 GB of lines, 200 bytes each, into a pipe; standard input is the source.
Slices are cut, committed to, counted, compressed, sealed, signed and handed to a sink that keeps the
newest one and forgets it, so that what grows is the pipeline's. The first tenth is warming up; the
figure is how much more the highest tenth after it holds than the lowest.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from collecting import DurableSink, World, log_lines, pipeline_over
from harness import note, options, report_limit

from models.record import Position
from streaming.pipeline import Progress
from streaming.port import Source
from streaming.sink import FinishedSlice
from streaming.stdin import StandardInput

LINES = 10_000_000
BLOCK = 20_000
PARTS = 10
FLAT_MB = 30
_MB = 1e6

_WRITER = """
import os, sys
block, times = open(sys.argv[1], "rb").read(), int(sys.argv[2])
for _ in range(times):
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(1, rest):]
"""


class ForgetfulSink(DurableSink):
    """Keeps a slice as `DurableSink` does, then removes its file and its row."""

    async def put(self, finished: FinishedSlice) -> None:
        """The slice was durable."""
        await super().put(finished)
        await asyncio.to_thread(self.forget)


async def watched(world: World, descriptor: int, sink: DurableSink, each: Callable[[Progress], None]) -> None:
    """The pipeline over the pipe until its writer closes it; `each` is told how far it is."""

    async def open_at(start: Position | None, identity: str | None) -> Source:
        del identity
        return StandardInput(descriptor, start=start)

    pipeline = pipeline_over(world, open_at, sink)
    running = asyncio.ensure_future(pipeline.run())
    while not running.done():
        await asyncio.wait((running,), timeout=0.02)
        each(pipeline.progress)
    await running


def main() -> None:
    """One line."""
    chosen = options(__doc__ or "")
    times = 5 if chosen.quick else LINES // BLOCK
    count = times * BLOCK
    process, seen = psutil.Process(), list[float]()
    began = time.process_time()

    def look(progress: Progress) -> None:
        while len(seen) < PARTS and progress.lines >= (len(seen) + 1) * count // PARTS:
            seen.append(process.memory_info().rss / _MB)

    with tempfile.TemporaryDirectory(prefix="evidence-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
        block = Path(name) / "block"
        block.write_bytes(log_lines(0, BLOCK))
        world = World.of("-")
        sink = ForgetfulSink(Path(name) / "slices", world)
        with subprocess.Popen([sys.executable, "-c", _WRITER, block, str(times)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            asyncio.run(watched(world, writer.stdout.fileno(), sink, look))
        sink.close()
    if writer.returncode or sink.lines != count:
        raise RuntimeError(f"lines were lost: expected {count}, got {sink.lines}")
    spent = time.process_time() - began
    note(f"G3 resident memory after each {count // PARTS} lines, in MB: {', '.join(f'{each:.0f}' for each in seen)}")
    note(f"G3: {count} lines in {spent:.0f} s of processor time, {count / spent:.0f} lines/s")
    grown = max(seen[1:]) - min(seen[1:])
    report_limit("G3", f"growth over {count} lines through a pipe, at most {FLAT_MB} MB", max(grown, 0.001), FLAT_MB, "MB")


if __name__ == "__main__":
    main()
