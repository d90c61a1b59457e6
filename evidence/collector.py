"""The collector: a pipeline whose sink is a service somewhere else, known by its address and a token.

What a collector must not lose is its key and what its declarations committed to; both stand in one
private file, written before anything is declared. Where it stands in the stream it asks the service:
the newest header is the committed offset, so a service that was away, or a collector that was
killed, costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from evidence.client import AsyncClient
from evidence.errors import Conflict, ServiceError, StorageFull, Unready
from evidence.exchange import Unreachable
from evidence.keys import make_folder, read_private, sync_folder
from evidence.promise import Promise
from evidence.stream_client import newest_blocks, newest_header
from evidence.stream_wire import Origin, SliceBody, declare_body, signature_of
from models.anchor import BlockRef
from models.answer import Declared
from models.canonical import JSONValue, b64, canonical, members, parse_canonical, unb64
from models.checkpoint import STATEMENT_TYPE, VerifierKey, vkey
from models.commitment import derive
from models.declaration import Declaration, EvidenceAlgorithm
from models.errors import EvidenceError, Malformed, Undecided
from models.extraction import Rule
from models.names import check_format
from models.record import Buffer, Position
from models.signature import SM2Signer
from models.slice import Kind, SliceHeader
from streaming.pipeline import Collecting, OpenAt, Pipeline
from streaming.port import Source, open_source
from streaming.processing import Plan, process
from streaming.sink import FinishedSlice, SinkRefused, SinkUnavailable
from streaming.slicer import CutRule

FORMAT: Final = "cz-collector/1"
MAX_STATE_BYTES: Final = 64 << 20
SECRET_BYTES: Final = 32
PENDING_SLICES: Final = 4
"""How many finished slices of a stream may wait for the service."""
REPORT_S: Final = 10.0
"""How often a collector says how far it is behind its source."""
MILLISECOND: Final = timedelta(milliseconds=1)

T = TypeVar("T")

Clock = Callable[[], datetime]
Randomness = Callable[[int], bytes]


class StateHeld(ServiceError):
    """Another collector of this stream runs here."""


# --- what a collector keeps -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class CollectorState:
    """The private file of one stream's collector: its key, and every declaration with keywords and secret.

    Whoever has the file can sign for the stream, and open what its declarations commit to.
    """

    path: Path
    stream_id: str
    signer: SM2Signer
    declared: list[Declared] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, stream_id: str) -> CollectorState:
        """The state in `path`; made with a new key if there is none.

        Raises: Malformed if it is of another stream or damaged; HomeRefused if others may read it; StorageFull.
        """
        if not path.exists():
            state = cls(path, stream_id, SM2Signer.generate())
            state.save()
            return state
        value = parse_canonical(read_private(path), max_bytes=MAX_STATE_BYTES, what="state of the collector")
        check_format(value, "cz-collector")
        listed, _, key, found = members(value, "declarations format key stream_id", "state of the collector")
        if found != stream_id:
            raise Malformed("state of the collector is of another stream")
        return cls(path, stream_id, SM2Signer.from_pem(str(key).encode()), [_declared(entry) for entry in listed])

    def save(self) -> None:
        """The file is on the disk, whole: the old one until the new one is. Raises: StorageFull."""
        value = {
            "declarations": [
                {
                    "declaration": one.declaration.data.decode(),
                    "keywords": [b64(keyword) for keyword in one.keywords],
                    "secret": b64(one.secret),
                }
                for one in self.declared
            ],
            "format": FORMAT,
            "key": self.signer.to_pem().decode(),
            "stream_id": self.stream_id,
        }
        spare = self.path.with_name(f".{self.path.name}.new")
        try:
            make_folder(self.path.parent)
            with suppress(FileNotFoundError):
                spare.unlink()
            with os.fdopen(os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(canonical(value))
                file.flush()
                os.fsync(file.fileno())
            spare.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise StorageFull(f"state of the collector cannot be written: {error.strerror}") from error

    def hold(self) -> int:
        """This process alone collects the stream from here, until the descriptor given is closed. Raises: StateHeld."""
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StateHeld("another collector of this stream runs here: expected to be the only one") from error
        return descriptor

    def source_key(self) -> bytes:
        """The key under which a source's first bytes are remembered: the same over the whole life of the stream."""
        return derive(self.declared[0].secret, "cz-source/1", self.stream_id)


def _declared(value: JSONValue) -> Declared:
    declaration, keywords, secret = members(value, "declaration keywords secret", "declaration of the collector")
    words = tuple(unb64(keyword, what="keyword") for keyword in keywords)
    return Declared(Declaration.parse(str(declaration).encode()), words, unb64(secret, size=SECRET_BYTES, what="secret"))


