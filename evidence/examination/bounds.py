"""The kept proofs of blocks that items name: each proves the very block that its row names."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select, tuple_

from evidence import tables
from evidence.chain import proves_block
from evidence.examination.damage import How, Unit
from evidence.examination.ground import Ground
from evidence.examination.kept import as_bytes, plain, raw
from models.anchor import BlockRef
from models.trust import ChainTrust

_PAGE = 500


def check_blocks(ground: Ground, trusts: Mapping[str, ChainTrust | None]) -> None:
    """Every kept proof holds under the trust in its chain; of a chain out of reach none can be judged.

    That a proof was taken away is not seen: an item shows one where there is one.
    Source: formats §4 check 17.
    """
    c, last = tables.block.c, ("", -1, "")
    key = tuple_(c.chain, c.height, c.hash)
    while True:
        query = select(*raw(tables.block)).where(key > last).order_by(c.chain, c.height, c.hash).limit(_PAGE)
        with ground.store.reading() as connection:
            page = [plain(row) for row in connection.execute(query)]
        for chain, height, block, proof in page:
            trust = trusts.get(chain)
            if trust is not None and not proves_block(as_bytes(proof), BlockRef(chain, height, block), trust):
                where = f"block {height} of chain {chain}"
                ground.findings.add(Unit.BLOCK, where, How.ALTERED, "the kept proof does not prove the block it is kept for")
        ground.findings.count("block proofs", len(page))
        if len(page) < _PAGE:
            return
        last = page[-1][:3]
