"""The chains, node by node: each answer is that node's alone, so that answers can be compared (6.4.5 c)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from chain_gateway.port import ChainGateway, LedgerReads
from evidence.api.deps import JSON, Running, StrictRoute, answer, content, described
from evidence.api.status import whole_list
from evidence.bootstrap import Service
from evidence.errors import NotFound
from models.anchor import Block, TxId
from models.canonical import MAX_INTEGER, JSONValue, format_time

router = APIRouter(tags=["chains"], route_class=StrictRoute)

ChainId = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="a chain's id, as in GET /v1/chains")]
Node = Annotated[int, Path(ge=0, le=1023, description="the number of a node of the chain")]
Height = Annotated[int, Path(ge=0, le=MAX_INTEGER, description="the height of a block")]
Tx = Annotated[str, Path(pattern=r"^[!-~]{1,128}$", max_length=128, description="a transaction's id, as in `tx_id` of an item")]

PAGE_BLOCKS = 20


def _gateway(service: Service, chain: str, node: int) -> ChainGateway:
    found = service.chains.get(chain)
    if found is None:
        raise NotFound("no chain has that id", hint="GET /v1/chains lists them")
    for gateway in found.gateways:
        if gateway.node == node:
            return gateway
    raise NotFound(f"chain has no such node: expected 0 to {len(found.gateways) - 1}")


def _block(block: Block) -> dict[str, JSONValue]:
    return {
        "height": block.height,
        "hash": block.hash,
        "parent": block.parent,
        "time": format_time(block.time),
        "transactions": [str(tx) for tx in block.transactions],
    }


@router.get(
    "/v1/chains",
    **described("listChains", "Chains and their nodes", {200: ("All of them.", content(JSON, "Chains"))}, public=True),
)
async def chains(service: Running) -> Response:
    """Every chain: engine, nodes with their own heads, how far our anchors are final on it."""
    return answer(whole_list(service, [*await service.chain_states()]))


@router.get(
    "/v1/chains/{chain}/nodes/{node}/blocks",
    **described(
        "listBlocks",
        "Blocks as one node has them",
        {200: ("Newest last.", content(JSON, "Blocks"))},
        problems=(404,),
        public=True,
    ),
)
async def blocks(
    chain: ChainId,
    node: Node,
    service: Running,
    start: Annotated[
        int | None, Query(alias="from", ge=0, le=MAX_INTEGER, description="the first height; absent: the newest blocks")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="how many blocks at most")] = PAGE_BLOCKS,
) -> Response:
    """The node's blocks from a height on, or its newest ones; the next page begins `from` what `next_cursor` says."""
    gateway = _gateway(service, chain, node)
    head = await gateway.head()
    first = max(0, head.height + 1 - limit) if start is None else start
    found = (
        [_block(block) async for block in gateway.blocks(first, min(first + limit, head.height + 1))]
        if first <= head.height
        else []
    )
    after = first + len(found)
    page = whole_list(service, [*found], total=head.height + 1, after=after if found and after <= head.height else None)
    return answer({"chain": chain, "node": node, "head": head.height, **page})


@router.get(
    "/v1/chains/{chain}/nodes/{node}/blocks/{height}",
    **described(
        "getBlock", "One block as one node has it", {200: ("The block.", content(JSON, "Block"))}, problems=(404,), public=True
    ),
)
async def block(chain: ChainId, node: Node, height: Height, service: Running) -> Response:
    """One block of the node, by height."""
    async for found in _gateway(service, chain, node).blocks(height, height + 1):
        return answer({"chain": chain, "node": node, **_block(found)})
    raise NotFound(f"node has no block of that height: got {height}")


@router.get(
    "/v1/chains/{chain}/nodes/{node}/tx/{tx}",
    **described(
        "getTransactionOnChain",
        "One transaction as one node has it",
        {200: ("The transaction.", content(JSON, "ChainTransaction"))},
        problems=(404,),
        public=True,
    ),
)
async def transaction(chain: ChainId, node: Node, tx: Tx, service: Running) -> Response:
    """One final transaction of the node: its block, its sender, what it carries."""
    gateway = _gateway(service, chain, node)
    found = await gateway.transaction(TxId(tx)) if isinstance(gateway, LedgerReads) else None
    if found is None:
        raise NotFound("node knows no final transaction of that id")
    return answer(
        {
            "chain": chain,
            "node": node,
            "tx_id": str(found.tx_id),
            "key": str(found.key),
            "height": found.block.height,
            "block": found.block.hash,
            "index": found.index,
            "sender": found.sender,
            "payload": found.payload.decode("utf-8", "replace"),
        }
    )
