"""One node's append-only file of lines, and the steps at which a process may die.

A line is durable when `append` returns. After a failed write or flush the file is not used any
more through the same handle: what a failed flush left in memory the kernel may call clean.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

READ_BYTES = 1 << 20
SPACE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})


class Step(StrEnum):
    """Each irreversible act of the ledger, before and after: where a fault test lets it die."""

    BEFORE_CREATE = "before-create"
    AFTER_CREATE = "after-create"
    BEFORE_BLOCK_WRITE = "before-block-write"
    AFTER_BLOCK_WRITE = "after-block-write"
    AFTER_BLOCK_FLUSH = "after-block-flush"
    BEFORE_FINAL_WRITE = "before-final-write"
    AFTER_FINAL_WRITE = "after-final-write"
    AFTER_FINAL_FLUSH = "after-final-flush"
    BEFORE_CUT = "before-cut"
    AFTER_CUT = "after-cut"
    BEFORE_ANSWER = "before-answer"


Failpoint = Callable[[Step], None]


def no_step(_step: Step) -> None:
    """The failpoint of production: nothing happens."""


class NotStored(OSError):
    """A write failed and what it left was cut off again: the file does not hold the line."""


class Disk:
    """The three calls that change a file; a fault test hands in one that fails."""

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of `data` stands at `offset`.

        Raises: OSError, after which any part of it may stand there.
        """
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, memoryview(data)[done:], offset + done)

    def flush(self, descriptor: int) -> None:
        """What was written is on the medium.

        Raises: OSError, after which the handle must not be used again.
        """
        os.fsync(descriptor)

    def cut(self, descriptor: int, size: int) -> None:
        """The file ends at `size`.

        Raises: OSError.
        """
        os.ftruncate(descriptor, size)


class ChainFile:
    """The file of one node, open for reading, and for writing where a disk is given."""

    def __init__(self, path: Path, *, disk: Disk | None) -> None:
        self.path = path
        self._disk = disk
        self._reading = threading.Lock()
        self._descriptor: int | None = os.open(
            path, os.O_CLOEXEC | (os.O_RDONLY if disk is None else os.O_RDWR | os.O_CREAT), 0o600
        )
        self.durable = 0

    def close(self) -> None:
        """The handle is given back; may be repeated."""
        # Under the lock, because the kernel gives the number to the next file opened: a read that
        # still used it would read that file, and call this one damaged.
        with self._reading:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "file is closed")
        return self._descriptor

    def size(self) -> int:
        """The present length in bytes."""
        return os.fstat(self._open()).st_size

    def is_replaced(self) -> bool:
        """Whether another file stands under the path now.

        Raises: OSError.
        """
        return os.fstat(self._open()).st_ino != self.path.stat().st_ino

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`; fewer if the file ends before."""
        with self._reading:
            return os.pread(self._open(), size, offset)

    def lines(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """Every line from `offset` on with its place, without its end; last the bytes after the last end, if any.

        The bytes after the last end come as a line with a negative place.
        """
        rest, place = b"", offset
        while chunk := self.read(offset, READ_BYTES):
            offset += len(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield place, line
                place += len(line) + 1
        if rest:
            yield -1 - place, rest

    def _writer(self) -> Disk:
        if self._disk is None:
            raise OSError(errno.EROFS, "file is open for reading only")
        return self._disk

    def append(self, data: bytes, *, steps: tuple[Step, Step, Step], step: Failpoint) -> int:
        """The line is durable at the end of what was durable; its place is given back.

        Raises: NotStored if the file certainly does not hold the line; OSError if it may hold it.
        """
        disk, descriptor, place = self._writer(), self._open(), self.durable
        before, written, after = steps
        step(before)
        # Dying here leaves nothing; dying below leaves a part of a line, which the next start cuts off.
        try:
            disk.write(descriptor, data, place)
        except OSError as error:
            disk.cut(descriptor, place)
            disk.flush(descriptor)
            raise NotStored(error.errno, os.strerror(error.errno or 0)) from error
        step(written)
        # Dying here leaves a line that may or may not survive a power cut: no seal on it has counted yet.
        disk.flush(descriptor)
        self.durable = place + len(data)
        step(after)
        return place

    def rewrite(self, place: int) -> None:
        """What stands from `place` on is written again and flushed.

        An earlier process may have died after a flush that failed: its bytes can be read back from
        memory although they never reached the medium. Writing them again makes that true.

        Raises: OSError.
        """
        disk, descriptor, size = self._writer(), self._open(), self.size()
        tail = self.read(place, size - place)
        if tail:
            disk.write(descriptor, tail, place)
        disk.flush(descriptor)
        self.durable = size

    def cut(self, size: int, *, step: Failpoint) -> None:
        """The file ends at `size`: what stood behind was part of a line, or a block that never was final.

        Raises: OSError.
        """
        disk, descriptor = self._writer(), self._open()
        step(Step.BEFORE_CUT)
        disk.cut(descriptor, size)
        disk.flush(descriptor)
        self.durable = size
        step(Step.AFTER_CUT)
