"""Answers about streams: what each check 22 to 31 says, by the name of what is wrong."""

import json
from collections.abc import Callable
from datetime import timedelta
from random import Random

import pytest
import stream_cheats as lines
import stream_cheats_row as row
from stream_prover import Prover
from stream_world import RECOUNTER, SILENCE, Stream, secret_of
from verifier_world import key, refusals

from evidence.checks.stream import COMPLETE
from evidence.verifier import verify
from models.answer import DECLARATIONS, INDEX, KEYWORDS, LINES, QUERY, RULES, SLICES, recount_name, whole_slice_name
from models.bundle import pack
from models.canonical import canonical
from models.counting import Counted
from models.errors import VerificationError
from models.extraction import Rule
from models.record import kafka_payload
from models.recount import RecountNote, recount_note, recount_slice
from models.report import STREAM_CHECKS, Report, Verdict
from models.slice import Epoch, Kind

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE
ACCOUNT = Rule("account", b"acct=", b"0123456789", 2, 8, bits=4)


def stream(**options: object) -> Stream:
    made = Stream([b"buy", b"sell", b"AAA"], rules=[ACCOUNT], **options)  # type: ignore[arg-type]
    made.collect([b"buy AAA acct=123", b"sell acct=77", b"nothing"])
    made.collect()
    made.collect([b"buy buy", b"x acct=123 acct=9999999999", b"AAA sell"])
    made.collect([b"end AAA"])
    return made


def judged(made: Stream, files: dict[str, bytes]) -> Report:
    return verify(pack(files, "answer"), made.trust())


def parts(made: Stream, *keywords: bytes, **options: object) -> Prover:
    return Prover(made, made.files(made.question(*keywords, **options)), Random(7))  # type: ignore[arg-type]


# --- honest answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["and", "or"])
def test_honest_answer_is_valid_and_says_what_it_proves(op: str) -> None:
    made = stream()
    report = judged(made, made.files(made.question(b"buy", b"sell", op=op)))
    assert report.verdict is VALID, refusals(report)
    assert COMPLETE in report.findings
    assert "n(“buy”) = 3, in 2 slices of those in range" in report.findings
    assert [sentence[:4].rstrip() for sentence in report.not_checked if sentence.startswith("(")] == ["(a)", "(b)", "(b′)", "(c)"]
    assert report.question["op"] == op
    assert {step.number for step in report.steps} == set(range(1, 32))
    assert {step.number for step in report.steps if step.number > 21} == {check.number for check in STREAM_CHECKS}


def test_keyword_that_stands_nowhere_is_proven_absent() -> None:
    made = Stream([b"buy", b"never"])
    made.collect([b"buy"])
    report = judged(made, made.files(made.question(b"never")))
    assert report.verdict is VALID
    assert "n(“never”) = 0, in 0 slices of those in range" in report.findings


@pytest.mark.parametrize(("value", "n"), [(b"123", 2), (b"77", 1), (b"99", 0), (b"00", 0)])
def test_value_of_a_rule_is_proven_present_or_absent(value: bytes, n: int) -> None:
    made = stream()
    report = judged(made, made.files(made.value("account", value)))
    assert report.verdict is VALID, refusals(report)
    assert any(sentence.startswith(f"n(account = “{value.decode()}”) = {n},") for sentence in report.findings)


@pytest.mark.parametrize(("slice_private", "index_private"), [(False, False), (True, False), (True, True)])
def test_every_row_of_table_c1_gives_a_valid_answer(slice_private: bool, index_private: bool) -> None:  # noqa: FBT001 - the table's columns
    made = stream(slice_private=slice_private, index_private=index_private)
    report = judged(made, made.files(made.question(b"sell")))
    assert report.verdict is VALID, refusals(report)


def test_answer_over_a_part_shows_one_slice_before_and_none_needless() -> None:
    made = stream()
    files = made.files(made.question(b"AAA", first=2, last=2))
    assert [json.loads(line)["number"] for line in files[SLICES].splitlines()] == [1, 2]
    assert judged(made, files).verdict is VALID


