"""The proof modules of chain engines, found by entry point and chosen by the trust file alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol

from models.anchor import BlockRef, ChainReceipt, ReceiptFacts
from models.canonical import JSONValue
from models.errors import Undecided
from models.trust import ChainTrust

GROUP = "chain_gateway.proofs"


class VerifyReceipt(Protocol):
    """What an engine's proof module offers for receipts."""

    def __call__(self, receipt: ChainReceipt, chain: ChainTrust) -> ReceiptFacts:
        """The facts that the receipt establishes under `chain`."""


VerifyBlock = Callable[[JSONValue, BlockRef, ChainTrust], BlockRef]


@cache
def _proof(engine: str) -> VerifyReceipt:
    for entry in entry_points(group=GROUP, name=engine):
        found: VerifyReceipt = entry.load()
        return found
    raise Undecided(f"no proof module is installed for the engine that the trust file names: {engine}")


def verify_receipt(receipt: ChainReceipt, chain: ChainTrust) -> ReceiptFacts:
    """What `receipt` establishes, judged by the engine that the trust file names.

    Raises: VerificationError, Undecided as the engine's proof module; Undecided if none is installed.
    Source: formats §4.4, check 15; architecture §6.
    """
    return _proof(chain.engine)(receipt, chain)


def verify_block(proof: JSONValue, ref: BlockRef, chain: ChainTrust) -> BlockRef:
    """The block `ref` with its time, judged by the engine that the trust file names.

    Raises: as `verify_receipt`; Undecided if the engine's module proves no single blocks.
    Source: formats §4 check 17, §11 (Bundle: blocks/N.json).
    """
    module = sys.modules[_proof(chain.engine).__module__]
    found: VerifyBlock | None = getattr(module, "verify_block", None)
    if found is None:
        raise Undecided(f"engine proves no single blocks: {chain.engine}")
    return found(proof, ref, chain)
