"""Answers about streams at their edges: erased slices, blocks that headers name, full scans, the last year there is."""

import json
import tracemalloc
from datetime import timedelta
from random import Random

import pytest
from stream_prover import Prover
from stream_world import Stream, secret_of
from verifier_world import CHAIN, ORIGIN, OTHER, World, refusals

from evidence.checks.stream import COMPLETE
from evidence.verifier import verify
from models.answer import INDEX
from models.bundle import pack
from models.canonical import b64, canonical
from models.checkpoint import Note, TlogProof
from models.commitment import commit, disclose
from models.digest import Algorithm
from models.evidence import Evidence, Statement
from models.extraction import Rule
from models.report import Report, Verdict
from models.template import builtin
from models.trust import TrustRoots

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE


def judged(made: Stream, files: dict[str, bytes], trust: TrustRoots | None = None) -> Report:
    return verify(pack(files, "answer"), trust or made.trust())


# --- erasure ------------------------------------------------------------------------------------------------------------


def tombstone(made: Stream, number: int) -> bytes:
    """The record that slice `number` was erased, with its own place in the log."""
    world, template = made.world, builtin("erasure@1")
    fields = {
        "evidence_id": str(made.held[number].made.evidence.evidence_id), "basis": "请求", "scope": "content",
        "decided_by": "张三",
        "destroyed_at": "2026-11-21T06:10:00+08:00", "stores": [{"store": "a", "confirmed_at": "2026-11-21T06:10:00+08:00"}],
        "backups_gone_by": "2026-12-21T06:10:00+08:00",
    }  # fmt: skip
    stages = commit(template, {"抹除": fields}, secret=secret_of(99), log=ORIGIN, submitter="service", client_key="e1")
    statement = Statement.build(
        client_key="e1", link=None, log=ORIGIN, occurred_at=None, stages=[(stage.name, stage.pair) for stage in stages],
        subject=("p", "平台"), submitter="service", template=(template.name, template.pair),
    )  # fmt: skip
    at = world.tick(1)
    evidence = Evidence.build(
        statement, after=(), commitment="merkle", created_at=at, link=None, on_chain_by=at + timedelta(hours=1), signature=None,
        validated_by="platform",
    )  # fmt: skip
    item = world.append(evidence, template, stages)
    made.anchor()
    size = len(world.items)
    path = tuple(world.trees[Algorithm.SM3].inclusion_path(item.index, size))
    proof = TlogProof(item.index, path, Note.parse(world.note(Algorithm.SM3, size)), Algorithm.SM3).format()
    shown = disclose(template, stages, {("抹除", "evidence_id"), ("抹除", "basis")})
    return canonical({"disclosure": shown, "evidence": b64(evidence.data), "format": "cz-tombstone/1", "proof": proof})


def erased() -> tuple[Stream, dict[str, bytes]]:
    made = Stream([b"buy"])
    for lines in ([b"buy 1"], [b"buy 2"], [b"buy 3"]):
        made.collect(lines)
    made.destroyed = {1}
    stone = tombstone(made, 1)
    return made, {**made.files(made.question(b"buy")), "erasure/0.json": stone}


def test_erased_slice_is_indeterminate_and_shows_its_tombstone() -> None:
    made, files = erased()
    report = judged(made, files)
    assert (report.verdict, report.step(28).verdict, report.step(21).verdict) == (INDETERMINATE, INDETERMINATE, VALID), refusals(
        report
    )
    assert "erased" in report.step(28).detail
    assert [json.loads(row)["number"] for row in files[INDEX].splitlines()] == [0, 2]


def test_slice_that_only_says_it_was_erased_is_a_hidden_keyword() -> None:
    made, files = erased()
    del files["erasure/0.json"]
    report = judged(made, files)
    assert (report.verdict, report.step(28).verdict) == (INVALID, INVALID)


def test_question_over_other_slices_than_the_erased_one_is_valid() -> None:
    made, _ = erased()
    assert judged(made, made.files(made.question(b"buy", first=2))).verdict is VALID


# --- blocks that headers name -------------------------------------------------------------------------------------------


def with_block(seconds: int, *, silence: int = 60) -> tuple[Stream, dict[str, bytes]]:
    """A stream whose second slice names a block made `seconds` after the first one's time."""
    world = World()
    made = Stream([b"buy"], world=world, max_silence_s=silence)
    first = made.collect([b"buy"])
    ref, proof = world.block(CHAIN, first.header.created_at + timedelta(seconds=seconds))
    made.collect([b"more"], after=[ref])
    return made, {**made.files(made.question(b"buy")), "blocks/0.json": proof}


def test_block_that_a_slice_names_is_referred_to_and_came_before_it() -> None:
    made, files = with_block(10)
    assert judged(made, files, made.trust(not_before=True)).verdict is VALID
    assert judged(made, files, made.trust()).verdict is VALID
    del files["blocks/0.json"]
    assert judged(made, files, made.trust(not_before=True)).verdict is VALID


