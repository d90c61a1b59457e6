"""One source behind two clients, against a real broker that is killed, forgets records and makes topics anew."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from collected_world import KEY, MemorySink, OpenAt, collecting, run_to_end, running, until
from confluent_kafka.admin import AdminClient
from kafka_collector import FolderSink

from kafka_broker import READER, STRANGER, Cluster
from kafka_topics import Topic
from models.errors import Malformed
from models.record import Encoding, Position, kafka_payload, open_kafka
from models.slice import check_link, check_tiling
from processes import die_with_parent
from streaming.kafka import open_source, partitions_of
from streaming.kafka_client import Address
from streaming.pipeline import Collecting, Pipeline
from streaming.port import Batch, Source, SourceRefused, SourceUnavailable, StreamError
from streaming.sink import FinishedSlice
from streaming.slicer import CutRule

CLIENTS = ("python", "fast")
both = pytest.mark.parametrize("client", CLIENTS)


def reading(url: str, *, follow: bool = False) -> OpenAt:
    async def open_at(start: Position | None, identity: str | None) -> Source:
        return await open_source(url, start=start, identity=identity, follow=follow, key=KEY)

    return open_at


def told(lines: int = 100) -> Collecting:
    return collecting(cut=CutRule(lines=lines, seconds=None), encoding=Encoding.KAFKA)


def values(sink: MemorySink) -> list[bytes | None]:
    return [open_kafka(payload)[2] for payload in sink.payloads]


def numbered(start: int, end: int) -> list[bytes]:
    return [b"value %d buy AAA acct=1234567" % number for number in range(start, end)]


@both
async def test_payload_is_time_key_and_value(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill([b"", b"value"], key=b"key", timestamp=1234)
    producer = topic.producer()
    producer.produce(topic.name, None, key=None, partition=0, timestamp=1235)
    producer.flush(20)
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    sink.check()
    assert sink.records == [
        (0, (0, kafka_payload(1234, b"key", b""))),
        (0, (1, kafka_payload(1234, b"key", b"value"))),
        (0, (2, kafka_payload(1235, None, None))),
    ]
    header = sink.headers[0]
    assert header.first_time is not None
    assert header.last_time is not None
    assert (header.last_time - header.first_time).total_seconds() == 0.001


@both
async def test_second_pass_goes_on_at_the_exact_offset(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill(numbered(0, 1050))
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    topic.fill(numbered(1050, 1100))
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    sink.check()
    assert values(sink) == numbered(0, 1100)


async def test_one_client_goes_on_where_the_other_left_off(broker: Cluster) -> None:
    topic, sink = Topic(broker), MemorySink()
    for client, start in zip(CLIENTS * 2, range(0, 40, 10), strict=True):
        topic.fill(numbered(start, start + 10))
        await run_to_end(told(), reading(topic.url(client=client)), sink)
    sink.check()
    assert values(sink) == numbered(0, 40)
    assert {header.start.epoch for header in sink.headers} == {0}


@both
async def test_aborted_transactions_are_not_seen(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.in_transactions([(numbered(0, 5), True), ([b"ABORTED"] * 3, False), (numbered(5, 10), True), ([b"ABORTED"], False)])
    await run_to_end(told(3), reading(topic.url(client=client)), sink)
    sink.check()
    assert values(sink) == numbered(0, 10)
    topic.fill(numbered(10, 12))
    await run_to_end(told(3), reading(topic.url(client=client)), sink)
    sink.check()
    assert values(sink) == numbered(0, 12)
    assert "gap" not in sink.kinds


@both
async def test_records_removed_before_they_were_read_are_a_gap(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill(numbered(0, 20))
    topic.forget_before(5)
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    topic.fill(numbered(20, 40))
    topic.forget_before(30)
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    sink.check()
    gaps = [(str(header.start), str(header.end)) for header in sink.headers if header.kind == "gap"]
    assert gaps == [("0:0", "0:5"), ("0:20", "0:30")]
    assert values(sink) == numbered(5, 20) + numbered(30, 40)


@both
async def test_records_removed_by_retention_are_a_gap(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill(numbered(0, 10))
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    topic.fill(numbered(10, 20))
    assert await asyncio.to_thread(topic.forget_by_retention) == 20
    topic.fill(numbered(20, 25))
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    sink.check()
    assert values(sink) == numbered(0, 10) + numbered(20, 25)
    gap = next(header for header in sink.headers if header.kind == "gap")
    assert (str(gap.start), str(gap.end)) == ("0:10", "0:20")
    assert gap.reason is not None
    assert "retention" in gap.reason


@both
@pytest.mark.parametrize("more", [2, 30])
async def test_topic_made_anew_opens_an_epoch(broker: Cluster, client: str, more: int) -> None:
    """Also where it already has more records than were read of the one before."""
    topic, sink = Topic(broker), MemorySink()
    topic.fill(numbered(0, 10))
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    topic.make_anew()
    topic.fill(numbered(100, 100 + more))
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    sink.check()
    assert values(sink) == numbered(0, 10) + numbered(100, 100 + more)
    epoch = sink.headers[-1].epoch
    assert epoch is not None
    assert not epoch.previous_complete
    assert epoch.identity != (sink.headers[0].epoch or epoch).identity


@both
async def test_topic_made_anew_while_it_is_followed_opens_an_epoch(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill(numbered(0, 10))
    async with running(told(1), reading(topic.url(client=client), follow=True), sink):
        await until(lambda: len(sink.records) == 10)
        await asyncio.to_thread(topic.make_anew)
        await asyncio.to_thread(topic.fill, numbered(100, 112))
        await until(lambda: len(sink.records) == 22, seconds=30)
    sink.check()
    assert values(sink) == numbered(0, 10) + numbered(100, 112)


async def test_killed_broker_loses_and_doubles_nothing(broker: Cluster) -> None:
    topic, sinks = Topic(broker), {client: MemorySink() for client in CLIENTS}
    topic.fill(numbered(0, 500))
    async with AsyncExitStack() as stack:
        pipelines = [
            await stack.enter_async_context(running(told(50), reading(topic.url(client=client), follow=True), sink))
            for client, sink in sinks.items()
        ]
        await until(lambda: all(len(sink.records) >= 200 for sink in sinks.values()))
        broker.kill()
        await until(lambda: any(pipeline.behind() is None for pipeline in pipelines), seconds=30)
        await asyncio.to_thread(broker.wait_started, broker.launch())
        await asyncio.to_thread(topic.fill, numbered(500, 1000))
        await until(lambda: all(len(sink.records) == 1000 for sink in sinks.values()), seconds=40)
        await until(lambda: all(pipeline.behind() == 0 for pipeline in pipelines), seconds=40)
    for sink in sinks.values():
        sink.check()
        assert values(sink) == numbered(0, 1000)
        assert {header.start.epoch for header in sink.headers} == {0}


@both
async def test_records_are_the_distinct_topic_partition_offsets(broker: Cluster, client: str) -> None:
    """Delivered one to five times, partitions in any order, the collector killed at any moment of handing over (R7)."""
    topic = Topic(broker, partitions=3)
    sinks = [MemorySink() for _ in range(3)]
    for partition in range(3):
        topic.fill(numbered(0, 300), partition=partition)
    choice = random.Random(7)
    for attempt in itertools.count():
        order = choice.sample(range(3), 3)
        await asyncio.gather(*(_some_way(topic, part, sinks[part], client, choice, attempt) for part in order))
        if all(len(sink.records) == 300 for sink in sinks):
            break
        assert attempt < 50
    for sink in sinks:
        sink.check()
        assert values(sink) == numbered(0, 300)


class _Repeating:
    """Gives every batch of a source one to five times, and some with others between."""

    def __init__(self, source: Source, choice: random.Random) -> None:
        self._source = source
        self._choice = choice
        self._again: list[Batch] = []
        self.encoding, self.bytewise = source.encoding, source.bytewise

    def __aiter__(self) -> _Repeating:
        return self

    async def __anext__(self) -> Batch:
        if self._again and self._choice.random() < 0.6:
            return self._choice.choice(self._again)
        batch = await anext(self._source)
        self._again = [*self._again[-2:], batch]
        return batch

    @property
    def identity(self) -> str:
        return self._source.identity

    def behind(self) -> int | None:
        return self._source.behind()

    def committed(self, position: Position) -> None:
        self._source.committed(position)

    async def aclose(self) -> None:
        await self._source.aclose()


async def _some_way(topic: Topic, partition: int, sink: MemorySink, client: str, choice: random.Random, attempt: int) -> None:
    """A collector that dies after some slices: before, while or after the sink took one, without having heard of it."""
    async def open_at(start: Position | None, identity: str | None) -> Source:
        source = await open_source(topic.url(partition, client=client), start=start, identity=identity, follow=False, key=KEY)
        return _Repeating(source, choice)

    sink.forget_answer = choice.randrange(3)
    task = asyncio.ensure_future(Pipeline(told(choice.randrange(5, 60)), open_at, sink).run())
    wanted = len(sink.slices) + choice.randrange(1, 6)
    await until(lambda: task.done() or (len(sink.slices) >= wanted and attempt <= 5), seconds=20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_collector_killed_with_9_again_and_again_loses_and_doubles_nothing(broker: Cluster, tmp_path: Path) -> None:
    """A process of its own, killed at moments that nobody chose, between any two of its steps."""
    topic, choice = Topic(broker), random.Random(11)
    topic.fill(numbered(0, 400))
    here = Path(__file__).parent
    paths = {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    for client, slices in zip(("fast", "python", "fast"), (choice.randrange(1, 90), choice.randrange(90, 190), 199), strict=True):
        process = await asyncio.create_subprocess_exec(
            sys.executable, here / "kafka_collector.py", topic.url(client=client), tmp_path,
            env={**os.environ, **paths}, preexec_fn=die_with_parent,
        )  # fmt: skip
        await until((tmp_path / str(slices)).exists, seconds=40)
        process.kill()
        await process.wait()
    found = FolderSink(tmp_path).read()
    for (first, _), (second, _) in itertools.pairwise(found):
        check_link(first, second)
        check_tiling(first, second)
    assert [position for _, buffer in found for position in buffer.positions] == list(range(400))
    assert [open_kafka(payload)[2] for _, buffer in found for payload in buffer.payloads()] == numbered(0, 400)


@both
async def test_record_longer_than_a_slice_is_a_gap(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker, settings={"max.message.bytes": "4000000"}), MemorySink()
    topic.fill([b"before", b"x" * 3_000_000, b"after"])
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    sink.check()
    assert values(sink) == [b"before", b"after"]
    assert [(header.kind, str(header.start), str(header.end)) for header in sink.headers] == [
        ("data", "0:0", "0:1"), ("gap", "0:1", "0:2"), ("data", "0:2", "0:3"),
    ]  # fmt: skip


@both
async def test_group_offsets_are_neither_used_nor_written(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill(numbered(0, 10))
    admin = AdminClient({"bootstrap.servers": broker.servers})
    before = {group.group_id for group in admin.list_consumer_groups().result().valid}
    await run_to_end(told(), reading(topic.url(client=client)), sink)
    assert {group.group_id for group in admin.list_consumer_groups().result().valid} == before


class _Held(MemorySink):
    """Takes nothing before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def put(self, finished: FinishedSlice) -> None:
        await self.let.wait()
        await super().put(finished)


