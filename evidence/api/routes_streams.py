"""Streams (T/SAC 004—2024 Appendix C): declared, collected slice by slice or pushed, asked with proof, recounted, ended."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from evidence.access import Role
from evidence.api.deps import (
    JSON,
    ProofReader,
    Reader,
    RequestId,
    Running,
    StrictRoute,
    Writer,
    answer,
    content,
    described,
    record,
)
from evidence.api.problems import NotAcceptable, UnsupportedMedia
from evidence.api.requests import header, read_body, read_json
from evidence.api.routes_items import BUNDLE, bundle_answer
from evidence.behind import read_behind, unit_of
from evidence.bootstrap import Service
from evidence.errors import Forbidden, NotFound
from evidence.stream_shelf import shown_declarations, slice_summary
from evidence.stream_store import StreamRow
from evidence.stream_wire import MAX_SLICE_BODY_BYTES, DeclareBody, SliceBody
from models.canonical import JSONValue

router = APIRouter(tags=["streams"], route_class=StrictRoute)

MAX_DECLARE_BYTES = 4 << 20
MAX_RECORDS_BYTES = 4 << 20
MAX_PAGE = 1000
BYTES = "application/octet-stream"
SLICE_TIMEOUT_S = 60.0

StreamId = Annotated[str, Path(pattern=r"^[a-z0-9._-]{1,64}$", description="a stream's id")]
Submitter = Annotated[
    str | None, Query(max_length=128, description="the account whose stream it is, where several have one of that id")
]


def _summary(service: Service, row: StreamRow) -> dict[str, JSONValue]:
    """A stream as it is shown: `behind` null is unknown, which is not 0."""
    behind = service.behind.last(row.id)
    value = service.shelf.summary(row, service.anchoring.state_of)
    return {**value, "behind": None if behind is None else behind.to_json()}


@router.get(
    "/v1/streams",
    **described("listStreams", "流式: the streams", {200: ("All that the caller may see.", content(JSON, "Streams"))}),
)
def listing(service: Running, caller: Reader) -> Response:
    """How far each stream is, how old its newest slice, by when the next must come, and whether it is overdue."""
    rows = service.shelf.all(caller)
    items: list[JSONValue] = [_summary(service, row) for row in rows]
    return answer(
        {
            "items": items,
            "next_cursor": None,
            "as_of": {"tree_size": service.log.state.size},
            "total": len(items),
            "complete": "stated",
        }
    )


@router.post(
    "/v1/streams",
    **described(
        "declareStream",
        "流式: declare a stream, or its next keyword set",
        {
            201: ("Declared: the declaration is preserved.", content(JSON, "StreamDeclared")),
            200: ("It was declared before.", content(JSON, "StreamDeclared")),
        },
        problems=(409, 413, 415, 507),
        body=content(JSON, "StreamDeclaration"),
    ),
)
async def declare(request: Request, service: Running, caller: Writer, request_id: RequestId) -> Response:
    """A collector's declaration with its signature; or what is wanted of a stream whose records are pushed here."""
    body = await read_json(request.scope, request.receive, limit=MAX_DECLARE_BYTES)
    if isinstance(body, dict) and "declaration" not in body:
        value = await service.pushing.declare(body, caller, request_id=request_id)
    else:
        value = await service.streams.declare(DeclareBody.parse(body), caller, request_id=request_id)
    return answer(value, status=201 if value["created"] else 200)


@router.get(
    "/v1/streams/{stream_id}",
    **described("getStream", "流式: one stream", {200: ("The stream.", content(JSON, "Stream"))}, problems=(404, 409)),
)
def one(stream_id: StreamId, service: Running, caller: Reader, submitter: Submitter = None) -> Response:
    """One stream with its declarations and its newest header, which is the offset up to which everything is kept.

    And `after`, the newest final block of each chain: what a slice names that it was made after.
    """
    row = service.shelf.find(stream_id, caller, submitter)
    value = _summary(service, row)
    newest = service.shelf.newest_header(row)
    value["declarations"] = shown_declarations(service.shelf.known(row))
    value["after"] = service.blocks.shown(service.clock())
    value["identity"] = None if newest is None else service.shelf.identity(row, newest.end.epoch)
    return answer(value)


@router.get(
    "/v1/streams/{stream_id}/slices",
    **described(
        "listSlices", "流式: the slices of a stream", {200: ("A page, by number.", content(JSON, "Slices"))}, problems=(404, 409)
    ),
)
def slices(
    stream_id: StreamId,
    service: Running,
    caller: Reader,
    submitter: Submitter = None,
    start: Annotated[int, Query(alias="from", ge=0, description="the first number")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="how many slices at most")] = 100,
) -> Response:
    """Headers in order with their items and states; no line and no keyword is in them."""
    row = service.shelf.find(stream_id, caller, submitter)
    total, _ = service.shelf.totals(row)
    found = service.shelf.slices(row, start, limit)
    following = found[-1].number + 1 if found else total
    items: list[JSONValue] = [slice_summary(each, service.anchoring.state_of) for each in found]
    return answer(
        {
            "items": items,
            "next_cursor": str(following) if following < total else None,
            "as_of": {"tree_size": service.log.state.size},
            "total": total,
            "complete": "stated",
        }
    )


