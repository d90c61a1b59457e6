"""A log file, followed while it grows, through rotations, and from the exact byte after a restart.

A file is known by its inode and by its first bytes. Rotated by renaming, it is read to its end where
it then lies, and the file that took its name opens the next epoch; emptied in place (copy-truncate),
its copy is looked for and read to its end. What cannot be shown to be complete is said to be not.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final, Self

from models.errors import Malformed
from models.record import Encoding, Position
from models.slice import Epoch
from streaming.lines import LineCutter
from streaming.port import Batch, SourceUnavailable
from streaming.rotation import TAIL_BYTES, Known, open_regular, predecessor, successors

_CHUNK_BYTES: Final = 1 << 20
_CHUNKS_AT_ONCE: Final = 2
"""So many are read by one look where there is so much, which is about a slice."""
_POLL_S: Final = 0.2
_LINGER_S: Final = 1.0
_LOOKED_LATELY_S: Final = 5.0

_FIRST = "first slice of the stream"
_RENAMED = "file was rotated by renaming and read to its end"
_COPIED = "file was emptied after it was copied, and the copy was read to its end"
_TRUNCATED = "file was emptied in place; what was written after the last read is not known"
_REPLACED = "file was replaced and is no longer beside its successor; files between may be gone"
_LOST = "file was replaced while nobody followed it, and what it held after the last slice is gone"


class _State(Enum):
    """What a look at the file and at its name showed."""

    DATA = auto()
    QUIET = auto()
    REPLACED = auto()
    EMPTIED = auto()


@dataclass(frozen=True, slots=True)
class _Look:
    state: _State
    size: int
    data: bytes = b""


class LogFile:
    """Follows the file at `path`; see `Source`. `poll_s` is how often a file that has nothing new is looked at again.

    `linger_s` is how long a renamed file must have been quiet before it counts as complete: its writer
    may still have it open.
    """

    encoding = Encoding.LINE
    bytewise = True

    def __init__(
        self, path: Path, *, key: bytes, follow: bool = True, poll_s: float = _POLL_S, linger_s: float = _LINGER_S
    ) -> None:
        self._path = path
        self._key = key
        self._follow = follow
        self._poll_s = poll_s
        self._linger_s = linger_s
        self._epoch = 0
        self._file: Known
        self._cutter = LineCutter()
        self._tail = b""
        self._opening: Epoch | None = None
        self._copy = False
        """Whether what is read now is a copy of the file that was emptied, and the name still has the file itself."""
        self._behind = 0
        self._quiet_since: float | None = None
        self._looks: list[_Look] = []
        """What a look gave and was not taken yet."""
        self._looked_at = time.monotonic()
        self._ended = False
        self._closed = True

    # --- opening ----------------------------------------------------------------------------------------------------

    def open(self, start: Position | None, identity: str | None) -> None:
        """Ready to read from `start` on. Raises: Malformed; SourceUnavailable; SourceRefused."""
        known = None if start is None or identity is None else predecessor(self._path, identity, start.offset, self._key)
        if start is None:
            self._file = open_regular(self._path)
            self._opening = Epoch(self.identity, True, _FIRST)
        elif known is None:
            self._file = open_regular(self._path)
            self._epoch = start.epoch + 1
            self._opening = Epoch(self.identity, False, _LOST)
        else:
            self._file, self._copy = known
            self._epoch = start.epoch
            self._cutter = LineCutter(start.offset)
            self._tail = self._file.read(start.offset - min(start.offset, TAIL_BYTES), min(start.offset, TAIL_BYTES))
        self._closed = False

    @property
    def identity(self) -> str:
        """Inode and first bytes of the file, the bytes under the key given."""
        return self._file.identity(self._key)

    # --- reading ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        while True:
            if self._closed:
                raise SourceUnavailable(f"log file was closed ({self._path.name})")
            if self._ended:
                raise StopAsyncIteration
            if not self._looks:
                self._looks = await asyncio.to_thread(self._look)
            look = self._looks.pop(0)
            batch = self._taken(look) if look.state is _State.DATA else await self._at_end(look)
            if batch is not None:
                return batch

    def _look(self) -> list[_Look]:
        """Reads on, or finds out why there is nothing. Changes nothing that is handed out, so that it may be cancelled."""
        taken = self._cutter.taken
        try:
            named = self._file.is_at(self._path)
            if named:
                self._looked_at = time.monotonic()
            size = self._file.size()
            if size < taken or (size > taken and not self._is_continued(taken)):
                return [_Look(_State.EMPTIED, size)]
            if size > taken:
                return [_Look(_State.DATA, size, chunk) for chunk in self._chunks(taken)]
        except OSError as error:
            raise SourceUnavailable(f"log file cannot be read: {error.strerror} ({self._path.name})") from error
        return [_Look(_State.REPLACED if self._copy or not named else _State.QUIET, size)]

    def _chunks(self, start: int) -> list[bytes]:
        """What stands from `start` on: another chunk only behind one that was full."""
        chunks = [self._file.read(start, _CHUNK_BYTES)]
        while len(chunks) < _CHUNKS_AT_ONCE and len(chunks[-1]) == _CHUNK_BYTES:
            chunks.append(self._file.read(start + len(chunks) * _CHUNK_BYTES, _CHUNK_BYTES))
        return chunks

    def _is_continued(self, taken: int) -> bool:
        """Whether what was read last still stands before what is new: a file emptied and filled again is another."""
        return self._file.read(taken - len(self._tail), len(self._tail)) == self._tail

    def _taken(self, look: _Look) -> Batch | None:
        self._quiet_since = None
        self._tail = look.data[-TAIL_BYTES:] if len(look.data) >= TAIL_BYTES else (self._tail + look.data)[-TAIL_BYTES:]
        if self._opening is not None:
            # The epoch is told of with its first line, when there are bytes by which the file is known again.
            self._file.remember_head()
            self._opening = self._opening._replace(identity=self.identity)
        batch = self._cutter.feed(look.data, epoch=self._epoch, opened=self._opening)
        self._behind = look.size - self._cutter.offset
        if batch is not None:
            self._opening = None
        return batch

    async def _at_end(self, look: _Look) -> Batch | None:
        if look.state is _State.EMPTIED:
            return self._emptied()
        if look.state is _State.REPLACED and (self._copy or not self._lingers()):
            return self._finished()
        if look.state is _State.QUIET and not self._follow:
            self._ended = True
            return self._rest()
        await asyncio.sleep(self._poll_s)
        return None

    def _lingers(self) -> bool:
        """Whether the writer of a renamed file may still write to it."""
        now = time.monotonic()
        if self._quiet_since is None:
            self._quiet_since = now
        return self._follow and now - self._quiet_since < self._linger_s

    def _rest(self) -> Batch | None:
        batch = self._cutter.rest(epoch=self._epoch, opened=self._opening)
        if batch is not None:
            self._opening = None
            self._behind = 0
        return batch

    # --- changes ----------------------------------------------------------------------------------------------------

    def _emptied(self) -> Batch | None:
        """The file has less than was read of it: go on in its copy if there is one, else begin the next epoch."""
        found = predecessor(self._path, self.identity, self._cutter.taken, self._key, tail=self._tail)
        if found is not None and found[1]:
            self._file.close()
            self._file, self._copy = found
            return None
        return self._turn(self._path, complete=False, reason=_TRUNCATED)

    def _finished(self) -> Batch | None:
        """The file is read to its end and has lost its name: the one that came after it opens the next epoch."""
        after = successors(self._path, self._file)
        if self._copy:
            reason, complete = _COPIED, True
        elif after is not None or time.monotonic() - self._looked_at < _LOOKED_LATELY_S:
            reason, complete = _RENAMED, True
        else:
            reason, complete = _REPLACED, False
        return self._turn(after[0] if after else self._path, complete=complete, reason=reason)

    def _turn(self, path: Path, *, complete: bool, reason: str) -> Batch | None:
        opened = open_regular(path)
        rest = self._rest()
        self._file.close()
        self._file = opened
        self._copy = False
        self._quiet_since = None
        self._tail = b""
        self._cutter = LineCutter()
        if self._opening is None:
            self._epoch += 1
            self._opening = Epoch(self.identity, complete, reason)
        else:
            # The epoch before held nothing that anyone was told of: this file takes its place.
            before = self._opening
            complete = complete and before.previous_complete
            self._opening = Epoch(self.identity, complete, before.reason if before.reason == _FIRST or not complete else reason)
        return rest

    # --- the rest ---------------------------------------------------------------------------------------------------

    def behind(self) -> int | None:
        """Bytes of the file read now that were not handed out yet."""
        return max(0, self._behind)

    def committed(self, position: Position) -> None:
        """Nothing: a file is read again from any byte."""

    async def aclose(self) -> None:
        """The file is closed."""
        if not self._closed:
            self._closed = True
            self._file.close()


def path_of(url: str) -> Path:
    """The path that `file:PATH` or `file:///PATH` names.

    Raises: Malformed if it names none, or a host.
    """
    text = url.removeprefix("file:")
    if text.startswith("//"):
        text = text[2:]
        if not text.startswith("/"):
            raise Malformed("source names a host: expected file:PATH or file:///PATH")
    if text == url or not text or "\0" in text:
        raise Malformed("source has wrong form: expected file:PATH")
    return Path(text)


async def open_source(url: str, *, start: Position | None, identity: str | None, follow: bool, key: bytes) -> LogFile:
    """The log file at `file:PATH`; see `streaming.port.OpenSource`."""
    source = LogFile(path_of(url), key=key, follow=follow)
    await asyncio.to_thread(source.open, start, identity)
    return source