@both
async def test_collector_that_is_held_back_says_how_far_behind_it_is(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), _Held()
    topic.fill([b"x" * 700_000 for _ in range(20)])
    async with running(told(1), reading(topic.url(client=client), follow=True), sink) as pipeline:
        await until(lambda: pipeline.progress.slices >= 4 and 0 < (pipeline.behind() or 0) < 20, seconds=40)
        sink.let.set()
        await until(lambda: len(sink.records) == 20, seconds=40)
        assert pipeline.behind() == 0
    sink.check()


# --- refusals --------------------------------------------------------------------------------------------------------


async def refused(url: str) -> StreamError:
    with pytest.raises(StreamError) as error:
        await open_source(url, start=None, identity=None, follow=True, key=KEY)
    return error.value


@both
async def test_wrong_topic_or_partition_is_refused(broker: Cluster, client: str) -> None:
    topic = Topic(broker)
    for url in (f"kafka://{broker.servers}/no-such-topic?client={client}", topic.url(7, client=client)):
        error = await refused(url)
        assert isinstance(error, SourceRefused)
        assert "no such topic or partition" in error.message


@both
async def test_topic_of_several_partitions_is_refused_until_one_is_named(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker, partitions=2), MemorySink()
    topic.fill([b"one"], partition=1)
    bare = f"kafka://{broker.servers}/{topic.name}?client={client}"
    with pytest.raises(Malformed, match="2 partitions"):
        await open_source(bare, start=None, identity=None, follow=True, key=KEY)
    await run_to_end(told(), reading(f"{bare}&partition=1"), sink)
    assert values(sink) == [b"one"]
    alone, all_of_it = Topic(broker), MemorySink()
    alone.fill([b"one"])
    await run_to_end(told(), reading(f"kafka://{broker.servers}/{alone.name}?client={client}"), all_of_it)
    assert values(all_of_it) == [b"one"]


