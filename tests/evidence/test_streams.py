"""Laws of streams over a real service: collected once, proven complete, and nothing believed that records do not give."""

import asyncio
import base64
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from api_service import Running, process, running, settings_for
from homes import file_submission
from stream_service import WORDS, Stream

from evidence import stream_answers
from evidence.bootstrap import utc_now
from evidence.client import AsyncClient, Client
from evidence.collector import end
from evidence.demo_stream import altered
from evidence.errors import Conflict, Forbidden, HomeRefused, NotFound, Stale
from evidence.examine import examine
from evidence.exchange import Answered, Patience
from evidence.stream_archive import SliceArchive
from evidence.stream_store import find, slices
from evidence.stream_wire import signature_of
from evidence.verifier import verify
from models.bundle import unpack
from models.canonical import JSONValue, canonical, parse
from models.digest import Pair
from models.errors import EvidenceError, Invalid
from models.evidence import Statement
from models.extraction import Rule
from models.report import Verdict
from models.slice import SliceHeader

LINES = [f"line {number} {'ERROR 失败' if number % 7 == 0 else 'ok'} acct=62220{number % 5:03d} end" for number in range(35)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("streams") / "home") as found:
        yield found


@pytest.fixture
def stream(service: Running, tmp_path: Path, request: pytest.FixtureRequest) -> Stream:
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())[-60:]
    return Stream(service, tmp_path, name)


@pytest.fixture
def collected(stream: Stream) -> Stream:
    stream.write(*LINES)
    stream.collect()
    return stream


def refusal(error: pytest.ExceptionInfo[EvidenceError]) -> dict[str, JSONValue]:
    cause = error.value.__cause__
    assert isinstance(cause, Answered)
    body: dict[str, JSONValue] = cause.body
    return body


def test_answer_is_valid_complete_and_in_order(collected: Stream, service: Running) -> None:
    found = collected.ask("ERROR")
    assert found["verdict"] == "VALID"
    assert found["covered"]
    assert found["counts"] == [{"text": "ERROR", "n": 5, "indexed": True}]
    assert [line["text"] for line in found["lines"]] == [line for line in LINES if "ERROR" in line]
    assert found["lines"][0]["position"] == "0:0"
    with collected.client() as client:
        bundle = client.stream_answer(collected.stream_id, {"keywords": ["ERROR"], "from": found["from"], "to": found["to"]})
    assert unpack(bundle).kind == "answer"
    assert verify(bundle, service.service.trust()).verdict is Verdict.VALID
    steps = []
    for _, copy in altered(bundle):
        report = verify(copy, service.service.trust())
        assert report.verdict is Verdict.INVALID
        steps.append(next(step.number for step in report.steps if step.verdict is Verdict.INVALID))
    assert steps == [30, 29]


@pytest.mark.parametrize(("op", "expected"), [("and", 5), ("or", 5)])
def test_keywords_are_joined_as_asked(collected: Stream, op: str, expected: int) -> None:
    assert len(collected.ask("ERROR", "失败", op=op)["lines"]) == expected
    assert len(collected.ask("ERROR", "warn", op="and")["lines"]) == 0


def test_collector_goes_on_at_the_newest_header(collected: Stream) -> None:
    collected.write("ERROR again", "quiet")
    collected.collect()
    collected.collect()
    found = collected.ask("ERROR")
    assert found["counts"][0]["n"] == 6
    with collected.client() as client:
        shown = client.stream(collected.stream_id)
    assert shown["lines"] == len(LINES) + 2
    assert shown["position"] == f"0:{collected.log.stat().st_size}"
    assert not shown["overdue"]


def test_a_change_of_keywords_is_a_new_declaration(collected: Stream) -> None:
    collected.words = (b"ERROR", b"quiet")
    collected.write("quiet ERROR")
    collected.collect()
    with collected.client() as client:
        assert [each["number"] for each in client.stream(collected.stream_id)["declarations"]] == [0, 1]
    found = collected.ask("ERROR")
    assert (found["verdict"], found["counts"][0]["n"]) == ("VALID", 6)
    assert collected.ask("quiet")["verdict"] == "INDETERMINATE"


