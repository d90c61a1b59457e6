from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Malformed
from models.extraction import Rule
from models.record import MAX_SLICE_BYTES, Encoding, Position, Record, kafka_payload
from models.slice import Epoch
from streaming.lines import LineCutter
from streaming.port import Batch
from streaming.slicer import CutRule, FieldValue, Filled, MessageKey, Slicer

START = Position(0, 0)


def lines(text: bytes) -> Batch:
    batch = LineCutter().feed(text, epoch=0)
    assert batch is not None
    return batch


def messages(*pairs: tuple[bytes | None, bytes], first: int = 0) -> Batch:
    records = [Record(first + place, kafka_payload(1, key, value)) for place, (key, value) in enumerate(pairs)]
    return Batch.of(records, epoch=0, end=first + len(records))


def cut(rule: CutRule, *batches: Batch, encoding: str = Encoding.LINE) -> list[Filled]:
    slicer = Slicer(rule, START, encoding=encoding, bytewise=encoding == Encoding.LINE)
    filled = [each for batch in batches for each in slicer.add(batch)]
    last = slicer.take()
    return [*filled, last] if last else filled


def payloads(filled: list[Filled]) -> list[list[bytes]]:
    return [list(each.buffer.payloads()) for each in filled]


def test_cuts_by_lines() -> None:
    filled = cut(CutRule(lines=2), lines(b"a\nb\nc\nd\ne\n"))
    assert payloads(filled) == [[b"a", b"b"], [b"c", b"d"], [b"e"]]
    assert [(each.start.offset, each.end.offset) for each in filled] == [(0, 4), (4, 8), (8, 10)]


def test_cuts_by_bytes_before_the_record_that_would_be_too_much() -> None:
    assert payloads(cut(CutRule(bytes=4), lines(b"aa\nbb\nc\ndddd\neeeeee\nf\n"))) == [
        [b"aa", b"bb"], [b"c"], [b"dddd"], [b"eeeeee"], [b"f"],
    ]  # fmt: skip


def test_cuts_where_the_message_key_changes() -> None:
    batch = messages((b"k1", b"1"), (b"k1", b"2"), (b"k2", b"3"), (None, b"4"), (b"k2", b"5"), (b"k1", b"6"))
    filled = cut(CutRule(attribute=MessageKey()), batch, encoding=Encoding.KAFKA)
    assert [len(each.buffer) for each in filled] == [2, 3, 1]


def test_cuts_where_the_value_of_a_field_changes() -> None:
    rule = FieldValue(Rule("day", b"day=", b"0123456789", 1, 8))
    filled = cut(CutRule(attribute=rule), lines(b"day=1 a\nb\nday=1 c\nday=2 d\n"), lines(b"day=2 e\nday=1\n"))
    assert payloads(filled)[0] == [b"day=1 a", b"b", b"day=1 c"]


def test_whichever_comes_first_cuts() -> None:
    rule = CutRule(lines=3, bytes=5, attribute=FieldValue(Rule("x", b"x", b"12", 1, 1)))
    assert [len(each.buffer) for each in cut(rule, lines(b"a\nb\nc\nx1\nx2\nabcd\nef\n"))] == [3, 1, 1, 1, 1]


def test_record_that_comes_twice_is_dropped() -> None:
    slicer = Slicer(CutRule(lines=3), START)
    filled = []
    whole = lines(b"a\nb\nc\nd\ne\n")
    for _ in range(3):
        filled += list(slicer.add(whole))
        filled += list(slicer.add(lines(b"a\nb\n")))
    last = slicer.take()
    assert last is not None
    assert payloads([*filled, last]) == [[b"a", b"b", b"c"], [b"d", b"e"]]


def test_positions_that_hold_no_record_belong_to_a_slice_all_the_same() -> None:
    """Markers of transactions have offsets: the range of a slice covers them."""
    slicer = Slicer(CutRule(lines=2), START, encoding=Encoding.KAFKA, bytewise=False)
    record = kafka_payload(1, None, b"v")
    batch = Batch.of([Record(1, record), Record(4, record), Record(7, record)], epoch=0, end=9)
    (first,) = slicer.add(batch)
    last = slicer.take()
    assert last is not None
    assert [(each.start.offset, each.end.offset) for each in (first, last)] == [(0, 7), (7, 9)]


