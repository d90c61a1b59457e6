"""Check 25 and the times of 27: which slices are preserved, by whom, and how soon each was proven."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from evidence.checks.case import Case, Item, later
from evidence.checks.stream_matter import BYTES_READ, DeclaredCase, Matter
from evidence.checks.times import ProvenBlock, prove_block
from models import declaration as declarations
from models import slice as slices
from models.anchor import BlockRef
from models.bundle import MAX_JSON_BYTES, numbers
from models.canonical import format_time, parse
from models.declaration import Declaration
from models.digest import Pair
from models.errors import EvidenceError, Undecided, VerificationError
from models.signature import verify
from models.slice import SliceHeader
from models.template import builtin

if TYPE_CHECKING:
    from evidence.checks.stream_walk import Walk

WORD = "times are the collector's word"


@dataclass(frozen=True, slots=True)
class _Segment:
    """Slices up to one with an evidence: what the earliest of them needs, and the last one's own time."""

    item: Item
    deadline: datetime
    earliest: str
    created_at: datetime
    slice_id: str


class Preserved:
    """The evidence beside an answer, by what it preserves; each is met once, by the declaration or header shown."""

    def __init__(self, matter: Matter) -> None:
        self._matter = matter
        self._case = matter.case
        self._by_stage: dict[Pair, Item] = {}
        self._met: set[int] = set()
        self._segments: list[_Segment] = []
        self._open: tuple[datetime, str] | None = None
        self._last: Item | None = None
        self._blocks = _Blocks(matter.case)
        for item in self._case.items:
            self._take(item)
        for declared in matter.declared:
            self._meet_declaration(declared)

    def _take(self, item: Item) -> None:
        statement = item.evidence.statement
        with self._case.judge.trying(25, item.name):
            if statement.template_name not in (declarations.TEMPLATE, slices.TEMPLATE):
                raise VerificationError("evidence in an answer is of another template than stream@1 or stream-slice@1")
            if statement.link is not None:
                raise VerificationError("evidence of a stream is a part of a link")
            self._by_stage.setdefault(statement.stages[0][1], item)

    def _meet(self, item: Item, template: str, stages: tuple[tuple[str, Pair], ...], declaration: Declaration) -> None:
        """Hold an evidence to what it preserves: template, stages, log, submitter, and the collector's signature."""
        evidence, statement = item.evidence, item.evidence.statement
        self._met.add(item.number)
        if statement.template_name != template or statement.stages != stages:
            raise VerificationError("evidence states another template or other stages than what is shown")
        if statement.template_pair != builtin(template).pair:
            raise Undecided(f"evidence was made under another {template} than the built-in one")
        if statement.log != declaration.log or statement.submitter != self._matter.question.submitter:
            raise VerificationError("evidence is of another log or submitter than the stream's")
        collector, signature = declaration.collector, evidence.signature
        if signature is None or signature.signer != collector.key_id.hex() or collector.name != statement.submitter:
            raise VerificationError("evidence is not signed by the collector that the declaration names")
        self._case.judge.spend_signatures()
        verify(collector.public_key, statement.data, signature.value)

    def _meet_declaration(self, declared: DeclaredCase) -> None:
        declaration = declared.declaration
        item = self._by_stage.get(declaration.pair)
        with self._case.judge.trying(25, "declaration" if item is None else item.name):
            if item is None:
                raise Undecided("declaration has no evidence in the bundle")
            self._meet(item, declarations.TEMPLATE, declaration.stages(), declaration)
            declared.preserved = True

    def meet(self, header: SliceHeader, declared: DeclaredCase | None) -> Item | None:
        """The evidence of a slice, if it is shown; and keep account of what times it proves."""
        item = self._by_stage.get(header.pair)
        if declared is not None:
            declaration = declared.declaration
            due = later(header.created_at, declaration.max_silence_s + declaration.slice_proof_s)
            if self._open is None or due < self._open[0]:
                self._open = (due, header.slice_id)
        if item is not None and declared is not None:
            with self._case.judge.trying(25, item.name):
                self._meet(item, slices.TEMPLATE, header.stages(), declared.declaration)
                if item.evidence.statement.client_key != header.slice_id:
                    raise VerificationError("client_key of the evidence is not the slice's id")
                if self._open is not None:
                    self._segments.append(_Segment(item, *self._open, header.created_at, header.slice_id))
                self._open = None
        self._last = item
        return item

    def blocks_of(self, header: SliceHeader, before: SliceHeader | None) -> None:
        """The blocks that a header names, where they are proven: none later than its time or the deadline before it.

        What bounds the header bounds the evidence that holds it. Source: formats §4 check 17, §5.6 check 27.
        """
        skew = self._case.trust.policy.skew_s
        for ref in header.after:
            proven = self._blocks.proven(ref)
            if proven is None:
                continue
            with self._case.judge.trying(27, header.slice_id):
                if proven.time > later(header.created_at, skew):
                    raise VerificationError("slice names a block that is later than its own time")
                if not proven.bounds:
                    continue
                item = self._by_stage.get(header.pair)
                if item is not None:
                    item.stood_after(proven.time)
                if before is not None and before.next_by is not None and proven.time > later(before.next_by, skew):
                    raise Undecided(f"heartbeat missing: slice was made after its deadline {format_time(before.next_by)}")

    def close(self, walk: Walk) -> None:
        """Check 25: the last header is evidence/0, nothing is spare; check 27: each time was proven soon enough."""
        judge = self._case.judge
        last = walk.last
        if last is not None:
            if not self._case.whole:
                judge.undecided(25, f"evidence that could not be read may preserve the last slice shown ({last.slice_id})")
            elif not walk.whole:
                judge.undecided(25, f"slices were read to {last.slice_id} only: which of them is the last shown is not known")
            elif self._last is None or self._last.number != 0:
                judge.refused(25, f"evidence/0 does not preserve the last slice shown ({last.slice_id})")
            else:
                judge.passed(25, f"last slice shown is preserved: {last.slice_id}")
        if walk.whole and self._matter.readable:
            for item in self._case.items:
                if item.number not in self._met:
                    judge.refused(25, f"evidence preserves nothing that the answer shows ({item.name})")
            self._blocks.close()
        for segment in self._segments:
            self._judge_times(segment)
        if self._open is not None:
            judge.undecided(27, f"{WORD}: no later slice with evidence is shown ({self._open[1]})")

    def _judge_times(self, segment: _Segment) -> None:
        with self._case.judge.trying(27, segment.item.name):
            proven = segment.item.not_after
            if proven is None:
                raise Undecided(f"{WORD}: no time is proven")
            if segment.created_at > later(proven, self._case.trust.policy.skew_s):
                raise VerificationError(f"slice_create_time lies after the time that proves it ({segment.slice_id})")
            if proven > segment.deadline:
                late = format_time(segment.deadline)
                raise Undecided(f"{WORD}: {segment.earliest} was to be proven by {late}, got {format_time(proven)}")


