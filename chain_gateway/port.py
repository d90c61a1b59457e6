"""The door to a chain: what every engine offers, the four ways it can fail, and how engines are found.

The laws an engine must keep stand in `chain_gateway/conformance.py` as tests; what they mean and
how an engine is added stands in `chain_gateway/README.md`.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from models.anchor import Anchor, Block, BlockRef, ChainReceipt, ReceiptFacts, TxId
from models.canonical import JSONValue
from models.digest import Digest
from models.errors import EvidenceError, Unknown
from models.signature import Signer
from models.trust import ChainTrust

Clock = Callable[[], datetime]
"""Gives the present as an aware UTC time."""

ENGINES = "chain_gateway.engines"
PROOFS = "chain_gateway.proofs"


class ChainError(EvidenceError):
    """What a gateway raises; any other exception that leaves a driver is a bug."""


class NotSubmitted(ChainError):
    """The transaction is certainly not on the chain and never will be by itself: send it again."""


class OutcomeUnknown(ChainError):
    """The transaction may be on the chain: ask `find` before anything else is sent under its key."""


class Rejected(ChainError):
    """The chain decided no: stop, keep the reason, do not repeat."""


class ChainUnavailable(ChainError):
    """A read failed, so nothing is known: ask later."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """How this chain agrees, and the longest time it lets pass without a block while there is work."""

    kind: str
    longest_block_interval_s: float


class ChainGateway(Protocol):
    """One node of one consortium chain. To ask another node, open another gateway.

    All methods may run concurrently. A gateway is bound to one node and, where it may submit, to
    one signer: the node key of the subject.

    Source: T/SAC 004—2024 5.3 (上链网关), 6.4.5 c).
    """

    @property
    def chain_id(self) -> str:
        """The chain's id, unique for ever."""

    @property
    def engine(self) -> str:
        """The name under which the engine is declared as an entry point."""

    @property
    def node(self) -> int:
        """Which node of the chain this gateway asks."""

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload that one transaction carries; 64 where it carries only digests."""

    @property
    def consensus(self) -> Consensus:
        """How the chain agrees."""

    def trust(self) -> dict[str, JSONValue]:
        """What a trust file says of this chain: the members of one `[[chain]]`, as plain data.

        What a node says of its own chain is a proposal: whoever writes the trust file decides.
        """

    async def submit(self, anchor: Anchor) -> TxId:
        """The node has the transaction, so that `find(anchor.key)` names it from now on.

        Durable on return: the transaction, by the node's own means. Idempotent on `anchor.key`,
        which the contract enforces: the same payload gives the same transaction, another payload
        is Rejected. May run concurrently. A cancelled call leaves either nothing or something
        that `find` finds.

        Raises: NotSubmitted, OutcomeUnknown, Rejected.
        Source: 6.4.3-c, 6.4.4-a.
        """

    async def receipt(self, tx_id: TxId) -> ChainReceipt | None:
        """The receipt of a final transaction, from then on always the same bytes; None until then.

        An unknown transaction has no receipt, and that is no error. Changes nothing.

        Raises: ChainUnavailable.
        """

    async def find(self, key: Digest) -> TxId | None:
        """The transaction that holds `key` or may still come to hold it: what recovery stands on.

        Where the engine knows senders, only this gateway's own sender is asked for.

        Raises: ChainUnavailable.
        """

    async def head(self) -> BlockRef:
        """The node's newest final block; also the health check.

        Raises: ChainUnavailable.
        """

    def blocks(self, start: int, stop: int) -> AsyncIterator[Block]:
        """The node's final blocks of heights start ≤ h < stop, ascending without a hole; fewer if the chain is shorter.

        Raises: ChainUnavailable, while iterating.
        Source: 6.4.5-a.
        """

    async def aclose(self) -> None:
        """The gateway is closed: every further call raises ChainUnavailable (submit: NotSubmitted). May be repeated."""


@dataclass(frozen=True, slots=True)
class ChainTransaction:
    """One final transaction as a node holds it: what it carries, who made it, where it stands."""

    tx_id: TxId
    key: Digest
    payload: bytes
    sender: str
    block: BlockRef
    index: int


@dataclass(frozen=True, slots=True)
class StateVersion:
    """One value of a log's state on the chain: its head, and the transaction, block, time and node key that made it."""

    origin: str
    end: int
    root: str
    tx_id: TxId
    sender: str
    block: BlockRef


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node of a chain as this gateway sees it; `detail` says why a node does not answer."""

    node: int
    key: str
    organisation: str
    is_up: bool
    height: int | None
    detail: str = ""


@runtime_checkable
class LedgerReads(Protocol):
    """What many engines can answer besides: one transaction, the state of a log and all it ever was.

    A gateway offers it if `isinstance(gateway, LedgerReads)`. All raise ChainUnavailable.

    Source: T/SAC 004—2024 4.1.2 a)–d), 6.4.5 c).
    """

    async def transaction(self, tx_id: TxId) -> ChainTransaction | None:
        """The final transaction, or None."""

    async def state(self, origin: str) -> StateVersion | None:
        """The present value of the log's state, or None if the chain has none."""

    async def history(self, origin: str) -> tuple[StateVersion, ...]:
        """Every value the log's state ever had, oldest first."""

    async def nodes(self) -> tuple[NodeStatus, ...]:
        """Every node of the chain, in order of their numbers."""

    async def block_proof(self, height: int) -> bytes | None:
        """The bytes of `blocks/N.json` for a final block, which prove its hash and time; None if there is no such block."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with one node's copy of the chain, and at which height (None: before any block)."""

    node: int
    height: int | None
    what: str


