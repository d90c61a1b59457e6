"""What the shipped bundles do not cover: witnesses, certificates, block proofs, windows, policies, unknown chains."""

import dataclasses
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from verifier_world import CHAIN, ORIGIN, OTHER, START, Made, World, key, one, refusals, template

from evidence.verifier import verify
from models.anchor import BlockRef
from models.bundle import pack
from models.canonical import b64, canonical
from models.checkpoint import COSIGNATURE_TYPE, vkey
from models.evidence import Statement
from models.report import Verdict
from models.trust import TrustRoots, Window, format_trust

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE


@pytest.mark.parametrize("commitment", ["merkle", "hash", "plaintext"])
def test_each_commitment_is_valid(commitment: str) -> None:
    world = World()
    item, anchor = one(world, commitment)
    report = verify(world.bundle([item], [anchor]), world.trust())
    assert report.verdict is VALID, refusals(report)
    assert report.not_after is not None
    assert report.not_before is None


# --- witnesses (18) --------------------------------------------------------------------------------------------------


def policy_of(*names: str, quorum: str) -> str:
    lines = [f"witness {name} {vkey(name, key(name).public_key, COSIGNATURE_TYPE)}\n" for name in names]
    return "".join(lines) + quorum


def test_witness_quorum_is_demanded_by_policy() -> None:
    world = World()
    item, anchor = one(world)
    policy = policy_of("w1", "w2", "w3", quorum="group most 2 w1 w2 w3\nquorum most\n")
    enough = verify(world.bundle([item], [anchor], witness=["w1", "w3"]), world.trust(witnesses=policy))
    assert enough.verdict is VALID, refusals(enough)
    assert enough.step(18).verdict is VALID
    assert enough.independence.third_parties == 6
    fewer = verify(world.bundle([item], [anchor], witness=["w1"]), world.trust(witnesses=policy))
    assert (fewer.verdict, fewer.step(18).verdict) == (INDETERMINATE, INDETERMINATE)


def test_unknown_witness_is_listed_and_changes_nothing() -> None:
    world = World()
    item, anchor = one(world)
    report = verify(world.bundle([item], [anchor], witness=["stranger"]), world.trust())
    assert report.verdict is VALID
    assert any("stranger" in sentence for sentence in report.not_checked)


def test_bad_line_of_a_known_witness_is_invalid_even_if_not_needed() -> None:
    world = World()
    item, anchor = one(world)
    files = world.files([item], [anchor], witness=["w1"])
    name = "evidence/0/sm3.tlog-proof"
    lines = files[name].decode().splitlines(keepends=True)
    good = lines[-1]
    raw = bytearray(b64decode(good.split(" ")[2]))
    raw[-1] ^= 1
    files[name] = ("".join(lines[:-1]) + f"\u2014 w1 {b64(bytes(raw))}\n").encode()
    report = verify(pack(files, "item"), world.trust(witnesses=policy_of("w1", quorum="quorum none\n")))
    assert report.step(18).verdict is INVALID


def test_third_parties_are_demanded_by_policy() -> None:
    world = World()
    item, anchor = one(world)
    bundle = world.bundle([item], [anchor])
    assert verify(bundle, world.trust(third_parties=4)).verdict is VALID
    assert verify(bundle, world.trust(third_parties=5)).step(16).verdict is INDETERMINATE


# --- chains (14 to 16) -----------------------------------------------------------------------------------------------


def test_all_chains_are_demanded_by_policy() -> None:
    world = World()
    item, first = one(world)
    second = world.anchor(chain=OTHER)
    trust = world.trust([CHAIN, OTHER], chains="all")
    both = verify(world.bundle([item], [first, second]), trust)
    assert both.verdict is VALID, refusals(both)
    assert verify(world.bundle([item], [first]), trust).step(16).verdict is INDETERMINATE


def test_two_sizes_need_consistency_between_them() -> None:
    world = World()
    item, first = one(world)
    world.add()
    second = world.anchor(chain=OTHER)
    trust = world.trust([CHAIN, OTHER], chains=2)
    files = world.files([item], [first, second])
    assert verify(pack(files, "item"), trust).verdict is VALID
    del files["log/sm3/3-4.consistency"]
    assert verify(pack(files, "item"), trust).step(12).verdict is INDETERMINATE


def test_twin_needs_consistency_only_where_it_is_judged() -> None:
    world = World()
    item, first = one(world)
    world.add()
    second = world.anchor(chain=OTHER)
    files = world.files([item], [first, second])
    del files["log/sha256/3-4.consistency"]
    assert verify(pack(files, "item"), world.trust([CHAIN, OTHER])).step(12).verdict is INDETERMINATE
    roots = world.trust([CHAIN, OTHER])
    without = dataclasses.replace(roots, logs=roots.logs[:1])
    report = verify(pack(files, "item"), without)
    assert report.verdict is VALID, refusals(report)
    assert any("sha256" in sentence for sentence in report.not_checked)


