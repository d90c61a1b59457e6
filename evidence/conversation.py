"""What a client of the service does, as steps without a socket; `client.py` sends them, sync and async.

Holds what a client learned on the way: the keys of the log, pinned for good once seen, and the
newest head, which every later one must extend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from evidence.errors import NotFinal
from evidence.exchange import (
    MAX_BUNDLE_BYTES,
    Answer,
    Call,
    Patience,
    Pause,
    Steps,
    Unreachable,
    error_of,
    exchange,
    json_of,
    object_of,
)
from evidence.promise import Promise, check_content, check_promise
from models.canonical import JSONValue, b64, unb64
from models.checkpoint import COSIGNATURE_TYPE, Checkpoint, Note, VerifierKey, verify_cosignature
from models.commitment import SECRET_BYTES
from models.digest import Algorithm, Digest, Pair, pair_of_chunks
from models.errors import EvidenceError, Malformed, Undecided, VerificationError
from models.merkle import verify_consistency
from models.template import Template, builtin, builtin_names

POLL_S = (0.1, 2.0)
MAX_BATCH = 100
CHUNK_BYTES = 1 << 20
LONG_S = 120.0
TRANSFER_S = 600.0
FINAL = "final"

Source = Path | bytes


def chunks_of(source: Source) -> Iterable[bytes]:
    """The bytes of a file or value, a mebibyte at a time."""
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def digests_of(source: Source) -> tuple[Pair, int]:
    """Both digests and the length of a file or value, in bounded memory."""
    return pair_of_chunks(chunks_of(source))


class _Received:
    """An original being received: checked against its digest, and given out only if it agrees."""

    def __init__(self, wanted: Digest, to: Path | None) -> None:
        self._wanted = wanted
        self._to = to
        self._stream: BinaryIO | None = None
        self._chunks: list[bytes] = []

    def open(self) -> Callable[[bytes], object]:
        """Begin anew, for one attempt; what takes the bytes."""
        if self._to is None:
            self._chunks = []
            return self._chunks.append
        self.close()
        self._stream = self._partial().open("wb")
        return self._stream.write

    def _partial(self) -> Path:
        if self._to is None:
            raise RuntimeError("nothing is written to a file here")
        return self._to.with_name(f".{self._to.name[:64]}.part")

    def close(self) -> None:
        """The file written to is closed."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _discard(self) -> None:
        if self._to is not None:
            self._partial().unlink(missing_ok=True)

    def finish(self) -> bytes:
        """The bytes (none where they went to a file). Raises: VerificationError if they are others than asked for."""
        self.close()
        source: Source = b"".join(self._chunks) if self._to is None else self._partial()
        digests, _ = digests_of(source)
        if (digests.sm3 if self._wanted.algorithm is Algorithm.SM3 else digests.sha256) != self._wanted.value:
            self._discard()
            raise VerificationError(f"original has another digest than asked for: expected {str(self._wanted)[:15]}…")
        if isinstance(source, bytes):
            return source
        source.replace(self._to or source)
        return b""


