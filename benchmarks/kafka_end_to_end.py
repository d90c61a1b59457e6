"""Kafka end to end: lines a second from a topic of a real broker to durable slices, with each of the two clients.

The broker is the one of the tests, Apache Kafka in KRaft mode (java and mvn; fetched once). One
partition, one message of 200 bytes a line, 32 keywords; the pipeline is the collector's, its sink
keeps slices as in `g3_stream_ingest.py`. In processor time of this process, so the broker's own is
not in it; by the clock on the wall on stderr. Not part of `make bench`, which needs no Java.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from collecting import DurableSink, World, collected, log_line
from harness import Measure, alternate, note, options, report, seconds_each

from models.record import Encoding

LINES = 100_000
CLIENTS = ("fast", "python")
TESTS = Path(__file__).parent.parent / "tests"


def rate(url: str, place: Path, count: int) -> Measure:
    """Lines a second of one client, each time into a folder of its own."""
    world = World.of(url, encoding=Encoding.KAFKA)
    numbers = itertools.count()

    def measure() -> float:
        with closing(DurableSink(place / str(next(numbers)), world)) as sink:
            began = time.monotonic()
            seconds = seconds_each(lambda: asyncio.run(collected(world, url, sink)), count)
            note(f"Kafka {place.name}: {count / (time.monotonic() - began):.0f} lines/s by the clock on the wall")
            if sink.lines != count or (count > 2_000 and not all(sink.totals())):
                raise RuntimeError(f"lines were lost: expected {count}, got {sink.lines}")
        return 1 / seconds

    return measure


def main() -> None:
    """One line: the fast client against the one that everybody can install."""
    chosen = options(__doc__ or "")
    count = 2_000 if chosen.quick else LINES
    sys.path += [str(TESTS), str(TESTS / "streaming")]
    from kafka_broker import Cluster, Distribution  # noqa: PLC0415 - the tests' own broker, found only now
    from kafka_topics import Topic  # noqa: PLC0415

    cluster = Cluster(Distribution())
    try:
        topic = Topic(cluster)
        topic.fill(log_line(number) for number in range(count))
        with tempfile.TemporaryDirectory(prefix="evidence-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
            measures = []
            for client in CLIENTS:
                (Path(name) / client).mkdir()
                measures.append(rate(topic.url(client=client), Path(name) / client, count))
            fast, python = alternate(measures[0], measures[1], chosen.pairs)
        against = f"confluent-kafka against kafka-python, topic to durable slice, {count} lines of 200 bytes"
        report("Kafka", against, fast, python, "lines/s", wanted=None, quick=chosen.quick)
    finally:
        cluster.stop()
        cluster.remove()


if __name__ == "__main__":
    main()
