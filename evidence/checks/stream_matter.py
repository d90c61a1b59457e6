"""What the checks of an answer share: the question, the declarations, and rows of JSON read one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from json import loads

from evidence.checks.case import Case
from evidence.checks.stream_usual import UsualForm, UsualRow
from models.answer import MAX_LINE_BYTES
from models.canonical import JSONValue, b64u, members, parse_canonical, unb64
from models.checkpoint import MAX_PATH_HASHES
from models.declaration import Declaration
from models.errors import EvidenceError, Malformed, VerificationError
from models.question import Question
from models.record import MAX_SLICE_RECORDS
from models.usual import INDEX_ROW

MAX_ROW_VALUES = 3 * MAX_SLICE_RECORDS + 64
"""Values in one row, apart from what stands inside its texts: as many as a slice shown whole has, and no more."""
VALUE_COST, BYTES_READ = 3, 50
"""What a value in a row costs to read and to judge, in microseconds; how many bytes of it are read in one."""
ROWS_AT_ONCE = 64
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_PRINTABLE = 32


def shown_keyword(keyword: bytes) -> str:
    """A keyword as the report prints it: text where it is, else b64u."""
    try:
        text = keyword.decode("utf-8")
    except UnicodeDecodeError:
        return f"b64u {b64u(keyword)}"
    return f"“{text}”" if text.isprintable() else f"b64u {b64u(keyword)}"


@dataclass(slots=True)
class DeclaredCase:
    """One declaration of the answer, and what was proven under it of the question."""

    declaration: Declaration
    ranks: dict[bytes, int | None] = field(default_factory=dict)
    all_shown: bool = False
    used: bool = False
    cell_key: bytes | None = None
    indexed: bool = False
    """Of a value: whether the declaration has the rule, and the value's cell is proven."""
    preserved: bool = False
    _usual: tuple[tuple[tuple[int, int], ...], UsualForm | None] | None = None

    def usual_form(self, ranks: tuple[tuple[int, int], ...], keywords: Sequence[bytes]) -> UsualForm | None:
        """The usual form of a row of the index under this declaration; None where rows have another."""
        if self._usual is None or self._usual[0] != ranks:
            self._usual = ranks, UsualForm.of(self.declaration, ranks, keywords)
        return self._usual[1]


@dataclass(slots=True)
class Matter:
    """A question to a stream, and the declarations that the answer shows, in order of use."""

    case: Case
    question: Question
    declared: list[DeclaredCase] = field(default_factory=list)
    readable: bool = True
    """Whether every declaration could be read."""

    def declare(self, declaration: Declaration) -> None:
        """Take the next declaration up; its bytes are let go."""
        self.declared.append(DeclaredCase(replace(declaration, data=b"")))