def test_kafka_records_are_counted_in_their_value_only() -> None:
    made = Stream([b"buy"], encoding="kafka", source="kafka://broker/topic")
    made.collect([kafka_payload(1, b"buy", b"buy buy"), kafka_payload(2, b"buy", None)])
    report = judged(made, made.files(made.question(b"buy"), whole=True))
    assert report.verdict is VALID, refusals(report)
    assert "n(“buy”) = 2, in 1 slice of those in range" in report.findings


def test_chinese_keywords_are_bytes_in_any_encoding() -> None:
    words = ["买入".encode(), "买入".encode("gbk")]
    made = Stream(words)
    made.collect(["客户买入 100".encode(), "客户买入 100".encode("gbk")])
    for word in words:
        assert judged(made, made.files(made.question(word))).verdict is VALID


def test_change_of_keywords_is_a_new_declaration_from_a_slice_on() -> None:
    made = stream()
    made.declare([b"buy", b"AAA", b"more"])
    made.collect([b"more buy"])
    files = made.files(made.question(b"buy"))
    assert len(files[DECLARATIONS].splitlines()) == len(files[KEYWORDS].splitlines()) == 2
    assert judged(made, files).verdict is VALID
    older = judged(made, made.files(made.question(b"more")))
    assert older.step(22).verdict is INDETERMINATE
    assert "not indexed" in older.step(22).detail


# --- the named failures -------------------------------------------------------------------------------------------------


def another_index(prover: Prover) -> bool:
    one, two = prover.rows[INDEX][:2]
    one.update({name: two[name] for name in one if name != "number"})
    return True


def older_declaration(prover: Prover) -> bool:
    """Answer by a declaration that is not the one its slices name, genuine as it may be."""
    other = Stream([b"AAA", b"buy"])
    other.collect([b"buy"])
    files = other.files(other.question(b"buy", b"AAA"))
    for name in (DECLARATIONS, KEYWORDS):
        prover.rows[name] = [json.loads(line) for line in files[name].splitlines()]
    return True


def other_evidence(prover: Prover) -> bool:
    prover.evidence_of(0)
    return True


NAMED: list[tuple[str, int, str, Callable[[Prover], bool]]] = [
    ("hit dropped", 29, "hit dropped", lines.drop_a_hit),
    ("all lines dropped", 29, "hit dropped", lines.drop_all_lines),
    ("spare line", 29, "nothing demands", lines.add_a_line),
    ("n lowered", 28, "n lowered", lines.lower_n_in_the_leaf),
    ("n and positions disagree", 28, "n lowered", lines.state_another_n),
    ("slice left out", 23, "slice left out", row.leave_a_slice_out),
    ("older index", 28, "older index", another_index),
    ("keyword hidden", 28, "keyword hidden", lines.drop_the_index_of_a_slice),
    ("older declaration", 22, "older declaration", older_declaration),
    ("line altered", 30, "line altered", lines.alter_a_line),
    ("lines swapped", 30, "lines swapped", lines.swap_lines),
    ("tail cut", 26, "tail cut or collector silent", row.cut_the_tail),
    ("slices reordered", 23, "slice left out", row.reorder_slices),
    ("evidence of another slice", 25, "evidence/0", other_evidence),
    ("evidence left out", 25, "no evidence", row.leave_other_evidence_out),
    ("positions moved", 25, "evidence/0", row.move_a_boundary_of_positions),
]


@pytest.mark.parametrize(("number", "words", "cheat"), [entry[1:] for entry in NAMED], ids=[entry[0] for entry in NAMED])
def test_failure_is_called_by_its_name(number: int, words: str, cheat: Callable[[Prover], bool]) -> None:
    made = stream()
    made.world.tick(SILENCE * 3)
    prover = parts(made, b"buy", b"AAA")
    assert cheat(prover)
    report = verify(prover.bundle(), made.trust())
    assert report.verdict in (INVALID, INDETERMINATE)
    assert report.step(number).verdict in (INVALID, INDETERMINATE), refusals(report)
    assert words in report.step(number).detail
    assert COMPLETE not in report.findings


