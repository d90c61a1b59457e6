"""The bytes of a slice as they are kept, compressed and encrypted with a key of the slice's own, and as they are shown.

Kept are records and positions alone: the salts, which no compression makes smaller, come from the
slice's secret whenever they are needed. Shown (`slices/N.bin` of an answer) is every line with its
salt. Nothing is allocated on the word of what is read: sizes are bounded first.
"""

from __future__ import annotations

import sys
import threading
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add, sub
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from models.errors import Malformed, VerificationError
from models.leaf import LINE_HEAD_BYTES, open_line
from models.nodes import SALT_BYTES
from models.record import MAX_OFFSET, MAX_SLICE_BYTES, MAX_SLICE_RECORDS, Buffer, Record

KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
LEVEL: Final = 1
MAX_WINDOW_BYTES: Final = 1 << 23
_HEAD_BYTES: Final = 2 * SALT_BYTES
MAX_BIN_BYTES: Final = _HEAD_BYTES + MAX_SLICE_BYTES + MAX_SLICE_RECORDS * (4 + LINE_HEAD_BYTES)
"""The longest `slices/N.bin`: two flat salts, and of each line its length and its d."""
MAX_KEPT_BYTES: Final = 6 + MAX_SLICE_BYTES + MAX_SLICE_RECORDS * (4 + 8)
MAX_PACKED_BYTES: Final = MAX_BIN_BYTES + (MAX_BIN_BYTES >> 8) + 64
_RECORDS: Final = 1
_LINES: Final = 2
"""The two versions of what is kept."""
_LINES_AT: Final = 9


@dataclass(frozen=True, slots=True)
class SliceBytes:
    """A slice as it is shown: the flat salts of content and index, and the d of every line."""

    flat_salts: tuple[bytes, bytes]
    lines: tuple[bytes, ...]

    def record(self, line: int) -> Record:
        """One record by its number in the slice. Raises: Malformed if there is none; VerificationError if it is damaged."""
        if not 0 <= line < len(self.lines):
            raise Malformed(f"line is not in the slice: expected 0 to {len(self.lines) - 1}, got {line}")
        return open_line(self.lines[line])[1]

    def buffer(self) -> Buffer:
        """All records in one buffer. Raises: VerificationError if a line is damaged; Malformed if they are out of order."""
        return Buffer.of(open_line(line)[1] for line in self.lines)


# --- as it is shown -------------------------------------------------------------------------------------------------


def to_bin(flat_salts: tuple[bytes, bytes], lines: Sequence[bytes]) -> bytes:
    """The bytes of `slices/N.bin`: the two flat salts, then of each line u32 length and d.

    Source: formats §6.1, §11 (31a).
    """
    parts = [*flat_salts]
    for line in lines:
        parts += (len(line).to_bytes(4), line)
    return b"".join(parts)


def from_bin(data: bytes) -> SliceBytes:
    """What `to_bin` was given.

    Raises: Malformed if the lengths do not fill `data` exactly, or are more than a slice holds.
    """
    if not _HEAD_BYTES <= len(data) <= MAX_BIN_BYTES:
        raise Malformed(f"slice has wrong length: expected {_HEAD_BYTES} to {MAX_BIN_BYTES} bytes, got {len(data)}")
    lines: list[bytes] = []
    at = _HEAD_BYTES
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4])
        line = data[at + 4 : end]
        if end > len(data) or len(line) < LINE_HEAD_BYTES or len(lines) == MAX_SLICE_RECORDS:
            raise Malformed(f"slice has wrong form: line {len(lines)} does not fit")
        lines.append(line)
        at = end
    return SliceBytes((data[:SALT_BYTES], data[SALT_BYTES:_HEAD_BYTES]), tuple(lines))


# --- compression ----------------------------------------------------------------------------------------------------


class _Compressor(threading.local):
    """One for each thread: its tables are not made anew for every slice."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)


_THREAD: Final = _Compressor()


def compress(*parts: bytes) -> bytes:
    """`parts`, one behind the other, compressed, with their size in the frame's head and a checksum behind it."""
    compressor = _THREAD.compressor
    if len(parts) == 1:
        return compressor.compress(parts[0])
    running = compressor.compressobj(size=sum(map(len, parts)))
    return b"".join((*map(running.compress, parts), running.flush()))


def decompress(packed: bytes, *, limit: int = MAX_BIN_BYTES) -> bytes:
    """What `compress` was given; one frame of a stated size, and nothing beside it.

    Raises: Malformed if it is none, or states more than `limit` bytes or a larger window than we make; before anything of
        that size is allocated.
    """
    if len(packed) > MAX_PACKED_BYTES:
        raise Malformed(f"compressed slice is too long: expected at most {MAX_PACKED_BYTES} bytes, got {len(packed)}")
    try:
        frame = zstandard.get_frame_parameters(packed)
        # Unknown sizes are stated as 2⁶⁴−1, so they are refused too; a frame of one segment needs what it states to hold.
        if frame.content_size > limit or frame.window_size > MAX_WINDOW_BYTES:
            raise Malformed(f"compressed slice states too much: expected at most {limit} bytes in a window of {MAX_WINDOW_BYTES}")
        one = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        data = one.decompress(packed)
    except zstandard.ZstdError as error:
        raise Malformed("slice cannot be decompressed: expected one zstd frame") from error
    if not one.eof or one.unused_data or len(data) != frame.content_size:
        raise Malformed("compressed slice is cut, or something follows it")
    return data


# --- as it is kept --------------------------------------------------------------------------------------------------


