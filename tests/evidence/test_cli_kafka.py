"""`evidence stream run` from a real Kafka to a real service: cut by key and by value, killed, refused; nothing is lost."""

import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from served import ENTRY, Served, Verb, clean_environment

from evidence.client import Client
from kafka_broker import READER, STRANGER, Cluster
from kafka_topics import Topic

WAIT_S = 40
both = pytest.mark.parametrize("client", ["python", "fast"])
RULES = """keywords = ["buy", "sell"]

[[rule]]
name = "account"
after = "acct="
class = "0-9"
min = 4
max = 8
"""
ORDERS = ["buy acct=1001 AAA", "sell acct=1001 BBB", "nothing", "buy acct=2002 CCC", "sell acct=1001 DDD", "sell acct=1001 EEE"]
CUT_BY_ACCOUNT = [["buy acct=1001 AAA", "sell acct=1001 BBB", "nothing"], ["buy acct=2002 CCC"], ORDERS[4:]]


@pytest.fixture
def topic(broker: Cluster) -> Topic:
    return Topic(broker)


def collect(name: str, source: str, *more: str) -> list[str]:
    Path("words.toml").write_text(RULES, "utf-8")
    words = [] if "--no-words" in more else ["--keywords", "words.toml"]
    rest = [word for word in more if word != "--no-words"]
    return ["stream", "run", "--stream", name, "--source", source, *words, "--state", "state", "--once", *rest]


def fill(topic: Topic, *orders: str, key: str | None = None, partition: int = 0) -> None:
    topic.fill([order.encode() for order in orders], key=None if key is None else key.encode(), partition=partition)


def slices(served: Served, name: str) -> list[tuple[str, str, int]]:
    """(start, end, lines) of each slice with records."""
    with Client(served.url, token=(served.home / "token").read_text()) as client:
        page: Any = client.slices(name)
    assert all(one["end"] == two["start"] for one, two in pairwise(page["items"]))
    return [(each["start"], each["end"], each["lines"]) for each in page["items"] if each["lines"]]


def cut(groups: list[list[str]]) -> list[tuple[str, str, int]]:
    """The slices that hold one group of messages each."""
    found, at = [], 0
    for group in groups:
        found.append((f"0:{at}", f"0:{at + len(group)}", len(group)))
        at += len(group)
    return found


# --- slicing by a business attribute --------------------------------------------------------------------------------


@both
def test_slice_ends_where_the_message_key_changes(verb: Verb, cli_service: Served, topic: Topic, client: str) -> None:
    for key, orders in (("A", ORDERS[:2]), ("B", ORDERS[2:3]), ("A", ORDERS[3:])):
        fill(topic, *orders, key=key)
    name = f"by-key-{client}"
    code, document = verb(*collect(name, topic.url(client=client), "--slice-key"))
    assert (code, document["lines"], document["position"]) == (0, len(ORDERS), f"0:{len(ORDERS)}")
    assert slices(cli_service, name) == cut([ORDERS[:2], ORDERS[2:3], ORDERS[3:]])
    code, found = verb("stream", "query", name, "--keyword", "buy")
    assert (code, found["verdict"], found["counts"][0]["n"]) == (0, "VALID", 2)
    assert [line["position"] for line in found["lines"]] == ["0:0", "0:3"]


def test_slice_ends_where_the_value_of_a_field_changes(verb: Verb, cli_service: Served, topic: Topic) -> None:
    fill(topic, *ORDERS)
    assert verb(*collect("by-value", topic.url(client="fast"), "--slice-rule", "account"))[0] == 0
    assert slices(cli_service, "by-value") == cut(CUT_BY_ACCOUNT)
    code, found = verb("stream", "query", "by-value", "--value", "account=1001")
    assert (code, found["verdict"]) == (0, "VALID")
    assert [line["position"] for line in found["lines"]] == ["0:0", "0:1", "0:4", "0:5"]


