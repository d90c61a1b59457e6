"""What the embedded ledger's nodes answer, refuse and repair, with nothing failing underneath."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from chain_gateway.conformance import chain_trust, make_anchor, verify
from chain_gateway.embedded.chainfile import Disk, Step, no_step
from chain_gateway.embedded.config import open_key
from chain_gateway.embedded.engine import EmbeddedGateway, create, node_key_path, open_gateway
from chain_gateway.embedded.ledger import Ledger
from chain_gateway.embedded.proof import Transaction
from chain_gateway.embedded.testing import CHAIN_ID, URL, EmbeddedNetwork, TickingClock, open_network
from chain_gateway.port import ChainUnavailable, Damage, LedgerCheck, LedgerReads, NotSubmitted, Rejected, engines, proofs
from chain_gateway.port import open_gateway as open_by_url
from models.anchor import Anchor, TxId, anchor_key
from models.canonical import canonical
from models.errors import Malformed, SigningUnavailable, Unknown
from models.signature import SM2Signer

CLOCK = TickingClock()


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[EmbeddedNetwork]:
    async with open_network(tmp_path) as opened:
        yield opened


async def anchored(gateway: EmbeddedGateway, name: str, start: int = 0, end: int = 1) -> TxId:
    return await gateway.submit(make_anchor(CHAIN_ID, name, start=start, end=end))


# -- found by name, made once


def test_engine_and_proof_are_found_by_their_entry_points() -> None:
    assert engines()["embedded"].__module__ == "chain_gateway.embedded.engine"
    assert proofs()["embedded"].__module__ == "chain_gateway.embedded.proof"
    with pytest.raises(KeyError):
        engines()["no-such-engine"]


async def test_unknown_engine_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(Unknown):
        await open_by_url("no-such-engine:", home=tmp_path, clock=CLOCK)


async def test_opening_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ChainUnavailable):
        await open_by_url(URL, home=tmp_path, clock=CLOCK)
    assert not await asyncio.to_thread(lambda: list(tmp_path.iterdir()))


def test_creating_again_keeps_every_key_and_block(tmp_path: Path) -> None:
    create(URL, home=tmp_path, chain_id="c1", clock=CLOCK, organisation="O")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    create(URL, home=tmp_path, chain_id="c1", clock=CLOCK, organisation="P")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(ChainUnavailable):
        create(URL, home=tmp_path, chain_id="c2", clock=CLOCK, organisation="O")


def test_interrupted_creation_leaves_no_ledger_and_is_repeated(tmp_path: Path) -> None:
    def die(step: Step) -> None:
        if step is Step.BEFORE_CREATE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(URL, home=tmp_path, chain_id="c1", clock=CLOCK, organisation="O", step=die)
    assert not (tmp_path / "chain").exists()
    create(URL, home=tmp_path, chain_id="c1", clock=CLOCK, organisation="O")
    assert (tmp_path / "chain" / "chain.json").exists()


def test_keys_and_copies_are_for_their_owner_alone(tmp_path: Path) -> None:
    create(URL, home=tmp_path, chain_id="c1", clock=CLOCK, organisation="O")
    for number in range(4):
        folder = tmp_path / "chain" / f"node-{number}"
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert node_key_path(URL, home=tmp_path, node=number) == folder / "key.pem"


@pytest.mark.parametrize("url", ["embedded://host/x", "embedded:?other=1", "embedded:?node=x", "embedded:#x", "file:x"])
async def test_refuses_a_url_that_makes_no_sense(tmp_path: Path, url: str) -> None:
    with pytest.raises(Malformed):
        await open_gateway(url, node=None, home=tmp_path, clock=CLOCK, node_signer=None)


async def test_url_names_folder_and_node(network: EmbeddedNetwork, tmp_path: Path) -> None:
    gateway = await open_gateway(f"embedded:{tmp_path}/chain?node=2", node=None, home=Path("/"), clock=CLOCK, node_signer=None)
    assert gateway.node == 2
    await gateway.aclose()
    with pytest.raises(ChainUnavailable):
        await open_gateway("embedded:?node=4", node=None, home=tmp_path, clock=CLOCK, node_signer=None)


# -- who may submit (6.4.3 c)


async def test_transaction_needs_the_signature_of_the_subjects_node_key(network: EmbeddedNetwork) -> None:
    anchor = make_anchor(CHAIN_ID, "unsigned")
    unsigned = await network.open_to_read()
    with pytest.raises(Rejected):
        await unsigned.submit(anchor)
    signed = await network.open()
    tx_id = await signed.submit(anchor)
    made = await signed.transaction(tx_id)
    assert made is not None
    assert made.sender == network.keeper.ledger.config.ids[0]
    await unsigned.aclose()
    await signed.aclose()


@pytest.mark.parametrize("whose", ["another-nodes", "a-strangers"])
async def test_transaction_signed_by_another_key_is_rejected(network: EmbeddedNetwork, whose: str) -> None:
    signer = open_key(network.folder, 1) if whose == "another-nodes" else SM2Signer.generate()
    gateway = await open_gateway(URL, node=0, home=network.home, clock=network.clock, node_signer=signer)
    anchor = make_anchor(CHAIN_ID, whose)
    with pytest.raises(Rejected):
        await gateway.submit(anchor)
    assert await network.keeper.find(anchor.key) is None
    await gateway.aclose()


async def test_contract_refuses_a_stranger_and_a_bad_signature_itself(network: EmbeddedNetwork) -> None:
    ledger = network.keeper.ledger
    anchor = make_anchor(CHAIN_ID, "past-the-gateway")
    good = network.keeper._sign(anchor)
    bad_signature = Transaction.parse(good.data.replace(good.data[-30:-20], b"AAAAAAAAAA"))
    with pytest.raises(Rejected):
        await asyncio.wrap_future(ledger.submit(bad_signature, node=0))
    stranger = SM2Signer.generate()
    gateway = EmbeddedGateway(ledger, 0, stranger)
    ledger.config.__dict__["keys"] = (stranger.public_key, *ledger.config.keys[1:])  # the gateway is fooled, the contract is not
    with pytest.raises(Rejected):
        await asyncio.wrap_future(ledger.submit(gateway._sign(anchor), node=0))
    assert await asyncio.wrap_future(ledger.submit(good, node=0)) == good.id


async def test_key_that_cannot_sign_submits_nothing(network: EmbeddedNetwork) -> None:
    class Expired:
        public_key = network.keeper.ledger.config.keys[0]

        def sign(self, message: bytes) -> bytes:
            raise SigningUnavailable("key is expired")

    gateway = await open_gateway(URL, node=0, home=network.home, clock=network.clock, node_signer=Expired())
    with pytest.raises(NotSubmitted):
        await gateway.submit(make_anchor(CHAIN_ID, "expired"))
    await gateway.aclose()


# -- what the contract takes


async def test_range_must_begin_where_the_logs_state_ends(network: EmbeddedNetwork) -> None:
    gateway = network.keeper
    with pytest.raises(Rejected):
        await anchored(gateway, "log", 3, 5)
    await anchored(gateway, "log", 0, 5)
    for start, end in ((4, 6), (6, 7)):
        with pytest.raises(Rejected):
            await anchored(gateway, "log", start, end)
    await anchored(gateway, "log", 5, 9)
    state = await gateway.state("sandbox.conformance.example/log")
    assert state is not None
    assert state.end == 9


async def test_ranges_of_one_log_follow_each_other_within_one_block(network: EmbeddedNetwork) -> None:
    gateway = network.keeper
    made = [gateway._sign(make_anchor(CHAIN_ID, "one-block", start=start, end=start + 1)) for start in range(5)]
    before = (await gateway.head()).height
    await asyncio.gather(*[asyncio.wrap_future(future) for future in [gateway.ledger.submit(each, node=0) for each in made]])
    history = await gateway.history("sandbox.conformance.example/one-block")
    assert [version.tx_id for version in history] == [each.id for each in made]
    assert [version.end for version in history] == [1, 2, 3, 4, 5]
    assert (await gateway.head()).height - before < 5


@pytest.mark.parametrize("case", ["not-a-payload", "other-key", "other-chain", "not-text"])
async def test_payload_that_is_not_what_its_key_names_is_rejected(network: EmbeddedNetwork, case: str) -> None:
    anchor = make_anchor(CHAIN_ID, "named")
    payload, key = anchor.payload, anchor.key
    if case == "not-a-payload":
        payload = b"{}"
    elif case == "other-key":
        key = anchor_key(CHAIN_ID, "sandbox.conformance.example/another", 0)
    elif case == "other-chain":
        payload = make_anchor("another", "named").payload
    else:
        payload = b"\xff"
    with pytest.raises(Rejected):
        await network.keeper.submit(Anchor(CHAIN_ID, key, payload))
    assert await network.keeper.find(key) is None


# -- what every node answers (4.1.2, 6.4.5)


async def test_every_node_answers_state_and_history_with_transaction_block_time_and_maker(network: EmbeddedNetwork) -> None:
    ids = [await anchored(network.keeper, "told", start, start + 2) for start in (0, 2, 4)]
    for number in range(4):
        gateway = await network.open_to_read(number)
        assert isinstance(gateway, LedgerReads)
        history = await gateway.history("sandbox.conformance.example/told")
        assert [version.tx_id for version in history] == ids
        assert [version.end for version in history] == [2, 4, 6]
        assert history[-1] == await gateway.state("sandbox.conformance.example/told")
        for version in history:
            made = await gateway.transaction(version.tx_id)
            assert made is not None
            assert (
                (made.block, made.sender) == (version.block, version.sender) == (made.block, network.keeper.ledger.config.ids[0])
            )
            (block,) = [block async for block in gateway.blocks(version.block.height, version.block.height + 1)]
            assert (block.hash, block.time) == (version.block.hash, version.block.time)
            assert version.tx_id in block.transactions
        await gateway.aclose()
    assert await network.keeper.history("sandbox.conformance.example/untold") == ()
    assert await network.keeper.state("sandbox.conformance.example/untold") is None
    assert await network.keeper.transaction(TxId("ab" * 32)) is None
    assert await network.keeper.transaction(TxId("not hex")) is None


async def test_header_and_body_are_those_of_the_standard(network: EmbeddedNetwork) -> None:
    await anchored(network.keeper, "header")
    blocks = [block async for block in network.keeper.blocks(0, 2)]
    genesis, first = (json.loads(block.header) for block in blocks)
    assert genesis["height"] == genesis["tx_count"] == 0
    assert genesis["parent"] == "0" * 64
    assert first["parent"] == blocks[0].hash
    assert set(first) >= {"parent", "version", "time", "difficulty", "tx_root", "state_root"}
    assert canonical(first) == blocks[1].header.encode()
    assert len(blocks[1].extra["transactions"]) == first["tx_count"] == 1


async def test_only_the_query_naming_a_stopped_node_fails(network: EmbeddedNetwork) -> None:
    tx_id = await anchored(network.keeper, "asked")
    gateways = [await network.open(number) for number in range(4)]
    await network.kill(2)
    for number, gateway in enumerate(gateways):
        if number == 2:
            with pytest.raises(ChainUnavailable):
                await gateway.receipt(tx_id)
            with pytest.raises(NotSubmitted):
                await gateway.submit(make_anchor(CHAIN_ID, "to-a-dead-node"))
        else:
            assert await gateway.receipt(tx_id) is not None
    assert [status.is_up for status in await network.keeper.nodes()] == [True, True, False, True]
    await network.start(2)
    assert await gateways[2].receipt(tx_id) == await network.keeper.receipt(tx_id)
    for gateway in gateways:
        await gateway.aclose()


async def test_block_time_never_falls_when_the_clock_does(network: EmbeddedNetwork) -> None:
    await anchored(network.keeper, "time-0")
    before = (await network.keeper.head()).time
    network.clock.now -= timedelta(hours=1)
    await anchored(network.keeper, "time-1")
    after = (await network.keeper.head()).time
    assert before is not None
    assert after is not None
    assert after == before
    network.clock.now += timedelta(hours=3)
    await anchored(network.keeper, "time-2")
    assert (await network.keeper.head()).time == network.clock.now


# -- new and damaged nodes (4.1.3)


async def test_empty_node_levels_with_its_peers(network: EmbeddedNetwork) -> None:
    tx_id = await anchored(network.keeper, "history")
    await network.kill(3)
    (network.folder / "node-3" / "blocks.jsonl").unlink()
    await network.start(3)
    gateway = await network.open(3)
    assert await gateway.receipt(tx_id) == await network.keeper.receipt(tx_id)
    assert await gateway.head() == await network.keeper.head()
    assert await network.keeper.check() == ()
    await gateway.aclose()


async def test_repair_lays_the_damaged_copy_aside_and_makes_it_anew(network: EmbeddedNetwork) -> None:
    tx_id = await anchored(network.keeper, "repaired")
    path = network.folder / "node-1" / "blocks.jsonl"
    damaged = path.read_bytes().replace(b'"difficulty', b'"dificculty', 1)
    path.write_bytes(damaged)
    found = await network.keeper.check()
    assert [(damage.node, damage.height) for damage in found] == [(1, 0)]
    aside = network.keeper.ledger.repair(1)
    assert aside is not None
    assert aside.read_bytes() == damaged
    assert await network.keeper.check() == ()
    gateway = await network.open(1)
    assert await gateway.receipt(tx_id) == await network.keeper.receipt(tx_id)
    await gateway.aclose()


async def test_node_without_its_key_is_named_and_does_not_seal(network: EmbeddedNetwork) -> None:
    (network.folder / "node-1" / "key.pem").unlink()
    await network.kill(1)
    await network.start(1)
    assert isinstance(network.keeper, LedgerCheck)
    found = await network.keeper.check()
    assert [(damage.node, damage.height) for damage in found] == [(1, None)]
    anchor = make_anchor(CHAIN_ID, "three-seal")
    receipt = await network.keeper.receipt(await network.keeper.submit(anchor))
    assert receipt is not None
    assert len(receipt.proof["seals"]) == 3
    verify(receipt, chain_trust(network.keeper), anchor)


# -- one writer, readers beside it


async def test_reader_beside_the_writer_sees_what_is_final(network: EmbeddedNetwork) -> None:
    reader = EmbeddedGateway(_reading(network), 3, None)
    for number in range(3):
        tx_id = await anchored(network.keeper, f"beside-{number}")
        assert await reader.receipt(tx_id) == await network.keeper.receipt(tx_id)
        assert await reader.head() == await network.keeper.head()
    with pytest.raises(Rejected):
        await reader.submit(make_anchor(CHAIN_ID, "from-a-reader"))
    assert await reader.check() == ()
    reader.ledger.close()


async def test_second_writer_is_refused(network: EmbeddedNetwork) -> None:
    second = Ledger(network.folder, network.keeper.ledger.config, clock=CLOCK, disk=Disk(), step=no_step)
    with pytest.raises(ChainUnavailable):
        second.open()
    await network.down()
    second.open()
    second.close()


def _reading(network: EmbeddedNetwork) -> Ledger:
    ledger = Ledger(network.folder, network.keeper.ledger.config, clock=CLOCK, disk=None, step=no_step)
    ledger.open()
    return ledger


async def test_check_of_a_healthy_ledger_beside_its_writer_raises_no_alarm(network: EmbeddedNetwork) -> None:
    async def write() -> None:
        for number in range(20):
            await anchored(network.keeper, f"busy-{number}")

    async def look() -> list[tuple[Damage, ...]]:
        return [await network.keeper.check() for _ in range(6)]

    _, found = await asyncio.gather(write(), look())
    assert found == [()] * 6
