"""The answer to a question about a stream: the files that prove it complete with respect to the committed index.

An answer is written slice by slice, so that its length costs no memory. What it must show follows
from the question alone: the headers over the range, per slice the index leaves of the keywords
asked, and every line that their positions demand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from models.canonical import JSONValue, b64, b64_array, b64u, canonical, quoted
from models.counting import Counted
from models.declaration import Declaration, EvidenceAlgorithm
from models.digest import DIGEST_BYTES
from models.errors import Malformed
from models.extraction import Rule, Trie, cell_of, label_of, trie_of
from models.keywords import keyword_proof, shown_ranks
from models.leaf import index_leaf
from models.levels import kept_size, subset_from
from models.merkle import leaf_hashes, subset_path
from models.nodes import SALT_BYTES
from models.question import AskedValue, Question
from models.record import Buffer
from models.salting import CONTENT_SALT, INDEX_SALT, salts_at, slice_flat_salt, slice_key
from models.slice import Kind, SliceHeader, line_leaves

QUERY: Final = "stream/query.json"
DECLARATIONS: Final = "stream/declarations.jsonl"
SLICES: Final = "stream/slices.jsonl"
KEYWORDS: Final = "stream/keywords.jsonl"
RULES: Final = "stream/rules.jsonl"
INDEX: Final = "stream/index.jsonl"
LINES: Final = "stream/lines.jsonl"
MAX_LINE_BYTES: Final = 4 << 20
MAX_FILE_BYTES: Final = 256 << 20
MAX_NOTES: Final = 64


def whole_slice_name(number: int) -> str:
    """The file that shows slice `number` whole."""
    return f"stream/slices/{number}.bin"


def recount_name(place: int) -> str:
    """The file of the recount note at `place`."""
    return f"stream/recount/{place}.note"


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """A declaration with what only its holder knows: the keywords and its item's secret."""

    declaration: Declaration
    keywords: tuple[bytes, ...]
    secret: bytes


class Held(NamedTuple):
    """A slice as an answer is told of it: what it decides by, and the header's bytes, which are only passed on.

    Shapes: `declaration` is the SM3 of D.
    """

    number: int
    created_at: datetime
    lines: int
    declaration: bytes
    data: bytes


class Holdings(Protocol):
    """What an answerer holds of one stream; slices are asked for in ascending order."""

    def declared(self, digest: bytes) -> Declared:
        """The declaration whose SM3 is `digest`."""

    def slices(self, first: int) -> Iterator[Held]:
        """The slices from number `first` to the last there is."""

    def first_shown(self, moment: datetime) -> int:
        """The number of the last slice with slice_create_time < `moment`, or 0 if there is none."""

    def secret(self, number: int) -> bytes:
        """The secret of a slice's item."""

    def index_levels(self, number: int) -> bytes | None:
        """All hashes of a slice's index (`models.levels`), if they are kept: they save hashing all leaves anew."""

    def counted(self, number: int, ranks: Sequence[int] | None) -> Sequence[Counted]:
        """The index entries at `ranks`, or all of them, in order."""

    def values(self, number: int, rule: str) -> Sequence[Counted]:
        """All values of a rule in a slice, ascending."""

    def records(self, number: int) -> Buffer:
        """The records of a slice."""

    def erased(self, number: int) -> bool:
        """Whether the contents of a slice were destroyed: its tombstone is then shown in place of index and lines."""

    def proven_at(self, number: int) -> datetime | None:
        """The not-after that an evidence of a slice would prove, if it is known."""


class Shown(NamedTuple):
    """What a finished answer shows, and which evidence must stand beside it.

    Shapes: `slices` ascending, the last header's among them; `declarations` in order of use; `erased` are slices
        whose tombstones must stand beside the answer.
    """

    first: int
    last: int
    declarations: tuple[bytes, ...]
    slices: tuple[int, ...]
    covered: bool
    lines: int
    counts: tuple[int, ...]
    erased: tuple[int, ...] = ()


Sink = Callable[[str, bytes], None]
"""Takes the next bytes of a file: `sink(name, data)`."""


class Parts(defaultdict[str, list[bytes]]):
    """A sink that keeps everything in memory."""

    def __init__(self) -> None:
        super().__init__(list)

    def sink(self, name: str, data: bytes) -> None:
        """As `Sink`."""
        self[name].append(data)

    def files(self) -> dict[str, bytes]:
        """Each file whole; what was taken is let go."""
        return {name: b"".join(self.pop(name)) for name in list(self)}


