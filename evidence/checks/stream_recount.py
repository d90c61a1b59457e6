"""Check 31: notes of those who counted slices again, and slices shown whole, which are counted again here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from evidence.checks.stream_matter import DeclaredCase, Matter
from models.answer import MAX_NOTES, whole_slice_name
from models.checkpoint import SignatureLine, VerifierKey, verify_line
from models.digest import DIGEST_BYTES
from models.errors import Undecided, VerificationError
from models.leaf import open_line
from models.nodes import SALT_BYTES
from models.record import Buffer, counted_part
from models.recount import RecountNote, check_pieces, digest_of_slices
from models.slice import SliceHeader, evidence_pair

if TYPE_CHECKING:
    from evidence.checks.stream_walk import Walk

LINE_COST = 8
"""What a line of a slice shown whole costs before it is counted, in microseconds."""
_NOTE = re.compile(r"stream/recount/([0-9]+)\.note", re.ASCII)
_WHOLE = re.compile(r"stream/slices/([0-9]+)\.bin", re.ASCII)


class Whole(NamedTuple):
    """A slice shown whole: its records, and the salt of its index's flat."""

    buffer: Buffer
    index_salt: bytes


class Recounted:
    """What closes the one lie that an index can tell: a second count, by someone else or here."""

    def __init__(self, matter: Matter) -> None:
        self._matter = matter
        self._judge = matter.case.judge
        self._notes: list[tuple[str, RecountNote]] = []
        self._digests = bytearray()
        self._first: int | None = None
        self._turns: list[tuple[int, bytes]] = []
        self._wholes = {name for name in matter.case.files if _WHOLE.fullmatch(name)}
        self._counted = self._whole = 0
        self._with_lines = 0
        self.closed: str | None = None
        """The sentence that takes the place of (a), once every slice in range was counted again."""
        names = [name for name in matter.case.files if _NOTE.fullmatch(name)]
        for place, name in enumerate(names[: MAX_NOTES + 1]):
            with self._judge.trying(31, name):
                if place == MAX_NOTES:
                    raise Undecided(f"answer shows more recount notes than are read in one run: expected at most {MAX_NOTES}")
                self._notes.append((name, RecountNote.parse(matter.case.files[name])))

    def meet(self, header: SliceHeader) -> None:
        """Remember a header's digest and declaration: 32 bytes each."""
        self._first = header.number if self._first is None else self._first
        self._digests += header.pair.sm3
        if not self._turns or self._turns[-1][1] != header.declaration.sm3:
            self._turns.append((header.number, header.declaration.sm3))

    # --- slices shown whole -----------------------------------------------------------------------------------------

    def expect(self) -> None:
        """A slice in range with lines: one that could be shown whole."""
        self._with_lines += 1

    @property
    def all_whole(self) -> bool:
        """Whether every slice in range with lines is shown whole, and its content holds."""
        return self._with_lines > 0 and self._whole == self._with_lines

    def counted_again(self, *, indexed: bool) -> None:
        """A slice shown whole agrees with the index of what was asked, if that is indexed."""
        self._counted += indexed

    def whole_of(self, header: SliceHeader, declared: DeclaredCase) -> Whole | None:
        """31a: the records of a slice shown whole, which give its content and tile its range; None if it is not shown."""
        name = whole_slice_name(header.number) if self._wholes else ""
        if name not in self._wholes:
            return None
        self._wholes.discard(name)
        with self._judge.trying(31, name):
            self._judge.spend(LINE_COST * header.lines)
            data = self._matter.case.files[name]
            leaves = list(islice(_leaves(data), header.lines + 1))
            algorithm = declared.declaration.slice
            if len(leaves) != header.lines or evidence_pair(leaves, data[:SALT_BYTES], algorithm) != header.content:
                raise VerificationError("line altered: whole slice does not give the header's content")
            buffer = Buffer.of(open_line(leaf)[1] for leaf in leaves)
            check_pieces(header, buffer, declared.declaration)
            for payload in buffer.payloads():
                counted_part(payload, declared.declaration.encoding)
            self._whole += 1
            return Whole(buffer, data[SALT_BYTES : 2 * SALT_BYTES])
        return None

    # --- notes ------------------------------------------------------------------------------------------------------

    def close(self, walk: Walk) -> None:
        """Check 31 of every note; and what of the range was counted again."""
        for name in sorted(self._wholes):
            if walk.whole:
                self._judge.refused(31, f"slice is shown whole though it is not in range or has no lines ({name})")
        if not walk.whole or walk.range_numbers is None:
            for name, _ in self._notes:
                self._judge.undecided(31, f"recount note cannot be compared with the slices ({name})")
            return
        spans: list[tuple[int, int, str]] = []
        for name, note in self._notes:
            with self._judge.trying(31, name):
                self._check_note(note)
                spans += [(note.first, note.last, who) for who in self._signers(note)]
        first, last = walk.range_numbers
        for low, high, who in spans:
            self._judge.relied_on.add(f"recounter {who} (slices {low} to {high})")
            self._judge.passed(31, f"slices {low} to {high} were recounted by {who}")
        if self._with_lines and self._counted == self._with_lines:
            self._judge.passed(31, f"all {self._counted} slices with lines were counted again here from their own bytes")
            self.closed = f"(a) is closed: slices {first} to {last} were counted again here, and the index agrees"
        elif names := _covering(spans, first, last):
            self.closed = f"(a) slices {first} to {last} were recounted by {', '.join(names)}: the index agrees with the lines"

    def _check_note(self, note: RecountNote) -> None:
        begin = self._first
        if note.stream_id != self._matter.question.stream_id:
            raise VerificationError("recount note is of another stream")
        if begin is None or not begin <= note.first <= note.last < begin + len(self._digests) // DIGEST_BYTES:
            raise VerificationError("recount note is of slices that are not shown")
        held = [turn for turn in self._turns if turn[0] <= note.first][-1]
        later = [turn for turn in self._turns if note.first < turn[0] <= note.last]
        if held[1] != note.declaration or later:
            raise VerificationError("recount note is not of one declaration, the one that its slices name")
        low, high = (note.first - begin) * DIGEST_BYTES, (note.last + 1 - begin) * DIGEST_BYTES
        if digest_of_slices([bytes(self._digests[low:high])]) != note.slices:
            raise VerificationError("recount note is of other slices than those shown")

    def _signers(self, note: RecountNote) -> list[str]:
        """The known recounters that signed the note; a bad line of one is refused, an unknown one is listed."""
        known = {(entry.vkey.name, entry.vkey.key_id): entry for entry in self._matter.case.trust.recounters}
        found: list[str] = []
        for line in note.lines:
            entry = known.get((line.name, line.key_id))
            if entry is None:
                self._judge.not_checked.add(f"recount by {line.name} key {line.key_id.hex()}: unknown to the trust file")
                continue
            self._verify(note, line, entry.vkey)
            found.append(entry.name)
        return found

    def _verify(self, note: RecountNote, line: SignatureLine, key: VerifierKey) -> None:
        self._judge.spend_signatures()
        verify_line(note.text(), line, key)


def _leaves(data: bytes) -> Iterator[bytes]:
    """The d of each line of a slice shown whole, after the two flat salts of its head."""
    at = 2 * SALT_BYTES
    if len(data) < at:
        raise VerificationError("whole slice has no head of two salts")
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        leaf = data[at + 4 : at + 4 + size]
        if len(data) < at + 4 + size:
            raise VerificationError("whole slice ends within a line")
        yield leaf
        at += 4 + size


def _covering(spans: Sequence[tuple[int, int, str]], first: int, last: int) -> list[str]:
    """Who recounted first … last together, without hole; empty if nobody did."""
    names: list[str] = []
    reached = first
    for low, high, who in sorted(spans):
        if low <= reached <= high:
            names.append(who)
            reached = high + 1
    return list(dict.fromkeys(names)) if reached > last else []
