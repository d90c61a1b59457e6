"""The laws of the gateway port, one test each: a suite that every engine must pass unchanged.

An engine's `testing.py` offers `open_network(folder)`, an async context manager that yields a
`Network`; its test file says

    class TestLaws(GatewayLaws, NetworkLaws):
        ...

and gives a fixture `network`. Nothing here knows an engine: only the port and the harness.
"""

# ruff: noqa: D102, S101 - these are tests: each is named as the law it checks, and assert is how a test speaks
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Protocol

import pytest

from chain_gateway.port import ChainGateway, ChainUnavailable, NotSubmitted, OutcomeUnknown, Rejected, proofs
from chain_gateway.relay import Fault, Relay
from models.anchor import Anchor, ChainReceipt, TxId, anchor_key, build_payload, checkpoint_record
from models.canonical import b64
from models.digest import sha256, sm3
from models.errors import EvidenceError, Undecided, VerificationError
from models.trust import ChainTrust, Epoch, Validator

MADE_AT = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
POLL_S = 0.02


class Network(Protocol):
    """A real chain that a test may hurt. Nodes count from 0; `faults` of them may fail without harm."""

    chain_id: str
    node_count: int
    faults: int
    patience_s: float

    async def open(self, node: int = 0) -> ChainGateway:
        """A gateway to the node, with that node's signer."""

    async def open_through_relay(self) -> tuple[ChainGateway, Relay]:
        """A gateway to node 0 with a relay between it and the node."""

    async def kill(self, node: int) -> None:
        """The node dies as by `kill -9`."""

    async def start(self, node: int) -> None:
        """The node is started again with what it has on disk."""

    async def survive(self, anchors: Sequence[Anchor]) -> list[ChainReceipt]:
        """The anchors became final and their receipts were handed out; then everything was killed with -9 and started again."""


def make_anchor(chain: str, name: str, *, start: int = 0, end: int = 1, mark: str = "") -> Anchor:
    """An anchor of a log that only this `name` has; `mark` makes another payload under the same key."""
    origin = f"sandbox.conformance.example/{name}"
    root, twin_root = sm3(f"{name} {end} {mark}".encode()), sha256(f"{name} {end} {mark}".encode())
    text, twin = f"{origin}\n{end}\n{b64(root)}\n", f"{origin}/sha256\n{end}\n{b64(twin_root)}\n"
    line = b64(bytes(76))
    payload = build_payload(
        chain=chain,
        checkpoint=f"{text}\n— {origin} {line}\n",
        twin=f"{twin}\n— {origin}/sha256 {line}\n",
        start=start,
        end=end,
        seen=(),
        records=[checkpoint_record(text, root, twin_root, created_at=MADE_AT, upload_time=MADE_AT)],
    )
    return Anchor(chain, anchor_key(chain, origin, start), payload)


def chain_trust(gateway: ChainGateway) -> ChainTrust:
    """What the gateway says of its chain, as the verifier takes it."""
    said = gateway.trust()
    epochs = []
    for epoch in said["epochs"]:
        validators = tuple(Validator(each["key"], each["organisation"]) for each in epoch["validators"])
        epochs.append(Epoch(epoch["from_height"], validators, epoch["quorum"]))
    return ChainTrust(
        id=said["id"],
        engine=said["engine"],
        first=said["first"],
        time_error_s=said["time_error_s"],
        not_before=said["not_before"],
        senders=tuple(said["senders"]),
        params=said["params"],
        epochs=tuple(epochs),
    )


def verify(receipt: ChainReceipt, trust: ChainTrust, anchor: Anchor) -> None:
    """The receipt proves offline that the chain holds this anchor."""
    facts = proofs()[trust.engine](receipt, trust)
    facts.check_payload(anchor.payload)
    if facts.key != anchor.key or facts.block_time != receipt.block_time:
        pytest.fail("facts of the receipt are not those of the anchor")


async def final(network: Network, gateway: ChainGateway, tx_id: TxId) -> ChainReceipt:
    """The receipt, waited for as long as the network may need."""
    try:
        async with asyncio.timeout(network.patience_s):
            # A chain tells nobody when it is done: it is asked again.
            while (receipt := await _ask(gateway, tx_id)) is None:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            return receipt
    except TimeoutError:
        pytest.fail(f"no receipt within {network.patience_s} s")


async def _ask(gateway: ChainGateway, tx_id: TxId) -> ChainReceipt | None:
    try:
        return await gateway.receipt(tx_id)
    except ChainUnavailable:
        return None


