"""preserve(submissions) → Evidence and promise: the service's one way in (T/SAC 004—2024 6.4.2, 6.4.3).

Everything that can be decided without the log is decided first: template, commitment, signature,
encryption. The log then seals what is left, many items in one commit. One bad item refuses only
itself, and nothing of a refused item is kept but, where its client key stood for something else, a
conflict record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring
from typing import NamedTuple

from evidence import store as rows
from evidence.access import Caller, Role
from evidence.assembly import Assembly
from evidence.batch import Existing, Sealed, idempotency_key
from evidence.contents import Contents
from evidence.errors import Conflict, Forbidden
from evidence.log import Log
from evidence.preparation import Intake, Preparation, Prepared
from evidence.store import Store
from evidence.times import beijing_time
from models.canonical import JSONValue, b64, b64_array, canonical, format_time
from models.errors import EvidenceError
from models.evidence import Evidence, EvidenceId, Statement

CONFLICT_TEMPLATE = "conflict@1"
CONFLICTS_PER_KEY = 8
_note_text = lru_cache(maxsize=8)(encode_basestring)
_format_time = lru_cache(maxsize=8)(format_time)


class Preserved(NamedTuple):
    """An accepted item and our promise: signed head, path, and the time until which it will be on the chain."""

    evidence_id: EvidenceId
    leaf_index: int
    state: str
    package_hash: bytes
    evidence: bytes
    secret: bytes | None
    created: bool
    checkpoint: str
    inclusion_proof: tuple[bytes, ...]
    tree_size: int
    on_chain_by: datetime

    def to_json(self) -> dict[str, JSONValue]:
        """The body of 201 and 200 (interface §3)."""
        value: dict[str, JSONValue] = {
            "evidence_id": self.evidence_id,
            "state": self.state,
            "leaf_index": self.leaf_index,
            "package_hash": self.package_hash.hex(),
            "evidence": self.evidence.decode(),
            "promise": {
                "checkpoint": self.checkpoint,
                "inclusion_proof": [b64(node) for node in self.inclusion_proof],
                "on_chain_by": format_time(self.on_chain_by),
            },
        }
        if self.secret is not None:
            value["secret"] = b64(self.secret)
        return value

    def to_bytes(self) -> bytes:
        """The same body as compact JSON in UTF-8, put together from parts: all answers of one commit share the checkpoint's."""
        head = (
            f'{{"evidence_id":"{self.evidence_id}","state":"{self.state}","leaf_index":{self.leaf_index},'
            f'"package_hash":"{self.package_hash.hex()}","evidence":"'
        )
        secret = "" if self.secret is None else f',"secret":"{b64(self.secret)}"'
        tail = (
            f'","promise":{{"checkpoint":{_note_text(self.checkpoint)},"inclusion_proof":{b64_array(self.inclusion_proof)},'
            f'"on_chain_by":"{_format_time(self.on_chain_by)}"}}{secret}}}'
        )
        # E is canonical, so that of what JSON escapes only these two can stand in it.
        evidence = self.evidence.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        return b"".join((head.encode(), evidence, tail.encode()))


