"""What a client of the service does with streams, sync and async: the same methods, as in `client.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar
from urllib.parse import quote

from evidence.conversation import LONG_S, Talk
from evidence.exchange import MAX_BUNDLE_BYTES, Call, Steps, Unreachable, object_of
from evidence.promise import Promise
from evidence.stream_wire import SliceBody
from models.anchor import BlockRef
from models.canonical import JSONValue, b64, parse_time
from models.slice import SliceHeader

BUNDLE = "application/vnd.evidence.cz"
Value = TypeVar("Value")


# --- steps ----------------------------------------------------------------------------------------------------------


def _path(stream_id: str, tail: str = "") -> str:
    return f"/v1/streams/{quote(stream_id, safe='')}{tail}"


def declare(talk: Talk, body: Mapping[str, JSONValue]) -> Steps[dict[str, JSONValue]]:
    """A declaration is preserved; for one with a statement the promise is checked."""
    answer = yield from talk.call(Call("POST", "/v1/streams", json=dict(body), timeout_s=LONG_S))
    value = object_of(answer)
    if "sealed" in body:
        yield from talk.accept(value, body, created=answer.status == 201)
    return value


def put_slice(talk: Talk, body: SliceBody) -> Steps[Promise]:
    """A slice is preserved; the promise is checked."""
    data = body.to_bytes()
    headers = {"content-type": "application/octet-stream", "content-length": str(len(data))}
    path = _path(body.header.stream_id, "/slices")
    answer = yield from talk.call(Call("POST", path, body=lambda: [data], headers=headers, timeout_s=LONG_S))
    sent: dict[str, JSONValue] = {"sealed": {"statement": body.statement.data.decode()}}
    return (yield from talk.accept(object_of(answer), sent, created=answer.status == 201))


def stream(talk: Talk, stream_id: str, submitter: str | None) -> Steps[dict[str, JSONValue]]:
    """One stream."""
    return (yield from talk.get(_path(stream_id), {"submitter": submitter}))


def slices(talk: Talk, stream_id: str, start: int, limit: int) -> Steps[dict[str, JSONValue]]:
    """A page of slices."""
    return (yield from talk.get(_path(stream_id, "/slices"), {"from": start, "limit": limit}))


def push(talk: Talk, stream_id: str, first: int, records: Sequence[str | bytes]) -> Steps[dict[str, JSONValue]]:
    """Records are preserved."""
    listed: list[JSONValue] = [record if isinstance(record, str) else {"b64": b64(record)} for record in records]
    return (yield from talk.post(_path(stream_id, "/records"), {"first": first, "records": listed}, timeout_s=LONG_S))


def ask(talk: Talk, stream_id: str, question: Mapping[str, JSONValue]) -> Steps[dict[str, JSONValue]]:
    """The answer as JSON."""
    return (yield from talk.post(_path(stream_id, "/query"), dict(question), timeout_s=LONG_S))


def answer_of(talk: Talk, stream_id: str, question: Mapping[str, JSONValue]) -> Steps[bytes]:
    """The answer as a bundle."""
    call = Call(
        "POST",
        _path(stream_id, "/query"),
        json=dict(question),
        headers={"accept": BUNDLE},
        timeout_s=LONG_S,
        limit=MAX_BUNDLE_BYTES,
    )
    return (yield from talk.call(call)).body


def report(talk: Talk, stream_id: str, behind: int | None) -> Steps[dict[str, JSONValue]]:
    """How far its collector is behind."""
    return object_of((yield from talk.call(Call("PUT", _path(stream_id, "/progress"), json={"behind": behind}))))


def act(talk: Talk, stream_id: str, what: str, body: Mapping[str, JSONValue]) -> Steps[dict[str, JSONValue]]:
    """`recount` or `end`."""
    return (yield from talk.post(_path(stream_id, f"/{what}"), dict(body), timeout_s=LONG_S))


def newest_header(shown: Mapping[str, JSONValue]) -> SliceHeader | None:
    """The newest header in what the service says of a stream. Raises: Unreachable if it says something else."""
    newest = shown.get("newest")
    if newest is None:
        return None
    text = newest.get("header") if isinstance(newest, dict) else None
    if not isinstance(text, str):
        raise Unreachable("answer is not what this service sends: expected the header of the newest slice")
    return SliceHeader.parse(text.encode())


def newest_blocks(shown: Mapping[str, JSONValue]) -> tuple[BlockRef, ...]:
    """The newest final blocks in what the service says of a stream, with their times; none where it says none.

    Raises: Malformed, Unreachable if it says something else.
    """
    listed = shown.get("after", [])
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise Unreachable("answer is not what this service sends: expected the newest final blocks")
    found = []
    for each in listed:
        ref = BlockRef.from_json({name: value for name, value in each.items() if name != "time"})
        found.append(replace(ref, time=parse_time(each.get("time"), what="time of a block")))
    return tuple(found)


# --- methods --------------------------------------------------------------------------------------------------------


class _Runs(Protocol):
    _talk: Talk

    def _run(self, steps: Steps[Value]) -> Value: ...


class StreamMethods:
    """The methods of `Client` that are about streams."""

    def declare_stream(self: _Runs, body: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """A stream is declared: by its collector, or as one whose records are pushed (interface §3). Repeatable."""
        return self._run(declare(self._talk, body))

    def put_slice(self: _Runs, body: SliceBody) -> Promise:
        """A slice is preserved: the promise is checked before it is returned. Repeatable.

        Raises: Stale, Conflict, NotFound, Invalid; VerificationError if the promise does not hold; Unready, Unreachable.
        """
        return self._run(put_slice(self._talk, body))

    def streams(self: _Runs) -> dict[str, JSONValue]:
        """The streams that the token sees: how far, how late, by when the next slice must come."""
        return self._run(self._talk.get("/v1/streams"))

    def stream(self: _Runs, stream_id: str, *, submitter: str | None = None) -> dict[str, JSONValue]:
        """One stream with its declarations and newest header. Raises: NotFound, Ambiguous."""
        return self._run(stream(self._talk, stream_id, submitter))

    def slices(self: _Runs, stream_id: str, *, start: int = 0, limit: int = 100) -> dict[str, JSONValue]:
        """A page of slices by number."""
        return self._run(slices(self._talk, stream_id, start, limit))

    def report_stream(self: _Runs, stream_id: str, *, behind: int | None) -> dict[str, JSONValue]:
        """The service knows how much the source of a stream holds that was not read; None: unknown. Raises: NotFound."""
        return self._run(report(self._talk, stream_id, behind))

    def push_records(self: _Runs, stream_id: str, first: int, records: Sequence[str | bytes]) -> dict[str, JSONValue]:
        """Records numbered from `first` on are preserved; sent again they are taken once. Raises: Stale for a hole."""
        return self._run(push(self._talk, stream_id, first, records))

    def query_stream(self: _Runs, stream_id: str, question: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """The answer to a question as JSON: counts, lines, and the verdict of the proof."""
        return self._run(ask(self._talk, stream_id, question))

    def stream_answer(self: _Runs, stream_id: str, question: Mapping[str, JSONValue]) -> bytes:
        """The answer to a question as a bundle that verifies offline."""
        return self._run(answer_of(self._talk, stream_id, question))

    def recount_stream(self: _Runs, stream_id: str, request: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """Slices and index are derived again from the archived records, and attested."""
        return self._run(act(self._talk, stream_id, "recount", request))

    def end_stream(self: _Runs, stream_id: str, request: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """A stream whose records are pushed is ended."""
        return self._run(act(self._talk, stream_id, "end", request))


class _AsyncRuns(Protocol):
    _talk: Talk

    def _run(self, steps: Steps[Value]) -> Awaitable[Value]: ...


class AsyncStreamMethods:
    """The methods of `AsyncClient` that are about streams."""

    async def declare_stream(self: _AsyncRuns, body: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """As `Client.declare_stream`."""
        return await self._run(declare(self._talk, body))

    async def put_slice(self: _AsyncRuns, body: SliceBody) -> Promise:
        """As `Client.put_slice`."""
        return await self._run(put_slice(self._talk, body))

    async def streams(self: _AsyncRuns) -> dict[str, JSONValue]:
        """As `Client.streams`."""
        return await self._run(self._talk.get("/v1/streams"))

    async def stream(self: _AsyncRuns, stream_id: str, *, submitter: str | None = None) -> dict[str, JSONValue]:
        """As `Client.stream`."""
        return await self._run(stream(self._talk, stream_id, submitter))

    async def slices(self: _AsyncRuns, stream_id: str, *, start: int = 0, limit: int = 100) -> dict[str, JSONValue]:
        """As `Client.slices`."""
        return await self._run(slices(self._talk, stream_id, start, limit))

    async def report_stream(self: _AsyncRuns, stream_id: str, *, behind: int | None) -> dict[str, JSONValue]:
        """As `Client.report_stream`."""
        return await self._run(report(self._talk, stream_id, behind))

    async def push_records(self: _AsyncRuns, stream_id: str, first: int, records: Sequence[str | bytes]) -> dict[str, JSONValue]:
        """As `Client.push_records`."""
        return await self._run(push(self._talk, stream_id, first, records))

    async def query_stream(self: _AsyncRuns, stream_id: str, question: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """As `Client.query_stream`."""
        return await self._run(ask(self._talk, stream_id, question))

    async def stream_answer(self: _AsyncRuns, stream_id: str, question: Mapping[str, JSONValue]) -> bytes:
        """As `Client.stream_answer`."""
        return await self._run(answer_of(self._talk, stream_id, question))

    async def recount_stream(self: _AsyncRuns, stream_id: str, request: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """As `Client.recount_stream`."""
        return await self._run(act(self._talk, stream_id, "recount", request))

    async def end_stream(self: _AsyncRuns, stream_id: str, request: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """As `Client.end_stream`."""
        return await self._run(act(self._talk, stream_id, "end", request))
