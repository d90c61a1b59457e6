"""The log itself, for anyone: checkpoint, tiles, entries, and proofs, in the C2SP forms.

The same five routes stand under /v1/log (SM3) and /v1/log/sha256 (the twin, stock tlog-tiles).
Tiles hold digests of salted commitments only, so they are public and may be kept by any cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from evidence import store as rows
from evidence.api.deps import JSON, Running, StrictRoute, answer, content, described
from evidence.api.problems import refused
from evidence.bootstrap import Service
from evidence.errors import Damaged, NotFound
from evidence.store import TREE_NUMBER
from models.canonical import MAX_INTEGER, b64
from models.checkpoint import Note
from models.digest import DIGEST_BYTES, Algorithm
from models.tiles import ENTRIES, TILE_HEIGHT, TILE_WIDTH, parse_tile_path

router = APIRouter(tags=["log"], route_class=StrictRoute)

TEXT = "text/plain"
BYTES = "application/octet-stream"
IMMUTABLE = {"cache-control": "public, max-age=31536000, immutable", "access-control-allow-origin": "*"}
FRESH = {"cache-control": "no-cache", "access-control-allow-origin": "*"}

Index = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="the leaf's index, less than `tree_size`")]
Size = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="the size of the tree, at most that of the checkpoint")]
From = Annotated[int, Query(alias="from", ge=0, le=MAX_INTEGER, description="the smaller size, at most `to`")]
To = Annotated[int, Query(alias="to", ge=0, le=MAX_INTEGER, description="the larger size, at most that of the checkpoint")]
TilePath = Annotated[str, Path(description="{L}/{N} or entries/{N}, with .p/{W} for the first W: for example 0/000.p/1")]


def fresh(request: Request, body: str, etag: str, media_type: str) -> Response:
    """`body`, which may change, under `etag`; 304 without it if the caller has it already."""
    headers = {**FRESH, "etag": f'"{etag}"'}
    if headers["etag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _tile(service: Service, tree: Algorithm, path: str) -> bytes:
    """The bytes of a tile, of which the log holds at least `width` hashes or entries.

    Raises: Malformed for a path of another form; NotFound for what the log does not hold yet.
    """
    level, index, width = parse_tile_path("tile/" + path)
    state = service.log.state
    complete = state.size >> (TILE_HEIGHT * max(level, 0))
    first = index * TILE_WIDTH
    if first + width > complete:
        raise NotFound("log does not hold that tile yet: ask for less, or later", hint="the checkpoint says how much there is")
    if level == ENTRIES:
        with service.store.reading() as connection:
            entries = rows.read_entries(connection, first, first + width)
        return b"".join(len(entry).to_bytes(2) + entry for entry in entries)
    if first + TILE_WIDTH > complete:
        return state.tree(tree).open_tile(level)[: width * DIGEST_BYTES]
    with service.store.reading() as connection:
        data = rows.read_tile(connection, TREE_NUMBER[tree.value], level, index)
    if data is None or len(data) != TILE_WIDTH * DIGEST_BYTES:
        raise Damaged(
            "a tile is missing or short in the database", hint="an operator runs `evidence examine`: it names what is damaged"
        )
    return data[: width * DIGEST_BYTES]


def _checkpoint(service: Service, tree: Algorithm) -> str:
    checkpoint = service.log.state.checkpoint
    if checkpoint is None:
        raise NotFound("log has no checkpoint yet: nothing was preserved")
    return checkpoint.note if tree is Algorithm.SM3 else checkpoint.twin


def _bounded(service: Service, size: int) -> None:
    held = service.log.state.size
    if size > held:
        raise NotFound(f"log is not that large yet: expected at most {held}, got {size}")


def _add(prefix: str, tree: Algorithm, name: str, word: str) -> None:
    def add(path: str, endpoint: Callable[..., Response], documentation: dict[str, Any]) -> None:
        router.add_api_route(prefix + path, endpoint, methods=["GET"], **documentation)

    def checkpoint(request: Request, service: Running) -> Response:
        """The newest signed checkpoint as a C2SP note; `ETag` names its size and root."""
        note = _checkpoint(service, tree)
        head = Note.parse(note).checkpoint()
        return fresh(request, note, f"{head.size}-{head.root.hex()[:16]}", TEXT)

    def tile(path: TilePath, service: Running) -> Response:
        """A tile of 256 hashes (or entries), or its first W; what was once given never changes."""
        return Response(_tile(service, tree, path), headers=IMMUTABLE, media_type=BYTES)

    def inclusion(service: Running, leaf_index: Index, tree_size: Size) -> Response:
        """The RFC 9162 path of a leaf in the tree of a size, from the leaf upward."""
        _bounded(service, tree_size)
        if leaf_index >= tree_size:
            raise refused("leaf_index", "序号", "less than tree_size", "a number not below it")
        path = service.log.state.tree(tree).inclusion_path(leaf_index, tree_size)
        return answer({"leaf_index": leaf_index, "tree_size": tree_size, "path": [b64(node) for node in path]}, headers=IMMUTABLE)

    def consistency(service: Running, start: From, end: To) -> Response:
        """The RFC 9162 proof that the tree of size `to` extends the tree of size `from`."""
        _bounded(service, end)
        if start > end:
            raise refused("from", "起", "at most to", "a larger number")
        path = service.log.state.tree(tree).consistency_path(start, end) if 0 < start < end else []
        return answer({"from": start, "to": end, "path": [b64(node) for node in path]}, headers=IMMUTABLE)

    note = {200: ("The note.", content(TEXT, "Text")), 304: ("Unchanged.", {})}
    add(
        "/checkpoint",
        checkpoint,
        described(f"{name}Checkpoint", f"Newest checkpoint ({word})", note, problems=(404,), public=True),
    )
    bytes_ok = {200: ("The bytes.", content(BYTES))}
    add(
        "/tile/{path:path}",
        tile,
        described(f"{name}Tile", f"Tile or entry bundle ({word})", bytes_ok, problems=(404,), public=True),
    )
    inclusion_ok = {200: ("The path.", content(JSON, "InclusionPath"))}
    add(
        "/inclusion",
        inclusion,
        described(f"{name}Inclusion", f"Inclusion proof ({word})", inclusion_ok, problems=(404,), public=True),
    )
    consistency_ok = {200: ("The path.", content(JSON, "ConsistencyPath"))}
    add(
        "/consistency",
        consistency,
        described(f"{name}Consistency", f"Consistency proof ({word})", consistency_ok, problems=(404,), public=True),
    )


_add("/v1/log", Algorithm.SM3, "log", "SM3")
_add("/v1/log/sha256", Algorithm.SHA256, "twin", "SHA-256 twin")
