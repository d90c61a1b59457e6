"""Originals: streamed in, refused if the digest differs; streamed out, whole or by range."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from evidence.api.deps import StrictRoute

router = APIRouter(tags=["originals"], route_class=StrictRoute)

DigestText = Annotated[str, Path(pattern="^(sm3|sha256):[0-9a-f]{64}$", description="algorithm:hex of the whole original")]
BYTES = "application/octet-stream"

CHUNK_TIMEOUT_S = 30.0
