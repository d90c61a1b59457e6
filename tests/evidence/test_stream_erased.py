"""A slice that was erased: what proves it stays, its contents are gone, and every answer that touches it shows the record."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_service import Running, running, settings_for
from sqlalchemy import create_engine, delete, select, update
from stream_service import Stream

from evidence.bootstrap import utc_now
from evidence.examine import examine
from evidence.exchange import Unreachable
from evidence.stream_archive import SliceArchive
from evidence.stream_store import find, slice_, slices
from evidence.tables import content
from evidence.verifier import verify
from models.bundle import pack, unpack
from models.canonical import JSONValue, parse
from models.extraction import Rule
from models.report import Report, Verdict

LINES = [f"line {number} ERROR acct=62220{number:03d} end" for number in range(6)]
STONE = "erasure/0.json"
ACCOUNTS = Rule("account", b"acct=", b"0123456789", 6, 20, 6)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("erased") / "home") as found:
        yield found


@pytest.fixture
def stream(service: Running, tmp_path: Path, request: pytest.FixtureRequest) -> Stream:
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())[-60:]
    made = Stream(service, tmp_path, name, rules=(ACCOUNTS,))
    made.write(*LINES)
    made.collect(lines=2)
    return made


def item_of(stream: Stream, number: int) -> bytes:
    with stream.running.service.store.reading() as connection:
        (row,) = find(connection, stream_id=stream.stream_id)
        return slices(connection, row.id)[number].evidence_id


def record(stream: Stream, item: bytes) -> None:
    """The record of an erasure is preserved."""
    fields: dict[str, JSONValue] = {
        "evidence_id": f"ev_{item.hex()}", "basis": "投资者请求", "scope": "content", "decided_by": "张三",
        "destroyed_at": "2026-11-21T06:10:00+08:00", "stores": [{"store": "a", "confirmed_at": "2026-11-21T06:10:00+08:00"}],
        "backups_gone_by": "2026-12-21T06:10:00+08:00",
    }  # fmt: skip
    body: JSONValue = {"template": "erasure@1", "client_key": f"erase-{item.hex()[:16]}", "stages": {"抹除": fields}}
    asyncio.run(stream.running.service.preservation.preserve_own(body, request_id="test"))


def destroy(stream: Stream, item: bytes) -> None:
    stream.running.service.home.secrets.destroy(item)


@pytest.fixture
def erased(stream: Stream) -> Stream:
    item = item_of(stream, 1)
    record(stream, item)
    destroy(stream, item)
    stream.write("one more")
    stream.collect(lines=2)
    assert stream.ask("warn")["erased"] == [f"{stream.stream_id}/1"]
    return stream


def judged(stream: Stream, bundle: bytes) -> Report:
    return verify(bundle, stream.running.service.trust())


def answer(stream: Stream, **question: JSONValue) -> bytes:
    with stream.client() as client:
        return client.stream_answer(stream.stream_id, question)


@pytest.mark.parametrize(
    ("question", "n"),
    [({"keywords": ["ERROR"]}, 4), ({"value": {"rule": "account", "v": "62220003"}}, 0)],
    ids=["keyword", "value"],
)
def test_answer_that_touches_an_erased_slice_shows_the_record_and_stays_open(
    erased: Stream, question: dict[str, JSONValue], n: int
) -> None:
    with erased.client() as client:
        found = client.query_stream(erased.stream_id, question)
    assert (found["verdict"], found["counts"][0]["n"], found["erased"]) == ("INDETERMINATE", n, [f"{erased.stream_id}/1"])
    bundle = answer(erased, **question)
    report = judged(erased, bundle)
    assert [step.number for step in report.steps if step.verdict is Verdict.INDETERMINATE] == [28]
    assert report.step(21).verdict is Verdict.VALID
    assert "slice was erased" in report.step(28).detail
    files = dict(unpack(bundle).files)
    del files[STONE]
    assert judged(erased, pack(files, "answer")).step(28).verdict is Verdict.INVALID, "whoever only says so, hides it"


def test_record_beside_an_answer_names_no_person(erased: Stream) -> None:
    stone = parse(dict(unpack(answer(erased, keywords=["ERROR"])).files)[STONE])
    shown = [json.loads(field)[3] for field in stone["disclosure"]["stages"][0]["fields"]]
    assert shown == ["evidence_id", "basis", "scope", "destroyed_at", "stores", "backups_gone_by"]


def test_question_over_other_slices_than_the_erased_one_is_valid(erased: Stream) -> None:
    with erased.client() as client:
        listed = client.slices(erased.stream_id)["items"]
    found = erased.ask("ERROR", **{"from": listed[2]["slice_create_time"]})
    assert (found["verdict"], found["erased"], found["counts"][0]["n"]) == ("VALID", [], 2)


def test_full_scan_leaves_an_erased_slice_out_and_recount_names_it(erased: Stream) -> None:
    found = erased.ask("line", scan=True)
    assert found["scan"]["counts"] == [4]
    with erased.client() as client:
        recounted = client.recount_stream(erased.stream_id, {})
    assert not recounted["complete"]
    assert ["erased" in each["problem"] for each in recounted["failed"]] == [True]


def test_slice_whose_contents_are_gone_without_a_record_is_damage_and_no_erasure(stream: Stream) -> None:
    destroy(stream, item_of(stream, 1))
    with pytest.raises(Unreachable, match="no record of an erasure names it"):
        stream.ask("ERROR")


def test_examination_names_what_an_erasure_left_behind_and_nothing_once_it_is_gone(tmp_path: Path) -> None:
    with running(tmp_path / "home") as found:
        stream = Stream(found, tmp_path, "app")
        stream.write(*LINES)
        stream.collect(lines=2)
        item = item_of(stream, 1)
        record(stream, item)
        destroy(stream, item)
    settings = settings_for(tmp_path / "home")
    engine = create_engine(settings.database_url)
    with engine.begin() as connection:
        (row,) = connection.execute(select(slice_).where(slice_.c.number == 1)).all()
    damage = examine(settings, clock=utc_now)
    left = {("stream", "added", f"slice app/1 {what}") for what in ("records", "counts")}
    assert {(each.unit, each.how, each.where) for each in damage.damages} == left | {
        ("content", "added", f"leaf {row.leaf_index}")
    }
    with engine.begin() as connection:
        connection.execute(update(slice_).where(slice_.c.number == 1).values(object_id=None, counts=None))
        connection.execute(delete(content).where(content.c.leaf_index == row.leaf_index))
    engine.dispose()
    SliceArchive(settings.home).drop(row.object_id)
    damage = examine(settings, clock=utc_now)
    assert damage.is_clean
    assert damage.undisclosable == ((row.leaf_index, row.leaf_index + 1),)