async def anchored(network: Network, gateway: ChainGateway, anchor: Anchor) -> ChainReceipt:
    """The anchor is on the chain; its receipt."""
    return await final(network, gateway, await gateway.submit(anchor))


async def found(network: Network, gateway: ChainGateway, anchor: Anchor) -> TxId | None:
    """What `find` says once the node can say it: a node may need a moment to index what it has."""
    deadline = asyncio.get_running_loop().time() + network.patience_s
    while True:
        try:
            tx_id = await gateway.find(anchor.key)
        except ChainUnavailable:
            tx_id = None
        if tx_id is not None or asyncio.get_running_loop().time() > deadline:
            return tx_id
        await asyncio.sleep(POLL_S)


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit turned."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _refused(data: bytes, receipt: ChainReceipt, trust: ChainTrust, anchor: Anchor) -> bool:
    try:
        verify(ChainReceipt.parse(data), trust, anchor)
    except EvidenceError:
        return data != receipt.data
    return False


class GatewayLaws:
    """What holds for one gateway to a healthy chain."""

    async def test_submit_is_idempotent_on_the_key(self, network: Network) -> None:
        gateway, anchor = await network.open(), make_anchor(network.chain_id, "idempotent")
        first = await gateway.submit(anchor)
        assert await gateway.submit(anchor) == first
        receipt = await final(network, gateway, first)
        assert await gateway.submit(anchor) == first
        assert await gateway.receipt(first) == receipt
        await gateway.aclose()

    async def test_same_key_with_another_payload_is_rejected(self, network: Network) -> None:
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, "taken")
        other = make_anchor(network.chain_id, "taken", mark="other")
        assert other.key == anchor.key
        receipt = await anchored(network, gateway, anchor)
        with pytest.raises(Rejected):
            await gateway.submit(other)
        assert await gateway.find(anchor.key) == receipt.tx_id
        verify(await final(network, gateway, receipt.tx_id), chain_trust(gateway), anchor)
        await gateway.aclose()

    async def test_concurrent_payloads_for_one_key_have_one_winner(self, network: Network) -> None:
        gateway = await network.open()
        anchors = [make_anchor(network.chain_id, "contested", mark=str(number)) for number in range(4)]
        results = await asyncio.gather(*(gateway.submit(each) for each in anchors), return_exceptions=True)
        won = [(anchor, result) for anchor, result in zip(anchors, results, strict=True) if isinstance(result, str)]
        held = []
        for anchor, result in won:
            receipt = await _ask_until_decided(network, gateway, TxId(result), anchor)
            held += [receipt] if receipt is not None else []
        assert len(held) == 1
        assert all(isinstance(result, str | Rejected) for result in results)
        await gateway.aclose()

    async def test_lost_response_is_unknown_and_find_returns_the_transaction(self, network: Network) -> None:
        gateway, relay = await network.open_through_relay()
        anchor = make_anchor(network.chain_id, "lost-response")
        relay.arm(Fault.LOSE_RESPONSE)
        with pytest.raises(OutcomeUnknown):
            await gateway.submit(anchor)
        tx_id = await found(network, gateway, anchor)
        assert tx_id is not None
        verify(await final(network, gateway, tx_id), chain_trust(gateway), anchor)
        assert await gateway.submit(anchor) == tx_id
        await gateway.aclose()

    async def test_lost_request_is_never_called_a_success(self, network: Network) -> None:
        gateway, relay = await network.open_through_relay()
        anchor = make_anchor(network.chain_id, "lost-request")
        relay.arm(Fault.LOSE_REQUEST)
        with pytest.raises((NotSubmitted, OutcomeUnknown)):
            await gateway.submit(anchor)
        assert await gateway.find(anchor.key) is None
        verify(await anchored(network, gateway, anchor), chain_trust(gateway), anchor)
        await gateway.aclose()

    async def test_unknown_transaction_has_no_receipt_and_is_no_error(self, network: Network) -> None:
        gateway = await network.open()
        assert await gateway.receipt(TxId("00" * 32)) is None
        assert await gateway.find(make_anchor(network.chain_id, "never-sent").key) is None
        await gateway.aclose()

    async def test_final_receipt_never_changes(self, network: Network) -> None:
        gateway = await network.open()
        receipt = await anchored(network, gateway, make_anchor(network.chain_id, "unchanging"))
        await anchored(network, gateway, make_anchor(network.chain_id, "unchanging-later"))
        assert (await final(network, gateway, receipt.tx_id)).data == receipt.data
        await gateway.aclose()
        again = await network.open()
        assert (await final(network, again, receipt.tx_id)).data == receipt.data
        await again.aclose()

    async def test_every_final_receipt_verifies_offline(self, network: Network) -> None:
        gateway = await network.open()
        anchors = [make_anchor(network.chain_id, f"offline-{number}") for number in range(3)]
        receipts = [await anchored(network, gateway, anchor) for anchor in anchors]
        trust = chain_trust(gateway)
        await gateway.aclose()
        for receipt, anchor in zip(receipts, anchors, strict=True):
            verify(ChainReceipt.parse(receipt.data), trust, anchor)
        with pytest.raises(VerificationError):
            verify(receipts[0], trust, anchors[1])

    @pytest.mark.long
    async def test_every_changed_bit_of_a_receipt_is_refused(self, network: Network) -> None:
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, "bits")
        receipt = await anchored(network, gateway, anchor)
        trust = chain_trust(gateway)
        verify(receipt, trust, anchor)
        accepted = [
            bit for bit in range(8 * len(receipt.data)) if not _refused(flipped(receipt.data, bit), receipt, trust, anchor)
        ]
        assert accepted == []
        await gateway.aclose()

    async def test_receipt_does_not_verify_for_another_chain_or_engine(self, network: Network) -> None:
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, "elsewhere")
        receipt = await anchored(network, gateway, anchor)
        trust = chain_trust(gateway)
        renamed = ChainTrust(trust.id + ".b", trust.engine, senders=trust.senders, params=trust.params, epochs=trust.epochs)
        altered = ChainTrust(trust.id, "another", senders=trust.senders, params=trust.params, epochs=trust.epochs)
        moved = ChainReceipt.build(
            block_time=receipt.block_time,
            chain=renamed.id,
            engine=receipt.engine,
            height=receipt.height,
            key=receipt.key,
            proof=receipt.proof,
            tx_id=receipt.tx_id,
        )
        judge = proofs()[gateway.engine]
        for shown, world in ((receipt, renamed), (receipt, altered), (moved, renamed), (moved, trust)):
            with pytest.raises((VerificationError, Undecided)):
                judge(shown, world)
        await gateway.aclose()

    async def test_heights_are_contiguous_and_each_block_names_its_parent(self, network: Network) -> None:
        gateway = await network.open()
        receipt = await anchored(network, gateway, make_anchor(network.chain_id, "heights-0"))
        await anchored(network, gateway, make_anchor(network.chain_id, "heights-1"))
        head = await gateway.head()
        start = max(0, receipt.height - 2)
        blocks = [block async for block in gateway.blocks(start, head.height + 1)]
        assert [block.height for block in blocks] == list(range(start, head.height + 1))
        assert all(block.parent == before.hash for before, block in pairwise(blocks))
        assert blocks[-1].hash == head.hash
        holding = next(block for block in blocks if block.height == receipt.height)
        assert receipt.tx_id in holding.transactions
        assert [block async for block in gateway.blocks(head.height + 10**6, head.height + 10**6 + 1)] == []
        await gateway.aclose()

    async def test_concurrent_submits_give_each_its_own_receipt(self, network: Network) -> None:
        gateway = await network.open()
        anchors = [make_anchor(network.chain_id, f"many-{number}") for number in range(12)]
        ids = await asyncio.gather(*(gateway.submit(anchor) for anchor in anchors))
        receipts = await asyncio.gather(*(final(network, gateway, tx_id) for tx_id in ids))
        trust = chain_trust(gateway)
        for receipt, anchor in zip(receipts, anchors, strict=True):
            verify(receipt, trust, anchor)
        assert len({receipt.tx_id for receipt in receipts}) == len(anchors)
        await gateway.aclose()

    @pytest.mark.parametrize("turns", [0, 1, 2, 5])
    async def test_cancelled_submit_leaves_nothing_or_what_find_finds(self, network: Network, turns: int) -> None:
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, f"cancelled-{turns}")
        task = asyncio.create_task(gateway.submit(anchor))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        tx_id = await gateway.submit(anchor)
        verify(await final(network, gateway, tx_id), chain_trust(gateway), anchor)
        assert await gateway.find(anchor.key) == tx_id
        await gateway.aclose()

    async def test_closed_gateway_says_it_is_unavailable(self, network: Network) -> None:
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, "closed")
        await gateway.aclose()
        await gateway.aclose()
        with pytest.raises((ChainUnavailable, NotSubmitted)):
            await gateway.submit(anchor)
        with pytest.raises(ChainUnavailable):
            await gateway.receipt(TxId("00" * 32))
        with pytest.raises(ChainUnavailable):
            await gateway.find(anchor.key)
        with pytest.raises(ChainUnavailable):
            await gateway.head()
        with pytest.raises(ChainUnavailable):
            _ = [block async for block in gateway.blocks(0, 1)]

    async def test_payload_over_the_limit_is_never_on_the_chain(self, network: Network) -> None:
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, "too-long")
        long = Anchor(anchor.chain, anchor.key, anchor.payload + b" " * gateway.max_payload_bytes)
        with pytest.raises(Rejected):
            await gateway.submit(long)
        assert await gateway.find(anchor.key) is None
        await gateway.aclose()

    async def test_anchor_of_another_chain_is_rejected(self, network: Network) -> None:
        gateway = await network.open()
        with pytest.raises(Rejected):
            await gateway.submit(make_anchor(network.chain_id + ".b", "foreign"))
        await gateway.aclose()


