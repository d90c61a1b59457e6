"""What must be true of a home after any fault: nothing acknowledged is missing, nothing stands twice, one history."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_process import ACKS
from fault_streams import check_slices, is_of_stream
from homes import business
from sqlalchemy import select

from chain_gateway.embedded.proof import Transaction
from evidence import anchors, tables
from evidence import store as rows
from evidence.bootstrap import Service, open_service, utc_now
from evidence.examine import examine
from evidence.preservation import Preserved
from evidence.settings import Settings
from evidence.store import CheckpointRow
from models.anchor import Payload, anchor_key
from models.checkpoint import Note, verify_cosignature
from models.digest import Algorithm, pair
from models.evidence import Evidence
from models.merkle import leaf_hash, leaf_hashes, root, verify_inclusion
from models.template import DataModel


def acknowledged(home: Path) -> list[dict[str, Any]]:
    """Every promise that was in somebody's hand before the fault."""
    path = home.parent / ACKS
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


async def recovered(
    settings: Settings, bodies: Sequence[dict[str, Any]], *, held: Sequence[dict[str, Any]] | None = None
) -> None:
    """The home opens without a hand, and a repeat of everything gives each item once.

    Shapes: `bodies` all submissions that were tried; `held` the promises given before, read from the home's folder if None.
    """
    service = await open_service(settings, clock=utc_now)
    try:
        await service.start()
        assert len(service.home.secrets.items(limit=1 << 20)) == service.log.state.size, "secrets of nobody were swept"
        await check_running(service, bodies, acknowledged(settings.home) if held is None else held)
    finally:
        await service.stop()
    assert (await asyncio.to_thread(examine, settings, clock=utc_now)).damages == ()


async def check_running(service: Service, bodies: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]]) -> None:
    """The laws, against a running service; at the end all is final."""
    before = service.log.state.size
    check_promises(service, held)
    of_stream = [promise for promise in held if is_of_stream(promise["client_key"])]
    await check_slices(service, of_stream)
    held = [promise for promise in held if not is_of_stream(promise["client_key"])]
    answers = await service.preservation.preserve(list(bodies), business(service), request_id="again")
    again = {body["client_key"]: answer for body, answer in zip(bodies, answers, strict=True)}
    refused = [answer for answer in answers if not isinstance(answer, Preserved)]
    assert not refused
    for promise in held:
        answer = again[promise["client_key"]]
        assert isinstance(answer, Preserved)
        assert not answer.created, "what was acknowledged was there"
        assert (answer.evidence_id, answer.leaf_index) == (promise["evidence_id"], promise["leaf_index"])
        assert answer.evidence.decode() == promise["evidence"]
        assert answer.leaf_index < before
    size = service.log.state.size
    assert await service.anchoring.wait_final(size - 1, 60) == "final", [c.last_error for c in service.anchoring.chains.values()]
    check_rows(service)
    check_links(service)
    check_contents(service)
    for chain in service.anchoring.chains:
        await check_chain(service, chain)
    wanted = held[0]["evidence_id"] if held else _first(answers)
    bundle = await service.issuance.bundle(wanted, business(service))
    assert bundle.startswith(b"PK"), "issued only if our own verifier says VALID"


def _first(answers: Sequence[object]) -> str:
    return next(answer.evidence_id for answer in answers if isinstance(answer, Preserved))


def check_promises(service: Service, held: Sequence[dict[str, Any]]) -> None:
    """Every promise given stands under its own head, and that head under the present one."""
    state, keys = service.log.state, service.log_keys()
    entries = stored_entries(service)
    leaves = leaf_hashes(entries)
    assert root(leaves) == state.head.sm3_root if leaves else state.size == 0
    for promise in held:
        note = Note.parse(promise["promise"]["checkpoint"])
        verify_cosignature(note.text, note.lines[0], keys[Algorithm.SM3])
        head = note.checkpoint()
        assert head.size <= state.size, "a head that was handed out is in our history"
        assert root(leaves[: head.size]) == head.root
        evidence = Evidence.parse(promise["evidence"].encode())
        assert entries[promise["leaf_index"]] == evidence.entry
        path = state.sm3.inclusion_path(promise["leaf_index"])
        verify_inclusion(leaf_hash(evidence.entry), promise["leaf_index"], state.size, path, state.head.sm3_root)


def stored_entries(service: Service) -> list[bytes]:
    with service.store.reading() as connection:
        return rows.read_entries(connection, 0, 1 << 40)


