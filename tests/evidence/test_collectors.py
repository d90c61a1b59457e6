"""All partitions of a topic of a real Kafka at once, a stream for each, against a real service."""

import asyncio
import itertools
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from served import ENTRY, Served, Verb, clean_environment

from evidence.cli.app import run
from evidence.client import AsyncClient
from evidence.collector import CollectorState, Wish, state_path
from evidence.collectors import Collectors
from evidence.exchange import Unreachable
from evidence.promise import Promise
from evidence.stream_wire import SliceBody
from kafka_broker import READER, STRANGER, Cluster
from kafka_topics import Topic
from models.canonical import JSONValue
from streaming.port import SourceRefused
from streaming.slicer import CutRule

WAIT_S = 40
PARTITIONS = 3


def collect(name: str, source: str, *more: str) -> list[str]:
    Path("words.txt").write_text("buy\nsell\n", "utf-8")
    return ["stream", "run", "--stream", name, "--source", source, "--keywords", "words.txt", "--state", "state", *more]


def fill(topic: Topic, numbers: Iterable[int], *, key: Callable[[int], bytes | None] = lambda _number: None) -> None:
    """Each number is a message of every partition."""
    producer = topic.producer()
    for number in numbers:
        for partition in range(topic.partitions):
            producer.produce(topic.name, b"buy %d of %d" % (number, partition), key=key(number), partition=partition)
    assert producer.flush(30) == 0


def expected(partition: int, count: int) -> list[tuple[str, str]]:
    return [(f"0:{number}", f"buy {number} of {partition}") for number in range(count)]


def lines(verb: Verb, name: str) -> list[tuple[str, str]]:
    """Position and text of every message in the stream, by an answer that was verified."""
    code, found = verb("stream", "query", name, "--keyword", "buy")
    assert (code, found["verdict"]) == (0, "VALID")
    return [(line["position"], line["text"]) for line in found["lines"]]


def until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.05)


# --- which streams --------------------------------------------------------------------------------------------------