def test_epoch_is_named_by_its_first_slice_alone() -> None:
    slicer = Slicer(CutRule(lines=1), START)
    slicer.open_epoch(1, Epoch("file", True, "rotated"))
    filled = list(slicer.add(Batch.of([Record(0, b"a"), Record(2, b"b")], epoch=1, end=4)))
    assert [each.epoch is not None for each in filled] == [True, False]
    assert filled[0].start == Position(1, 0)


def test_epoch_and_gap_do_not_lie_within_a_slice() -> None:
    slicer = Slicer(CutRule(), START)
    list(slicer.add(lines(b"a\n")))
    with pytest.raises(Malformed):
        slicer.open_epoch(1, Epoch("file", True, "rotated"))
    with pytest.raises(Malformed):
        slicer.skip(Position(0, 9))


@pytest.mark.parametrize(
    "rule",
    [
        {"lines": 0}, {"lines": 16_385}, {"bytes": 0}, {"bytes": MAX_SLICE_BYTES + 1}, {"seconds": 0.0},
        {"seconds": float("inf")}, {"seconds": float("nan")},
    ],
)  # fmt: skip
def test_refuses_limits_that_no_slice_has(rule: dict[str, float]) -> None:
    with pytest.raises(Malformed):
        CutRule(**rule)  # type: ignore[arg-type]


def test_refuses_keys_of_lines() -> None:
    with pytest.raises(Malformed):
        Slicer(CutRule(attribute=MessageKey()), START)


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=40),
    st.lists(st.integers(1, 30), max_size=20),
    st.integers(1, 7),
    st.integers(1, 30),
    st.sampled_from([b"", b"\n"]),
)
def test_slices_tile_whatever_arrives_however(
    texts: list[bytes], sizes: list[int], most_lines: int, most_bytes: int, ended: bytes
) -> None:
    """I8: no gap, no overlap, no limit passed, and the file back byte for byte, whatever the chunks were."""
    data = b"\n".join(texts) + ended
    cutter, at = LineCutter(limit=8), 0
    batches = []
    for size in [*sizes, len(data) + 1]:
        batches.append(cutter.feed(data[at : at + size], epoch=0))
        at += size
    batches.append(cutter.rest(epoch=0))
    filled = cut(CutRule(lines=most_lines, bytes=most_bytes), *[batch for batch in batches if batch is not None])
    position, back, pieces = 0, b"", 0
    for each in filled:
        assert each.start.offset == position
        records = list(each.buffer.records())
        assert len(records) <= most_lines
        assert sum(len(record.payload) for record in records) <= most_bytes or len(records) == 1
        ends = [record.position for record in records[1:]] + [each.end.offset]
        for record, end in zip(records, ends, strict=True):
            beyond = end - record.position - len(record.payload)
            assert beyond in (0, 1)
            back += record.payload + b"\n" * beyond
        pieces += each.pieces
        position = each.end.offset
    assert back == data
    whole = LineCutter(limit=8).feed(data + b"\n", epoch=0)
    assert pieces == (0 if whole is None else len(whole) - data.count(b"\n") - 1) + (bool(data) and not data.endswith(b"\n"))


def test_lines_that_do_not_stand_one_behind_the_other_keep_their_positions() -> None:
    """What was read before and behind records of other positions: in one slice each stands where it stood."""
    cutter = LineCutter(100)
    first, third = cutter.feed(b"a\nbb\n", epoch=0), LineCutter(300).feed(b"e\nf\n", epoch=0)
    assert first is not None
    assert third is not None
    second = Batch.of([Record(110, b"c"), Record(200, b"d")], epoch=0, end=202)
    (filled,) = cut(CutRule(), first, second, third)
    assert list(filled.buffer.records()) == [
        Record(100, b"a"), Record(102, b"bb"), Record(110, b"c"), Record(200, b"d"), Record(300, b"e"), Record(302, b"f"),
    ]  # fmt: skip
    assert list(first.positions) == [100, 102]
    assert [first.positions[0], first.positions[-1], *first.positions[1:]] == [100, 102, 102]


@pytest.mark.parametrize("rule", [CutRule(lines=1), CutRule(bytes=1)], ids=["one line", "one byte"])
def test_small_slices_of_a_large_batch_cost_in_proportion(rule: CutRule) -> None:
    batch = lines(b"a\n" * 50_000)
    slicer, began, count = Slicer(rule, START), time.process_time(), 0
    for filled in slicer.add(batch):
        assert filled.start.offset == 2 * count
        count += 1
    assert count == 50_000
    assert time.process_time() - began < 5
