"""The blocks that slice headers name: what was known when a slice was made bounds it from below, and cannot be back-dated."""

from datetime import timedelta

import pytest
from stream_world import Stream
from verifier_world import CHAIN, OTHER, World, refusals

from evidence.verifier import verify
from models.anchor import BlockRef
from models.bundle import pack
from models.canonical import canonical, parse
from models.report import Report, Verdict

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE
BLOCK = "blocks/0.json"
UNPROVEN = "not-before is unproven (evidence/0)"


def collected(
    seconds: int, *, chain: str = OTHER, seals: int = 4, forged: bool = False, silence: int = 60, wait: int = 20
) -> tuple[Stream, dict[str, bytes]]:
    """A stream whose last slice, `wait` seconds after the first, names a block made `seconds` after the first; its answer."""
    world = World()
    made = Stream([b"buy"], world=world, max_silence_s=silence)
    first = made.collect([b"buy"])
    ref, proof = world.block(chain, first.header.created_at + timedelta(seconds=seconds), seals=seals)
    made.collect([b"more"], after=[BlockRef(chain, ref.height, "00" * 32) if forged else ref], wait=wait - 1)
    return made, {**made.files(made.question(b"buy")), BLOCK: proof}


def judged(made: Stream, files: dict[str, bytes], *, known: bool = True, not_before: bool = True) -> Report:
    trust = made.world.trust([CHAIN, OTHER] if known else [CHAIN], not_before=not_before)
    return verify(pack(files, "answer"), trust)


def test_proven_block_of_a_header_bounds_the_evidence_that_holds_it() -> None:
    made, files = collected(10)
    report = judged(made, files)
    assert report.verdict is VALID, refusals(report)
    assert UNPROVEN not in report.findings
    assert "not-before is unproven (evidence/1)" in report.findings, "no block bounds the declaration's evidence"
    del files[BLOCK]
    report = judged(made, files)
    assert (report.verdict, UNPROVEN in report.findings) == (VALID, True), "what a header names and nobody proves is no bound"


def test_block_of_a_chain_whose_hashes_one_party_chooses_bounds_no_slice() -> None:
    made, files = collected(10)
    report = judged(made, files, not_before=False)
    assert report.verdict is VALID, refusals(report)
    assert UNPROVEN in report.findings
    assert any("is no lower bound" in finding for finding in report.findings)


def test_block_of_an_unknown_chain_is_not_checked() -> None:
    made, files = collected(10)
    report = judged(made, files, known=False)
    assert report.verdict is VALID, refusals(report)
    assert any(OTHER in sentence for sentence in report.not_checked)
    assert UNPROVEN in report.findings


def test_block_with_too_few_seals_is_not_checked() -> None:
    made, files = collected(10, seals=2)
    report = judged(made, files)
    assert report.verdict is VALID, refusals(report)
    assert any(OTHER in sentence for sentence in report.not_checked)
    assert UNPROVEN in report.findings


@pytest.mark.parametrize("not_before", [True, False])
def test_proof_of_another_block_than_the_header_names_is_invalid(*, not_before: bool) -> None:
    made, files = collected(10, forged=True)
    report = judged(made, files, not_before=not_before)
    assert (report.verdict, report.step(17).verdict) == (INVALID, INVALID)
    assert judged(made, files, known=False).verdict is VALID, "without the chain in the trust file nobody can tell"


def test_two_headers_that_name_two_blocks_of_one_height_are_invalid() -> None:
    made, _ = collected(10)
    named = made.held[1].header.after[0]
    made.collect([b"and more"], after=[BlockRef(named.chain, named.height, "11" * 32)])
    made.anchored = None
    proof = collected(10)[1][BLOCK]
    report = judged(made, {**made.files(made.question(b"buy")), BLOCK: proof})
    assert report.step(17).verdict is INVALID


def test_block_proof_that_stands_twice_is_invalid() -> None:
    made, files = collected(10)
    assert judged(made, {**files, "blocks/1.json": files[BLOCK]}).step(17).verdict is INVALID


def test_block_proof_of_another_engine_is_invalid() -> None:
    made, files = collected(10)
    files[BLOCK] = canonical({**parse(files[BLOCK]), "engine": "fabric"})
    assert judged(made, files).step(17).verdict is INVALID


@pytest.mark.parametrize("not_before", [True, False])
def test_block_later_than_the_slice_is_invalid_by_more_than_the_allowance(*, not_before: bool) -> None:
    made, files = collected(320, silence=3600)
    assert judged(made, files, not_before=not_before).verdict is VALID
    made, files = collected(321, silence=3600)
    assert judged(made, files, not_before=not_before).step(27).verdict is INVALID


def test_block_later_than_the_anchor_is_invalid() -> None:
    made, files = collected(100_000)
    assert judged(made, files).verdict is INVALID


def test_block_beyond_the_deadline_shows_that_a_slice_was_made_late() -> None:
    made, files = collected(361, wait=361)
    report = judged(made, files)
    assert (report.verdict, report.step(27).verdict) == (INDETERMINATE, INDETERMINATE)
    assert "made after its deadline" in report.step(27).detail
    for known in (collected(360, wait=361), (made, {name: files[name] for name in files if name != BLOCK})):
        assert "made after its deadline" not in judged(*known).step(27).detail
