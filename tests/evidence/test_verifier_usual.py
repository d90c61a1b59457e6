"""Rows of the usual form are judged without being read, and the report is the one that the general rules give."""

import dataclasses
import json
from collections.abc import Iterator
from itertools import product
from random import Random

import pytest
from stream_world import Stream
from verifier_world import refusals

from evidence.checks.stream_matter import DeclaredCase, Rows
from evidence.verifier import verify
from models.answer import INDEX, LINES
from models.bundle import pack
from models.canonical import JSONValue, canonical
from models.counting import Counted
from models.report import Report, Verdict

WORDS = [b"buy", b"sell", *(b"w%02d" % number for number in range(9))]
ROUNDS = 90


def stream() -> Stream:
    made = Stream(WORDS)
    made.collect([b"buy sell buy", b"w03"])
    made.collect([b"nothing"])
    made.collect([b"sell", b"buy"])
    made.collect([b"end"])
    return made


def judged(made: Stream, files: dict[str, bytes], *, usual: bool) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        if not usual:
            patch.setattr(DeclaredCase, "usual_form", lambda *_: None)
            patch.setattr(Rows, "is_behind", lambda *_: False)
        report = verify(pack(files, "answer"), made.trust())
    return dataclasses.replace(report, bundle=None)


def mutants(data: bytes, random: Random) -> Iterator[bytes]:
    """The rows with bytes, values, hashes or whole rows exchanged, most of them canonical still."""
    rows = [json.loads(line) for line in data.splitlines()]
    for _ in range(ROUNDS):
        made = json.loads(json.dumps(rows))
        row = random.choice(made)
        leaf = random.choice(row["leaves"])
        digits = [at for at, each in enumerate(leaf[1]) if each.isdigit()]
        match random.randrange(9):
            case 0:
                at = random.choice(digits)
                leaf[1] = leaf[1][:at] + random.choice("0123456789") + leaf[1][at + 1 :]
            case 1:
                leaf[1] = leaf[1].replace(",0,[]]", random.choice([",1,[[0,1]]]", ",1,[]]", ",0,[[0,1]]]", ",1,[[9,1]]]"]))
            case 2:
                leaf[0] += random.choice([-1, 1])
            case 3:
                at = random.randrange(len(row["proof"]))
                row["proof"][at] = random.choice([random.choice(row["proof"]), row["proof"][at][:-2] + "x=", "A" * 44, ""])
            case 4:
                row["number"] += random.choice([-1, 1])
            case 5:
                row["leaves"] = random.choice([row["leaves"][::-1], row["leaves"][:1], row["leaves"] * 2])
            case 6:
                row["proof"] = random.choice([row["proof"][::-1], row["proof"][1:], [*row["proof"], row["proof"][0]]])
            case 7:
                random.shuffle(made)
            case _:
                at = random.randrange(4, len(leaf[1]))
                leaf[1] = leaf[1][:at] + random.choice('AQgw\\" é1') + leaf[1][at + 1 :]
        yield b"".join(canonical(each) + b"\n" for each in made)


@pytest.mark.parametrize("asked", [[b"buy"], [b"sell", b"w08"], [b"buy", b"sell", b"w00"]])
def test_report_on_altered_rows_is_the_one_of_the_general_rules(asked: list[bytes]) -> None:
    made = stream()
    files = made.files(made.question(*asked))
    honest = judged(made, files, usual=True)
    assert honest.verdict is Verdict.VALID, refusals(honest)
    assert honest == judged(made, files, usual=False)
    verdicts = set()
    for rows in mutants(files[INDEX], Random(len(asked))):
        report = judged(made, {**files, INDEX: rows}, usual=True)
        assert report == judged(made, {**files, INDEX: rows}, usual=False)
        verdicts.add(report.verdict)
    assert Verdict.INVALID in verdicts


@pytest.mark.parametrize("asked", [[b"buy"], [b"w00"]])
def test_row_of_lines_that_its_slice_does_not_need_is_refused_where_it_stands(asked: list[bytes]) -> None:
    made = stream()
    files = made.files(made.question(*asked))
    rows = files.get(LINES, b"").splitlines(keepends=True)
    shown = json.loads(made.files(made.question(b"buy"))[LINES].splitlines()[0])
    for place, number in product(range(len(rows) + 1), range(-1, 6)):
        more = canonical({**shown, "number": number}) + b"\n"
        altered = {**files, LINES: b"".join([*rows[:place], more, *rows[place:]])}
        report = judged(made, altered, usual=True)
        assert report.verdict is Verdict.INVALID
        assert report == judged(made, altered, usual=False)


@pytest.mark.parametrize(
    ("n", "places"), [(1, []), (0, [(0, 1)]), (1, [(0, 2)]), (2, [(1, 1), (0, 1)]), (0, [(0, 0)]), (1, [(0, 1)])]
)
def test_leaf_fixed_at_collection_that_contradicts_itself_is_refused(n: int, places: list[tuple[int, int]]) -> None:
    made = Stream(WORDS, lie=lambda index: [Counted(each.keyword, n, places) for each in index])
    made.collect([b"nothing", b"x"])
    made.lie = None
    made.collect([b"end"])
    files = made.files(made.question(b"buy", b"w00"))
    report = judged(made, files, usual=True)
    assert report.verdict is Verdict.INVALID
    assert report == judged(made, files, usual=False)
    assert next(step.verdict for step in report.steps if step.number == 28) is (
        Verdict.VALID if (n, places) == (1, [(0, 1)]) else Verdict.INVALID
    ), "a leaf that says what a leaf can say is a lie for check 30"


def test_honest_rows_of_the_index_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stream()
    read: list[bytes] = []
    parsed = Rows._parsed

    def reading(line: bytes) -> dict[str, JSONValue]:
        read.append(line)
        return parsed(line)

    monkeypatch.setattr(Rows, "_parsed", staticmethod(reading))
    for asked in ([b"buy"], [b"buy", b"sell"]):
        files = made.files(made.question(*asked))
        assert verify(pack(files, "answer"), made.trust()).verdict is Verdict.VALID
        assert not [line for line in read if line in files[INDEX].splitlines()]
        assert [line for line in read if line in files[LINES].splitlines()]


def test_index_shown_whole_is_read_by_the_general_rules() -> None:
    made = Stream(WORDS, index_algorithm="hash", index_private=False, slice_private=False)
    made.collect([b"buy sell buy", b"w03"])
    made.collect([b"end"])
    files = made.files(made.question(b"buy"))
    report = judged(made, files, usual=True)
    assert report.verdict is Verdict.VALID, refusals(report)
    broken = judged(made, {**files, INDEX: files[INDEX].replace(b",2,[[0,2]]", b",1,[[0,1]]")}, usual=True)
    assert broken.verdict is Verdict.INVALID
