"""What a bundle shows, parsed file by file; every fault of form goes to the check it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from evidence.checks.judge import Attempt, Judge
from models.anchor import ChainReceipt, Payload, ReceiptFacts
from models.bundle import Bundle, Files, numbers
from models.canonical import JSONValue
from models.checkpoint import Checkpoint, ConsistencyProof, Note, SignatureLine, TlogProof
from models.digest import Algorithm
from models.errors import Malformed, Undecided
from models.evidence import Evidence
from models.names import twin_origin
from models.trust import ChainTrust, LogTrust, TrustRoots

TREES = (Algorithm.SM3, Algorithm.SHA256)
INCLUSION = {Algorithm.SM3: 10, Algorithm.SHA256: 13}
"""The check that judges inclusion and signature lines of each tree: 10 (and 11), 13."""
SIGNED = {Algorithm.SM3: 11, Algorithm.SHA256: 13}
MAX_LINES = 8192
_CONSISTENCY = re.compile(r"log/(sm3|sha256)/([0-9]+)-([0-9]+)\.consistency", re.ASCII)


def later(moment: datetime, seconds: int) -> datetime:
    """`moment` and `seconds` more, or the last time there is."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def at(seconds: int) -> datetime:
    """Unix seconds as an aware time."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@dataclass(slots=True)
class Item:
    """One evidence of the bundle: what could be read of it, and what the checks added."""

    number: int
    evidence: Evidence
    biz_name: str | None = None
    """bizName of its template, once check 4 has accepted the template."""
    partly: bool = False
    """Whether some stage is disclosed in part."""
    proofs: dict[Algorithm, TlogProof] = field(default_factory=dict)
    proven: dict[Algorithm, Checkpoint] = field(default_factory=dict)
    not_before: datetime | None = None
    not_after: datetime | None = None
    erased: bool = False
    """Whether a tombstone that check 21 accepted names it."""

    @property
    def name(self) -> str:
        """How reasons call it."""
        return f"evidence/{self.number}"

    @property
    def index(self) -> int | None:
        """Its place in the log as its proof states it."""
        proof = self.proofs.get(Algorithm.SM3) or self.proofs.get(Algorithm.SHA256)
        return None if proof is None else proof.index

    def stood_after(self, moment: datetime) -> None:
        """A block of that time was known when the item was made: the latest such bound holds."""
        self.not_before = moment if self.not_before is None else max(self.not_before, moment)


@dataclass(slots=True)
class Shown:
    """One checkpoint that the bundle shows, with every signature line that stands anywhere over its text."""

    checkpoint: Checkpoint
    lines: dict[str, SignatureLine] = field(default_factory=dict)
    good: list[tuple[SignatureLine, str]] = field(default_factory=list)
    """Lines of trusted keys of its log that verify, with the organisation that holds the key."""

    @property
    def time(self) -> int | None:
        """T: the least T of the lines of trusted keys of its log (formats §11)."""
        return min((line.time for line, _ in self.good), default=None)


@dataclass(slots=True)
class ShownAnchor:
    """One anchor of the bundle, and what the checks found of it.

    Of P and receipt only what later checks need is kept: records of other items and proofs are let go.
    """

    number: int
    payload: Payload | None = None
    notes: dict[Algorithm, Note] = field(default_factory=dict)
    receipt: ChainReceipt | None = None
    chain: ChainTrust | None = None
    facts: ReceiptFacts | None = None
    holds: bool = True

    @property
    def name(self) -> str:
        """How reasons call it."""
        return f"anchors/{self.number}"

    @property
    def size(self) -> int:
        """The size of its checkpoint; 0 if it could not be read."""
        return 0 if self.payload is None else self.payload.head.size

    @property
    def counted(self) -> bool:
        """Whether checks 14 and 15 hold of it, under a chain that the trust file knows."""
        return self.holds and self.facts is not None and self.payload is not None

    def range_holds(self, index: int) -> bool:
        """Whether `index` lies in its range."""
        return self.payload is not None and self.payload.start <= index < self.payload.end

    def joins_above(self, index: int) -> bool:
        """Whether it is the first of its chain's list, as the trust file says, and `index` lies below it."""
        return self.chain is not None and self.payload is not None and index < self.payload.start == self.chain.first

    @property
    def latest(self) -> datetime:
        """Its block's time with the allowance of its chain: what not-after and check 20 use."""
        if self.facts is None:
            return datetime.max.replace(tzinfo=UTC)
        return later(self.facts.block_time, self.facts.not_later_than_error_s)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What an erasure/N.json holds, until it is known whether its checkpoint is to be believed."""

    name: str
    submitter: str
    index: int
    head: Checkpoint
    named: frozenset[str]
    """The evidence ids that it discloses."""


@dataclass(slots=True)
class Case:
    """The whole matter: bundle, trust, and what was read of each file."""

    bundle: Bundle
    trust: TrustRoots
    judge: Judge
    whole: bool = True
    """False once a file could not be read: then what it holds may be what other files refer to."""
    items: list[Item] = field(default_factory=list)
    anchors: list[ShownAnchor] = field(default_factory=list)
    tombstones: list[Tombstone] = field(default_factory=list)
    consistency: dict[tuple[Algorithm, int, int], ConsistencyProof] = field(default_factory=dict)
    shown: dict[Algorithm, dict[str, Shown]] = field(default_factory=lambda: {tree: {} for tree in TREES})
    lines: int = 0
    question: JSONValue = None
    """What an answer answers, as the report prints it."""
    trusted: dict[Algorithm, set[str]] = field(default_factory=lambda: {tree: set() for tree in TREES})
    """Texts of checkpoints signed by a trusted key of their log in its window."""

    @property
    def files(self) -> Files:
        """The files of the bundle by name."""
        return self.bundle.files

    @property
    def origin(self) -> str | None:
        """The log that the first evidence names."""
        return self.items[0].evidence.statement.log if self.items else None

    def tree_origin(self, tree: Algorithm) -> str | None:
        """The origin of one tree of the log."""
        origin = self.origin
        return origin if origin is None or tree is Algorithm.SM3 else twin_origin(origin)

    def log_of(self, tree: Algorithm, origin: str) -> LogTrust | None:
        """What the trust file says of the log `origin`, if it holds it for a log of that tree."""
        log = self.trust.log(origin)
        return log if log is not None and log.tree is tree else None

    def by_size(self, tree: Algorithm) -> list[Shown]:
        """The checkpoints shown of one tree of the log, by size."""
        origin = self.tree_origin(tree)
        found = (shown for shown in self.shown[tree].values() if shown.checkpoint.origin == origin)
        return sorted(found, key=lambda shown: (shown.checkpoint.size, shown.checkpoint.root))

    def counted(self, item: Item) -> list[ShownAnchor]:
        """The anchors that count for `item`.

        Of a HASH or PLAINTEXT item, whose record goes onto the chain, only one whose range holds it, or the first of a
        chain joined later: else a chain that left the record out would count by an anchor further on.

        Source: formats §4 check 16, §11 (Anchors, Check 14).
        """
        index = item.index
        if index is None:
            return []
        large = [anchor for anchor in self.anchors if anchor.counted and anchor.size > index]
        if item.evidence.commitment == "merkle":
            return large
        return [anchor for anchor in large if anchor.range_holds(index) or anchor.joins_above(index)]

    def show(self, tree: Algorithm, note: Note) -> Checkpoint:
        """Take a note in as shown.

        Raises: Malformed if its text is no checkpoint; Undecided beyond the lines that one run reads.
        """
        self.lines += len(note.lines)
        if self.lines > MAX_LINES:
            raise Undecided(f"bundle holds more signature lines than are read in one run: expected at most {MAX_LINES}")
        shown = self.shown[tree].get(note.text)
        if shown is None:
            shown = self.shown[tree][note.text] = Shown(note.checkpoint())
        for line in note.lines:
            shown.lines.setdefault(line.text, line)
        return shown.checkpoint

    def indices(self) -> list[int]:
        """The places in the log of all that the bundle proves: its items, and the tombstones."""
        return [index for _, index in self.items_with_index()] + [tombstone.index for tombstone in self.tombstones]

    def items_with_index(self) -> Iterator[tuple[Item, int]]:
        """The items whose place in the log is shown."""
        for item in self.items:
            if item.index is not None:
                yield item, item.index


def read(bundle: Bundle, trust: TrustRoots, judge: Judge) -> Case:
    """The case that a bundle makes: evidence and proofs of the log parsed, faults of form said by their checks.

    Templates, disclosures and anchors can be large: each is read when it is judged, and let go.

    Source: formats §6.1, §11 (Which check says so).
    """
    case = Case(bundle, trust, judge)
    for number in numbers(bundle.files, "evidence"):
        _read_item(case, number)
    for name in bundle.files:
        match = _CONSISTENCY.fullmatch(name)
        if match is None:
            continue
        with reading(case, 12, name):
            proof = ConsistencyProof.parse(bundle.files[name])
            old, new = int(match[2]), int(match[3])
            if (proof.old, proof.note.checkpoint().size) != (old, new):
                raise Malformed("consistency file is named after other sizes than it joins")
            case.consistency[(Algorithm(match[1]), old, new)] = proof
    return case


@contextmanager
def reading(case: Case, number: int, where: str) -> Iterator[Attempt]:
    """Read a file for check `number`; if that fails, what it holds may be what other files refer to."""
    with case.judge.trying(number, where) as attempt:
        yield attempt
    case.whole = case.whole and attempt.holds


def _read_item(case: Case, number: int) -> None:
    folder = f"evidence/{number}"
    files = case.files
    with reading(case, 3, folder) as attempt:
        item = Item(number, Evidence.parse(files[f"{folder}/evidence.json"]))
    if not attempt.holds:
        return
    case.items.append(item)
    for tree in TREES:
        name = f"{folder}/{tree.value}.tlog-proof"
        if name in files:
            with reading(case, INCLUSION[tree], folder):
                proof = TlogProof.parse(files[name], kind=tree)
                case.show(tree, proof.note)
                item.proofs[tree] = proof