@both
async def test_nobody_at_the_address_is_unavailable(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.kafka_python.REQUEST_S", 1.0)
    monkeypatch.setattr("streaming.kafka_fast.REQUEST_S", 1.0)
    error = await refused(f"kafka://127.0.0.1:1/topic?client={client}")
    assert isinstance(error, SourceUnavailable)
    assert "cannot be reached" in error.message


def password_file(folder: Path, password: str) -> Path:
    path = folder / "password"
    path.write_text(password + "\n")
    return path


@both
async def test_wrong_password_and_missing_permission_are_refused(
    broker: Cluster, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.kafka_python.REQUEST_S", 2.0)
    monkeypatch.setattr("streaming.kafka_fast.REQUEST_S", 2.0)
    topic, sink = Topic(broker), MemorySink()
    topic.fill([b"one"])
    base = f"kafka://{broker.with_password}/{topic.name}?client={client}&user="
    wrong = await refused(f"{base}{READER[0]}&password_file={password_file(tmp_path, 'wrong')}")
    assert wrong.hint == "check user, password_file and mechanism"
    monkeypatch.undo()
    stranger = await refused(f"{base}{STRANGER[0]}&password_file={password_file(tmp_path, STRANGER[1])}")
    assert isinstance(stranger, SourceRefused)
    await run_to_end(told(), reading(f"{base}{READER[0]}&password_file={password_file(tmp_path, READER[1])}"), sink)
    assert values(sink) == [b"one"]


@both
async def test_who_may_read_the_topic_needs_no_other_permission(broker: Cluster, client: str, tmp_path: Path) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill([b"one"])
    user, password = STRANGER
    url = f"kafka://{broker.with_password}/{topic.name}?client={client}&user={user}"
    url += f"&password_file={password_file(tmp_path, password)}"
    assert isinstance(await refused(url), SourceRefused)
    topic.allow(user)
    await run_to_end(told(), reading(url), sink)
    assert values(sink) == [b"one"]


@both
async def test_certificate_that_nobody_vouches_for_is_refused(
    broker: Cluster, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.kafka_python.REQUEST_S", 2.0)
    monkeypatch.setattr("streaming.kafka_fast.REQUEST_S", 2.0)
    topic, sink = Topic(broker), MemorySink()
    topic.fill([b"one"])
    url = f"kafka://{broker.with_tls}/{topic.name}?client={client}&security=SSL"
    error = await refused(url)
    assert isinstance(error, SourceRefused)
    assert "certificate" in error.message
    monkeypatch.undo()
    await run_to_end(told(), reading(f"{url}&ca={broker.authority}"), sink)
    assert values(sink) == [b"one"]


async def test_every_partition_has_an_address_of_its_own(broker: Cluster) -> None:
    topic = Topic(broker, partitions=3)
    addresses = await partitions_of(f"kafka://{broker.servers}/{topic.name}")
    assert [Address.parse(address).partition for address in addresses] == [0, 1, 2]


@pytest.mark.parametrize(
    "url",
    [
        "kafka://host/topic", "kafka://host:9092", "kafka://host:9092/a b", "kafka:host:9092/topic", "kafka://h:1/t?partition=x",
        "kafka://h:1/t?partition=1&partition=2", "kafka://h:1/t?password=secret", "kafka://h:1/t?user=a",
        "kafka://h:1/t?security=TLS", "kafka://h:1/t?ca=/x", "kafka://h:1/t?client=other",
    ],
)  # fmt: skip
def test_refuses_an_address_of_another_form(url: str) -> None:
    with pytest.raises(Malformed):
        Address.parse(url)


def test_address_is_the_same_when_written_again() -> None:
    url = "kafka://a:1,b:2/t?partition=3&security=SASL_SSL&mechanism=SCRAM-SHA-512&user=me&password_file=/p&ca=/c"
    address = Address.parse(url)
    assert Address.parse(address.at(3)) == address
