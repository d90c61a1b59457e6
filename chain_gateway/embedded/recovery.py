"""How nodes find together: who is outvoted, who takes over from whom, which locked block is finished.

Functions over nodes, used by the ledger at its start, when a node comes back, and before each block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from chain_gateway.embedded.chainfile import no_step
from chain_gateway.embedded.config import ChainConfig
from chain_gateway.embedded.node import Node
from chain_gateway.embedded.stored import Pending, StoredBlock, final_line, sealed_line
from chain_gateway.port import ChainUnavailable, Damage
from models.errors import EvidenceError

SEAL_MEMBER = b',"seal":'


def _up(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node.is_up]


def judge_tail(node: Node, nodes: Sequence[Node]) -> None:
    """A node whose last line is cut off is damaged if a process that died could not have left it so.

    A write that was interrupted leaves a beginning of what was to be written, and no seal of the
    node had counted. Anything else after the last whole line was done to the file afterwards.
    """
    if node.is_up and node.rest:
        height = node.height + 1
        block = _peer_block(nodes, node, height)
        if block is not None and not _is_torn(node, block):
            node.hurt(height, "last line is not what an interrupted write leaves")


def _peer_block(nodes: Sequence[Node], asker: Node, height: int) -> StoredBlock | None:
    for peer in _up(nodes):
        if peer is not asker and peer.height >= height:
            try:
                return peer.block(height)
            except ChainUnavailable:
                continue
    return None


def _is_torn(node: Node, block: StoredBlock) -> bool:
    seals = block.seals or ()
    if node.locked is not None:
        expected = final_line(block.header.height, seals)
        return node.locked.header.id == block.header.id and expected[:-1].startswith(node.rest) and len(node.rest) < len(expected)
    if any(seal.node == node.id for seal in seals):
        return False
    line = sealed_line(block.header.data.decode(), block.transactions, None)
    common = line[: line.index(SEAL_MEMBER)]
    return common.startswith(node.rest[: len(common)])


def outvote(nodes: Sequence[Node]) -> None:
    """A node whose history differs from that of most live nodes is damaged, where it begins to differ."""
    live = [node for node in _up(nodes) if node.height >= 0]
    if len(live) < 2:
        return
    height = min(node.height for node in live)
    votes = Counter(node.places[height].id for node in live)
    winner, count = votes.most_common(1)[0]
    if count == len(live):
        return
    is_tie = sum(number == count for number in votes.values()) > 1
    good = next(node for node in live if node.places[height].id == winner)
    for node in live:
        if node.places[height].id != winner or is_tie:
            first = next((h for h in range(height + 1) if node.places[h].id != good.places[h].id), height)
            node.hurt(first, "block differs from that of its peers")


def level(live: Sequence[Node]) -> None:
    """Every live node holds every final block that one of them holds.

    Source: T/SAC 004—2024 4.1.3 a)–d), f).
    """
    best = max(live, key=lambda node: node.height, default=None)
    if best is None:
        return
    for node in live:
        while node.is_up and node.height < best.height:
            height = node.height + 1
            # Another source is asked where one fails (4.1.3 c): a peer's damaged block takes that peer out of service.
            block = _peer_block(live, node, height)
            if block is None:
                break
            try:
                if not node.take_over(block):
                    break
            except EvidenceError as error:
                node.hurt(height, f"does not agree with its peers: {error.message}")


def same_seals(live: Sequence[Node]) -> None:
    """Live nodes at the same newest height hold the same seals for it.

    They can differ only where a process died while it fixed the seals and another, that could not
    see all nodes, fixed them anew. A receipt is shown only once a quorum of nodes holds its seals,
    so of two different sets at most one was shown: the one that more nodes hold.
    """
    height = max((node.height for node in live), default=-1)
    top = [node for node in live if node.is_up and node.height == height and height >= 0]
    held = {}
    for node in top:
        try:
            block = node.block(height)
        except ChainUnavailable:
            continue
        if block is not None and block.seals is not None:
            held[node.number] = block.seals
    votes = Counter(held.values())
    if len(votes) < 2:
        return
    winner = max(votes, key=lambda seals: (votes[seals], seals))
    for node in top:
        if held.get(node.number, winner) != winner:
            node.reseal(winner)


def settled_height(nodes: Sequence[Node], quorum: int) -> int:
    """The newest height whose seals are fixed for ever: a quorum of nodes holds them, or a block stands on it."""
    live = _up(nodes)
    heights = sorted((node.height for node in live), reverse=True)
    if not heights:
        return -1
    if len(heights) < quorum:
        # A block is made only when a quorum holds the seals of the one before it.
        return heights[0] - 1 if heights[0] > 0 else heights[0]
    newest = heights[quorum - 1]
    return max(newest, heights[0] - 1)


def choose(locked: Sequence[Pending], *, missing: int, quorum: int) -> Pending | None:
    """The locked block to finish: the one most nodes hold, if no other can be final anywhere.

    None if nothing is locked, or if a node that is missing could turn another block final.
    """
    votes = Counter(block.header.id for block in locked)
    if not votes:
        return None
    winner = max(votes, key=lambda block_id: (votes[block_id], block_id))
    if any(number + missing >= quorum for block_id, number in votes.items() if block_id != winner):
        return None
    return next(block for block in locked if block.header.id == winner)


def aside(path: Path) -> Path:
    """A name beside `path` that no file has yet, for a damaged copy."""
    number = 0
    while (name := path.with_suffix(f".damaged-{number}")).exists():
        number += 1
    return name


def check(folder: Path, config: ChainConfig) -> tuple[Damage, ...]:
    """Every block of every node's copy is re-done, and the copies are compared.

    Runs beside a writing process: a node that seems behind is read again before it is named.
    """
    nodes = [Node(number, folder, config, disk=None, step=no_step) for number in range(len(config.keys))]
    judged: set[StoredBlock] = set()
    for node in nodes:
        node.start()
        node.check_key()
        if node.is_up:
            node.redo_all(judged)
    for node in _up(nodes):
        # Read again after its peers were read: what they hold of it is then older than what it holds itself.
        node.refresh()
        judge_tail(node, nodes)
        _name_missing(node, nodes)
    outvote(nodes)
    _compare_seals(_up(nodes))
    found = tuple(node.damage for node in nodes if node.damage is not None)
    for node in nodes:
        node.close()
    return found


def _compare_seals(live: Sequence[Node]) -> None:
    for height in range(max((node.height for node in live), default=-1) + 1):
        held = {node.number: node.seals_at(height) for node in live if node.is_up and node.height >= height}
        votes = Counter(held.values())
        if len(votes) > 1:
            winner = max(votes, key=lambda seals: votes[seals])
            for node in live:
                if held.get(node.number, winner) != winner:
                    node.hurt(height, "seals differ from those of its peers")


def _name_missing(node: Node, nodes: Sequence[Node]) -> None:
    """A block that the node had sealed, or on which another stands, is missing from its copy."""
    best = max(_up(nodes), key=lambda peer: peer.height, default=node)
    height = node.height + 1
    block = _peer_block(nodes, node, height) if node.is_up else None
    if block is None:
        return
    if node.locked is None and any(seal.node == node.id for seal in block.seals or ()):
        node.hurt(height, "lacks a block that it had sealed")
    elif height < best.height:
        node.hurt(height, f"is behind: its peers hold the chain up to height {best.height}")