def _without_record(payload: dict[str, Any]) -> None:
    payload["transaction_info_array"] = payload["transaction_info_array"][:1]


def test_further_anchor_of_an_unknown_chain_never_turns_valid_into_less() -> None:
    world = World()
    item, first = one(world, "hash")
    second = world.anchor(chain=OTHER, change=_without_record)
    bundle = world.bundle([item], [first, second])
    report = verify(bundle, world.trust())
    assert report.verdict is VALID, refusals(report)
    assert any(OTHER in sentence for sentence in report.not_checked)
    assert verify(bundle, world.trust([CHAIN, OTHER])).step(14).verdict is INVALID


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload.update(range=[0, 2]),
        lambda payload: payload["transaction_info_array"][1]["transaction_info"]["transaction_detail_info"]["biz_data"].update(
            bizName="别的"
        ),
        lambda payload: payload["transaction_info_array"][1]["transaction_info"]["transaction_detail_info"]["biz_data"][
            "businessData"
        ].pop(),
        lambda payload: payload["transaction_info_array"][1]["transaction_info"]["transaction_detail_info"][
            "necessaryData"
        ].update(CreateTime="2026-11-21 14:00:00"),
        lambda payload: [
            entry["transaction_info"]["transaction_detail_info"]["necessaryData"].update(UploadTime="2026-11-21 20:00:00")
            for entry in payload["transaction_info_array"]
        ],
        lambda payload: payload.update(
            seen=[{"chain": OTHER, "hash": "00", "height": 1}, {"chain": OTHER, "hash": "01", "height": 2}]
        ),
        lambda payload: payload.update(checkpoint=payload["twin"]),
        lambda payload: payload.update(twin=payload["checkpoint"]),
    ],
    ids=[
        "range-cut-before-it",
        "biz-name",
        "stage-left-out",
        "create-time",
        "uploaded-after-block",
        "seen-twice",
        "twin-as-head",
        "head-as-twin",
    ],
)
def test_payload_changed_before_it_was_anchored_is_invalid_by_14(change: Callable[[dict[str, Any]], Any]) -> None:
    world = World()
    world.add()
    world.add()
    item = world.add("hash")
    anchor = world.anchor(change=change)
    report = verify(_bundle(world, item, anchor), world.trust())
    assert report.step(14).verdict is INVALID, refusals(report)


def _bundle(world: World, item: Made, anchor: Any) -> bytes:
    """The bundle of an anchor whose payload may not be readable: proofs stand in the log's own head."""
    files = world.files([item], [])
    return pack({**files, "anchors/0/payload.json": anchor.payload, "anchors/0/receipt.json": anchor.receipt}, "item")


def test_overlapping_anchors_of_one_chain_are_invalid() -> None:
    world = World()
    item, first = one(world)
    world.ends[CHAIN] = 1
    second = world.anchor()
    report = verify(world.bundle([item], [first, second]), world.trust())
    assert report.step(14).verdict is INVALID


def test_anchor_cut_before_a_merkle_item_still_counts_by_its_size() -> None:
    world = World()
    world.add()
    world.add()
    item = world.add()
    anchor = world.anchor(end=2)
    report = verify(world.bundle([item], [anchor]), world.trust())
    assert report.verdict is VALID, refusals(report)


def test_chain_joined_later_covers_what_lay_before() -> None:
    world = World()
    item = world.add()
    world.add()
    world.ends[OTHER] = 2
    world.add()
    anchor = world.anchor(chain=OTHER)
    report = verify(world.bundle([item], [anchor]), world.trust([OTHER]))
    assert report.verdict is VALID, refusals(report)


# --- keys and windows (11) -------------------------------------------------------------------------------------------


def with_window(roots: TrustRoots, window: Window) -> TrustRoots:
    logs = tuple(
        dataclasses.replace(log, keys=tuple(dataclasses.replace(entry, window=window) for entry in log.keys))
        for log in roots.logs
    )
    return TrustRoots.parse(format_trust(dataclasses.replace(roots, logs=logs)))


def test_window_is_judged_at_the_chains_time_with_its_allowance() -> None:
    world = World()
    item, anchor = one(world)
    bundle, roots = world.bundle([item], [anchor]), world.trust()
    block = verify(bundle, roots).not_after
    assert block is not None
    inside = Window(None, block + timedelta(milliseconds=1))
    assert verify(bundle, with_window(roots, inside)).verdict is VALID
    for until in (block, block - timedelta(seconds=5)):
        assert verify(bundle, with_window(roots, Window(None, until))).step(11).verdict is INDETERMINATE
    late = Window(block - timedelta(seconds=5) + timedelta(milliseconds=1), None)
    assert verify(bundle, with_window(roots, late)).step(11).verdict is INDETERMINATE


def test_all_known_keys_of_an_overlap_must_verify() -> None:
    world = World()
    world.log_keys = {tree: [*names, names[0] + " next"] for tree, names in world.log_keys.items()}
    item, anchor = one(world)
    bundle = world.bundle([item], [anchor])
    report = verify(bundle, world.trust())
    assert report.verdict is VALID, refusals(report)
    world.log_keys = {tree: names[:1] for tree, names in world.log_keys.items()}
    assert verify(bundle, world.trust()).verdict is VALID