def test_a_keyword_outside_the_declaration_is_not_indexed_and_never_no_hits(collected: Stream) -> None:
    found = collected.ask("line", scan=True)
    assert found["verdict"] == "INDETERMINATE"
    assert found["counts"] == [{"text": "line", "n": None, "indexed": False}]
    assert any("not indexed" in text for text in found["indeterminate"])
    assert "scan" in found["hint"]
    assert found["scan"]["counts"] == [len(LINES)]


def test_a_value_nobody_listed_is_found_and_its_absence_proven(stream: Stream) -> None:
    stream.rules = (Rule("account", b"acct=", b"0123456789", 6, 20, 6),)
    stream.write(*LINES)
    stream.collect()
    with stream.client() as client:
        found = client.query_stream(stream.stream_id, {"value": {"rule": "account", "v": "62220003"}})
        absent = client.query_stream(stream.stream_id, {"value": {"rule": "account", "v": "99999999"}})
    assert (found["verdict"], found["counts"][0]["n"], len(found["lines"])) == ("VALID", 7, 7)
    assert (absent["verdict"], absent["counts"][0]["n"]) == ("VALID", 0)


def test_index_alone_answers_when_the_archive_is_away(collected: Stream, service: Running) -> None:
    folder = service.service.settings.home / "streams"
    folder.rename(folder.with_name("away"))
    try:
        found = collected.ask("ERROR")
        absent = collected.ask("warn")
    finally:
        folder.with_name("away").rename(folder)
    assert found["counts"][0]["n"] == 5
    assert found["lines"] is None
    assert found["archive"] == "away"
    report = verify(base64.b64decode(found["proof_without_lines"]), service.service.trust())
    assert [step.number for step in report.steps if step.verdict is Verdict.INVALID] == [29]
    assert (absent["verdict"], absent["counts"][0]["n"]) == ("VALID", 0)


def test_recount_is_attested_and_changes_the_sentence(collected: Stream) -> None:
    with collected.client() as client:
        found = client.recount_stream(collected.stream_id, {})
    assert (found["lines_total"], found["complete"], found["failed"]) == (len(LINES), True, [])
    assert found["slices"] == 4
    answer = collected.ask("ERROR")
    assert any("recounted by" in text for text in answer["findings"])


def test_recount_names_a_slice_whose_archive_was_altered(collected: Stream, service: Running) -> None:
    with service.service.store.reading() as connection:
        (row,) = find(connection, stream_id=collected.stream_id)
        stored = slices(connection, row.id)[1]
    assert stored.object_id is not None
    path = service.service.settings.home / "streams" / stored.object_id.hex()[:2] / stored.object_id.hex()[2:]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with collected.client() as client:
        found = client.recount_stream(collected.stream_id, {})
    assert not found["complete"]
    assert [each["slice_id"] for each in found["failed"]] == [f"{collected.stream_id}/1"]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def declared(stream: Stream) -> Stream:
    stream.declare()
    return stream


def test_the_same_slice_again_is_the_same_item(declared: Stream) -> None:
    header, secret, packed = declared.header([b"ERROR one", b"two"], None)
    with declared.client() as client:
        first = client.put_slice(declared.body(header, secret, packed))
        second = client.put_slice(declared.body(header, secret, packed))
    assert (first.created, second.created) == (True, False)
    assert first.evidence_id == second.evidence_id


def test_another_header_under_a_slice_id_is_recorded_as_conflict(declared: Stream) -> None:
    header, secret, packed = declared.header([b"ERROR one"], None)
    other = declared.header([b"nothing"], None)
    with declared.client() as client:
        client.put_slice(declared.body(header, secret, packed))
        with pytest.raises(Conflict) as error:
            client.put_slice(declared.body(*other))
        assert error.value.record_id is not None
        assert client.stream(declared.stream_id)["lines"] == 1
    declared.account = "operator"
    with declared.client() as client:
        assert client.get(error.value.record_id)["template"] == "conflict@1"


def _forged(header: SliceHeader, **members: JSONValue) -> SliceHeader:
    value = parse(header.data)
    value.update(members)
    return SliceHeader.parse(canonical(value))


