"""The lines of a node's file: a block with the node's own seal, then the seals that made it final.

The nodes of a chain hold the same blocks, so what one line says is remembered for a while: the next
node that reads the same bytes is spared reading them anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from chain_gateway.embedded.proof import Header, Seal, read_seals
from models.anchor import TxId
from models.canonical import JSONValue, canonical, canonical_text, quoted
from models.digest import sm3
from models.errors import Malformed
from models.merkle import leaf_hash, root

REMEMBERED = 256
_quoted = lru_cache(REMEMBERED)(quoted)


@lru_cache(REMEMBERED)
def _header(text: str) -> Header:
    return Header.parse(text.encode())


def sealed_line(header: str, transactions: Sequence[str], seal: Seal | None) -> bytes:
    """The line of a block as a node stores it: with its own seal, or without one where it took the block over."""
    sealed = "null" if seal is None else canonical_text(seal.to_json())
    listed = ",".join(map(_quoted, transactions))
    return f'{{"format":"cz-sealed/1","header":{_quoted(header)},"seal":{sealed},"transactions":[{listed}]}}\n'.encode()


def final_line(height: int, seals: Sequence[Seal]) -> bytes:
    """The line that fixes which seals made a block final; the same bytes in every node's file."""
    return canonical({"format": "cz-final/1", "height": height, "seals": [seal.to_json() for seal in seals]}) + b"\n"


class StoredBlock(NamedTuple):
    """A block as a node stores it; `seals` is None while it is not final."""

    header: Header
    transactions: tuple[str, ...]
    own_seal: Seal | None
    seals: tuple[Seal, ...] | None

    def tx_ids(self) -> tuple[TxId, ...]:
        """The transactions' ids, in order."""
        return tuple(TxId(sm3(text.encode()).hex()) for text in self.transactions)


class Pending(NamedTuple):
    """A block that is stored somewhere and not final: it is finished before any other is made."""

    header: Header
    transactions: tuple[str, ...]


def tx_root(transactions: Sequence[str]) -> str:
    """The root of the tree over the transactions' bytes."""
    return root([leaf_hash(text.encode()) for text in transactions]).hex()


def read_sealed(line: bytes) -> StoredBlock:
    """The block of a line, which is exactly the line a node writes for it.

    Raises: Malformed if it is not; Unknown if the header has an unknown version.
    """
    value = _fields(line, "cz-sealed/1", 4)
    header, seal, transactions = value.get("header"), value.get("seal"), value.get("transactions")
    if (
        not isinstance(header, str)
        or not isinstance(transactions, list)
        or not all(isinstance(each, str) for each in transactions)
    ):
        raise Malformed("stored block has wrong form")
    own_seal = None if seal is None else Seal.from_json(seal)
    if sealed_line(header, transactions, own_seal) != line + b"\n":
        raise Malformed("stored block is not canonical")
    return StoredBlock(_header(header), tuple(transactions), own_seal, None)


@lru_cache(REMEMBERED)
def read_final(line: bytes) -> tuple[int, tuple[Seal, ...]]:
    """The height and seals of a line, which is exactly the line a node writes for them.

    Raises: Malformed if it is not.
    """
    value = _fields(line, "cz-final/1", 3)
    height, seals = value.get("height"), read_seals(value.get("seals"))
    if type(height) is not int or final_line(height, seals) != line + b"\n":
        raise Malformed("stored seals are not canonical")
    return height, seals


def _fields(line: bytes, expected: str, count: int) -> dict[str, JSONValue]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed("stored line is not JSON") from error
    if not isinstance(value, dict) or value.get("format") != expected or len(value) != count:
        raise Malformed(f"stored line has wrong form: expected {expected}")
    return value
