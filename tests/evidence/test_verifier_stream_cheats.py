"""No answer that says anything false is ever VALID, however it was cheated with; every honest one is as it should be.

Each corpus is drawn from one seed: a stream of random records, keywords, rules, modes, gaps, silences
and changes of declaration, and a question. The honest answer is verified; then cheats are applied to
it, alone and in twos. Whatever an accepted answer says is compared with what an oracle finds in
the records without any index. By default a few hundred corpora are drawn; the long run is

    STREAM_CORPORA=10000 pytest tests/evidence/test_verifier_stream_cheats.py -k false_answer

which was run whole: 10,000 corpora, up to six cheated answers each, no false answer VALID (39 minutes on a busy machine).
"""

import json
import os
from random import Random
from typing import Any

import pytest
import stream_cheats
import stream_cheats_row
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_prover import CHEATS, Prover, apply
from stream_world import Stream
from verifier_world import refusals

from evidence.verifier import verify
from models.answer import LINES, QUERY
from models.bundle import unpack
from models.canonical import unb64
from models.counting import Counted
from models.extraction import Rule
from models.leaf import open_line
from models.question import Question
from models.report import Report, Verdict
from models.slice import Epoch, Kind

CHEATING = (stream_cheats, stream_cheats_row)
"""The modules whose import fills the list of cheats."""
CORPORA = int(os.environ.get("STREAM_CORPORA", "200"))
WORDS = (b"a", b"b", b"ab", b"ba", b"aa", b"bab", b"id=")
RULE = Rule("id", b"id=", b"12", 1, 3, bits=2)


def record(random: Random) -> bytes:
    parts = [random.choice([b"a", b"b", b" ", b"id=", b"id=1 ", b"id=12 ", b"2", b"c"]) for _ in range(random.randrange(0, 9))]
    return b"".join(parts)


def corpus(random: Random) -> Stream:
    """A stream: clean more often than not; `unclean` holds the slices in which collection itself was at fault."""
    options: dict[str, Any] = random.choice(
        [{}, {}, {}, {"slice_private": False, "index_private": False}, {"slice_private": True, "index_private": False}]
    )
    if random.random() < 0.2:
        options = {**options, "boundary": "word", "charset": "utf-8"}
    keywords = random.sample(WORDS, random.randrange(1, 5))
    stream = Stream(keywords, rules=[RULE] if random.random() < 0.4 else [], **options)
    clean = random.random() < 0.7
    for number in range(random.randrange(1, 7)):
        kind = "data" if random.random() < 0.75 else "heartbeat"
        if not clean and number and random.random() < 0.4:
            kind = random.choice(["gap", "late", "epoch"])
        if number and random.random() < 0.1:
            more = sorted({*keywords, random.choice(WORDS)})
            stream.declare(more, [RULE] if stream.declareds[-1].declaration.rules else [])
        lines = [record(random) for _ in range(random.randrange(1, 6))]
        if kind == "data":
            stream.collect(lines)
        elif kind == "heartbeat":
            stream.collect()
        elif kind == "gap":
            stream.collect(kind=Kind.GAP, lost=random.choice([1, 9]), reason="retention")
        elif kind == "late":
            stream.collect(lines, wait=500)
        else:
            stream.collect(lines, epoch=Epoch("inode 2", previous_complete=False, reason="truncated"))
    if random.random() < 0.2:
        stream.collect(kind=Kind.END)
    return stream


def question_to(stream: Stream, random: Random) -> Question:
    first = random.randrange(len(stream.held))
    last = random.randrange(first, len(stream.held))
    if stream.declareds[0].declaration.rules and random.random() < 0.6:
        return stream.value("id", random.choice([b"1", b"2", b"12", b"21", b"222"]), first=first, last=last)
    known = set.intersection(*(set(each.keywords) for each in stream.declareds))
    asked = random.sample(sorted(known), random.randrange(1, min(3, len(known)) + 1))
    return stream.question(*asked, first=first, last=last, op=random.choice(["and", "or"]))


def in_range(stream: Stream, question: Question) -> list[int]:
    found = []
    for number, each in enumerate(stream.held):
        before = stream.held[number - 1].header if number else None
        if each.header.created_at >= question.start and (before is None or before.created_at < question.end):
            found.append(number)
    return found


