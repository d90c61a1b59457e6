"""The contract of the embedded ledger: which transactions a block may hold, and the state they make.

One kind of state changes: per log its latest head. A `Draft` is what a block would make of the
state; every node makes its own and compares the root before it seals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from chain_gateway.embedded.proof import Transaction
from chain_gateway.embedded.stored import REMEMBERED
from chain_gateway.port import Rejected
from models.anchor import Payload, TxId
from models.canonical import b64, canonical, unb64
from models.digest import unhex
from models.errors import EvidenceError, Malformed
from models.merkle import leaf_hash, root
from models.names import check_origin

MAX_PAYLOAD_BYTES = 60_000

# P of a stored transaction, as far as the state needs it; what it yields is compared with the block's state_root.
_GLIMPSE = re.compile(
    r'\{"chain":"[^"]*","checkpoint":"([^"\\]+)\\n[0-9]+\\n([A-Za-z0-9+/=]{44})\\n\\n'
    r'(?:[^"\\]|\\n)*","format":"cz-anchor/1","range":\[([0-9]+),([0-9]+)\]'
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the contract was made with: fixed for the life of a chain."""

    chain: str
    senders: frozenset[bytes]
    first: int = 0
    max_payload_bytes: int = MAX_PAYLOAD_BYTES


class Entry(NamedTuple):
    """One version of a log's state."""

    origin: str
    end: int
    root: str
    height: int
    tx_id: TxId
    sender: bytes

    def leaf(self) -> bytes:
        """The leaf hash of this entry in the state tree.

        Source: formats §4.6 (cz-state/1).
        """
        listed = ["cz-state/1", self.origin, [self.end, self.root], self.height, self.tx_id, b64(self.sender)]
        return leaf_hash(canonical(listed))


class _Glimpse(NamedTuple):
    sender: bytes
    key: bytes
    origin: str
    end: int
    root: str


@lru_cache(REMEMBERED)
def _glimpse(text: str) -> _Glimpse:
    """What a stored transaction does to the state. Remembered for a while: every node of the chain holds the same one."""
    try:
        value: Mapping[str, str] = json.loads(text)
        key, payload, sender = value["key"], value["payload"], value["sender"]
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed("stored transaction is not readable") from error
    match = _GLIMPSE.match(payload) if isinstance(payload, str) else None
    if match is None:
        raise Malformed("stored transaction holds no payload of an anchor")
    origin, root_b64, _, end = match.groups()
    return _Glimpse(
        unb64(sender, size=65, what="sender"),
        unhex(key, what="key of a transaction"),
        check_origin(origin),
        int(end),
        unb64(root_b64, size=32, what="root of a payload").hex(),
    )


class Taken(NamedTuple):
    """A transaction that the contract took: its sender and key, and the entry it made."""

    sender: bytes
    key: bytes
    entry: Entry


@dataclass(slots=True)
class State:
    """All final state of one node: the present entry of each log, all earlier ones, and every key taken."""

    rules: Rules
    _history: dict[str, list[Entry]] = field(default_factory=dict)
    _keys: dict[tuple[bytes, bytes], TxId] = field(default_factory=dict)

    def draft(self, height: int) -> Draft:
        """An empty draft of the block at `height`."""
        return Draft(self, height)

    def commit(self, draft: Draft) -> None:
        """The draft's block is final: its entries are the state."""
        for taken in draft.taken:
            self._history.setdefault(taken.entry.origin, []).append(taken.entry)
            self._keys[taken.sender, taken.key] = taken.entry.tx_id

    def holder(self, sender: bytes, key: bytes) -> TxId | None:
        """The transaction under which `sender` holds `key`."""
        return self._keys.get((sender, key))

    def present(self, origin: str) -> Entry | None:
        """The present entry of a log."""
        versions = self._history.get(origin)
        return versions[-1] if versions else None

    def versions(self, origin: str) -> tuple[Entry, ...]:
        """Every entry a log ever had, oldest first."""
        return tuple(self._history.get(origin, ()))

    def present_entries(self) -> Iterator[Entry]:
        """The present entry of every log."""
        return (versions[-1] for versions in self._history.values())


class Draft:
    """What a block would make of the state, transaction by transaction."""

    def __init__(self, state: State, height: int) -> None:
        self._state = state
        self._height = height
        self._present: dict[str, Entry] = {}
        self._keys: dict[tuple[bytes, bytes], TxId] = {}
        self.taken: list[Taken] = []

    def holder(self, sender: bytes, key: bytes) -> TxId | None:
        """The transaction under which `sender` holds `key`, this block included."""
        return self._keys.get((sender, key)) or self._state.holder(sender, key)

    def apply(self, transaction: Transaction) -> None:
        """The transaction is taken: sender known, signature good, key new, range where the log's state ends.

        Raises: Rejected, with the reason.
        Source: formats §4.6 (the contract); 6.4.3-c, 6.4.4-d.
        """
        rules = self._state.rules
        if transaction.chain != rules.chain:
            raise Rejected("transaction was made for another chain")
        if transaction.sender not in rules.senders:
            raise Rejected("sender is not known to the chain: expected the key of one of its nodes")
        if len(transaction.payload) > rules.max_payload_bytes:
            got = len(transaction.payload)
            raise Rejected(f"payload is too long: expected at most {rules.max_payload_bytes} bytes, got {got}")
        if self.holder(transaction.sender, transaction.key.value) is not None:
            raise Rejected("key is taken: the chain takes one payload a key, once")
        try:
            transaction.check_signature()
            payload = Payload.parse(transaction.payload)
        except EvidenceError as error:
            raise Rejected(f"contract refuses the transaction: {error.message}") from error
        if payload.chain != rules.chain or payload.key != transaction.key:
            raise Rejected("payload is not the one its key names: expected the same chain, log and start")
        self._extend(payload.head.origin, payload.head.root.hex(), payload.start, payload.end, transaction)

    def _extend(self, origin: str, root_hex: str, start: int, end: int, transaction: Transaction) -> None:
        before = self._present.get(origin) or self._state.present(origin)
        expected = before.end if before is not None else self._state.rules.first
        if start != expected:
            raise Rejected(f"range does not begin where the log's state ends: expected {expected}, got {start}")
        entry = Entry(origin, end, root_hex, self._height, transaction.id, transaction.sender)
        self._take(Taken(transaction.sender, transaction.key.value, entry))

    def _take(self, taken: Taken) -> None:
        self._present[taken.entry.origin] = taken.entry
        self._keys[taken.sender, taken.key] = taken.entry.tx_id
        self.taken.append(taken)

    def replay(self, tx_id: TxId, text: str) -> None:
        """The stored transaction is taken again, without judging what was judged before it was sealed.

        The caller compares `state_root` with the header's, which convicts any difference.

        Raises: Malformed if the text is no transaction with a payload.
        """
        glimpse = _glimpse(text)
        entry = Entry(glimpse.origin, glimpse.end, glimpse.root, self._height, tx_id, glimpse.sender)
        self._take(Taken(glimpse.sender, glimpse.key, entry))

    def state_root(self) -> str:
        """The root of the state tree after this block: one leaf a log, sorted by origin."""
        present = {entry.origin: entry for entry in self._state.present_entries()} | self._present
        return root([present[origin].leaf() for origin in sorted(present)]).hex()
