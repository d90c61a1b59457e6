"""Questions to streams (T/SAC 004—2024 C.2, 6.4.5 d): how often, where, and the proof that nothing was held back.

An answer is made of what was fixed at collection, and leaves only after the verifier we hand out
has accepted it. Lines are shown to the stream's own subject and to a court; an auditor gets counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from evidence import anchors
from evidence.access import Caller, Role
from evidence.anchoring import Anchoring
from evidence.batch import moment
from evidence.blocks import Blocks
from evidence.errors import Forbidden, NotFinal, NotFound
from evidence.issuance import Issuance
from evidence.store import Store
from evidence.stream_shelf import Known, Shelf, StreamHoldings, shows_lines
from evidence.stream_store import SliceRow, StreamRow
from evidence.times import range_end
from models.anchor import BlockRef
from models.answer import LINES, MAX_LINE_BYTES, SLICES, Answering, Held, Parts, Shown, recount_name
from models.canonical import JSONValue, b64, format_time, parse, unb64
from models.counting import count
from models.declaration import Declaration
from models.errors import Invalid, Malformed, Problem
from models.extraction import values_in
from models.leaf import open_line
from models.question import AskedValue, Op, Question
from models.record import Position, Record, counted_part, open_kafka
from models.report import SENTENCES, Report, Verdict
from models.slice import SliceHeader
from models.validation import unknown_members

WAIT_S = 10.0
"""So long a question waits for the newest slice in its range to be on the chain."""
MAX_LINES_LISTED = 10_000
MAX_SLICES = 40_000
MAX_WORK, SLICE_WORK, KEYWORD_WORK = 5_500_000, 85, 38
"""In the verifier's measure of work: it leaves an answer open that takes more than one run does, and lines are still to come."""
_LINES_CHECK = 29
Prove = Callable[[Iterable[BlockRef]], Sequence[bytes]]
_MEMBERS = {"keywords", "value", "op", "from", "to", "submitter", "whole", "all_keywords", "scan"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was asked, before times that were left out are known."""

    keywords: tuple[JSONValue, ...]
    value: tuple[str, JSONValue] | None
    op: str
    start: datetime | None
    end: datetime | None
    submitter: str | None
    whole: bool
    all_keywords: bool
    scan: bool


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """An answer: what our verifier said of it, the same as JSON, and the bundle unless it shows what the caller may not see."""

    bundle: bytes | None
    report: Report
    value: dict[str, JSONValue]


class _Problems:
    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, name: str, expected: str, got: str = "something else") -> None:
        self.found.append(Problem(f"/{name}", name, "流式数据查询", expected, got, "6.4.5-d"))


def read_question(body: JSONValue) -> Asked:
    """The question that a body asks. Raises: Invalid with every fault of it."""
    problems = _Problems()
    given = body if isinstance(body, dict) else {}
    if not isinstance(body, dict):
        problems.add("", "an object")
    problems.found += unknown_members("", "member", "流式数据查询", given, sorted(_MEMBERS), "6.4.5-d", of="a question")
    keywords = given.get("keywords", [])
    if not isinstance(keywords, list) or not all(_is_keyword(each) for each in keywords):
        problems.add("keywords", 'an array of texts, or of objects {"b64": …} for other bytes')
        keywords = []
    value = given.get("value")
    if value is not None and not (
        isinstance(value, dict) and set(value) == {"rule", "v"} and isinstance(value["rule"], str) and _is_keyword(value["v"])
    ):
        problems.add("value", "an object of rule and v")
        value = None
    elif bool(keywords) == (value is not None):
        problems.add("keywords", "1 to 16 keywords, or a value of a rule, and not both", "both or neither")
    op = given.get("op", "or")
    if op not in (Op.AND.value, Op.OR.value):
        problems.add("op", "and or or")
    times = [_moment(given, name, problems) for name in ("from", "to")]
    if times[0] is not None and times[1] is not None and times[0] >= times[1]:
        problems.add("from", "a time before to: the range is half-open", "an empty or reversed range")
    submitter = given.get("submitter")
    if submitter is not None and not isinstance(submitter, str):
        problems.add("submitter", "the account whose stream it is")
    flags = []
    for name in ("whole", "all_keywords", "scan"):
        flags.append(given.get(name, False))
        if not isinstance(flags[-1], bool):
            problems.add(name, "true or false")
    if problems.found:
        count_ = len(problems.found)
        raise Invalid(f"question has {count_} problem{'s' if count_ > 1 else ''}", tuple(problems.found))
    rule = None if value is None else (value["rule"], value["v"])
    return Asked(tuple(keywords), rule, op, times[0], times[1], submitter, *flags)


def _is_keyword(value: JSONValue) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str))


def _moment(given: dict[str, JSONValue], name: str, problems: _Problems) -> datetime | None:
    if given.get(name) is None:
        return None
    try:
        return range_end(given[name], name=name, is_last=name == "to")
    except Malformed as error:
        problems.add(name, error.message)
        return None


def _bytes_of(value: JSONValue, charset: str | None) -> bytes:
    """A keyword's bytes: a text in the stream's charset, or the bytes themselves."""
    if isinstance(value, dict):
        return unb64(value["b64"], what="keyword")
    try:
        return str(value).encode(charset or "utf-8")
    except (LookupError, UnicodeEncodeError) as error:
        raise Malformed(f"keyword cannot be written in the charset of the stream ({charset})") from error


def shown_text(data: bytes, charset: str | None = None) -> dict[str, JSONValue]:
    """Bytes as a JSON answer shows them: as text where they are, else as base64."""
    for name in dict.fromkeys((charset or "utf-8", "utf-8")):
        try:
            return {"text": data.decode(name)}
        except (LookupError, UnicodeDecodeError):
            continue
    return {"b64": b64(data)}


class StreamAnswers:
    """Answers questions to streams."""

    def __init__(
        self,
        *,
        shelf: Shelf,
        store: Store,
        issuance: Issuance,
        anchoring: Anchoring,
        blocks: Blocks,
        origin: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._shelf, self._store, self._issuance, self._anchoring = shelf, store, issuance, anchoring
        self._blocks, self._origin, self._clock = blocks, origin, clock

    async def query(self, stream_id: str, body: JSONValue, caller: Caller) -> StreamAnswer:
        """The answer to a question, verified before it leaves; INDETERMINATE where a keyword is not indexed or time not covered.

        Raises: Invalid, Malformed; NotFound, Ambiguous; Forbidden; NotFinal if no slice is on enough chains yet.
        Source: T/SAC 004—2024 6.4.5-d, C.2; formats §5.6.
        """
        caller.require(Role.BUSINESS, Role.AUDITOR, Role.COURT)
        asked = read_question(body)
        row = await asyncio.to_thread(self._shelf.find, stream_id, caller, asked.submitter)
        await self._wait(row, asked.end)
        loop = asyncio.get_running_loop()

        def prove(refs: Iterable[BlockRef]) -> list[bytes]:
            return asyncio.run_coroutine_threadsafe(self._blocks.proofs(refs), loop).result()

        return await asyncio.to_thread(self._answer, row, asked, caller, prove)

    async def _wait(self, row: StreamRow, end: datetime | None) -> None:
        """The slice that closes the range, or the newest, is on the chain, or as long as one waits has passed."""
        newest = await asyncio.to_thread(self._closing, row, end)
        if newest is not None and newest.leaf_index >= self._anchoring.covered:
            await self._anchoring.wait_final(newest.leaf_index, WAIT_S)

    def _closing(self, row: StreamRow, end: datetime | None) -> SliceRow | None:
        number = None if end is None else self._shelf.first_from(row, end)
        if number is not None:
            return next(iter(self._shelf.slices(row, number, 1)), None)
        return self._shelf.newest(row)

    def final(self, row: StreamRow) -> SliceRow:
        """The newest slice that is on enough chains. Raises: NotFinal."""
        newest = self._shelf.newest(row)
        covered = self._anchoring.covered
        if newest is None:
            raise NotFinal("stream has no slice yet, so nothing can be answered", hint="ask again when it has one")
        low, high = 0, newest.number + 1
        while low < high:
            middle = (low + high) // 2
            (found,) = self._shelf.slices(row, middle, 1)
            low, high = (middle + 1, high) if found.leaf_index < covered else (low, middle)
        if not low:
            raise NotFinal("no slice of the stream is on enough chains yet", hint="ask again in a moment")
        return self._shelf.slices(row, low - 1, 1)[0]

    def holdings(self, row: StreamRow, last: int) -> StreamHoldings:
        """The stream up to slice `last`, as an answer asks for it."""
        known: dict[str, deque[anchors.Proven]] = {}
        before, told = 0, None

        def proven_at(leaf_index: int) -> datetime | None:
            """The not-after that the item's anchors give: asked in log order, read ahead, the same until an anchor ends."""
            nonlocal before, told
            if leaf_index >= before:
                told, before = self._proven(known, leaf_index)
            return told

        return StreamHoldings(self._shelf, row, last=last, proven_at=proven_at)

    def _proven(self, known: dict[str, deque[anchors.Proven]], leaf_index: int) -> tuple[datetime | None, int]:
        """The not-after of a leaf, and up to which leaf it is the same. `known` are the anchors read ahead of each chain."""
        found: list[datetime] = []
        until: list[int] = []
        for chain in self._anchoring.chains.values():
            ahead = known.setdefault(chain.id, deque())
            while ahead and ahead[0].end <= leaf_index:
                ahead.popleft()
            if not ahead or ahead[0].start > max(leaf_index, chain.first):
                with self._store.reading() as connection:
                    ahead = known[chain.id] = deque(anchors.proven_from(connection, chain.id, leaf_index))
            if ahead and ahead[0].start <= max(leaf_index, chain.first):
                found.append(moment(ahead[0].block_ms) + timedelta(seconds=chain.trust.time_error_s))
                until.append(ahead[0].end)
            else:
                until.append(leaf_index + 1)
        return min(found, default=None), min(until, default=leaf_index + 1)

    # --- one answer -------------------------------------------------------------------------------------------------

    def question(self, row: StreamRow, asked: Asked, declaration: Declaration, last: SliceRow) -> Question:
        """The question with its range: from before the first slice, to the newest that is final, where it was left open.

        Raises: Malformed.
        """
        charset = declaration.charset
        first = SliceHeader.parse(self._shelf.slices(row, 0, 1)[0].header)
        start = asked.start or first.created_at - timedelta(seconds=declaration.max_silence_s)
        end = asked.end or SliceHeader.parse(last.header).created_at
        value = None if asked.value is None else AskedValue(asked.value[0], _bytes_of(asked.value[1], charset))
        if value is not None and declaration.rule(value.rule) is None:
            names = ", ".join(entry.rule.name for entry in declaration.rules) or "none"
            raise Malformed(f"rule is none of the stream's: expected {names}")
        return Question.build(
            log=self._origin,
            submitter=row.submitter,
            stream_id=row.stream_id,
            start=start,
            end=end,
            keywords=[_bytes_of(keyword, charset) for keyword in asked.keywords],
            op=asked.op,
            value=value,
        )

    def _answer(self, row: StreamRow, asked: Asked, caller: Caller, prove: Prove) -> StreamAnswer:
        known = self._shelf.known(row)
        last, declaration = self.final(row), known[-1].declaration
        question = self.question(row, asked, declaration, last)
        shows = shows_lines(caller, row.subject)
        if (asked.whole or asked.all_keywords or asked.scan) and not shows:
            raise Forbidden("role may not see lines or keywords: expected court, or business of the stream's subject")
        holdings = self.holdings(row, last.number)
        self._check_length(row, question, holdings, last)
        withheld = not shows
        try:
            files, shown = _files(question, holdings, asked, with_lines=shows)
        except NotFound:
            # The archive is away: what the index says, and its proof, do not need it.
            withheld = True
            files, shown = _files(question, holdings, asked, with_lines=False)
        notes = self._shelf.notes(row, shown.first, shown.last)
        files |= {recount_name(place): note for place, note in enumerate(notes)}
        beside, named = self._beside(holdings, shown)
        withheld = withheld and shown.lines > 0
        bundle, report = self._issuance.answer(
            beside,
            files,
            caller,
            named=named,
            prove=prove,
            erased=[holdings.row(number).evidence_id for number in shown.erased],
            withheld=(_LINES_CHECK,) if withheld else (),
        )
        value = self._value(question, known, shown, report, files, withheld=withheld)
        if asked.scan:
            value["scan"] = self._scan(question, declaration, holdings, shown)
        if withheld:
            value["lines"] = None
            value["proof_without_lines"] = b64(bundle)
            value["archive"] = "away" if shows else "not shown to this role"
        # An answer without the lines that its index demands proves nothing: who may not see them gets no bundle.
        return StreamAnswer(None if withheld else bundle, report, value)

    def _check_length(self, row: StreamRow, question: Question, holdings: StreamHoldings, last: SliceRow) -> None:
        """Pass a question whose range is short enough for one answer. Raises: Malformed."""
        behind = self._shelf.first_from(row, question.end)
        count = min(last.number, last.number if behind is None else behind) - holdings.first_shown(question.start) + 1
        most = min(MAX_SLICES, MAX_WORK // (SLICE_WORK + KEYWORD_WORK * max(1, len(question.keywords))))
        if count > most:
            raise Malformed(
                f"range holds {count} slices: expected at most {most} in one answer to this question",
                hint="ask for shorter ranges one after the other: each answer is complete for its own",
            )

    @staticmethod
    def _beside(holdings: StreamHoldings, shown: Shown) -> tuple[list[int], list[BlockRef]]:
        """The items beside an answer: the last slice's first, then the declarations', then those that prove times.

        And the blocks that the headers of these slices name.
        """
        slices = [holdings.row(number) for number in (shown.last, *shown.slices)]
        declared = [holdings.known(digest).leaf_index for digest in shown.declarations]
        indexes = [slices[0].leaf_index, *declared, *(row.leaf_index for row in slices)]
        named = [ref for row in slices for ref in SliceHeader.parse(row.header).after]
        return list(dict.fromkeys(indexes)), named

    def _value(
        self,
        question: Question,
        known: Sequence[Known],
        shown: Shown,
        report: Report,
        files: dict[str, bytes],
        *,
        withheld: bool,
    ) -> dict[str, JSONValue]:
        declaration = known[-1].declaration
        used = [one for one in known if one.declaration.pair.sm3 in shown.declarations]
        indexed = [all(keyword in one.declared.keywords for one in used) for keyword in question.keywords]
        counts: list[JSONValue] = []
        asked = question.keywords or (() if question.value is None else (question.value.value,))
        for place, data in enumerate(asked):
            held = question.value is not None or indexed[place]
            counts.append({**shown_text(data, declaration.charset), "n": shown.counts[place] if held else None, "indexed": held})
        lines = None if withheld else self._lines(files, question, declaration, shown.first)
        verdict = Verdict.INDETERMINATE if withheld else report.verdict
        value: dict[str, JSONValue] = {
            "stream_id": question.stream_id,
            "submitter": question.submitter,
            "from": format_time(question.start),
            "to": format_time(question.end),
            "op": question.op,
            "rule": None if question.value is None else question.value.rule,
            "counts": counts,
            "slices": {"first": shown.first, "last": shown.last},
            "covered": shown.covered,
            "lines_total": shown.lines,
            "erased": [f"{question.stream_id}/{number}" for number in shown.erased],
            "verdict": None if verdict is None else verdict.value,
            "sentence": "" if verdict is None else " ".join(SENTENCES[verdict]),
            "findings": list(report.findings),
            "not_checked": list(report.not_checked),
            "indeterminate": [
                f"{step.number}: {step.detail}"
                for step in report.steps
                if step.verdict is not None and step.verdict.value != "VALID"
            ],
            "lines": None if lines is None else lines[:MAX_LINES_LISTED],
        }
        if not all(indexed):
            value["hint"] = (
                "not indexed: the index says nothing of such a keyword; ask with scan, or with whole, to count the lines"
            )
        return value

    @staticmethod
    def _lines(files: dict[str, bytes], question: Question, declaration: Declaration, first: int) -> list[JSONValue]:
        """The lines of an answer that hold what was asked, in order; a slice shown whole shows others too."""
        found: list[JSONValue] = []
        headers = files[SLICES].split(b"\n") if LINES in files else []
        for text in files.get(LINES, b"").splitlines():
            value = parse(text, max_bytes=MAX_LINE_BYTES)
            header = SliceHeader.parse(headers[value["number"] - first])
            for place, leaf in value["lines"]:
                _, record = open_line(unb64(leaf, what="line"))
                if _wanted(_counted(record.payload, question, declaration), question):
                    found.append(_line(header, place, record, declaration))
        return found

    def _scan(self, question: Question, declaration: Declaration, holdings: StreamHoldings, shown: Shown) -> dict[str, JSONValue]:
        """Every archived line in range counted now: our word, without proof, for what the index does not hold."""
        found: list[JSONValue] = []
        totals = [0] * max(1, len(question.keywords))
        for header in holdings.headers(shown.first):
            if header.created_at < question.start or not header.lines or header.number in shown.erased:
                continue
            buffer = holdings.records(header.number)
            for place, record in enumerate(buffer.records()):
                counted = _counted(record.payload, question, declaration)
                for number, n in enumerate(counted):
                    totals[number] += n
                if _wanted(counted, question) and len(found) < MAX_LINES_LISTED:
                    found.append(_line(header, place, record, declaration))
        return {"counts": totals, "lines": found, "proof": "none: the service's word about its archive"}


class _CountsOnly(Answering):
    """An answer that shows what the index says and no line."""

    def _show_lines(self, header: Held, demanded: Sequence[int]) -> None:
        del header
        self._lines += len(demanded)


def _files(question: Question, holdings: StreamHoldings, asked: Asked, *, with_lines: bool) -> tuple[dict[str, bytes], Shown]:
    """The files of `stream/` that answer the question."""
    parts = Parts()
    if with_lines:
        shown = Answering(question, holdings, parts.sink, whole=asked.whole, all_keywords=asked.all_keywords).write()
    else:
        shown = _CountsOnly(question, holdings, parts.sink).write()
    return parts.files(), shown


def _counted(payload: bytes, question: Question, declaration: Declaration) -> list[int]:
    text = counted_part(payload, declaration.encoding)
    if question.value is not None:
        rule = declaration.rule(question.value.rule)
        return [0 if rule is None else values_in(text, rule.rule).count(question.value.value)]
    return [count(text, keyword, boundary=declaration.boundary, case=declaration.case) for keyword in question.keywords]


def _wanted(counted: Sequence[int], question: Question) -> bool:
    return all(counted) if question.op == Op.AND else any(counted)


def _line(header: SliceHeader, place: int, record: Record, declaration: Declaration) -> dict[str, JSONValue]:
    """One line with its position and the time of its collection."""
    payload = record.payload
    line: dict[str, JSONValue] = {
        "slice_id": header.slice_id,
        "line": place,
        "position": str(Position(header.start.epoch, record.position)),
        "collected_at": format_time(header.created_at),
    }
    if declaration.encoding == "kafka":
        at_ms, key, value = open_kafka(payload)
        line |= {"time_ms": at_ms, "key": None if key is None else shown_text(key, declaration.charset)}
        return line | (shown_text(value, declaration.charset) if value is not None else {"text": None})
    return line | shown_text(payload, declaration.charset)