def test_heartbeat_missing_is_indeterminate_with_its_interval() -> None:
    made = stream()
    made.collect([b"late buy"], wait=SILENCE + 30)
    report = judged(made, made.files(made.question(b"buy")))
    assert (report.verdict, report.step(27).verdict) == (INDETERMINATE, INDETERMINATE)
    assert "heartbeat missing: nothing was collected or said between 2026-11-21T06:" in report.step(27).detail
    before = judged(made, made.files(made.question(b"buy", last=3)))
    assert before.verdict is VALID, refusals(before)


def test_gap_is_indeterminate_with_its_interval_and_reason() -> None:
    made = stream()
    made.collect(kind=Kind.GAP, lost=500, reason="removed by retention")
    made.collect([b"buy"])
    report = judged(made, made.files(made.question(b"buy")))
    assert (report.verdict, report.step(27).verdict) == (INDETERMINATE, INDETERMINATE)
    assert "removed by retention" in report.step(27).detail
    assert judged(made, made.files(made.question(b"buy", last=3))).verdict is VALID


def test_gap_concealed_is_invalid() -> None:
    made = stream()
    made.collect(kind=Kind.GAP, lost=500, reason="removed by retention")
    made.collect([b"buy"])
    prover = parts(made, b"buy")
    assert row.conceal_a_gap(prover)
    assert verify(prover.bundle(), made.trust()).verdict is INVALID


def test_epoch_that_was_not_read_to_its_end_is_indeterminate() -> None:
    made = stream()
    made.collect([b"buy"], epoch=Epoch("inode 2", previous_complete=False, reason="truncated"))
    assert judged(made, made.files(made.question(b"buy"))).step(27).verdict is INDETERMINATE
    whole = stream()
    whole.collect([b"buy"], epoch=Epoch("inode 2", previous_complete=True, reason="renamed"))
    assert judged(whole, whole.files(whole.question(b"buy"))).verdict is VALID


def test_end_of_the_range_not_reached_is_indeterminate_with_what_is_covered() -> None:
    made = stream()
    end = made.held[-1].header.created_at + timedelta(seconds=30)
    report = judged(made, made.files(made.question(b"buy", end=end)))
    assert (report.verdict, report.step(26).verdict) == (INDETERMINATE, INDETERMINATE)
    assert "end of the range is not reached: covered is 2026-11-21T06:" in report.step(26).detail


def test_end_of_the_stream_covers_all_after_it() -> None:
    made = stream()
    made.collect(kind=Kind.END)
    end = made.held[-1].header.created_at + timedelta(days=30)
    report = judged(made, made.files(made.question(b"buy", end=end)))
    assert report.verdict is VALID, refusals(report)
    later = made.question(b"buy", start=end - timedelta(days=1), end=end)
    assert judged(made, made.files(later)).verdict is VALID


def test_time_before_the_first_slice_is_covered_by_its_silence_only() -> None:
    made = stream()
    first = made.held[0].header.created_at
    near = made.question(b"buy", start=first - timedelta(seconds=SILENCE))
    assert judged(made, made.files(near)).verdict is VALID
    far = made.question(b"buy", start=first - timedelta(seconds=SILENCE + 1))
    report = judged(made, made.files(far))
    assert report.step(26).verdict is INDETERMINATE


def test_keyword_outside_the_set_is_not_indexed_and_never_no_hits() -> None:
    made = stream()
    report = judged(made, made.files(made.question(b"other")))
    assert (report.verdict, report.step(22).verdict) == (INDETERMINATE, INDETERMINATE)
    assert "not indexed" in report.step(22).detail
    assert not any(sentence.startswith("n(") for sentence in report.findings)
    shown = made.files(made.question(b"other"), absences=True)
    assert len(json.loads(shown[KEYWORDS])["leaves"]) == 2
    proven = judged(made, shown)
    assert (proven.verdict, proven.step(22).verdict) == (INDETERMINATE, INDETERMINATE)
    assert "none of the declared set" in proven.step(22).detail


