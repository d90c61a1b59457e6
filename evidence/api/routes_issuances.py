"""出证 as an act, and verification of what was issued."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from evidence.api.deps import JSON, Issuer, Reader, RequestId, Running, StrictRoute, answer, content, described
from evidence.api.multipart import boundary_of, parse_form
from evidence.api.problems import UnsupportedMedia
from evidence.api.requests import read_body, read_json
from evidence.api.routes_items import BUNDLE
from evidence.verifier import verify
from models.errors import Malformed
from models.trust import TrustRoots

router = APIRouter(tags=["issuance"], route_class=StrictRoute)

MAX_VERIFY_BYTES = 64 << 20
VERIFY_TIMEOUT_S = 120.0
FORM = "multipart/form-data"


@router.post(
    "/v1/issuances",
    **described(
        "createIssuance",
        "出证 as an act: many items, recorded",
        {201: ("Begun; its progress is at `Location`.", content(JSON, "Issuance"))},
        problems=(404, 409, 410, 507),
        body=content(JSON, "IssuanceRequest"),
    ),
)
async def create(request: Request, service: Running, caller: Issuer, request_id: RequestId) -> Response:
    """Bundles for the items asked for; the act is itself preserved."""
    body = await read_json(request.scope, request.receive)
    value = await service.issuance.issue(body, caller, request_id=request_id)
    return answer(value, status=201, headers={"location": f"/v1/issuances/{value['id']}"})


@router.get(
    "/v1/issuances/{name}",
    **described(
        "getIssuance", "How far an issuance is", {200: ("State and results.", content(JSON, "Issuance"))}, problems=(404,)
    ),
)
async def status(
    name: Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$", description="the issuance's `id`")],
    service: Running,
    caller: Reader,
) -> Response:
    """State, progress, results, and the item that records the act."""
    return answer(await service.issuance.status(name, caller))


@router.post(
    "/v1/verify",
    **described(
        "verifyBundle",
        "Verify a bundle here (a court verifies offline, with its own trust file)",
        {200: ("The report of the offline verifier.", content(JSON, "Report"))},
        body={**content(FORM, "Verify"), **content(BUNDLE)},
    ),
)
async def verification(request: Request, service: Running, _caller: Reader) -> Response:
    """The verifier's report. Without a trust file of the caller's own, the answer says that this service's was used."""
    bundle, originals, trust = await _parts(request)
    own = trust is None
    data = await asyncio.to_thread(service.issuance.trust) if trust is None else trust
    roots = TrustRoots.parse(data)
    async with request.app.state.verifying:
        report = await asyncio.to_thread(verify, bundle, roots, originals)
    note = "this service's own trust file: ask another way before relying on it" if own else "the trust file sent with the bundle"
    return answer({**report.to_json(), "trust_is": note})


async def _parts(request: Request) -> tuple[bytes, list[bytes], bytes | None]:
    """The bundle, the originals and the trust file of a multipart body, or a body that is the bundle alone."""
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (BUNDLE, "application/octet-stream", FORM):
        raise UnsupportedMedia(f"content type is not supported: expected {FORM} or {BUNDLE}")
    boundary = boundary_of(content_type) if kind == FORM else b""
    body = await read_body(request.scope, request.receive, limit=MAX_VERIFY_BYTES, timeout_s=VERIFY_TIMEOUT_S)
    if not boundary:
        return body, [], None
    found: dict[str, list[bytes]] = {"bundle": [], "original": [], "trust": []}
    for name, data in parse_form(body, boundary):
        if name not in found:
            raise Malformed("form has an unknown part: expected bundle, original, trust")
        found[name].append(data)
    if len(found["bundle"]) != 1 or len(found["trust"]) > 1:
        raise Malformed("form has wrong parts: expected one bundle and at most one trust")
    return found["bundle"][0], found["original"], found["trust"][0] if found["trust"] else None
