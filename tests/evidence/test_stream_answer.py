"""Questions, recount notes, and what an answer shows: no more than the question demands, and enough evidence."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from stream_world import RECOUNTER, STREAM, SUBMITTER, Stream, secret_of
from verifier_world import ORIGIN, key

from models import answer
from models.answer import INDEX, KEYWORDS, LINES, RULES, SLICES, answer_files
from models.counting import Counted
from models.errors import Malformed, Unknown, VerificationError
from models.extraction import Rule
from models.levels import levels_of
from models.merkle import leaf_hashes
from models.question import AskedValue, Question
from models.record import Buffer, Record
from models.recount import RecountNote, check_pieces, recount_note, recount_slice
from models.slice import Kind, commit_slice

START = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)


def ask(**options: Any) -> Question:
    facts: dict[str, Any] = {
        "log": ORIGIN, "submitter": SUBMITTER, "stream_id": STREAM, "start": START, "end": START + timedelta(hours=1),
        "keywords": [b"buy"],
    }  # fmt: skip
    return Question.build(**{**facts, **options})


def rows(files: dict[str, bytes], name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files.get(name, b"").splitlines()]


# --- questions --------------------------------------------------------------------------------------------------------


def test_question_is_read_back_and_its_keywords_are_put_in_order() -> None:
    question = ask(keywords=[b"sell", b"buy"], op="and")
    assert question.keywords == (b"buy", b"sell")
    assert Question.parse(question.data) == question
    assert question.to_json()["op"] == "and"


@pytest.mark.parametrize(
    "options",
    [
        {"end": START}, {"end": START - timedelta(hours=1)}, {"keywords": []}, {"keywords": [b"a", b"a"]}, {"keywords": [b""]},
        {"keywords": [b"x" * 257]}, {"keywords": [bytes([number]) for number in range(65, 82)]}, {"op": "not"},
        {"value": AskedValue("r", b"1")}, {"keywords": [], "value": AskedValue("r", b"")},
        {"keywords": [], "value": AskedValue("", b"1")}, {"keywords": [], "value": AskedValue("r", b"1" * 65)},
        {"stream_id": "S"}, {"submitter": ""}, {"log": "x!"},
    ],
)  # fmt: skip
def test_question_that_asks_nothing_too_much_or_backwards_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        ask(**options)


def test_keywords_of_a_question_stand_in_order() -> None:
    data = ask(keywords=[b"buy", b"sell"]).data
    with pytest.raises(Malformed, match="ascend"):
        Question.parse(data.replace(b'"YnV5","c2VsbA"', b'"c2VsbA","YnV5"'))
    with pytest.raises(Unknown):
        Question.parse(data.replace(b"cz-query/1", b"cz-query/2"))


def test_question_that_the_declared_rule_never_counts_is_refused() -> None:
    made = Stream([b"buy"], case="ascii", charset="utf-8")
    made.collect([b"BUY"])
    assert answer_files(made.question(b"buy"), made)[1].counts == (1,)
    with pytest.raises(Malformed, match="A–Z"):
        answer_files(made.question(b"Buy"), made)


# --- what is shown ----------------------------------------------------------------------------------------------------


def three() -> Stream:
    made = Stream([b"buy", b"sell"], rules=[Rule("id", b"id=", b"0123456789", 1, 4, bits=2)])
    for lines in ([b"buy", b"other"], [b"nothing"], [], [b"sell id=7", b"buy sell"]):
        made.collect(lines)
    return made


def test_answer_shows_the_lines_demanded_and_no_others() -> None:
    made = three()
    files, shown = answer_files(made.question(b"buy"), made)
    assert [(row["number"], [line for line, _ in row["lines"]]) for row in rows(files, LINES)] == [(0, [0]), (3, [1])]
    assert [row["number"] for row in rows(files, INDEX)] == [0, 1, 3]
    assert all(len(row["leaves"]) == 1 for row in rows(files, INDEX))
    assert len(rows(files, KEYWORDS)[0]["leaves"]) == 1
    assert (shown.first, shown.last, shown.lines, shown.counts, shown.covered) == (0, 3, 2, (2,), True)
    both, shown = answer_files(made.question(b"buy", b"sell", op="and"), made)
    assert [(row["number"], [line for line, _ in row["lines"]]) for row in rows(both, LINES)] == [(3, [1])]
    assert b"other" not in b"".join(files.values())


@pytest.mark.parametrize("asked", [[b"buy"], [b"buy", b"sell"], [b"other"]])
def test_answer_from_kept_hashes_is_the_same_and_opens_only_counts_with_hits(
    asked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = three()
    expected = answer_files(made.question(*asked), made)
    opened = []

    def levels(number: int) -> bytes:
        each = made.held[number]
        declared = made.declareds[0]
        commitment = commit_slice(
            each.buffer, declared.declaration, declared.keywords, secret=secret_of(number), number=number, index=each.index,
            cell_keys=made.cell_keys(declared),
        )  # fmt: skip
        return levels_of(leaf_hashes(commitment.leaves))

    def counted(number: int, ranks: list[int]) -> list[Counted]:
        opened.append(number)
        return [made.held[number].index[rank] for rank in ranks]

    monkeypatch.setattr(made, "index_levels", levels)
    monkeypatch.setattr(made, "counted", counted)
    assert answer_files(made.question(*asked), made) == expected
    assert opened == {b"buy": [0, 3], b"other": []}[asked[0]]
    # A leaf that its hash does not tell to say zero is taken from the counts, whatever they say.
    opened.clear()
    monkeypatch.setattr(made, "index_levels", lambda number: bytes(len(levels(number))))
    if asked != [b"other"]:
        shown = answer_files(made.question(*asked), made)[0]
        assert [row["leaves"] for row in rows(shown, INDEX)] == [row["leaves"] for row in rows(expected[0], INDEX)]
        assert opened == [0, 1, 3]


def test_answer_without_hits_has_no_file_of_lines() -> None:
    made = three()
    files, _ = answer_files(made.question(b"buy", first=1, last=1), made)
    assert LINES not in files
    assert all(files.values())


def test_answer_for_a_value_shows_one_place_of_each_trie() -> None:
    made = three()
    files, shown = answer_files(made.value("id", b"7"), made)
    found = rows(files, RULES)
    assert found[0]["leaf"] is not None
    assert [(row["number"], row["entry"] is not None) for row in found[1:]] == [(0, False), (1, False), (3, True)]
    assert shown.counts == (1,)
    assert KEYWORDS not in files


def test_same_question_gives_the_same_bytes() -> None:
    made = three()
    assert answer_files(made.question(b"buy"), made) == answer_files(made.question(b"buy"), made)


def test_evidence_stands_beside_first_last_and_as_often_as_times_need(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Stream([b"buy"], slice_proof_s=100)
    monkeypatch.setattr(made, "proven_at", lambda number: made.held[number].header.created_at + timedelta(seconds=10))
    for _ in range(30):
        made.collect([b"buy"])
    _, shown = answer_files(made.question(b"buy", first=5), made)
    assert (shown.slices[0], shown.slices[-1]) == (5, 29)
    times = [made.held[number].header.created_at for number in shown.slices]
    assert all((later - sooner).total_seconds() <= 60 + 100 + 21 for sooner, later in pairwise(times))
    assert len(shown.slices) < 10


def test_range_past_the_head_is_answered_and_said_not_to_be_covered() -> None:
    made = three()
    end = made.held[-1].header.created_at + timedelta(days=1)
    assert not answer_files(made.question(b"buy", end=end), made)[1].covered
    made.collect(kind=Kind.END)
    assert answer_files(made.question(b"buy", end=end), made)[1].covered


def test_stream_without_slices_cannot_be_asked() -> None:
    made = Stream([b"buy"])
    with pytest.raises(Malformed, match="no slice yet"):
        answer_files(ask(), made)


def test_answer_that_no_verifier_would_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = three()
    monkeypatch.setattr(answer, "MAX_FILE_BYTES", 2000)
    with pytest.raises(Malformed, match=r"too long.*slices\.jsonl") as caught:
        answer_files(made.question(b"buy"), made)
    assert "shorter range" in str(caught.value.hint)


def test_one_header_before_the_range_and_none_after_it_is_shown() -> None:
    made = three()
    files, _ = answer_files(made.question(b"buy", first=2, last=2), made)
    assert [row["number"] for row in rows(files, SLICES)] == [1, 2]


# --- recounts ---------------------------------------------------------------------------------------------------------


def test_recount_note_is_read_back_as_it_was_signed() -> None:
    made = three()
    note = recount_note(made.declareds[0].declaration, [each.header for each in made.held])
    text = note.sign(key("recounter"), name=RECOUNTER.name)
    assert RecountNote.parse(text.encode()).text() == note.text()
    lines = text.split("\n")
    assert lines[:3] == ["cz-recount/1", STREAM, "0 3"]
    assert lines[5] == "equal"
    for changed in (
        text.replace("equal", "other"),
        text.replace("0 3", "3 0"),
        text.replace("0 3", "0  3"),
        text.replace("/1", "/2", 1),
    ):
        with pytest.raises(Malformed):
            RecountNote.parse(changed.encode())
    with pytest.raises(Malformed):
        recount_note(made.declareds[0].declaration, [])


def test_recount_finds_altered_records_and_another_declaration() -> None:
    made = three()
    held, declared = made.held[0], made.declareds[0]
    keys = made.cell_keys(declared)

    def again(buffer: Buffer) -> None:
        recount_slice(held.header, buffer, declared.declaration, declared.keywords, secret=made.secret(0), cell_keys=keys)

    again(held.buffer)
    records = list(held.buffer.records())
    with pytest.raises(VerificationError, match="line altered"):
        again(Buffer.of([Record(0, b"bux"), *records[1:]]))
    with pytest.raises(VerificationError):
        again(Buffer.of(records[:1]))
    other = Stream([b"buy", b"sell"]).declareds[0].declaration
    with pytest.raises(VerificationError, match="older declaration"):
        recount_slice(held.header, held.buffer, other, declared.keywords, secret=made.secret(0))


@pytest.mark.parametrize(
    ("source", "records", "end", "pieces", "good"),
    [
        ("file:x", [(0, b"ab"), (3, b"c")], 5, 0, True),
        ("file:x", [(0, b"ab"), (2, b"c")], 4, 1, True),
        ("file:x", [(0, b"ab"), (3, b"c")], 4, 1, True),
        ("file:x", [(0, b"ab"), (3, b"c")], 5, 1, False),
        ("file:x", [(0, b"ab"), (4, b"c")], 6, 0, False),
        ("file:x", [(1, b"b"), (3, b"c")], 5, 0, False),
        ("http://push", [(0, b"ab"), (1, b"c")], 2, 0, True),
        ("http://push", [(0, b"ab"), (7, b"c")], 9, 0, True),
        ("http://push", [(0, b"ab"), (7, b"c")], 7, 0, False),
    ],
)
def test_positions_tile_the_slice(source: str, records: list[tuple[int, bytes]], end: int, pieces: int, good: bool) -> None:  # noqa: FBT001 - a column of the table
    made = Stream([b"b"], source=source)
    held = made.collect([line for _, line in records], pieces=pieces)
    buffer = Buffer.of(Record(*record) for record in records)

    header = held.header._replace(end=held.header.end._replace(offset=end))
    if good:
        check_pieces(header, buffer, made.declareds[0].declaration)
        return
    with pytest.raises(VerificationError):
        check_pieces(header, buffer, made.declareds[0].declaration)
