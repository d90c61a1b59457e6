"""The gateway to the embedded ledger: opens it, submits, reads one node's own copy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlsplit

from chain_gateway.embedded.chainfile import Disk, Failpoint, no_step
from chain_gateway.embedded.config import KEY_FILE, NODES, ChainConfig, create_ledger, node_folder
from chain_gateway.embedded.contract import Entry
from chain_gateway.embedded.ledger import Ledger
from chain_gateway.embedded.node import Node
from chain_gateway.embedded.proof import ENGINE, Transaction, node_id, unsigned_transaction, verify_receipt
from chain_gateway.embedded.stored import StoredBlock
from chain_gateway.port import (
    ChainTransaction,
    ChainUnavailable,
    Clock,
    Consensus,
    Damage,
    NodeStatus,
    NotSubmitted,
    Rejected,
    StateVersion,
)
from models.anchor import Anchor, Block, BlockRef, ChainReceipt, TxId
from models.canonical import JSONValue, b64, canonical
from models.digest import Digest
from models.errors import EvidenceError, Malformed
from models.merkle import inclusion_path, leaf_hash
from models.signature import Signer

BLOCK_INTERVAL_S = 1.0
P = ParamSpec("P")
T = TypeVar("T")


class _Address(NamedTuple):
    folder: Path
    node: int


def _address(url: str, home: Path, node: int | None) -> _Address:
    """The folder and node that `embedded:[PATH][?node=N]` names; without a path the folder `chain` of the home."""
    parts = urlsplit(url)
    if parts.scheme != ENGINE or parts.netloc or parts.fragment:
        raise Malformed("url of an embedded ledger has wrong form: expected embedded:, embedded:/path or embedded:?node=1")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    named = options.pop("node", "0")
    if options or not named.isdecimal():
        raise Malformed("url of an embedded ledger has an unknown option: expected only node=N")
    folder = home / parts.path if parts.path else home / "chain"
    return _Address(folder, int(named) if node is None else node)


def create(
    url: str, *, home: Path, chain_id: str, clock: Clock, organisation: str, first: int = 0, step: Failpoint = no_step
) -> None:
    """The ledger that `url` names exists, with four nodes of one organisation; an existing one is left as it is.

    Raises: Malformed if url or chain id has the wrong form; ChainUnavailable if a ledger there cannot be
        read, belongs to another chain, or the disk refuses.
    """
    folder = _address(url, home, None).folder
    try:
        owners = [organisation] * NODES
        config = create_ledger(folder, chain_id=chain_id, clock=clock, organisations=owners, first=first, step=step)
    except OSError as error:
        raise ChainUnavailable(f"embedded ledger cannot be made: {error.strerror}") from error
    if config.chain != chain_id:
        raise ChainUnavailable("another chain lies in the folder of the embedded ledger")


def node_key_path(url: str, *, home: Path, node: int = 0) -> Path:
    """Where the key of a node lies: the key with which the subject's transactions are signed (6.4.3 c).

    Raises: Malformed if the url has the wrong form.
    """
    return node_folder(_address(url, home, None).folder, node) / KEY_FILE


class _Shared:
    """Ledgers that this process has open, by folder: every gateway to a node of one chain shares the one writer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[Path, bool], tuple[Ledger, int]] = {}

    def take(self, folder: Path, *, disk: Disk | None, clock: Clock, step: Failpoint) -> Ledger:
        """The open ledger, opened if it was not; a reader takes the writer where this process has one."""
        folder = folder.resolve()
        with self._lock:
            writer, reader = (folder, True), (folder, False)
            key = writer if disk is not None or writer in self._open else reader
            ledger, count = self._open.get(key, (None, 0))
            if ledger is None:
                ledger = Ledger(folder, ChainConfig.read(folder), clock=clock, disk=disk, step=step)
                ledger.open()
            self._open[key] = (ledger, count + 1)
            return ledger

    def give_back(self, ledger: Ledger) -> None:
        """One gateway fewer uses the ledger; the last one closes it."""
        with self._lock:
            for key, (held, count) in list(self._open.items()):
                if held is ledger and count > 1:
                    self._open[key] = (held, count - 1)
                elif held is ledger:
                    del self._open[key]
                    ledger.close()


