"""Originals: streamed in, refused if the digest differs; streamed out, whole or by range."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from evidence.access import Caller, Role
from evidence.api.deps import JSON, RequestId, Running, StrictRoute, Writer, answer, content, described, record, role
from evidence.api.problems import BodyLate, RangeRefused
from evidence.api.requests import check_plain, declared_length
from evidence.bootstrap import Service
from evidence.errors import NotFound
from evidence.original import Original
from models.digest import Digest

router = APIRouter(tags=["originals"], route_class=StrictRoute)

DigestText = Annotated[str, Path(pattern="^(sm3|sha256):[0-9a-f]{64}$", description="algorithm:hex of the whole original")]
ContentReader = Annotated[Caller, Depends(role(Role.BUSINESS, Role.COURT))]

BYTES = "application/octet-stream"
PIECE_TIMEOUT_S = 30.0
"""So long may a client take to send, or to receive, the next piece."""

_RANGE = re.compile(r"bytes=(?:([0-9]{1,16})-([0-9]{0,16})|-([0-9]{1,16}))", re.ASCII)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises: BodyLate if the next piece takes too long or the body ends early."""
    declared, size = declared_length(request.scope), 0
    stream = aiter(request.stream())
    try:
        while True:
            async with asyncio.timeout(PIECE_TIMEOUT_S):
                piece = await anext(stream, None)
            if piece is None:
                break
            size += len(piece)
            if piece:
                yield piece
    except TimeoutError as error:
        raise BodyLate(f"body did not arrive in time: expected the next piece within {PIECE_TIMEOUT_S:g} s") from error
    except ClientDisconnect as error:
        raise BodyLate(f"body ended early: expected {declared} bytes, got {size}") from error
    if declared is not None and size != declared:
        raise BodyLate(f"body ended early: expected {declared} bytes, got {size}")


@router.put(
    "/v1/originals/{digest}",
    **described(
        "putOriginal",
        "Upload an original",
        {
            200: ("It was held before.", content(JSON, "OriginalStored")),
            201: ("It is held: encrypted, on the disk.", content(JSON, "OriginalStored")),
        },
        problems=(507,),
        body=content(BYTES),
    ),
)
async def put(digest: DigestText, request: Request, service: Running, caller: Writer) -> Response:
    """The original is held for this account until an item of it names its digest; refused if the digest differs."""
    check_plain(request.scope)
    stored = await service.originals.put(Digest.parse(digest), _pieces(request), account=caller.account)
    value = {
        "digest": f"sm3:{stored.pair.sm3.hex()}",
        "twin": f"sha256:{stored.pair.sha256.hex()}",
        "size": stored.size,
        "parts": stored.parts,
    }
    return answer(value, status=201 if stored.created else 200)


@router.get(
    "/v1/originals/{digest}",
    **described(
        "getOriginal",
        "An original that an item owns, whole or by range",
        {200: ("The original.", content(BYTES)), 206: ("The range.", content(BYTES))},
        problems=(404, 410, 416),
    ),
)
async def get(digest: DigestText, request: Request, service: Running, caller: ContentReader, request_id: RequestId) -> Response:
    """The bytes, to the subject of an item that owns them or to a court; the access is recorded."""
    original, item = await asyncio.to_thread(_open, service, caller, Digest.parse(digest))
    try:
        await record(service, caller, "original", item, request_id)
        start, stop = _range(request.headers.get("range"), original.size)
    except BaseException:  # also a request that is cancelled leaves no file open
        original.close()
        raise
    return _Download(
        original,
        start,
        stop,
        etag=digest,
        is_range=request.headers.get("range") is not None and (start, stop) != (0, original.size),
    )


def _open(service: Service, caller: Caller, digest: Digest) -> tuple[Original, str]:
    """The original as one item that the caller may open holds it, and that item's id. Raises: NotFound; Erased."""
    with service.store.reading() as connection:
        owners = service.originals.owners(connection, digest)
    for item in owners:
        name = "ev_" + item.hex()
        try:
            row, evidence = service.contents.evidence(service.query.find(name, caller))
        except NotFound:
            continue
        if Role.COURT not in caller.roles and row.subject != caller.subject_id:
            continue
        secret = service.contents.secret(row, evidence)
        if secret is None:
            continue
        with service.store.reading() as connection:
            return service.originals.open_original(connection, item, secret, digest), name
    raise NotFound("no item that you may open holds an original of that digest")


def _range(text: str | None, size: int) -> tuple[int, int]:
    """The half-open range that a Range header asks for; the whole if it asks for none, or in a form not offered (RFC 9110 §14.2).

    Raises: RangeRefused if it lies outside.
    """
    match = None if text is None else _RANGE.fullmatch(text.strip())
    if match is None:
        return 0, size
    first, last, tail = match.groups()
    if tail is not None:
        start, stop = max(0, size - int(tail)), size
    else:
        start, stop = int(first), size if not last else min(size, int(last) + 1)
    if start >= stop:
        raise RangeRefused(f"range lies outside the original: expected within 0 to {size}", size=size)
    return start, stop


class _Download(Response):
    """The bytes of an original as they are opened; at the first altered segment the connection ends short."""

    def __init__(self, original: Original, start: int, stop: int, *, etag: str, is_range: bool) -> None:
        headers = {
            "content-length": str(stop - start),
            "accept-ranges": "bytes",
            "etag": f'"{etag}"',
            "cache-control": "private, no-store",
            "content-disposition": "attachment",
        }
        if is_range:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{original.size}"
        super().__init__(status_code=206 if is_range else 200, headers=headers, media_type=BYTES)
        self._original, self._start, self._stop = original, start, stop

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it, piece by piece; a reader that takes too long for one is cut off."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not scope.get("is_head"):
                pieces = self._original.chunks(self._start, self._stop)
                while piece := await asyncio.to_thread(_next, pieces):
                    async with asyncio.timeout(PIECE_TIMEOUT_S):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._original.close()


def _next(pieces: Iterator[bytes]) -> bytes:
    return next(pieces, b"")
