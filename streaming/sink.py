"""Where finished slices go. The header of the slice that was taken last is the committed offset: there is no other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from models.declaration import Declaration
from models.errors import EvidenceError
from models.record import Buffer
from models.slice import SliceCommitment, SliceHeader


class SinkUnavailable(EvidenceError):
    """The slice was not taken, or nobody knows whether it was: the same slice is put again later."""


class SinkRefused(EvidenceError):
    """The slice will never be taken: another stands in its place, or the stream is not ours."""


@dataclass(frozen=True, slots=True, eq=False)
class FinishedSlice:
    """A slice with all that is preserved of it. `packed` are the archive's bytes, compressed (empty without lines).

    `secret` is the secret of the slice's item: with it and the records, everything else is computed again.
    """

    header: SliceHeader
    declaration: Declaration
    secret: bytes = field(repr=False)
    buffer: Buffer = field(repr=False)
    commitment: SliceCommitment = field(repr=False)
    packed: bytes = field(repr=False)

    @property
    def slice_id(self) -> str:
        """stream_id/number: what makes putting it idempotent."""
        return self.header.slice_id


class Sink(Protocol):
    """Takes the slices of one stream, one after the other."""

    async def put(self, finished: FinishedSlice) -> None:
        """The slice is preserved, durable on return; idempotent by its slice id. Not called concurrently for one stream.

        Raises: SinkUnavailable; SinkRefused.
        """

    async def last(self) -> SliceHeader | None:
        """The header of the newest slice that is preserved, or None if the stream has none.

        Raises: SinkUnavailable; SinkRefused.
        """

    async def identity(self) -> str | None:
        """What the source was in the epoch of `last()`, as the slice said that opened it; None if there is none.

        Raises: SinkUnavailable; SinkRefused.
        """
