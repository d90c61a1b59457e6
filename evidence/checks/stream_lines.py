"""Checks 28 to 30: the index leaf of every keyword asked, the lines it demands, each recounted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import loads

from evidence.checks.stream_matter import DeclaredCase, Matter, Rows, shown_keyword
from evidence.checks.stream_recount import Recounted, Whole
from models.answer import INDEX, LINES, RULES
from models.canonical import unb64, unb64u
from models.counting import Boundary, count
from models.declaration import Declaration, EvidenceAlgorithm
from models.digest import Algorithm, Pair
from models.errors import EvidenceError, Undecided, VerificationError
from models.extraction import label_of, values_in, verify_value
from models.leaf import occurrences, open_index, open_line
from models.merkle import flat, leaf_hash, verify_subset
from models.nodes import SALT_BYTES
from models.record import Buffer, Record, counted_part
from models.recount import check_pieces
from models.slice import SliceHeader


@dataclass(frozen=True, slots=True)
class Asked:
    """What a slice can be asked: the keywords its declaration indexes, each as (place in the question, rank in K)."""

    ranks: tuple[tuple[int, int], ...]


BYTES_SEARCHED, FOUND_COST = 300, 0.8
"""How many bytes are searched in a microsecond; what a place where a value may begin costs."""
UNSALTED = "SHA-256 twins of slices and indexes, whose salts are not shown"
Places = list[tuple[int, int]]
"""The (line, count) pairs of one keyword or value in one slice."""


def flats_of(leaves: Sequence[bytes], salt: bytes) -> Pair:
    """Both flats over a list shown whole, as `hash` mode has them."""
    return Pair(*(flat(salt, leaves, algorithm=algorithm) for algorithm in (Algorithm.SM3, Algorithm.SHA256)))


class SliceLines:
    """Index and lines of each slice in range, and the sums over them."""

    def __init__(self, matter: Matter, rows: Mapping[str, Rows], recounted: Recounted) -> None:
        self._matter = matter
        self._judge = matter.case.judge
        self._rows = rows
        self._recounted = recounted
        self._erased = {item.evidence.statement.stages[0][1] for item in matter.case.items if item.erased}
        self._lines = 0
        self._scanned: dict[int, int] = {}
        self._all_leaves: list[bytes] | None = None
        """The whole index of the present slice, where the answer shows it."""
        asked = max(1, len(matter.question.keywords))
        self.counts = [0] * asked
        self.slices_with = [0] * asked

    def judge(self, header: SliceHeader, declared: DeclaredCase, asked: Asked) -> None:
        """Checks 28 to 30 of one slice in range that has lines."""
        found: list[Places] | None = None
        self._all_leaves = None
        self._recounted.expect()
        whole = self._recounted.whole_of(header, declared)
        try:
            self._check_rules(header, declared)
            if self._matter.question.value is not None:
                found = self._value(header, declared)
            else:
                found = self._usual_index(header, declared, asked) or self._index(header, declared, asked)
        except EvidenceError as error:
            self._judge.heard(28, error, header.slice_id)
        if whole is not None:
            self._scan(header, declared, asked, whole, found)
        if found is None:
            self._skip(header)
            return
        if any(found):
            for (place, _), places in zip(asked.ranks or ((0, 0),), found, strict=False):
                self.counts[place] += sum(n for _, n in places)
                self.slices_with[place] += bool(places)
        self._judge_lines(header, declared, asked, found)

    def _skip(self, header: SliceHeader) -> None:
        """The index could not be used: the slice's lines are passed over, what was said stays said."""
        with self._judge.trying(29, header.slice_id):
            self._rows[LINES].of(header.number)

    def _scan(self, header: SliceHeader, declared: DeclaredCase, asked: Asked, whole: Whole, found: list[Places] | None) -> None:
        """31a: a slice shown whole is counted again, also for keywords that its declaration does not index."""
        declaration, question = declared.declaration, self._matter.question
        again: list[Places] = [[] for _ in found or ()]
        missing = [place for place in range(len(question.keywords)) if place not in {known for known, _ in asked.ranks}]
        for line, payload in enumerate(whole.buffer.payloads()):
            if found is not None:
                for places, times in zip(again, self._recount(payload, declared, asked), strict=True):
                    if times:
                        places.append((line, times))
            text = counted_part(payload, declaration.encoding) if missing else b""
            for place in missing:
                n = self._count(text, question.keywords[place], declaration)
                self._scanned[place] = self._scanned.get(place, 0) + n
        with self._judge.trying(31, header.slice_id):
            if found is not None and again != found:
                raise VerificationError("index lied: counted again, the slice has other hits than its index says")
            if self._all_leaves is None or header.index is None:
                self._judge.not_checked.add(UNSALTED)
            elif flat(whole.index_salt, self._all_leaves, algorithm=Algorithm.SHA256) != header.index.sha256:
                raise VerificationError("older index, or altered: list of the index does not give the header's digests")
            self._recounted.counted_again(indexed=found is not None)

    # --- 28 -------------------------------------------------------------------------------------------------------------

    def _row(self, name: str, header: SliceHeader) -> dict[str, object]:
        rows = self._rows[name]
        row = rows.of(header.number)
        if row is None:
            if header.pair in self._erased:
                raise Undecided("slice was erased: a tombstone names it, its index is not shown")
            raise VerificationError("keyword hidden: slice in range shows no index")
        return row

    @staticmethod
    def _check_rules(header: SliceHeader, declared: DeclaredCase) -> None:
        rules = declared.declaration.rules
        if (rules or header.rules) and [name for name, _ in header.rules or ()] != [each.rule.name for each in rules]:
            raise VerificationError("slice has values of other rules than its declaration has")

    def _usual_index(self, header: SliceHeader, declared: DeclaredCase, asked: Asked) -> list[Places] | None:
        """What `_index` gives for a row of the usual form with which all is well; None, and the row not taken, of any other."""
        form = declared.usual_form(asked.ranks, self._matter.question.keywords)
        row = None if form is None else self._rows[INDEX].usual(form)
        if form is None or row is None or header.index is None:
            return None
        if row.number != header.number or row.root != header.index.sm3:
            return None
        found: list[Places] = []
        for n, places in zip(row.counts, row.places, strict=True):
            try:
                said = places or n != b"0"
                found.append(occurrences(loads(b"[%b]" % places), int(n), "index leaf", lines=header.lines) if said else [])
            except VerificationError:
                return None  # said by the general rules
        self._rows[INDEX].take()
        if form.size == len(row.leaves):
            self._all_leaves = list(row.leaves)
        self._judge.not_checked.add(UNSALTED)
        return found

    def _index(self, header: SliceHeader, declared: DeclaredCase, asked: Asked) -> list[Places] | None:
        if not asked.ranks:
            return None
        declaration, row = declared.declaration, self._row(INDEX, header)
        hashed = declaration.index == EvidenceAlgorithm.HASH
        if set(row) != {"leaves", "number", "proof"} | ({"salt"} if hashed else set()):
            raise VerificationError("row of the index has wrong members")
        leaves, path = Rows.places(row["leaves"]), Rows.path(row["proof"])
        wanted = list(range(declaration.keywords_size)) if hashed else [rank for _, rank in asked.ranks]
        if [rank for rank, _ in leaves] != wanted:
            if header.pair in self._erased:
                raise Undecided("slice was erased: a tombstone names it, a leaf of its index is not shown")
            raise VerificationError("keyword hidden: index does not show the leaves of exactly the ranks asked")
        if header.index is None:
            raise VerificationError("slice with lines has no index")
        if len(leaves) == declaration.keywords_size:
            self._all_leaves = [text.encode() for _, text in leaves]
        if hashed:
            salt = unb64u(row["salt"], size=SALT_BYTES, what="salt of the index")
            if path or flats_of([text.encode() for _, text in leaves], salt) != header.index:
                raise VerificationError("older index, or altered: list of the index does not give the header's digests")
        else:
            hashes = {rank: leaf_hash(text.encode()) for rank, text in leaves}
            try:
                verify_subset(hashes, declaration.keywords_size, path, header.index.sm3)
            except VerificationError as error:
                raise VerificationError(f"older index, n lowered or keyword hidden: {error.message}") from error
            self._judge.not_checked.add(UNSALTED)
        texts = dict(leaves)
        found: list[Places] = []
        for place, rank in asked.ranks:
            entry = open_index(texts[rank], lines=header.lines)
            if entry.keyword != self._matter.question.keywords[place]:
                raise VerificationError(f"keyword hidden: leaf of rank {rank} is of another keyword than declared")
            found.append(entry.lines)
        return found

    def _value(self, header: SliceHeader, declared: DeclaredCase) -> list[Places] | None:
        asked = self._matter.question.value
        if asked is None or declared.cell_key is None:
            return None
        row = self._row(RULES, header)
        if set(row) != {"entry", "number", "path", "slot"}:
            raise VerificationError("row of a rule has wrong members: expected entry, number, path and slot")
        trie = dict(header.rules or ()).get(asked.rule)
        if trie is None:
            raise VerificationError("slice has no values of a rule that its declaration has")
        self._judge.not_checked.add(UNSALTED)
        label = label_of(declared.cell_key, header.stream_id, header.number, asked.rule, asked.value)
        entry = verify_value(
            asked.rule, asked.value, label, trie.sm3,
            entry=row["entry"], slot=row["slot"], path=Rows.trie_path(row["path"]), lines=header.lines,
        )  # fmt: skip
        return [[] if entry is None else entry.lines]

    # --- 29, 30 ---------------------------------------------------------------------------------------------------------

    def _judge_lines(self, header: SliceHeader, declared: DeclaredCase, asked: Asked, found: Sequence[Places]) -> None:
        demanded = self._matter.question.demanded(found) if any(found) else []
        if not demanded and self._rows[LINES].is_behind(header.number):
            return
        shown: list[tuple[int, str]] = []
        row = None
        hashed = declared.declaration.slice == EvidenceAlgorithm.HASH
        with self._judge.trying(29, header.slice_id) as attempt:
            row = self._rows[LINES].of(header.number)
            if row is not None:
                if set(row) != {"lines", "number", "proof"} | ({"salt"} if hashed else set()):
                    raise VerificationError("row of lines has wrong members")
                shown = Rows.places(row["lines"])
            wanted = list(range(header.lines)) if hashed and demanded else list(demanded)
            _check_demanded([line for line, _ in shown], wanted)
            self._lines += len(demanded)
        if not attempt.holds or row is None:
            return
        with self._judge.trying(30, header.slice_id):
            leaves = {line: unb64(text, what="line") for line, text in shown}
            _check_content(header, leaves, row, hashed=hashed)
            records = _records(header, leaves)
            if hashed:
                check_pieces(header, Buffer.of(records.values()), declared.declaration)
            said = [dict(places) for places in found]
            for line, record in records.items():
                counts = self._recount(record.payload, declared, asked)
                for place, times in enumerate(counts):
                    stated = said[place].get(line, 0)
                    if times != stated:
                        what = self._name(asked, place)
                        raise VerificationError(
                            f"index lied: line {line} holds {what} {times} times, its index leaf says {stated}:"
                            " proof against the collector"
                        )

    def _recount(self, payload: bytes, declared: DeclaredCase, asked: Asked) -> list[int]:
        """How often a record holds each keyword asked (or the value), by the declared rule."""
        declaration, question = declared.declaration, self._matter.question
        text = counted_part(payload, declaration.encoding)
        if question.value is not None:
            rule = declaration.rule(question.value.rule)
            if rule is None:
                return [0]
            self._judge.spend(1 + len(text) / BYTES_SEARCHED + FOUND_COST * text.count(rule.rule.after[:1]))
            return [values_in(text, rule.rule).count(question.value.value)]
        return [self._count(text, question.keywords[place], declaration) for place, _ in asked.ranks]

    def _count(self, text: bytes, keyword: bytes, declaration: Declaration) -> int:
        found = count(text, keyword, case=declaration.case)
        self._judge.spend(1 + len(text) / BYTES_SEARCHED + found)
        if found and declaration.boundary == Boundary.WORD:
            # Every place is looked at once more, also where none counts.
            self._judge.spend(found)
            return count(text, keyword, boundary=declaration.boundary, case=declaration.case)
        return found

    def _name(self, asked: Asked, place: int) -> str:
        question = self._matter.question
        if question.value is not None:
            return f"{question.value.rule} = {shown_keyword(question.value.value)}"
        return shown_keyword(question.keywords[asked.ranks[place][0]])

    def close(self) -> None:
        """What held of all slices in range."""
        self._judge.passed(28, "index leaves of the keywords asked stand at their ranks, in every slice in range with lines")
        self._judge.passed(29, f"all {self._lines} lines that the index demands are shown, and no others")
        self._judge.passed(30, "every line shown stands at its number, and was counted again")
        if self._recounted.all_whole:
            for place, n in sorted(self._scanned.items()):
                keyword = shown_keyword(self._matter.question.keywords[place])
                self._judge.findings.add(f"full scan of the slices shown whole: {keyword} stands in them {n} times")


