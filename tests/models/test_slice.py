"""Slices: what their bytes are committed to by, and headers that follow each other."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import b64u, canonical
from models.checkpoint import STATEMENT_TYPE, vkey
from models.commitment import derive
from models.counting import Counted, index_of
from models.declaration import Declaration
from models.digest import pair
from models.errors import Malformed, Unknown, VerificationError
from models.extraction import Rule
from models.leaf import index_leaf, open_index, open_line
from models.merkle import leaf_hash, root, subset_path, verify_subset
from models.record import Buffer, Position, Record
from models.salting import keystream, salt, salts_at, slice_key
from models.slice import (
    NO_INDEX,
    Epoch,
    Kind,
    SliceCommitment,
    SliceHeader,
    check_deadline,
    check_link,
    check_tiling,
    commit_slice,
)

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/streams/stream.json").read_text())
SECRET = bytes(range(32))
COLLECTOR = vkey("acct-1", bytes.fromhex(VECTOR["collector_key"]), STATEMENT_TYPE)
RULE = Rule("account", b"acct=", b"0123456789", 6, 20, bits=4)
K = (b"AA", b"buy")
START = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
RECORDS = [Record(position, line.encode()) for position, line in VECTOR["records"]]
FIRST = Epoch("inode 1", previous_complete=True, reason="start")


def declare(**options: Any) -> Declaration:
    facts: dict[str, Any] = {
        "stream_id": "s1", "log": "evidence.example.cn/log/1", "source": "file:/var/log/app.log", "collector": COLLECTOR,
        "keywords": K, "secret": SECRET, "max_silence_s": 60, "slice_proof_s": 3600,
    }  # fmt: skip
    return Declaration.build(**{**facts, **options})


RULED = declare(rules=(RULE,))
KEYS = [RULED.cells(RULE, secret=SECRET).keys]
PLAIN = declare()


def commit(records: list[Record], number: int = 0, declaration: Declaration = PLAIN) -> SliceCommitment:
    keys = KEYS if declaration is RULED else []
    return commit_slice(records, declaration, K, secret=SECRET, number=number, cell_keys=keys)


def header(previous: SliceHeader | None = None, **options: Any) -> SliceHeader:
    made = commit(options.pop("records", [Record(0, b"buy AAA"), Record(8, b"sell")]), declaration=PLAIN)
    facts: dict[str, Any] = {
        "previous": previous, "start": Position(0, 0), "end": Position(0, 13), "created_at": START,
        "epoch": FIRST if previous is None else None,
    }  # fmt: skip
    return SliceHeader.build(PLAIN, made, **{**facts, **options})


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_slice_of_the_format_page_byte_for_byte() -> None:
    made = commit([Record(0, b"buy AAA"), Record(8, b"sell")])
    assert made.content.sm3.hex() == "4037cc5481404e6571d4d68a550d873765a80ab345c98766dc7e176d99b5c020"
    assert made.content.sha256.hex() == "b58d54d9056ed15891b447dc18efe0a86d4f92eacae4f8e7a23a0052fc610f2c"
    assert made.index is not None
    assert made.index.sm3.hex() == "1e52536fb09c0b636122812522508394de56c892607a2a81fbf85100f1fabafa"
    assert made.index.sha256.hex() == "05972b47093b2026a45bf1e43d2d2ee03c7a0471690651160ce57845955f2804"
    assert [leaf.decode() for leaf in made.leaves] == [
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",2,[[0,2]]]',
        '["cz-index/1","25Bi2RRSy3lV7xgirEgyVw","YnV5",1,[[0,1]]]',
    ]
    hashed = declare(slice_private=False, index_private=False)
    flat = commit([Record(0, b"buy AAA"), Record(8, b"sell")], declaration=hashed)
    assert flat.content.sm3.hex() == "6f8e4aac83c930fe3c91163be3d736fe8208fb3aa9f720250edac68ed4ed52dd"
    assert flat.content.sha256 == made.content.sha256


def test_slice_and_headers_are_those_of_the_vector() -> None:
    made = commit(RECORDS, declaration=RULED)
    assert [leaf.hex() for leaf in made.lines] == VECTOR["lines"]
    assert [leaf.decode() for leaf in made.leaves] == VECTOR["index_leaves"]
    one = SliceHeader.build(RULED, made, previous=None, start=Position(0, 0), end=Position(0, 49), created_at=START, epoch=FIRST)
    assert one.data.decode() == VECTOR["header"]
    assert one.pair.to_json() == VECTOR["header_pair"]
    two = SliceHeader.build(
        RULED, commit([], 1, RULED), previous=one, start=one.end, end=one.end, created_at=START + timedelta(seconds=30),
        kind=Kind.HEARTBEAT,
    )  # fmt: skip
    assert two.data.decode() == VECTOR["heartbeat"]
    assert two.stages() == (("流式数据-分片", two.pair), ("流式数据-索引", NO_INDEX))
    assert pair(b"") == NO_INDEX


def test_line_tree_by_hand() -> None:
    made = commit(RECORDS)
    one, two = (hashlib.new("sm3", b"\0" + leaf).digest() for leaf in made.lines)
    assert made.content.sm3 == hashlib.new("sm3", b"\1" + one + two).digest()
    body = b"".join(len(leaf).to_bytes(4) + leaf for leaf in made.lines)
    assert made.content.sha256 == hashlib.sha256(b"\2" + made.flat_salts[0] + body).digest()


def test_no_line_gives_the_commitment_to_nothing_and_no_index() -> None:
    made = commit([])
    assert (made.index, made.rules, made.lines) == (None, None, ())
    assert made.content.sm3 == hashlib.new("sm3", b"").digest()


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=12), st.integers(0, 2**40))
def test_what_is_committed_is_read_back_and_every_line_proves(payloads: list[bytes], number: int) -> None:
    records = [Record(position * 20, payload) for position, payload in enumerate(payloads)]
    made = commit(records, number)
    assert [open_line(leaf)[1] for leaf in made.lines] == records
    for leaf, counted in zip(made.leaves, index_of(Buffer.of(records), K), strict=True):
        entry = open_index(leaf.decode(), lines=len(records))
        assert (entry.keyword, entry.n, entry.lines) == counted
    hashes = [leaf_hash(leaf) for leaf in made.lines]
    assert root(hashes) == made.content.sm3
    for line in range(len(records)):
        verify_subset({line: hashes[line]}, len(records), subset_path(hashes, [line]), made.content.sm3)


def test_salts_differ_between_slices_lines_and_secrets() -> None:
    records = [Record(0, b""), Record(1, b"")]
    seen = {leaf for number in range(3) for leaf in commit(records, number).lines}
    other = commit_slice(records, PLAIN, K, secret=SECRET[::-1], number=0).lines
    assert len(seen | set(other)) == 8


@given(st.dictionaries(st.integers(0, 70_000), st.integers(1, 3)) | st.dictionaries(st.integers(0, 70_000), st.just(1)))
def test_index_leaf_is_canonical_whatever_the_counts(lines: dict[int, int]) -> None:
    places = sorted(lines.items())
    leaf = index_leaf(SECRET[:16], Counted(b"buy", sum(lines.values()), places))
    pairs = [list(place) for place in places]
    assert leaf == canonical(["cz-index/1", b64u(SECRET[:16]), b64u(b"buy"), sum(lines.values()), pairs])


@pytest.mark.parametrize(
    "text",
    [
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",1,[[0,2]]]',
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",2,[[2,2]]]',
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",2,[[1,1],[0,1]]]',
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",2,[[0,1],[0,1]]]',
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",0,[[0,0]]]',
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",0,[[0,1],[1,-1]]]',
        '["cz-index/1","fwihJzhyzM1q7JZN4DfuhA","QUE",true,[[0,1]]]',
        '["cz-index/1", "fwihJzhyzM1q7JZN4DfuhA","QUE",0,[]]',
        '["cz-index/1","fwihJzhyzM1q7JZN4Dfuh","QUE",0,[]]',
        '["cz-index/2","fwihJzhyzM1q7JZN4DfuhA","QUE",0,[]]',
        "7",
    ],
)
def test_index_leaf_that_contradicts_itself_is_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        open_index(text, lines=2)


@pytest.mark.parametrize("leaf", [b"", b"cz-line/2" + bytes(24), b"cz-line/1" + bytes(23)])
def test_line_out_of_form_is_refused(leaf: bytes) -> None:
    with pytest.raises(VerificationError):
        open_line(leaf)


def test_keywords_of_another_number_are_refused() -> None:
    with pytest.raises(Malformed):
        commit_slice([], PLAIN, (b"AA",), secret=SECRET, number=0)


# --- headers ----------------------------------------------------------------------------------------------------------


def changed(base: SliceHeader, **members: Any) -> SliceHeader:
    return SliceHeader.parse(canonical({**json.loads(base.data), **members}))


BASE = header()
TIME = "2026-11-21T06:00:30.000Z"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("after", [{"chain": "c"}]), ("bytes", -1), ("content", None), ("declaration", {}), ("epoch", {"identity": "x"}),
        ("first_time", "now"), ("index", {}), ("kind", "other"), ("lines", 1 << 17), ("lines", True), ("next_by", "x"),
        ("number", -1), ("pieces", None), ("previous", 1), ("reason", ""), ("rules", {}), ("slice_create_time", None),
        ("slice_end_position", "0"), ("slice_id", "s1/1"), ("slice_start_position", None), ("stream_id", "S"), ("extra", 1),
    ],
)  # fmt: skip
def test_member_out_of_form_is_refused(name: str, value: object) -> None:
    with pytest.raises(Malformed):
        changed(BASE, **{name: value})


def test_other_version_is_unknown() -> None:
    with pytest.raises(Unknown):
        changed(BASE, format="cz-slice/2")


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "heartbeat"}, {"kind": "gap"}, {"kind": "end"}, {"lines": 0}, {"index": None}, {"rules": None},
        {"pieces": 3}, {"slice_end_position": "0:0"}, {"slice_end_position": "1:13"}, {"slice_start_position": "0:14"},
        {"epoch": None}, {"previous": {"sha256": "00" * 32, "sm3": "00" * 32}},
        {"kind": "heartbeat", "lines": 0, "index": None, "rules": None, "slice_end_position": "0:0"},
        {"kind": "gap", "lines": 0, "index": None, "rules": None, "bytes": 0},
        {"kind": "heartbeat", "lines": 0, "index": None, "rules": None, "bytes": 0},
        {"kind": "heartbeat", "lines": 0, "index": None, "rules": None, "bytes": 0, "slice_end_position": "0:0",
         "first_time": TIME},
    ],
)  # fmt: skip
def test_members_that_do_not_fit_the_kind_are_refused(members: dict[str, Any]) -> None:
    BASE.check_kind()
    with pytest.raises(VerificationError):
        changed(BASE, **members).check_kind()


def test_slices_follow_each_other_by_number_link_time_and_position() -> None:
    two = header(BASE, start=BASE.end, end=Position(0, 26), created_at=START + timedelta(seconds=20))
    assert (two.number, two.previous, two.slice_id) == (1, BASE.pair, "s1/1")
    for members in (
        {"number": 2, "slice_id": "s1/2"},
        {"previous": pair(b"other").to_json()},
        {"stream_id": "s2", "slice_id": "s2/1"},
        {"slice_create_time": "2026-11-21T06:00:00.000Z"},
    ):
        with pytest.raises(VerificationError):
            check_link(BASE, changed(two, **members))
    for start in ("0:12", "0:14", "1:0"):
        with pytest.raises(VerificationError, match="position hole"):
            check_tiling(BASE, changed(two, slice_start_position=start))
    with pytest.raises(VerificationError):
        check_deadline(changed(two, next_by=None), PLAIN)


def test_new_epoch_begins_at_offset_zero_of_the_next() -> None:
    again = Epoch("inode 2", previous_complete=True, reason="renamed")
    options = {"created_at": START + timedelta(seconds=20), "epoch": again}
    header(BASE, start=Position(1, 0), end=Position(1, 13), **options)
    for start in (Position(1, 5), Position(2, 0), Position(0, 13)):
        with pytest.raises(VerificationError):
            header(BASE, start=start, end=Position(start.epoch, start.offset + 13), **options)


def test_nothing_follows_the_end() -> None:
    at = START + timedelta(seconds=5)
    end = header(BASE, records=[], kind=Kind.END, start=BASE.end, end=BASE.end, created_at=at)
    assert end.next_by is None
    with pytest.raises(VerificationError, match="end of its stream"):
        header(end, start=BASE.end, end=Position(0, 26), created_at=at + timedelta(seconds=5))


def test_gap_states_its_reason() -> None:
    options = {
        "records": [],
        "kind": Kind.GAP,
        "start": BASE.end,
        "end": Position(0, 99),
        "created_at": START + timedelta(seconds=5),
    }
    assert header(BASE, **options, reason="retention").reason == "retention"
    with pytest.raises(VerificationError, match="reason"):
        header(BASE, **options)


def _drop(value: dict[str, Any], name: str) -> bytes:
    return canonical({key: member for key, member in value.items() if key != name})


@pytest.mark.parametrize("name", sorted(json.loads(BASE.data)))
def test_every_member_is_needed(name: str) -> None:
    with pytest.raises(Malformed):
        SliceHeader.parse(_drop(json.loads(BASE.data), name))


def test_salts_at_places_are_those_of_the_keystream() -> None:
    key = bytes(range(16))
    stream = keystream(key, 600)
    for places in ([0], [7], [599, 3, 3, 255, 256], list(range(600)), []):
        assert salts_at(key, places) == [stream[16 * place : 16 * place + 16] for place in places]
    assert salt(key, 1 << 40) == keystream(key, 1, first=1 << 40)


@pytest.mark.parametrize("stream_id", ["orders", "订单-1", 'a"b\\c%d%', "x" * 128])
@pytest.mark.parametrize("number", [0, 9, 10, (1 << 53) - 1])
@pytest.mark.parametrize("tag", ["cz-line/1", "cz-index/1", "cz-flat/1"])
def test_key_of_a_slice_is_the_one_derived_from_its_context(stream_id: str, number: int, tag: str) -> None:
    secret = bytes(range(32))
    assert slice_key(secret, tag, stream_id, number) == derive(secret, tag, stream_id, number)
