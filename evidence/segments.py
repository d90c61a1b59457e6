"""One encrypted object as a file: segments of 1 MiB, each authentic, in order, and the last one known as the last.

File: `cz-obj/1` ‖ 8 random bytes ‖ per segment (ciphertext ‖ 16-byte tag). The nonce of a segment
is those 8 bytes ‖ u32 counter, its aad the object id ‖ u32 counter ‖ last flag. So any range can be
read alone, and a swapped, repeated or missing segment, or one of another object, does not open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from evidence.content import TAG_BYTES, Wrap
from models.errors import Malformed, VerificationError

SEGMENT_BYTES = 1 << 20
OBJECT_ID_BYTES = 16
MAGIC = b"cz-obj/1"
SALT_BYTES = 8
HEADER_BYTES = len(MAGIC) + SALT_BYTES
_STORED_BYTES = SEGMENT_BYTES + TAG_BYTES
_MAX_SEGMENTS = 1 << 32


def _aad(object_id: bytes, counter: int, *, last: bool) -> bytes:
    return object_id + counter.to_bytes(4) + (b"\x01" if last else b"\x00")


class ObjectWriter:
    """Writes one object to a new file, in bounded memory; nothing of it counts before `finish`.

    Source: formats §8.3.
    """

    def __init__(self, path: Path, object_id: bytes, wrap: Wrap, salt: bytes) -> None:
        self.path = path
        self.size = 0
        self._object_id = object_id
        self._wrap = wrap
        self._salt = salt
        self._counter = 0
        self._buffer = bytearray()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._write(MAGIC + salt)
        except OSError:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """`data` follows what was written before. A segment is sealed once a byte after it is known."""
        self._buffer += data
        self.size += len(data)
        while len(self._buffer) > SEGMENT_BYTES:
            segment = bytes(self._buffer[:SEGMENT_BYTES])
            del self._buffer[:SEGMENT_BYTES]
            self._seal(segment, last=False)

    def finish(self) -> None:
        """The object is whole and flushed to the disk. A failed flush is never tried again: the file is given up."""
        self._seal(bytes(self._buffer), last=True)
        self._buffer.clear()
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        """The file is closed; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _seal(self, segment: bytes, *, last: bool) -> None:
        if self._counter >= _MAX_SEGMENTS:
            raise Malformed("object has too many segments: expected fewer than 2^32")
        nonce = self._salt + self._counter.to_bytes(4)
        body, tag = self._wrap.seal_at(nonce, segment, aad=_aad(self._object_id, self._counter, last=last))
        self._write(body)
        self._write(tag)
        self._counter += 1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]


class ObjectReader:
    """Reads one object, whole or in ranges; its end was proven when it was opened.

    Raises: VerificationError if the file is absent, has another size than `size`, or its end was
        altered; the same from `read` for any other segment.
    """

    def __init__(self, path: Path, object_id: bytes, wrap: Wrap, *, size: int) -> None:
        self.size = size
        self._object_id = object_id
        self._wrap = wrap
        self._name = f"object {object_id.hex()[:8]}…"
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise VerificationError(f"stored {self._name} is absent") from error
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        # An object of size 0 has one empty segment.
        self._count = max(1, -(-self.size // SEGMENT_BYTES))
        stored = os.fstat(self._descriptor).st_size
        expected = HEADER_BYTES + self.size + TAG_BYTES * self._count
        if stored != expected:
            raise VerificationError(f"stored {self._name} has wrong length: expected {expected} bytes, got {stored}")
        header = os.pread(self._descriptor, HEADER_BYTES, 0)
        if header[: len(MAGIC)] != MAGIC:
            raise VerificationError(f"stored {self._name} has a wrong first line")
        self._salt = header[len(MAGIC) :]
        self._last = self._segment(self._count - 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """The file is closed; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes [start, stop), at most one segment at a time; only the segments needed are decrypted."""
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise Malformed(f"range is not within the object: expected 0 to {self.size}")
        while start < stop:
            number, offset = divmod(start, SEGMENT_BYTES)
            segment = self._last if number == self._count - 1 else self._segment(number)
            piece = segment[offset : offset + stop - start]
            start += len(piece)
            yield piece

    def _segment(self, number: int) -> bytes:
        length = min(SEGMENT_BYTES, self.size - number * SEGMENT_BYTES) + TAG_BYTES
        stored = os.pread(self._descriptor, length, HEADER_BYTES + number * _STORED_BYTES)
        if len(stored) != length:
            raise VerificationError(f"segment {number} of stored {self._name} is cut short")
        return self._wrap.open_at(
            self._salt + number.to_bytes(4),
            stored[:-TAG_BYTES],
            stored[-TAG_BYTES:],
            aad=_aad(self._object_id, number, last=number == self._count - 1),
            what=f"segment {number} of stored {self._name}",
        )