# --- declaring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a stream; `options` are further arguments of `Declaration.build`."""

    stream_id: str
    source: str
    encoding: str
    keywords: tuple[bytes, ...] | None
    rules: tuple[Rule, ...] = ()
    options: Mapping[str, JSONValue] = field(default_factory=dict)

    def is_met_by(self, declared: Declared) -> bool:
        """Whether what is declared is what is wanted; keywords left out are those that stand."""
        declaration = declared.declaration
        names = {"slice_algorithm": "slice", "index_algorithm": "index"}
        return (
            (self.keywords is None or (self.keywords == declared.keywords and self._rules_of(declaration) == self.rules))
            and (self.source, self.encoding) == (declaration.source, declaration.encoding)
            and all(
                value is None or getattr(declaration, names.get(name, name)) == value
                for name, value in self.options.items()
                if not name.endswith("_private")
            )
        )

    @staticmethod
    def _rules_of(declaration: Declaration) -> tuple[Rule, ...]:
        return tuple(entry.rule for entry in declaration.rules)

    def rules_after(self, state: CollectorState) -> tuple[Rule, ...]:
        """The rules in force: those wished for, or where no keywords are named those that stand."""
        if self.keywords is None and state.declared:
            return self._rules_of(state.declared[-1].declaration)
        return self.rules

    def like(self, declared: Declared) -> Wish:
        """The wish with what another stream of the same source is declared with, wherever this one says nothing of it."""
        declaration = declared.declaration
        is_private = declaration.slice == EvidenceAlgorithm.MERKLE
        stands = {
            "boundary": declaration.boundary,
            "case": declaration.case,
            "charset": declaration.charset,
            "max_silence_s": declaration.max_silence_s,
            "slice_proof_s": declaration.slice_proof_s,
            "slice_algorithm": declaration.slice,
            "index_algorithm": declaration.index,
        }
        given = {name: value for name, value in self.options.items() if value is not None}
        private = {"slice_private": is_private, "index_private": is_private and declaration.index == EvidenceAlgorithm.MERKLE}
        keywords, rules = declared.keywords, self._rules_of(declaration)
        return replace(self, keywords=keywords, rules=rules, options={**stands, **given, **private})

    def build(self, state: CollectorState, origin: Origin, *, secret: bytes) -> Declared:
        """The declaration that states the wish, after those that stand. Raises: Malformed."""
        previous = state.declared[-1] if state.declared else None
        keywords = self.keywords
        if keywords is None:
            if previous is None:
                raise Malformed("stream is not declared yet: expected a keyword file", hint="give --keywords FILE")
            keywords = previous.keywords
        options = {name: value for name, value in self.options.items() if value is not None}
        declaration = Declaration.build(
            stream_id=self.stream_id,
            log=origin.log,
            source=self.source,
            encoding=self.encoding,
            collector=collector_key(state, origin),
            keywords=keywords,
            rules=self.rules_after(state),
            secret=secret,
            previous=None if previous is None else previous.declaration,
            **{"max_silence_s": 3600, "slice_proof_s": 86_400, **options},
        )
        return Declared(declaration, keywords, secret)


def collector_key(state: CollectorState, origin: Origin) -> VerifierKey:
    """The collector's key, named as the account it signs for."""
    return vkey(origin.submitter, state.signer.public_key, STATEMENT_TYPE)


async def origin_of(client: AsyncClient) -> Origin:
    """For which log, account and subject the client's items are."""
    account = await client.account()
    subject = account.get("subject")
    found = subject if isinstance(subject, dict) else {}
    return Origin(str(account.get("log")), str(account.get("account")), str(found.get("id")), str(found.get("name")))


async def declare(client: AsyncClient, state: CollectorState, wish: Wish, *, randomness: Randomness) -> Declared:
    """The stream is declared as wished: what stands is used again, a change becomes the next declaration.

    Written down before it is sent, so that a collector which dies in between sends the very same again.
    Raises: Malformed; Conflict if the service knows another declaration in its place; what the client raises.
    """
    origin = await origin_of(client)
    if not state.declared or not wish.is_met_by(state.declared[-1]):
        state.declared.append(wish.build(state, origin, secret=randomness(SECRET_BYTES)))
        state.save()
    for number, one in enumerate(state.declared):
        body = declare_body(one.declaration, number, one.keywords, origin=origin, secret=one.secret, signer=state.signer)
        await client.declare_stream(body)
    return state.declared[-1]


# --- the sink -------------------------------------------------------------------------------------------------------