def check_rows(service: Service) -> None:
    """Entries are those of the stored E; roots, tiles and every signed head are re-derived; nothing stands twice."""
    state = service.log.state
    with service.store.reading() as connection:
        stored = rows.read_stored(connection, 0, 1 << 40)
        ids = [bytes(row) for row in connection.execute(select(tables.evidence.c.evidence_id)).scalars()]
        keys = list(connection.execute(select(tables.idempotency.c.leaf_index)).scalars())
        contents = set(connection.execute(select(tables.content.c.leaf_index)).scalars())
        notes = [CheckpointRow(*row) for row in connection.execute(select(tables.checkpoint).order_by(tables.checkpoint.c.size))]
    assert [index for index, _, _ in stored] == list(range(state.size))
    for _, data, entry in stored:
        digests = pair(data or b"")
        assert entry == digests.sm3 + digests.sha256
    assert len(set(ids)) == len(ids) == state.size
    assert sorted(keys) == list(range(state.size)), "one client key, one item"
    assert contents == set(range(state.size))
    created = [Evidence.parse(data or b"").created_at for _, data, _ in stored]
    assert created == sorted(created)
    assert notes[-1].size == state.size
    for algorithm in Algorithm:
        leaves = leaf_hashes([entry for _, _, entry in stored], algorithm=algorithm)
        assert root(leaves, algorithm=algorithm) == state.tree(algorithm).root()
        for row in notes:
            note = Note.parse(row.note if algorithm is Algorithm.SM3 else row.twin)
            verify_cosignature(note.text, note.lines[0], service.log_keys()[algorithm])
            assert note.checkpoint().root == root(leaves[: row.size], algorithm=algorithm)
            assert note.lines[0].time >= created[row.size - 1].timestamp()


def check_links(service: Service) -> None:
    """Parts of a link are numbered without a hole, each naming the one before."""
    with service.store.reading() as connection:
        stored = rows.read_stored(connection, 0, 1 << 40)
    parts: dict[str, list[tuple[int, Any, Any]]] = {}
    for _, data, _ in stored:
        evidence = Evidence.parse(data or b"")
        if evidence.link is not None and evidence.statement.link is not None:
            parts.setdefault(evidence.statement.link.code, []).append(
                (evidence.link.number, evidence.link.previous, pair(data or b""))
            )
    for chain in parts.values():
        assert [number for number, _, _ in chain] == list(range(len(chain)))
        assert [previous for _, previous, _ in chain] == [None, *(digests for _, _, digests in chain[:-1])]


def check_contents(service: Service) -> None:
    """Every item has its secret, which opens it to the very digests it was committed with; its originals are whole.

    The archive holds no file of nobody.
    """
    secrets: list[bytes] = []
    while page := service.home.secrets.items(secrets[-1] if secrets else None):
        secrets += page
    ids = set()
    for index in range(service.log.state.size):
        opened = service.contents.open(index)
        if opened.template.model is not DataModel.STREAM:
            opened.commitments()  # what a slice commits to is derived again from its records, by `examine`
        ids.add(opened.row.evidence_id)
        assert opened.secret is not None
        for original in opened.originals:
            with service.store.reading() as connection:
                if service.originals.is_held(connection, opened.row.evidence_id, original["digest"]):
                    service.originals.verify_original(connection, opened.row.evidence_id, opened.secret, original["digest"])
    assert ids <= set(secrets)
    with service.store.reading() as connection:
        assert list(service.originals.stray(connection)) == []


async def check_chain(service: Service, name: str) -> None:
    """Our list of anchors has no hole and ends at the log's size; the chain holds the same list, each key once."""
    chain, state = service.anchoring.chains[name], service.log.state
    with service.store.reading() as connection:
        listed = anchors.page(connection, name, start=0, limit=1 << 30)
    assert [row.state for row in listed] == [anchors.FINAL] * len(listed)
    assert [row.start for row in listed] == [chain.first, *(row.end for row in listed[:-1])]
    assert listed[-1].end == state.size
    taken: Counter[bytes] = Counter()
    held: dict[bytes, bytes] = {}
    async for block in chain.gateway.blocks(0, 1 << 30):
        for text in block.extra["transactions"]:
            transaction = Transaction.parse(text.encode())
            taken[transaction.key.value] += 1
            held[transaction.key.value] = transaction.payload
    assert set(taken.values()) <= {1}
    assert held == {row.key: row.payload for row in listed}
    for row in listed:
        payload = Payload.parse(row.payload)
        assert row.key == anchor_key(name, service.origin, row.start).value
        assert payload.head.root == state.sm3.root(payload.head.size)
        assert row.receipt is not None
    nodes = {gateway.node: await gateway.head() for gateway in service.chains[name].gateways}
    assert len({head.hash for head in nodes.values()}) == 1
