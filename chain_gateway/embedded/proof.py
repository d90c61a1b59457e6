"""What a receipt of the embedded ledger proves, and the bytes of its blocks.

Pure: it reads a receipt and one chain of a trust file, nothing else. The ledger uses the same
parsers, so what a node stores and what a court checks can never drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from models.anchor import BlockRef, ChainReceipt, ReceiptFacts, Relied, TxId
from models.canonical import MAX_INTEGER, JSONValue, b64, canonical, format_time, members, parse_canonical, parse_time, unb64
from models.digest import Algorithm, Digest, sm3, unhex
from models.errors import Malformed, Undecided, Unknown, VerificationError
from models.merkle import leaf_hash, verify_inclusion
from models.names import check_chain_id, check_format
from models.signature import check_public_key, verify
from models.trust import ChainTrust, Epoch

ENGINE = "embedded"
MAX_HEADER_BYTES = 64 << 10
MAX_TRANSACTION_BYTES = 2 << 20
"""A text inside a receipt is read while the receipt is held: what a reader has room for (the default P is 60,000 bytes)."""
MAX_SEALS = 256
MAX_PATH = 63
NO_PARENT = "0" * 64
NOT_CHECKED = ("parent, height and state_root of the block rest on the quorum alone",)
ALGORITHMS = ("sm3", "sm2-sm3")

_NODE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TX_MEMBERS = "chain format key payload sender signature"
_HEADER_MEMBERS = "chain difficulty format height nodes parent state_root time tx_count tx_root version"


def _whole(value: JSONValue, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
        raise Malformed(f"{what} has wrong form: expected an integer from 0")
    return value


def node_id(public_key: bytes) -> str:
    """A node as seals and sender lists name it: hex SM3 of its 65-byte key."""
    return sm3(public_key).hex()


def nodes_digest(public_keys: Sequence[bytes]) -> str:
    """The member `nodes` of a header: hex SM3 over the node keys, sorted by their base64.

    Source: formats §4.6, §11 (Embedded ledger).
    """
    return sm3(canonical(sorted(b64(key) for key in public_keys))).hex()


class Seal(NamedTuple):
    """One node's signature over a header."""

    node: str
    value: bytes

    def to_json(self) -> dict[str, JSONValue]:
        """The seal as it stands in a receipt."""
        return {"node": self.node, "value": b64(self.value)}

    @classmethod
    def from_json(cls, value: JSONValue) -> Seal:
        """The seal that `value` holds.

        Raises: Malformed if its form is wrong.
        """
        node, signature = members(value, "node value", "seal")
        return cls(unhex(node, what="node of a seal").hex(), unb64(signature, size=64, what="value of a seal"))


def read_seals(value: JSONValue) -> tuple[Seal, ...]:
    """The seals of a list that ascends by node and names none twice.

    Raises: Malformed if it is no such list.
    """
    if not isinstance(value, list) or len(value) > MAX_SEALS:
        raise Malformed(f"seals are not a list of at most {MAX_SEALS}")
    seals = tuple(Seal.from_json(entry) for entry in value)
    names = [seal.node for seal in seals]
    if names != sorted(set(names)):
        raise Malformed("seals are not in order: expected each node once, ascending")
    return seals