class Preservation:
    """Accepts submissions. Safe for concurrent calls of one event loop."""

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        contents: Contents,
        preparation: Preparation,
        intake: Intake,
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._log, self._store, self._contents, self._preparation, self._intake = log, store, contents, preparation, intake
        self._clock, self._randomness = clock, randomness
        self._assembly = Assembly(preparation, log)

    async def preserve(self, bodies: Sequence[JSONValue], caller: Caller, *, request_id: str) -> list[Preserved | EvidenceError]:
        """Every body has its answer, in order: preserved, standing already, or the error that refuses it.

        Shapes: n parsed JSON bodies → n answers; accepted ones are flushed to disk.
        Raises: Unready, OutcomeOpen, HomeRefused for the call as a whole; Forbidden if the caller may not preserve.
        Source: T/SAC 004—2024 6.4.2-a…f, 6.4.3; formats §2.
        """
        if Role.BUSINESS not in caller.roles:
            raise Forbidden("role may not preserve: expected business")
        self._log.check_open()
        answers: list[Preserved | EvidenceError] = []
        for made in await self._assembly.seal(bodies, caller, request_id=request_id) if bodies else ():
            if isinstance(made, tuple):
                prepared, outcome = made
                if isinstance(outcome, Sealed):
                    answers.append(self._promised(prepared, outcome))
                else:
                    answers.append(await self._standing_or_refused(prepared, outcome, request_id))
            else:
                answers.append(made)
        return answers

    async def preserve_prepared(self, prepared: Prepared, *, request_id: str) -> Preserved:
        """An item that was made ready elsewhere is preserved, as `preserve` does: a declaration or a slice of a stream.

        Raises: what refuses it; Unready, OutcomeOpen, HomeRefused.
        """
        self._log.check_open()
        (outcome,) = await self._log.append([prepared.pending])
        if isinstance(outcome, Sealed):
            return self._promised(prepared, outcome)
        answer = await self._standing_or_refused(prepared, outcome, request_id)
        if isinstance(answer, EvidenceError):
            raise answer
        return answer

    async def preserve_own(self, body: JSONValue, *, request_id: str) -> Preserved:
        """An item of the service itself is preserved: conflict, issue, key change.

        Raises: what refuses it; a refusal of our own item is a fault of this program.
        """
        account = self._intake.service_account
        caller = Caller(account, frozenset({Role.BUSINESS}), *self._intake.subject)
        (answer,) = await self.preserve([body], caller, request_id=request_id)
        if isinstance(answer, EvidenceError):
            raise answer
        return answer

    # --- after the log ----------------------------------------------------------------------------------------

    def _promised(self, prepared: Prepared, sealed: Sealed) -> Preserved:
        evidence = sealed.evidence
        return Preserved(
            evidence.evidence_id,
            sealed.leaf_index,
            self._intake.state_of(sealed.leaf_index),
            evidence.package_hash,
            evidence.data,
            prepared.secret if prepared.submission.secret is None else None,
            True,
            sealed.note,
            sealed.path,
            sealed.size,
            evidence.on_chain_by,
        )

    async def _standing_or_refused(
        self, prepared: Prepared, outcome: Existing | EvidenceError, request_id: str
    ) -> Preserved | EvidenceError:
        if isinstance(outcome, EvidenceError):
            return outcome
        try:
            return await self._again(prepared, outcome, request_id)
        except EvidenceError as error:
            return error

    async def _again(self, prepared: Prepared, outcome: Existing, request_id: str) -> Preserved:
        """The client key is taken: by the same submission, by another, or by one since erased (formats §2.6)."""
        row, evidence = await asyncio.to_thread(self._contents.evidence, outcome.leaf_index)
        secret = await asyncio.to_thread(self._contents.secret, row, evidence)
        rebuilt = self._preparation.rebuild(prepared, evidence, secret)
        if rebuilt is not None and rebuilt.data == evidence.statement.data:
            return self.standing(row.leaf_index, evidence, secret if evidence.signature is None else None)
        raise await self._conflict(prepared, evidence, rebuilt, request_id)

    def standing(self, leaf_index: int, evidence: Evidence, secret: bytes | None) -> Preserved:
        """The present answer for an item that is in the log: state and promise as they are now."""
        state = self._log.state
        note = "" if state.checkpoint is None else state.checkpoint.note
        return Preserved(
            evidence.evidence_id,
            leaf_index,
            self._intake.state_of(leaf_index),
            evidence.package_hash,
            evidence.data,
            secret,
            False,
            note,
            tuple(state.sm3.inclusion_path(leaf_index)),
            state.size,
            evidence.on_chain_by,
        )

    async def _conflict(self, prepared: Prepared, first: Evidence, rebuilt: Statement | None, request_id: str) -> Conflict:
        """The error for one client key with two contents, its record preserved (formats §2.7).

        The refused S′ stands in the record under a fresh secret where it was not signed: under the
        first item's salts, one disclosed field would betray its changed twin.
        """
        refused = prepared.statement
        name = refused if prepared.signature is not None or rebuilt is None else rebuilt
        digest = self._preparation.refusal_tag(name)
        key = idempotency_key(refused.submitter, refused.client_key)
        known = await asyncio.to_thread(self._conflicts, key)
        message = "client_key already stands for other content of this submitter"
        hint = "use a fresh client_key for new content; the first item stands unchanged"
        if digest in known:
            _, record = await asyncio.to_thread(self._contents.evidence, known[digest])
            return Conflict(message, record_id=record.evidence_id, hint=hint)
        if len(known) >= CONFLICTS_PER_KEY:
            _, record = await asyncio.to_thread(self._contents.evidence, max(known.values()))
            return Conflict(
                f"{message}; {CONFLICTS_PER_KEY} conflicts are recorded and no more are", record_id=record.evidence_id, hint=hint
            )
        record_id = await self._record_conflict(prepared, first, key, digest, request_id)
        return Conflict(message, record_id=record_id, hint=hint)

    def _conflicts(self, key: bytes) -> dict[bytes, int]:
        with self._store.reading() as connection:
            return rows.conflicts_of(connection, key)

    async def _record_conflict(
        self, prepared: Prepared, first: Evidence, key: bytes, digest: bytes, request_id: str
    ) -> EvidenceId:
        account = self._intake.service_account
        caller = Caller(account, frozenset({Role.BUSINESS}), *self._intake.subject)
        signature = prepared.signature
        refused = prepared.statement
        if signature is None:
            refused = self._preparation.rebuild(prepared, first, self._randomness(32)) or refused
        fields: dict[str, JSONValue] = {
            "first_evidence_id": first.evidence_id,
            "refused_statement": refused.data.decode(),
            "refused_at": beijing_time(self._clock()),
        }
        if signature is not None:
            fields["refused_signature"] = canonical(signature.to_json()).decode()
        body = {
            "template": CONFLICT_TEMPLATE,
            "client_key": f"conflict-{key.hex()}-{digest.hex()}",
            "stages": {"冲突": fields},
        }
        made = self._preparation.prepare(body, caller, request_id)
        made = replace(made, pending=replace(made.pending, refused=(key, digest)))
        (outcome,) = await self._log.append([made.pending])
        if isinstance(outcome, EvidenceError):
            raise outcome
        if isinstance(outcome, Existing):
            _, record = await asyncio.to_thread(self._contents.evidence, outcome.leaf_index)
            return record.evidence_id
        return outcome.evidence.evidence_id
