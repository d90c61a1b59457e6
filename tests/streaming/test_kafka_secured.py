"""Both clients where a certificate or a password that is never sent is wanted: who may read does, a refusal loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from collected_world import KEY, MemorySink, collecting, run_to_end
from cryptography.hazmat.primitives import serialization

from kafka_broker import READER, STRANGER, Cluster
from kafka_topics import Topic
from models.errors import Malformed
from models.record import Encoding, Position, open_kafka
from streaming.kafka import open_source
from streaming.kafka_client import Address
from streaming.port import Source, SourceRefused, SourceUnavailable, StreamError
from streaming.slicer import CutRule

both = pytest.mark.parametrize("client", ["python", "fast"])
VALUES = [b"value %d" % number for number in range(9)]


async def collect(url: str, sink: MemorySink) -> None:
    async def open_at(start: Position | None, identity: str | None) -> Source:
        return await open_source(url, start=start, identity=identity, follow=False, key=KEY)

    await run_to_end(collecting(cut=CutRule(lines=2, seconds=None), encoding=Encoding.KAFKA), open_at, sink)


async def refused(
    url: str, sink: MemorySink, said: str, kind: type[StreamError] = SourceRefused, *, at_once: bool = False
) -> None:
    """Going on where the sink stands is refused with these words; unless that is said at once, only when the time is over."""
    last, identity = await sink.last(), await sink.identity()
    with pytest.MonkeyPatch.context() as patch:
        if not at_once:
            patch.setattr("streaming.kafka_python.REQUEST_S", 2.0)
            patch.setattr("streaming.kafka_fast.REQUEST_S", 2.0)
        with pytest.raises(kind) as error:
            await open_source(url, start=None if last is None else last.end, identity=identity, follow=True, key=KEY)
    assert said in f"{error.value.message}; {error.value.hint}"


def collected(sink: MemorySink) -> list[bytes | None]:
    sink.check()
    return [open_kafka(payload)[2] for payload in sink.payloads]


# --- certificates ---------------------------------------------------------------------------------------------------


def shown(broker: Cluster, topic: Topic, client: str, name: str | None) -> str:
    """An address where the client shows that certificate."""
    url = f"kafka://{broker.with_certificate}/{topic.name}?client={client}&security=SSL&ca={broker.authority}"
    if name is None:
        return url
    certificate, key = broker.certificate(name)
    return f"{url}&certificate={certificate}&key={key}"


@both
async def test_certificate_that_kafka_knows_reads_and_any_other_loses_nothing(broker: Cluster, client: str) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill(VALUES[:5])
    await collect(shown(broker, topic, client, READER[0]), sink)
    assert collected(sink) == VALUES[:5]
    topic.fill(VALUES[5:])
    await refused(shown(broker, topic, client, None), sink, "does not accept our certificate, or wants one")
    await refused(shown(broker, topic, client, "nobody"), sink, "does not accept our certificate, or wants one")
    await refused(shown(broker, topic, client, STRANGER[0]), sink, "no permission to read", at_once=True)
    await collect(shown(broker, topic, client, READER[0]), sink)
    assert collected(sink) == VALUES
    assert {header.start.epoch for header in sink.headers} == {0}
    assert "gap" not in sink.kinds


@both
@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("other key", "cannot be used"),
        ("locked key", "cannot be used"),
        ("no PEM", "cannot be used"),
        ("ca", "holds no certificate"),
    ],
)
async def test_files_that_do_not_fit_are_refused_before_anybody_is_asked(
    broker: Cluster, client: str, tmp_path: Path, part: str, said: str
) -> None:
    certificate, key = broker.certificate(READER[0])
    ca = broker.authority
    (tmp_path / "other").write_text("no certificate\n")
    match part:
        case "other key":
            key = broker.certificate(STRANGER[0])[1]
        case "locked key":
            opened = serialization.load_pem_private_key(key.read_bytes(), None)
            lock = serialization.BestAvailableEncryption(b"password")
            key = tmp_path / "locked"
            key.write_bytes(opened.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
        case "no PEM":
            certificate = tmp_path / "other"
        case _:
            ca = tmp_path / "other"
    url = f"kafka://127.0.0.1:1/t?client={client}&security=SSL&ca={ca}&certificate={certificate}&key={key}"
    await refused(url, MemorySink(), said, at_once=True)


@pytest.mark.parametrize("named", ["certificate=/c", "key=/k"])
def test_certificate_and_key_go_together(named: str) -> None:
    with pytest.raises(Malformed, match="go together"):
        Address.parse(f"kafka://h:1/t?security=SSL&{named}")
    assert Address.parse("kafka://h:1/t?security=SSL&certificate=/c&key=/c").key == Path("/c")


# --- passwords ------------------------------------------------------------------------------------------------------


def proven(broker: Cluster, topic: Topic, client: str, user: tuple[str, str], folder: Path, mechanism: str) -> str:
    """An address where the client proves that it knows the user's password."""
    password = folder / f"{user[0]}-{len(user[1])}"
    password.write_text(f"{user[1]}\n")
    security = f"security=SASL_SSL&ca={broker.authority}&mechanism={mechanism}"
    return f"kafka://{broker.with_scram}/{topic.name}?client={client}&{security}&user={user[0]}&password_file={password}"


@both
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_password_proven_by_scram_reads_and_a_wrong_one_loses_nothing(
    broker: Cluster, client: str, mechanism: str, tmp_path: Path
) -> None:
    topic, sink = Topic(broker), MemorySink()

    def url(user: tuple[str, str]) -> str:
        return proven(broker, topic, client, user, tmp_path, mechanism)

    topic.fill(VALUES[:5])
    await collect(url(READER), sink)
    assert collected(sink) == VALUES[:5]
    topic.fill(VALUES[5:])
    # Kafka closes the connection behind its answer, and kafka-python may see the end first: then it is no certain refusal.
    await refused(url((READER[0], "wrong")), sink, "check user, password_file and mechanism", StreamError)
    await refused(url(STRANGER), sink, "no permission to read", at_once=True)
    await collect(url(READER), sink)
    assert collected(sink) == VALUES
    assert {header.start.epoch for header in sink.headers} == {0}
    assert "gap" not in sink.kinds


@both
async def test_without_any_password_or_certificate_nothing_is_read_and_it_says_where_to_look(
    broker: Cluster, client: str
) -> None:
    topic, sink = Topic(broker), MemorySink()
    topic.fill(VALUES)
    for security in (f"security=SSL&ca={broker.authority}", "security=PLAINTEXT"):
        url = f"kafka://{broker.with_scram}/{topic.name}?client={client}&{security}"
        await refused(url, sink, "check host, port and security", SourceUnavailable)
    assert sink.slices == []


@both
async def test_authority_that_is_not_named_is_trusted_by_no_scram_either(broker: Cluster, client: str, tmp_path: Path) -> None:
    topic = Topic(broker)
    url = proven(broker, topic, client, READER, tmp_path, "SCRAM-SHA-256").replace(f"&ca={broker.authority}", "")
    await refused(url, MemorySink(), "certificate of kafka was refused")