class Talk:
    """Every method of the clients, as steps. Holds what a client learned: the log's keys and its newest head."""

    def __init__(self, *, keys: Iterable[str | VerifierKey], patience: Patience, randomness: Callable[[int], bytes]) -> None:
        self.keys: tuple[VerifierKey, ...] = tuple(VerifierKey.parse(key) if isinstance(key, str) else key for key in keys)
        self.patience = patience
        self.randomness = randomness
        self.head: Checkpoint | None = None
        self._templates: dict[str, Template] = {}

    # --- plain calls ------------------------------------------------------------------------------------------

    def call(self, call: Call) -> Steps[Answer]:
        """The answer to one call, below 400, repeated as far as that is harmless."""
        return (yield from exchange(call, self.patience))

    def get(self, path: str, params: Mapping[str, str | int | None] | None = None) -> Steps[dict[str, JSONValue]]:
        """The object that a GET answers."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        return object_of((yield from self.call(Call("GET", path, given))))

    def post(
        self, path: str, value: JSONValue, *, repeatable: bool = True, timeout_s: float | None = None
    ) -> Steps[dict[str, JSONValue]]:
        """The object that a POST of JSON answers."""
        return object_of((yield from self.call(Call("POST", path, json=value, repeatable=repeatable, timeout_s=timeout_s))))

    # --- what the service is ----------------------------------------------------------------------------------

    def log_keys(self) -> Steps[tuple[VerifierKey, ...]]:
        """The keys that promises are judged by: those given, else those the service showed first, for good."""
        if not self.keys:
            service = yield from self.get("/v1/service")
            found = tuple(_vkeys(service.get("keys")))
            if not found:
                raise Undecided("service shows no key of its log", hint="give the client the log's vkey from a trust file")
            self.keys = found
        return self.keys

    def template(self, name: str) -> Steps[Template]:
        """The template of that name: built in, else the service's."""
        if name in builtin_names():
            return builtin(name)
        if name not in self._templates:
            answer = yield from self.call(Call("GET", f"/v1/templates/{quote(name, safe='@')}"))
            self._templates[name] = Template.parse(answer.body)
        return self._templates[name]

    def templates(self) -> Steps[JSONValue]:
        """The templates that the service takes."""
        return json_of((yield from self.call(Call("GET", "/v1/templates"))))

    # --- items ------------------------------------------------------------------------------------------------

    def item(self, evidence_id: str) -> Steps[dict[str, JSONValue]]:
        """One item."""
        return (yield from self.get(f"/v1/evidence/{quote(evidence_id, safe='')}"))

    def transaction(self, link_code: str) -> Steps[dict[str, JSONValue]]:
        """The parts of a link."""
        return (yield from self.get(f"/v1/transactions/{quote(link_code, safe='')}"))

    def nodes(self, evidence_id: str) -> Steps[dict[str, JSONValue]]:
        """Every node's own answer."""
        return (yield from self.get(f"/v1/evidence/{quote(evidence_id, safe='')}/nodes"))

    def issuance(self, issuance_id: str) -> Steps[dict[str, JSONValue]]:
        """The state of an issue."""
        return (yield from self.get(f"/v1/issuances/{quote(issuance_id, safe='')}"))

    def account(self) -> Steps[dict[str, JSONValue]]:
        """Who the token is: account, roles, subject, and the log's origin."""
        return (yield from self.get("/v1/access/self"))

    # --- preserving -------------------------------------------------------------------------------------------

    def prepared(self, submission: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
        """The submission with a secret of our own, so that what proves it does not rest on the service keeping it."""
        body = dict(submission)
        if "sealed" not in body and "secret" not in body:
            body["secret"] = b64(self.randomness(SECRET_BYTES))
        return body

    def accept(self, answer: JSONValue, body: Mapping[str, JSONValue], *, created: bool) -> Steps[Promise]:
        """The promise in an answer, checked: signature, inclusion, content."""
        keys = yield from self.log_keys()
        promise = check_promise(answer, keys=keys, created=created)
        name = str(body.get("template"))
        template = (yield from self.template(name)) if "sealed" not in body else None
        sent = body.get("secret")
        secret = unb64(sent, size=SECRET_BYTES, what="secret") if isinstance(sent, str) else None

        def named(_: str) -> Template:
            if template is None:
                raise Undecided("template of a sealed submission is not needed")
            return template

        check_content(promise, body, template=named, secret=secret)
        if promise.secret is None and secret is not None and "sealed" not in body:
            promise = replace(promise, secret=secret)
        self.see(promise.checkpoint)
        return promise

    def preserve(self, submission: Mapping[str, JSONValue], *, wait: str | None, timeout_s: float) -> Steps[Promise]:
        """A checked promise for one submission; final if `wait` says so."""
        body = self.prepared(submission)
        answer = yield from self.call(Call("POST", "/v1/evidence", json=body))
        promise = yield from self.accept(object_of(answer), body, created=answer.status == 201)
        if wait == FINAL and promise.state != FINAL:
            item = yield from self.wait(promise.evidence_id, timeout_s)
            return replace(promise, state=str(item.get("state")))
        return promise

    def preserve_many(self, submissions: Sequence[Mapping[str, JSONValue]]) -> Steps[list[Promise | EvidenceError]]:
        """A checked promise, or the error, for each submission."""
        results: list[Promise | EvidenceError] = []
        for start in range(0, len(submissions), MAX_BATCH):
            bodies = [self.prepared(submission) for submission in submissions[start : start + MAX_BATCH]]
            answer = yield from self.post("/v1/evidence:batch", {"submissions": bodies})
            listed = answer.get("results")
            if not isinstance(listed, list) or len(listed) != len(bodies):
                raise Unreachable("answer is not what this service sends: expected one result for each submission")
            for body, result in zip(bodies, listed, strict=True):
                results.append((yield from self._one_of_many(result, body)))
        return results

    def _one_of_many(self, result: JSONValue, body: Mapping[str, JSONValue]) -> Steps[Promise | EvidenceError]:
        status = result.get("status") if isinstance(result, dict) else None
        if not isinstance(status, int):
            raise Unreachable("answer is not what this service sends: expected a status for each submission")
        if status >= 400:
            return error_of(status, result.get("problem"))
        try:
            return (yield from self.accept(result, body, created=status == 201))
        except (VerificationError, Malformed, Undecided) as error:
            return error

    def wait(self, evidence_id: str, timeout_s: float) -> Steps[dict[str, JSONValue]]:
        """The item once it is final. Raises: NotFinal after `timeout_s`."""
        waited, delay = 0.0, POLL_S[0]
        while True:
            item = yield from self.get(f"/v1/evidence/{quote(evidence_id)}")
            if item.get("state") == FINAL:
                return item
            if waited >= timeout_s:
                raise NotFinal(f"item is not final yet after {timeout_s:g} s: its state is {item.get('state')}")
            pause = min(delay, timeout_s - waited)
            yield Pause(pause)
            waited += pause
            delay = min(1.5 * delay, POLL_S[1])

    # --- proofs and contents ----------------------------------------------------------------------------------

    def bundle(self, evidence_id: str, disclose: Collection[str] | None, kind: str) -> Steps[bytes]:
        """The item's bundle."""
        params = {} if disclose is None else {"disclose": ",".join(disclose)}
        if kind != "item":
            params["kind"] = kind
        path = f"/v1/evidence/{quote(evidence_id, safe='')}/bundle"
        return (yield from self.call(Call("GET", path, params, limit=MAX_BUNDLE_BYTES, timeout_s=LONG_S))).body

    def issue(self, request: Mapping[str, JSONValue]) -> Steps[dict[str, JSONValue]]:
        """出证 as an act; not repeated by itself, because each is one."""
        return (yield from self.post("/v1/issuances", dict(request), repeatable=False, timeout_s=LONG_S))

    def upload(self, source: Source, digest: Digest | None) -> Steps[Digest]:
        """The original is held under its digest."""
        if digest is None:
            digest = Digest(Algorithm.SM3, digests_of(source)[0].sm3)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        headers = {"content-type": "application/octet-stream", "content-length": str(size)}
        yield from self.call(
            Call("PUT", f"/v1/originals/{digest}", body=lambda: chunks_of(source), headers=headers, timeout_s=TRANSFER_S)
        )
        return digest

    def original(self, digest: Digest, to: Path | None) -> Steps[bytes]:
        """The original, checked against its digest."""
        received = _Received(digest, to)
        try:
            yield from self.call(Call("GET", f"/v1/originals/{digest}", sink=received.open, timeout_s=TRANSFER_S))
            return received.finish()
        finally:
            received.close()

    def verify(self, bundle: bytes, trust: bytes | None, originals: Sequence[bytes]) -> Steps[dict[str, JSONValue]]:
        """The service's own verification of a bundle."""
        parts = [("bundle", "bundle.cz", bundle), *(("original", "original", each) for each in originals)]
        if trust is not None:
            parts.append(("trust", "trust.toml", trust))
        boundary = self.randomness(16).hex()
        pieces: list[bytes] = []
        for name, file_name, data in parts:
            head = f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"; filename="{file_name}"\r\n'
            pieces += [f"{head}content-type: application/octet-stream\r\n\r\n".encode(), data, b"\r\n"]
        pieces.append(f"--{boundary}--\r\n".encode())
        headers = {"content-type": f"multipart/form-data; boundary={boundary}", "content-length": str(sum(map(len, pieces)))}
        return object_of(
            (yield from self.call(Call("POST", "/v1/verify", body=lambda: pieces, headers=headers, timeout_s=LONG_S)))
        )

    # --- the log ----------------------------------------------------------------------------------------------

    def see(self, note: Note) -> None:
        """Remember the newest head.

        Raises: VerificationError if two signed heads of one size have different roots: the log forked.
        """
        head, known = note.checkpoint(), self.head
        if known is None or known.origin != head.origin or known.size < head.size:
            self.head = head
        elif known.size == head.size and known.root != head.root:
            raise VerificationError(
                f"log forked: two roots of one size are signed (size {head.size})", hint="keep both notes: they are the proof"
            )

    def checkpoint(self, tree: Algorithm) -> Steps[Note]:
        """The newest checkpoint, signed by a known key; for SM3 also a continuation of every head seen before."""
        prefix = "/v1/log" if tree is Algorithm.SM3 else "/v1/log/sha256"
        answer = yield from self.call(Call("GET", f"{prefix}/checkpoint"))
        note = Note.parse(answer.body)
        keys = yield from self.log_keys()
        known = [key for key in keys if key.type == COSIGNATURE_TYPE]
        lines = [(line, key) for line in note.lines for key in known if (line.name, line.key_id) == (key.name, key.key_id)]
        if not lines:
            raise VerificationError("checkpoint is signed by no known key of the log")
        for line, key in lines:
            verify_cosignature(note.text, line, key)
        if tree is Algorithm.SM3:
            yield from self._extends(note.checkpoint())
            self.see(note)
        return note

    def _extends(self, head: Checkpoint) -> Steps[None]:
        known = self.head
        if known is None or known.origin != head.origin or not 0 < known.size < head.size:
            return
        path = yield from self.consistency(known.size, head.size, Algorithm.SM3)
        verify_consistency(known.size, head.size, path, known.root, head.root)

    def consistency(self, old: int, new: int, tree: Algorithm) -> Steps[list[bytes]]:
        """The proof between two sizes."""
        prefix = "/v1/log" if tree is Algorithm.SM3 else "/v1/log/sha256"
        answer = yield from self.get(f"{prefix}/consistency", {"from": old, "to": new})
        return _hashes(answer)

    def inclusion(self, leaf_index: int, tree_size: int, tree: Algorithm) -> Steps[list[bytes]]:
        """The path of a leaf."""
        prefix = "/v1/log" if tree is Algorithm.SM3 else "/v1/log/sha256"
        answer = yield from self.get(f"{prefix}/inclusion", {"leaf_index": leaf_index, "tree_size": tree_size})
        return _hashes(answer)

    # --- the chains -------------------------------------------------------------------------------------------

    def chains(self) -> Steps[JSONValue]:
        """Every chain with its nodes."""
        return json_of((yield from self.call(Call("GET", "/v1/chains"))))

    def blocks(self, chain: str, node: int, start: int | None, limit: int | None) -> Steps[dict[str, JSONValue]]:
        """Blocks as one node tells them."""
        return (yield from self.get(f"/v1/chains/{quote(chain)}/nodes/{node}/blocks", {"from": start, "limit": limit}))

    def block(self, chain: str, node: int, height: int) -> Steps[dict[str, JSONValue]]:
        """One block as one node tells it."""
        return (yield from self.get(f"/v1/chains/{quote(chain)}/nodes/{node}/blocks/{height}"))

    def chain_transaction(self, chain: str, node: int, tx_id: str) -> Steps[dict[str, JSONValue]]:
        """One transaction as one node tells it."""
        return (yield from self.get(f"/v1/chains/{quote(chain)}/nodes/{node}/tx/{quote(tx_id, safe='')}"))


def _hashes(answer: Mapping[str, JSONValue]) -> list[bytes]:
    path = answer.get("path")
    if not isinstance(path, list):
        raise Unreachable("answer is not what this service sends: expected a path")
    return [unb64(node, size=32, what="hash of a path") for node in path]


def _vkeys(listed: JSONValue) -> list[VerifierKey]:
    """The keys in what the service says of itself: texts, or objects with a vkey, in any nesting."""
    if isinstance(listed, str):
        try:
            key = VerifierKey.parse(listed)
        except EvidenceError:
            return []
        return [key] if key.type == COSIGNATURE_TYPE else []
    members = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else []
    return [key for member in members for key in _vkeys(member)]
