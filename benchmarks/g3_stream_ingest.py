"""G3: lines a second from a log file to durable, committed slices, against the best pipeline made of parts from PyPI.

Lines of 200 bytes, 32 keywords of which two in five lines hold one, slices of 10,000 lines. Ours is
the collector as it runs: the log file's source, the slicer, the step (salts, SM3 tree, SHA-256 twin,
index over all keywords and its tree, zstd), the linked header, the SM2 signature of its statement;
then what the service does to keep a slice: the file sealed with SM4-GCM and flushed, the index
sealed, one committed row. The baseline is `baseline_stream.py`, which does less.

The last line is the same collector whose sink is the whole intake of a service in this process: it
believes nothing, so it commits to and counts every slice again, signs the log and keeps its own copy.
No goal is set for it; one core does the work of two machines there. The line before it is the collector without the native core.

Both are measured in processor time, on one core, over the same file.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

from baseline_stream import Baseline, Lean
from collecting import KEYWORDS, LINE_BYTES, STREAM, DurableSink, ServiceIntake, World, collected, log_lines
from harness import Measure, alternate, options, pin, report, seconds_each

from models.digest import Algorithm
from models.nodes import CORE
from models.record import Buffer, Record
from models.salting import slice_key
from streaming.processing import process

LINES = 100_000
GOAL = 0.95


def write_log(path: Path, count: int) -> None:
    """The file that both read."""
    with path.open("wb") as file:
        for start in range(0, count, 10_000):
            file.write(log_lines(start, min(count, start + 10_000)))


def folders(place: Path) -> Callable[[], Path]:
    """A folder that is not there yet, another each time; the one before is removed."""
    made: list[Path] = []

    def fresh() -> Path:
        if made:
            shutil.rmtree(made[-1])
        made.append(place / str(len(made)))
        return made[-1]

    return fresh


def baseline_rate(kind: type[Lean], log: Path, place: Path, count: int) -> Measure:
    """Lines a second of a baseline."""
    fresh = folders(place)

    def measure() -> float:
        with closing(kind(fresh(), KEYWORDS)) as run:
            seconds = seconds_each(lambda: run.collect(log), count)
        if run.lines != count:
            raise RuntimeError("the baseline lost lines")
        return 1 / seconds

    return measure


def collector_rate(world: World, log: Path, place: Path, count: int) -> Measure:
    """Lines a second of the collector with a sink of its own."""
    fresh = folders(place)

    def measure() -> float:
        with closing(DurableSink(fresh(), world)) as sink:
            seconds = seconds_each(lambda: asyncio.run(collected(world, f"file:{log}", sink)), count)
            if sink.lines != count:
                raise RuntimeError("the collector lost lines")
        return 1 / seconds

    return measure


def without_core(rate: Measure) -> Measure:
    """The same where the native core was not built."""

    def measure() -> float:
        core = CORE.pop(Algorithm.SM3, None)
        try:
            return rate()
        finally:
            if core is not None:
                CORE[Algorithm.SM3] = core

    return measure


def service_rate(log: Path, place: Path, count: int) -> Measure:
    """Lines a second of collector and service in one process; a service of its own each time, opened before the clock starts."""
    fresh = folders(place)

    def measure() -> float:
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            intake = runner.run(stack.enter_async_context(ServiceIntake.opened(fresh(), f"file:{log}")))
            try:
                seconds = seconds_each(lambda: runner.run(collected(intake.world, f"file:{log}", intake)), count)
            finally:
                runner.run(stack.aclose())
            if intake.lines != count:
                raise RuntimeError("the service lost lines")
        return 1 / seconds

    return measure


def check_same(world: World, log: Path, place: Path, count: int) -> None:
    """Both find the same and commit to it in the same bytes, or the ratio says nothing."""
    lines = log.read_bytes().split(b"\n")[: min(count, 3000)]
    buffer, position = Buffer.of(Record((LINE_BYTES + 1) * at, line) for at, line in enumerate(lines)), 0
    secret = os.urandom(32)
    made = process(buffer, world.plan, secret=secret, number=0).commitment
    line_key, index_key = (slice_key(secret, tag, STREAM, 0) for tag in ("cz-line/1", "cz-index/1"))
    with closing(Baseline(place / "baseline", KEYWORDS)) as run:
        found = [entry.lines for entry in world.plan.index.count(buffer)]
        digests, _ = run.commit(lines, found, position, line_key, index_key=index_key, flat_salts=made.flat_salts)
        if made.index is None or digests != [*made.content, *made.index]:
            raise RuntimeError("the two pipelines commit to other bytes")
        run.collect(log)
    with closing(DurableSink(place / "ours", world)) as sink:
        asyncio.run(collected(world, f"file:{log}", sink))
        if sink.totals() != run.totals or sink.lines != run.lines or sink.lines != count or not all(run.totals):
            raise RuntimeError("the two pipelines count differently")


def main() -> None:
    """Four lines."""
    chosen = options(__doc__ or "")
    pin(0)
    count = 3_000 if chosen.quick else LINES
    with tempfile.TemporaryDirectory(prefix="evidence-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
        place = Path(name)
        log = place / "app.log"
        write_log(log, count)
        world = World.of(f"file:{log}")
        for part in ("check", "same", "lean", "collector", "service"):
            (place / part).mkdir()
        check_same(world, log, place / "check", count)
        same = baseline_rate(Baseline, log, place / "same", count)
        lean = baseline_rate(Lean, log, place / "lean", count)
        collector = collector_rate(world, log, place / "collector", count)
        service = service_rate(log, place / "service", count)
        for ours, theirs, what, wanted in (
            (collector, same, "the same evidence from parts of PyPI", GOAL),
            (collector, lean, "salted tree, counts, zstd from parts of PyPI: less evidence", None),
            (without_core(collector), same, "the same evidence; ours without the native core", None),
            (service, same, "the same evidence; ours with a service that recomputes it, on the same core", None),
        ):
            mine, baseline = alternate(ours, theirs, chosen.pairs)
            against = f"{what}, {count} lines of 200 bytes, 32 keywords"
            report("G3", against, mine, baseline, "lines/s", wanted=wanted, quick=chosen.quick)


if __name__ == "__main__":
    main()
