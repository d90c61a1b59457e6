"""The service as Python objects: `Client` and `AsyncClient`, as in httpx the same methods, sync and async.

What a method does is written once, in `conversation.Talk`, as steps without a socket; the two clients differ
only in how they send a call and wait. No promise is returned that was not checked.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from evidence.conversation import Source, Talk
from evidence.exchange import Answer, Call, Failure, Patience, Pause, Steps, Value
from evidence.promise import Promise
from evidence.stream_client import AsyncStreamMethods, StreamMethods
from models.canonical import JSONValue
from models.checkpoint import Note, VerifierKey
from models.digest import Algorithm, Digest
from models.errors import EvidenceError, Malformed
from models.template import Template

DEFAULT_URL = "http://127.0.0.1:8000"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_CONNECT_S, _ANSWER_S, WAIT_S = 5.0, 30.0, 60.0


def _options(url: str, token: str | None, request_id: str | None) -> dict[str, Any]:
    """What both httpx clients are built with: one address, no redirects (a token must not travel), no proxy to ourselves."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise Malformed("url of the service has wrong form: expected for example http://127.0.0.1:8000")
    headers = {"accept-language": "en", "user-agent": "evidence"}
    if token is not None:
        if not token.isascii() or any(letter.isspace() for letter in token):
            raise Malformed("token has wrong form: expected ASCII text without spaces")
        headers["authorization"] = f"Bearer {token}"
    if request_id is not None:
        headers["x-request-id"] = request_id
    return {"base_url": url, "headers": headers, "follow_redirects": False, "trust_env": parts.hostname not in _LOOPBACK}