_SHARED = _Shared()


async def open_gateway(
    url: str,
    *,
    node: int | None,
    home: Path,
    clock: Clock,
    node_signer: Signer | None,
    disk: Disk | None = None,
    step: Failpoint = no_step,
) -> EmbeddedGateway:
    """A gateway to one node of the ledger that `url` names: for writing with a signer, for reading beside a writer without.

    Makes nothing: `create` does, once. `disk` and `step` are for fault tests.

    Raises: Malformed if the url has the wrong form; ChainUnavailable if there is no ledger, it has no
        such node, or another process writes it and a signer was given.
    """
    address = _address(url, home, node)
    writing = None if node_signer is None else disk or Disk()
    ledger = await asyncio.to_thread(_SHARED.take, address.folder, disk=writing, clock=clock, step=step)
    if not 0 <= address.node < len(ledger.nodes):
        await asyncio.to_thread(_SHARED.give_back, ledger)
        raise ChainUnavailable(f"embedded ledger has no node {address.node}: expected 0 to {len(ledger.nodes) - 1}")
    return EmbeddedGateway(ledger, address.node, node_signer)


class EmbeddedGateway:
    """One node of the embedded ledger, as `chain_gateway.port.ChainGateway` with `LedgerReads` and `LedgerCheck`."""

    def __init__(self, ledger: Ledger, node: int, signer: Signer | None) -> None:
        self.ledger = ledger
        self.chain_id = ledger.config.chain
        self.engine = ENGINE
        self.node = node
        self.max_payload_bytes = ledger.config.max_payload_bytes
        self.consensus = Consensus("four nodes in one process, seals of more than two thirds", BLOCK_INTERVAL_S)
        self._signer = signer
        self._is_closed = False

    def trust(self) -> dict[str, JSONValue]:
        """The members of this chain's `[[chain]]` in a trust file."""
        chain = self.ledger.config.trust
        validators = [{"key": each.key, "organisation": each.organisation} for each in chain.epochs[0].validators]
        return {
            "id": chain.id,
            "engine": chain.engine,
            "first": chain.first,
            "time_error_s": chain.time_error_s,
            "not_before": chain.not_before,
            "senders": list(chain.senders),
            "params": dict(chain.params),
            "epochs": [{"from_height": 0, "validators": validators, "quorum": "2/3"}],
        }

    # -- submitting

    async def submit(self, anchor: Anchor) -> TxId:
        """The transaction stands in a final block, stored and flushed by more than two thirds of the nodes.

        Idempotent on the key; may run concurrently: what comes together shares a block.

        Raises: NotSubmitted, OutcomeUnknown, Rejected.
        """
        if self._is_closed:
            raise NotSubmitted("gateway is closed")
        transaction = await asyncio.to_thread(self._sign, anchor)
        return await asyncio.wrap_future(self.ledger.submit(transaction, node=self.node))

    def _sign(self, anchor: Anchor) -> Transaction:
        if anchor.chain != self.chain_id:
            raise Rejected("anchor was made for another chain")
        if self._signer is None:
            raise Rejected("transaction lacks the signature of the subject's node key")
        sender = self._signer.public_key
        if sender != self.ledger.config.keys[self.node]:
            raise Rejected(f"transaction is signed by another key than that of node {self.node}")
        try:
            unsigned = unsigned_transaction(self.chain_id, anchor.key, anchor.payload, sender)
            signature = self._signer.sign(canonical(unsigned))
            return Transaction.parse(canonical({**unsigned, "signature": b64(signature)}))
        except UnicodeDecodeError as error:
            raise Rejected("payload is not UTF-8 text") from error
        except Malformed as error:
            raise Rejected(f"payload cannot be put into a transaction: {error.message}") from error
        except EvidenceError as error:
            raise NotSubmitted(f"transaction was not signed: {error.message}", hint=error.hint) from error

    # -- reading

    def _node(self) -> Node:
        if self._is_closed:
            raise ChainUnavailable("gateway is closed")
        return self.ledger.node(self.node)

    async def _read(self, read: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        if self._is_closed:
            raise ChainUnavailable("gateway is closed")
        return await asyncio.to_thread(read, *arguments, **named)

    def _located(self, tx_id: TxId) -> tuple[StoredBlock, int] | None:
        node = self._node()
        where = node.locate(tx_id)
        if where is None or where[0] > self.ledger.visible(node):
            self.ledger.finish()
            where = node.locate(tx_id)
        if where is None:
            return None
        height, index = where
        if height > self.ledger.visible(node):
            if len([each for each in self.ledger.nodes if each.is_up]) < self.ledger.config.quorum:
                # It may have been shown before nodes went down: "none" could be a lie, so it is said that nothing is known.
                raise ChainUnavailable("too few nodes are up to know whether the newest block's seals are fixed")
            return None
        block = node.block(height)
        return None if block is None else (block, index)

    async def receipt(self, tx_id: TxId) -> ChainReceipt | None:
        """The receipt from this node's own copy, verified before it is given out; None until final.

        Raises: ChainUnavailable, also where the copy is damaged.
        """
        return await self._read(self._receipt, tx_id)

    def _receipt(self, tx_id: TxId) -> ChainReceipt | None:
        found = self._located(tx_id)
        if found is None:
            return None
        block, index = found
        path = inclusion_path([leaf_hash(text.encode()) for text in block.transactions], index)
        text = block.transactions[index]
        proof = {
            "header": block.header.data.decode(),
            "index": index,
            "path": [b64(each) for each in path],
            "seals": [seal.to_json() for seal in block.seals or ()],
            "transaction": text,
        }
        try:
            receipt = ChainReceipt.build(
                block_time=block.header.time,
                chain=self.chain_id,
                engine=ENGINE,
                height=block.header.height,
                key=Transaction.parse(text.encode()).key,
                proof=proof,
                tx_id=tx_id,
            )
            verify_receipt(receipt, self.ledger.config.trust)
        except EvidenceError as error:
            self.ledger.nodes[self.node].hurt(block.header.height, error.message)
            raise ChainUnavailable(self.ledger.nodes[self.node].detail) from error
        return receipt

    async def find(self, key: Digest) -> TxId | None:
        """The transaction that holds `key` for this gateway's sender (without a signer: for any), final or about to be.

        Raises: ChainUnavailable.
        """
        return await self._read(self._find, key)

    def _find(self, key: Digest) -> TxId | None:
        node = self._node()
        self.ledger.finish()
        own = None if self._signer is None else self._signer.public_key
        senders = self.ledger.config.keys if own is None else (own,)
        held = (node.state.holder(sender, key.value) for sender in senders)
        return next((tx_id for tx_id in held if tx_id is not None), None) or self.ledger.find_pending(own, key)

    async def head(self) -> BlockRef:
        """The node's newest final block.

        Raises: ChainUnavailable.
        """
        return await self._read(self._head)

    def _head(self) -> BlockRef:
        node = self._node()
        return self._ref(node, self.ledger.visible(node))

    def _ref(self, node: Node, height: int) -> BlockRef:
        if not 0 <= height < len(node.places):
            raise ChainUnavailable(f"node {node.number} holds no final block at height {height}")
        where = node.places[height]
        return BlockRef(self.chain_id, height, where.id, where.time)

    async def blocks(self, start: int, stop: int) -> AsyncIterator[Block]:
        """The node's final blocks from `start` to before `stop`.

        Raises: ChainUnavailable.
        """
        for height in range(max(start, 0), stop):
            block = await self._read(self._block, height)
            if block is None:
                return
            yield block

    def _block(self, height: int) -> Block | None:
        node = self._node()
        stored = node.block(height) if height <= self.ledger.visible(node) else None
        if stored is None:
            return None
        header = stored.header
        extra: dict[str, JSONValue] = {
            "difficulty": 0,
            "nodes": header.nodes,
            "seals": [seal.to_json() for seal in stored.seals or ()],
            "state_root": header.state_root,
            "transactions": list(stored.transactions),
            "tx_root": header.tx_root,
            "version": 1,
        }
        return Block(height, header.id, header.parent, header.time, stored.tx_ids(), header.data.decode(), extra)

    async def transaction(self, tx_id: TxId) -> ChainTransaction | None:
        """The final transaction as this node holds it.

        Raises: ChainUnavailable.
        """
        return await self._read(self._transaction, tx_id)

    def _transaction(self, tx_id: TxId) -> ChainTransaction | None:
        found = self._located(tx_id)
        if found is None:
            return None
        block, index = found
        held = Transaction.parse(block.transactions[index].encode())
        ref = BlockRef(self.chain_id, block.header.height, block.header.id, block.header.time)
        return ChainTransaction(tx_id, held.key, held.payload, node_id(held.sender), ref, index)

    async def state(self, origin: str) -> StateVersion | None:
        """The log's head as this node has it.

        Raises: ChainUnavailable.
        """
        versions = await self.history(origin)
        return versions[-1] if versions else None

    async def history(self, origin: str) -> tuple[StateVersion, ...]:
        """Every head the log had, each with the transaction, block, time and node key that made it.

        Raises: ChainUnavailable.
        """
        return await self._read(self._history, origin)

    def _history(self, origin: str) -> tuple[StateVersion, ...]:
        node = self._node()
        visible = self.ledger.visible(node)
        return tuple(self._version(node, entry) for entry in node.state.versions(origin) if entry.height <= visible)

    def _version(self, node: Node, entry: Entry) -> StateVersion:
        ref = self._ref(node, entry.height)
        return StateVersion(entry.origin, entry.end, entry.root, entry.tx_id, node_id(entry.sender), ref)

    async def nodes(self) -> tuple[NodeStatus, ...]:
        """All nodes of the ledger, whether they answer and how far each is.

        Raises: ChainUnavailable if the gateway is closed.
        """
        return await self._read(self._nodes)

    def _nodes(self) -> tuple[NodeStatus, ...]:
        self.ledger.refresh()
        config = self.ledger.config
        return tuple(
            NodeStatus(
                node=node.number,
                key=config.ids[node.number],
                organisation=config.organisations[node.number],
                is_up=node.is_up,
                height=self.ledger.visible(node) if node.is_up else None,
                detail=node.detail,
            )
            for node in self.ledger.nodes
        )

    async def block_proof(self, height: int) -> bytes | None:
        """The bytes of `blocks/N.json`: header and seals of a final block.

        Raises: ChainUnavailable.
        Source: formats §11 (Bundle).
        """
        block = await self._read(self._block, height)
        if block is None:
            return None
        proof = {"header": block.header, "seals": block.extra["seals"]}
        named = {"chain": self.chain_id, "engine": ENGINE, "format": "cz-block-proof/1", "height": height, "proof": proof}
        return canonical(named)

    async def check(self) -> tuple[Damage, ...]:
        """What is wrong with any node's copy, each with node and height; empty if all is well.

        Raises: ChainUnavailable if the gateway is closed.
        """
        return await self._read(self.ledger.check)

    async def aclose(self) -> None:
        """The gateway is closed; with the last one of this process the ledger is, after what was submitted is settled."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.to_thread(_SHARED.give_back, self.ledger)
