"""Answers made to keep the verifier busy, or to fill its memory: the work is bounded, and what is beyond it left open."""

import time
from collections.abc import Callable

import pytest
from stream_world import Stream
from verifier_world import refusals

from evidence.checks import judge
from evidence.render import render
from evidence.verifier import verify
from models.answer import INDEX, LINES, SLICES, whole_slice_name
from models.bundle import pack
from models.canonical import b64, canonical
from models.extraction import Rule
from models.report import Verdict

BUDGET_S = 0.4
ASKED = [b"a" * size for size in range(1, 17)]
Files = dict[str, bytes]


def one_slice() -> Stream:
    made = Stream(ASKED)
    made.collect([b"a" * 20])
    made.collect([b"b"])
    return made


def many_headers(size: int) -> tuple[Stream, Files]:
    """The same headers again and again."""
    made = one_slice()
    files = made.files(made.question(b"a"))
    first, last = files[SLICES].splitlines(keepends=True)[:2]
    files[SLICES] = first + last * (size // len(last))
    return made, files


def unusual_headers(size: int) -> tuple[Stream, Files]:
    """Long headers of the general form, each of another number: each is refused anew."""
    made = one_slice()
    files = made.files(made.question(b"a"))
    first, last = files[SLICES].splitlines(keepends=True)[:2]
    more = last.replace(b'"reason":null', b'"reason":"' + "é".encode() * 1000 + b'"')
    files[SLICES] = first + b"".join(
        more.replace(b'"number":1,', b'"number":%d,' % number).replace(b"s1/1", b"s1/%d" % number)
        for number in range(2, 2 + size // len(more))
    )
    return made, files


def many_blocks(size: int) -> tuple[Stream, Files]:
    """Headers that name one height each with another hash: the proof shown is held against every one of them."""
    made = one_slice()
    files = made.files(made.question(b"a"))
    first, last = files[SLICES].splitlines(keepends=True)[:2]
    named = b'"after":[{"chain":"c","hash":"%08x","height":1}]'
    count = size // 2 // len(last)
    files[SLICES] = first + b"".join(last.replace(b'"after":[]', named % number) for number in range(count))
    proof = {"header": "é" * (size // 4), "seals": []}
    files["blocks/0.json"] = canonical({"chain": "c", "engine": "e", "format": "cz-block-proof/1", "height": 1, "proof": proof})
    return made, files


def many_hits(size: int) -> tuple[Stream, Files]:
    """Lines of nothing but hits, for every keyword asked."""
    made = Stream(ASKED)
    for _ in range(max(1, size // (3 << 19))):
        made.collect([b"a" * (1 << 19)] * 3)
    return made, made.files(made.question(*ASKED))


def hits_inside_words(size: int) -> tuple[Stream, Files]:
    """Lines of one long word, in which every keyword asked stands everywhere and counts nowhere."""
    made = Stream([b"b", *ASKED[:15]], boundary="word", charset="ascii")
    for _ in range(max(1, size >> 20)):
        made.collect([b"b " + b"a" * (1 << 18)])
    return made, made.files(made.question(b"b", *ASKED[:15]))


def lines_of_hits(size: int) -> tuple[Stream, Files]:
    """As many lines as an answer is made of at once, each of which the index demands."""
    made = Stream([b"a"])
    for _ in range(max(1, size >> 20)):
        made.collect([b"a"] * (1 << 14))
    return made, made.files(made.question(b"a"))


def whole_slices(size: int) -> tuple[Stream, Files]:
    """Slices of the shortest lines, shown whole: each line is counted again for every keyword."""
    made = Stream(ASKED)
    for _ in range(max(1, size // (1 << 18))):
        made.collect([b"b"] * (1 << 13))
    return made, made.files(made.question(*ASKED), whole=True)


def many_places(size: int) -> tuple[Stream, Files]:
    """Places everywhere at which a value could begin, and none does."""
    rule = Rule("v", b"a", bytes(range(97, 123)), 1, 64)
    made = Stream([b"x"], rules=[rule])
    for _ in range(max(1, size // (1 << 19))):
        made.collect([b"a" * (1 << 19) + b"-a7-ab-"])
    return made, made.files(made.value("v", b"b", start=made.question(b"x").start, end=made.question(b"x").end))


def long_rows(size: int) -> tuple[Stream, Files]:
    """Rows of as many values as a row may hold, out of order: each is read, and refused."""
    made = one_slice()
    files = made.files(made.question(b"a"))
    row = canonical({"leaves": [[place, "x"] for place in range(60_000)], "number": 0, "proof": []}) + b"\n"
    files[INDEX] = row * max(1, size // len(row))
    return made, files


def long_proofs(size: int) -> tuple[Stream, Files]:
    made = one_slice()
    files = made.files(made.question(b"a"))
    row = canonical({"lines": [], "number": 0, "proof": [b64(bytes(32))] * 60_000}) + b"\n"
    files[LINES] = row * max(1, size // len(row))
    return made, files


def keyword_leaves(size: int) -> tuple[Stream, Files]:
    """All of a large K shown, declaration after declaration."""
    words = sorted(b"w%05d" % number for number in range(12_000))
    made = Stream(words)
    made.collect([b"w00000"])
    for _ in range(max(1, size >> 20)):
        made.declare(words)
        made.collect([b"w00000"])
    return made, made.files(made.question(b"w00000"), all_keywords=True)


def short_leaves(size: int) -> tuple[Stream, Files]:
    """Slices shown whole that hold nothing but the lengths of empty lines."""
    made = Stream([b"a"])
    for _ in range(max(1, size >> 22)):
        made.collect([b"a"])
    files = made.files(made.question(b"a"))
    for each in made.held:
        files[whole_slice_name(each.header.number)] = bytes(32) + bytes(4 << 20)
    return made, files


BUILD = [
    many_headers, unusual_headers, many_blocks, many_hits, hits_inside_words, lines_of_hits, whole_slices, many_places, long_rows,
    long_proofs, keyword_leaves, short_leaves,
]  # fmt: skip


@pytest.mark.parametrize("build", BUILD, ids=lambda build: build.__name__)
def test_work_beyond_the_bound_is_left_open_and_takes_no_longer(
    build: Callable[[int], tuple[Stream, Files]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, files = build(1 << 21)
    data, trust = pack(files, "answer"), made.trust()
    monkeypatch.setattr(judge, "MAX_WORK", BUDGET_S * 1e6)
    began = time.process_time()
    report = verify(data, trust)
    assert time.process_time() - began < 3 * BUDGET_S
    assert report.verdict is not Verdict.VALID
    assert render(report)


def test_an_honest_answer_beyond_the_bound_is_left_open_and_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Stream([b"a", b"b"])
    for number in range(60):
        if number == 30:
            made.declare([b"a", b"b", b"c"])
        made.collect([b"a b", b"b"] if number % 3 else [])
    files = made.files(made.question(b"a", b"b"), whole=True)
    data, trust = pack(files, "answer"), made.trust()
    assert verify(data, trust).verdict is Verdict.VALID
    seen = set()
    for budget in (1, 100, 300, 1000, 2000, 3000, 4000, 5000):
        monkeypatch.setattr(judge, "MAX_WORK", budget)
        report = verify(data, trust)
        seen.add(report.step(23).verdict)
        assert report.verdict is Verdict.INDETERMINATE, refusals(report)
        assert all(step.verdict is not Verdict.INVALID for step in report.steps)
        assert "more work than is done in one run" in "".join(step.detail for step in report.steps)
        assert not [finding for finding in report.findings if "complete" in finding]
    assert seen == {None, Verdict.INDETERMINATE}


def test_signatures_are_work_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = one_slice()
    data, trust = pack(made.files(made.question(b"a")), "answer"), made.trust()
    assert verify(data, trust).verdict is Verdict.VALID
    monkeypatch.setattr(judge, "SIGNATURES_WORK", 1e12)
    assert verify(data, trust).verdict is Verdict.INDETERMINATE


def test_reasons_beyond_the_first_are_counted_and_not_kept() -> None:
    found = judge.Judge()
    for number in range(1000):
        found.refused(23, f"slice {number} is wrong")
        found.refused(23, "slice 3 is wrong")
    found.answers = True
    (step,) = [step for step in found.steps() if step.number == 23]
    assert step.detail.endswith("slice 7 is wrong; and 992 more")
