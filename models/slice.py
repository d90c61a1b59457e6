"""One slice of a stream: what its bytes are committed to by, and the header that stands for it.

The header is the committed offset: it says which positions were collected, which header came
before, and by when the next one must come. A slice's content and index are committed to apart, so
that a question is answered from the index, and a line is shown without its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

from models.anchor import BlockRef, block_refs
from models.canonical import JSONValue, canonical, format_time, members, parse_canonical, parse_time
from models.counting import Counted, index_of
from models.declaration import Declaration, EvidenceAlgorithm, check_count, check_stream_id, check_text
from models.digest import DIGEST_BYTES, Algorithm, Pair, hasher, sha256, sm3
from models.errors import Malformed, VerificationError
from models.extraction import Rule, Trie, rule_pairs, trie_of, values_of
from models.header import usual_header
from models.leaf import (
    FRAMED_AT_ONCE,
    LINE_TAG,
    IndexEntry,
    LineParts,
    index_leaf,
    line_heads,
    line_leaf,
    line_parts,
    open_index,
    open_line,
)
from models.merkle import flat, leaf_hashes, root
from models.names import check_format
from models.native.library import Core
from models.nodes import CORE, Copy, pairs
from models.record import MAX_SLICE_BYTES, MAX_SLICE_RECORDS, Buffer, Position, Record, buffer_of
from models.salting import CONTENT_SALT, INDEX_SALT, RULE_SALT, keystream, salts, slice_flat_salt, slice_key

__all__ = [
    "Buffer", "Epoch", "IndexEntry", "Kind", "Position", "Record", "SliceCommitment", "SliceHeader", "check_deadline",
    "check_link", "check_tiling", "commit_slice", "index_leaf", "index_of", "line_leaf", "line_leaves", "open_index",
    "open_line",
]  # fmt: skip

TEMPLATE: Final = "stream-slice@1"
STAGE: Final = "流式数据-分片"
INDEX_STAGE: Final = "流式数据-索引"
NO_INDEX: Final = Pair(sm3(b""), sha256(b""))
MAX_HEADER_BYTES: Final = 64 << 10

_MEMBERS = (
    "after bytes content declaration epoch first_time format index kind last_time lines next_by number pieces previous"
    " reason rules slice_create_time slice_end_position slice_id slice_start_position stream_id"
)


class Kind(StrEnum):
    """What a slice is: records, a sign of life, a range that was lost, or the end of the stream."""

    DATA = "data"
    HEARTBEAT = "heartbeat"
    GAP = "gap"
    END = "end"


class Epoch(NamedTuple):
    """A new epoch: what the source now is, whether the one before was read to its end, and why it changed."""

    identity: str
    previous_complete: bool
    reason: str

    def to_json(self) -> dict[str, JSONValue]:
        """The epoch as it stands in H."""
        return {"identity": self.identity, "previous_complete": self.previous_complete, "reason": self.reason}

    @classmethod
    def from_json(cls, value: JSONValue) -> Epoch | None:
        """The epoch of H. Raises: Malformed."""
        if value is None:
            return None
        identity, complete, reason = members(value, "identity previous_complete reason", "epoch of the slice header")
        if not isinstance(complete, bool):
            raise Malformed("previous_complete is not true or false")
        return cls(check_text(identity, "identity of an epoch"), complete, check_text(reason, "reason of an epoch"))


# --- commitment -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SliceCommitment:
    """What the bytes of one slice give: its pairs, and all that its proofs are made of.

    Shapes: `size` how many lines there are, `lines` the d of each, made when asked for; `leaves` the d of each index entry by
        rank, `tries` one a rule; `flat_salts` those of content and index.
    """

    content: Pair
    index: Pair | None
    rules: tuple[tuple[str, Pair], ...] | None
    size: int
    leaves: tuple[bytes, ...] = field(repr=False)
    tries: tuple[tuple[str, Trie], ...] = field(repr=False)
    flat_salts: tuple[bytes, bytes] = field(repr=False)
    payload_bytes: int = 0
    make_lines: Callable[[], list[bytes]] = field(default=list, repr=False)

    @property
    def lines(self) -> tuple[bytes, ...]:
        """The d of every line. Most who commit show none, so none is kept: that would be the slice once more."""
        return tuple(self.make_lines())


def evidence_pair(leaves: Sequence[bytes], flat_salt: bytes, algorithm: str) -> Pair:
    """The pair that commits to `leaves`: root and flat, or under `hash` the flats of both algorithms.

    Source: T/SAC 004—2024 C.5-a, C.5-b; formats §5.5.
    """
    twin = flat(flat_salt, leaves, algorithm=Algorithm.SHA256)
    if algorithm == EvidenceAlgorithm.HASH:
        return Pair(flat(flat_salt, leaves, algorithm=Algorithm.SM3), twin)
    return Pair(root(leaf_hashes(leaves)), twin)


def line_leaves(buffer: Buffer, *, secret: bytes, stream_id: str, number: int) -> list[bytes]:
    """The d of every line of a slice."""
    return [
        LINE_TAG + head + payload
        for part in _parts(buffer, secret, stream_id, number)
        for head, payload in zip(part.heads, part.payloads, strict=True)
    ]


def _parts(buffer: Buffer, secret: bytes, stream_id: str, number: int) -> Iterator[LineParts]:
    return line_parts(buffer, _line_salts(secret, stream_id, number, len(buffer)))


def _line_salts(secret: bytes, stream_id: str, number: int, count: int) -> bytes:
    return keystream(slice_key(secret, "cz-line/1", stream_id, number), count)


def _content_pair(buffer: Buffer, salts: bytes, flat_salt: bytes, algorithm: str) -> Pair:
    """As `evidence_pair` over the d of all lines, without ever making them: what is not joined need not be copied."""
    core = CORE.get(Algorithm.SM3)
    if core is not None and len(buffer):
        return _content_pair_at_once(core, buffer, salts, flat_salt, algorithm)
    twin, first = (hasher(each, _FLAT + flat_salt) for each in (Algorithm.SHA256, Algorithm.SM3))
    parts = line_parts(buffer, salts)
    copy: Copy = _LINE.copy
    hashes: list[bytes] = []
    for frames, heads, payloads in parts:
        framed = [b""] * (3 * len(frames))
        framed[::3], framed[1::3], framed[2::3] = frames, heads, payloads
        joined = b"".join(framed)
        twin.update(joined)
        if algorithm == EvidenceAlgorithm.HASH:
            first.update(joined)
            continue
        # `update` gives None, always: this is the one way to four calls a leaf without a fifth to append.
        hashes += [
            state.digest()
            for head, payload in zip(heads, payloads, strict=True)
            if (state := copy()).update(head) is state.update(payload)
        ]
    return Pair(first.digest() if algorithm == EvidenceAlgorithm.HASH else root(hashes), twin.digest())


def _content_pair_at_once(core: Core, buffer: Buffer, salts: bytes, flat_salt: bytes, algorithm: str) -> Pair:
    """The same by the native core: over the one buffer, whose lines are never taken apart."""
    heads, (offsets, gap) = line_heads(buffer, salts), buffer.bounds()
    hashed = [Algorithm.SM3, Algorithm.SHA256] if algorithm == EvidenceAlgorithm.HASH else [Algorithm.SHA256]
    flats = [hasher(each, _FLAT + flat_salt) for each in hashed]
    size = len(heads) // len(buffer)
    for first in range(0, len(buffer), FRAMED_AT_ONCE):
        some = heads[first * size : (first + FRAMED_AT_ONCE) * size]
        framed = core.frame_each(LINE_TAG, buffer.data, offsets[first : first + FRAMED_AT_ONCE + 1], heads=some, gap=gap)
        for each in flats:
            each.update(framed)
    twin = flats[-1].digest()
    if algorithm == EvidenceAlgorithm.HASH:
        return Pair(flats[0].digest(), twin)
    hashes = core.hash_each(_LEAF + LINE_TAG, buffer.data, offsets, heads=heads, gap=gap)
    return Pair(core.levels(hashes)[-DIGEST_BYTES:] or hashes, twin)


_LEAF: Final = b"\x00"
_LINE: Final = hasher(Algorithm.SM3, _LEAF + LINE_TAG)
"""What has taken in the first bytes of every line's leaf: H(0x00 ‖ d) of RFC 9162, d beginning with the tag."""
_FLAT: Final = b"\x02"
"""What a flat begins with (formats §1), as `models.merkle.flat` has it."""


