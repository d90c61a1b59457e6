"""HTTP push (T/SAC 004—2024 C.1): the service is the collector, with a key of its own for each account.

A producer numbers its records and sends again what it got no answer for. It is answered when its
records are in a preserved slice, so nothing is owed between two answers. The pipeline is the one that
every collector runs; its sink is this service itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from evidence.access import Caller, Role
from evidence.blocks import Blocks
from evidence.contents import Contents
from evidence.errors import Conflict, Forbidden, NotFound, Stale, Unready
from evidence.stream_shelf import Known, Shelf
from evidence.stream_store import StreamRow
from evidence.stream_wire import DeclareBody, SliceBody, declare_body, signature_of
from evidence.streams import Streams
from models.canonical import JSONValue, unb64
from models.checkpoint import STATEMENT_TYPE, vkey
from models.declaration import Declaration
from models.errors import EvidenceError, Invalid, Malformed, Problem
from models.extraction import Rule
from models.keywords import character_class
from models.record import Position
from models.signature import Signer
from models.slice import Kind, SliceHeader
from streaming.http import Pushed
from streaming.pipeline import Collecting, Pipeline
from streaming.port import Source, SourceRefused, SourceUnavailable
from streaming.sink import FinishedSlice, SinkRefused, SinkUnavailable
from streaming.slicer import CutRule

_log = logging.getLogger("evidence.streams")

SLICE_SECONDS: Final = 0.2
"""A record pushed alone waits so long for others to share its slice."""
START_S: Final = 10.0
MAX_SILENCE_S: Final = 3600
SLICE_PROOF_S: Final = 86_400
_DECLARED = {
    "stream_id",
    "keywords",
    "rules",
    "boundary",
    "case",
    "charset",
    "max_silence_s",
    "slice_proof_s",
    "slice",
    "index",
    "slice_private",
    "index_private",
}
_RULE = {"name", "after", "class", "min", "max"}


@dataclass(slots=True)
class _Running:
    """One pushed stream that is being collected."""

    pipeline: Pipeline
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    source: Pushed | None = None
    task: asyncio.Task[None] | None = None


class _OwnSink:
    """The service as the sink of its own collector."""

    def __init__(self, streams: Streams, caller: Caller, stream_id: str, signer: Signer) -> None:
        self._streams, self._caller, self._stream_id, self._signer = streams, caller, stream_id, signer

    async def put(self, finished: FinishedSlice) -> None:
        """The slice is preserved. Raises: SinkUnavailable, SinkRefused."""
        statement = self._streams.origin(self._caller).of_slice(finished.header)
        body = SliceBody(finished.header, statement, signature_of(statement, self._signer), finished.secret, finished.packed)
        try:
            await self._streams.put_slice(self._stream_id, body, self._caller, request_id="push")
        except Unready as error:
            raise SinkUnavailable(error.message) from error
        except EvidenceError as error:
            raise SinkRefused(error.message) from error

    async def last(self) -> SliceHeader | None:
        """The newest header. Raises: SinkRefused."""
        return await asyncio.to_thread(lambda: self._streams.shelf.newest_header(self._row()))

    async def identity(self) -> str | None:
        """What the producer was in the epoch of the newest header. Raises: SinkRefused."""
        return await asyncio.to_thread(self._identity)

    def _identity(self) -> str | None:
        row = self._row()
        newest = self._streams.shelf.newest_header(row)
        return None if newest is None else self._streams.shelf.identity(row, newest.end.epoch)

    def _row(self) -> StreamRow:
        row = self._streams.shelf.own(self._stream_id, self._caller.account)
        if row is None:
            raise SinkRefused("stream is not declared")
        return row


class Pushing:
    """Collects pushed streams. All of it runs in one event loop."""

    def __init__(
        self,
        *,
        streams: Streams,
        shelf: Shelf,
        contents: Contents,
        blocks: Blocks,
        signer_of: Callable[[str], Signer],
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._streams, self._shelf, self._contents, self._signer_of = streams, shelf, contents, signer_of
        self._blocks, self._clock, self._randomness = blocks, clock, randomness
        self._running: dict[tuple[str, str], _Running] = {}

    async def start(self) -> None:
        """Every pushed stream that has not ended is collected again: it owes signs of life, whether or not anybody pushes."""
        for row in await asyncio.to_thread(self._shelf.everything):
            if row.is_pushed:
                newest = await asyncio.to_thread(self._shelf.newest_header, row)
                if newest is not None and newest.kind != Kind.END:
                    await self._start(row)

    async def stop(self) -> None:
        """What was taken is in slices, and no pipeline runs."""
        for running in self._running.values():
            running.pipeline.stop()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()

    # --- declaring --------------------------------------------------------------------------------------------------

    async def declare(self, body: JSONValue, caller: Caller, *, request_id: str) -> dict[str, JSONValue]:
        """A stream that records can be pushed to. The same wish again gives the same stream.

        Raises: Invalid, Malformed; Conflict if the stream was declared otherwise.
        """
        caller.require(Role.BUSINESS)
        wish = _Wish.read(body)
        row = await asyncio.to_thread(self._shelf.own, wish.stream_id, caller.account)
        if row is not None:
            return await asyncio.to_thread(self._standing, row, wish)
        made = await asyncio.to_thread(self._declaration, wish, caller)
        return await self._streams.declare(made, caller, request_id=request_id, is_pushed=True)

    def _declaration(self, wish: _Wish, caller: Caller) -> DeclareBody:
        signer, secret = self._signer_of(caller.account), self._randomness(32)
        origin = self._streams.origin(caller)
        declaration = Declaration.build(
            log=origin.log,
            source=f"http:{wish.stream_id}",
            collector=vkey(caller.account, signer.public_key, STATEMENT_TYPE),
            secret=secret,
            stream_id=wish.stream_id,
            keywords=wish.keywords,
            rules=wish.rules,
            **wish.options,
        )
        body = declare_body(declaration, 0, wish.keywords, origin=origin, secret=secret, signer=signer)
        return DeclareBody.parse(body)

    def _standing(self, row: StreamRow, wish: _Wish) -> dict[str, JSONValue]:
        known = self._shelf.known(row)[0]
        if not row.is_pushed or not wish.fits(known):
            raise Conflict("stream was declared otherwise", record_id=known.evidence_id, hint="choose another stream_id")
        return {"stream_id": row.stream_id, "number": 0, "created": False, "evidence_id": known.evidence_id}

    # --- collecting -------------------------------------------------------------------------------------------------

    async def push(self, stream_id: str, body: JSONValue, caller: Caller, *, request_id: str) -> dict[str, JSONValue]:
        """The records are in preserved slices; those that were taken before are left out.

        Raises: Invalid, Malformed; NotFound; Forbidden for a stream with a collector of its own; Stale if records before
            `first` were never pushed; Unready.
        Source: interface §3 (POST /v1/streams/{id}/records); formats §5.3 (producer sequence).
        """
        del request_id
        caller.require(Role.BUSINESS)
        first, records = _read_records(body)
        row = await self._row(stream_id, caller)
        source = await self._source(row)
        try:
            expected = await source.push(first, records)
            await source.wait_committed(first + len(records))
        except SourceRefused as error:
            raise Stale(error.message, hint=error.hint) from error
        except SourceUnavailable as error:
            raise Unready(error.message, retry_after_s=1, hint=error.hint) from error
        return {
            "stream_id": stream_id,
            "first": first,
            "taken": len(records),
            "next": expected,
            "committed": source.committed_up_to,
        }

    async def end(self, stream_id: str, body: JSONValue, caller: Caller, *, request_id: str) -> dict[str, JSONValue]:
        """The stream is ended for ever; its last slice says why.

        Raises: NotFound, Forbidden, Malformed; Unready.
        """
        del request_id
        caller.require(Role.BUSINESS)
        reason = body.get("reason", "ended by its owner") if isinstance(body, dict) and set(body) <= {"reason"} else None
        if not isinstance(reason, str) or not 1 <= len(reason) <= 256:
            raise Malformed("end has wrong form: expected an object of reason, a text of at most 256 characters")
        row = await self._row(stream_id, caller)
        await self._source(row)
        running = self._running.pop((row.submitter, row.stream_id))
        running.pipeline.end(reason)
        if running.task is not None:
            await running.task
        newest = await asyncio.to_thread(self._shelf.newest_header, row)
        if newest is None or newest.kind != Kind.END:
            raise Unready(f"stream could not be ended: {running.pipeline.progress.error}", retry_after_s=5)
        return {"stream_id": stream_id, "ended": True, "slice_id": newest.slice_id, "reason": newest.reason}

    async def _row(self, stream_id: str, caller: Caller) -> StreamRow:
        row = await asyncio.to_thread(self._shelf.own, stream_id, caller.account)
        if row is None:
            raise NotFound("the account has no stream of that id: expected one that was declared")
        if not row.is_pushed:
            raise Forbidden("stream has a collector of its own, who alone can sign its slices", hint="evidence stream run or end")
        newest = await asyncio.to_thread(self._shelf.newest_header, row)
        if newest is not None and newest.kind == Kind.END:
            raise Stale("stream has ended: nothing follows its last slice")
        return row

    async def _source(self, row: StreamRow) -> Pushed:
        running = self._running.get((row.submitter, row.stream_id)) or await self._start(row)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await running.opened.wait()
        if running.source is None:
            raise Unready(f"stream is not collected now: {running.pipeline.progress.error}", retry_after_s=2)
        return running.source

    async def _start(self, row: StreamRow) -> _Running:
        known = (await asyncio.to_thread(self._shelf.known, row))[-1]
        caller = await asyncio.to_thread(self._caller, row, known)
        # Two pushes at once both came here: the first made it.
        place = (row.submitter, row.stream_id)
        if place in self._running:
            return self._running[place]
        signer = self._signer_of(row.submitter)
        cut = CutRule(seconds=SLICE_SECONDS)
        told = Collecting(known.plan, cut, self._clock, self._randomness, after=self._blocks.newest)

        async def open_at(start: Position | None, identity: str | None) -> Source:
            source = Pushed(f"producer {row.stream_id}", start=start, previous=identity)
            running.source = source
            running.opened.set()
            return source

        running = _Running(Pipeline(told, open_at, _OwnSink(self._streams, caller, row.stream_id, signer)))
        self._running[place] = running
        running.task = asyncio.create_task(self._run(place, running))
        return running

    async def _run(self, place: tuple[str, str], running: _Running) -> None:
        try:
            await running.pipeline.run()
        except EvidenceError as error:
            # Whoever pushes is told by the source that closes; the next push begins anew.
            _log.warning("pushed stream is not collected any more: %s", error.message)
        except Exception as error:  # noqa: BLE001 - the top of a task: a fault of ours must not end it unseen
            _log.error("pushed stream broke: %s", type(error).__name__, exc_info=error)
        finally:
            running.opened.set()
            if self._running.get(place) is running:
                del self._running[place]
            if running.source is not None:
                await running.source.aclose()

    def _caller(self, row: StreamRow, known: Known) -> Caller:
        _, evidence = self._contents.evidence(known.leaf_index)
        return Caller(row.submitter, frozenset({Role.BUSINESS}), row.subject, evidence.statement.subject_name)


# --- bodies ---------------------------------------------------------------------------------------------------------


def _bytes_of(value: JSONValue, charset: str, what: str) -> bytes:
    if isinstance(value, dict) and set(value) == {"b64"}:
        return unb64(value["b64"], what=what)
    if not isinstance(value, str):
        raise Malformed(f'{what} is neither a text nor an object {{"b64": …}}')
    try:
        return value.encode(charset)
    except (LookupError, UnicodeEncodeError) as error:
        raise Malformed(f"{what} cannot be written in the charset of the stream") from error


def _read_records(body: JSONValue) -> tuple[int, list[bytes]]:
    if not isinstance(body, dict) or set(body) != {"first", "records"}:
        raise _wrong("", "an object of first and records")
    first, records = body["first"], body["records"]
    if type(first) is not int or not 0 <= first < 1 << 53:
        raise _wrong("first", "the number of the first record: an integer from 0")
    if not isinstance(records, list) or not 1 <= len(records) <= 1 << 14:
        raise _wrong("records", "an array of 1 to 16384 records")
    return first, [_bytes_of(record, "utf-8", f"record {first + place}") for place, record in enumerate(records)]


def _wrong(name: str, expected: str) -> Invalid:
    problem = Problem(f"/{name}", name, "流式数据", expected, "something else", "C.1-a")
    return Invalid(f"body has wrong form: expected {expected}", (problem,))


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is wanted of a stream whose records are pushed here."""

    stream_id: str
    keywords: tuple[bytes, ...]
    rules: tuple[Rule, ...]
    options: Mapping[str, JSONValue]

    @classmethod
    def read(cls, body: JSONValue) -> _Wish:
        """The wish that a body states. Raises: Invalid, Malformed."""
        if not isinstance(body, dict) or not {"stream_id"} <= set(body) <= _DECLARED:
            raise _wrong("", f"an object of stream_id and perhaps {', '.join(sorted(_DECLARED - {'stream_id'}))}")
        charset = body.get("charset") or "utf-8"
        words, rules = body.get("keywords", []), body.get("rules", [])
        if not isinstance(words, list) or not isinstance(rules, list) or not isinstance(charset, str):
            raise _wrong("keywords", "arrays of keywords and rules")
        keywords = [_bytes_of(word, charset, "keyword") for word in words]
        if len(set(keywords)) != len(keywords):
            raise Malformed("keyword stands twice in the declaration")
        options: dict[str, JSONValue] = {"max_silence_s": MAX_SILENCE_S, "slice_proof_s": SLICE_PROOF_S, "charset": "utf-8"}
        renamed = {"slice": "slice_algorithm", "index": "index_algorithm"}
        options |= {renamed.get(name, name): body[name] for name in set(body) - {"stream_id", "keywords", "rules"}}
        found = sorted((_rule(rule, charset) for rule in rules), key=lambda rule: rule.name)
        return cls(str(body["stream_id"]), tuple(sorted(keywords)), tuple(found), options)

    def fits(self, known: Known) -> bool:
        """Whether the declaration that stands is one for this wish."""
        declaration = known.declaration
        asked = {
            name: value for name, value in self.options.items() if name in ("boundary", "case", "max_silence_s", "slice_proof_s")
        }
        return (
            known.declared.keywords == self.keywords
            and tuple(entry.rule for entry in declaration.rules) == self.rules
            and all(getattr(declaration, name) == value for name, value in asked.items())
        )


def _rule(value: JSONValue, charset: str) -> Rule:
    if not isinstance(value, dict) or not _RULE <= set(value) <= _RULE | {"bits"} or not isinstance(value["class"], str):
        raise _wrong("rules", "rules of name, after, class, min, max and perhaps bits")
    after = _bytes_of(value["after"], charset, "after of a rule")
    more = {"bits": value["bits"]} if "bits" in value else {}
    return Rule(value["name"], after, character_class(value["class"]), value["min"], value["max"], **more).check()
