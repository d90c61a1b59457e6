"""Checks 22 to 31 of an answer about a stream: complete with respect to the committed index, or not.

The files of an answer are read side by side, slice by slice, so that its length costs no memory.
"""

from __future__ import annotations

from evidence.checks.case import Case
from evidence.checks.stream_evidence import Preserved
from evidence.checks.stream_matter import Matter, Rows, shown_keyword
from evidence.checks.stream_recount import Recounted
from evidence.checks.stream_walk import Walk
from evidence.checks.times import name_unbounded
from models.answer import DECLARATIONS, INDEX, KEYWORDS, LINES, QUERY, RULES, SLICES
from models.declaration import MAX_DECLARATION_BYTES, Declaration
from models.errors import Undecided, VerificationError
from models.keywords import verify_keywords
from models.question import Question

MAX_DECLARATIONS = 64
BYTES_UNPACKED = 150
"""So many bytes of a bundle are hashed, twice over, in a microsecond."""
COMPLETE = "答案相对于已提交的索引是完整的: the answer is complete with respect to the committed index"
UNPROVEN = (
    "(a) 未展示的行不含所问关键字，仅以采集时固定的索引为准: a line not shown lacks the keyword only as the index says",
    "(b) 采集之前数据源是否完整、真实: whether the source was complete or honest before collection",
    "(b′) 日志是否未接纳该流的第二个分支: that the log admitted no second branch of the stream",
    "(c) 所覆盖时间之后的任何内容: anything after the covered end",
)
"""What no answer proves (formats §5.7); the first falls away where the slices were counted again."""


def check_stream(case: Case) -> None:
    """Checks 22 to 31, after all that makes an evidence: they use the not-after of each.

    Source: formats §5.6, §5.7, §5.9, §11 (Streams); T/SAC 004—2024 6.4.5 d, C.2, C.4, C.5.
    """
    matter = _read_question(case)
    if matter is None:
        name_unbounded(case)
        return
    _read_declarations(matter)
    _read_keywords(matter)
    preserved, recounted = Preserved(matter), Recounted(matter)
    rows = {name: Rows(case, name, number) for name, number in ((INDEX, 28), (LINES, 29), (RULES, 28))}
    walk = Walk(matter, preserved, recounted, rows)
    if SLICES not in case.files:
        case.judge.refused(23, f"answer shows no slices ({SLICES})")
    else:
        walk.run()
    if walk.whole and matter.readable:
        for row in rows.values():
            row.close()
    walk.close()
    preserved.close(walk)
    recounted.close(walk)
    name_unbounded(case)
    _say(matter, walk, recounted)


def _read_question(case: Case) -> Matter | None:
    with case.judge.trying(22, QUERY):
        # What taking the bundle apart has cost already.
        case.judge.spend(case.files.size / BYTES_UNPACKED)
        if QUERY not in case.files:
            raise VerificationError("answer does not say its question")
        question = Question.parse(case.files[QUERY])
        case.question = question.to_json()
        return Matter(case, question)
    return None


def _read_declarations(matter: Matter) -> None:
    """The declarations shown, each naming the one before, all of the stream that the question names."""
    case, question = matter.case, matter.question
    with case.judge.trying(22, DECLARATIONS) as attempt:
        if DECLARATIONS not in case.files:
            raise VerificationError("answer shows no declaration")
        for line in case.files.lines(DECLARATIONS, limit=MAX_DECLARATION_BYTES):
            if len(matter.declared) >= MAX_DECLARATIONS:
                raise Undecided(f"answer shows more declarations than are read in one run: expected at most {MAX_DECLARATIONS}")
            declaration = Declaration.parse(line)
            question.check_fits(declaration)
            if matter.declared:
                declaration.check_follows(matter.declared[-1].declaration)
            matter.declare(declaration)
    matter.readable = attempt.holds


def _read_keywords(matter: Matter) -> None:
    """Check 22: the rank of every keyword asked under each declaration, one line a declaration."""
    case, question = matter.case, matter.question
    if question.value is not None:
        if KEYWORDS in case.files:
            case.judge.refused(22, f"keywords are shown though a value was asked for ({KEYWORDS})")
        return
    rows = Rows(case, KEYWORDS, 22)
    for declared in matter.declared:
        with case.judge.trying(22, KEYWORDS):
            value = rows.next("leaves proof")
            leaves = rows.places(value["leaves"])
            path = rows.path(value["proof"])
            size = declared.declaration.keywords_size
            root = declared.declaration.keywords.sm3
            declared.ranks = verify_keywords(leaves, path, size=size, root=root, asked=question.keywords)
            declared.all_shown = len(leaves) == size
    if matter.readable:
        rows.close()


def _say(matter: Matter, walk: Walk, recounted: Recounted) -> None:
    judge = matter.case.judge
    judge.not_checked.update_all(UNPROVEN if recounted.closed is None else UNPROVEN[1:])
    if recounted.closed is not None:
        judge.findings.add(recounted.closed)
    used = [declared for declared in matter.declared if declared.used]
    for place, keyword in enumerate(matter.question.keywords):
        if any(declared.ranks.get(keyword) is None for declared in used):
            continue  # not indexed throughout: its n would be read as "no hits"
        judge.findings.add(f"n({shown_keyword(keyword)}) = {walk.counts[place]}, {_slices(walk.slices_with[place])}")
        for rank in sorted({declared.ranks[keyword] or 0 for declared in used if not declared.all_shown}):
            judge.not_checked.add(
                f"whether a second leaf of the declared set holds {shown_keyword(keyword)}: "
                f"counts are those of the leaf of rank {rank}"
            )
    if matter.question.value is not None and all(declared.indexed for declared in used):
        rule, value = matter.question.value
        judge.findings.add(f"n({rule} = {shown_keyword(value)}) = {walk.counts[0]}, {_slices(walk.slices_with[0])}")


def _slices(count: int) -> str:
    return f"in {count} slice{'' if count == 1 else 's'} of those in range"