def pack(buffer: Buffer, *, bytewise: bool) -> bytes:
    """The records of a slice, compressed; `bytewise` if positions count bytes, which then cost nothing to keep.

    Shapes (before compression), version 1: u8 version, u8 bytewise, u32 n, n × u32 length, n × i64 skip, payloads. A skip is
        what a position is beyond the expected one: the end of the record before and its LF, or the number before and one.
        Version 2, lines that stood one behind the other: u8 version, u64 position of the first, the lines with an LF between.
    Source: ours; who has it and the slice's secret has the file `slices/N.bin` too.
    """
    if bytewise and buffer.tiled:
        return compress(bytes((_LINES,)) + buffer.positions[0].to_bytes(8), buffer.data)
    count = len(buffer)
    lengths = array("I", list(map(sub, buffer.ends(), buffer.offsets)))
    # Where each record would stand if nothing were beside the rule; a skip is where the distance from there changes.
    expected = map(add, accumulate(lengths, initial=0), range(count)) if bytewise else range(count)
    away = list(map(sub, buffer.positions, expected))
    skips = array("q", list(map(sub, away, [0, *away])))
    head = bytes((_RECORDS, bytewise)) + count.to_bytes(4)
    return compress(head, _big_endian(lengths), _big_endian(skips), b"".join(buffer.payloads()) if buffer.tiled else buffer.data)


def unpack(packed: bytes) -> Buffer:
    """The records that `pack` was given.

    Raises: Malformed if it is nothing that `pack` makes.
    """
    kept = decompress(packed, limit=MAX_KEPT_BYTES)
    if kept[:1] == bytes((_LINES,)):
        return _unpacked_lines(kept)
    count = int.from_bytes(kept[2:6])
    start = 6 + count * 12
    if len(kept) < 6 or kept[0] != _RECORDS or kept[1] > 1 or count > MAX_SLICE_RECORDS or len(kept) < start:
        raise Malformed("archived slice has wrong form: expected version, count, lengths, skips and payloads")
    lengths, skips, data = array("I"), array("q"), kept[start:]
    lengths.frombytes(kept[6 : 6 + count * 4])
    skips.frombytes(kept[6 + count * 4 : start])
    lengths, skips = _swapped(lengths), _swapped(skips)
    if sum(lengths) != len(data) or len(data) > MAX_SLICE_BYTES:
        raise Malformed("archived slice has wrong form: lengths do not fill its payloads")
    step = map(add, lengths, [1] * count) if kept[1] else iter([1] * count)
    places = list(accumulate(map(add, skips, [0, *step][:count])))
    if any(not before < after for before, after in zip([-1, *places], [*places, MAX_OFFSET + 1], strict=True)):
        raise Malformed("archived slice has positions out of order")
    return Buffer(data, array("I", accumulate(lengths[:-1], initial=0)) if count else array("I"), array("Q", places))


def _unpacked_lines(kept: bytes) -> Buffer:
    first, data = int.from_bytes(kept[1:_LINES_AT]), kept[_LINES_AT:]
    lines = data.split(b"\n")
    size = len(data) - (len(lines) - 1)
    if len(kept) < _LINES_AT or len(lines) > MAX_SLICE_RECORDS or size > MAX_SLICE_BYTES:
        raise Malformed("archived slice has wrong form: expected version, position and lines, no more than a slice holds")
    if first + len(data) > MAX_OFFSET:
        raise Malformed("archived slice has positions out of order")
    return Buffer.of_lines(data, first, lines, list(map(len, lines)))


def record_at(buffer: Buffer, position: int) -> Record:
    """The record of a slice that stands at `position`. Raises: Malformed if none does."""
    line = bisect_left(buffer.positions, position)
    if line == len(buffer) or buffer.positions[line] != position:
        raise Malformed(f"no record of the slice stands at its position {position}")
    return Record(position, buffer.data[buffer.offsets[line] : buffer.ends()[line]])


def _swapped(numbers: array[int]) -> array[int]:
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _big_endian(numbers: array[int]) -> bytes:
    return _swapped(numbers).tobytes()


# --- encryption -----------------------------------------------------------------------------------------------------


def seal(packed: bytes, *, key: bytes, nonce: bytes, slice_id: str) -> bytes:
    """`packed` under the slice's own key: nonce, ciphertext, tag. A (key, nonce) pair serves once.

    Shapes: key 16 bytes, nonce 12 random bytes; the associated data is the slice id.
    Source: formats §1 (`sm4-gcm`), ours: a slice is erased by destroying its secret, of which the key is derived.
    """
    _check(key, nonce)
    encryptor = Cipher(algorithms.SM4(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(slice_id.encode())
    return nonce + encryptor.update(packed) + encryptor.finalize() + encryptor.tag


def open_sealed(sealed: bytes, *, key: bytes, slice_id: str) -> bytes:
    """What `seal` was given for that slice.

    Raises: Malformed if it is too short or too long; VerificationError if key, slice or a single bit is another.
    """
    if not NONCE_BYTES + TAG_BYTES <= len(sealed) <= NONCE_BYTES + MAX_PACKED_BYTES + TAG_BYTES:
        raise Malformed(f"sealed slice has wrong length: got {len(sealed)} bytes (slice {slice_id})")
    nonce, ciphertext, tag = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:-TAG_BYTES], sealed[-TAG_BYTES:]
    _check(key, nonce)
    decryptor = Cipher(algorithms.SM4(key), modes.GCM(nonce, tag)).decryptor()
    decryptor.authenticate_additional_data(slice_id.encode())
    try:
        return decryptor.update(ciphertext) + decryptor.finalize()
    except InvalidTag as error:
        raise VerificationError(f"sealed slice is damaged or of another slice or key (slice {slice_id})") from error


def _check(key: bytes, nonce: bytes) -> None:
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise Malformed(f"key or nonce of a slice has wrong length: expected {KEY_BYTES} and {NONCE_BYTES} bytes")