async def _ask_until_decided(network: Network, gateway: ChainGateway, tx_id: TxId, anchor: Anchor) -> ChainReceipt | None:
    """The receipt of `tx_id` if it carries `anchor`; None if another transaction took the key."""
    while await found(network, gateway, anchor) == tx_id:
        receipt = await final(network, gateway, tx_id)
        verify(receipt, chain_trust(gateway), anchor)
        return receipt
    return None


class NetworkLaws:
    """What holds for an engine with several nodes, whatever happens to them."""

    async def test_every_node_answers_the_same_from_its_own_copy(self, network: Network) -> None:
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, "every-node")
        receipt = await anchored(network, gateway, anchor)
        for node in range(network.node_count):
            other = await network.open(node)
            shown = await final(network, other, receipt.tx_id)
            assert (shown.tx_id, shown.height, shown.key) == (receipt.tx_id, receipt.height, receipt.key)
            verify(shown, chain_trust(gateway), anchor)
            await other.aclose()
        await gateway.aclose()

    async def test_still_final_with_as_many_nodes_killed_as_may_fail(self, network: Network) -> None:
        for node in range(network.node_count - network.faults, network.node_count):
            await network.kill(node)
        gateway = await network.open()
        anchor = make_anchor(network.chain_id, "some-killed")
        receipt = await anchored(network, gateway, anchor)
        verify(receipt, chain_trust(gateway), anchor)
        for node in range(network.node_count - network.faults, network.node_count):
            await network.start(node)
            other = await network.open(node)
            verify(await final(network, other, receipt.tx_id), chain_trust(gateway), anchor)
            await other.aclose()
        assert (await final(network, gateway, receipt.tx_id)).data == receipt.data
        await gateway.aclose()

    async def test_no_receipt_while_one_node_too_many_is_killed(self, network: Network) -> None:
        gateway = await network.open()
        before = await anchored(network, gateway, make_anchor(network.chain_id, "before-the-kill"))
        killed = range(network.node_count - network.faults - 1, network.node_count)
        for node in killed:
            await network.kill(node)
        anchor = make_anchor(network.chain_id, "too-many-killed")
        tx_id: TxId | None = None
        try:
            async with asyncio.timeout(network.patience_s):
                tx_id = await gateway.submit(anchor)
        except (NotSubmitted, OutcomeUnknown, TimeoutError):
            tx_id = None
        if tx_id is not None:
            assert await _ask(gateway, tx_id) is None
        shown = await _ask(gateway, before.tx_id)
        assert shown is None or shown.data == before.data
        for node in killed:
            await network.start(node)
        held = tx_id or await _find_or_submit(network, gateway, anchor)
        verify(await final(network, gateway, held), chain_trust(gateway), anchor)
        await gateway.aclose()

    async def test_same_proofs_after_everything_was_killed_and_started(self, network: Network) -> None:
        anchors = [make_anchor(network.chain_id, f"survivor-{number}") for number in range(3)]
        receipts = await network.survive(anchors)
        gateway = await network.open()
        for receipt, anchor in zip(receipts, anchors, strict=True):
            assert (await final(network, gateway, receipt.tx_id)).data == receipt.data
            verify(receipt, chain_trust(gateway), anchor)
            assert await gateway.find(anchor.key) == receipt.tx_id
        after = make_anchor(network.chain_id, "after-the-crash")
        verify(await anchored(network, gateway, after), chain_trust(gateway), after)
        await gateway.aclose()


async def _find_or_submit(network: Network, gateway: ChainGateway, anchor: Anchor) -> TxId:
    """What recovery does: find, and only if that says none, submit again."""
    deadline = asyncio.get_running_loop().time() + network.patience_s
    while True:
        try:
            return await gateway.find(anchor.key) or await gateway.submit(anchor)
        except (ChainUnavailable, NotSubmitted, OutcomeUnknown):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(POLL_S)
