"""Three brokers, of which the leader is killed while records are written and collected."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from collected_world import MemorySink, collecting, running, until

from kafka_broker import Cluster
from kafka_topics import Topic
from models.record import Encoding, Position, open_kafka
from streaming.kafka import open_source
from streaming.port import Source
from streaming.slicer import CutRule


@pytest.mark.long
async def test_killed_leader_loses_and_doubles_nothing(three_brokers: Cluster) -> None:
    topic = Topic(three_brokers, copies=3)
    sinks = {client: MemorySink() for client in ("python", "fast")}
    values = [b"value %d" % number for number in range(3000)]
    producer = topic.producer(**{"message.timeout.ms": 60_000, "linger.ms": 5})

    def write(start: int, end: int) -> None:
        for value in values[start:end]:
            producer.produce(topic.name, value, partition=0)
            producer.poll(0)
        assert producer.flush(60) == 0

    async with AsyncExitStack() as stack:
        for client, sink in sinks.items():
            url = topic.url(client=client)

            async def open_at(start: Position | None, identity: str | None, url: str = url) -> Source:
                return await open_source(url, start=start, identity=identity, follow=True, key=bytes(16))

            told = collecting(cut=CutRule(lines=50, seconds=None), encoding=Encoding.KAFKA)
            await stack.enter_async_context(running(told, open_at, sink))
        await asyncio.to_thread(write, 0, 1000)
        three_brokers.kill(topic.leader())
        await asyncio.to_thread(write, 1000, 2000)
        await asyncio.to_thread(three_brokers.wait_started, three_brokers.launch())
        await asyncio.to_thread(write, 2000, 3000)
        await until(lambda: all(len(sink.records) == 3000 for sink in sinks.values()), seconds=60)
    for sink in sinks.values():
        sink.check()
        assert [open_kafka(payload)[2] for payload in sink.payloads] == values
        assert {header.start.epoch for header in sink.headers} == {0}
        assert "gap" not in sink.kinds