def test_without_either_all_are_one_slice_and_lines_of_a_file_are_cut_by_value_too(verb: Verb, cli_service: Served) -> None:
    Path("app.log").write_text("".join(f"{order}\n" for order in ORDERS), "utf-8")
    assert verb(*collect("uncut", "file:app.log"))[0] == 0
    assert [lines for _, _, lines in slices(cli_service, "uncut")] == [len(ORDERS)]
    assert verb(*collect("file-by-value", "file:app.log", "--slice-rule", "account"))[0] == 0
    assert [lines for _, _, lines in slices(cli_service, "file-by-value")] == [len(group) for group in CUT_BY_ACCOUNT]


def test_rule_of_the_standing_declaration_cuts_where_no_keyword_file_is_given_again(
    verb: Verb, cli_service: Served, topic: Topic
) -> None:
    fill(topic, "buy acct=1001 first")
    source = topic.url(client="fast")
    assert verb(*collect("again", source))[0] == 0
    fill(topic, *ORDERS[3:])
    assert verb(*collect("again", source, "--no-words", "--slice-rule", "account"))[0] == 0
    assert slices(cli_service, "again") == cut([["first"], ORDERS[3:4], ORDERS[4:]])
    code, document = verb(*collect("again", source, "--no-words", "--slice-rule", "price"))
    assert (code, document["hint"]) == (64, "rules of the keyword file: account")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--slice-key"], "lines have no key"),
        (["--slice-rule", "price"], "none of the stream's rules"),
        (["--slice-rule", ""], None),
        (["--slice-rule", "account", "--slice-key"], "choose one"),
        (["--slice-rule", "account", "--no-words"], "none of the stream's rules"),
    ],
    ids=["key of lines", "unknown rule", "no rule", "both", "no keyword file"],
)
def test_refuses_an_attribute_that_cuts_nothing_and_declares_nothing(verb: Verb, more: list[str], said: str | None) -> None:
    Path("app.log").write_text("one\n", "utf-8")
    code, document = verb(*collect("nothing", "file:app.log", *more))
    assert code == 64
    assert said is None or said in document["detail"]
    assert verb("stream", "show", "nothing")[0] == 1


def test_refuses_a_rule_of_wrong_form_and_names_it(verb: Verb, topic: Topic) -> None:
    argv = collect("wrong-rule", topic.url(client="fast"), "--slice-rule", "account")
    Path("words.toml").write_text(RULES.replace("max = 8", "max = 2"), "utf-8")
    code, document = verb(*argv)
    assert (code, "rule" in document["detail"]) == (3, True)
    assert verb("stream", "show", "wrong-rule")[0] == 1


# --- reading --------------------------------------------------------------------------------------------------------


def test_each_partition_is_a_stream_of_its_own_and_a_second_run_goes_on_at_the_offset(
    verb: Verb, cli_service: Served, broker: Cluster
) -> None:
    topic = Topic(broker, partitions=2)
    for part, client in enumerate(("python", "fast")):
        name, source = f"part-{part}", topic.url(part, client=client)
        fill(topic, *ORDERS[: part + 1], partition=part)
        assert verb(*collect(name, source))[1]["lines"] == part + 1
        fill(topic, *ORDERS[part + 1 :], partition=part)
        assert verb(*collect(name, source))[1]["lines"] == len(ORDERS) - part - 1
        assert slices(cli_service, name) == cut([ORDERS[: part + 1], ORDERS[part + 1 :]])
        (item,) = [each for each in verb("stream", "list")[1]["items"] if each["stream_id"] == name]
        assert (item["position"], item["behind"]["count"], item["behind"]["unit"]) == (f"0:{len(ORDERS)}", 0, "records")


def until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < limit, "did not happen in time"