@pytest.mark.parametrize(
    "what",
    ["content", "index", "lines", "bytes", "pieces"],
)
def test_refuses_a_header_that_its_records_do_not_give(declared: Stream, what: str) -> None:
    header, secret, packed = declared.header([b"ERROR one", b"two"], None)
    zero = Pair(bytes(32), bytes(32)).to_json()
    forged = _forged(header, **{what: {"content": zero, "index": zero, "lines": 3, "bytes": 1, "pieces": 1}[what]})
    with declared.client() as client, pytest.raises(Invalid) as error:
        client.put_slice(declared.body(forged, secret, packed))
    assert refusal(error)["type"] == "/problems/verification-failed"
    with declared.client() as client:
        assert client.stream(declared.stream_id)["slices"] == 0


def test_refuses_records_that_lie(declared: Stream) -> None:
    header, secret, _ = declared.header([b"ERROR one", b"two"], None)
    _, _, other = declared.header([b"error one", b"two"], None)
    with declared.client() as client, pytest.raises(Invalid):
        client.put_slice(declared.body(header, secret, other))


def test_refuses_a_hole_in_the_numbers_and_in_the_positions(declared: Stream) -> None:
    first = declared.header([b"one"], None)
    second = declared.header([b"two"], first[0])
    third = declared.header([b"three"], second[0])
    with declared.client() as client:
        client.put_slice(declared.body(*first))
        with pytest.raises(Stale):
            client.put_slice(declared.body(*third))
        hole = _forged(second[0], slice_start_position="0:5", slice_end_position="0:9")
        with pytest.raises(Invalid):
            client.put_slice(declared.body(hole, *second[1:]))
        client.put_slice(declared.body(*second))


def test_a_declaration_between_two_slices_is_the_one_that_the_next_may_name(declared: Stream) -> None:
    first = declared.header([b"one"], None)
    with declared.client() as client:
        client.put_slice(declared.body(*first))
        older = declared.header([b"two"], first[0])
        declared.words = tuple(sorted((*WORDS, b"two")))
        declared.declare()
        second = declared.header([b"two"], first[0])
        client.put_slice(declared.body(*second))
        with pytest.raises(EvidenceError):
            client.put_slice(declared.body(*older))
        third = declared.header([b"three"], second[0])
        backwards = _forged(third[0], declaration=older[0].declaration.to_json())
        with pytest.raises(Invalid):
            client.put_slice(declared.body(backwards, *third[1:]))
        client.put_slice(declared.body(*third))


def test_a_slice_that_the_log_refuses_leaves_no_file_and_its_stream_goes_on(declared: Stream) -> None:
    first = declared.header([b"one"], None)
    second = declared.header([b"two"], first[0])
    taken = file_submission(second[0].slice_id)
    folder = declared.running.service.settings.home / "streams"
    with declared.client() as client, declared.running.client() as plain:
        client.put_slice(declared.body(*first))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        assert plain.post("/v1/evidence", json=taken).status_code == 201
        for _ in range(2):
            with pytest.raises(Conflict):
                client.put_slice(declared.body(*second))
        assert sorted(path for path in folder.rglob("*") if path.is_file()) == files
        assert not client.put_slice(declared.body(*first)).created, "what stands is answered as before"


def test_refuses_a_slice_of_the_future(declared: Stream) -> None:
    late = declared.header([b"one"], None, created_at=utc_now() + timedelta(minutes=9))
    with declared.client() as client, pytest.raises(Invalid):
        client.put_slice(declared.body(*late))


def test_refuses_another_key_than_the_collector(declared: Stream, tmp_path: Path) -> None:
    other = Stream(declared.running, tmp_path, declared.stream_id + "x")
    other.declare()
    header, secret, packed = declared.header([b"one"], None)
    body = declared.body(header, secret, packed)
    forged = replace(body, signature=replace_signature(other, body.statement.data))
    with declared.client() as client, pytest.raises(Invalid):
        client.put_slice(forged)


def replace_signature(stream: Stream, statement: bytes) -> dict[str, JSONValue]:
    return signature_of(Statement.parse(statement), stream.state.signer)


def test_nothing_follows_the_end(collected: Stream) -> None:
    async def ended() -> None:
        async with AsyncClient(collected.running.url, token=collected.running.tokens["business"]) as client:
            await end(client, collected.state, reason="done", clock=utc_now, randomness=os.urandom)

    asyncio.run(ended())
    with collected.client() as client:
        shown = client.stream(collected.stream_id)
    assert shown["ended"]
    assert not shown["overdue"]
    collected.write("more")
    with pytest.raises(EvidenceError, match="ended"):
        collected.collect()
    assert collected.ask("ERROR", to="2099-01-01")["verdict"] == "VALID"