class _Writer:
    """Lines of JSON into files, within the limits that a verifier reads."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._sizes: dict[str, int] = {}

    def line(self, name: str, value: JSONValue) -> None:
        self.raw(name, canonical(value))

    def raw(self, name: str, data: bytes) -> None:
        size = self._sizes[name] = self._sizes.get(name, 0) + len(data) + 1
        if len(data) > MAX_LINE_BYTES or size > MAX_FILE_BYTES:
            raise Malformed(
                f"answer is too long: expected at most {MAX_LINE_BYTES} bytes a line and {MAX_FILE_BYTES} a file ({name})",
                hint="ask for a shorter range, or for fewer keywords",
            )
        self._sink(name, data + b"\n")


class _Proving:
    """Which slices need an evidence of their own, so that every time is proven soon enough (formats §11, 27)."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._deadline: datetime | None = None
        self._candidate: int | None = None
        self.numbers: list[int] = []

    def take(self, number: int) -> None:
        if not self.numbers or self.numbers[-1] != number:
            self.numbers.append(number)
        self._deadline = self._candidate = None

    def meet(self, header: Held, declaration: Declaration) -> None:
        """A further header: once it is proven too late for the first still open, the last that was not is shown."""
        proven = self._holdings.proven_at(header.number) or header.created_at + timedelta(seconds=declaration.slice_proof_s / 2)
        if self._deadline is not None and proven > self._deadline:
            if self._candidate is not None:
                self.take(self._candidate)
            self._deadline = None  # where nothing was proven in time, no evidence helps, and none is shown for it
        if self._deadline is None:
            self._deadline = header.created_at + timedelta(seconds=declaration.max_silence_s + declaration.slice_proof_s)
        self._candidate = header.number if proven <= self._deadline else None