class Rows:
    """A `.jsonl` of the answer: one row at a time, ascending by number where rows belong to slices."""

    def __init__(self, case: Case, name: str, number: int) -> None:
        self._case = case
        self._name = name
        self._check = number
        self._some: Iterator[list[bytes]] = case.files.some_lines(name, limit=MAX_LINE_BYTES) if name in case.files else iter(())
        self._lines: list[bytes] = []
        """Some rows as they stand, the first `_taken` of which were met."""
        self._taken = 0
        self._judged: tuple[UsualForm, int, list[UsualRow | None]] | None = None
        """What the usual form says of some of these rows, from a place on."""
        self._line: bytes | None = None
        """The next row as it stands, neither read nor taken yet."""
        self._ahead: dict[str, JSONValue] | None = None
        """The next row read, but not taken yet."""
        self._ended = False
        self.broken = False

    def _next_line(self) -> bytes | None:
        """The next row as it stands, its reading counted; None at the end."""
        if self._line is None:
            if self._taken == len(self._lines):
                self._lines, self._taken, self._judged = next(self._some, []), 0, None
            self._ended = not self._lines
            if self._lines:
                line = self._line = self._lines[self._taken]
                self._taken += 1
                values = line.count(b",") + line.count(b"[") + line.count(b"{")
                self._case.judge.spend(VALUE_COST * values + len(line) / BYTES_READ)
                if values > MAX_ROW_VALUES:
                    bare = _STRING.sub(b"", line)
                    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > MAX_ROW_VALUES:
                        raise Malformed(f"row holds too many values: expected at most {MAX_ROW_VALUES}")
        return self._line

    def _read(self) -> dict[str, JSONValue] | None:
        """The next row, not yet taken; None at the end, or once a row could not be read."""
        if self._ahead is not None or self.broken:
            return self._ahead
        try:
            line = self._next_line()
            if line is not None:
                self._ahead, self._line = self._parsed(line), None
        except EvidenceError:
            self.broken = True
            raise
        return self._ahead

    @staticmethod
    def _parsed(line: bytes) -> dict[str, JSONValue]:
        value = loads(line) if INDEX_ROW.fullmatch(line) else parse_canonical(line, max_bytes=MAX_LINE_BYTES, what="row")
        if not isinstance(value, dict):
            raise Malformed("row is not an object")
        return value

    def usual(self, form: UsualForm) -> UsualRow | None:
        """The next row, not taken, if it has that form: `take` takes it, else `next` or `of` reads it by the general rules.

        Raises: as they do, for a row that cannot be read.
        """
        if self._ahead is not None or self.broken:
            return None
        try:
            line = self._next_line()
        except EvidenceError:
            self.broken = True
            raise
        if line is None:
            return None
        here = self._taken - 1
        if self._judged is None or self._judged[0] is not form or here - self._judged[1] == len(self._judged[2]):
            self._judged = form, here, form.judge(self._lines[here : here + ROWS_AT_ONCE])
        return self._judged[2][here - self._judged[1]]

    def take(self) -> None:
        """Take the row that `usual` gave."""
        self._line = None

    def next(self, names: str) -> dict[str, JSONValue]:
        """The next row, which has exactly the members `names`. Raises: VerificationError at the end; Malformed."""
        row = self._read()
        if row is None:
            raise VerificationError("a row is missing")
        self._ahead = None
        members(row, names, "row")
        return row

    def of(self, number: int) -> dict[str, JSONValue] | None:
        """The row of slice `number`, or None if it has none; rows of other slices before it are refused.

        Raises: Malformed, VerificationError for a row that cannot stand there.
        """
        row = self._read()
        while row is not None:
            place = row.get("number")
            if type(place) is not int:
                self._ahead = None
                raise Malformed("row names no slice by its number")
            if place == number:
                self._ahead = None
                return row
            if place > number:
                return None
            self._ahead = None
            self._case.judge.refused(self._check, f"row of a slice that needs none, or out of order: {place} ({self._name})")
            row = self._read()
        return None

    def is_behind(self, number: int) -> bool:
        """Whether the next row is known to be of a later slice than `number`, or there is none any more."""
        if self._ahead is None:
            return self._ended and self._line is None
        place = self._ahead.get("number")
        return type(place) is int and place > number

    def close(self) -> None:
        """Nothing may be left over."""
        with self._case.judge.trying(self._check, self._name):
            if not self.broken and self._read() is not None:
                raise VerificationError("row is left over: no slice in range needs it")

    @staticmethod
    def path(value: JSONValue) -> list[bytes]:
        """The hashes of a subset proof. Raises: Malformed."""
        if not isinstance(value, list):
            raise Malformed("proof of a row is not an array")
        return [unb64(node, size=32, what="hash of a proof") for node in value]

    @staticmethod
    def trie_path(value: JSONValue) -> list[bytes]:
        """The hashes of a trie path. Raises: Malformed."""
        if not isinstance(value, list) or len(value) > MAX_PATH_HASHES:
            raise Malformed(f"path of a row has wrong form: expected at most {MAX_PATH_HASHES} hashes")
        return [unb64(node, size=32, what="hash of a path") for node in value]

    @staticmethod
    def places(value: JSONValue) -> list[tuple[int, str]]:
        """The [place, text] pairs of a row, places ascending. Raises: Malformed."""
        if not isinstance(value, list):
            raise Malformed("entries of a row are not an array")
        found: list[tuple[int, str]] = []
        for entry in value:
            if not isinstance(entry, list) or len(entry) != 2 or type(entry[0]) is not int or not isinstance(entry[1], str):
                raise Malformed("entry of a row has wrong form: expected a place and a text")
            if entry[0] < 0 or (found and found[-1][0] >= entry[0]):
                raise Malformed("entries of a row do not ascend")
            found.append((entry[0], entry[1]))
        return found
