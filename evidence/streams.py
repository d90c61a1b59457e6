"""Streams come in (T/SAC 004—2024 Appendix C): a declaration, then slice after slice, each an item of the log.

Nothing is believed of a slice that its own records do not give: content, index and counts are
computed anew before it is accepted, and it must continue the newest one in number, link, position
and time. Item, header, counts and the name of its file are one transaction; the file is durable
before. So the newest header is the offset up to which everything is kept, and nothing behind it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from evidence import stream_store as rows
from evidence.access import Access, Caller, Role
from evidence.batch import Pending
from evidence.blind import item_tags
from evidence.blocks import Blocks
from evidence.content import seal_content
from evidence.errors import HomeRefused, NotFound, OutcomeOpen, Stale
from evidence.keys import FindKey
from evidence.preparation import Intake, Prepared
from evidence.preservation import Preservation, Preserved
from evidence.signing import Signing
from evidence.stream_archive import Counts, SliceArchive, seal_counts, seal_keywords
from evidence.stream_fields import declaration_fields, slice_fields
from evidence.stream_shelf import Known, Shelf
from evidence.stream_store import StreamRow
from evidence.stream_wire import DeclareBody, Origin, SliceBody
from evidence.submission import Submission
from models.canonical import JSONValue, canonical
from models.checkpoint import STATEMENT_TYPE
from models.commitment import check_secret
from models.declaration import STAGE as DECLARATION_STAGE
from models.declaration import TEMPLATE as DECLARATION_TEMPLATE
from models.declaration import Declaration, EvidenceAlgorithm
from models.errors import EvidenceError, Invalid, Malformed, Problem, VerificationError
from models.evidence import Signature, Statement
from models.keywords import check_keyword
from models.levels import levels_of
from models.merkle import leaf_hashes
from models.record import Buffer
from models.recount import check_pieces, counts_bytes
from models.signature import verify
from models.slice import STAGE as SLICE_STAGE
from models.slice import TEMPLATE as SLICE_TEMPLATE
from models.slice import SliceCommitment, SliceHeader, check_deadline, check_link, check_tiling, commit_slice
from models.template import Template, builtin
from streaming.archive import pack, unpack
from streaming.indexer import find_values
from streaming.processing import Plan

CLOCK_AHEAD = timedelta(minutes=5)
STANDING = 1 << 10
"""Of so many streams it is remembered where they stand."""
HASHES_KEPT = 1 << 9
"""The hashes of an index are kept where it has up to so many keywords: 32 kB a slice."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the service itself made of a slice's records."""

    buffer: Buffer
    commitment: SliceCommitment
    counts: Counts


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where a stream stands, as it was read or just written: we alone write it, one slice at a time.

    Shapes: `declaration` is the number of the declaration that the newest slice names.
    """

    row: StreamRow
    known: tuple[Known, ...]
    newest: SliceHeader | None
    declaration: int


def recompute(header: SliceHeader, buffer: Buffer, known: Known, secret: bytes) -> Recomputed:
    """Content, index and counts from the records alone, which must be those that the header states.

    Raises: VerificationError naming what differs; Malformed if a record is not of the declared encoding.
    Source: formats §5.4, §5.5, §5.9; T/SAC 004—2024 C.4, C.5.
    """
    declaration, plan = known.declaration, known.plan
    index = plan.index.count(buffer)
    values = [find_values(buffer, entry.rule, encoding=declaration.encoding) for entry in declaration.rules]
    made = commit_slice(
        buffer,
        declaration,
        plan.keywords,
        secret=secret,
        number=header.number,
        cell_keys=plan.cell_keys,
        index=index,
        values=values,
    )
    for what, stated, got in (
        ("lines", header.lines, len(buffer)),
        ("bytes", header.payload_bytes, buffer.size),
        ("content", header.content, made.content),
        ("index", header.index, made.index),
        ("rules", header.rules, made.rules),
    ):
        if stated != got:
            raise VerificationError(f"{what} of the slice are not what its records give ({header.slice_id})")
    if len(buffer):
        check_pieces(header, buffer, declaration)
    return Recomputed(buffer, made, Counts(tuple(index), tuple(tuple(entries) for entries in values)))


class Streams:
    """Accepts declarations and slices. Safe for concurrent calls of one event loop."""

    def __init__(
        self,
        *,
        shelf: Shelf,
        archive: SliceArchive,
        preservation: Preservation,
        signing: Signing,
        blocks: Blocks,
        access: Access,
        find_key: FindKey,
        intake: Intake,
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes],
    ) -> None:
        self.shelf, self._archive, self._preservation = shelf, archive, preservation
        self._signing, self._access, self._find_key, self._intake = signing, access, find_key, intake
        self._blocks = blocks
        self._clock, self._randomness = clock, randomness
        # Weak: a lock that nobody holds or waits for is none, and names that were only tried leave nothing.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._standing: dict[tuple[str, str], _Standing] = {}

    def lock(self, submitter: str, stream_id: str) -> asyncio.Lock:
        """One slice of a stream is taken in at a time; this is what its turns are."""
        return self._locks.setdefault((submitter, stream_id), asyncio.Lock())

    def origin(self, caller: Caller) -> Origin:
        """For which log, account and subject the caller's items are."""
        return Origin(self._intake.origin, caller.account, caller.subject_id, caller.subject_name)

    # --- declarations -----------------------------------------------------------------------------------------------

    async def declare(
        self, body: DeclareBody, caller: Caller, *, request_id: str, is_pushed: bool = False
    ) -> dict[str, JSONValue]:
        """The declaration is preserved; the first makes the stream, a later one holds from a later slice on. Idempotent.

        The collector's key is registered for the account if it signed: D itself then fixes who signs the slices.
        Raises: Invalid, Malformed, VerificationError; Conflict for another declaration in that place; Forbidden.
        Source: T/SAC 004—2024 C.3, C.4-a, 6.4.3-b; formats §5.1.
        """
        caller.require(Role.BUSINESS)
        declaration = body.declaration
        async with self.lock(caller.account, declaration.stream_id):
            self._standing.pop((caller.account, declaration.stream_id), None)
            row = await asyncio.to_thread(self.shelf.own, declaration.stream_id, caller.account)
            standing = [] if row is None else await asyncio.to_thread(self.shelf.known, row)
            number = self._place(declaration, standing)
            signature = await asyncio.to_thread(self._check_declaration, body, number, caller)
            prepared = self._prepare_declaration(body, number, caller, signature, request_id, row=row, is_pushed=is_pushed)
            preserved = await self._preservation.preserve_prepared(prepared, request_id=request_id)
        return {"stream_id": declaration.stream_id, "number": number, "created": preserved.created, **preserved.to_json()}

    @staticmethod
    def _place(declaration: Declaration, standing: list[Known]) -> int:
        """Which declaration of its stream this is: one that stands, or the next."""
        for known in standing:
            if known.declaration.pair == declaration.pair or known.declaration.previous == declaration.previous:
                return known.number
        if standing:
            declaration.check_follows(standing[-1].declaration)
        elif declaration.previous is not None:
            raise Stale("declaration names one before it, but the stream has none yet")
        return len(standing)

    def _check_declaration(self, body: DeclareBody, number: int, caller: Caller) -> Signature:
        declaration, key = body.declaration, body.declaration.collector
        if key.type != STATEMENT_TYPE or key.name != caller.account:
            raise _refused("/declaration", "collector", "采集方公钥", "a statement key named as the account of the token")
        _check_statement(body.statement, self.origin(caller).of_declaration(declaration, number))
        check_secret(body.secret)
        for keyword in body.keywords:
            check_keyword(keyword, case=declaration.case, encoding=declaration.encoding)
        if list(body.keywords) != sorted(set(body.keywords)):
            raise Malformed("keywords do not ascend bytewise, each once")
        Plan.of(declaration, body.keywords, secret=body.secret)
        value = body.signature.get("value")
        if body.signature.get("key_id") != key.key_id.hex() or not isinstance(value, str):
            raise VerificationError("declaration is not signed by the collector it names")
        if key not in self._access.submitter_keys(caller.account):
            # Whoever holds the key has signed with it, so it may stand for the account from now on.
            self._check_possession(body)
            self._access.register_key(caller.account, str(key))
        return self._signing.accept(body.statement.data, dict(body.signature), account=caller.account, at=self._clock())

    @staticmethod
    def _check_possession(body: DeclareBody) -> None:
        from models.canonical import unb64  # noqa: PLC0415 - needed once a key

        verify(body.declaration.collector.public_key, body.statement.data, unb64(body.signature["value"], what="signature value"))

    def _prepare_declaration(
        self,
        body: DeclareBody,
        number: int,
        caller: Caller,
        signature: Signature,
        request_id: str,
        *,
        row: StreamRow | None,
        is_pushed: bool,
    ) -> Prepared:
        declaration, identity = body.declaration, body.statement.evidence_id
        sealed = seal_keywords(body.keywords, secret=body.secret, evidence_id=identity, randomness=self._randomness)
        now_ms = rows.milliseconds(self._clock())

        def claim(connection: Connection, item: bytes) -> None:
            stream = (
                row.id
                if row is not None
                else rows.add_stream(
                    connection,
                    stream_id=declaration.stream_id,
                    submitter=caller.account,
                    subject=caller.subject_id,
                    created_ms=now_ms,
                    is_pushed=is_pushed,
                )
            )
            rows.add_declaration(
                connection,
                row=stream,
                number=number,
                leaf_index=rows.leaf_of(connection, item),
                pair=declaration.pair,
                data=declaration.data,
                keywords=sealed,
            )

        stages = {DECLARATION_STAGE: declaration_fields(declaration)}
        template = builtin(DECLARATION_TEMPLATE)
        return self._prepared(body.statement, template, signature, body.secret, stages, caller, request_id, claim)

    def _prepared(
        self,
        statement: Statement,
        template: Template,
        signature: Signature,
        secret: bytes,
        stages: dict[str, dict[str, JSONValue]],
        caller: Caller,
        request_id: str,
        claim: Callable[[Connection, bytes], None] | None,
    ) -> Prepared:
        submission = Submission(
            template.name, statement.client_key, None, statement, None, statement.occurred_at, secret, (), None
        )
        content = canonical({"originals": [], "stages": stages})
        pending = Pending(
            statement,
            template.commitment.value,
            signature,
            "platform",
            self._intake.promise_s,
            caller.account,
            request_id,
            secret,
            seal_content(secret, statement.evidence_id, content, randomness=self._randomness),
            item_tags(self._find_key, template, stages, None),
            claim,
        )
        return Prepared(submission, template, statement, signature, secret, pending)

    # --- slices -----------------------------------------------------------------------------------------------------

    async def put_slice(self, stream_id: str, body: SliceBody, caller: Caller, *, request_id: str) -> Preserved:
        """The slice is preserved: recomputed, continuing the newest, its records durable. Idempotent by slice_id.

        Raises: NotFound if there is no such stream; VerificationError if records and header disagree; Stale if it does
            not come next; Conflict if another header stands under its slice_id; Invalid, Malformed, Unready, StorageFull.
        Source: T/SAC 004—2024 C.3, C.4, 6.4.3; formats §5.4, §11 (Streams).
        """
        caller.require(Role.BUSINESS)
        header = body.header
        if header.stream_id != stream_id:
            raise Malformed("slice is of another stream than the address names")
        async with self.lock(caller.account, stream_id):
            return await self.put_locked(body, caller, request_id=request_id)

    async def put_locked(self, body: SliceBody, caller: Caller, *, request_id: str) -> Preserved:
        """As `put_slice`, for whoever holds the stream's lock."""
        place = (caller.account, body.header.stream_id)
        # Gone until it is known to be true: after an error, where the stream stands is read anew.
        remembered = self._standing.pop(place, None)
        standing, signature, known = await asyncio.to_thread(self._check_slice, remembered, body, caller)
        if known is None:
            prepared = self._prepare_slice(body, caller, signature, request_id, None)
            return await self._preservation.preserve_prepared(prepared, request_id=request_id)
        await self._blocks.check(body.header)
        prepared, object_id = await asyncio.to_thread(self._take_in, standing.row, body, known, signature, caller, request_id)
        try:
            preserved = await self._preservation.preserve_prepared(prepared, request_id=request_id)
        except (OutcomeOpen, HomeRefused, asyncio.CancelledError):
            # It may be stored: the next start finds the file in `tmp` and asks the rows.
            raise
        except EvidenceError:
            self._drop(object_id)
            raise
        if object_id is not None:
            self._archive.keep(object_id)
        while len(self._standing) >= STANDING:
            del self._standing[next(iter(self._standing))]
        self._standing[place] = _Standing(standing.row, standing.known, body.header, known.number)
        return preserved

    def _drop(self, object_id: bytes | None) -> None:
        if object_id is not None:
            self._archive.drop(object_id)

    def _check_slice(
        self, remembered: _Standing | None, body: SliceBody, caller: Caller
    ) -> tuple[_Standing, Signature, Known | None]:
        """Where the stream stands, the accepted signature, and the slice's declaration; None if the slice stands already."""
        header = body.header
        standing = remembered or self._read_standing(caller.account, header.stream_id)
        check_secret(body.secret)
        _check_statement(body.statement, self.origin(caller).of_slice(header))
        known = _declaration_of(standing.known, header)
        signature = self._signing.accept(body.statement.data, dict(body.signature), account=caller.account, at=self._clock())
        if signature.signer != known.declaration.collector.key_id.hex():
            raise VerificationError("slice is not signed by the collector that its declaration names")
        if standing.newest is not None and header.number <= standing.newest.number:
            return standing, signature, None
        self._check_next(header, known, standing)
        return standing, signature, known

    def _read_standing(self, account: str, stream_id: str) -> _Standing:
        row = self.shelf.own(stream_id, account)
        if row is None:
            raise NotFound("the account has no stream of that id: expected one that was declared")
        newest = self.shelf.newest(row)
        header, number = (None, 0) if newest is None else (SliceHeader.parse(newest.header), newest.declaration)
        return _Standing(row, tuple(self.shelf.known(row)), header, number)

    def _check_next(self, header: SliceHeader, known: Known, standing: _Standing) -> None:
        previous = standing.newest
        number = 0 if previous is None else previous.number + 1
        if header.number != number:
            raise Stale(
                f"slice does not come next: expected number {number}, got {header.number}",
                hint="read the stream again and go on behind its newest slice",
            )
        header.check_kind()
        check_deadline(header, known.declaration)
        if previous is not None:
            check_link(previous, header)
            check_tiling(previous, header)
            if known.number < standing.declaration:
                raise VerificationError(f"older declaration: the slice before names a later one ({header.slice_id})")
        if header.created_at > self._clock() + CLOCK_AHEAD:
            raise VerificationError(f"slice_create_time lies ahead of this service's clock ({header.slice_id})")

    def _take_in(
        self, row: StreamRow, body: SliceBody, known: Known, signature: Signature, caller: Caller, request_id: str
    ) -> tuple[Prepared, bytes | None]:
        """The slice recomputed, its records on the disk, ready to be preserved; the id of its file."""
        header, identity = body.header, body.statement.evidence_id
        records = _records(body)
        made = recompute(header, records, known, body.secret)
        counts = hashes = object_id = None
        if header.lines:
            counts = seal_counts(made.counts, secret=body.secret, evidence_id=identity, randomness=self._randomness)
            if known.declaration.index == EvidenceAlgorithm.MERKLE and len(made.commitment.leaves) <= HASHES_KEPT:
                hashes = levels_of(leaf_hashes(made.commitment.leaves))
            packed = pack(records, bytewise=counts_bytes(known.declaration))
            object_id = self._archive.put(packed, secret=body.secret, slice_id=header.slice_id)

        def claim(connection: Connection, item: bytes) -> None:
            rows.add_slice(
                connection,
                row=row.id,
                number=header.number,
                leaf_index=rows.leaf_of(connection, item),
                declaration_number=known.number,
                epoch=header.start.epoch,
                created_ms=rows.milliseconds(header.created_at),
                lines=header.lines,
                header=header.data,
                object_id=object_id,
                counts=counts,
                hashes=hashes,
            )

        return self._prepare_slice(body, caller, signature, request_id, claim), object_id

    def _prepare_slice(
        self,
        body: SliceBody,
        caller: Caller,
        signature: Signature,
        request_id: str,
        claim: Callable[[Connection, bytes], None] | None,
    ) -> Prepared:
        stages = {SLICE_STAGE: slice_fields(body.header)}
        template = builtin(SLICE_TEMPLATE)
        return self._prepared(body.statement, template, signature, body.secret, stages, caller, request_id, claim)