def test_slice_that_names_a_block_of_the_future_is_invalid() -> None:
    made, files = with_block(800)
    assert judged(made, files, made.trust(not_before=True)).step(27).verdict is INVALID


def test_block_that_nothing_names_is_invalid() -> None:
    made, files = with_block(10)
    prover = Prover(made, files, Random(1))
    del prover.headers[1:]
    prover.evidence_of(0)
    files = {**files, "blocks/0.json": made.world.block(CHAIN, made.world.now)[1]}
    assert judged(made, files).step(17).verdict is INVALID


# --- what is said of the whole ------------------------------------------------------------------------------------------


def test_answer_is_called_complete_only_where_everything_holds() -> None:
    made = Stream([b"buy"])
    made.collect([b"buy"])
    files = made.files(made.question(b"buy"))
    assert COMPLETE in judged(made, files).findings
    for roots, number in ((made.world.trust([OTHER]), 16), (made.world.trust([CHAIN], third_parties=9), 16)):
        report = judged(made, files, roots)
        assert (report.verdict, report.step(number).verdict) == (INDETERMINATE, INDETERMINATE)
        assert all(report.step(each).verdict is not INVALID for each in range(22, 32))
        assert COMPLETE not in report.findings, "slices that no chain holds may be others tomorrow"


# --- full scan, last year -----------------------------------------------------------------------------------------------


def test_full_scan_of_whole_slices_counts_what_is_not_indexed() -> None:
    made = Stream([b"buy"])
    made.collect([b"buy other other", b"x"])
    made.collect([b"other"])
    report = judged(made, made.files(made.question(b"buy", b"other"), whole=True))
    assert (report.verdict, report.step(22).verdict, report.step(31).verdict) == (INDETERMINATE, INDETERMINATE, VALID)
    assert "full scan of the slices shown whole: “other” stands in them 3 times" in report.findings
    assert not any("full scan" in finding for finding in judged(made, made.files(made.question(b"buy"), whole=True)).findings)
    partly = made.files(made.question(b"other"), whole=True)
    del partly["stream/slices/1.bin"]
    assert not any("full scan" in finding for finding in judged(made, partly).findings)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00.000Z"])
def test_times_at_the_ends_of_the_calendar_are_no_accident(moment: str) -> None:
    made = Stream([b"buy"])
    made.collect([b"buy"])
    made.collect([b"buy"])
    for place in (0, 1):
        for name in ("slice_create_time", "next_by"):
            prover = Prover(made, made.files(made.question(b"buy")), Random(1))
            prover.headers[place][name] = moment
            assert verify(prover.bundle(), made.trust()).verdict is INVALID
    for name in ("from", "to"):
        prover = Prover(made, made.files(made.question(b"buy")), Random(1))
        prover.query[name] = moment
        assert verify(prover.bundle(), made.trust()).verdict in (INVALID, INDETERMINATE)


def test_slice_that_lacks_a_declared_rule_is_invalid() -> None:
    made = Stream([b"buy"], rules=[Rule("id", b"id=", b"12", 1, 3, bits=2)])
    made.collect([b"buy"])
    prover = Prover(made, made.files(made.question(b"buy")), Random(1))
    prover.headers[0]["rules"] = []
    assert verify(prover.bundle(), made.trust()).step(28).verdict is INVALID


def test_any_byte_changed_anywhere_is_never_valid() -> None:
    made = Stream([b"buy", b"sell"], rules=[Rule("id", b"id=", b"12", 1, 3, bits=2)])
    made.collect([b"buy id=1", b"sell"])
    made.collect([b"buy"])
    random = Random(11)
    for question in (made.question(b"buy"), made.question(b"buy", b"sell"), made.value("id", b"1")):
        files, trust = made.files(question, whole=True), made.trust()
        names = [name for name in files if name.startswith("stream/")]
        for _ in range(150):
            name = random.choice(names)
            data = bytearray(files[name])
            at = random.randrange(len(data))
            data[at] ^= 1 << random.randrange(8)
            report = verify(pack({**files, name: bytes(data)}, "answer"), trust)
            free = name.endswith(".bin") and 16 <= at < 32 and question.keywords != made.declareds[0].keywords
            assert report.verdict is not VALID or name == "stream/query.json" or free, (name, at)
            assert report.verdict is not None


def test_answer_of_many_slices_is_verified_in_flat_memory() -> None:

    made = Stream([b"buy"], slice_proof_s=86400)
    peaks = []
    for count in (30, 300):
        while len(made.held) < count:
            made.collect([b"buy %d" % len(made.held)])
        made.anchored = None
        made.world.ends.clear()
        bundle, trust = made.answer(made.question(b"buy")), made.trust()
        verify(bundle, trust)
        tracemalloc.start()
        assert verify(bundle, trust).verdict is VALID
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 400_000
