"""The fast counter says what the plain definition says, for whatever bytes."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.counting import index_of
from models.errors import Malformed
from models.extraction import Rule, values_of
from models.record import Buffer, Encoding, Record, kafka_payload
from streaming.indexer import KeywordIndex, find_values

LETTERS = st.sampled_from([b"a", b"b", b"A", b"B", b"_", b" ", b"0", "存".encode(), "证".encode("gbk"), b"\xff", b"\0"])
WORDS = st.lists(LETTERS, min_size=1, max_size=4).map(b"".join)
BOUNDARY = st.sampled_from(["none", "word"])
PARTS = st.sampled_from([b"acct=", b"acct", b"=", b"1", b"22", b"x", b" "])
TEXT = st.lists(LETTERS, max_size=24).map(b"".join)


def buffer_of(payloads: list[bytes]) -> Buffer:
    return Buffer.of(Record(place * 1000, payload) for place, payload in enumerate(payloads))


def lines_of(payloads: list[bytes]) -> Buffer:
    """As lines of a file: with the LFs between them in the buffer."""
    text = b"\n".join(payloads or [b""])
    lines = text.split(b"\n")
    return Buffer.of_lines(text, 7, lines, map(len, lines))


@given(
    st.lists(TEXT, max_size=12), st.sets(WORDS, max_size=8), BOUNDARY, st.sampled_from(["exact", "ascii"])
)
@example([b"aaaa", b"", b"aa"], {b"a", b"aa", b"aaa"}, "none", "exact")
@example([b"ab", b"ab"], {b"b", b"ba", b"ab"}, "none", "exact")
def test_counts_are_those_of_the_definition(payloads: list[bytes], words: set[bytes], boundary: str, case: str) -> None:
    keywords = sorted({word.lower() if case == "ascii" else word for word in words})
    index = KeywordIndex(keywords, boundary=boundary, case=case)
    for buffer in (buffer_of(payloads), lines_of(payloads)):
        assert index.count(buffer) == index_of(buffer, keywords, boundary=boundary, case=case)


@given(st.lists(TEXT, max_size=12), st.sets(WORDS, min_size=1, max_size=8), BOUNDARY, st.integers(1, 9))
def test_counts_do_not_depend_on_where_a_window_ends(
    payloads: list[bytes], words: set[bytes], boundary: str, window: int
) -> None:
    keywords = sorted(words)
    index = KeywordIndex(keywords, boundary=boundary)
    index._window = window
    for buffer in (buffer_of(payloads), lines_of(payloads)):
        assert index.count(buffer) == index_of(buffer, keywords, boundary=boundary)


@given(st.lists(st.tuples(st.none() | TEXT, st.none() | TEXT), max_size=8), st.sets(WORDS, max_size=6), BOUNDARY)
def test_only_the_value_of_a_message_is_counted(
    messages: list[tuple[bytes | None, bytes | None]], words: set[bytes], boundary: str
) -> None:
    buffer = buffer_of([kafka_payload(5, key, value) for key, value in messages])
    keywords = sorted(words)
    fast = KeywordIndex(keywords, boundary=boundary, encoding=Encoding.KAFKA).count(buffer)
    assert fast == index_of(buffer, keywords, boundary=boundary, encoding=Encoding.KAFKA)
    rule = Rule("r", b"a", b"0AB", 1, 3)
    assert find_values(buffer, rule, encoding=Encoding.KAFKA) == values_of(buffer, rule, encoding=Encoding.KAFKA)


@given(
    st.lists(st.lists(PARTS, max_size=12).map(b"".join), max_size=10),
    st.integers(1, 3),
    st.integers(0, 4),
)
def test_values_are_those_of_the_definition(payloads: list[bytes], least: int, more: int) -> None:
    rule = Rule("account", b"acct=", b"12", least, least + more)
    for buffer in (buffer_of(payloads), lines_of(payloads)):
        assert find_values(buffer, rule) == values_of(buffer, rule)


def test_value_ends_with_its_line_also_where_its_class_holds_the_byte_between() -> None:
    rule = Rule("r", b"=", b"1\n", 1, 5)
    assert find_values(lines_of([b"=11", b"1=", b"1"]), rule) == values_of(buffer_of([b"=11", b"1=", b"1"]), rule)


@given(st.lists(st.lists(st.sampled_from([b"a", b"aa", b"b"]), max_size=10).map(b"".join), max_size=6))
def test_values_after_overlapping_places_are_all_found(payloads: list[bytes]) -> None:
    rule = Rule("r", b"aa", b"ab", 1, 5)
    buffer = buffer_of(payloads)
    assert find_values(buffer, rule) == values_of(buffer, rule)


def test_chinese_is_counted_in_utf8_and_gbk() -> None:
    words = sorted(word.encode(charset) for word in ("证券", "买入") for charset in ("utf-8", "gbk"))
    buffer = buffer_of(["买入证券 证券".encode("gbk"), "证券".encode()])
    counted = {entry.keyword: (entry.n, entry.lines) for entry in KeywordIndex(words).count(buffer)}
    assert counted["证券".encode("gbk")] == (2, [(0, 2)])
    assert counted["证券".encode()] == (1, [(1, 1)])
    assert counted["买入".encode()] == (0, [])


def test_many_keywords_are_counted_in_one_pass() -> None:
    keywords = sorted({b"%06x" % (number * 7919 % (1 << 24)) for number in range(16_000)})
    buffer = buffer_of([keyword + b" " + keyword for keyword in keywords[:100]])
    counted = KeywordIndex(keywords).count(buffer)
    assert [entry.n for entry in counted[:100]] == [2] * 100
    assert counted[:500] == index_of(buffer, keywords[:500])


def test_everything_that_overlaps_is_counted() -> None:
    keywords = [b"a" * length for length in range(1, 65)]
    counted = KeywordIndex(keywords).count(buffer_of([b"a" * 3_000, b"a" * 10]))
    assert [entry.n for entry in counted] == [3_000 - length + max(0, 10 - length) for length in range(64)]


def test_memory_is_bounded_where_everything_matches() -> None:
    index = KeywordIndex([b"a"])
    buffer = buffer_of([b"a" * (1 << 18)])
    tracemalloc.start()
    counted = index.count(buffer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counted[0].n == 1 << 18
    assert peak < 30 << 20  # all matches at once would be about 40 MB


def test_many_keywords_that_could_follow_each_other_cost_little() -> None:
    """Account numbers with one beginning: where one ends in it, any of them could go on."""
    keywords = sorted({b"6222%08d" % (number * 7919 % 10**8) for number in range(16_000)})
    buffer = buffer_of([b" acct=" + keyword + b"222" for keyword in keywords[:2_000]])
    began = time.process_time()
    counted = KeywordIndex(keywords).count(buffer)
    assert time.process_time() - began < 5
    assert counted[:50] == index_of(buffer, keywords[:50])


@pytest.mark.parametrize("payload", [b"", b"short", kafka_payload(1, b"k", b"v")[:-1], kafka_payload(1, b"k", b"v") + b"x"])
def test_payload_that_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        KeywordIndex([b"a"], encoding=Encoding.KAFKA).count(buffer_of([payload, kafka_payload(1, None, b"a")]))
    with pytest.raises(Malformed):
        KeywordIndex([b"a"], encoding=Encoding.KAFKA).count(lines_of([payload, kafka_payload(1, None, b"a")]))
