"""The embedded ledger under kill -9, torn writes, full and failing disks, and edited copies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest

from chain_gateway.conformance import chain_trust, make_anchor, verify
from chain_gateway.embedded import recovery
from chain_gateway.embedded.chainfile import Step
from chain_gateway.embedded.config import ChainConfig
from chain_gateway.embedded.engine import EmbeddedGateway
from chain_gateway.embedded.node import Condition
from chain_gateway.embedded.proof import Header
from chain_gateway.embedded.stored import Pending
from chain_gateway.embedded.testing import CHAIN_ID, EmbeddedNetwork, FailingDisk, open_network, run_and_die
from chain_gateway.port import ChainUnavailable, NotSubmitted, OutcomeUnknown
from models.anchor import Anchor, ChainReceipt

OTHER_STEPS = {Step.BEFORE_CREATE, Step.AFTER_CREATE, Step.BEFORE_CUT, Step.AFTER_CUT, Step.BEFORE_ANSWER}
NODE_STEPS = [step for step in Step if step not in OTHER_STEPS]  # each node comes to them once a block
CUTTING_STEPS = [Step.BEFORE_CUT, Step.AFTER_CUT]


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[EmbeddedNetwork]:
    async with open_network(tmp_path) as opened:
        yield opened


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedNetwork, FailingDisk]]:
    disk = FailingDisk()
    opened = EmbeddedNetwork(tmp_path, disk=disk)
    await opened.up()
    yield opened, disk
    disk.heal()
    await opened.down()


def blocks(network: EmbeddedNetwork, node: int) -> Path:
    return network.folder / f"node-{node}" / "blocks.jsonl"


async def anchored(gateway: EmbeddedGateway, anchor: Anchor) -> ChainReceipt:
    receipt = await gateway.receipt(await gateway.submit(anchor))
    assert receipt is not None
    return receipt


async def recovered(network: EmbeddedNetwork, anchors: list[Anchor], receipts: list[ChainReceipt]) -> None:
    """After a crash: receipts shown are unchanged, every anchor can be brought on, each key stands once, no copy is damaged."""
    gateway, trust = network.keeper, chain_trust(network.keeper)
    for shown, anchor in zip(receipts, anchors, strict=False):
        again = await gateway.receipt(shown.tx_id)
        assert again is not None
        assert again.data == shown.data
        verify(again, trust, anchor)
    for anchor in anchors:
        tx_id = await gateway.find(anchor.key) or await gateway.submit(anchor)
        receipt = await gateway.receipt(tx_id)
        assert receipt is not None
        verify(receipt, trust, anchor)
    held = [tx_id async for block in gateway.blocks(0, 10**6) for tx_id in block.transactions]
    assert len(held) == len(set(held)) == len(anchors)
    assert await gateway.check() == ()
    for number in range(4):
        other = await network.open(number)
        assert await other.head() == await gateway.head()
        await other.aclose()


# -- killed at every step, as R1 asks


@pytest.mark.parametrize(
    ("step", "count"),
    [*product(NODE_STEPS, [1, 2, 4, 7]), (Step.BEFORE_ANSWER, 1), (Step.BEFORE_ANSWER, 3)],
)
async def test_killed_at_any_step_it_recovers_by_itself(tmp_path: Path, step: Step, count: int) -> None:
    anchors = [make_anchor(CHAIN_ID, f"killed-{number}") for number in range(3)]
    network = EmbeddedNetwork(tmp_path)
    await network.up()
    await network.down()
    receipts, _ = await asyncio.to_thread(run_and_die, tmp_path, anchors, step, count)
    await network.up()
    await recovered(network, anchors, receipts)
    await network.down()


@pytest.mark.parametrize("second", CUTTING_STEPS)
async def test_killed_again_while_it_recovers_it_recovers(tmp_path: Path, second: Step) -> None:
    anchors = [make_anchor(CHAIN_ID, f"twice-{number}") for number in range(3)]
    network = EmbeddedNetwork(tmp_path)
    await network.up()
    await network.down()
    receipts, _ = await asyncio.to_thread(run_and_die, tmp_path, anchors, Step.AFTER_BLOCK_WRITE, 6)
    for node in range(3):
        path = blocks(network, node)
        path.write_bytes(path.read_bytes()[:-9])
    more, _ = await asyncio.to_thread(run_and_die, tmp_path, anchors, second, 1)
    assert more == []
    await network.up()
    await recovered(network, anchors, receipts)
    await network.down()


# -- torn tails


@pytest.mark.parametrize("kept", ["nothing", "one-byte", "half", "all-but-one"])
async def test_torn_block_that_no_seal_counted_for_is_cut_off(network: EmbeddedNetwork, kept: str) -> None:
    await network.kill(3)
    anchor = make_anchor(CHAIN_ID, "torn")
    receipt = await anchored(network.keeper, anchor)
    line = blocks(network, 0).read_bytes().split(b"\n")[2]
    torn = line[: {"nothing": 0, "one-byte": 1, "half": len(line) // 4, "all-but-one": line.index(b',"seal"') - 1}[kept]]
    with blocks(network, 3).open("ab") as file:
        file.write(torn)
    await network.start(3)
    await recovered(network, [anchor], [receipt])


async def test_torn_last_line_is_cut_off_and_taken_from_peers(network: EmbeddedNetwork) -> None:
    anchor = make_anchor(CHAIN_ID, "torn-seals")
    receipt = await anchored(network.keeper, anchor)
    await network.kill(1)
    data = blocks(network, 1).read_bytes()
    blocks(network, 1).write_bytes(data[:-40])
    await network.start(1)
    assert blocks(network, 1).read_bytes() == data
    await recovered(network, [anchor], [receipt])


async def test_tail_that_no_interrupted_write_leaves_is_damage(network: EmbeddedNetwork) -> None:
    await anchored(network.keeper, make_anchor(CHAIN_ID, "edited-tail"))
    await network.kill(1)
    data = blocks(network, 1).read_bytes()
    blocks(network, 1).write_bytes(data[:-1] + b"x")
    await network.start(1)
    assert network.keeper.ledger.nodes[1].condition is Condition.DAMAGED
    assert [(damage.node, damage.height) for damage in await network.keeper.check()] == [(1, 1)]


# -- edited copies (4.1.1 d, 6.4.4 e)


def height_at(data: bytes, place: int) -> int:
    return data[:place].count(b"\n") // 2


@pytest.mark.parametrize("part", range(4))
async def test_edited_byte_is_named_with_node_and_height(network: EmbeddedNetwork, part: int) -> None:
    for number in range(3):
        await anchored(network.keeper, make_anchor(CHAIN_ID, f"edited-{number}"))
    path = blocks(network, 2)
    data = path.read_bytes()
    ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
    places = sorted({*range(part * 211, len(data), 844), *ends[part::4], 0, len(data) - 1 - part})
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << part
        path.write_bytes(bytes(changed))
        found = await asyncio.to_thread(network.keeper.ledger.check)
        assert [(damage.node, damage.height) for damage in found] == [(2, height_at(data, place))], place
    path.write_bytes(data)
    assert await network.keeper.check() == ()


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_truncated_copy_is_named(network: EmbeddedNetwork, lost: int) -> None:
    for number in range(3):
        await anchored(network.keeper, make_anchor(CHAIN_ID, f"cut-{number}"))
    path = blocks(network, 0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) - 2 * lost]))
    assert [(damage.node, damage.height) for damage in await network.keeper.check()] == [(0, 4 - lost)]


async def test_swapped_copies_of_two_nodes_are_named(network: EmbeddedNetwork) -> None:
    await anchored(network.keeper, make_anchor(CHAIN_ID, "swapped"))
    first, second = blocks(network, 0).read_bytes(), blocks(network, 1).read_bytes()
    blocks(network, 0).write_bytes(second)
    blocks(network, 1).write_bytes(first)
    assert {damage.node for damage in await network.keeper.check()} == {0, 1}


async def test_reads_from_an_edited_copy_fail_closed(network: EmbeddedNetwork) -> None:
    receipts = [await anchored(network.keeper, make_anchor(CHAIN_ID, f"closed-{number}")) for number in range(8)]
    path = blocks(network, 0)
    data = path.read_bytes()
    path.write_bytes(
        data.replace(receipts[0].proof["transaction"][20:40].encode(), b"x" * 20).ljust(len(data), b" ")[: len(data)]
    )
    lines = data.split(b"\n")
    lines[2] = lines[2].replace("日志根".encode(), "日志桹".encode(), 1)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ChainUnavailable):
        await network.keeper.receipt(receipts[0].tx_id)
    other = await network.open(1)
    assert (await other.receipt(receipts[0].tx_id)) == receipts[0]
    assert (await anchored(other, make_anchor(CHAIN_ID, "goes-on"))).proof["seals"]
    await other.aclose()


async def test_damaged_node_is_out_of_service_after_a_restart(network: EmbeddedNetwork) -> None:
    receipts = [await anchored(network.keeper, make_anchor(CHAIN_ID, f"restart-{number}")) for number in range(2)]
    path = blocks(network, 1)
    path.write_bytes(path.read_bytes().replace(b'"height":1', b'"height":7', 1))
    await network.down()
    await network.up()
    assert [status.is_up for status in await network.keeper.nodes()] == [True, False, True, True]
    assert "height 1" in (await network.keeper.nodes())[1].detail
    assert await network.keeper.receipt(receipts[0].tx_id) == receipts[0]


# -- disks that fail, as R3 asks


@pytest.mark.parametrize("bytes_left", [0, 1, 700, 60_000])
async def test_full_disk_refuses_and_goes_on_once_healed(failing: tuple[EmbeddedNetwork, FailingDisk], bytes_left: int) -> None:
    network, disk = failing
    receipt = await anchored(network.keeper, make_anchor(CHAIN_ID, "before-it-was-full"))
    disk.write_error, disk.bytes_left = errno.ENOSPC, bytes_left
    anchors = [make_anchor(CHAIN_ID, f"full-{number}") for number in range(40 if bytes_left > 1000 else 3)]
    acknowledged = []
    for anchor in anchors:
        try:
            acknowledged.append(await anchored(network.keeper, anchor))
        except (NotSubmitted, OutcomeUnknown, ChainUnavailable):
            break
    assert len(acknowledged) < len(anchors)
    with pytest.raises((NotSubmitted, OutcomeUnknown)):
        await network.keeper.submit(anchors[len(acknowledged)])
    disk.heal()
    tried = anchors[: len(acknowledged) + 1]
    after = make_anchor(CHAIN_ID, "after-it-was-full")
    for anchor in (*tried, after):
        verify(await anchored(network.keeper, anchor), chain_trust(network.keeper), anchor)
    assert await network.keeper.receipt(receipt.tx_id) == receipt
    assert await network.keeper.check() == ()


@pytest.mark.parametrize("bytes_left", range(0, 30_000, 750))
async def test_receipt_alone_brings_a_ledger_back_from_a_full_disk(
    failing: tuple[EmbeddedNetwork, FailingDisk], bytes_left: int
) -> None:
    network, disk = failing
    disk.write_error, disk.bytes_left = errno.ENOSPC, bytes_left
    sent = []
    for number in range(4):
        with contextlib.suppress(NotSubmitted, OutcomeUnknown, ChainUnavailable):
            sent.append(await network.keeper.submit(make_anchor(CHAIN_ID, f"heal-{number}")))
    for number in range(4):
        with contextlib.suppress(ChainUnavailable):
            found = await network.keeper.find(make_anchor(CHAIN_ID, f"heal-{number}").key)
            if found is not None:
                sent.append(found)
                await network.keeper.receipt(found)  # asked while the disk is still full
    disk.heal()
    for tx_id in sent:
        assert await network.keeper.receipt(tx_id) is not None


async def test_failed_flush_stops_the_node_and_its_file_is_not_flushed_again(
    failing: tuple[EmbeddedNetwork, FailingDisk],
) -> None:
    network, disk = failing
    disk.flush_errors = [errno.EIO]
    tx_id = await network.keeper.submit(make_anchor(CHAIN_ID, "one-flush"))
    up = await network.open(next(node.number for node in network.keeper.ledger.nodes if node.is_up))
    receipt = await up.receipt(tx_id)
    assert receipt is not None
    stopped = [node for node in network.keeper.ledger.nodes if node.condition is Condition.STOPPED]
    assert len(stopped) == 1
    assert stopped[0].id not in {seal["node"] for seal in receipt.proof["seals"]}
    await anchored(up, make_anchor(CHAIN_ID, "three-go-on"))
    assert stopped[0].condition is Condition.STOPPED
    await network.start(stopped[0].number)
    assert [await gateway.receipt(tx_id) for gateway in (up, network.keeper)] == [receipt] * 2
    assert await network.keeper.check() == ()
    await up.aclose()


async def test_failed_flushes_of_all_nodes_leave_an_unknown_outcome_that_a_restart_settles(
    failing: tuple[EmbeddedNetwork, FailingDisk],
) -> None:
    network, disk = failing
    receipt = await anchored(network.keeper, make_anchor(CHAIN_ID, "before-the-errors"))
    disk.flush_errors = [errno.EIO] * 4
    anchor = make_anchor(CHAIN_ID, "no-flush")
    with pytest.raises(OutcomeUnknown):
        await network.keeper.submit(anchor)
    with pytest.raises(NotSubmitted):
        await network.keeper.submit(make_anchor(CHAIN_ID, "after-the-errors"))
    with pytest.raises(ChainUnavailable):
        await network.keeper.find(anchor.key)
    disk.heal()
    await network.down()
    await network.up()
    assert await network.keeper.find(anchor.key) is not None
    verify(await anchored(network.keeper, anchor), chain_trust(network.keeper), anchor)
    assert await network.keeper.receipt(receipt.tx_id) == receipt
    assert await network.keeper.check() == ()


@pytest.mark.parametrize("failures", [2, 3])
async def test_too_few_flushes_are_no_finality_and_the_locked_block_is_finished(
    failing: tuple[EmbeddedNetwork, FailingDisk], failures: int
) -> None:
    network, disk = failing
    disk.flush_errors = [errno.EIO] * failures
    anchor = make_anchor(CHAIN_ID, "some-flushes")
    with pytest.raises(OutcomeUnknown):
        await network.keeper.submit(anchor)
    disk.heal()
    up = next(node.number for node in network.keeper.ledger.nodes if node.is_up)
    gateway = await network.open(up)
    tx_id = gateway.ledger.find_pending(None, anchor.key)
    assert tx_id is not None
    for node in network.keeper.ledger.nodes:
        if not node.is_up:
            await network.start(node.number)
    receipt = await gateway.receipt(tx_id)
    assert receipt is not None
    verify(receipt, chain_trust(gateway), anchor)
    assert await gateway.check() == ()
    await gateway.aclose()


# -- nodes that come and go


async def test_receipt_is_the_same_whichever_nodes_were_there(network: EmbeddedNetwork) -> None:
    receipts = []
    for dead in range(4):
        asked = (dead + 1) % 4
        await network.kill(dead)
        gateway = await network.open(asked)
        receipts.append(await anchored(gateway, make_anchor(CHAIN_ID, f"without-{dead}")))
        assert network.keeper.ledger.nodes[dead].id not in {seal["node"] for seal in receipts[-1].proof["seals"]}
        await network.start(dead)
        await gateway.aclose()
    await network.down()
    await network.up()
    for number in range(4):
        gateway = await network.open(number)
        assert [await gateway.receipt(receipt.tx_id) for receipt in receipts] == receipts
        await gateway.aclose()


async def test_two_nodes_alone_neither_seal_nor_deny(network: EmbeddedNetwork) -> None:
    receipts = [await anchored(network.keeper, make_anchor(CHAIN_ID, f"alone-{number}")) for number in range(2)]
    await network.down()
    for node in (2, 3):
        blocks(network, node).rename(blocks(network, node).with_suffix(".away"))
        (network.folder / f"node-{node}" / "key.pem").rename(network.folder / f"node-{node}" / "key.away")
    await network.up()
    with pytest.raises(NotSubmitted):
        await network.keeper.submit(make_anchor(CHAIN_ID, "two-of-four"))
    assert await network.keeper.receipt(receipts[0].tx_id) == receipts[0]
    with pytest.raises(ChainUnavailable):
        await network.keeper.receipt(receipts[1].tx_id)


# -- which locked block is finished


def pending(name: str) -> Pending:
    config = ChainConfig("c", (b"\x04" + bytes(64),) * 4, ("O",) * 4, 0, 1)
    genesis = config.genesis(None, EmbeddedNetwork(Path()).clock)
    return Pending(Header.parse(genesis.data.replace(b'"chain":"c"', f'"chain":"{name}"'.encode())), ())


@pytest.mark.parametrize(
    ("locks", "missing", "chosen"),
    [
        ("", 0, None),
        ("a", 0, "a"),
        ("a", 3, "a"),
        ("aab", 1, "a"),
        ("abb", 1, "b"),
        ("aabb", 0, "any"),
        ("ab", 2, None),
        ("ab", 1, "any"),
        ("abb", 2, None),
    ],
)
def test_locked_block_is_finished_only_if_no_other_can_be_final(locks: str, missing: int, chosen: str | None) -> None:
    found = recovery.choose([pending(name) for name in locks], missing=missing, quorum=3)
    if chosen is None:
        assert found is None
    else:
        assert found is not None
        assert chosen in (found.header.chain, "any")