@router.post(
    "/v1/streams/{stream_id}/slices",
    **described(
        "putSlice",
        "流式: a slice of a collector",
        {
            201: ("Preserved: the promise.", content(JSON, "Promise")),
            200: ("It was preserved before.", content(JSON, "Promise")),
        },
        problems=(404, 409, 413, 415, 507),
        body=content(BYTES),
    ),
)
async def put_slice(stream_id: StreamId, request: Request, service: Running, caller: Writer, request_id: RequestId) -> Response:
    """u32 length, JSON head (header, sealed, secret, signature), packed records; all is recomputed before it is accepted."""
    kind = (header(request.scope, b"content-type") or b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind != BYTES:
        raise UnsupportedMedia(f"content type is not supported: expected {BYTES}")
    data = await read_body(request.scope, request.receive, limit=MAX_SLICE_BODY_BYTES, timeout_s=SLICE_TIMEOUT_S)
    body = await asyncio.to_thread(SliceBody.parse, data)
    preserved = await service.streams.put_slice(stream_id, body, caller, request_id=request_id)
    return answer(preserved.to_json(), status=201 if preserved.created else 200)


@router.put(
    "/v1/streams/{stream_id}/progress",
    **described(
        "putProgress",
        "流式: how far a collector or producer is behind",
        {200: ("As the streams are listed with it.", content(JSON, "StreamProgress"))},
        problems=(404, 413),
        body=content(JSON, "StreamProgressReport"),
    ),
)
async def put_progress(stream_id: StreamId, request: Request, service: Running, caller: Writer) -> Response:
    """What its source holds that was not read or pushed, in bytes or records; kept in memory until said anew, never preserved."""
    behind = read_behind(await read_json(request.scope, request.receive))
    row = await asyncio.to_thread(service.shelf.own, stream_id, caller.account)
    if row is None:
        raise NotFound("the account has no stream of that id: expected one that was declared")
    declared = (await asyncio.to_thread(service.shelf.known, row))[-1].declaration
    said = service.behind.say(row.id, behind, unit_of(declared))
    return answer({"stream_id": stream_id, "behind": None if said is None else said.to_json()})


@router.post(
    "/v1/streams/{stream_id}/records",
    **described(
        "pushRecords",
        "流式: push records",
        {200: ("All of them are in preserved slices.", content(JSON, "RecordsTaken"))},
        problems=(404, 409, 413),
        body=content(JSON, "Records"),
    ),
)
async def push(stream_id: StreamId, request: Request, service: Running, caller: Writer, request_id: RequestId) -> Response:
    """Records numbered by their producer: sent again they are taken once; answered when they are preserved."""
    body = await read_json(request.scope, request.receive, limit=MAX_RECORDS_BYTES)
    return answer(await service.pushing.push(stream_id, body, caller, request_id=request_id))


@router.post(
    "/v1/streams/{stream_id}/query",
    **described(
        "queryStream",
        "流式: a question, answered with proof",
        {
            200: (
                "The answer, verified before it leaves; by `Accept` as JSON or as a bundle.",
                content(JSON, "StreamAnswer") | content(BUNDLE),
            )
        },
        problems=(404, 406, 409),
        body=content(JSON, "StreamQuestion"),
    ),
)
async def query(stream_id: StreamId, request: Request, service: Running, caller: ProofReader, request_id: RequestId) -> Response:
    """How often, where, and the proof that no hit was held back; a word outside the declaration is `not indexed`, never 0."""
    accepted = (header(request.scope, b"accept") or b"*/*").decode("latin-1").lower()
    as_bundle = BUNDLE in accepted
    if not as_bundle and not any(kind in accepted for kind in (JSON, "*/*", "application/*")):
        raise NotAcceptable(f"answer has no such form: expected {JSON} or {BUNDLE}")
    body = await read_json(request.scope, request.receive)
    found = await service.stream_answers.query(stream_id, body, caller)
    if Role.COURT in caller.roles or as_bundle:
        await record(service, caller, "stream-query", stream_id, request_id)
    if not as_bundle:
        return answer(found.value)
    if found.bundle is None:
        raise Forbidden("role may not see lines, and the answer holds some: ask for JSON, which gives the counts")
    return bundle_answer(found.bundle, stream_id)


@router.post(
    "/v1/streams/{stream_id}/recount",
    **described(
        "recountStream",
        "流式: derive slices and index again",
        {200: ("What was found, and the signed notes.", content(JSON, "Recount"))},
        problems=(404, 409),
        body=content(JSON, "RecountRequest"),
    ),
)
async def recount(
    stream_id: StreamId, request: Request, service: Running, caller: ProofReader, request_id: RequestId
) -> Response:
    """Content, counts and roots of every slice of a range from the archived records; what agrees is attested by a note."""
    body = await read_json(request.scope, request.receive)
    value = await service.recounting.recount(stream_id, body, caller)
    await record(service, caller, "recount", stream_id, request_id)
    return answer(value)


@router.post(
    "/v1/streams/{stream_id}/end",
    **described(
        "endStream",
        "流式: end a stream whose records are pushed",
        {200: ("Its last slice, signed.", content(JSON, "Stream"))},
        problems=(404, 409),
        body=content(JSON, "EndRequest"),
    ),
)
async def end(stream_id: StreamId, request: Request, service: Running, caller: Writer, request_id: RequestId) -> Response:
    """Nothing follows; a stream with a collector of its own is ended by that collector, who alone can sign it."""
    body = await read_json(request.scope, request.receive)
    return answer(await service.pushing.end(stream_id, body, caller, request_id=request_id))
