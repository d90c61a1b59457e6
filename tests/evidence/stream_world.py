"""A stream in a small world: declared, collected, preserved on a real embedded chain's receipts, asked, and cheated with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from verifier_world import CHAIN, ORIGIN, Anchored, Made, World, key

from models import declaration as declarations
from models import slice as slices
from models.answer import Declared, Held, Shown, answer_files
from models.bundle import pack
from models.checkpoint import NOTE_TYPE, STATEMENT_TYPE, vkey
from models.counting import Counted, count, index_of
from models.declaration import Declaration
from models.digest import Pair
from models.evidence import Evidence, Signature, Statement
from models.extraction import Rule, values_of
from models.question import AskedValue, Question
from models.record import Buffer, Position, Record, counted_part
from models.slice import Epoch, Kind, SliceHeader, commit_slice
from models.template import builtin
from models.trust import Recounter, TrustRoots, format_trust

SUBMITTER = "acct-1"
STREAM = "s1"
SILENCE = 60
COLLECTOR = vkey(SUBMITTER, key("submitter").public_key, STATEMENT_TYPE)
RECOUNTER = vkey("recounter.example", key("recounter").public_key, NOTE_TYPE)


def secret_of(number: int) -> bytes:
    return bytes((7 * number + 3 * place) % 256 for place in range(32))


@dataclasses.dataclass
class Collected:
    """One slice as collected, with all its holder keeps."""

    header: SliceHeader
    buffer: Buffer
    index: list[Counted]
    made: Made


class Stream:
    """A collector and its platform in one: what they hold, as an answerer does."""

    def __init__(
        self,
        keywords: Sequence[bytes],
        *,
        rules: Sequence[Rule] = (),
        world: World | None = None,
        source: str = "file:/var/log/app.log",
        lie: Callable[[list[Counted]], list[Counted]] | None = None,
        **options: Any,
    ) -> None:
        self.world = world or World()
        self.options = {"max_silence_s": SILENCE, "slice_proof_s": 3600, "source": source, **options}
        self.lie = lie
        self.held: list[Collected] = []
        self.declareds: list[Declared] = []
        self.declaration_items: list[Made] = []
        self.at = Position(0, 0)
        self.destroyed: set[int] = set()
        self.anchored: Anchored | None = None
        self.declare(keywords, rules)

    # --- making ---------------------------------------------------------------------------------------------------

    def declare(self, keywords: Sequence[bytes], rules: Sequence[Rule] = ()) -> Declaration:
        secret = bytes(range(len(self.declareds) + 1, len(self.declareds) + 33))
        previous = self.declareds[-1].declaration if self.declareds else None
        declaration = Declaration.build(
            stream_id=STREAM,
            log=ORIGIN,
            collector=COLLECTOR,
            keywords=tuple(sorted(keywords)),
            rules=rules,
            secret=secret,
            previous=previous,
            **self.options,
        )
        self.declareds.append(Declared(declaration, tuple(sorted(keywords)), secret))
        made = self.preserve(declarations.TEMPLATE, f"{STREAM}/declaration/{len(self.declareds)}", declaration.stages())
        self.declaration_items.append(made)
        return declaration

    def preserve(self, template: str, client_key: str, stages: Sequence[tuple[str, Pair]], signer: str = "submitter") -> Made:
        kind = builtin(template)
        statement = Statement.build(
            client_key=client_key,
            link=None,
            log=ORIGIN,
            occurred_at=None,
            stages=stages,
            subject=("s1", "示例证券"),
            submitter=SUBMITTER,
            template=(template, kind.pair),
        )
        at = self.world.tick(1)
        evidence = Evidence.build(
            statement,
            after=(),
            commitment="merkle",
            created_at=at,
            link=None,
            on_chain_by=at + timedelta(hours=1),
            signature=Signature(COLLECTOR.key_id.hex(), key(signer).sign(statement.data)),
            validated_by="platform",
        )
        return self.world.append(evidence, kind, ())

    def cell_keys(self, declared: Declared) -> list[list[bytes]]:
        declaration = declared.declaration
        return [declaration.cells(each.rule, secret=declared.secret).keys for each in declaration.rules]

    def collect(
        self,
        lines: Sequence[bytes] = (),
        *,
        kind: str | None = None,
        wait: int = 20,
        epoch: Epoch | None = None,
        lost: int = 0,
        reason: str | None = None,
        **options: Any,
    ) -> Collected:
        """Cut a slice of `lines` (a heartbeat of none) at a time `wait` seconds on, and preserve it."""
        declared, number = self.declareds[-1], len(self.held)
        previous = self.held[-1].header if self.held else None
        if previous is None:
            epoch = epoch or Epoch("inode 1", previous_complete=True, reason="start")
        elif epoch is not None:
            self.at = Position(self.at.epoch + 1, 0)
        start, records, at = self.at, [], self.at.offset
        for line in lines:
            records.append(Record(at, line))
            at += len(line) + 1
        end = Position(start.epoch, at + lost)
        buffer = Buffer.of(records)
        declaration = declared.declaration
        index = index_of(
            buffer, declared.keywords, boundary=declaration.boundary, case=declaration.case, encoding=declaration.encoding
        )
        if self.lie is not None:
            index = self.lie(index)
        made = commit_slice(
            buffer, declaration, declared.keywords, secret=secret_of(number), number=number, index=index,
            cell_keys=self.cell_keys(declared),
        )  # fmt: skip
        header = SliceHeader.build(
            declaration,
            made,
            previous=previous,
            start=start,
            end=end,
            created_at=self.world.tick(wait),
            kind=kind or (Kind.DATA if lines else Kind.HEARTBEAT),
            epoch=epoch,
            reason=reason,
            **options,
        )
        self.at = end
        return self.keep(header, buffer, index)

    def keep(self, header: SliceHeader, buffer: Buffer, index: list[Counted]) -> Collected:
        item = self.preserve(slices.TEMPLATE, header.slice_id, header.stages())
        self.held.append(Collected(header, buffer, index, item))
        return self.held[-1]

    def anchor(self) -> Anchored:
        if self.anchored is None:
            self.anchored = self.world.anchor()
        return self.anchored

    # --- holdings ---------------------------------------------------------------------------------------------------

    def declared(self, digest: bytes) -> Declared:
        return next(each for each in self.declareds if each.declaration.pair.sm3 == digest)

    def slices(self, first: int) -> Iterator[Held]:
        headers = (each.header for each in self.held[first:])
        return (Held(h.number, h.created_at, h.lines, h.declaration.sm3, h.data) for h in headers)

    def first_shown(self, moment: datetime) -> int:
        return max([each.header.number for each in self.held if each.header.created_at < moment], default=0)

    def secret(self, number: int) -> bytes:
        return secret_of(number)

    def index_levels(self, _number: int) -> None:
        return None

    def counted(self, number: int, ranks: Sequence[int] | None) -> Sequence[Counted]:
        index = self.held[number].index
        return index if ranks is None else [index[rank] for rank in ranks]

    def values(self, number: int, rule: str) -> Sequence[Counted]:
        declared = self.declared(self.held[number].header.declaration.sm3)
        found = declared.declaration.rule(rule)
        assert found is not None
        return values_of(self.held[number].buffer, found.rule, encoding=declared.declaration.encoding)

    def records(self, number: int) -> Buffer:
        return self.held[number].buffer

    def erased(self, number: int) -> bool:
        return number in self.destroyed

    def proven_at(self, _number: int) -> datetime | None:
        return self.world.now

    # --- answering --------------------------------------------------------------------------------------------------

    def question(self, *keywords: bytes, first: int = 0, last: int | None = None, **options: Any) -> Question:
        """A question over the collection time of slices first…last (the whole stream if not given)."""
        last = len(self.held) - 1 if last is None else last
        start = self.held[first].header.created_at - timedelta(seconds=5)
        end = self.held[last].header.created_at - timedelta(seconds=1)
        options = {"start": start, "end": end, **options}
        return Question.build(log=ORIGIN, submitter=SUBMITTER, stream_id=STREAM, keywords=keywords, **options)

    def value(self, rule: str, value: bytes, **options: Any) -> Question:
        return self.question(value=AskedValue(rule, value), **options)

    def evidence_files(self, shown: Shown) -> dict[str, bytes]:
        """The files of the evidence beside an answer: the last header's, the declarations', the other slices'."""
        others = [number for number in shown.slices if number != shown.last]
        declared = [
            self.declaration_items[place]
            for place, each in enumerate(self.declareds)
            if each.declaration.pair.sm3 in shown.declarations
        ]
        items = [self.held[shown.last].made, *declared, *(self.held[number].made for number in others)]
        return self.world.files(items, [self.anchor()], fields=[])

    def files(self, question: Question, **options: Any) -> dict[str, bytes]:
        made, shown = answer_files(question, self, **options)
        return {**made, **self.evidence_files(shown)}

    def answer(self, question: Question, **options: Any) -> bytes:
        return pack(self.files(question, **options), "answer")

    def trust(self, **policy: Any) -> TrustRoots:
        roots = self.world.trust((CHAIN,), **policy)
        return TrustRoots.parse(format_trust(dataclasses.replace(roots, recounters=(Recounter("recounter", RECOUNTER),))))

    # --- truth ------------------------------------------------------------------------------------------------------

    def truth(self, question: Question) -> list[tuple[int, int, bytes]]:
        """What an honest answer shows: (slice, line, payload) of every line demanded, found without any index."""
        found = []
        before: SliceHeader | None = None
        for each in self.held:
            header = each.header
            inside = header.created_at >= question.start and (before is None or before.created_at < question.end)
            before = header
            declared = self.declared(header.declaration.sm3).declaration
            for line, payload in enumerate(each.buffer.payloads() if inside else ()):
                if _holds(payload, question, declared):
                    found.append((header.number, line, payload))
        return found


def _holds(payload: bytes, question: Question, declared: Declaration) -> bool:
    text = counted_part(payload, declared.encoding)
    if question.value is not None:
        rule = declared.rule(question.value.rule)
        assert rule is not None
        buffer = Buffer.of([Record(0, payload)])
        return any(each.keyword == question.value.value for each in values_of(buffer, rule.rule, encoding=declared.encoding))
    counts = [count(text, keyword, boundary=declared.boundary, case=declared.case) for keyword in question.keywords]
    return all(counts) if question.op == "and" else any(counts)
