"""A stream in a home that faults are put into: every process sends the same slices, and what must be true of them after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from homes import business

from evidence import stream_store
from evidence.bootstrap import Service
from evidence.errors import Conflict
from evidence.stream_shelf import StreamHoldings
from evidence.stream_wire import DeclareBody, SliceBody, declare_body, signature_of
from evidence.upload import ObjectFolder
from models.checkpoint import STATEMENT_TYPE, vkey
from models.declaration import Declaration
from models.record import Buffer, Position, Record
from models.signature import SM2Signer
from models.slice import Epoch, Kind, SliceHeader
from streaming.processing import Plan, process

STREAM = "faults"
SLICES_A_ROUND = 2
WORDS = (b"ERROR", b"ok")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
KEY_FILE = "collector.pem"


def is_of_stream(client_key: str) -> bool:
    """Whether it is the client key of a slice here."""
    return client_key.startswith(f"{STREAM}/")


def _signer(folder: Path) -> SM2Signer:
    """The collector's key, the same in every process that works on the home beside it."""
    path = folder / KEY_FILE
    if not path.exists():
        spare = path.with_suffix(".new")
        spare.write_bytes(SM2Signer.generate().to_pem())
        spare.replace(path)
    return SM2Signer.from_pem(path.read_bytes())


def secret_of(number: int) -> bytes:
    return bytes((11 * number + 5 * place + 1) % 256 for place in range(32))


def lines_of(number: int) -> list[bytes]:
    """What slice `number` holds; every fifth is a sign of life."""
    return (
        []
        if number % 5 == 4
        else [f"slice {number} line {line} {'ERROR' if line % 3 == 0 else 'ok'}".encode() for line in range(4)]
    )


def _declaration(service: Service, signer: SM2Signer) -> Declaration:
    return Declaration.build(
        stream_id=STREAM,
        log=service.origin,
        source="file:/var/log/faults.log",
        encoding="line",
        collector=vkey(business(service).account, signer.public_key, STATEMENT_TYPE),
        keywords=WORDS,
        rules=(),
        secret=secret_of(1000),
        previous=None,
        max_silence_s=3600,
        slice_proof_s=86_400,
    )


def bodies_of(service: Service, rounds: int) -> tuple[DeclareBody, list[SliceBody]]:
    """The declaration, and the slices of the first rounds: the same every time."""
    signer = _signer(service.settings.home.parent)
    origin, declaration = service.streams.origin(business(service)), _declaration(service, signer)
    plan = Plan.of(declaration, WORDS, secret=secret_of(1000))
    found: list[SliceBody] = []
    previous: SliceHeader | None = None
    for number in range(rounds * SLICES_A_ROUND):
        start = Position(0, 0) if previous is None else previous.end
        at, records = start.offset, []
        for line in lines_of(number):
            records.append(Record(at, line))
            at += len(line) + 1
        made = process(Buffer.of(records), plan, secret=secret_of(number), number=number)
        previous = SliceHeader.build(
            declaration,
            made.commitment,
            previous=previous,
            start=start,
            end=Position(0, at),
            created_at=FIRST + timedelta(seconds=number),
            kind=Kind.DATA if records else Kind.HEARTBEAT,
            epoch=Epoch("inode 1", previous_complete=True, reason="start") if previous is None else None,
        )
        statement = origin.of_slice(previous)
        found.append(SliceBody(previous, statement, signature_of(statement, signer), secret_of(number), made.packed))
    declare = declare_body(declaration, 0, WORDS, origin=origin, secret=secret_of(1000), signer=signer)
    return DeclareBody.parse(declare), found


async def send(service: Service, rounds: int, note: Callable[[dict[str, Any]], None] = lambda _promise: None) -> None:
    """The stream is declared and has the slices of the first rounds; `note` is called for every promise of a slice."""
    caller, (declared, slices) = business(service), bodies_of(service, rounds)
    with suppress(Conflict):
        await asyncio.to_thread(
            service.access.add,
            caller.account,
            roles=caller.roles,
            subject=(caller.subject_id, caller.subject_name),
            expires_at=None,
        )
    await service.streams.declare(declared, caller, request_id="fault")
    for body in slices:
        kept = await service.streams.put_slice(STREAM, body, caller, request_id="fault")
        note({"client_key": body.header.slice_id, **kept.to_json()})


async def check_slices(service: Service, held: Sequence[dict[str, Any]]) -> None:
    """Every slice that was acknowledged stands as it was; sent again, each stands once, its records with it and no other file."""
    if not (service.settings.home.parent / KEY_FILE).exists():
        assert not held
        return
    check_archive(service)
    rounds = 1 + max((int(promise["client_key"].partition("/")[2]) for promise in held), default=0) // SLICES_A_ROUND
    again: dict[str, dict[str, Any]] = {}
    await send(service, rounds, lambda promise: again.update({promise["client_key"]: promise}))
    for promise in held:
        standing = again[promise["client_key"]]
        assert all(standing[member] == promise[member] for member in ("evidence_id", "leaf_index", "evidence"))
    check_archive(service)
    row = service.shelf.own(STREAM, business(service).account)
    assert row is not None
    stored = service.shelf.slices(row, 0, 1 << 20)
    assert [one.number for one in stored] == list(range(len(stored)))
    assert len(stored) >= rounds * SLICES_A_ROUND
    holdings = StreamHoldings(service.shelf, row, last=len(stored) - 1, proven_at=lambda _leaf: None)
    for one in stored:
        assert list(holdings.records(one.number).payloads()) == lines_of(one.number)


def check_archive(service: Service) -> None:
    """The files of slices are those that rows name, and none waits to be settled."""
    folder = ObjectFolder(service.settings.home, name="streams")
    row = service.shelf.own(STREAM, business(service).account)
    stored = [] if row is None else service.shelf.slices(row, 0, 1 << 20)
    assert sorted(folder.objects()) == sorted(one.object_id for one in stored if one.object_id is not None)
    assert folder.unsettled() == []
    with service.store.reading() as connection:
        assert len(stream_store.find(connection)) <= 1
