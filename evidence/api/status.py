"""Where the service stands, for the front page, lists and metrics: read from what the log and the anchoring already know."""

from __future__ import annotations

from datetime import UTC, datetime

from evidence import store as rows
from evidence.batch import moment
from evidence.bootstrap import Service
from evidence.explorer.page import ChainRow, Head, ItemRow
from models.canonical import JSONValue
from models.errors import EvidenceError, Unknown
from models.evidence import Evidence
from models.template import builtin

PREFIX_DIGITS = 8


def head_of(service: Service) -> Head:
    """Where the log stands."""
    head = service.log.state.head
    signed = datetime.fromtimestamp(head.signed_at_s, UTC) if head.size else None
    return Head(head.origin, head.size, head.sm3_root.hex(), head.sha256_root.hex(), signed)


def chain_rows(service: Service) -> list[ChainRow]:
    """How far each chain is. Its height is the last one that its node told us; none after a failure."""
    return [
        ChainRow(
            chain.id,
            chain.gateway.engine,
            None if chain.head is None or chain.failures else chain.head.height,
            chain.end,
            0 if chain.open is None else 1,
        )
        for chain in service.anchoring.chains.values()
    ]


def _title_of(template: str) -> str:
    """The 中文名称 of a template; its name if this version of the program does not have it."""
    try:
        return builtin(template).title
    except Unknown:
        return template


def _state_of(service: Service, row: rows.ItemRow) -> str:
    """The item's state, or `overdue` where its promise was not kept, or `damaged` where what is stored does not say."""
    state = service.anchoring.state_of(row.leaf_index)
    if state == "final" or row.data is None:
        return state
    try:
        on_chain_by = Evidence.parse(row.data).on_chain_by
    except EvidenceError:
        # One damaged row must not take the page from whoever looks for it.
        return "damaged"
    return "overdue" if service.clock() > on_chain_by else state


def newest_items(service: Service, count: int) -> list[ItemRow]:
    """The newest items: prefix of the id, template, time, state."""
    size = service.log.state.size
    with service.store.reading() as connection:
        found = rows.read_items(connection, range(max(0, size - count), size))
    found.sort(key=lambda row: row.leaf_index, reverse=True)
    return [
        ItemRow(
            row.leaf_index,
            "ev_" + row.evidence_id.hex()[:PREFIX_DIGITS],
            row.template,
            _title_of(row.template),
            moment(row.created_ms),
            _state_of(service, row),
        )
        for row in found
    ]


def whole_list(
    service: Service, items: list[JSONValue], *, total: int | None = None, after: int | None = None
) -> dict[str, JSONValue]:
    """What every list answers with beside its items; `after` is what the next page begins with, `total` counts all pages.

    Source: interface §3 (Lists).
    """
    return {
        "items": items,
        "next_cursor": None if after is None else str(after),
        "as_of": {"tree_size": service.log.state.size},
        "total": len(items) if total is None else total,
        "complete": "stated",
    }


def oldest_promise_age_s(service: Service, now: datetime) -> float:
    """How long the oldest item that is not final has waited; 0 if none waits."""
    oldest = service.anchoring.oldest_promise_at
    return 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