@dataclass(frozen=True, slots=True)
class Header:
    """A block header, read strictly; `data` are the bytes that nodes seal and `id` is their SM3."""

    chain: str
    height: int
    nodes: str
    parent: str
    state_root: str
    time: datetime
    tx_count: int
    tx_root: str
    data: bytes

    @property
    def id(self) -> str:
        """The block id: hex SM3 of the header."""
        return sm3(self.data).hex()

    @classmethod
    def build(
        cls, *, chain: str, height: int, nodes: str, parent: str, state_root: str, time: datetime, tx_count: int, tx_root: str
    ) -> Header:
        """The header of these parts.

        Raises: Malformed if a part has the wrong form.
        Source: T/SAC 004—2024 4.1.1 b); formats §4.6.
        """
        named = {
            "chain": chain,
            "difficulty": 0,
            "format": "cz-block/1",
            "height": height,
            "nodes": nodes,
            "parent": parent,
            "state_root": state_root,
            "time": format_time(time),
            "tx_count": tx_count,
            "tx_root": tx_root,
            "version": 1,
        }
        return cls.parse(canonical(named))

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The header that canonical bytes hold.

        Raises: Malformed if the form is wrong; Unknown if its version is unknown.
        """
        value = parse_canonical(data, max_bytes=MAX_HEADER_BYTES, what="block header")
        check_format(value, "cz-block")
        chain, difficulty, _, height, nodes, parent, state_root, time, tx_count, tx_root, version = members(
            value, _HEADER_MEMBERS, "block header"
        )
        if difficulty != 0 or isinstance(difficulty, bool) or version != 1 or isinstance(version, bool):
            raise Malformed("block header has another difficulty or version: expected 0 and 1")
        for digest in (nodes, parent, state_root, tx_root):
            unhex(digest, what="digest of a block header")
        return cls(
            check_chain_id(chain),
            _whole(height, "height of a block header"),
            nodes,
            parent,
            state_root,
            parse_time(time, what="time of a block header"),
            _whole(tx_count, "tx_count of a block header"),
            tx_root,
            data,
        )


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction, read strictly; its signature is judged by `check_signature`."""

    chain: str
    key: Digest
    payload: bytes
    sender: bytes
    signature: bytes
    signed: bytes
    data: bytes

    @property
    def id(self) -> TxId:
        """The transaction id: hex SM3 of its bytes."""
        return TxId(sm3(self.data).hex())

    @classmethod
    def parse(cls, data: bytes) -> Transaction:
        """The transaction that canonical bytes hold.

        Raises: Malformed if the form is wrong; Unknown if its version is unknown.
        Source: formats §4.6, §11 (Embedded ledger).
        """
        value = parse_canonical(data, max_bytes=MAX_TRANSACTION_BYTES, what="transaction")
        check_format(value, "cz-tx")
        chain, _, key, payload, sender, signature = members(value, _TX_MEMBERS, "transaction")
        if not isinstance(payload, str):
            raise Malformed("payload of a transaction is not a text")
        return cls(
            check_chain_id(chain),
            Digest(Algorithm.SM3, unhex(key, what="key of a transaction")),
            payload.encode(),
            unb64(sender, size=65, what="sender of a transaction"),
            unb64(signature, size=64, what="signature of a transaction"),
            canonical({name: part for name, part in value.items() if name != "signature"}),
            data,
        )

    def check_signature(self) -> None:
        """The sender made the signature over this transaction.

        Raises: VerificationError if not.
        Source: 6.4.3-c, 6.4.3-d.
        """
        verify(self.sender, self.signed, self.signature)


def unsigned_transaction(chain: str, key: Digest, payload: bytes, sender: bytes) -> dict[str, JSONValue]:
    """What the sender signs: the canonical bytes of this object; with `signature` added it is the transaction."""
    named = {"chain": chain, "format": "cz-tx/1", "key": key.value.hex(), "payload": payload.decode(), "sender": b64(sender)}
    return dict(named)


class _Sealed(NamedTuple):
    relied_on: tuple[Relied, ...]
    validators: tuple[Relied, ...]
    quorum: int
    doubt: str | None


def _keys_of(epoch: Epoch) -> dict[str, tuple[bytes, str]]:
    keys: dict[str, tuple[bytes, str]] = {}
    for validator in epoch.validators:
        key = unb64(validator.key, size=65, what="validator key of the trust file")
        check_public_key(key)
        keys[node_id(key)] = (key, validator.organisation)
    return keys


def _judge_seals(header: Header, seals: Sequence[Seal], chain: ChainTrust) -> _Sealed:
    """Every seal that the trust file can judge is good; what leaves the block undecided is returned, not raised.

    A contradiction elsewhere in the receipt outweighs a doubt here, so the caller raises the doubt last.
    """
    epoch = chain.epoch(header.height)
    if epoch is None:
        return _Sealed((), (), 0, f"trust file has no epoch for height {header.height} of chain {chain.id}")
    try:
        keys = _keys_of(epoch)
    except Malformed as error:
        # The trust file is of another form than this engine's: it cannot judge the block, and so does not refute it.
        return _Sealed((), (), 0, error.message)
    is_epochs = header.nodes == nodes_digest([key for key, _ in keys.values()])
    for seal in seals:
        if seal.node in keys:
            verify(keys[seal.node][0], header.data, seal.value)
        elif is_epochs:
            raise VerificationError(f"a seal is by no node of the epoch: node {seal.node[:8]}")
    validators = tuple(Relied(node, organisation) for node, (_, organisation) in sorted(keys.items()))
    sealed = {seal.node for seal in seals}
    relied_on = tuple(relied for relied in validators if relied.key in sealed)
    needed = epoch.needed()
    doubt = None
    if not is_epochs:
        doubt = f"nodes of the block are not those of the trust file's epoch at height {header.height}"
    elif len(relied_on) < needed:
        doubt = f"block is not final: expected {needed} seals, got {len(relied_on)}"
    return _Sealed(relied_on, validators, needed, doubt)