def _declaration_of(standing: Sequence[Known], header: SliceHeader) -> Known:
    for known in standing:
        if known.declaration.pair == header.declaration:
            return known
    raise VerificationError(f"slice names a declaration that the stream does not have ({header.slice_id})")


def _records(body: SliceBody) -> Buffer:
    """The records as they were sent; a slice without lines is sent without. Raises: Malformed, VerificationError."""
    return unpack(body.packed) if body.packed else Buffer.of(())


def _refused(pointer: str, field: str, title: str, expected: str) -> Invalid:
    return Invalid(f"{field} is not as expected", (Problem(pointer, field, title, expected, "another value", "6.4.3-b"),))


def _check_statement(sent: Statement, expected: Statement) -> None:
    """S as sent is the one that account, log and header give. Raises: Invalid naming each member that differs."""
    if sent.data == expected.data:
        return
    names = ("client_key", "link", "log", "occurred_at", "stages", "subject_id", "subject_name", "submitter", "template_pair")
    wrong = [name for name in names if getattr(sent, name) != getattr(expected, name)] or ["statement"]
    raise Invalid(
        f"sealed statement has {len(wrong)} members that are not the stream's",
        tuple(
            Problem(
                f"/sealed/statement/{name}",
                "sealed",
                "密封声明",
                "what token, stream and header give",
                "another value",
                "6.4.2-a",
            )
            for name in wrong
        ),
    )