def test_a_killed_collector_goes_on_at_the_offset_of_the_last_slice(
    verb: Verb, cli_service: Served, topic: Topic, tmp_path: Path
) -> None:
    argv = [word for word in collect("killed", topic.url(client="fast"), "--slice-lines", "1") if word != "--once"]
    environ = clean_environment(**cli_service.environ)
    fill(topic, *ORDERS[:3])

    def lines() -> int:
        document = verb("stream", "show", "killed")[1]
        return int(document.get("lines", 0))

    for wanted, orders, number in ((3, ORDERS[3:5], signal.SIGKILL), (5, ORDERS[5:], signal.SIGTERM)):
        started = subprocess.Popen([*ENTRY, *argv, "--json", "--quiet"], env=environ, cwd=tmp_path, stdout=subprocess.PIPE)
        try:
            until(lambda wanted=wanted: lines() >= wanted)  # type: ignore[misc]
            fill(topic, *orders)
            started.send_signal(number)
            assert started.wait(WAIT_S) == (0 if number is signal.SIGTERM else -number)
        finally:
            started.kill()
            started.wait()
    assert verb(*collect("killed", topic.url(client="fast"), "--slice-lines", "1"))[0] == 0
    assert slices(cli_service, "killed") == cut([[order] for order in ORDERS])
    code, found = verb("stream", "query", "killed", "--keyword", "buy", "--keyword", "sell")
    assert (code, [counted["n"] for counted in found["counts"]]) == (0, [2, 3])


# --- refusals -------------------------------------------------------------------------------------------------------


@both
def test_refuses_a_topic_a_partition_or_an_address_and_declares_nothing(
    verb: Verb, broker: Cluster, topic: Topic, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, expected, said in (
        (f"kafka://{broker.servers}/no-such-topic?client={client}", 1, "no such topic or partition"),
        (topic.url(7, client=client), 1, "no such topic or partition"),
        (f"kafka://127.0.0.1:1/{topic.name}?client={client}", 4, "cannot be reached"),
        (f"kafka://{broker.servers}?client={client}", 3, "wrong form"),
        (f"{topic.url(client=client)}&password=x", 3, "unknown option"),
    ):
        with monkeypatch.context() as patch:
            if expected == 4:
                patch.setattr("streaming.kafka_python.REQUEST_S", 1.0)
                patch.setattr("streaming.kafka_fast.REQUEST_S", 1.0)
            code, document = verb(*collect("refused", source))
        assert (code, said in document["detail"]) == (expected, True), document
        assert verb("stream", "show", "refused")[0] == 1


@both
def test_without_permission_nothing_is_declared_or_lost(
    verb: Verb, cli_service: Served, broker: Cluster, topic: Topic, client: str, tmp_path: Path
) -> None:
    def source(user: str, password: str) -> str:
        (tmp_path / "password").write_text(f"{password}\n", "utf-8")
        return f"kafka://{broker.with_password}/{topic.name}?client={client}&user={user}&password_file={tmp_path / 'password'}"

    name = f"permitted-{client}"
    fill(topic, *ORDERS[:2])
    code, document = verb(*collect(name, source(*STRANGER)))
    assert (code, "no permission" in document["detail"]) == (1, True)
    assert verb("stream", "show", name)[0] == 1
    assert verb(*collect(name, source(*READER)))[1]["lines"] == 2
    declared = verb("stream", "show", name)[1]["declarations"]
    fill(topic, *ORDERS[2:])
    assert verb(*collect(name, source(*STRANGER)))[0] == 1
    assert verb("stream", "show", name)[1]["declarations"] == declared
    assert verb(*collect(name, source(*READER)))[1]["lines"] == len(ORDERS) - 2
    assert slices(cli_service, name) == cut([ORDERS[:2], ORDERS[2:]])


def test_without_the_certificate_that_kafka_wants_nothing_is_declared_or_lost(
    verb: Verb, cli_service: Served, broker: Cluster, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = f"kafka://{broker.with_certificate}/{topic.name}?client=fast&security=SSL&ca={broker.authority}"

    def shown(name: str) -> str:
        certificate, key = broker.certificate(name)
        return f"{bare}&certificate={certificate}&key={key}"

    fill(topic, *ORDERS)
    for source, said in ((bare, "does not accept our certificate"), (shown(STRANGER[0]), "no permission")):
        with monkeypatch.context() as patch:
            if source == bare:
                patch.setattr("streaming.kafka_fast.REQUEST_S", 2.0)
            code, document = verb(*collect("certified", source))
        assert (code, said in document["detail"]) == (1, True)
        assert verb("stream", "show", "certified")[0] == 1
    assert verb(*collect("certified", shown(READER[0])))[1]["lines"] == len(ORDERS)
    assert slices(cli_service, "certified") == cut([ORDERS])
