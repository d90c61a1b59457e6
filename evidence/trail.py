"""The trail an item leaves in the logs: collected, built, sealed under its request id; opened, submitted, final by its leaf.

One line a commit and not one an item: the lines of a commit name every request in it, the lines of
an anchor its range of leaves. So `grep` for a request id finds the leaves, and the leaves the anchor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from evidence.anchors import AnchorRow
from evidence.batch import Pending, Sealed

collection = logging.getLogger("evidence.collection")
storage = logging.getLogger("evidence.storage")
gateway = logging.getLogger("evidence.gateway")


def collected(items: Sequence[Pending]) -> None:
    """These were accepted from their callers, checked, committed and encrypted, and wait for the log."""
    if collection.isEnabledFor(logging.INFO):
        requests = list(dict.fromkeys(item.request_id for item in items))
        collection.info("collected", extra={"items": len(items), "requests": requests})


def built(fresh: Iterable[tuple[Pending, Sealed, bytes]]) -> None:
    """Evidence was built of those that are new: time, place in link and log, promise."""
    _note("built", fresh)


def sealed(fresh: Iterable[tuple[Pending, Sealed, bytes]], size: int) -> None:
    """They are stored and flushed under a signed head of `size` entries."""
    _note("sealed", fresh, size=size)


def _note(event: str, fresh: Iterable[tuple[Pending, Sealed, bytes]], **more: int) -> None:
    if not storage.isEnabledFor(logging.INFO):
        return
    ranges: dict[str, list[int]] = {}
    for item, made, _ in fresh:
        ranges.setdefault(item.request_id, []).append(made.leaf_index)
    requests = [
        f"{name}={leaves[0]}" if len(leaves) == 1 else f"{name}={leaves[0]}…{leaves[-1]}" for name, leaves in ranges.items()
    ]
    storage.info(event, extra={"items": sum(map(len, ranges.values())), "requests": requests, **more})


def anchored(event: str, row: AnchorRow, **more: str | int) -> None:
    """The anchor of leaves [start, end) was `event`: opened, submitted or final."""
    gateway.info(event, extra={"chain": row.chain, "start": row.start, "end": row.end, "size": row.size, **more})
