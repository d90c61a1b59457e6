"""The log itself, for anyone: checkpoint, tiles, entries, and proofs, in the C2SP forms.

The same five routes stand under /v1/log (SM3) and /v1/log/sha256 (the twin, stock tlog-tiles).
Tiles hold digests of salted commitments only, so they are public and may be kept by any cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from evidence.api.deps import JSON, Running, StrictRoute, answer, content, described
from evidence.errors import NotFound
from models.canonical import MAX_INTEGER, b64
from models.checkpoint import Note
from models.digest import Algorithm
from models.tiles import ENTRIES, TILE_WIDTH, parse_tile_path

router = APIRouter(tags=["log"], route_class=StrictRoute)

TEXT = "text/plain"
BYTES = "application/octet-stream"
IMMUTABLE = {"cache-control": "public, max-age=31536000, immutable", "access-control-allow-origin": "*"}
FRESH = {"cache-control": "no-cache", "access-control-allow-origin": "*"}

Size = Annotated[int, Query(ge=0, le=MAX_INTEGER)]
From = Annotated[int, Query(alias="from", ge=0, le=MAX_INTEGER)]
To = Annotated[int, Query(alias="to", ge=0, le=MAX_INTEGER)]

PATH = {
    "name": "path",
    "in": "path",
    "required": True,
    "description": "L/N, L/N.p/W, entries/N or entries/N.p/W as tlog-tiles says, for instance 0/x001/234.p/5",
    "schema": {"type": "string", "pattern": r"^(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[1-9][0-9]{0,2})?$"},
}


def fresh(request: Request, body: str, etag: str, media_type: str) -> Response:
    """`body`, which may change, under `etag`; 304 without it if the caller has it already."""
    headers = {**FRESH, "etag": f'"{etag}"'}
    if headers["etag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _add(prefix: str, tree: Algorithm, name: str, word: str) -> None:
    def add(path: str, endpoint: Callable[..., Response], documentation: dict[str, object]) -> None:
        router.add_api_route(prefix + path, endpoint, methods=["GET"], **documentation)  # type: ignore[arg-type]

    def checkpoint(request: Request, service: Running) -> Response:
        """The newest signed checkpoint as a C2SP note; `ETag` is its size and root."""
        note = service.log.checkpoint(tree)
        head = Note.parse(note).checkpoint()
        return fresh(request, note, f"{head.size}-{head.root.hex()[:16]}", TEXT)

    def tile(path: str, service: Running) -> Response:
        """A tile of 256 hashes (or entries), or its first W; what was once given never changes."""
        level, index, width = parse_tile_path("tile/" + path)
        if level == ENTRIES:
            data = service.log.entries(index, width)
        else:
            data = service.log.tile(tree, level, index, width)
        return Response(data, headers=IMMUTABLE, media_type=BYTES)

    def inclusion(service: Running, leaf_index: Size, tree_size: Size) -> Response:
        """The RFC 9162 path of a leaf in the tree of a size, from the leaf upward."""
        path = service.log.inclusion(tree, leaf_index, tree_size)
        return answer({"leaf_index": leaf_index, "tree_size": tree_size, "path": [b64(node) for node in path]}, headers=IMMUTABLE)

    def consistency(service: Running, start: From, end: To) -> Response:
        """The RFC 9162 proof that the tree of size `to` extends the tree of size `from`."""
        path = service.log.consistency(tree, start, end)
        return answer({"from": start, "to": end, "path": [b64(node) for node in path]}, headers=IMMUTABLE)

    note = {200: ("The note.", content(TEXT, "Text")), 304: ("Unchanged.", {})}
    add("/checkpoint", checkpoint, described(f"{name}Checkpoint", f"Newest checkpoint ({word})", note, problems=(404,), public=True))
    add(
        "/tile/{path:path}",
        tile,
        described(f"{name}Tile", f"Tile or entry bundle ({word})", {200: ("The bytes.", content(BYTES))}, problems=(404,), public=True),
    )
    inclusion_ok = {200: ("The path.", content(JSON, "InclusionPath"))}
    add("/inclusion", inclusion, described(f"{name}Inclusion", f"Inclusion proof ({word})", inclusion_ok, problems=(404,), public=True))
    consistency_ok = {200: ("The path.", content(JSON, "ConsistencyPath"))}
    add("/consistency", consistency, described(f"{name}Consistency", f"Consistency proof ({word})", consistency_ok, problems=(404,), public=True))


_add("/v1/log", Algorithm.SM3, "log", "SM3")
_add("/v1/log/sha256", Algorithm.SHA256, "twin", "SHA-256 twin")


def check_within(size: int, head: int) -> None:
    """`size` is no more than the log holds. Raises: NotFound otherwise."""
    if size > head:
        raise NotFound(f"log is not that large yet: expected at most {head}, got {size}")


__all__ = ["TILE_WIDTH", "check_within", "router"]
