"""Final blocks as a bound from below: handed to whoever makes something, and proven beside what names them.

What names a block was made after it. The name costs nothing and is always given; the proof is shown as
long as the chain gives it in time, so neither an answer nor a slice depends on a chain that is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from chain_gateway.port import ChainUnavailable, LedgerReads
from evidence.chain import Chain, proves_block
from models.anchor import BlockRef
from models.canonical import JSONValue, format_time
from models.errors import VerificationError
from models.slice import SliceHeader

ALLOWANCE: Final = timedelta(minutes=5)
"""How far a block may lie ahead of the time of what names it: the allowance of our trust files."""


PATIENCE_S: Final = 2.0
"""How long a chain is waited for; then it is out of reach."""


class Blocks:
    """The blocks of the chains the log is anchored on. Belongs to the loop that runs their gateways."""

    def __init__(self, chains: Mapping[str, Chain]) -> None:
        self._chains = chains

    def newest(self, at: datetime) -> tuple[BlockRef, ...]:
        """The newest final block known of each chain, of those that stood at `at` by its maker's clock; ascending by chain."""
        heads = [chain.head for chain in self._chains.values()]
        stood = [head for head in heads if head is not None and head.time is not None and head.time <= at]
        return tuple(sorted(stood, key=lambda head: head.chain))

    def shown(self, at: datetime) -> list[JSONValue]:
        """As `newest`, as JSON for a collector, with the time of each."""
        return [{**ref.to_json(), "time": format_time(ref.time)} for ref in self.newest(at) if ref.time is not None]

    async def check(self, header: SliceHeader) -> None:
        """Return if each block that the header names, of a chain known here, is the chain's own and no later than the header.

        A chain out of reach, or none of ours, cannot be asked: the name is the collector's word until somebody proves it.
        Raises: VerificationError, before a slice is taken in that no answer could ever show.
        Source: formats §4 check 17, §5.6 check 27.
        """
        for ref in header.after:
            chain = self._chains.get(ref.chain)
            if chain is None:
                continue
            try:
                async with asyncio.timeout(PATIENCE_S):
                    found = [(block.hash, block.time) async for block in chain.gateway.blocks(ref.height, ref.height + 1)]
            except (ChainUnavailable, TimeoutError):
                continue
            if not found or found[0][0] != ref.hash:
                raise VerificationError(f"slice names a block that the chain does not hold ({header.slice_id})")
            if found[0][1] > header.created_at + ALLOWANCE:
                raise VerificationError(f"slice names a block that is later than its own time ({header.slice_id})")

    async def proofs(self, refs: Iterable[BlockRef]) -> list[bytes]:
        """The bytes of blocks/N.json of those blocks that can be proven now, ascending by chain and height, each once.

        What our own trust file would not accept as a proof is left out: it would prove nothing to anybody.
        """
        found: list[bytes] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._prove(refs, found)
        return found

    async def _prove(self, refs: Iterable[BlockRef], found: list[bytes]) -> None:
        for ref in sorted(set(refs), key=lambda ref: (ref.chain, ref.height, ref.hash)):
            chain = self._chains.get(ref.chain)
            if chain is None or not isinstance(chain.gateway, LedgerReads):
                continue
            try:
                data = await chain.gateway.block_proof(ref.height)
            except ChainUnavailable:
                continue
            if data is not None and await asyncio.to_thread(proves_block, data, ref, chain.trust):
                found.append(data)
