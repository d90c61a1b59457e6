"""Counting: the plain definition, against a slower way of saying the same."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.counting import WORD, count, index_of
from models.errors import Malformed
from models.record import MAX_SLICE_BYTES, MAX_SLICE_RECORDS, Buffer, Position, Record, counted_part, kafka_payload, open_kafka

TEXT = st.text("aAbB_ 1", max_size=20).map(str.encode)


def slowly(text: bytes, keyword: bytes, *, boundary: str, case: str) -> int:
    if case == "ascii":
        text = bytes(byte + 32 if chr(byte).isupper() and byte < 128 else byte for byte in text)
    found = [at for at in range(len(text)) if text[at : at + len(keyword)] == keyword]
    if boundary == "word":
        found = [
            at
            for at in found
            if not (at and text[at - 1] in WORD) and not (at + len(keyword) < len(text) and text[at + len(keyword)] in WORD)
        ]
    return len(found)


@given(
    TEXT,
    st.text("ab_ 1", min_size=1, max_size=3).map(str.encode),
    st.sampled_from(["none", "word"]),
    st.sampled_from(["exact", "ascii"]),
)
def test_count_is_the_definition(text: bytes, keyword: bytes, boundary: str, case: str) -> None:
    assert count(text, keyword, boundary=boundary, case=case) == slowly(text, keyword, boundary=boundary, case=case)


@pytest.mark.parametrize(
    ("text", "keyword", "boundary", "case", "n"),
    [
        (b"AAA", b"AA", "none", "exact", 2),
        (b"aaaa", b"aa", "none", "exact", 3),
        (b"buy", b"buyer", "none", "exact", 0),
        (b"buy", b"buy", "word", "exact", 1),
        (b"buyer buy _buy buy.", b"buy", "word", "exact", 2),
        (b"BUY Buy buy", b"buy", "none", "ascii", 3),
        (b"BUY Buy buy", b"buy", "none", "exact", 1),
        (b"\x00\x00\x00", b"\x00", "none", "exact", 3),
        ("买入买入".encode("gbk"), "买入".encode("gbk"), "none", "exact", 2),
        ("\u00c4\u00e4".encode(), "\u00e4".encode(), "none", "ascii", 1),
        (b"", b"a", "none", "exact", 0),
    ],
)
def test_known_counts(text: bytes, keyword: bytes, boundary: str, case: str, n: int) -> None:
    assert count(text, keyword, boundary=boundary, case=case) == n


@given(st.lists(TEXT, max_size=6), st.lists(st.binary(min_size=1, max_size=2), max_size=4, unique=True))
def test_index_has_every_keyword_and_every_line_that_holds_it(lines: list[bytes], keywords: list[bytes]) -> None:
    buffer = Buffer.of(Record(position, line) for position, line in enumerate(lines))
    index = index_of(buffer, keywords)
    assert [entry.keyword for entry in index] == keywords
    for entry in index:
        assert entry.n == sum(n for _, n in entry.lines)
        assert dict(entry.lines) == {line: n for line, text in enumerate(lines) if (n := count(text, entry.keyword))}


def test_no_occurrence_crosses_the_end_of_a_record() -> None:
    buffer = Buffer.of([Record(0, b"bu"), Record(3, b"y")])
    assert index_of(buffer, [b"buy"])[0].n == 0


def test_longest_records_are_counted_in_bounded_time() -> None:
    began = time.monotonic()
    assert count(b"a" * (1 << 20), b"a" * 256) == (1 << 20) - 255
    assert time.monotonic() - began < 30


# --- records ----------------------------------------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**63 - 1), st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9))
def test_kafka_payload_is_read_back(timestamp: int, key: bytes | None, value: bytes | None) -> None:
    payload = kafka_payload(timestamp, key, value)
    assert open_kafka(payload) == (timestamp, key, value)
    assert counted_part(payload, "kafka") == (value or b"")
    assert counted_part(payload, "line") == payload


@pytest.mark.parametrize("payload", [b"", b"\x00" * 11, kafka_payload(0, b"a", b"b")[:-1], kafka_payload(0, b"a", b"b") + b"x"])
def test_payload_that_is_no_kafka_record_is_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        counted_part(payload, "kafka")


def test_buffer_gives_its_records_back() -> None:
    records = [Record(0, b"a"), Record(2, b""), Record(3, b"\x00\xff")]
    assert list(Buffer.of(records).records()) == records
    assert list(Buffer.of([]).records()) == []


@pytest.mark.parametrize(
    "records",
    [
        [Record(1, b""), Record(1, b"")],
        [Record(2, b""), Record(1, b"")],
        [Record(0, b"x" * (MAX_SLICE_BYTES + 1))],
        [Record(number, b"") for number in range(MAX_SLICE_RECORDS + 1)],
        [Record(-1, b"")],
        [Record(1 << 63, b"")],
    ],
)
def test_records_out_of_order_or_too_many_are_refused(records: list[Record]) -> None:
    with pytest.raises(Malformed):
        Buffer.of(records)


@pytest.mark.parametrize("text", ["0:0", "3:4096", "1:9223372036854775807"])
def test_position_is_read_back(text: str) -> None:
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize("text", ["0", "00:1", "0:01", "-1:0", "0:9223372036854775808", "0:1 ", 7, None, "0:\u0661"])
def test_position_of_another_form_is_refused(text: object) -> None:
    with pytest.raises(Malformed):
        Position.parse(text)
