from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chain_gateway.embedded.proof import Header, Seal, nodes_digest, verify_block, verify_receipt
from chain_gateway.embedded.testing import open_network
from models.anchor import BlockRef, ChainReceipt, Payload
from models.canonical import JSONValue, b64, canonical, unb64
from models.errors import EvidenceError, Undecided, VerificationError
from models.trust import ChainTrust, Epoch, TrustRoots, Validator

VECTORS = Path(__file__).parents[1] / "vectors" / "items"

# Bundles of the second implementation whose injury lies in the receipt, and what it must be called.
INJURED: dict[str, type[EvidenceError]] = {
    "bad/quorum-2-of-4.cz": Undecided,
    "bad/header-of-other-nodes.cz": Undecided,
    "bad/one-signer-twice.cz": VerificationError,
    "bad/a-stranger-s-seal-beside-four-good.cz": VerificationError,
    "bad/block-time-altered.cz": VerificationError,
    "bad/transaction-by-a-stranger.cz": VerificationError,
    "bad/sender-as-a-digest.cz": VerificationError,
    "bad/receipt-s-key-of-another-start.cz": VerificationError,
}


def trust(chain: str) -> ChainTrust:
    roots = TrustRoots.parse((VECTORS / "trust-two-chains.toml").read_bytes())
    found = roots.chain(chain)
    assert found is not None
    return found


def shown(name: str) -> Iterator[tuple[ChainReceipt, bytes]]:
    with zipfile.ZipFile(VECTORS / name) as bundle:
        for entry in bundle.namelist():
            if entry.endswith("receipt.json"):
                yield ChainReceipt.parse(bundle.read(entry)), bundle.read(entry.replace("receipt", "payload"))


def first(name: str = "good/hash.cz") -> ChainReceipt:
    return next(shown(name))[0]


def changed(receipt: ChainReceipt, **parts: JSONValue) -> ChainReceipt:
    """The receipt with other members; those of the proof are given as `proof_NAME`."""
    value = json.loads(receipt.data)
    for name, part in parts.items():
        if name.startswith("proof_"):
            value["proof"][name.removeprefix("proof_")] = part
        else:
            value[name] = part
    return ChainReceipt.parse(canonical(value))


@pytest.mark.parametrize("name", sorted(f"good/{path.name}" for path in (VECTORS / "good").glob("*.cz")))
def test_accepts_every_receipt_of_the_second_implementation(name: str) -> None:
    receipts = list(shown(name))
    assert receipts
    for receipt, payload in receipts:
        facts = verify_receipt(receipt, trust(receipt.chain))
        facts.check_payload(payload)
        assert facts.key == Payload.parse(payload).key == receipt.key
        assert facts.block_time == receipt.block_time
        assert {relied.organisation for relied in facts.relied_on} <= {"N0", "N1", "N2", "N3"}
        assert facts.quorum == 3
        assert facts.not_checked


@pytest.mark.parametrize("name", sorted(INJURED))
def test_refuses_every_injured_receipt_of_the_second_implementation(name: str) -> None:
    for receipt, _ in shown(name):
        with pytest.raises(INJURED[name]) as caught:
            verify_receipt(receipt, trust(receipt.chain))
        assert type(caught.value) is INJURED[name]


def test_refuses_a_payload_that_the_transaction_does_not_carry() -> None:
    facts = verify_receipt(first(), trust("embedded-test-1"))
    with pytest.raises(VerificationError):
        facts.check_payload(next(shown("good/merkle.cz"))[1])


def test_height_without_an_epoch_is_undecided() -> None:
    receipt, chain = first(), trust("embedded-test-1")
    later = ChainTrust(
        chain.id, chain.engine, senders=chain.senders, epochs=(Epoch(receipt.height + 1, chain.epochs[0].validators),)
    )
    with pytest.raises(Undecided):
        verify_receipt(receipt, later)


def test_last_epoch_at_or_below_the_height_decides() -> None:
    receipt, chain = first(), trust("embedded-test-1")
    strangers = tuple(Validator(each.key, "X") for each in trust("embedded-test-1.b").epochs[0].validators)
    before = ChainTrust(
        chain.id,
        chain.engine,
        senders=chain.senders,
        epochs=(Epoch(0, strangers), Epoch(receipt.height, chain.epochs[0].validators)),
    )
    assert verify_receipt(receipt, before).relied_on
    after = ChainTrust(
        chain.id,
        chain.engine,
        senders=chain.senders,
        epochs=(Epoch(0, chain.epochs[0].validators), Epoch(receipt.height, strangers)),
    )
    with pytest.raises(Undecided):
        verify_receipt(receipt, after)