class _Blocks:
    """The block proofs of the bundle that slice headers name; those of evidence were judged by check 17."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._files: dict[tuple[str, int], str] = {}
        self._judged: dict[BlockRef, ProvenBlock | None] = {}
        self._used = {(ref.chain, ref.height) for item in case.items for ref in item.evidence.after}
        for number in numbers(case.files, "blocks"):
            name = f"blocks/{number}.json"
            try:
                value = parse(case.files[name], max_bytes=MAX_JSON_BYTES)
                if {"engine", "proof"} <= set(value):
                    mark = str(value["chain"]), int(value["height"])
                    if mark in self._files:
                        case.judge.refused(17, f"block proof stands twice ({name})")
                    self._files.setdefault(mark, name)
            except (EvidenceError, KeyError, TypeError, ValueError):
                continue  # said by check 17

    def proven(self, ref: BlockRef) -> ProvenBlock | None:
        """What the proof of a named block shows; None if none is shown or the trust file cannot judge it."""
        name = self._files.get((ref.chain, ref.height))
        if name is None:
            return None
        self._used.add((ref.chain, ref.height))
        if ref not in self._judged:
            self._judged[ref] = None
            with self._case.judge.trying(17, name):
                data = self._case.files[name]
                self._case.judge.spend(len(data) / BYTES_READ)
                value = parse(data, max_bytes=MAX_JSON_BYTES)
                self._judged[ref] = prove_block(self._case, ref, str(value["engine"]), value["proof"])
        return self._judged[ref]

    def close(self) -> None:
        """A block proof that neither an evidence nor a slice names is refused."""
        for mark, name in self._files.items():
            if mark not in self._used:
                self._case.judge.refused(17, f"block proof is of a block that no evidence and no slice names ({name})")
