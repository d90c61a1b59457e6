"""A tombstone is believed only where the log signed its checkpoint and a chain covers it (formats §7.1, §11, check 21)."""

import dataclasses
from datetime import timedelta
from typing import Any

from verifier_world import CHAIN, ORIGIN, OTHER, START, Anchored, Made, World, key, one, refusals

from evidence.verifier import verify
from models.bundle import pack
from models.canonical import b64, canonical, parse
from models.checkpoint import Checkpoint, ConsistencyProof, Note, TlogProof, cosign, make_note
from models.commitment import commit, disclose
from models.digest import Algorithm
from models.evidence import Evidence, Statement
from models.merkle import Tree, leaf_hash
from models.report import Report, Verdict
from models.template import builtin
from models.trust import TrustRoots, Window, format_trust

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE
NAME = "erasure/0.json"


def tombstone_of(world: World, erased: Made) -> Made:
    """A tombstone of `erased`, appended to the log."""
    kind = builtin("erasure@1")
    values: dict[str, dict[str, Any]] = {stage.name: {} for stage in kind.stages}
    for stage in kind.stages:
        if any(field.name == "evidence_id" for field in stage.fields):
            values[stage.name]["evidence_id"] = str(erased.evidence.evidence_id)
    made = commit(kind, values, secret=bytes(range(32)), log=ORIGIN, submitter="service", client_key="x")
    statement = Statement.build(
        client_key="x", link=None, log=ORIGIN, occurred_at=None, stages=[(stage.name, stage.pair) for stage in made],
        subject=("s", "s"), submitter="service", template=(kind.name, kind.pair),
    )  # fmt: skip
    at = world.tick()
    evidence = Evidence.build(
        statement, after=(), commitment=kind.commitment.value, created_at=at, link=None, on_chain_by=at,
        signature=None, validated_by="platform",
    )  # fmt: skip
    return world.append(evidence, kind, made)


def file_of(grave: Made, proof: TlogProof) -> bytes:
    shown = disclose(grave.template, grave.commitments, None)
    return canonical(
        {
            "disclosure": shown,
            "evidence": b64(grave.evidence.data),
            "format": "cz-tombstone/1",
            "proof": proof.format(),
        }
    )


def proof_in(world: World, grave: Made, size: int, note: str | None = None) -> TlogProof:
    path = tuple(world.trees[Algorithm.SM3].inclusion_path(grave.index, size))
    return TlogProof(grave.index, path, Note.parse(note or world.note(Algorithm.SM3, size)), Algorithm.SM3)


def erased_world() -> tuple[World, Made, Made, Anchored]:
    """An item and its anchor, and then its tombstone in the log."""
    world = World()
    item, anchor = one(world)
    return world, item, tombstone_of(world, item), anchor


def says_erased(report: Report) -> bool:
    return any("erased" in sentence for sentence in report.findings)


def test_tombstone_signed_by_the_log_and_covered_by_a_chain_is_believed() -> None:
    world, item, grave, first = erased_world()
    for chain, known in ((OTHER, (CHAIN, OTHER)), (CHAIN, (CHAIN,))):
        anchors = [first, world.anchor(chain=chain)]
        files = {**world.files([item], anchors), NAME: file_of(grave, proof_in(world, grave, 4))}
        report = verify(pack(files, "item"), world.trust(known))
        assert report.verdict is VALID, refusals(report)
        assert report.step(21).verdict is VALID
        assert says_erased(report)


def test_tombstone_that_nobody_of_the_log_signed_is_never_believed() -> None:
    world = World()
    item, anchor = one(world)
    files = world.files([item], [anchor])
    own = World()
    grave = dataclasses.replace(tombstone_of(own, item), index=3)
    tree = Tree([leaf_hash(made.evidence.entry) for made in world.items] + [leaf_hash(grave.evidence.entry)])
    head = Checkpoint(ORIGIN, 4, tree.root())
    note = Note.parse(make_note(head, [cosign(head, key("mallory"), int(world.now.timestamp()))]))
    files[NAME] = file_of(grave, TlogProof(3, tuple(tree.inclusion_path(3)), note, Algorithm.SM3))
    files["log/sm3/3-4.consistency"] = ConsistencyProof(3, tuple(tree.consistency_path(3, 4)), note).format().encode()
    report = verify(pack(files, "item"), world.trust())
    assert report.step(21).verdict is INDETERMINATE
    assert report.step(11).verdict is INDETERMINATE
    assert not says_erased(report)


def consistent(world: World, files: dict[str, bytes], note: str | None = None) -> dict[str, bytes]:
    proof = ConsistencyProof(
        3, tuple(world.trees[Algorithm.SM3].consistency_path(3, 4)), Note.parse(note or world.note(Algorithm.SM3, 4))
    )
    return {**files, "log/sm3/3-4.consistency": proof.format().encode()}


def test_tombstone_that_no_chain_covers_is_never_believed() -> None:
    world, item, grave, anchor = erased_world()
    files = consistent(world, {**world.files([item], [anchor]), NAME: file_of(grave, proof_in(world, grave, 4))})
    report = verify(pack(files, "item"), world.trust())
    assert report.step(21).verdict is INDETERMINATE
    assert not says_erased(report)


def test_tombstone_under_a_key_whose_window_has_ended_is_never_believed() -> None:
    world, item, grave, first = erased_world()
    second = world.anchor(chain=OTHER)
    files = {**world.files([item], [first, second]), NAME: file_of(grave, proof_in(world, grave, 4))}
    roots = world.trust((CHAIN, OTHER))
    block = parse(second.receipt)["block_time"]
    until = START + timedelta(minutes=1)
    assert block < until.isoformat()
    assert verify(pack(files, "item"), _until(roots, until)).step(21).verdict is VALID
    over = verify(pack(files, "item"), _until(roots, START + timedelta(seconds=45)))
    assert over.step(21).verdict is INDETERMINATE
    assert not says_erased(over)


def _until(roots: TrustRoots, moment: Any) -> TrustRoots:
    logs = tuple(
        dataclasses.replace(log, keys=tuple(dataclasses.replace(entry, window=Window(None, moment)) for entry in log.keys))
        for log in roots.logs
    )
    return TrustRoots.parse(format_trust(dataclasses.replace(roots, logs=logs)))


def test_tombstone_without_its_place_in_the_history_is_never_believed() -> None:
    world, item, grave, first = erased_world()
    files = {**world.files([item], [first, world.anchor(chain=OTHER)]), NAME: file_of(grave, proof_in(world, grave, 4))}
    del files["log/sm3/3-4.consistency"]
    report = verify(pack(files, "item"), world.trust((CHAIN, OTHER)))
    assert report.step(21).verdict is INDETERMINATE
    assert not says_erased(report)


def test_tombstone_of_another_evidence_is_invalid() -> None:
    world = World()
    item, first = one(world)
    grave = tombstone_of(world, world.items[0])
    files = {**world.files([item], [first, world.anchor(chain=OTHER)]), NAME: file_of(grave, proof_in(world, grave, 4))}
    report = verify(pack(files, "item"), world.trust((CHAIN, OTHER)))
    assert report.step(21).verdict is INVALID
    assert not says_erased(report)
