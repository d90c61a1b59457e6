"""Standard input as a source: what another program writes, line by line, until it ends.

It cannot be read again. Whoever resumes after it begins an epoch that says so.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final, Self

from models.record import Encoding, Position
from models.slice import Epoch
from streaming.lines import LineCutter
from streaming.port import Batch, SourceUnavailable

_CHUNK_BYTES: Final = 1 << 18
_IDENTITY = "standard input"
_FIRST = "first slice of the stream"
_AGAIN = "standard input was opened anew; what came before and was not collected cannot be read again"


class StandardInput:
    """Lines read from a descriptor, 0 unless told; see `Source`. It ends where its writer closes it, followed or not.

    Nothing is read ahead of what is asked for but one chunk, so a slow reader holds the writer back.
    """

    encoding = Encoding.LINE
    bytewise = True

    def __init__(self, descriptor: int, *, start: Position | None = None) -> None:
        self._descriptor = descriptor
        self._epoch = 0 if start is None else start.epoch + 1
        self._opening: Epoch | None = Epoch(_IDENTITY, start is None, _FIRST if start is None else _AGAIN)
        self._cutter = LineCutter()
        self._reading: asyncio.Future[bytes] | None = None
        self._ended = False
        self._closed = False

    @property
    def identity(self) -> str:
        """Always the same: nothing tells one input from another."""
        return _IDENTITY

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        while not self._ended:
            if self._closed:
                raise SourceUnavailable("standard input was closed")
            if self._reading is None:
                self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
            # A read that is waited for no longer goes on, and what it brings is for the next call.
            chunk = await asyncio.shield(self._reading)
            self._reading = None
            if chunk:
                batch = self._cutter.feed(chunk, epoch=self._epoch, opened=self._opening)
            else:
                self._ended = True
                batch = self._cutter.rest(epoch=self._epoch, opened=self._opening)
            if batch is not None:
                self._opening = None
                return batch
        raise StopAsyncIteration

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK_BYTES)
        except OSError as error:
            raise SourceUnavailable(f"standard input cannot be read: {error.strerror}") from error

    def behind(self) -> int | None:
        """None: nobody knows what the writer still has."""
        return None

    def committed(self, position: Position) -> None:
        """Nothing: the writer is not told."""

    async def aclose(self) -> None:
        """Nothing is read any more. The descriptor stays open, since it is not ours."""
        self._closed = True


async def open_source(url: str, *, start: Position | None, identity: str | None, follow: bool, key: bytes) -> StandardInput:
    """Standard input; see `streaming.port.OpenSource`. It is the same whether followed or not."""
    del url, identity, follow, key
    return StandardInput(sys.stdin.fileno(), start=start)
