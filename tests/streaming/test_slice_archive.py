from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import zstandard
from collected_world import KEYWORDS, RULE, SECRET, plan
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Malformed, VerificationError
from models.leaf import open_line
from models.record import MAX_SLICE_BYTES, Buffer, Position, Record
from models.slice import commit_slice, evidence_pair
from streaming.archive import (
    MAX_BIN_BYTES,
    MAX_PACKED_BYTES,
    compress,
    decompress,
    from_bin,
    open_sealed,
    pack,
    record_at,
    seal,
    to_bin,
    unpack,
)  # fmt: skip
from streaming.lines import LineCutter
from streaming.processing import process
from streaming.slicer import CutRule, Slicer

KEY, NONCE = bytes(range(16)), bytes(range(12))
BUFFER = Buffer.of([Record(0, b"buy AAA"), Record(8, b""), Record(9, b"\0\xff" * 100)])
MADE = process(BUFFER, plan(), secret=SECRET, number=0)


@pytest.mark.parametrize("bytewise", [True, False])
def test_records_are_there_by_their_position(bytewise: bool) -> None:  # noqa: FBT001 - a parameter of the test
    kept = unpack(pack(BUFFER, bytewise=bytewise))
    assert list(kept.records()) == list(BUFFER.records())
    assert [record_at(kept, position) for position in BUFFER.positions] == list(BUFFER.records())
    with pytest.raises(Malformed):
        record_at(kept, 1)


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.binary(max_size=30)), max_size=20), st.booleans())
def test_archive_is_opened_as_it_was_made(steps: list[tuple[int, bytes]], bytewise: bool) -> None:  # noqa: FBT001 - as above
    records, position = [], -1
    for step, payload in steps:
        position += 1 + step
        records.append(Record(position, payload))
    assert list(unpack(pack(Buffer.of(records), bytewise=bytewise)).records()) == records


@given(
    st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=20), st.integers(0, 1 << 40)
)
def test_lines_one_behind_the_other_are_opened_as_they_were_made(texts: list[bytes], start: int) -> None:
    batch = LineCutter(start).feed(b"".join(text + b"\n" for text in texts), epoch=0)
    assert batch is not None
    slicer = Slicer(CutRule(), Position(0, start))
    list(slicer.add(batch))
    filled = slicer.take()
    assert filled is not None
    kept = pack(filled.buffer, bytewise=True)
    assert decompress(kept) == b"\x02" + start.to_bytes(8) + b"\n".join(texts)
    again = unpack(kept)
    assert list(again.records()) == list(filled.buffer.records()) == list(batch.records())
    assert (again.data, again.offsets) == (filled.buffer.data, filled.buffer.offsets)
    assert (again.data, again.size) == (b"\n".join(texts), sum(map(len, texts)))
    assert replace(again, parts=None).payloads() == texts
    assert pack(again, bytewise=True) == kept


def test_positions_of_lines_cost_nothing() -> None:
    def kept(skip: int) -> int:
        return len(pack(Buffer.of(Record(place * (100 + skip), bytes(99)) for place in range(5000)), bytewise=True))

    assert kept(0) < 500


@pytest.mark.parametrize(
    "kept",
    [
        b"", b"\x03\0\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0", b"\x02\x7f\xff\xff\xff\xff\xff\xff\xffab",
        b"\x02" + bytes(8) + b"\n" * 65_536, b"\x02" + bytes(8) + bytes((2 << 20) + 1),
        b"\x01\x02\0\0\0\0", b"\x01\0\xff\xff\xff\xff", b"\x01\0\0\0\0\0x",
        b"\x01\0\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0x", b"\x01\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xffx",
    ],
    ids=[
        "empty", "version", "no position", "position too far", "too many lines", "too long", "kind", "count", "left over",
        "length", "position",
    ],
)  # fmt: skip
def test_refuses_an_archive_that_contradicts_itself(kept: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(compress(kept))


def test_what_is_shown_comes_from_what_is_kept() -> None:
    """Content and index are computed again from the archive and the secret, to the bit."""
    again = process(unpack(MADE.packed), plan(), secret=SECRET, number=0).commitment
    made = MADE.commitment
    assert (again.content, again.index, again.rules, again.lines) == (made.content, made.index, made.rules, made.lines)
    assert evidence_pair(again.lines, again.flat_salts[0], "merkle") == made.content
    shown = from_bin(to_bin(again.flat_salts, again.lines))
    assert [shown.record(line) for line in range(3)] == list(BUFFER.records())
    assert list(shown.buffer().records()) == list(BUFFER.records())
    with pytest.raises(Malformed):
        shown.record(3)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_layout_is_opened_as_it_was_made(payloads: list[bytes]) -> None:
    lines = [b"cz-line/1" + bytes(24) + payload for payload in payloads]
    assert from_bin(to_bin((b"a" * 16, b"b" * 16), lines)).lines == tuple(lines)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(31), bytes(33), bytes(32) + struct.pack(">I", 5) + b"abcde", bytes(32) + b"\xff\xff\xff\xff" + bytes(40)],
    ids=["empty", "short", "no length", "no line", "beyond the end"],
)  # fmt: skip
def test_refuses_a_layout_that_does_not_fill_its_bytes(data: bytes) -> None:
    with pytest.raises(Malformed):
        from_bin(data)