def test_keyword_of_the_set_that_is_not_shown_is_never_no_hits() -> None:
    made = stream()
    prover = parts(made, b"buy")
    files = made.files(made.question(b"other"))
    for name in (KEYWORDS, INDEX, LINES):
        prover.rows[name] = [json.loads(line) for line in files.get(name, b"").splitlines()]
    report = verify(prover.bundle(), made.trust())
    assert (report.verdict, report.step(22).verdict) == (INDETERMINATE, INDETERMINATE)


def test_times_proven_too_late_are_the_collectors_word() -> None:
    made = stream(slice_proof_s=10)
    made.world.tick(7200)
    report = judged(made, made.files(made.question(b"buy")))
    assert (report.verdict, report.step(27).verdict) == (INDETERMINATE, INDETERMINATE)
    assert "times are the collector's word" in report.step(27).detail


def test_slice_dated_after_the_chain_that_holds_it_is_invalid() -> None:
    made = stream()
    made.world.tick(60)
    made.collect([b"buy"])
    made.world.now -= timedelta(seconds=900)
    report = judged(made, made.files(made.question(b"buy")))
    assert report.step(27).verdict is INVALID


def test_evidence_of_another_signer_is_invalid() -> None:
    made = stream()
    held = made.held[-1]
    held.made = made.preserve("stream-slice@1", held.header.slice_id, held.header.stages(), signer="stranger")
    report = judged(made, made.files(made.question(b"buy")))
    assert report.step(25).verdict is INVALID


def test_line_shown_that_its_index_omits_convicts_the_collector() -> None:
    def lie(index: list[Counted]) -> list[Counted]:
        return [Counted(entry.keyword, 0, []) if entry.keyword == b"AAA" else entry for entry in index]

    made = stream(lie=lie)
    report = judged(made, made.files(made.question(b"buy", b"AAA")))
    assert report.step(30).verdict is INVALID
    assert "index lied" in report.step(30).detail
    assert "proof against the collector" in report.step(30).detail


# --- form -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"), [(QUERY, 22), (DECLARATIONS, 22), (SLICES, 23), (KEYWORDS, 22), (INDEX, 28), (LINES, 29)]
)
def test_file_that_is_missing_is_invalid_by_its_check(name: str, number: int) -> None:
    made = stream()
    files = made.files(made.question(b"buy"))
    del files[name]
    assert judged(made, files).step(number).verdict is INVALID


@pytest.mark.parametrize("name", [QUERY, DECLARATIONS, SLICES, KEYWORDS, INDEX, LINES])
@pytest.mark.parametrize("change", [lambda data: data[:-3] + b"\n", lambda data: b" " + data, lambda data: data + b"{}\n"])
def test_file_that_is_out_of_form_is_not_valid(name: str, change: Callable[[bytes], bytes]) -> None:
    made = stream()
    files = made.files(made.question(b"buy"))
    files[name] = change(files[name])
    assert judged(made, files).verdict is INVALID


@pytest.mark.parametrize("name", [QUERY, DECLARATIONS, SLICES])
def test_later_version_is_indeterminate(name: str) -> None:
    made = stream()
    files = made.files(made.question(b"buy"))
    value = files[name].split(b"\n")
    value[0] = value[0].replace(b'/1","', b'/2","', 1)
    files[name] = b"\n".join(value)
    report = judged(made, files)
    assert report.step(2).verdict is INDETERMINATE
    assert report.verdict is INDETERMINATE, refusals(report)


def test_keywords_beside_a_value_are_refused() -> None:
    made = stream()
    files = made.files(made.value("account", b"123"))
    files[KEYWORDS] = made.files(made.question(b"buy"))[KEYWORDS]
    assert judged(made, files).step(22).verdict is INVALID


@pytest.mark.parametrize("name", [INDEX, RULES, LINES])
def test_row_that_no_slice_needs_is_refused(name: str) -> None:
    made = stream()
    files = made.files(made.question(b"buy"))
    files[name] = files.get(name, b"") + canonical({"number": 99}) + b"\n"
    assert judged(made, files).verdict is INVALID


# --- recounts (31) ------------------------------------------------------------------------------------------------------


