"""Recounting: whoever may read a stream derives its slices again and signs what was found.

An index fixed at collection could have lied. It is a function of lines, keywords, rule and secret,
all bound by header and declaration: so it can be derived again, and the result attested by a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Final

from models.canonical import b64, unb64
from models.checkpoint import NOTE_TYPE, Note, SignatureLine, signature_line, vkey
from models.declaration import Declaration, check_stream_id
from models.digest import Algorithm, hasher, sm3
from models.errors import Malformed, VerificationError
from models.record import Buffer
from models.signature import Signer
from models.slice import SliceHeader, commit_slice

FIRST_LINE: Final = "cz-recount/1"
LAST_LINE: Final = "equal"
_RANGE = re.compile(r"(0|[1-9][0-9]{0,15}) (0|[1-9][0-9]{0,15})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RecountNote:
    """What a recount note says: slices `first` to `last` of a stream under one declaration were derived again and equal."""

    stream_id: str
    first: int
    last: int
    declaration: bytes
    slices: bytes
    lines: tuple[SignatureLine, ...] = ()

    def text(self) -> str:
        """The text that is signed (formats §5.7)."""
        body = f"{self.first} {self.last}\n{b64(self.declaration)}\n{b64(self.slices)}"
        return f"{FIRST_LINE}\n{self.stream_id}\n{body}\n{LAST_LINE}\n"

    def sign(self, signer: Signer, *, name: str) -> str:
        """The whole note with the line of `signer` under `name`. Raises: SigningUnavailable; Malformed for a bad name."""
        key = vkey(name, signer.public_key, NOTE_TYPE)
        return f"{self.text()}\n{signature_line(key.name, key.key_id, signer.sign(self.text().encode()))}"

    @classmethod
    def parse(cls, data: bytes) -> RecountNote:
        """The recount note that `data` is. Raises: Malformed if it is anything else."""
        note = Note.parse(data)
        rows = note.text.split("\n")
        match = _RANGE.fullmatch(rows[2]) if len(rows) == 7 else None
        if match is None or rows[0] != FIRST_LINE or rows[5:] != [LAST_LINE, ""]:
            raise Malformed("recount note has wrong form: expected cz-recount/1, stream, range, two digests and equal")
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise Malformed("recount note has an empty range")
        declaration, slices = (unb64(row, size=32, what="digest of a recount note") for row in rows[3:5])
        return cls(check_stream_id(rows[1]), first, last, declaration, slices, note.lines)


def digest_of_slices(digests: Iterable[bytes]) -> bytes:
    """SM3 over the SM3 digests of headers a…b: what a recount note names them by."""
    return sm3(b"".join(digests))


def recount_note(declaration: Declaration, headers: Iterable[SliceHeader]) -> RecountNote:
    """The note over contiguous headers under one declaration, not yet signed; each is looked at once and let go.

    Raises: Malformed if there is none, or they are of several declarations.
    """
    state = hasher(Algorithm.SM3)
    numbers: list[int] = []
    for header in headers:
        if header.declaration != declaration.pair:
            raise Malformed("recount note needs slices, all of one declaration")
        state.update(header.pair.sm3)
        numbers[1:] = [header.number]
    if not numbers:
        raise Malformed("recount note needs slices, all of one declaration")
    return RecountNote(declaration.stream_id, numbers[0], numbers[-1], declaration.pair.sm3, state.digest())


def check_pieces(header: SliceHeader, buffer: Buffer, declaration: Declaration) -> None:
    """Pass records whose positions tile the header's range, with as many cut records as it states.

    A line's next position is one after its end if an LF followed, at its end if it was cut. Records of
    Kafka and of pushed streams are numbered: there the range may have holes, which the source made.

    Raises: VerificationError otherwise.
    Source: formats §5.3, §11 (31a: tiling).
    """
    places = [*buffer.positions, header.end.offset]
    if places[0] < header.start.offset or max(places[:-1], default=-1) >= header.end.offset:
        raise VerificationError(f"position hole: record lies outside the range of its slice ({header.slice_id})")
    if buffer.size != header.payload_bytes or len(buffer) != header.lines:
        raise VerificationError(f"lines or bytes are others than the header states ({header.slice_id})")
    if not counts_bytes(declaration):
        return
    if places[0] != header.start.offset:
        raise VerificationError(f"position hole: first record is not at the start of its slice ({header.slice_id})")
    beyond = list(map(sub, map(sub, places[1:], places), map(sub, buffer.ends(), buffer.offsets)))
    if not set(beyond) <= {0, 1}:
        raise VerificationError(f"position hole: records do not tile the slice ({header.slice_id})")
    if beyond.count(0) != header.pieces:
        raise VerificationError(f"pieces are others than the header states ({header.slice_id})")


def counts_bytes(declaration: Declaration) -> bool:
    """Whether positions are byte offsets: of lines from a file or pipe, not of messages that carry numbers."""
    return declaration.encoding == "line" and not declaration.source.startswith(("http:", "https:"))


def recount_slice(
    header: SliceHeader,
    buffer: Buffer,
    declaration: Declaration,
    keywords: Sequence[bytes],
    *,
    secret: bytes,
    cell_keys: Sequence[Sequence[bytes]] = (),
) -> None:
    """Pass a header that its records give again: content, index, every rule, positions.

    Raises: VerificationError naming what differs; Malformed if the records are none of a slice.
    Source: formats §5.7; T/SAC 004—2024 C.4-b.
    """
    if header.declaration != declaration.pair:
        raise VerificationError(f"older declaration: slice names another one ({header.slice_id})")
    made = commit_slice(buffer, declaration, keywords, secret=secret, number=header.number, cell_keys=cell_keys)
    for what, found, stated in (
        ("line altered: content", made.content, header.content),
        ("index lied: index", made.index, header.index),
        ("index lied: rules", made.rules, header.rules),
    ):
        if found != stated:
            raise VerificationError(f"{what} derived again is another than the header states ({header.slice_id})")
    if len(buffer):
        check_pieces(header, buffer, declaration)