def test_range_too_long_for_one_answer_is_refused_and_its_parts_are_answered(
    collected: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collected.client() as client:
        times = [each["slice_create_time"] for each in client.slices(collected.stream_id)["items"]]
    monkeypatch.setattr(stream_answers, "MAX_SLICES", 3)
    with pytest.raises(EvidenceError, match=f"range holds {len(times)} slices: expected at most 3"):
        collected.ask("ERROR")
    parts = [collected.ask("ERROR", **{"from": times[at], "to": times[at + 1]}) for at in range(len(times) - 1)]
    assert {part["verdict"] for part in parts} == {"VALID"}


def test_more_keywords_leave_room_for_fewer_slices(collected: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    with collected.client() as client:
        count = client.slices(collected.stream_id)["total"]
    work = stream_answers.SLICE_WORK + stream_answers.KEYWORD_WORK
    monkeypatch.setattr(stream_answers, "MAX_WORK", count * work)
    assert collected.ask("ERROR")["verdict"] == "VALID"
    with pytest.raises(EvidenceError, match="expected at most"):
        collected.ask("ERROR", "WARN")


# --- who may see ----------------------------------------------------------------------------------------------------


def test_another_subject_sees_no_stream_and_an_auditor_no_line(collected: Stream, service: Running) -> None:
    question = {"keywords": ["ERROR"]}
    collected.account = "other"
    with collected.client() as client:
        for call in (
            client.stream,
            lambda name: client.query_stream(name, question),
            lambda name: client.recount_stream(name, {}),
        ):
            with pytest.raises(NotFound):
                call(collected.stream_id)
        assert collected.stream_id not in [each["stream_id"] for each in client.streams()["items"]]
    collected.account = "auditor"
    with collected.client() as client:
        found = client.query_stream(collected.stream_id, question)
        assert (found["counts"][0]["n"], found["lines"]) == (5, None)
        assert "ERROR 失败".encode() not in base64.b64decode(found["proof_without_lines"])
        with pytest.raises(Forbidden):
            client.stream_answer(collected.stream_id, question)
        assert unpack(client.stream_answer(collected.stream_id, {"keywords": ["warn"]})).kind == "answer"
    collected.account = "court"
    with collected.client() as client:
        assert len(client.query_stream(collected.stream_id, question)["lines"]) == 5
    collected.account = "operator"
    with collected.client() as client, pytest.raises(Forbidden):
        client.query_stream(collected.stream_id, question)


def test_items_of_streams_are_preserved_through_streams_only(service: Running) -> None:
    body = {"template": "stream@1", "client_key": "x/d0", "stages": {"流式数据-声明": {}}}
    with service.client() as client:
        assert client.post("/v1/evidence", json=body).status_code == 403


# --- the archive ----------------------------------------------------------------------------------------------------


def test_a_file_without_a_row_is_swept_and_one_with_a_row_is_kept(tmp_path: Path) -> None:
    archive = SliceArchive(tmp_path)
    kept, lost = (archive.put(b"packed", secret=bytes(range(32)), slice_id=f"s/{number}") for number in range(2))
    SliceArchive(tmp_path).sweep(lambda ids: {kept} & set(ids))
    files = [path for path in (tmp_path / "streams").rglob("*") if path.is_file()]
    assert [path.parent.name + path.name for path in files] == [kept.hex()]
    assert b"packed" not in files[0].read_bytes()
    assert lost.hex() not in str(files)


def test_a_slice_whose_commit_may_stand_keeps_its_file_until_the_next_start(tmp_path: Path) -> None:
    def taken_over(_head: object) -> None:
        raise HomeRefused("another process is the sequencer of this log")

    home = tmp_path / "home"
    with running(home) as service:
        stream = Stream(service, tmp_path, "app")
        stream.declare()
        first = stream.header([b"one ERROR"], None)
        service.service.log._confirm = taken_over  # after COMMIT: what is raised there leaves the slice preserved
        once = Client(service.url, token=service.tokens["business"], patience=Patience(attempts=1))
        with once as client, pytest.raises(EvidenceError):
            client.put_slice(stream.body(*first))
    with process(home):
        pass
    found = examine(settings_for(home), clock=utc_now)
    assert found.examined["slices"] == 1
    assert [each.where for each in found.damages] == []