def test_number_as_quorum_counts_distinct_nodes() -> None:
    receipt, chain = first(), trust("embedded-test-1")
    for quorum in (1, 4):
        world = ChainTrust(chain.id, chain.engine, senders=chain.senders, epochs=(Epoch(0, chain.epochs[0].validators, quorum),))
        assert len(verify_receipt(receipt, world).relied_on) == 4
    three = changed(receipt, proof_seals=receipt.proof["seals"][:3])
    assert len(verify_receipt(three, chain).relied_on) == 3
    with pytest.raises(Undecided):
        verify_receipt(three, world)


def test_empty_list_of_senders_lets_anyone_anchor() -> None:
    receipt = first("bad/transaction-by-a-stranger.cz")
    chain = trust(receipt.chain)
    assert verify_receipt(receipt, ChainTrust(chain.id, chain.engine, epochs=chain.epochs)).sender not in chain.senders


def test_contradiction_outweighs_doubt() -> None:
    receipt = first()
    seals = receipt.proof["seals"][:2]
    with pytest.raises(Undecided):
        verify_receipt(changed(receipt, proof_seals=seals), trust(receipt.chain))
    with pytest.raises(VerificationError):
        verify_receipt(changed(receipt, proof_seals=seals, height=receipt.height + 1), trust(receipt.chain))


@pytest.mark.parametrize("case", ["swapped", "foreign", "zero", "short"])
def test_refuses_a_seal_that_its_node_did_not_make(case: str) -> None:
    receipt = first()
    seals = [dict(seal) for seal in receipt.proof["seals"]]
    if case == "swapped":
        seals[0]["value"], seals[1]["value"] = seals[1]["value"], seals[0]["value"]
    elif case == "foreign":
        seals[0]["value"] = first("good/merkle.cz").proof["seals"][0]["value"]
    elif case == "zero":
        seals[0]["value"] = b64(bytes(64))
    else:
        seals[0]["value"] = b64(unb64(seals[0]["value"])[:63])
    with pytest.raises(VerificationError):
        verify_receipt(changed(receipt, proof_seals=seals), trust(receipt.chain))


@pytest.mark.parametrize("case", ["trailing", "missing", "index", "negative", "true", "leaf-for-node"])
def test_refuses_a_wrong_inclusion_path(case: str) -> None:
    receipt = first()
    path, index = list(receipt.proof["path"]), receipt.proof["index"]
    assert path
    if case == "trailing":
        path.append(path[0])
    elif case == "missing":
        path.pop()
    elif case == "leaf-for-node":
        path = path[1:]
    index = {"index": index + 1, "negative": -1, "true": True}.get(case, index)
    with pytest.raises(VerificationError):
        verify_receipt(changed(receipt, proof_path=path, proof_index=index), trust(receipt.chain))


def test_unknown_version_of_a_block_is_undecided() -> None:
    receipt = first()
    header = receipt.proof["header"].replace("cz-block/1", "cz-block/2")
    with pytest.raises(Undecided):
        verify_receipt(changed(receipt, proof_header=header), trust(receipt.chain))


def test_nodes_digest_does_not_depend_on_the_order_of_keys() -> None:
    keys = [unb64(each.key) for each in trust("embedded-test-1").epochs[0].validators]
    assert nodes_digest(keys) == nodes_digest(keys[::-1]) == Header.parse(first().proof["header"].encode()).nodes
    assert nodes_digest(keys[:3]) != nodes_digest(keys)


def test_block_proof_gives_the_time_of_exactly_the_block_named() -> None:
    receipt = first()
    header = Header.parse(receipt.proof["header"].encode())
    proof = {"header": receipt.proof["header"], "seals": receipt.proof["seals"]}
    ref = BlockRef(header.chain, header.height, header.id)
    assert verify_block(proof, ref, trust(header.chain)).time == header.time
    with pytest.raises(VerificationError):
        verify_block(proof, BlockRef(header.chain, header.height, "00" * 32), trust(header.chain))
    with pytest.raises(Undecided):
        verify_block({**proof, "seals": proof["seals"][:2]}, ref, trust(header.chain))


async def test_block_proof_of_a_real_ledger_verifies(tmp_path: Path) -> None:
    async with open_network(tmp_path) as network:
        gateway = network.keeper
        head = await gateway.head()
        data = await gateway.block_proof(head.height)
        assert data is not None
        value = json.loads(data)
        assert canonical(value) == data
        assert verify_block(value["proof"], head, gateway.ledger.config.trust) == head
        assert await gateway.block_proof(head.height + 1) is None


def test_refuses_a_seal_of_wrong_form() -> None:
    with pytest.raises(EvidenceError):
        Seal.from_json({"node": "AB" * 32, "value": b64(bytes(64))})
