"""Items: one, many, by search; their bundle, their answers node by node; transactions by link code."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from evidence.access import Role
from evidence.api.deps import JSON, ProofReader, Reader, RequestId, Running, StrictRoute, answer, content, described, record
from evidence.api.requests import read_json
from models.canonical import JSONValue
from models.digest import sm3

router = APIRouter(tags=["evidence"], route_class=StrictRoute)

BUNDLE = "application/vnd.evidence.cz"

ItemId = Annotated[
    str,
    Path(
        pattern=r"^(ev_)?[0-9A-Fa-f]{8,64}$", description="an evidence id, or a unique prefix of it from 8 digits", max_length=67
    ),
]
LinkCode = Annotated[str, Path(min_length=1, max_length=128, description="an opaque link code")]
Moment = Annotated[str | None, Query(max_length=40, description="RFC 3339 with zone, or a date, which is that day in Beijing")]

CZ = {200: ("The bundle; byte for byte the same for the same disclosure and chains.", content(BUNDLE))}


@router.get(
    "/v1/evidence",
    **described(
        "listEvidence", "Items by digest, template and time", {200: ("A page, pinned to `as_of`.", content(JSON, "Page"))}
    ),
)
def listing(
    service: Running,
    caller: Reader,
    digest: Annotated[
        str | None, Query(pattern="^(sm3|sha256):[0-9a-f]{64}$", description="algorithm:hex of a file of the item")
    ] = None,
    template: Annotated[
        str | None, Query(max_length=128, description="a template's name and version, for example file@1")
    ] = None,
    axis: Annotated[
        str | None,
        Query(pattern="^(occurred|preserved|final)$", description="which time `from` and `to` are of; absent: preserved"),
    ] = None,
    start: Annotated[
        str | None, Query(alias="from", max_length=40, description="RFC 3339 with zone, or a date (that day in Beijing)")
    ] = None,
    end: Annotated[
        str | None,
        Query(alias="to", max_length=40, description="the first moment no longer included; a bare date includes that day"),
    ] = None,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="how many items at most in this page")] = None,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before")] = None,
) -> Response:
    """A page of items that the caller may see; conditions that hold personal data go by POST instead."""
    given = {"digest": digest, "template": template, "axis": axis, "from": start, "to": end, "limit": limit, "cursor": cursor}
    criteria: dict[str, JSONValue] = {name: value for name, value in given.items() if value is not None}
    return answer(service.query.search(criteria, caller))


@router.post(
    "/v1/evidence:search",
    **described(
        "searchEvidence",
        "Items by exact field, link code, subject, digest, template, time",
        {200: ("A page, pinned to `as_of`.", content(JSON, "Page"))},
        body=content(JSON, "Search"),
    ),
)
async def search(request: Request, service: Running, caller: Reader) -> Response:
    """A page of items that the caller may see, by conditions that do not stand in the address."""
    criteria = await read_json(request.scope, request.receive)
    return answer(await asyncio.to_thread(service.query.search, criteria, caller))


@router.get(
    "/v1/evidence/{item_id}",
    **described("getEvidence", "One item", {200: ("The item.", content(JSON, "Item"))}, problems=(404, 409, 410)),
)
async def item(item_id: ItemId, service: Running, caller: Reader, request_id: RequestId) -> Response:
    """One item with its states per chain and receipts; contents as far as the caller's role shows them."""
    found = await asyncio.to_thread(service.query.item, item_id, caller)
    if Role.COURT in caller.roles:
        await record(service, caller, "read", found["evidence_id"], request_id)
    return answer(found)


@router.get(
    "/v1/evidence/{item_id}/bundle",
    **described("getBundle", "出证: the item's bundle", CZ, problems=(404, 409, 410)),
)
async def bundle(
    item_id: ItemId,
    service: Running,
    caller: ProofReader,
    request_id: RequestId,
    disclose: Annotated[
        str | None, Query(max_length=8192, description="FIELD or STAGE/FIELD, separated by commas; absent: all; empty: none")
    ] = None,
    kind: Annotated[
        Literal["item", "transaction"], Query(description="the item alone, or all parts of its transaction")
    ] = "item",
) -> Response:
    """The item's bundle, verified before it leaves; not final yet is a 409 `not-final`. `ETag` is the bundle's SM3."""
    fields = None if disclose is None else [name for name in disclose.split(",") if name]
    data = await service.issuance.bundle(item_id, caller, disclose=fields, kind=kind, request_id=request_id)
    answered = bundle_answer(data, item_id)
    answered.headers["etag"] = f'"{sm3(data).hex()}"'
    return answered


@router.get(
    "/v1/evidence/{item_id}/nodes",
    **described(
        "getNodes", "What each node says of the item", {200: ("One answer a node.", content(JSON, "Nodes"))}, problems=(404, 409)
    ),
)
async def nodes(item_id: ItemId, service: Running, caller: Reader) -> Response:
    """Every node's own answer about the item's anchors, and whether they agree."""
    return answer(await service.query.nodes(item_id, caller))


@router.get(
    "/v1/transactions/{link_code}",
    **described(
        "getTransaction",
        "链式: the parts of a link",
        {200: ("The parts in order.", content(JSON, "Transaction"))},
        problems=(404,),
    ),
)
def transaction(link_code: LinkCode, service: Running, caller: Reader) -> Response:
    """The parts of a link in order, which stages are present, missing or repeated, and whether it is closed."""
    return answer(service.query.transaction(link_code, caller))


def bundle_answer(data: bytes, name: str) -> Response:
    """A bundle as a file to keep."""
    return Response(
        data,
        headers={
            "cache-control": "private, no-cache",
            "content-disposition": f'attachment; filename="{name.removeprefix("ev_")[:16]}.cz"',
        },
        media_type=BUNDLE,
    )