def test_every_partition_is_a_stream_and_the_next_run_goes_on_with_each(verb: Verb, broker: Cluster) -> None:
    topic = Topic(broker, partitions=PARTITIONS)
    fill(topic, range(4), key=lambda number: b"%d" % (number // 2))
    argv = collect("all", topic.whole(client="python"), "--once", "--slice-key")
    for last, more in ((4, 4), (6, 2)):
        code, document = verb(*argv)
        assert (code, document["stream_id"], document["state"], document["lines"]) == (0, "all", "stopped", PARTITIONS * more)
        told = [(each["stream_id"], each["partition"], each["slices"], each["position"]) for each in document["streams"]]
        assert told == [(f"all-{part}", part, more // 2, f"0:{last}") for part in range(PARTITIONS)]
        assert not any("error" in each or each["added"] for each in document["streams"])
        if last == 4:
            fill(topic, range(4, 6))
    for part in range(PARTITIONS):
        assert lines(verb, f"all-{part}") == expected(part, 6)
    listed = {each["stream_id"]: each for each in verb("stream", "list")[1]["items"]}
    assert all(listed[f"all-{part}"]["behind"]["count"] == 0 for part in range(PARTITIONS))
    assert "all" not in listed


def test_a_partition_added_between_runs_begins_at_its_offset_0_with_the_words_of_the_others(verb: Verb, broker: Cluster) -> None:
    topic = Topic(broker, partitions=2)
    fill(topic, range(2))
    argv = collect("grown", topic.whole(client="fast"), "--once", "--case", "ascii", "--max-silence", "77")
    assert verb(*argv)[0] == 0
    topic.grow(3)
    fill(topic, range(2, 4))
    code, document = verb(
        "stream", "run", "--stream", "grown", "--source", topic.whole(client="fast"), "--state", "state", "--once"
    )
    assert code == 0
    assert [(each["stream_id"], each["added"], each["position"], each["lines"]) for each in document["streams"]] == [
        ("grown-0", False, "0:4", 2), ("grown-1", False, "0:4", 2), ("grown-2", True, "0:2", 2),
    ]  # fmt: skip
    declared = [CollectorState.open(state_path(Path("state"), f"grown-{part}"), f"grown-{part}").declared for part in range(3)]
    assert [len(each) for each in declared] == [1, 1, 1]
    assert {each[0].keywords for each in declared} == {(b"buy", b"sell")}
    facts = {(each[0].declaration.case, each[0].declaration.max_silence_s, each[0].declaration.slice) for each in declared}
    assert facts == {("ascii", 77, "merkle")}
    assert len({each[0].secret for each in declared}) == 3


def test_a_topic_that_had_one_partition_keeps_its_stream_when_it_grows(verb: Verb, broker: Cluster) -> None:
    topic = Topic(broker)
    fill(topic, range(2))
    argv = collect("only", topic.whole(client="fast"), "--once")
    code, document = verb(*argv)
    assert (code, document["stream_id"], document["position"], "streams" in document) == (0, "only", "0:2", False)
    topic.grow(2)
    fill(topic, range(2, 4))
    code, document = verb(*argv)
    assert (code, [each["stream_id"] for each in document["streams"]]) == (0, ["only", "only-1"])
    assert lines(verb, "only") == expected(0, 4)
    assert lines(verb, "only-1") == [("0:0", "buy 2 of 1"), ("0:1", "buy 3 of 1")]


def test_a_partition_collected_by_its_name_keeps_its_stream_among_all(verb: Verb, broker: Cluster) -> None:
    topic = Topic(broker, partitions=2)
    fill(topic, range(2))
    for name in ("named-1", "one-of"):
        assert verb(*collect(name, f"{topic.whole(client='fast')}&partition=1", "--once"))[1]["lines"] == 2
    for name, streams in (("named", ["named-0", "named-1"]), ("one-of", ["one-of-0", "one-of"])):
        code, document = verb(*collect(name, topic.whole(client="fast"), "--once"))
        assert (code, [(each["stream_id"], each["lines"]) for each in document["streams"]]) == (
            0,
            [(streams[0], 2), (streams[1], 0)],
        )
        assert lines(verb, streams[1]) == expected(1, 2)


# --- killed ---------------------------------------------------------------------------------------------------------


def test_killed_while_records_come_each_is_there_once_and_stderr_says_what_is_new_or_refused(
    verb: Verb, cli_service: Served, broker: Cluster, tmp_path: Path
) -> None:
    topic = Topic(broker, partitions=2)
    argv = collect("killed-all", topic.whole(client="fast"), "--slice-lines", "3", "--slice-seconds", "0.2")
    assert verb(*argv, "--once")[0] == 0
    assert verb("stream", "end", "killed-all-1", "--state", "state")[0] == 0
    topic.grow(PARTITIONS)
    fill(topic, range(20))
    going_on = [(part, f"killed-all-{part}") for part in (0, 2)]
    environ = clean_environment(**cli_service.environ)
    started = subprocess.Popen([*ENTRY, *argv], env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    try:
        said = list(itertools.islice(iter(started.stderr.readline, ""), 3))
        until(lambda: all(verb("stream", "show", name)[1].get("lines", 0) >= 15 for _, name in going_on))
        fill(topic, range(20, 45))
        started.kill()
        assert started.wait(WAIT_S) == -signal.SIGKILL
        said += started.stderr.readlines()
    finally:
        started.kill()
        started.wait()
        started.stderr.close()
    assert "killed-all-2 分区 2 为新增，自偏移量 0 采集\n" in said
    assert [line.partition(" (")[0] for line in said if line.startswith("evidence:")] == [
        "evidence: killed-all-1: stream has ended: nothing follows its last slice"
    ]
    code, document = verb(*argv, "--once")
    assert (code, [each["position"] for each in document["streams"]]) == (1, ["0:45", None, "0:45"])
    for part, name in going_on:
        assert lines(verb, name) == expected(part, 45)


# --- refused --------------------------------------------------------------------------------------------------------


def test_streams_that_are_refused_do_not_stop_the_others(
    verb: Verb, broker: Cluster, capsys: pytest.CaptureFixture[str], cli_service: Served
) -> None:
    topic = Topic(broker, partitions=PARTITIONS)
    fill(topic, range(2))
    argv = collect("partly", topic.whole(client="fast"), "--once")
    assert verb(*argv)[0] == 0
    assert verb("stream", "end", "partly-1", "--state", "state")[0] == 0
    fill(topic, range(2, 5))
    held = CollectorState.open(state_path(Path("state"), "partly-2"), "partly-2").hold()
    try:
        code, document = verb(*argv)
    finally:
        os.close(held)
    assert (code, document["state"]) == (1, "failed")
    assert [(each["state"], each["lines"]) for each in document["streams"]] == [("stopped", 3), ("failed", 0), ("failed", 0)]
    reasons = [each.get("error", {}).get("detail") for each in document["streams"]]
    assert reasons[0] is None
    assert "stream has ended" in reasons[1]
    assert "another collector" in reasons[2]
    assert lines(verb, "partly-0") == expected(0, 5)
    assert lines(verb, "partly-1") == expected(1, 2)
    assert run_text(argv, cli_service, capsys) == 1
    assert lines(verb, "partly-2") == expected(2, 5)


def run_text(argv: list[str], served: Served, capsys: pytest.CaptureFixture[str]) -> int:
    """The exit code of a run for a person, who is told which stream it is."""
    code = run([*argv, "--lang", "en"], environ=served.environ)
    said = capsys.readouterr().out
    assert "partly-1: stream has ended" in said
    assert "partly-2  2" in said
    return code


def test_what_all_are_refused_for_is_said_once_and_declares_nothing(
    verb: Verb, broker: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.kafka_fast.REQUEST_S", 1.0)
    topic = Topic(broker, partitions=2)
    (tmp_path / "password").write_text("wrong\n", "utf-8")
    base = f"kafka://{broker.with_password}/{topic.name}?client=fast&password_file={tmp_path / 'password'}&user="
    code, document = verb(*collect("wrong", base + READER[0], "--once"))
    assert (code in (1, 4), "password" in document.get("hint", "")) == (True, True), document
    (tmp_path / "password").write_text(f"{STRANGER[1]}\n", "utf-8")
    code, document = verb(*collect("wrong", base + STRANGER[0], "--once"))
    assert (code, document["detail"]) == (1, "kafka gives no permission to read the topic")
    code, document = verb(*collect("w" * 63, topic.whole(client="fast"), "--once"))
    assert (code, "stream id has wrong form" in document["detail"]) == (3, True)
    assert not list(Path("state").glob("**/*.json"))


# --- while it runs --------------------------------------------------------------------------------------------------


class Waiting(AsyncClient):
    """A client whose slices of one stream wait until they are let go, or whose first declaration is not answered."""

    slow = ""
    unanswered = ""
    go = asyncio.Event()

    async def declare_stream(self, body: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        if self.unanswered and self.unanswered in str(body["declaration"]):
            self.unanswered = ""
            raise Unreachable("no answer")
        return await super().declare_stream(body)

    async def put_slice(self, body: SliceBody) -> Promise:
        if body.header.stream_id == self.slow:
            await self.go.wait()
        return await super().put_slice(body)


def collectors(client: AsyncClient, name: str, source: str, folder: Path) -> Collectors:
    """What follows a topic, and looks for new partitions all the time."""
    wish = Wish(name, source, "kafka", (b"buy", b"sell"), options={"charset": "utf-8"})
    return Collectors(
        client, folder, wish, cut=lambda _wish, _state: CutRule(lines=1, seconds=None), follow=True,
        clock=lambda: datetime.now(UTC), randomness=os.urandom, look_s=0.1,
    )  # fmt: skip


def client_of(served: Served) -> "Waiting":
    return Waiting(served.url, token=(served.home / "token").read_text())


@asynccontextmanager
async def collecting(
    served: Served, name: str, source: str, folder: Path, *, slow: str = "", unanswered: str = ""
) -> AsyncIterator[tuple[Collectors, asyncio.Task[None], Waiting]]:
    """Collectors that run; stopped on leaving."""
    async with client_of(served) as client:
        client.slow, client.unanswered, client.go = slow, unanswered, asyncio.Event()
        run = collectors(client, name, source, folder)
        await run.begin()
        task = asyncio.ensure_future(run.collect())
        try:
            yield run, task, client
            client.go.set()
            run.stop()
            await asyncio.wait_for(task, WAIT_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def reached(holds: Callable[[], bool]) -> None:
    for _ in range(WAIT_S * 50):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not happen in time")


def positions(run: Collectors) -> dict[str, Any]:
    return {each.stream_id: str(each.progress.position) for each in run.all}


async def test_a_partition_added_while_it_runs_is_collected_from_its_offset_0(
    cli_service: Served, broker: Cluster, tmp_path: Path
) -> None:
    topic, name = Topic(broker), "while"
    fill(topic, range(2))
    async with collecting(cli_service, name, topic.whole(client="fast"), tmp_path) as (run, task, _):
        await reached(lambda: positions(run) == {name: "0:2"})
        assert not run.all[0].is_added
        await asyncio.to_thread(topic.grow, 3)
        await asyncio.to_thread(fill, topic, range(2))
        await reached(lambda: positions(run) == {name: "0:4", f"{name}-1": "0:2", f"{name}-2": "0:2"})
        assert [each.is_added for each in run.all] == [False, True, True]
        assert not task.done()
    assert [str(each.progress.state) for each in run.all] == ["stopped"] * 3


async def test_a_stream_that_is_held_back_does_not_hold_back_the_others_and_keeps_little(
    cli_service: Served, broker: Cluster, tmp_path: Path
) -> None:
    topic = Topic(broker, partitions=2)
    fill(topic, range(12))
    async with collecting(cli_service, "held", topic.whole(client="fast"), tmp_path, slow="held-1") as (run, _, _client):
        await reached(lambda: positions(run)["held-0"] == "0:12")
        slow = run.all[1].progress
        assert (slow.position, slow.number) == (None, None)
        assert 0 < slow.pending <= 2 + 2
    assert positions(run) == {"held-0": "0:12", "held-1": "0:12"}


async def test_a_stream_that_could_not_be_declared_begins_later_while_the_others_run(
    cli_service: Served, broker: Cluster, tmp_path: Path
) -> None:
    topic = Topic(broker, partitions=2)
    fill(topic, range(2))
    async with collecting(cli_service, "later", topic.whole(client="fast"), tmp_path, unanswered="later-1") as (run, _, _client):
        assert isinstance(run.all[1].error, Unreachable)
        assert run.all[1].pipeline is None
        assert run.reason is None
        await reached(lambda: positions(run) == {"later-0": "0:2", "later-1": "0:2"})
    assert [each.error for each in run.all] == [None, None]


async def test_what_the_source_refuses_to_one_ends_all_with_what_was_read(
    cli_service: Served, broker: Cluster, tmp_path: Path
) -> None:
    """The second is held back and so does not ask Kafka again: only the first can have ended it."""
    topic = Topic(broker, partitions=2)
    user, password = STRANGER
    (tmp_path / "password").write_text(f"{password}\n", "utf-8")
    source = f"kafka://{broker.with_password}/{topic.name}?client=fast&user={user}&password_file={tmp_path / 'password'}"
    await asyncio.to_thread(topic.allow, user)
    await asyncio.to_thread(fill, topic, range(12))
    async with collecting(cli_service, "taken", source, tmp_path, slow="taken-1") as (run, task, client):
        await reached(lambda: positions(run)["taken-0"] == "0:12" and run.all[1].progress.pending == 4)
        await asyncio.to_thread(topic.disallow, user)
        await reached(lambda: run.all[0].error is not None)
        client.go.set()
        await asyncio.wait_for(asyncio.shield(task), WAIT_S)
    assert isinstance(run.reason, SourceRefused)
    assert run.reason.message == "kafka gives no permission to read the topic"
    assert positions(run) == {"taken-0": "0:12", "taken-1": "0:12"}
    assert (run.all[1].error, str(run.all[1].progress.state)) == (None, "stopped")


async def test_a_source_that_is_away_is_asked_until_it_says_which_partitions_it_has(
    cli_service: Served, broker: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = Topic(broker, partitions=2)
    await asyncio.to_thread(fill, topic, range(2))
    broker.kill()
    async with client_of(cli_service) as client:
        run = collectors(client, "away", topic.whole(client="fast"), tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("streaming.kafka_fast.REQUEST_S", 0.5)
            beginning = asyncio.ensure_future(run.begin())
            await reached(lambda: run.in_the_way is not None)
        assert "cannot be reached" in str(run.in_the_way)
        assert run.all == []
        await asyncio.to_thread(broker.wait_started, broker.launch())
        await asyncio.wait_for(beginning, WAIT_S)
        assert (run.in_the_way, [each.error for each in run.all]) == (None, [None, None])
        run.stop()
        await asyncio.wait_for(run.collect(), WAIT_S)


async def test_where_none_can_go_on_the_run_ends_though_it_looks_for_more(
    cli_service: Served, broker: Cluster, tmp_path: Path, verb: Verb
) -> None:
    topic = Topic(broker, partitions=2)
    fill(topic, range(1))
    source = topic.whole(client="fast")
    async with collecting(cli_service, "over", source, tmp_path) as (run, _, _client):
        await reached(lambda: positions(run) == {"over-0": "0:1", "over-1": "0:1"})
    for part in range(2):
        code, _ = await asyncio.to_thread(verb, "stream", "end", f"over-{part}", "--state", str(tmp_path))
        assert code == 0
    async with collecting(cli_service, "over", source, tmp_path) as (run, task, _client):
        await asyncio.wait_for(asyncio.shield(task), WAIT_S)
    assert ["stream has ended" in str(each.error) for each in run.all] == [True, True]