class ServiceSink:
    """The service as a sink: what may pass is tried again by the pipeline, what the service refuses ends the collector."""

    def __init__(self, client: AsyncClient, state: CollectorState, origin: Origin) -> None:
        self._client, self._state, self._origin = client, state, origin
        self._blocks: tuple[BlockRef, ...] = ()
        self.last_promise: Promise | None = None

    async def put(self, finished: FinishedSlice) -> None:
        """As `Sink.put`; the promise is checked before it returns."""
        statement = self._origin.of_slice(finished.header)
        signature = signature_of(statement, self._state.signer)
        body = SliceBody(finished.header, statement, signature, finished.secret, finished.packed)
        self.last_promise = promise = await self._told(self._client.put_slice(body))
        if promise.created:
            # Evidence names the blocks that stood when it was sealed: newer ones than a look at the stream gave.
            self._blocks = tuple(replace(ref, time=promise.evidence.created_at) for ref in promise.evidence.after)

    async def last(self) -> SliceHeader | None:
        """As `Sink.last`."""
        return newest_header(await self._shown())

    async def identity(self) -> str | None:
        """As `Sink.identity`."""
        found = (await self._shown()).get("identity")
        return None if found is None else str(found)

    def after(self, at: datetime) -> tuple[BlockRef, ...]:
        """The newest final block known of each chain, of those that stood at `at` by this machine's clock too."""
        return stood(self._blocks, at)

    async def _shown(self) -> dict[str, JSONValue]:
        return await self._told(self._look())

    async def _look(self) -> dict[str, JSONValue]:
        shown = await self._client.stream(self._state.stream_id, submitter=self._origin.submitter)
        self._blocks = newest_blocks(shown)
        return shown

    @staticmethod
    async def _told(call: Awaitable[T]) -> T:
        try:
            return await call
        except (Unready, Unreachable, Undecided) as error:
            raise SinkUnavailable(error.message) from error
        except EvidenceError as error:
            raise SinkRefused(error.message, hint=error.hint) from error


def stood(blocks: Sequence[BlockRef], at: datetime) -> tuple[BlockRef, ...]:
    """Those of `blocks` that stood at `at`: a slice that names a later one contradicts itself, should this clock be slow."""
    return tuple(ref for ref in blocks if ref.time is not None and ref.time <= at)


# --- running --------------------------------------------------------------------------------------------------------


def pipeline_of(
    state: CollectorState,
    sink: ServiceSink,
    *,
    url: str,
    cut: CutRule,
    follow: bool,
    clock: Clock,
    randomness: Randomness,
    pending_slices: int = PENDING_SLICES,
) -> Pipeline:
    """The pipeline from the source at `url` to the sink, under the newest declaration; not yet running.

    At most `pending_slices` finished slices wait for the sink.
    Raises: Malformed if the declaration does not fit its keywords.
    """
    declared = state.declared[-1]
    plan = Plan.of(declared.declaration, declared.keywords, secret=declared.secret)

    async def open_at(start: Position | None, identity: str | None) -> Source:
        return await open_source(url, start=start, identity=identity, follow=follow, key=state.source_key())

    opened: OpenAt = open_at
    told = Collecting(plan, cut, clock, randomness, after=sink.after, pending_slices=pending_slices)
    return Pipeline(told, opened, sink)


async def say_behind(client: AsyncClient, pipeline: Pipeline) -> None:
    """The service has been told how far the collector is behind its source, or does not know it."""
    # What is collected does not depend on it, and a service that refuses or is away is met at the sink.
    with suppress(EvidenceError):
        await client.report_stream(pipeline.progress.stream_id, behind=pipeline.behind())


async def keep_saying_behind(client: AsyncClient, pipeline: Pipeline) -> None:
    """As `say_behind`, again and again until it is cancelled."""
    while True:
        await say_behind(client, pipeline)
        await asyncio.sleep(REPORT_S)


async def end(client: AsyncClient, state: CollectorState, *, reason: str, clock: Clock, randomness: Randomness) -> Promise:
    """The stream is ended for ever: its signed last slice says so. Idempotent.

    Raises: Malformed if the stream has no slice yet, or is not this collector's; Conflict if a collector still runs.
    """
    origin = await origin_of(client)
    sink = ServiceSink(client, state, origin)
    shown = await client.stream(state.stream_id, submitter=origin.submitter)
    last = newest_header(shown)
    if last is None or not state.declared:
        raise Malformed("stream has no slice yet, so there is nothing to end")
    if last.kind == Kind.END:
        raise Conflict("stream has ended already", record_id=None)
    declared = next((one for one in state.declared if one.declaration.pair == last.declaration), None)
    if declared is None:
        raise Malformed("stream was declared by another collector: only it can sign the end")
    plan = Plan.of(declared.declaration, declared.keywords, secret=declared.secret)
    secret, number = randomness(SECRET_BYTES), last.number + 1
    made = process(_nothing(), plan, secret=secret, number=number)
    created_at = max(clock(), last.created_at + MILLISECOND)
    header = SliceHeader.build(
        declared.declaration,
        made.commitment,
        previous=last,
        start=last.end,
        end=last.end,
        created_at=created_at,
        kind=Kind.END,
        reason=reason,
        after=stood(newest_blocks(shown), created_at),
    )
    await sink.put(FinishedSlice(header, declared.declaration, secret, _nothing(), made.commitment, made.packed))
    if sink.last_promise is None:
        raise Undecided("the end was sent, but no promise came back")
    return sink.last_promise


def _nothing() -> Buffer:
    return Buffer.of(())


def state_path(folder: Path, stream_id: str) -> Path:
    """Where the collector of a stream keeps its file."""
    return folder / "collectors" / f"{stream_id}.json"
