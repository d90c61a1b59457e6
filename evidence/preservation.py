"""preserve(submissions) → Evidence and promise: the service's one way in (T/SAC 004—2024 6.4.2, 6.4.3).

Everything that can be decided without the log is decided first: template, commitment, signature,
encryption. The log then seals what is left, many items in one commit. One bad item refuses only
itself, and nothing of a refused item is kept but, where its client key stood for something else, a
conflict record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from evidence import store as rows
from evidence.access import Caller, Role
from evidence.archive import Archive
from evidence.batch import Existing, Outcome, Pending, Sealed, idempotency_key
from evidence.blind import item_tags
from evidence.content import content_key, seal_content
from evidence.contents import Contents
from evidence.errors import Conflict, Forbidden, TooLarge
from evidence.keys import FindKey
from evidence.log import Log
from evidence.signing import Signing
from evidence.store import Store
from evidence.submission import Submission, content_of
from evidence.times import beijing_time
from models import template as templates
from models.anchor import item_record
from models.canonical import JSONValue, b64, canonical, format_time
from models.commitment import StageCommitment, commit
from models.digest import sm3
from models.errors import EvidenceError, Invalid, Problem, Unknown
from models.evidence import Evidence, EvidenceId, Signature, Statement
from models.opaque import check_opaque
from models.template import Commitment, Template, personal_values

CONFLICT_TEMPLATE = "conflict@1"
CONFLICTS_PER_KEY = 8
DIGEST_BYTES = 16
PAYLOAD_MARGIN_BYTES = 4096
_YIELD_EVERY = 8


@dataclass(frozen=True, slots=True)
class Preserved:
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


@dataclass(frozen=True, slots=True)
class Intake:
    """What intake needs to know of the service: its log, its own account, its limits."""

    origin: str
    subject: tuple[str, str]
    service_account: str
    promise_s: int
    max_payload_bytes: Callable[[], int]
    state_of: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class _Prepared:
    submission: Submission
    template: Template
    statement: Statement
    signature: Signature | None
    secret: bytes | None
    pending: Pending


class Preservation:
    """Accepts submissions. Safe for concurrent calls of one event loop."""

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        contents: Contents,
        archive: Archive,
        signing: Signing,
        find_key: FindKey,
        intake: Intake,
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._log, self._store, self._contents, self._archive = log, store, contents, archive
        self._signing, self._find_key, self._intake = signing, find_key, intake
        self._clock, self._randomness = clock, randomness

    async def preserve(self, bodies: Sequence[JSONValue], caller: Caller, *, request_id: str) -> list[Preserved | EvidenceError]:
        """Every body has its answer, in order: preserved, standing already, or the error that refuses it.

        Shapes: n parsed JSON bodies → n answers; accepted ones are flushed to disk.
        Raises: Unready, OutcomeOpen, HomeRefused for the call as a whole; Forbidden if the caller may not preserve.
        Source: T/SAC 004—2024 6.4.2-a…f, 6.4.3; formats §2.
        """
        if Role.BUSINESS not in caller.roles:
            raise Forbidden("role may not preserve: expected business")
        self._log.check_open()
        answers: list[Preserved | EvidenceError | None] = [None] * len(bodies)
        ready: list[tuple[int, _Prepared]] = []
        for place, body in enumerate(bodies):
            if place and place % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            try:
                ready.append((place, self._prepare(body, caller, request_id)))
            except EvidenceError as error:
                answers[place] = error
        outcomes = await self._log.append([prepared.pending for _, prepared in ready]) if ready else []
        for (place, prepared), outcome in zip(ready, outcomes, strict=True):
            answers[place] = await self._answer(prepared, outcome, request_id)
        return [answer for answer in answers if answer is not None]

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

    # --- before the log ---------------------------------------------------------------------------------------

    def _prepare(self, body: JSONValue, caller: Caller, request_id: str) -> _Prepared:
        submission = Submission.parse(body)
        template = self._template(submission.template, caller)
        if submission.sealed is not None:
            return self._prepare_sealed(submission, template, submission.sealed, caller, request_id)
        stages = submission.stages or {}
        self._check(submission, template, stages)
        secret = submission.secret or self._randomness(32)
        statement, commitments = self._statement(submission, template, secret, caller)
        signature = self._accept(statement, submission.signature, caller)
        identity = statement.evidence_id
        claims = self._claims(submission, secret, identity, caller)
        pending = Pending(
            statement,
            template.commitment.value,
            signature,
            "platform",
            self._intake.promise_s,
            caller.account,
            request_id,
            secret,
            seal_content(secret, identity, content_of(submission), randomness=self._randomness),
            item_tags(self._find_key, template, stages, None if submission.link is None else submission.link.code),
            claims,
        )
        self._check_size(template, commitments)
        return _Prepared(submission, template, statement, signature, secret, pending)

    def _template(self, name: str, caller: Caller) -> Template:
        try:
            template = templates.builtin(name)
        except Unknown as error:
            known = ", ".join(templates.builtin_names())
            problem = Problem("/template", "template", "模板", f"one of {known}", f"text of {len(name)} characters", "6.4.2-a")
            raise Invalid("template is unknown", (problem,)) from error
        own = {CONFLICT_TEMPLATE, "issue@1", "log-key@1", "log-close@1", "erasure@1"}
        if name in own and caller.account != self._intake.service_account:
            raise Forbidden(f"template is kept for the service itself: {name}")
        return template

    def _check(self, submission: Submission, template: Template, stages: dict[str, dict[str, JSONValue]] | JSONValue) -> None:
        """All problems of content, keys and originals at once."""
        problems: list[Problem] = []
        code = None if submission.link is None else submission.link.code
        try:
            template.validate(stages, link_code=code)
        except Invalid as error:
            problems.extend(error.problems)
        personal = personal_values(template, stages) if not problems else ()
        problems.extend(check_opaque(submission.client_key, "/client_key", "client_key", values=personal))
        if code is not None:
            problems.extend(check_opaque(code, "/link/code", "code", values=personal))
        problems.extend(_unnamed_originals(submission, stages))
        if problems:
            count = len(problems)
            raise Invalid(
                f"submission breaks its template: {count} problem{'s' if count > 1 else ''} (template {template.name})",
                tuple(problems),
            )

    def _statement(
        self, submission: Submission, template: Template, secret: bytes, caller: Caller
    ) -> tuple[Statement, tuple[StageCommitment, ...]]:
        commitments = commit(
            template,
            submission.stages or {},
            secret=secret,
            log=self._intake.origin,
            submitter=caller.account,
            client_key=submission.client_key,
        )
        statement = Statement.build(
            client_key=submission.client_key,
            link=submission.link,
            log=self._intake.origin,
            occurred_at=submission.occurred_at,
            stages=[(stage.name, stage.pair) for stage in commitments],
            subject=(caller.subject_id, caller.subject_name),
            submitter=caller.account,
            template=(template.name, template.pair),
        )
        return statement, commitments

    def _accept(self, statement: Statement, signature: JSONValue, caller: Caller) -> Signature | None:
        if signature is None:
            return None
        return self._signing.accept(statement.data, signature, account=caller.account, at=self._clock())

    def _claims(
        self, submission: Submission, secret: bytes, identity: EvidenceId, caller: Caller
    ) -> Callable[[Connection, bytes], None] | None:
        if not submission.originals:
            return None
        key = content_key(secret, identity)
        digests = [original.digest for original in submission.originals]

        def claim(connection: Connection, item: bytes) -> None:
            for digest in digests:
                self._archive.claim(connection, digest, item, key, account=caller.account)

        return claim

    def _check_size(self, template: Template, commitments: Sequence[StageCommitment]) -> None:
        """An item whose own record would not fit into one transaction of a chain is refused here, not later (formats §2.9)."""
        if template.commitment is Commitment.MERKLE:
            return
        plain = template.commitment is Commitment.PLAINTEXT
        now = self._clock()
        record = item_record(
            biz_name=template.biz_name,
            stages=[(s.name, s.pair.sm3.hex(), [leaf.decode() for leaf in s.leaves] if plain else None) for s in commitments],
            created_at=now,
            package_hash=bytes(32),
            upload_time=now,
        )
        size, limit = len(canonical(record)), self._intake.max_payload_bytes() - PAYLOAD_MARGIN_BYTES
        if size > limit:
            raise TooLarge(
                f"the item's record is too long for a transaction of the chain: expected at most {limit} bytes, got {size}"
            )

    def _prepare_sealed(
        self, submission: Submission, template: Template, statement: Statement, caller: Caller, request_id: str
    ) -> _Prepared:
        """Form only: contents stay at the submitter's, and report and verifier say so (formats §2.5 validated_by)."""
        problems = [
            Problem(f"/sealed/statement/{name}", "sealed", "密封声明", expected, "another value", "6.4.2-a")
            for name, expected, holds in (
                ("log", f"this log: {self._intake.origin}", statement.log == self._intake.origin),
                ("submitter", "the account of the token", statement.submitter == caller.account),
                (
                    "subject",
                    "the subject of the token",
                    (statement.subject_id, statement.subject_name) == (caller.subject_id, caller.subject_name),
                ),
                ("template", "the digests of the template's bytes here", statement.template_pair == template.pair),
                ("stages", "stages of the template, in its order, none required left out", _stages_fit(statement, template)),
                ("template", "a template that is not committed as plaintext", template.commitment is not Commitment.PLAINTEXT),
            )
            if not holds
        ]
        problems += check_opaque(statement.client_key, "/client_key", "client_key")
        if statement.link is not None:
            problems += check_opaque(statement.link.code, "/link/code", "code")
        if problems:
            raise Invalid(f"sealed submission has {len(problems)} problem{'s' if len(problems) > 1 else ''}", tuple(problems))
        signature = self._accept(statement, submission.signature, caller)
        tags = [] if statement.link is None else [self._find_key.tag("link", statement.link.code)]
        pending = Pending(
            statement,
            template.commitment.value,
            signature,
            "submitter",
            self._intake.promise_s,
            caller.account,
            request_id,
            tags=tags,
        )
        return _Prepared(submission, template, statement, signature, None, pending)

    # --- after the log ----------------------------------------------------------------------------------------

    async def _answer(self, prepared: _Prepared, outcome: Outcome, request_id: str) -> Preserved | EvidenceError:
        if isinstance(outcome, EvidenceError):
            return outcome
        if isinstance(outcome, Sealed):
            evidence = outcome.evidence
            secret = prepared.secret if prepared.submission.secret is None else None
            state = self._intake.state_of(outcome.leaf_index)
            return Preserved(
                evidence.evidence_id,
                outcome.leaf_index,
                state,
                evidence.package_hash,
                evidence.data,
                secret,
                True,
                outcome.note,
                outcome.path,
                outcome.size,
                evidence.on_chain_by,
            )
        try:
            return await self._again(prepared, outcome, request_id)
        except EvidenceError as error:
            return error

    async def _again(self, prepared: _Prepared, outcome: Existing, request_id: str) -> Preserved:
        """The client key is taken: by the same submission, by another, or by one since erased (formats §2.6)."""
        row, evidence = await asyncio.to_thread(self._contents.evidence, outcome.leaf_index)
        secret = await asyncio.to_thread(self._contents.secret, row)
        rebuilt = self._rebuild(prepared, evidence, secret)
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

    def _rebuild(self, prepared: _Prepared, stored: Evidence, secret: bytes | None) -> Statement | None:
        """S made anew from the new body with the *stored* secret; None where no secret is held to make it with."""
        if prepared.submission.sealed is not None:
            return prepared.statement
        secret = secret or prepared.submission.secret
        if secret is None:
            return None
        statement = stored.statement
        commitments = commit(
            prepared.template,
            prepared.submission.stages or {},
            secret=secret,
            log=statement.log,
            submitter=statement.submitter,
            client_key=statement.client_key,
        )
        made = prepared.statement
        return Statement.build(
            client_key=made.client_key,
            link=made.link,
            log=made.log,
            occurred_at=made.occurred_at,
            stages=[(stage.name, stage.pair) for stage in commitments],
            subject=(made.subject_id, made.subject_name),
            submitter=made.submitter,
            template=(made.template_name, made.template_pair),
        )

    async def _conflict(self, prepared: _Prepared, first: Evidence, rebuilt: Statement | None, request_id: str) -> Conflict:
        """The error for one client key with two contents, its record preserved (formats §2.7).

        The refused S′ stands in the record under a fresh secret where it was not signed: under the
        first item's salts, one disclosed field would betray its changed twin.
        """
        refused = prepared.statement
        name = refused if prepared.signature is not None or rebuilt is None else rebuilt
        digest = sm3(name.data)[:DIGEST_BYTES]
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
        self, prepared: _Prepared, first: Evidence, key: bytes, digest: bytes, request_id: str
    ) -> EvidenceId:
        account = self._intake.service_account
        caller = Caller(account, frozenset({Role.BUSINESS}), *self._intake.subject)
        signature = prepared.signature
        refused = prepared.statement
        if signature is None:
            refused = self._rebuild(prepared, first, self._randomness(32)) or refused
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
        made = self._prepare(body, caller, request_id)
        made = replace(made, pending=replace(made.pending, refused=(key, digest)))
        (outcome,) = await self._log.append([made.pending])
        if isinstance(outcome, EvidenceError):
            raise outcome
        if isinstance(outcome, Existing):
            _, record = await asyncio.to_thread(self._contents.evidence, outcome.leaf_index)
            return record.evidence_id
        return outcome.evidence.evidence_id


def _stages_fit(statement: Statement, template: Template) -> bool:
    names = [name for name, _ in statement.stages]
    order = [stage.name for stage in template.stages]
    needed = {stage.name for stage in template.stages if stage.required}
    return names == [name for name in order if name in set(names)] and needed <= set(names)


def _unnamed_originals(submission: Submission, stages: JSONValue) -> list[Problem]:
    """Each original must be named by a field whose value has that digest (formats §2.2)."""
    named: set[tuple[str, str]] = set()
    for values in stages.values():
        for field, value in values.items():
            if isinstance(value, dict) and isinstance(value.get("digest"), str):
                named.add((field, value["digest"]))
                if isinstance(value.get("twin"), str):
                    named.add((field, value["twin"]))
    return [
        Problem(
            f"/originals/{place}",
            "originals",
            "原件",
            "the field and digest of a file in the stages",
            "one that no field names",
            "6.4.2-f",
        )
        for place, original in enumerate(submission.originals)
        if (original.field, original.digest) not in named
    ]