# --- times (17) ------------------------------------------------------------------------------------------------------


def with_block(world: World, *, seconds: int, seals: int = 4) -> tuple[Made, dict[str, bytes], BlockRef]:
    """An item that names a block made `seconds` before it, and its files with the block's proof."""
    at = world.tick(400)
    ref, proof = world.block(OTHER, at - timedelta(seconds=seconds), seals=seals)
    item = world.add(after=[ref], created_at=at)
    files = world.files([item], [world.anchor()])
    return item, {**files, "blocks/0.json": proof}, ref


def test_proven_block_bounds_the_item_from_below() -> None:
    world = World()
    _, files, _ = with_block(world, seconds=60)
    report = verify(pack(files, "item"), world.trust([CHAIN, OTHER], not_before=True))
    assert report.verdict is VALID, refusals(report)
    assert report.not_before == START + timedelta(seconds=340)


def test_block_of_a_chain_whose_hashes_one_party_chooses_bounds_nothing() -> None:
    world = World()
    _, files, _ = with_block(world, seconds=60)
    report = verify(pack(files, "item"), world.trust([CHAIN, OTHER]))
    assert report.verdict is VALID
    assert report.not_before is None


def test_block_that_cannot_be_judged_is_not_checked() -> None:
    world = World()
    _, files, _ = with_block(world, seconds=60, seals=2)
    for chains in ([CHAIN], [CHAIN, OTHER]):
        report = verify(pack(files, "item"), world.trust(chains, not_before=True))
        assert report.verdict is VALID, refusals(report)
        assert report.not_before is None
        assert any("block" in sentence and OTHER in sentence for sentence in report.not_checked)


def test_block_later_than_the_item_is_invalid() -> None:
    world = World()
    _, files, _ = with_block(world, seconds=-300)
    assert verify(pack(files, "item"), world.trust([CHAIN, OTHER])).verdict is VALID
    world = World()
    _, files, _ = with_block(world, seconds=-301)
    assert verify(pack(files, "item"), world.trust([CHAIN, OTHER])).step(17).verdict is INVALID


def test_block_proof_that_no_evidence_names_is_invalid() -> None:
    world = World()
    _, proof = world.block(OTHER, START)
    item, anchor = one(world)
    files = {**world.files([item], [anchor]), "blocks/0.json": proof}
    assert verify(pack(files, "item"), world.trust()).step(17).verdict is INVALID


def test_late_promise_is_a_finding_only() -> None:
    world = World()
    item = world.add()
    report = verify(world.bundle([item], [world.anchor(wait=4000)]), world.trust())
    assert report.verdict is VALID
    assert any("late" in sentence for sentence in report.findings)


# --- the rest --------------------------------------------------------------------------------------------------------


def test_timestamps_are_demanded_by_policy_and_never_guessed() -> None:
    world = World()
    item, anchor = one(world)
    files = world.files([item], [anchor])
    assert verify(pack(files, "item"), world.trust(timestamps=1)).step(19).verdict is INDETERMINATE
    stray = verify(pack({**files, "time/0.tsr": b"over nothing"}, "item"), world.trust())
    assert stray.step(19).verdict is INVALID


def test_stale_trust_file_is_a_finding_only() -> None:
    world = World()
    item, anchor = one(world)
    roots = dataclasses.replace(world.trust(), refresh_by=START)
    report = verify(world.bundle([item], [anchor]), roots)
    assert report.verdict is VALID
    assert any("stale" in sentence for sentence in report.findings)


def test_tombstone_of_another_form_is_invalid_by_21() -> None:
    world = World()
    item, anchor = one(world)
    files = {**world.files([item], [anchor]), "erasure/0.json": canonical({"format": "cz-tombstone/1"})}
    assert verify(pack(files, "item"), world.trust()).step(21).verdict is INVALID


def test_origin_is_that_of_the_statement() -> None:
    world = World()
    item, _anchor = one(world)
    assert item.evidence.statement.log == ORIGIN
    moved = World()
    statement, made = moved.statement(template(), client_key="k")
    other = item.evidence.statement._replace(log="sandbox.other.cn/log/1")
    assert statement.log == ORIGIN
    foreign = Statement.build(
        client_key="k", link=None, log=other.log, occurred_at=None, stages=[(stage.name, stage.pair) for stage in made],
        subject=("s1", "示例证券"), submitter="acct-1", template=("paper@1", template().pair),
    )  # fmt: skip
    evidence = type(item.evidence).build(
        foreign, after=(), commitment="merkle", created_at=moved.tick(), link=None, on_chain_by=START + timedelta(hours=1),
        signature=None, validated_by="platform",
    )  # fmt: skip
    bad = moved.append(evidence, template(), made)
    report = verify(moved.bundle([bad], [moved.anchor()]), moved.trust())
    assert report.step(10).verdict is INVALID
