"""Laws of an encrypted object's file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.content import Wrap
from evidence.segments import HEADER_BYTES, SEGMENT_BYTES, ObjectReader, ObjectWriter
from models.errors import Malformed, VerificationError

ID = bytes(range(16))
KEY = b"k" * 16
STORED = SEGMENT_BYTES + 16
SIZES = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 5]


def write(path: Path, data: bytes, *, object_id: bytes = ID, key: bytes = KEY, chunk: int = 300_000) -> None:
    writer = ObjectWriter(path, object_id, Wrap(key), b"s" * 8)
    for start in range(0, len(data), chunk):
        writer.write(data[start : start + chunk])
    writer.finish()


def read(path: Path, size: int, start: int = 0, stop: int | None = None, *, object_id: bytes = ID, key: bytes = KEY) -> bytes:
    with ObjectReader(path, object_id, Wrap(key), size=size) as reader:
        return b"".join(reader.read(start, stop))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [65_536, 5 * SEGMENT_BYTES])
def test_object_is_read_as_it_was_written(tmp_path: Path, size: int, chunk: int) -> None:
    data = os.urandom(size)
    write(tmp_path / "o", data, chunk=chunk)
    assert read(tmp_path / "o", size) == data
    assert (tmp_path / "o").stat().st_size == HEADER_BYTES + size + 16 * max(1, -(-size // SEGMENT_BYTES))
    assert data[:32] not in (tmp_path / "o").read_bytes() or size < 32


def test_any_range_is_read_and_only_its_segments_are_decrypted(tmp_path: Path) -> None:
    size = 3 * SEGMENT_BYTES + 77
    data = os.urandom(size)
    write(tmp_path / "o", data)

    @settings(max_examples=40)
    @given(st.integers(0, size), st.integers(0, size))
    def check(one: int, two: int) -> None:
        start, stop = sorted((one, two))
        assert read(tmp_path / "o", size, start, stop) == data[start:stop]

    check()
    # Segment 1 is rotten: a range beside it is not troubled, one that touches it is refused.
    with (tmp_path / "o").open("r+b") as file:
        file.seek(HEADER_BYTES + STORED + 10)
        file.write(b"\x00\x01\x02")
    assert read(tmp_path / "o", size, 0, SEGMENT_BYTES) == data[:SEGMENT_BYTES]
    assert read(tmp_path / "o", size, 2 * SEGMENT_BYTES) == data[2 * SEGMENT_BYTES :]
    with pytest.raises(VerificationError, match="segment 1 of stored object"):
        read(tmp_path / "o", size, SEGMENT_BYTES - 1, SEGMENT_BYTES + 1)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (2, 1), (0, 11), (11, 11)])
def test_refuses_ranges_outside_the_object(tmp_path: Path, start: int, stop: int) -> None:
    write(tmp_path / "o", b"0123456789")
    with pytest.raises(Malformed, match="range"):
        read(tmp_path / "o", 10, start, stop)


def place(order: str) -> Callable[[bytes], bytes]:
    """A file of three segments, named a, b and c, with these in this order."""

    def damage(data: bytes) -> bytes:
        body = data[HEADER_BYTES:]
        part = {"a": body[:STORED], "b": body[STORED : 2 * STORED], "c": body[2 * STORED :]}
        return data[:HEADER_BYTES] + b"".join(part[name] for name in order)

    return damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "segments-swapped": place("bac"),
    "segment-repeated": place("aac"),
    "segment-left-out": place("ac"),
    "last-segment-cut-off": place("ab"),
    "one-byte-cut-off": lambda data: data[:-1],
    "one-byte-added": lambda data: data + b"\x00",
    "first-line": lambda data: b"cz-obj/2" + data[8:],
    "nonce": lambda data: data[:8] + b"t" * 8 + data[16:],
    "last-bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "empty": lambda data: data[:0],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_refuses_an_altered_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    size = 2 * SEGMENT_BYTES + 100
    write(tmp_path / "o", os.urandom(size))
    altered = damage((tmp_path / "o").read_bytes())
    (tmp_path / "o").write_bytes(altered)
    with pytest.raises(VerificationError):
        read(tmp_path / "o", size)


@pytest.mark.parametrize("segments", [1, 2])
def test_refuses_an_object_cut_at_a_segment_even_if_its_row_agrees(tmp_path: Path, segments: int) -> None:
    write(tmp_path / "o", os.urandom(2 * SEGMENT_BYTES + 100))
    data = (tmp_path / "o").read_bytes()
    (tmp_path / "o").write_bytes(data[: HEADER_BYTES + segments * STORED])
    with pytest.raises(VerificationError, match="does not open"):
        ObjectReader(tmp_path / "o", ID, Wrap(KEY), size=segments * SEGMENT_BYTES)


def test_refuses_another_objects_file_another_key_and_no_file(tmp_path: Path) -> None:
    write(tmp_path / "o", b"0123456789")
    with pytest.raises(VerificationError):
        read(tmp_path / "o", 10, object_id=bytes(16))
    with pytest.raises(VerificationError):
        read(tmp_path / "o", 10, key=b"x" * 16)
    with pytest.raises(VerificationError, match="is absent"):
        read(tmp_path / "none", 10)


def test_never_overwrites_a_file(tmp_path: Path) -> None:
    write(tmp_path / "o", b"first")
    with pytest.raises(FileExistsError):
        write(tmp_path / "o", b"second")
    assert read(tmp_path / "o", 5) == b"first"