class Answering:
    """One question being answered; `write` gives each file's bytes to a sink as they are made.

    `whole` shows the slices in range whole; `all_keywords` all of K; `absences` the keywords beside one that is
    none of K's, which proves that it is not: each only for who may know what it shows.

    Source: T/SAC 004—2024 C.2-b to C.2-d, 6.4.5-d; formats §5.6, §5.9, §6.1, §11 (Streams).
    """

    def __init__(
        self,
        question: Question,
        holdings: Holdings,
        sink: Sink,
        *,
        whole: bool = False,
        all_keywords: bool = False,
        absences: bool = False,
    ) -> None:
        self._question = question
        self._holdings = holdings
        self._out = _Writer(sink)
        self._sink = sink
        self._whole = whole
        self._all = all_keywords
        self._absences = absences
        self._used: list[Declared] = []
        self._ranks: list[int] = []
        self._asked: list[int] = []
        self._zeros: list[tuple[bytes, bytes]] = []
        self._cell_key: bytes | None = None
        self._proving = _Proving(holdings)
        self._counts = [0] * max(1, len(question.keywords))
        self._lines = 0
        self._erased: list[int] = []

    def write(self) -> Shown:
        """Write all files of `stream/` but recount notes, and say what evidence must stand beside them.

        Raises: Malformed if the question does not fit the stream or the answer is longer than a verifier reads;
            whatever the holdings raise.
        """
        question = self._question
        first = last = None
        before: Held | None = None
        covered = False
        self._out_query()
        for header in self._holdings.slices(self._holdings.first_shown(question.start)):
            self._use(header)
            self._out.raw(SLICES, header.data)
            first = header if first is None else first
            if header.created_at >= question.start:
                if before is None or before.created_at < question.start:
                    self._proving.take(header.number)
                self._answer_slice(header)
            self._proving.meet(header, self._used[-1].declaration)
            last = before = header
            covered = header.created_at >= question.end
            if covered:
                break
        if first is None or last is None:
            raise Malformed("stream has no slice yet, so nothing can be answered")
        covered = covered or SliceHeader.parse(last.data).kind == Kind.END
        self._proving.take(last.number)
        digests = tuple(declared.declaration.pair.sm3 for declared in self._used)
        numbers = tuple(sorted(set(self._proving.numbers)))
        return Shown(first.number, last.number, digests, numbers, covered, self._lines, tuple(self._counts), tuple(self._erased))

    def _out_query(self) -> None:
        self._sink(QUERY, self._question.data)

    def _use(self, header: Held) -> None:
        """Take up the declaration of a slice: shown once, with the proof of rank or cell."""
        if self._used and self._used[-1].declaration.pair.sm3 == header.declaration:
            return
        declared = self._holdings.declared(header.declaration)
        declaration, question = declared.declaration, self._question
        question.check_fits(declaration)
        self._used.append(declared)
        self._out.raw(DECLARATIONS, declaration.data)
        if question.value is not None:
            self._use_rule(declared, question.value)
            return
        leaves = declaration.keyword_leaves(declared.keywords, secret=declared.secret)
        shown = (
            list(range(len(leaves))) if self._all else shown_ranks(declared.keywords, question.keywords, absences=self._absences)
        )
        proof = keyword_proof(leaves, shown) if shown else []
        self._out.line(
            KEYWORDS, {"leaves": [[rank, leaves[rank].decode()] for rank in shown], "proof": [b64(node) for node in proof]}
        )
        places = {keyword: rank for rank, keyword in enumerate(declared.keywords)}
        self._ranks = [places[keyword] for keyword in question.keywords if keyword in places]
        self._asked = [place for place, keyword in enumerate(question.keywords) if keyword in places]
        self._zeros = [_around_salt(declared.keywords[rank]) for rank in self._ranks]

    def _use_rule(self, declared: Declared, asked: AskedValue) -> None:
        found = declared.declaration.rule(asked.rule)
        leaf: str | None = None
        path: list[bytes] = []
        self._cell_key = None
        if found is not None:
            cells = declared.declaration.cells(found.rule, secret=declared.secret)
            data, path = cells.proof(asked.value)
            leaf, self._cell_key = data.decode(), cells.keys[cell_of(found.rule, asked.value)]
        # The cell line stands before the lines of the first slice so declared: nothing has to wait in memory.
        self._out.line(RULES, {"leaf": leaf, "proof": [b64(node) for node in path]})

    def _answer_slice(self, header: Held) -> None:
        if not header.lines:
            return
        if self._holdings.erased(header.number):
            self._erased.append(header.number)
            self._proving.take(header.number)
            return
        if self._question.value is not None:
            demanded = self._show_value(header, self._question.value)
        else:
            demanded = self._show_index(header)
        if demanded:
            self._show_lines(header, demanded)
        if self._whole:
            self._show_whole(header)

    def _show_index(self, header: Held) -> list[int]:
        if not self._ranks:
            return []
        number, declaration = header.number, self._used[-1].declaration
        kept = None if declaration.index == EvidenceAlgorithm.HASH else self._holdings.index_levels(number)
        if kept is not None and len(kept) == kept_size(declaration.keywords_size):
            return self._show_kept(number, kept)
        return self._show_counted(number, declaration)

    def _show_kept(self, number: int, kept: bytes) -> list[int]:
        """From the hashes that are kept: by its own a leaf is known to say zero, so that counts are opened only of hits."""
        ranks, size = self._ranks, self._used[-1].declaration.keywords_size
        drawn = self._index_salts(number, ranks)
        leaves = [before + b64u(one).encode() + after for (before, after), one in zip(self._zeros, drawn, strict=True)]
        found: list[list[tuple[int, int]]] = [[] for _ in ranks]
        at = DIGEST_BYTES
        if leaf_hashes(leaves) != [kept[rank * at : (rank + 1) * at] for rank in ranks]:
            counted = self._holdings.counted(number, ranks)
            leaves = list(map(index_leaf, drawn, counted))
            found = [entry.lines for entry in counted]
            for place, entry in zip(self._asked, counted, strict=True):
                self._counts[place] += entry.n
        self._out_index(number, zip(ranks, leaves, strict=True), subset_from(kept, size, ranks))
        return self._question.demanded(found) if any(found) else []

    def _show_counted(self, number: int, declaration: Declaration) -> list[int]:
        """From the counts of all keywords, each leaf of which is made anew."""
        everything = range(declaration.keywords_size)
        counted = self._holdings.counted(number, everything)
        leaves = list(map(index_leaf, self._index_salts(number, everything), counted))
        if declaration.index == EvidenceAlgorithm.HASH:
            flat_salt = slice_flat_salt(self._holdings.secret(number), declaration.stream_id, number, INDEX_SALT)
            self._out_index(number, enumerate(leaves), [], f',"salt":"{b64u(flat_salt)}"')
        else:
            shown = [(rank, leaves[rank]) for rank in self._ranks]
            self._out_index(number, shown, subset_path(leaf_hashes(leaves), self._ranks))
        for place, rank in zip(self._asked, self._ranks, strict=True):
            self._counts[place] += counted[rank].n
        return self._question.demanded([counted[rank].lines for rank in self._ranks])

    def _out_index(self, number: int, leaves: Iterable[tuple[int, bytes]], proof: Sequence[bytes], tail: str = "") -> None:
        # Written out, because there is one a slice and the general encoder costs as much as all the rest.
        rows = ",".join([f"[{rank},{quoted(leaf.decode())}]" for rank, leaf in leaves])
        self._out.raw(INDEX, f'{{"leaves":[{rows}],"number":{number},"proof":{b64_array(proof)}{tail}}}'.encode())

    def _index_salts(self, number: int, ranks: Sequence[int]) -> list[bytes]:
        """The salts of the index leaves of a slice at these ranks."""
        return salts_at(slice_key(self._holdings.secret(number), "cz-index/1", self._question.stream_id, number), ranks)

    def _show_value(self, header: Held, asked: AskedValue) -> list[int]:
        found = self._used[-1].declaration.rule(asked.rule)
        if found is None or self._cell_key is None:
            return []
        values = self._holdings.values(header.number, asked.rule)
        trie = self._trie(header, found.rule, values)
        label = label_of(self._cell_key, self._question.stream_id, header.number, asked.rule, asked.value)
        slot, path = trie.find(label)
        own = slot is not None and slot.label == label
        line: JSONValue = {
            "entry": slot.entry.decode() if slot and own else None,
            "number": header.number,
            "path": [b64(node) for node in path],
            "slot": slot.slot.decode() if slot else None,
        }
        self._out.line(RULES, line)
        counted = next((entry for entry in values if own and entry.keyword == asked.value), None)
        if counted is None:
            return []
        self._counts[0] += counted.n
        return [place for place, _ in counted.lines]

    def _trie(self, header: Held, rule: Rule, values: Sequence[Counted]) -> Trie:
        declared = self._used[-1]
        keys = declared.declaration.cells(rule, secret=declared.secret).keys
        secret = self._holdings.secret(header.number)
        return trie_of(values, rule, keys, secret=secret, stream_id=self._question.stream_id, number=header.number)

    def _line_leaves(self, header: Held) -> list[bytes]:
        secret, buffer = self._holdings.secret(header.number), self._holdings.records(header.number)
        return line_leaves(buffer, secret=secret, stream_id=self._question.stream_id, number=header.number)

    def _show_lines(self, header: Held, demanded: Sequence[int]) -> None:
        leaves = self._line_leaves(header)
        hashed = self._used[-1].declaration.slice == EvidenceAlgorithm.HASH
        shown = range(len(leaves)) if hashed else demanded
        line: dict[str, JSONValue] = {
            "lines": [[place, b64(leaves[place])] for place in shown],
            "number": header.number,
            "proof": [],
        }
        if hashed:
            secret = self._holdings.secret(header.number)
            line["salt"] = b64u(slice_flat_salt(secret, self._question.stream_id, header.number, CONTENT_SALT))
        else:
            line["proof"] = [b64(node) for node in subset_path(leaf_hashes(leaves), demanded)]
        self._out.line(LINES, line)
        self._lines += len(demanded)

    def _show_whole(self, header: Held) -> None:
        secret = self._holdings.secret(header.number)
        flat = [slice_flat_salt(secret, self._question.stream_id, header.number, place) for place in (CONTENT_SALT, INDEX_SALT)]
        self._sink(whole_slice_name(header.number), b"".join(flat))
        self._sink(
            whole_slice_name(header.number),
            b"".join(part for leaf in self._line_leaves(header) for part in (len(leaf).to_bytes(4), leaf)),
        )


def _around_salt(keyword: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind the salt in an index leaf that says zero."""
    salt = bytes(SALT_BYTES)
    before, _, after = index_leaf(salt, Counted(keyword, 0, [])).partition(b64u(salt).encode())
    return before, after


def answer_files(
    question: Question,
    holdings: Holdings,
    *,
    whole: bool = False,
    all_keywords: bool = False,
    absences: bool = False,
    notes: Iterable[str] = (),
) -> tuple[dict[str, bytes], Shown]:
    """The files of `stream/` that answer `question`, in memory, with the recount notes given; and what they show.

    Raises: as `Answering.write`.
    """
    parts = Parts()
    shown = Answering(question, holdings, parts.sink, whole=whole, all_keywords=all_keywords, absences=absences).write()
    for place, note in enumerate(notes):
        parts.sink(recount_name(place), note.encode())
    return parts.files(), shown