def _check_demanded(shown: Sequence[int], wanted: Sequence[int]) -> None:
    if shown == wanted:
        return
    missing = sorted(set(wanted) - set(shown))
    if missing:
        raise VerificationError(
            f"hit dropped: {len(missing)} lines that the index demands are not shown, first line {missing[0]}"
        )
    raise VerificationError("line is shown that nothing demands")


def _check_content(header: SliceHeader, leaves: Mapping[int, bytes], row: Mapping[str, object], *, hashed: bool) -> None:
    path = Rows.path(row["proof"])
    if hashed:
        salt = unb64u(row["salt"], size=SALT_BYTES, what="salt of the lines")
        if path or flats_of(list(leaves.values()), salt) != header.content:
            raise VerificationError("line altered, or lines swapped: they do not give the slice's digests")
        return
    try:
        hashes = {line: leaf_hash(data) for line, data in leaves.items()}
        verify_subset(hashes, header.lines, path, header.content.sm3)
    except VerificationError as error:
        raise VerificationError(f"line altered, or lines swapped: {error.message}") from error


def _records(header: SliceHeader, leaves: Mapping[int, bytes]) -> dict[int, Record]:
    """The records of the lines shown: positions ascending, within the slice."""
    records: dict[int, Record] = {}
    last = header.start.offset - 1
    for line, data in leaves.items():
        _, record = open_line(data)
        if not last < record.position < header.end.offset:
            raise VerificationError(f"line stands at a position outside its slice, or out of order (line {line})")
        last = record.position
        records[line] = record
    return records