def is_clean(stream: Stream, question: Question) -> bool:
    """Whether collection itself was complete over the range, and the range is reached at both ends."""
    numbers = in_range(stream, question)
    for number in numbers:
        header = stream.held[number].header
        before = stream.held[number - 1].header if number else None
        if header.kind == Kind.GAP or (header.epoch is not None and not header.epoch.previous_complete):
            return False
        if before is not None and before.next_by is not None and header.created_at > before.next_by:
            return False
    first, last = stream.held[0].header, stream.held[-1].header
    reached = last.kind == Kind.END or last.created_at >= question.end
    return reached and (question.start >= first.created_at or (first.created_at - question.start).total_seconds() <= 60)


def said(bundle: bytes) -> list[tuple[int, int, bytes]]:
    """The lines that a bundle shows, as (slice, line, payload)."""
    files = unpack(bundle).files
    rows = [json.loads(line) for line in files[LINES].splitlines()] if LINES in files else []
    return [(row["number"], line, open_line(unb64(text))[1].payload) for row in rows for line, text in row["lines"]]


def check_truth(stream: Stream, bundle: bytes, report: Report) -> None:
    """What an accepted answer says is so, for the question that stands in it."""
    question = Question.parse(unpack(bundle).files[QUERY])
    truth = stream.truth(question)
    hashed = stream.declareds[0].declaration.slice == "hash"
    shown = set(said(bundle))
    assert set(truth) <= shown
    whole = {number for number, *_ in truth} if hashed else set()
    assert all(number in whole for number, line, payload in shown - set(truth))
    assert is_clean(stream, question), "accepted though collection was at fault, or the range is not reached"
    for keyword in question.keywords:
        sums = [
            counted.n
            for number in in_range(stream, question)
            for counted in stream.held[number].index
            if counted.keyword == keyword
        ]
        assert any(sentence.startswith(f"n(“{keyword.decode()}”) = {sum(sums)},") for sentence in report.findings)


@pytest.mark.long
@given(st.integers(0, 2**63))
@settings(max_examples=CORPORA)
def test_false_answer_is_never_valid_and_honest_answer_always_is(seed: int) -> None:
    random = Random(seed)
    stream = corpus(random)
    trust = stream.trust()
    question = question_to(stream, random)
    files = stream.files(question)
    honest = verify(Prover(stream, files, random).bundle(), trust)
    expected = Verdict.VALID if is_clean(stream, question) else Verdict.INDETERMINATE
    assert honest.verdict is expected, refusals(honest)
    for _ in range(6):
        prover = Prover(stream, files, random)
        names = random.sample(sorted(CHEATS), random.choice([1, 1, 1, 2]))
        done = [apply(prover, name) for name in names]
        if not any(done):
            continue
        bundle = prover.bundle()
        report = verify(bundle, trust)
        assert report.verdict is not None, (names, report.malformed)
        if report.verdict is Verdict.VALID:
            check_truth(stream, bundle, report)


@pytest.mark.parametrize("name", sorted(CHEATS))
def test_every_cheat_finds_something_to_do_and_is_not_believed(name: str) -> None:
    """Over a few corpora each cheat applies; an answer it changed is VALID only where what it says is still so."""
    applied = refused = 0
    for seed in range(400):
        random = Random(f"{name} {seed}")
        stream = corpus(random)
        prover = Prover(stream, stream.files(question_to(stream, random)), random)
        if not CHEATS[name](prover):
            continue
        applied += 1
        bundle = prover.bundle()
        report = verify(bundle, stream.trust())
        if report.verdict is Verdict.VALID:
            check_truth(stream, bundle, report)
        else:
            refused += 1
        if applied >= 4 and refused:
            return
    assert applied
    assert refused


def test_index_that_lied_when_made_is_believed_unless_recounted() -> None:
    """The one lie an answer cannot show (a): it is closed by counting again."""

    def lie(index: list[Counted]) -> list[Counted]:
        return [Counted(entry.keyword, 0, []) for entry in index]

    stream = Stream([b"a"], lie=lie)
    stream.collect([b"a line", b"b"])
    report = verify(stream.answer(stream.question(b"a")), stream.trust())
    assert report.verdict is Verdict.VALID
    assert any(sentence.startswith("(a)") for sentence in report.not_checked)
    whole = verify(stream.answer(stream.question(b"a"), whole=True), stream.trust())
    assert whole.verdict is Verdict.INVALID
    assert "index lied" in whole.step(31).detail