def recount(made: Stream) -> RecountNote:
    return recount_note(made.declareds[0].declaration, [each.header for each in made.held])


def test_recount_by_a_known_recounter_closes_the_lie() -> None:
    made = stream()
    note = recount_note(made.declareds[0].declaration, [each.header for each in made.held]).sign(
        key("recounter"), name=RECOUNTER.name
    )
    report = judged(made, made.files(made.question(b"buy"), notes=[note]))
    assert report.verdict is VALID, refusals(report)
    assert any("recounted by recounter" in sentence for sentence in report.findings)
    assert not any(sentence.startswith("(a)") for sentence in report.not_checked)


def test_recount_by_a_stranger_changes_nothing() -> None:
    made = stream()
    note = recount(made).sign(key("stranger"), name="stranger")
    report = judged(made, made.files(made.question(b"buy"), notes=[note]))
    assert report.verdict is VALID
    assert any("recount by stranger" in sentence for sentence in report.not_checked)
    assert any(sentence.startswith("(a)") for sentence in report.not_checked)


def test_recount_of_other_slices_is_invalid() -> None:
    made, other = stream(), stream()
    other.collect([b"more"])
    for headers in ([each.header for each in other.held], [each.header for each in other.held[:2]][::-1]):
        note = recount_note(made.declareds[0].declaration, headers).sign(key("recounter"), name=RECOUNTER.name)
        files = made.files(made.question(b"buy", first=1), notes=[note])
        assert judged(made, files).step(31).verdict is INVALID


def test_recount_with_a_bad_signature_of_a_known_recounter_is_invalid() -> None:
    made = stream()
    note = recount(made)
    good = note.sign(key("recounter"), name=RECOUNTER.name)
    bad = note.sign(key("stranger"), name=RECOUNTER.name)
    files = made.files(made.question(b"buy"), notes=[good])
    assert judged(made, files).verdict is VALID
    files[recount_name(0)] = bad.encode()
    assert judged(made, files).verdict is VALID  # another key id: a stranger's
    altered = good.encode()[:-6] + (b"AAAA" if good.encode()[-6:-2] != b"AAAA" else b"BBBB") + good.encode()[-2:]
    files[recount_name(0)] = altered
    assert judged(made, files).step(31).verdict is INVALID


def test_whole_slices_are_counted_again() -> None:
    made = stream()
    report = judged(made, made.files(made.question(b"buy"), whole=True))
    assert report.verdict is VALID, refusals(report)
    assert any("counted again here" in sentence for sentence in report.findings)
    value = judged(made, made.files(made.value("account", b"123"), whole=True))
    assert value.verdict is VALID, refusals(value)


@pytest.mark.parametrize("at", [0, 40, -1])
def test_whole_slice_that_was_altered_is_invalid(at: int) -> None:
    made = stream()
    files = made.files(made.question(b"buy"), whole=True)
    data = bytearray(files[whole_slice_name(0)])
    data[at] ^= 1
    files[whole_slice_name(0)] = bytes(data)
    assert judged(made, files).step(31).verdict is INVALID


def test_whole_slice_outside_the_range_is_refused() -> None:
    made = stream()
    files = made.files(made.question(b"buy", first=2))
    files[whole_slice_name(0)] = made.files(made.question(b"buy"), whole=True)[whole_slice_name(0)]
    assert judged(made, files).step(31).verdict is INVALID


def test_recounting_a_lying_index_finds_it() -> None:
    def lie(index: list[Counted]) -> list[Counted]:
        return [Counted(entry.keyword, 0, []) for entry in index]

    for made, lied in ((stream(), False), (stream(lie=lie), True)):
        held, declared = made.held[0], made.declareds[0]
        keys = made.cell_keys(declared)
        if not lied:
            recount_slice(held.header, held.buffer, declared.declaration, declared.keywords, secret=secret_of(0), cell_keys=keys)
            continue
        with pytest.raises(VerificationError, match="index lied"):
            recount_slice(held.header, held.buffer, declared.declaration, declared.keywords, secret=secret_of(0), cell_keys=keys)
