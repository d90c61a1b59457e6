"""One chain that the log is anchored on, as the running service knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from chain_gateway.port import ChainGateway
from evidence.anchors import AnchorRow
from evidence.checks.engines import verify_block
from models.anchor import BlockRef
from models.canonical import parse
from models.errors import EvidenceError
from models.trust import ChainTrust


@dataclass(slots=True)
class Chain:
    """One chain the log is anchored on: the gateway, our list of anchors there, and how it fares."""

    gateway: ChainGateway
    trust: ChainTrust
    first: int = 0
    end: int = 0
    submitted_end: int = 0
    head: BlockRef | None = None
    open: AnchorRow | None = None
    failures: int = 0
    last_error: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    full_at: int | None = None
    """While the chain only waits for its interval to end: the size of the log that ends the wait at once."""

    is_compared: bool = False

    @property
    def id(self) -> str:
        """The chain's id."""
        return self.gateway.chain_id

    @property
    def covers(self) -> int:
        """Every leaf below this index is held by a final anchor; a chain just joined holds none, whatever it begins at."""
        return self.end if self.end > self.first else 0

    @property
    def carries(self) -> int:
        """Every leaf below this index is held by an anchor that was opened."""
        return self.submitted_end if self.submitted_end > self.first else 0


def proves_block(data: bytes, ref: BlockRef, trust: ChainTrust) -> bool:
    """Whether these bytes of `blocks/N.json` prove the block to who holds this trust in its chain."""
    try:
        value = parse(data)
        if not isinstance(value, dict) or "proof" not in value:
            return False
        verify_block(value["proof"], ref, trust)
    except EvidenceError:
        return False
    return True