def _judge_transaction(transaction: Transaction, receipt: ChainReceipt, chain: ChainTrust) -> str | None:
    """What leaves the transaction undecided, returned and not raised as by `_judge_seals`."""
    if transaction.chain != chain.id:
        raise VerificationError("transaction was made for another chain")
    if transaction.key != receipt.key:
        raise VerificationError("key of the receipt is not that of its transaction")
    if transaction.id != receipt.tx_id:
        raise VerificationError("tx_id of the receipt is not that of its transaction")
    transaction.check_signature()
    sender = node_id(transaction.sender)
    if not chain.senders or sender in chain.senders:
        return None
    if not all(_NODE.fullmatch(entry) for entry in chain.senders):
        return "sender list of the trust file has another form than this engine's: expected hex SM3 of 65-byte keys"
    raise VerificationError(f"sender is not in the trust file's list: key {sender[:8]}")


def verify_receipt(receipt: ChainReceipt, chain: ChainTrust) -> ReceiptFacts:
    """The transaction stands in a block that a quorum of the trust file's nodes sealed.

    Raises: VerificationError if the receipt contradicts itself or the trust file; Undecided if the
        trust file has no epoch for it, names other nodes, or too few have sealed.
    Source: formats §4.4, §4.6, §11 (Embedded ledger, Check 15); 6.4.4-e, 4.1.6-d.
    """
    try:
        return _verify_receipt(receipt, chain)
    except Malformed as error:
        raise VerificationError(error.message) from error
    except Unknown as error:
        raise Undecided(error.message) from error


def _verify_receipt(receipt: ChainReceipt, chain: ChainTrust) -> ReceiptFacts:
    if receipt.engine != ENGINE or chain.engine != ENGINE:
        raise VerificationError(f"receipt is of another engine: expected {chain.engine}, got {receipt.engine}")
    if receipt.chain != chain.id:
        raise VerificationError("receipt is of another chain than the one the trust file names")
    header_text, index, path, seals, text = members(receipt.proof, "header index path seals transaction", "proof of a receipt")
    if not isinstance(header_text, str) or not isinstance(text, str):
        raise Malformed("proof of a receipt has wrong form: expected header and transaction as texts")
    if not isinstance(path, list) or len(path) > MAX_PATH:
        raise Malformed(f"inclusion path is not a list of at most {MAX_PATH} hashes")
    hashes = [unb64(entry, size=32, what="hash of an inclusion path") for entry in path]
    header = Header.parse(header_text.encode())
    if header.chain != chain.id:
        raise VerificationError("block is of another chain")
    if header.height != receipt.height or header.time != receipt.block_time:
        raise VerificationError("height or block_time of the receipt is not the header's")
    transaction = Transaction.parse(text.encode())
    doubt = _judge_transaction(transaction, receipt, chain)
    place = _whole(index, "index of a receipt")
    verify_inclusion(leaf_hash(transaction.data), place, header.tx_count, hashes, bytes.fromhex(header.tx_root))
    sealed = _judge_seals(header, read_seals(seals), chain)
    if (doubt := sealed.doubt or doubt) is not None:
        raise Undecided(doubt)
    return ReceiptFacts(
        key=transaction.key,
        payload=transaction.payload,
        block_time=header.time,
        not_later_than_error_s=chain.time_error_s,
        sender=node_id(transaction.sender),
        relied_on=sealed.relied_on,
        not_checked=NOT_CHECKED,
        algorithms=ALGORITHMS,
        validators=sealed.validators,
        quorum=sealed.quorum,
    )


def verify_block(proof: JSONValue, ref: BlockRef, chain: ChainTrust) -> BlockRef:
    """The block `ref` with its time: `proof` (header and seals of blocks/N.json) shows that the quorum sealed it.

    Raises: VerificationError if the proof contradicts itself, `ref` or the trust file; Undecided
        if the trust file does not know its nodes or too few have sealed.
    Source: formats §4.4 (lower bound), §11 (Bundle: blocks/N.json), check 17.
    """
    try:
        return _verify_block(proof, ref, chain)
    except Malformed as error:
        raise VerificationError(error.message) from error
    except Unknown as error:
        raise Undecided(error.message) from error


def _verify_block(proof: JSONValue, ref: BlockRef, chain: ChainTrust) -> BlockRef:
    header_text, seals = members(proof, "header seals", "proof of a block")
    if not isinstance(header_text, str):
        raise Malformed("proof of a block has wrong form: expected the header as a text")
    header = Header.parse(header_text.encode())
    if (header.chain, header.height, header.id) != (ref.chain, ref.height, ref.hash) or chain.id != ref.chain:
        raise VerificationError("proof is of another block than the one named")
    sealed = _judge_seals(header, read_seals(seals), chain)
    if sealed.doubt is not None:
        raise Undecided(sealed.doubt)
    return BlockRef(header.chain, header.height, header.id, header.time)