@given(st.binary(max_size=200))
def test_whatever_is_no_archive_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises((Malformed, VerificationError)):
        unpack(data)


def test_refuses_more_than_a_slice_holds_before_making_room() -> None:
    bomb = compress(bytes(MAX_BIN_BYTES + 1))
    assert len(bomb) < 10_000
    with pytest.raises(Malformed, match="states too much"):
        decompress(bomb)
    assert len(decompress(compress(bytes(MAX_BIN_BYTES)))) == MAX_BIN_BYTES


def test_refuses_a_frame_that_does_not_say_how_much_it_holds() -> None:
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
    with pytest.raises(Malformed):
        decompress(unsized)


def test_refuses_a_window_that_is_larger_than_ours() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=100)
    with pytest.raises(Malformed):
        decompress(b"\x28\xb5\x2f\xfd\x84\x88" + stream.compress(bytes(100))[6:] + stream.flush())


FRAME = compress(b"some bytes of a slice" * 10)


@pytest.mark.parametrize("data", [FRAME + b"x", FRAME + FRAME, FRAME[:-1], FRAME[1:]], ids=["more", "twice", "cut", "headless"])
def test_refuses_a_frame_that_is_cut_or_followed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decompress(data)
    with pytest.raises(Malformed):
        decompress(bytes(MAX_PACKED_BYTES + 1))


def test_sealed_slice_is_opened_with_its_key_and_name() -> None:
    sealed = seal(MADE.packed, key=KEY, nonce=NONCE, slice_id="s1/0")
    assert open_sealed(sealed, key=KEY, slice_id="s1/0") == MADE.packed


@pytest.mark.parametrize("place", [0, 11, 12, 40, -1])
def test_refuses_a_sealed_slice_with_one_bit_changed(place: int) -> None:
    sealed = bytearray(seal(MADE.packed, key=KEY, nonce=NONCE, slice_id="s1/0"))
    sealed[place] ^= 1
    with pytest.raises(VerificationError):
        open_sealed(bytes(sealed), key=KEY, slice_id="s1/0")


def test_refuses_another_slice_or_key() -> None:
    sealed = seal(MADE.packed, key=KEY, nonce=NONCE, slice_id="s1/0")
    with pytest.raises(VerificationError):
        open_sealed(sealed, key=KEY, slice_id="s1/1")
    with pytest.raises(VerificationError):
        open_sealed(sealed, key=bytes(16), slice_id="s1/0")
    with pytest.raises(Malformed):
        open_sealed(b"", key=KEY, slice_id="s1/0")
    with pytest.raises(Malformed):
        seal(b"", key=b"", nonce=NONCE, slice_id="s1/0")


def test_largest_slice_fits() -> None:
    buffer = Buffer.of([Record(0, bytes(range(256)) * (MAX_SLICE_BYTES // 256))])
    made = process(buffer, plan(), secret=SECRET, number=0)
    assert unpack(made.packed).data == buffer.data


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1100])
@pytest.mark.parametrize("algorithm", ["merkle", "hash"])
def test_content_is_committed_to_in_parts_as_at_once(count: int, algorithm: str) -> None:
    """Lines are hashed some hundred at a time; what they are committed to by does not show it."""
    declared = replace(plan().declaration, slice=algorithm)
    records = [Record(place * 1000 + place % 7, b"x" * (place * 37 % 300)) for place in range(count)]
    keys = [declared.cells(RULE, secret=SECRET).keys]
    made = commit_slice(records, declared, KEYWORDS, secret=SECRET, number=7, cell_keys=keys)
    assert made.size == count
    assert [open_line(d)[1] for d in made.lines] == records
    assert evidence_pair(made.lines, made.flat_salts[0], algorithm) == made.content