def commit_slice(
    records: Sequence[Record] | Buffer,
    declaration: Declaration,
    keywords: Sequence[bytes],
    *,
    secret: bytes,
    number: int,
    cell_keys: Sequence[Sequence[bytes]] = (),
    index: Sequence[Counted] | None = None,
    values: Sequence[Sequence[Counted]] | None = None,
) -> SliceCommitment:
    """The commitments of a slice: its lines, its index over all of K, and a trie for each rule.

    `secret` is the slice's, `cell_keys` the cell keys of each rule of the declaration (`declaration.cells(…).keys`);
    `index` and `values` are taken as counted where a faster counter has done it.

    Shapes: keywords as the declaration fixes them, ascending; zero records give the commitment to nothing and no index.
    Raises: Malformed if records are too many or out of order, or keywords or cell keys are not as many as declared.
    Source: T/SAC 004—2024 C.3, C.4, C.5; formats §5.5, §5.9, §11 (Streams).
    """
    buffer = buffer_of(records)
    if len(keywords) != declaration.keywords_size or len(cell_keys) != len(declaration.rules):
        raise Malformed("keywords or cell keys are not as many as the declaration has")
    stream_id = declaration.stream_id
    content_salt, index_salt = (slice_flat_salt(secret, stream_id, number, place) for place in (CONTENT_SALT, INDEX_SALT))
    line_salts = _line_salts(secret, stream_id, number, len(buffer))
    content = _content_pair(buffer, line_salts, content_salt, declaration.slice)
    if not len(buffer):
        return SliceCommitment(content, None, None, 0, (), (), (content_salt, index_salt))
    counted = index_of(
        buffer, keywords, boundary=declaration.boundary, case=declaration.case, encoding=declaration.encoding
    ) if index is None else index  # fmt: skip
    drawn = salts(slice_key(secret, "cz-index/1", stream_id, number), len(keywords))
    leaves = [index_leaf(salt, entry) for salt, entry in zip(drawn, counted, strict=True)]
    rules = [declared.rule for declared in declaration.rules]
    found = [values_of(buffer, rule, encoding=declaration.encoding) for rule in rules] if values is None else values
    tries = _tries(rules, found, cell_keys, secret=secret, stream_id=stream_id, number=number)
    pairs = tuple(
        (name, Pair(trie.root, trie.flat(slice_flat_salt(secret, stream_id, number, RULE_SALT + place))))
        for place, (name, trie) in enumerate(tries)
    )
    return SliceCommitment(
        content,
        evidence_pair(leaves, index_salt, declaration.index),
        pairs,
        len(buffer),
        tuple(leaves),
        tries,
        (content_salt, index_salt),
        buffer.size,
        partial(line_leaves, buffer, secret=secret, stream_id=stream_id, number=number),
    )