@runtime_checkable
class LedgerCheck(Protocol):
    """What an engine offers whose nodes' files this machine can read."""

    async def check(self) -> tuple[Damage, ...]:
        """Every block of every node's copy is re-done; empty if all is well.

        Raises: ChainUnavailable.
        Source: T/SAC 004—2024 4.1.1 d), 4.1.3 g), 6.4.4 e).
        """


class OpenGateway(Protocol):
    """What an entry point of the group `chain_gateway.engines` is."""

    async def __call__(self, url: str, *, node: int | None, home: Path, clock: Clock, node_signer: Signer | None) -> ChainGateway:
        """A gateway to the node that `url` and `node` name.

        Raises: Malformed if the url makes no sense; ChainUnavailable if the node cannot be reached.
        """


VerifyReceipt = Callable[[ChainReceipt, ChainTrust], ReceiptFacts]
"""What an entry point of the group `chain_gateway.proofs` is: pure, raises VerificationError or Undecided."""

T = TypeVar("T")


class _Declared(Mapping[str, T]):
    """Entry points by name; one is imported when it is asked for, so a missing client library harms no other engine."""

    def __init__(self, group: str) -> None:
        self._entries = {entry.name: entry for entry in entry_points(group=group)}

    def __getitem__(self, name: str) -> T:
        return cast("T", self._entries[name].load())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> EntryPoint:
        """The declaration itself.

        Raises: Unknown if nothing has that name.
        """
        if name not in self._entries:
            known = ", ".join(self) or "none"
            raise Unknown(f"chain engine is unknown: expected one of {known}")
        return self._entries[name]


@cache
def _declared(group: str) -> _Declared[Any]:
    # Reading the metadata of everything installed takes ten times as long as verifying a receipt.
    return _Declared(group)


def engines() -> Mapping[str, OpenGateway]:
    """The installed engines: name → what opens a gateway.

    Source: 5.3-p1.2 (支持扩展).
    """
    return cast("Mapping[str, OpenGateway]", _declared(ENGINES))


def proofs() -> Mapping[str, VerifyReceipt]:
    """The installed receipt verifiers: name of the engine → its pure `verify_receipt`."""
    return cast("Mapping[str, VerifyReceipt]", _declared(PROOFS))


def engine_of(url: str) -> str:
    """The engine that a gateway's url names: what stands before the first colon."""
    return url.partition(":")[0]


def engine_module(name: str) -> Any:
    """The module that declares the engine `name`; what it offers besides `open_gateway` is its own affair.

    Raises: Unknown if no such engine is installed.
    """
    return importlib.import_module(_declared(ENGINES).entry(name).module)


async def open_gateway(
    url: str, *, node: int | None = None, home: Path, clock: Clock, node_signer: Signer | None = None
) -> ChainGateway:
    """A gateway of the engine that `url` names.

    Raises: Unknown if the engine is not installed; Malformed, ChainUnavailable as the engine says.
    """
    opener: OpenGateway = _declared(ENGINES).entry(engine_of(url)).load()
    return await opener(url, node=node, home=home, clock=clock, node_signer=node_signer)


def create_chain(url: str, *, home: Path, chain_id: str, clock: Clock, organisation: str, first: int = 0) -> None:
    """The chain that `url` names exists, if it is of an engine that lives inside the service; others exist already.

    Idempotent: an existing chain is left alone, its keys are never overwritten. `first` is where the
    log's list of anchors begins there: its present size, where a chain joins later.

    Raises: Unknown if the engine is not installed; Malformed, ChainUnavailable as the engine says.
    """
    create = getattr(engine_module(engine_of(url)), "create", None)
    if create is not None:
        create(url, home=home, chain_id=chain_id, clock=clock, organisation=organisation, first=first)


def node_key_path(url: str, *, home: Path, node: int = 0) -> Path | None:
    """Where the engine keeps the key of a node that it made itself; None if nodes keep their keys elsewhere.

    Raises: Unknown if the engine is not installed; Malformed if the url makes no sense.
    """
    path = getattr(engine_module(engine_of(url)), "node_key_path", None)
    return None if path is None else cast("Path", path(url, home=home, node=node))
