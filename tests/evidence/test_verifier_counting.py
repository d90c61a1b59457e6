"""What counts as an anchor and as a time: never nothing, never one voice of a quorum, never what the trust file only doubts."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from verifier_world import CHAIN, OTHER, START, Made, World, key, one, refusals

from evidence.verifier import verify
from models.bundle import pack
from models.canonical import b64
from models.checkpoint import COSIGNATURE_TYPE, Note, TlogProof, cosign, vkey
from models.digest import Algorithm
from models.errors import Malformed
from models.report import Report, Verdict
from models.trust import Epoch, TrustRoots, Validator, Window, format_trust

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE


def with_chains(roots: TrustRoots, **parts: Any) -> TrustRoots:
    chains = tuple(dataclasses.replace(chain, **parts) for chain in roots.chains)
    return TrustRoots.parse(format_trust(dataclasses.replace(roots, chains=chains)))


# --- chains counted (16) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [{"epochs": ()}, {"first": 100}], ids=["no-epochs", "first-above-the-leaf"])
def test_all_of_no_chains_is_never_valid(parts: dict[str, Any]) -> None:
    world = World()
    item, anchor = one(world)
    roots = with_chains(world.trust(chains="all"), **parts)
    report = verify(pack(world.files([item], []), "item"), roots)
    assert (report.verdict, report.step(16).verdict) == (INDETERMINATE, INDETERMINATE)
    assert verify(world.bundle([item], [anchor]), roots).verdict is INDETERMINATE
    shown = verify(world.bundle([item], [anchor]), world.trust(chains="all"))
    assert shown.verdict is VALID, refusals(shown)


def test_key_whose_window_ended_long_ago_is_never_valid_without_a_block() -> None:
    world = World()
    item, anchor = one(world)
    over = Window(START - timedelta(days=900), START - timedelta(days=800))
    roots = world.trust(chains="all")
    logs = tuple(
        dataclasses.replace(log, keys=tuple(dataclasses.replace(entry, window=over) for entry in log.keys)) for log in roots.logs
    )
    ended = with_chains(dataclasses.replace(roots, logs=logs), first=100)
    report = verify(pack(world.files([item], []), "item"), ended)
    assert report.step(16).verdict is INDETERMINATE
    assert any("window" in sentence for sentence in report.not_checked)
    judged = TrustRoots.parse(format_trust(dataclasses.replace(roots, logs=logs)))
    assert verify(world.bundle([item], [anchor]), judged).step(11).verdict is INDETERMINATE


def test_policy_of_no_chains_is_no_policy() -> None:
    world = World()
    item, _ = one(world)
    text = format_trust(world.trust())
    assert text.count(b"\nchains = 1\n") == 1
    with pytest.raises(Malformed, match="chains in the policy"):
        TrustRoots.parse(text.replace(b"\nchains = 1\n", b"\nchains = 0\n"))
    assert TrustRoots.parse(text.replace(b"\nchains = 1\n", b"\nchains = 2\n")).policy.chains == 2
    roots = world.trust()
    none = dataclasses.replace(roots, policy=dataclasses.replace(roots.policy, chains=0))
    assert verify(pack(world.files([item], []), "item"), none).step(16).verdict is INDETERMINATE


# --- the record of a HASH item (14) ------------------------------------------------------------------------------------


def _without_record(payload: dict[str, Any]) -> None:
    payload["transaction_info_array"] = payload["transaction_info_array"][:1]


@pytest.mark.parametrize("commitment", ["hash", "plaintext"])
def test_record_left_out_on_a_second_chain_is_not_hidden_by_a_later_anchor(commitment: str) -> None:
    world = World()
    item, first = one(world, commitment)
    omitting = world.anchor(chain=OTHER, change=_without_record)
    world.add()
    later = world.anchor(chain=OTHER)
    roots = world.trust((CHAIN, OTHER), chains=2)
    assert verify(world.bundle([item], [first, omitting]), roots).step(14).verdict is INVALID
    report = verify(world.bundle([item], [first, later]), roots)
    assert (report.verdict, report.step(16).verdict) == (INDETERMINATE, INDETERMINATE)
    assert verify(world.bundle([item], [first]), world.trust()).verdict is VALID


def test_first_anchor_of_a_chain_joined_later_counts_for_a_hash_item_before_it() -> None:
    world = World()
    item, first = one(world, "hash")
    world.ends[OTHER] = 3
    world.add()
    joined = world.anchor(chain=OTHER)
    bundle = world.bundle([item], [first, joined])
    roots = world.trust((CHAIN, OTHER), chains=2)
    chains = tuple(dataclasses.replace(chain, first=3 if chain.id == OTHER else 0) for chain in roots.chains)
    known = TrustRoots.parse(format_trust(dataclasses.replace(roots, chains=chains)))
    report = verify(bundle, known)
    assert report.verdict is VALID, refusals(report)
    assert verify(bundle, roots).step(16).verdict is INDETERMINATE


# --- witnesses (17, 18) ------------------------------------------------------------------------------------------------

WITNESSES = ("w1", "w2", "w3")
MOST = "group most 2 w1 w2 w3\nquorum most\n"


def cosigned(quorum: str, **seconds: int) -> tuple[Made, Report]:
    """An item under the cosignatures of the witnesses named, each at so many seconds after created_at."""
    world = World()
    item, anchor = one(world)
    files = world.files([item], [anchor])
    head, note = world.checkpoint(Algorithm.SM3, 3), world.note(Algorithm.SM3, 3)
    created = int(item.evidence.created_at.timestamp())
    note += "".join(cosign(head, key(name), created + late, name=name) for name, late in seconds.items())
    path = tuple(world.trees[Algorithm.SM3].inclusion_path(item.index, 3))
    files["evidence/0/sm3.tlog-proof"] = TlogProof(item.index, path, Note.parse(note), Algorithm.SM3).format().encode()
    lines = [f"witness {name} {vkey(name, key(name).public_key, COSIGNATURE_TYPE)}\n" for name in WITNESSES]
    return item, verify(pack(files, "item"), world.trust(witnesses="".join(lines) + quorum))


YEAR = 365 * 86400


def test_one_witness_of_a_quorum_sets_no_time() -> None:
    item, report = cosigned(MOST, w1=-YEAR, w2=13, w3=14)
    assert report.verdict is VALID, refusals(report)
    assert report.not_after == item.evidence.created_at + timedelta(seconds=13)
    _, honest = cosigned(MOST, w1=12, w2=13, w3=14)
    assert honest.not_after == report.not_after


def test_witness_sets_no_time_where_the_policy_has_no_quorum() -> None:
    item, report = cosigned("quorum none\n", w1=-YEAR)
    assert report.verdict is VALID, refusals(report)
    assert report.not_after is not None
    assert report.not_after > item.evidence.created_at
    _, without = cosigned("quorum none\n")
    assert without.not_after == report.not_after


def test_quorum_that_saw_the_item_before_it_was_created_is_never_valid() -> None:
    _, report = cosigned(MOST, w1=-301, w2=-301, w3=14)
    assert report.step(17).verdict is INVALID
    _, allowed = cosigned(MOST, w1=-300, w2=-300, w3=14)
    assert allowed.verdict is VALID, refusals(allowed)


# --- what only the trust file says (14, 15) ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["deadbeef", b64(bytes([4]) + bytes(64)), "cosmos1validator"], ids=["hex", "off-curve", "other"])
def test_validator_key_of_another_form_never_condemns_a_bundle(text: str) -> None:
    world = World()
    item, anchor = one(world)
    bundle = world.bundle([item], [anchor])
    report = verify(bundle, with_chains(world.trust(), epochs=(Epoch(0, (Validator(text, "X"),)),)))
    assert (report.verdict, report.step(15).verdict) == (INDETERMINATE, INDETERMINATE)
    assert verify(bundle, world.trust()).verdict is VALID


def test_contradiction_outweighs_a_validator_key_of_another_form() -> None:
    world = World()
    item, anchor = one(world)
    stranger = dataclasses.replace(anchor, receipt=anchor.receipt.replace(b'"height":1,', b'"height":2,'))
    roots = with_chains(world.trust(), epochs=(Epoch(0, (Validator("deadbeef", "X"),)),))
    assert verify(world.bundle([item], [stranger]), roots).step(15).verdict is INVALID


def test_senders_of_another_form_never_condemn_a_bundle() -> None:
    world = World()
    item, anchor = one(world)
    bundle = world.bundle([item], [anchor])
    assert verify(bundle, with_chains(world.trust(), senders=("0xdeadbeef",))).step(15).verdict is INDETERMINATE
    assert verify(bundle, with_chains(world.trust(), senders=("ab" * 32,))).step(15).verdict is INVALID


def test_first_that_only_the_trust_file_names_never_condemns_a_bundle() -> None:
    world = World()
    item, anchor = one(world)
    bundle = world.bundle([item], [anchor])
    report = verify(bundle, with_chains(world.trust(), first=1))
    assert (report.verdict, report.step(14).verdict) == (INDETERMINATE, INDETERMINATE)
    assert verify(bundle, world.trust()).verdict is VALID