def _tries(
    rules: Sequence[Rule], found: Sequence[Sequence[Counted]], cell_keys: Sequence[Sequence[bytes]], *,
    secret: bytes, stream_id: str, number: int,
) -> tuple[tuple[str, Trie], ...]:  # fmt: skip
    return tuple(
        (rule.name, trie_of(values, rule, keys, secret=secret, stream_id=stream_id, number=number))
        for rule, values, keys in zip(rules, found, cell_keys, strict=True)
    )


# --- header ---------------------------------------------------------------------------------------------------------


class SliceHeader(NamedTuple):
    """H: one slice as signed, anchored and shown; `data` are its canonical bytes, preserved as `stream-slice@1`.

    `created_at` is slice_create_time: the slice holds what was collected since the one before, up to then.

    Source: T/SAC 004—2024 C.3-d (the five fields), C.4-c; formats §5.4, §11 (Streams).
    """

    after: tuple[BlockRef, ...]
    payload_bytes: int
    content: Pair
    declaration: Pair
    epoch: Epoch | None
    first_time: datetime | None
    index: Pair | None  # type: ignore[assignment] # a tuple has a method of that name, which nobody needs here
    kind: str
    last_time: datetime | None
    lines: int
    next_by: datetime | None
    number: int
    pieces: int
    previous: Pair | None
    reason: str | None
    rules: tuple[tuple[str, Pair], ...] | None
    created_at: datetime
    end: Position
    start: Position
    stream_id: str
    data: bytes = b""
    pair: Pair = Pair(b"", b"")

    @classmethod
    def build(
        cls,
        declaration: Declaration,
        commitment: SliceCommitment,
        *,
        previous: SliceHeader | None,
        start: Position,
        end: Position,
        created_at: datetime,
        kind: str = Kind.DATA,
        epoch: Epoch | None = None,
        pieces: int = 0,
        reason: str | None = None,
        first_time: datetime | None = None,
        last_time: datetime | None = None,
        after: Sequence[BlockRef] = (),
    ) -> SliceHeader:
        """The header of the slice after `previous` (number 0 if None); `created_at` is cut to the millisecond.

        Raises: Malformed if a fact is none that `parse` accepts; VerificationError if it cannot stand after `previous`.
        """
        number = 0 if previous is None else previous.number + 1
        cut = created_at.replace(microsecond=created_at.microsecond // 1000 * 1000)
        rules = commitment.rules
        value = {
            "after": [block.to_json() for block in after],
            "bytes": commitment.payload_bytes,
            "content": commitment.content.to_json(),
            "declaration": declaration.pair.to_json(),
            "epoch": epoch and epoch.to_json(),
            "first_time": first_time and format_time(first_time),
            "format": "cz-slice/1",
            "index": commitment.index and commitment.index.to_json(),
            "kind": kind,
            "last_time": last_time and format_time(last_time),
            "lines": commitment.size,
            "next_by": None if kind == Kind.END else format_time(cut + timedelta(seconds=declaration.max_silence_s)),
            "number": number,
            "pieces": pieces,
            "previous": previous and previous.pair.to_json(),
            "reason": reason,
            "rules": None if rules is None else [{"name": name, **digests.to_json()} for name, digests in rules],
            "slice_create_time": format_time(cut),
            "slice_end_position": str(end),
            "slice_id": f"{declaration.stream_id}/{number}",
            "slice_start_position": str(start),
            "stream_id": declaration.stream_id,
        }
        header = cls.parse(canonical(value))
        header.check_kind()
        check_deadline(header, declaration)
        if previous is not None:
            check_link(previous, header)
            check_tiling(previous, header)
        return header

    @classmethod
    def parse(cls, data: bytes) -> SliceHeader:
        """The header whose canonical bytes are `data`; `check_kind` then says whether its kind allows what it states.

        Raises: Malformed on any deviation from the schema; Unknown for another version of it.
        """
        return next(cls.parse_each((data,)))

    @classmethod
    def parse_each(cls, datas: Sequence[bytes]) -> Iterator[SliceHeader]:
        """The headers whose canonical bytes are each of `datas`, as `parse` gives them; their digests are made together."""
        for data, digests in zip(datas, pairs(datas), strict=True):
            usual = usual_header(data) if len(data) <= MAX_HEADER_BYTES else None
            yield cls._parse(data, digests) if usual is None else cls(*(*usual, data, digests))

    @classmethod
    def _parse(cls, data: bytes, digests: Pair) -> SliceHeader:
        value = parse_canonical(data, max_bytes=MAX_HEADER_BYTES, what="slice header")
        check_format(value, "cz-slice")
        (
            after, size, content, declaration, epoch, first_time, _, index, kind, last_time, lines, next_by, number, pieces,
            previous, reason, rules, created_at, end, slice_id, start, stream_id,
        ) = members(value, _MEMBERS, "slice header")  # fmt: skip
        if kind not in [member.value for member in Kind]:
            raise Malformed("kind of the slice header has wrong value: expected data, heartbeat, gap or end")
        count = check_count(number, "number of the slice header")
        if slice_id != f"{check_stream_id(stream_id)}/{count}":
            raise Malformed("slice_id is not made of stream_id and number")
        return cls(
            block_refs(after, what="after"),
            check_count(size, "bytes of the slice header", most=MAX_SLICE_BYTES),
            Pair.from_json(content, what="content"),
            Pair.from_json(declaration, what="declaration"),
            Epoch.from_json(epoch),
            _time(first_time, "first_time"),
            None if index is None else Pair.from_json(index, what="index"),
            kind,
            _time(last_time, "last_time"),
            check_count(lines, "lines of the slice header", most=MAX_SLICE_RECORDS),
            _time(next_by, "next_by"),
            count,
            check_count(pieces, "pieces of the slice header", most=MAX_SLICE_RECORDS),
            None if previous is None else Pair.from_json(previous, what="previous"),
            None if reason is None else check_text(reason, "reason of the slice header"),
            None if rules is None else rule_pairs(rules),
            parse_time(created_at, what="slice_create_time"),
            Position.parse(end),
            Position.parse(start),
            stream_id,
            data,
            digests,
        )

    @property
    def slice_id(self) -> str:
        """stream_id/number: the client_key of its statement."""
        return f"{self.stream_id}/{self.number}"

    def stages(self) -> tuple[tuple[str, Pair], ...]:
        """The stages of its statement, of template `stream-slice@1`."""
        return ((STAGE, self.pair), (INDEX_STAGE, self.index or NO_INDEX))

    def check_kind(self) -> None:
        """Pass a header whose members agree with its kind.

        Raises: VerificationError otherwise.
        Source: formats §11 (Streams: Kinds).
        """
        full = self.lines > 0
        if full != (self.kind == Kind.DATA):
            raise VerificationError(f"slice of kind {self.kind} has {self.lines} lines ({self.slice_id})")
        if full != (self.index is not None) or full != (self.rules is not None):
            raise VerificationError(f"index and rules are given of a slice with lines and of no other ({self.slice_id})")
        if not full and (self.payload_bytes or self.pieces or self.first_time or self.last_time):
            raise VerificationError(f"slice without lines states bytes, pieces or event times ({self.slice_id})")
        if self.pieces > self.lines:
            raise VerificationError(f"slice states more pieces than lines ({self.slice_id})")
        if self.start.epoch != self.end.epoch or self.end < self.start:
            raise VerificationError(f"position hole: slice ends before its start or in another epoch ({self.slice_id})")
        if (full and self.end == self.start) or (not full and self.kind != Kind.GAP and self.end != self.start):
            raise VerificationError(f"position hole: range of a slice does not fit its kind {self.kind} ({self.slice_id})")
        if self.kind == Kind.GAP and self.reason is None:
            raise VerificationError(f"gap states no reason ({self.slice_id})")
        if (self.number == 0) != (self.previous is None):
            raise VerificationError(f"slice 0 alone has none before it ({self.slice_id})")
        if self.number == 0 and (self.epoch is None or self.start.epoch != 0):
            raise VerificationError(f"slice 0 does not begin epoch 0 with the identity of the source ({self.slice_id})")


def _time(value: JSONValue, what: str) -> datetime | None:
    return None if value is None else parse_time(value, what=what)


def check_link(previous: SliceHeader, header: SliceHeader) -> None:
    """Pass a header that comes next after `previous`: number, link, stream, time.

    Raises: VerificationError otherwise, also after an `end`.
    Source: formats §4 check 23.
    """
    if header.number != previous.number + 1:
        raise VerificationError(f"slice left out: {header.slice_id} stands after {previous.slice_id}")
    if header.previous != previous.pair:
        raise VerificationError(f"slice left out: {header.slice_id} names another slice before it than the one shown")
    if header.stream_id != previous.stream_id:
        raise VerificationError(f"slice is of another stream ({header.slice_id})")
    if header.created_at <= previous.created_at:
        raise VerificationError(f"slice_create_time does not increase ({header.slice_id})")
    if previous.kind == Kind.END:
        raise VerificationError(f"slice follows the end of its stream ({header.slice_id})")


def check_tiling(previous: SliceHeader, header: SliceHeader) -> None:
    """Pass a header that begins where `previous` ends, or at offset 0 of the next epoch, which it then names.

    Raises: VerificationError otherwise.
    Source: formats §4 check 24, §5.4.
    """
    follows = header.start == previous.end
    if header.epoch is None and not follows:
        raise VerificationError(f"position hole: expected a start at {previous.end}, got {header.start} ({header.slice_id})")
    if header.epoch is not None and header.start != Position(previous.end.epoch + 1, 0):
        raise VerificationError(f"position hole: a new epoch does not begin at offset 0 of the next ({header.slice_id})")


def check_deadline(header: SliceHeader, declaration: Declaration) -> None:
    """Pass a header whose next_by is its time and the declared silence, or null of an `end`.

    Raises: VerificationError otherwise.
    Source: formats §4 check 27, §5.4.
    """
    try:
        due = header.created_at + timedelta(seconds=declaration.max_silence_s)
    except OverflowError as error:
        raise VerificationError(f"next_by would lie beyond the year 9999 ({header.slice_id})") from error
    if header.next_by != (None if header.kind == Kind.END else due):
        raise VerificationError(f"next_by is not slice_create_time and max_silence_s ({header.slice_id})")
