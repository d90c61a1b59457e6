"""The port of a source: records with their positions come in batches, from where a reader left off.

A source is anything whose records have an order and can be asked for again from a position: a
log file, a partition of a topic, a producer that numbers what it sends. It keeps no state of its
own: the slice header that was preserved last *is* the committed offset, and whoever opens a source
says where to go on. It delivers at least once; what comes twice is dropped by position.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from itertools import accumulate
from operator import add
from typing import Protocol, Self, cast, overload, runtime_checkable

from models.errors import EvidenceError, Malformed, Unknown
from models.record import Encoding, Position, Record
from models.slice import Epoch

SOURCES = "streaming.sources"
FINGERPRINT_KEY_BYTES = 16


class StreamError(EvidenceError):
    """What a source raises; any other exception that leaves one is a bug."""


class SourceUnavailable(StreamError):
    """The source cannot be reached now; the same call may succeed later, and nothing is lost by waiting."""


class SourceRefused(StreamError):
    """The source says no, and will say it again: no such topic, no permission, a certificate that is not trusted."""


class SourceGap(StreamError):
    """Records that were never read are gone: positions `start` to `end` of one epoch, and why.

    It is an answer, not an end: the next read goes on at `end`. Whoever reads records the gap first.
    """

    def __init__(self, start: Position, end: Position, reason: str) -> None:
        super().__init__(f"records are gone from the source: {start} to {end}: {reason}")
        self.start = start
        self.end = end
        self.reason = reason


class LineByLine(Sequence[int]):
    """Positions of lines that stand one behind the other, an LF after each; worked out only where they are asked for."""

    __slots__ = ("_sizes", "start")

    def __init__(self, start: int, sizes: Sequence[int]) -> None:
        self.start = start
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return map(add, accumulate(self._sizes, initial=self.start), range(len(self._sizes)))

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...

    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        if isinstance(place, slice):
            return list(self)[place]
        at = range(len(self))[place]
        return self.start + sum(self._sizes[:at]) + at


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records of one epoch, in order.

    `end` is the offset behind the last record, and behind what is known to hold none. `opened` comes
    with the first batch of an epoch that the reader does not know yet, which may hold no record.

    Shapes: `sizes` (in bytes) and `positions` one a record, these strictly ascending and below `end`.
    """

    epoch: int
    end: int
    payloads: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    positions: Sequence[int] = ()
    opened: Epoch | None = None

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def size(self) -> int:
        """How many bytes the payloads have together."""
        return sum(self.sizes)

    @classmethod
    def of(cls, records: list[Record], *, epoch: int, end: int, opened: Epoch | None = None) -> Batch:
        """The batch of `records`, which ascend by position."""
        payloads = [record.payload for record in records]
        return cls(epoch, end, payloads, list(map(len, payloads)), array("Q", (record.position for record in records)), opened)

    def records(self) -> Iterator[Record]:
        """The records one by one; for tests and for what is not in a hurry."""
        for position, payload in zip(self.positions, self.payloads, strict=True):
            yield Record(position, payload)


@runtime_checkable
class Source(Protocol):
    """One stream of records, read from a position on: iterate it for batches.

    Iterating waits until there is something, and reads nothing ahead of what is asked for by more than a bounded buffer: a
    reader that does not ask holds the source back. It ends where a source that was not followed was at an end.
    One reader at a time; a cancelled read loses nothing that a later read does not give again.

    Raises (iterating): SourceGap once for each range that is gone, then goes on; SourceUnavailable, after which the
    same source may be asked again; SourceRefused; after `aclose` SourceUnavailable.
    """

    encoding: Encoding
    bytewise: bool
    """Whether positions count bytes with LFs between the records, so that they tell whether one followed."""

    def __aiter__(self) -> Self:
        """The source itself."""

    async def __anext__(self) -> Batch:
        """The next batch."""

    @property
    def identity(self) -> str:
        """What the source is in the epoch read now: a file, a topic by its id. Tells nothing of what records hold."""

    def behind(self) -> int | None:
        """How much there is that was not handed out yet, in offsets; None if the source cannot say."""

    def committed(self, position: Position) -> None:
        """All before `position` is durable elsewhere. The source may tell its producer; it keeps no offset itself."""

    async def aclose(self) -> None:
        """The source holds nothing any more; closing twice is no error."""


class OpenSource(Protocol):
    """How a source is opened: what an entry point of the group `streaming.sources` names."""

    async def __call__(
        self, url: str, *, start: Position | None, identity: str | None, follow: bool, key: bytes
    ) -> Source:
        """The source at `url`, read from `start` on; None: from its beginning, as epoch 0.

        `identity` is that of the epoch of `start`: a source which is no longer the same opens the next
        epoch. `follow` false: end at the present end. Identities hold nothing of the records but what
        is keyed with `key`.

        Shapes: `key` 16 bytes.
        Raises: Malformed if `url` has wrong form; SourceUnavailable; SourceRefused.
        """


class Sources(Mapping[str, OpenSource]):
    """The kinds of source that are installed, by the scheme of their addresses; loaded when first asked for."""

    def __init__(self) -> None:
        self._entries: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=SOURCES)}

    def __getitem__(self, name: str) -> OpenSource:
        if name not in self._entries:
            raise Unknown(f"source is unknown: expected one of {', '.join(self)}, got {name[:32]!r}")
        return cast("OpenSource", self._entries[name].load())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


@cache
def sources() -> Sources:
    """Every kind of source that is installed, found by entry point."""
    return Sources()


def scheme_of(url: str) -> str:
    """The kind of source that an address names: what stands before the colon; `-` is standard input.

    Raises: Malformed if there is no scheme.
    """
    if url == "-":
        return "stdin"
    scheme, colon, _ = url.partition(":")
    if not colon or not scheme.isascii() or not scheme.isalnum():
        raise Malformed("source has wrong form: expected for example kafka://HOST:PORT/TOPIC, file:PATH or -")
    return scheme


async def open_source(
    url: str, *, start: Position | None = None, identity: str | None = None, follow: bool = True, key: bytes
) -> Source:
    """The source at `url`, of whatever kind; see `OpenSource`.

    Raises: Malformed, Unknown, SourceUnavailable, SourceRefused.
    """
    if len(key) != FINGERPRINT_KEY_BYTES:
        raise Malformed(f"key of a source has wrong length: expected {FINGERPRINT_KEY_BYTES} bytes, got {len(key)}")
    return await sources()[scheme_of(url)](url, start=start, identity=identity, follow=follow, key=key)
