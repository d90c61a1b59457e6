"""Checks 23, 24, 26 and 27: the row of slices without hole in number, position or collection time.

Headers are met one after the other; of each only what the next one needs is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from evidence.checks.case import at
from evidence.checks.stream_evidence import Preserved
from evidence.checks.stream_lines import Asked, SliceLines
from evidence.checks.stream_matter import DeclaredCase, Matter, Rows
from evidence.checks.stream_recount import Recounted
from models.answer import RULES, SLICES
from models.canonical import format_time
from models.digest import Algorithm
from models.errors import EvidenceError, Undecided, VerificationError
from models.extraction import verify_cell
from models.slice import MAX_HEADER_BYTES, Kind, SliceHeader, check_deadline, check_link, check_tiling

HEADER_COST, BYTES_PARSED = 40, 20
"""What a header costs to judge, in microseconds; how many bytes of it are parsed in one."""


class Walk:
    """The headers of an answer, from the first to the last, and what was counted on the way."""

    def __init__(self, matter: Matter, preserved: Preserved, recounted: Recounted, rows: Mapping[str, Rows]) -> None:
        self._matter = matter
        self._judge = matter.case.judge
        self._preserved = preserved
        self._recounted = recounted
        self._rows = rows
        self._lines = SliceLines(matter, rows, recounted)
        self._place = -1
        self._asked: tuple[DeclaredCase, Asked] | None = None
        """What can be asked of the slices of the present declaration."""
        self._unindexed: set[tuple[int, str]] = set()
        self._pieces = 0
        self.first: SliceHeader | None = None
        self.last: SliceHeader | None = None
        self.whole = True
        """Whether every header could be read."""
        self.in_range = 0
        self.range_numbers: tuple[int, int] | None = None

    @property
    def counts(self) -> list[int]:
        """N of each keyword asked over all slices in range, by the index."""
        return self._lines.counts

    @property
    def slices_with(self) -> list[int]:
        """In how many slices each keyword asked stands."""
        return self._lines.slices_with

    def run(self) -> None:
        """Meet every header shown."""
        with self._judge.trying(23, SLICES) as attempt:
            for lines in self._matter.case.files.some_lines(SLICES, limit=MAX_HEADER_BYTES):
                headers = SliceHeader.parse_each(lines)
                for line in lines:
                    self._judge.spend(HEADER_COST + len(line) / BYTES_PARSED)
                    self._meet(next(headers))
        self.whole = attempt.holds

    def _meet(self, header: SliceHeader) -> None:
        before = self.last
        declared = self._declared_of(header)
        try:
            header.check_kind()
        except EvidenceError as error:
            self._judge.heard(24, error)
        if header.stream_id != self._matter.question.stream_id:
            self._judge.refused(23, f"slice is of another stream than the question names ({header.slice_id})")
        if before is None:
            self.first = header
            self._meet_first(header)
        else:
            self._meet_next(header, before)
        if declared is not None:
            try:
                check_deadline(header, declared.declaration)
            except EvidenceError as error:
                self._judge.heard(27, error)
        inside = self._is_inside(header, before)
        self._preserved.meet(header, declared)
        self._preserved.blocks_of(header, before)
        self._recounted.meet(header)
        if inside:
            self._meet_inside(header, before, declared)
        elif before is not None and header.created_at < self._matter.question.start:
            self._judge.refused(26, f"more than one slice before the range is shown ({header.slice_id})")
        elif before is not None and before.created_at >= self._matter.question.end and not self._was_inside(before):
            self._judge.refused(26, f"more than one slice after the range is shown ({header.slice_id})")
        self.last = header

    def _meet_first(self, header: SliceHeader) -> None:
        if header.number == 0 and header.start.offset:
            self._judge.findings.add(f"what lay before position {header.start} was never collected")

    def _meet_next(self, header: SliceHeader, before: SliceHeader) -> None:
        try:
            check_link(before, header)
        except EvidenceError as error:
            self._judge.heard(23, error)
        try:
            check_tiling(before, header)
        except EvidenceError as error:
            self._judge.heard(24, error)

    def _is_inside(self, header: SliceHeader, before: SliceHeader | None) -> bool:
        """Whether the slice is in range: c ≥ T1, and c of the slice before < T2 (formats §11)."""
        question = self._matter.question
        if header.created_at < question.start:
            return False
        return before is None or before.created_at < question.end

    def _was_inside(self, header: SliceHeader) -> bool:
        return self.range_numbers is not None and header.number <= self.range_numbers[1]

    def _meet_inside(self, header: SliceHeader, before: SliceHeader | None, declared: DeclaredCase | None) -> None:
        self.in_range += 1
        self.range_numbers = (header.number if self.range_numbers is None else self.range_numbers[0], header.number)
        self._judge_silence(header, before)
        self._pieces += header.pieces
        if declared is None:
            return
        declared.used = True
        if self._asked is None or self._asked[0] is not declared:
            self._asked = declared, self._asked_of(header, declared)
        if header.lines:
            self._lines.judge(header, declared, self._asked[1])

    def _judge_silence(self, header: SliceHeader, before: SliceHeader | None) -> None:
        """Check 27: no silence beyond the deadline, no gap, no epoch that was left unread."""
        is_late = before is not None and before.next_by is not None and header.created_at > before.next_by
        if not is_late and header.kind != Kind.GAP and header.epoch is None:
            return
        since = "the start" if before is None else format_time(before.created_at)
        interval = f"between {since} and {format_time(header.created_at)}"
        if is_late:
            self._judge.undecided(27, f"heartbeat missing: nothing was collected or said {interval} ({header.slice_id})")
        if header.kind == Kind.GAP:
            lost = f"positions {header.start} to {header.end} were lost"
            self._judge.undecided(27, f"gap: {lost} {interval}: {header.reason} ({header.slice_id})")
        if header.epoch is not None and not header.epoch.previous_complete:
            self._judge.undecided(27, f"gap: the epoch before was not read to its end, {interval} ({header.slice_id})")

    # --- declarations -----------------------------------------------------------------------------------------------

    def _declared_of(self, header: SliceHeader) -> DeclaredCase | None:
        """The declaration of a slice: the present one, or the next shown, whose turn it then is."""
        declared = self._matter.declared
        if self._place >= 0 and declared[self._place].declaration.pair == header.declaration:
            return declared[self._place]
        ahead = self._place + 1
        if ahead < len(declared) and declared[ahead].declaration.pair == header.declaration:
            self._place = ahead
            self._open_cell(declared[ahead])
            return declared[ahead]
        if self._matter.readable:
            self._judge.refused(22, f"older declaration: slice names one that is not shown, or out of order ({header.slice_id})")
        return None

    def _open_cell(self, declared: DeclaredCase) -> None:
        """Of a value: the row that fixes the key of its cell under this declaration."""
        asked = self._matter.question.value
        if asked is None:
            return
        with self._judge.trying(22, RULES):
            row = self._rows[RULES].next("leaf proof")
            path = Rows.path(row["proof"])
            rule = declared.declaration.rule(asked.rule)
            if rule is None:
                if row["leaf"] is not None or path:
                    raise VerificationError("cell leaf is shown of a rule that the declaration does not have")
                return
            declared.cell_key = verify_cell(rule, asked.value, row["leaf"], path)
            declared.indexed = True
            self._judge.passed(22, f"cell of the value is fixed by the declaration (rule {asked.rule})")

    def _asked_of(self, header: SliceHeader, declared: DeclaredCase) -> Asked:
        """What of the question the declaration indexes; the rest is said once to be not indexed."""
        question = self._matter.question
        known: list[tuple[int, int]] = []
        for place, keyword in enumerate(question.keywords):
            rank = declared.ranks.get(keyword)
            if rank is not None:
                known.append((place, rank))
            elif keyword in declared.ranks:
                self._say_unindexed("keyword", place, header)
            else:
                mark = (self._place, str(place))
                self._say_once(mark, f"not indexed, as far as is shown: no leaf from {header.slice_id} on is of a keyword asked")
        if question.value is not None:
            rule = declared.declaration.rule(question.value.rule)
            if rule is None:
                self._say_unindexed("rule", 0, header)
            elif not rule.rule.can_hold(question.value.value):
                self._say_unindexed("value: the rule finds none of its form", 0, header)
        return Asked(tuple(known))

    def _say_unindexed(self, what: str, place: int, header: SliceHeader) -> None:
        self._say_once(
            (self._place, f"{what} {place}"),
            f"not indexed: {what} is none of the declared set from {header.slice_id} on; only a full scan can tell",
        )

    def _say_once(self, mark: tuple[int, str], sentence: str) -> None:
        if mark not in self._unindexed:
            self._unindexed.add(mark)
            self._judge.undecided(22, sentence)

    # --- the whole ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Check 26, and what holds of the row as a whole."""
        judge, first, last = self._judge, self.first, self.last
        if first is None or last is None:
            if self.whole:
                judge.refused(23, "answer shows no slice")
            return
        judge.passed(23, f"slices {first.number} to {last.number} follow each other")
        judge.passed(24, f"positions {first.start} to {last.end} have no hole")
        for declared in self._matter.declared[self._place + 1 :] if self.whole else ():
            shown = declared.declaration.pair.sm3.hex()[:8]
            judge.refused(22, f"declaration is shown that no slice names (SM3 {shown}…)")
        asked = self._matter.question.keywords
        if asked and all(declared.ranks.get(keyword) is not None for declared in self._matter.declared for keyword in asked):
            judge.passed(22, "every keyword asked stands at its rank in the declared set")
        if self._pieces:
            judge.findings.add(f"{self._pieces} records in range were cut into pieces: a keyword across a cut is not counted")
        judge.passed(27, "deadlines were kept and times are proven")
        self._lines.close()
        with judge.trying(26):
            self._judge_range(first, last)

    def _judge_range(self, first: SliceHeader, last: SliceHeader) -> None:
        question = self._matter.question
        left, right = question.start, min(question.end, last.created_at)
        if first.created_at >= question.start:
            silence = self._matter.declared[0].declaration.max_silence_s if self._matter.declared else 0
            since = _earlier(first.created_at, silence) if first.number == 0 else first.created_at
            left = max(left, since)
        if last.kind == Kind.END:
            right = question.end
        if left == question.start and right == question.end:
            self._judge.passed(26, f"range is covered: {format_time(left)} to {format_time(right)}")
            return
        covered = f"covered is {format_time(left)} to {format_time(right)}" if left < right else "nothing is covered"
        newest = max((shown.time or 0 for shown in self._matter.case.by_size(Algorithm.SM3)), default=0)
        if right < question.end and last.next_by is not None and last.next_by < at(newest):
            raise Undecided(f"tail cut or collector silent: {last.slice_id} is the last shown, though more was due; {covered}")
        raise Undecided(f"end of the range is not reached: {covered}")


def _earlier(moment: datetime, seconds: int) -> datetime:
    try:
        return moment - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=moment.tzinfo)