def _sent(call: Call) -> dict[str, Any]:
    """The arguments of a call that do not depend on sync or async; the body is added by the sender."""
    headers = dict(call.headers)
    sent: dict[str, Any] = {"method": call.method, "url": call.path, "params": dict(call.params) or None, "headers": headers}
    if call.json is not None:
        try:
            sent["content"] = json.dumps(call.json, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise Malformed("value cannot be sent: expected JSON in valid Unicode") from error
        headers["content-type"] = "application/json"
    sent["timeout"] = httpx.Timeout(call.timeout_s or _ANSWER_S, connect=_CONNECT_S)
    return sent


class _Gathering:
    """The bytes of one response: into the call's sink if it succeeded, else kept, up to the call's limit."""

    def __init__(self, call: Call, status: int) -> None:
        self._limit = call.limit
        self._kept = bytearray()
        self._take: Callable[[bytes], object] = self._keep
        if call.sink is not None and status < 300:
            self._take = call.sink()

    def _keep(self, chunk: bytes) -> None:
        if len(self._kept) + len(chunk) > self._limit:
            raise httpx.DecodingError("answer is too long")
        self._kept += chunk

    def take(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        self._take(chunk)

    def answer(self, response: httpx.Response) -> Answer:
        """The response as a whole."""
        return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, bytes(self._kept))


def _failure(error: httpx.HTTPError) -> Failure:
    sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    reasons: dict[type[httpx.HTTPError], str] = {
        httpx.ConnectError: "connection refused or no such host",
        httpx.ConnectTimeout: "no connection in time",
        httpx.ReadTimeout: "no answer in time",
    }
    reason = reasons.get(type(error), "connection broke")
    return Failure(reason, sent)


def _jitter() -> float:
    return secrets.randbelow(1 << 16) / (1 << 16)


class Client(StreamMethods):
    """A client of one service; use it in one thread at a time.

    `keys` are vkeys of the log; without them those that the service shows first are believed from then on.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        keys: Iterable[str | VerifierKey] = (),
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
        request_id: str | None = None,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Raises: Malformed if url, token or a key has a wrong form."""
        self._talk = Talk(keys=keys, patience=patience or Patience(jitter=_jitter), randomness=randomness)
        self._http = httpx.Client(**_options(url, token, request_id), transport=transport)
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Connections are closed."""
        self._http.close()

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """The log's keys that this client believes; empty before the first promise if none were given."""
        return self._talk.keys

    def _run(self, steps: Steps[Value]) -> Value:
        result: Answer | Failure | None = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                value: Value = done.value
                return value
            if isinstance(step, Pause):
                self._sleep(step.seconds)
                result = None
            else:
                result = self._send(step)

    def _send(self, call: Call) -> Answer | Failure:
        sent = _sent(call)
        if call.body is not None:
            sent["content"] = iter(call.body())
        try:
            with self._http.stream(**sent) as response:
                gathering = _Gathering(call, response.status_code)
                for chunk in response.iter_bytes():
                    gathering.take(chunk)
                return gathering.answer(response)
        except httpx.HTTPError as error:
            return _failure(error)

    def service(self) -> dict[str, JSONValue]:
        """What the service says of itself: version, origin, environment, keys, limits."""
        return self._run(self._talk.get("/v1/service"))

    def account(self) -> dict[str, JSONValue]:
        """Who the token is: account, roles, subject, and the log's origin: what a signer needs to build a statement."""
        return self._run(self._talk.account())

    def preserve(self, submission: Mapping[str, JSONValue], *, wait: str | None = None, timeout_s: float = WAIT_S) -> Promise:
        """The submission is preserved: the promise is checked (signature, inclusion, content) before it is returned.

        The same submission may be preserved any number of times. `wait="final"` returns only once enough chains hold it.
        Raises: Invalid, Conflict, Stale, Erased, Unauthorised, Forbidden, NotFinal; VerificationError if the promise does not
            hold; Unready, Unreachable.
        """
        return self._run(self._talk.preserve(submission, wait=wait, timeout_s=timeout_s))

    def preserve_many(self, submissions: Sequence[Mapping[str, JSONValue]]) -> list[Promise | EvidenceError]:
        """One promise, or the error that refused it, for each submission, in order."""
        return self._run(self._talk.preserve_many(submissions))

    def wait(self, evidence_id: str, *, timeout_s: float = WAIT_S) -> dict[str, JSONValue]:
        """The item once it is final. Raises: NotFinal after `timeout_s`."""
        return self._run(self._talk.wait(evidence_id, timeout_s))

    def get(self, evidence_id: str) -> dict[str, JSONValue]:
        """One item by its id or a unique prefix: states per chain, receipts, originals. Raises: NotFound, Ambiguous, Erased."""
        return self._run(self._talk.item(evidence_id))

    def search(self, criteria: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """A page of items that fit `criteria` (interface §3, evidence:search)."""
        return self._run(self._talk.post("/v1/evidence:search", dict(criteria)))

    def transaction(self, link_code: str) -> dict[str, JSONValue]:
        """链式: the parts of a link in order, and which stages are missing."""
        return self._run(self._talk.transaction(link_code))

    def nodes(self, evidence_id: str) -> dict[str, JSONValue]:
        """What each node of each chain itself says of the item."""
        return self._run(self._talk.nodes(evidence_id))

    def bundle(self, evidence_id: str, *, disclose: Collection[str] | None = None, kind: str = "item") -> bytes:
        """The bundle (.cz) of an item, or of its whole `transaction`; `disclose` names the fields shown. Raises: NotFinal."""
        return self._run(self._talk.bundle(evidence_id, disclose, kind))

    def issue(self, request: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """出证 as an act (interface §3, POST /v1/issuances); it is itself preserved."""
        return self._run(self._talk.issue(request))

    def issuance(self, issuance_id: str) -> dict[str, JSONValue]:
        """How far an issue has come."""
        return self._run(self._talk.issuance(issuance_id))

    def upload_original(self, source: Source, digest: Digest | None = None) -> Digest:
        """The original is held by the service under its digest; computed here if not given."""
        return self._run(self._talk.upload(source, digest))

    def download_original(self, digest: Digest, *, to: Path | None = None) -> bytes:
        """The original of that digest, checked; written to the file `to` if given, and then nothing is returned."""
        return self._run(self._talk.original(digest, to))

    def verify(self, bundle: bytes, *, trust: bytes | None = None, originals: Sequence[bytes] = ()) -> dict[str, JSONValue]:
        """The service's own verification; a court uses `evidence.verifier.verify` instead, which asks nobody."""
        return self._run(self._talk.verify(bundle, trust, originals))

    def checkpoint(self, *, tree: Algorithm = Algorithm.SM3) -> Note:
        """The newest checkpoint, checked; for SM3 also that it continues every head seen. Raises: VerificationError."""
        return self._run(self._talk.checkpoint(tree))

    def inclusion(self, leaf_index: int, tree_size: int, *, tree: Algorithm = Algorithm.SM3) -> list[bytes]:
        """The inclusion path of a leaf, from the leaf upward."""
        return self._run(self._talk.inclusion(leaf_index, tree_size, tree))

    def consistency(self, old: int, new: int, *, tree: Algorithm = Algorithm.SM3) -> list[bytes]:
        """The consistency proof between two sizes."""
        return self._run(self._talk.consistency(old, new, tree))

    def templates(self) -> JSONValue:
        """The templates that the service takes."""
        return self._run(self._talk.templates())

    def template(self, name: str) -> Template:
        """One template."""
        return self._run(self._talk.template(name))

    def chains(self) -> JSONValue:
        """The chains and what each node of each says of its head."""
        return self._run(self._talk.chains())

    def blocks(self, chain: str, node: int, *, start: int | None = None, limit: int | None = None) -> dict[str, JSONValue]:
        """Up to `limit` blocks from height `start` on, or the newest, as that node alone tells them."""
        return self._run(self._talk.blocks(chain, node, start, limit))

    def block(self, chain: str, node: int, height: int) -> dict[str, JSONValue]:
        """One block as that node alone tells it."""
        return self._run(self._talk.block(chain, node, height))

    def chain_transaction(self, chain: str, node: int, tx_id: str) -> dict[str, JSONValue]:
        """One transaction as that node alone tells it."""
        return self._run(self._talk.chain_transaction(chain, node, tx_id))


async def _in_thread(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The chunks, read beside the event loop."""
    iterator = iter(chunks)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk


class AsyncClient(AsyncStreamMethods):
    """As `Client`, for asyncio."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        keys: Iterable[str | VerifierKey] = (),
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        request_id: str | None = None,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Raises: Malformed if url, token or a key has a wrong form."""
        self._talk = Talk(keys=keys, patience=patience or Patience(jitter=_jitter), randomness=randomness)
        self._http = httpx.AsyncClient(**_options(url, token, request_id), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Connections are closed."""
        await self._http.aclose()

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """As `Client.keys`."""
        return self._talk.keys

    async def _run(self, steps: Steps[Value]) -> Value:
        result: Answer | Failure | None = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                value: Value = done.value
                return value
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                result = None
            else:
                result = await self._send(step)

    async def _send(self, call: Call) -> Answer | Failure:
        sent = _sent(call)
        if call.body is not None:
            sent["content"] = _in_thread(call.body())
        try:
            async with self._http.stream(**sent) as response:
                gathering = _Gathering(call, response.status_code)
                async for chunk in response.aiter_bytes():
                    gathering.take(chunk)
                return gathering.answer(response)
        except httpx.HTTPError as error:
            return _failure(error)

    async def service(self) -> dict[str, JSONValue]:
        """As `Client.service`."""
        return await self._run(self._talk.get("/v1/service"))

    async def account(self) -> dict[str, JSONValue]:
        """As `Client.account`."""
        return await self._run(self._talk.account())

    async def preserve(
        self, submission: Mapping[str, JSONValue], *, wait: str | None = None, timeout_s: float = WAIT_S
    ) -> Promise:
        """As `Client.preserve`."""
        return await self._run(self._talk.preserve(submission, wait=wait, timeout_s=timeout_s))

    async def preserve_many(self, submissions: Sequence[Mapping[str, JSONValue]]) -> list[Promise | EvidenceError]:
        """As `Client.preserve_many`."""
        return await self._run(self._talk.preserve_many(submissions))

    async def wait(self, evidence_id: str, *, timeout_s: float = WAIT_S) -> dict[str, JSONValue]:
        """As `Client.wait`."""
        return await self._run(self._talk.wait(evidence_id, timeout_s))

    async def get(self, evidence_id: str) -> dict[str, JSONValue]:
        """As `Client.get`."""
        return await self._run(self._talk.item(evidence_id))

    async def search(self, criteria: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """As `Client.search`."""
        return await self._run(self._talk.post("/v1/evidence:search", dict(criteria)))

    async def transaction(self, link_code: str) -> dict[str, JSONValue]:
        """As `Client.transaction`."""
        return await self._run(self._talk.transaction(link_code))

    async def nodes(self, evidence_id: str) -> dict[str, JSONValue]:
        """As `Client.nodes`."""
        return await self._run(self._talk.nodes(evidence_id))

    async def bundle(self, evidence_id: str, *, disclose: Collection[str] | None = None, kind: str = "item") -> bytes:
        """As `Client.bundle`."""
        return await self._run(self._talk.bundle(evidence_id, disclose, kind))

    async def issue(self, request: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """As `Client.issue`."""
        return await self._run(self._talk.issue(request))

    async def issuance(self, issuance_id: str) -> dict[str, JSONValue]:
        """As `Client.issuance`."""
        return await self._run(self._talk.issuance(issuance_id))

    async def upload_original(self, source: Source, digest: Digest | None = None) -> Digest:
        """As `Client.upload_original`."""
        return await self._run(self._talk.upload(source, digest))

    async def download_original(self, digest: Digest, *, to: Path | None = None) -> bytes:
        """As `Client.download_original`."""
        return await self._run(self._talk.original(digest, to))

    async def verify(self, bundle: bytes, *, trust: bytes | None = None, originals: Sequence[bytes] = ()) -> dict[str, JSONValue]:
        """As `Client.verify`."""
        return await self._run(self._talk.verify(bundle, trust, originals))

    async def checkpoint(self, *, tree: Algorithm = Algorithm.SM3) -> Note:
        """As `Client.checkpoint`."""
        return await self._run(self._talk.checkpoint(tree))

    async def inclusion(self, leaf_index: int, tree_size: int, *, tree: Algorithm = Algorithm.SM3) -> list[bytes]:
        """As `Client.inclusion`."""
        return await self._run(self._talk.inclusion(leaf_index, tree_size, tree))

    async def consistency(self, old: int, new: int, *, tree: Algorithm = Algorithm.SM3) -> list[bytes]:
        """As `Client.consistency`."""
        return await self._run(self._talk.consistency(old, new, tree))

    async def templates(self) -> JSONValue:
        """As `Client.templates`."""
        return await self._run(self._talk.templates())

    async def template(self, name: str) -> Template:
        """As `Client.template`."""
        return await self._run(self._talk.template(name))

    async def chains(self) -> JSONValue:
        """As `Client.chains`."""
        return await self._run(self._talk.chains())

    async def blocks(self, chain: str, node: int, *, start: int | None = None, limit: int | None = None) -> dict[str, JSONValue]:
        """As `Client.blocks`."""
        return await self._run(self._talk.blocks(chain, node, start, limit))

    async def block(self, chain: str, node: int, height: int) -> dict[str, JSONValue]:
        """As `Client.block`."""
        return await self._run(self._talk.block(chain, node, height))

    async def chain_transaction(self, chain: str, node: int, tx_id: str) -> dict[str, JSONValue]:
        """As `Client.chain_transaction`."""
        return await self._run(self._talk.chain_transaction(chain, node, tx_id))
