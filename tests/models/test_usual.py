"""What the usual forms accept is what the general rules accept, and says the same."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from models.anchor import BlockRef
from models.canonical import b64u, canonical, format_time, parse_canonical, unb64
from models.counting import Counted
from models.digest import Algorithm, Pair, pair
from models.errors import EvidenceError, Malformed, VerificationError
from models.header import usual_header
from models.leaf import index_leaf, open_index
from models.nodes import CORE
from models.slice import SliceHeader
from models.usual import INDEX_LEAF, INDEX_ROW, row_of_leaves

ROUNDS = 4000
BITS = b'"\\{}[],:0129aAfZ.-+_ /\xc3\xa9\x00\x7f'
PAIR = Pair(bytes(range(32)), bytes(range(32, 64)))


def header(**other: object) -> bytes:
    at = datetime(2026, 11, 21, 6, 0, 0, 123000, UTC)
    value = {
        "after": [], "bytes": 12, "content": PAIR.to_json(), "declaration": PAIR.to_json(), "epoch": None, "first_time": None,
        "format": "cz-slice/1", "index": PAIR.to_json(), "kind": "data", "last_time": None, "lines": 3,
        "next_by": "2026-11-21T07:00:00.123Z", "number": 7, "pieces": 1, "previous": PAIR.to_json(), "reason": None, "rules": [],
        "slice_create_time": format_time(at), "slice_end_position": "0:40", "slice_id": "s.1/7",
        "slice_start_position": "0:28", "stream_id": "s.1",
    }  # fmt: skip
    return canonical({**value, **other})


HEADERS = [
    header(),
    header(first_time="2026-11-21T05:59:59.000Z", last_time="2026-11-21T06:00:00.000Z"),
    header(kind="heartbeat", lines=0, index=None, rules=None, previous=None),
    header(after=[BlockRef("chain-1", 12, "ab12").to_json(), BlockRef("chain-2", 3, "00").to_json()]),
    header(rules=[{"name": "account", "sha256": "0" * 64, "sm3": "f" * 64}, {"name": "b", "sha256": "1" * 64, "sm3": "2" * 64}]),
]


def mutants(data: bytes, random: Random) -> Iterator[bytes]:
    """Bytes put in, taken out, exchanged and moved: one to three at a time."""
    for _ in range(ROUNDS):
        made = bytearray(data)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(made))
            match random.randrange(4):
                case 0:
                    made[at] = random.choice(BITS)
                case 1:
                    made.insert(at, random.choice(BITS))
                case 2:
                    del made[at]
                case _:
                    other = random.randrange(len(made))
                    made[at], made[other] = made[other], made[at]
        yield bytes(made)


@pytest.mark.parametrize("data", HEADERS)
def test_usual_header_is_read_as_the_general_rules_read_it(data: bytes) -> None:
    assert usual_header(data) is not None, "the form that all headers of records have"
    assert SliceHeader.parse(data) == SliceHeader._parse(data, pair(data))
    accepted = 0
    for mutant in mutants(data, Random(data[100])):
        if usual_header(mutant) is not None:
            accepted += 1
            assert SliceHeader.parse(mutant) == SliceHeader._parse(mutant, pair(mutant))
    assert accepted, "some mutants change a digit only"


@pytest.mark.parametrize(
    "other",
    [
        {"slice_id": "s.1/8"}, {"slice_id": "s.2/7"}, {"lines": 65537}, {"pieces": 65537}, {"bytes": (2 << 20) + 1},
        {"slice_create_time": "2026-02-30T06:00:00.123Z"}, {"next_by": "0000-11-21T07:00:00.123Z"},
        {"slice_create_time": "2026-11-21T24:00:00.000Z"},
        {"after": [BlockRef("b", 1, "00").to_json(), BlockRef("a", 1, "00").to_json()]},
        {"after": [{"chain": "a", "hash": "abc", "height": 1}]},
        {"rules": [{"name": "b", "sha256": "1" * 64, "sm3": "2" * 64}] * 2},
        {"rules": [{"name": f"r{n:03}", "sha256": "1" * 64, "sm3": "2" * 64} for n in range(100)]},
    ],
)  # fmt: skip
def test_header_with_a_member_out_of_bounds_is_refused_all_the_same(other: dict[str, object]) -> None:
    data = header(**other)
    assert usual_header(data) is None
    with pytest.raises(EvidenceError):
        SliceHeader.parse(data)


@pytest.mark.parametrize("core", [True, False])
def test_headers_read_together_are_those_read_one_by_one(core: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a column
    if not core:
        monkeypatch.delitem(CORE, Algorithm.SM3, raising=False)
    datas = [*HEADERS * 5, header(kind="gap", reason="retention")]
    read = list(SliceHeader.parse_each(datas))
    assert read == [SliceHeader.parse(data) for data in datas]
    assert [each.pair for each in read] == [pair(data) for data in datas]
    some = SliceHeader.parse_each([datas[0], datas[1][:-1], datas[2]])
    assert next(some).data == datas[0]
    with pytest.raises(Malformed):
        next(some)


def test_unusual_headers_are_read_by_the_general_rules() -> None:
    epoch = {"identity": "inode 7", "previous_complete": True, "reason": "轮转"}
    for data in (
        header(epoch=epoch),
        header(kind="gap", reason="retention"),
        header(bytes=1, number=10**15, slice_id=f"s.1/{10**15}"),
    ):
        assert usual_header(data) is None
        assert SliceHeader.parse(data).data == data


def test_usual_time_is_the_time_read() -> None:
    start = datetime(2026, 2, 28, 23, 59, 58, 999000, UTC)
    for step in range(50):
        at = start + timedelta(milliseconds=777 * step, days=37 * step)
        found = SliceHeader.parse(header(slice_create_time=format_time(at))).created_at
        assert found == at
        assert found.tzinfo is UTC


LEAVES = [
    index_leaf(bytes(range(16)), Counted(b"ERROR", 0, [])),
    index_leaf(bytes(16), Counted("失败".encode(), 5, [(0, 2), (7, 3)])),
]
ROW = canonical(
    {"leaves": [[4, LEAVES[0].decode()], [17, LEAVES[1].decode()]], "number": 9, "proof": ["A" * 43 + "=", "b" * 42 + "A="]}
)


@pytest.mark.parametrize(("pattern", "data"), [(INDEX_LEAF, LEAVES[0]), (INDEX_LEAF, LEAVES[1]), (INDEX_ROW, ROW)])
def test_what_matches_is_canonical(pattern: re.Pattern[Any], data: bytes) -> None:
    def matches(made: bytes) -> bool:
        return pattern.fullmatch(made if isinstance(pattern.pattern, bytes) else made.decode("latin-1")) is not None

    assert matches(data)
    found = [mutant for mutant in mutants(data, Random(len(data))) if matches(mutant)]
    assert found
    for mutant in found:
        parse_canonical(mutant)


def test_index_leaf_says_the_same_whether_or_not_its_form_is_usual() -> None:
    for leaf in LEAVES:
        for mutant in mutants(leaf, Random(3)):
            text = mutant.decode("latin-1")
            if INDEX_LEAF.fullmatch(text):
                value = parse_canonical(mutant)
                with suppress(VerificationError):
                    entry = open_index(text, lines=8)
                    assert [value[3], [tuple(place) for place in value[4]]] == [entry.n, entry.lines]
            else:
                with pytest.raises(VerificationError):
                    open_index(text, lines=8)


@pytest.mark.parametrize("hashes", [0, 1, 5])
def test_row_of_the_leaves_asked_holds_what_the_general_rules_read(hashes: int) -> None:
    asked = [(4, b"ERROR"), (17, "失败".encode())]
    form = row_of_leaves([(rank, b64u(keyword)) for rank, keyword in asked], hashes)
    proof = ["A" * 43 + "=", "b" * 42 + "A=", "/" * 42 + "8=", "+" * 42 + "g=", "9" * 42 + "E="][:hashes]
    shown = [[rank, leaf.decode()] for (rank, _), leaf in zip(asked, LEAVES, strict=True)]
    row = canonical({"leaves": shown, "number": 9, "proof": proof})
    assert form.fullmatch(row) is not None
    assert row_of_leaves([(4, b64u(b"ERROR"))], hashes).fullmatch(row) is None
    assert row_of_leaves([(rank, b64u(keyword)) for rank, keyword in asked], hashes + 1).fullmatch(row) is None
    accepted = 0
    for mutant in mutants(row, Random(hashes)):
        match = form.fullmatch(mutant)
        if match is None:
            continue
        accepted += 1
        value = parse_canonical(mutant)
        *entries, number, path = match.groups()
        assert [rank for rank, _ in value["leaves"]] == [rank for rank, _ in asked]
        assert int(number) == value["number"]
        assert [unb64(each, size=32) for each in value["proof"]] == [
            unb64(each + "=") for each in path.decode().split('=","') if each
        ]
        for (_, text), (_, keyword), leaf, n, places in zip(
            value["leaves"], asked, *(entries[at::3] for at in range(3)), strict=True
        ):
            assert leaf.replace(b'\\"', b'"') == text.encode()
            said = parse_canonical(text.encode())
            assert (said[3], said[4]) == (int(n), parse_canonical(b"[%b]" % places))
            with suppress(VerificationError):
                assert open_index(text, lines=8).keyword == keyword
            if (said[3], said[4]) in ((0, []), (5, [[0, 2], [7, 3]])):
                open_index(text, lines=8)
    assert accepted


def test_header_pattern_does_not_take_long_on_what_almost_matches() -> None:
    long = header(after=[BlockRef(f"c{n:04}", n, "ab" * 32).to_json() for n in range(500)])
    began = time.process_time()
    assert usual_header(long) is not None
    assert usual_header(long[:-1] + b"x") is None
    assert time.process_time() - began < 1
