"""The checks a promise passes before anyone relies on it. Pure: an answer, what was sent, and keys in; a promise out.

A promise is E, its place in the log, and a checkpoint of the log that its key signed. Who holds it
can show later that the service accepted exactly this content by then, whatever the service says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from models.canonical import JSONValue, b64, format_time, parse_time, unb64
from models.checkpoint import Note, VerifierKey, verify_cosignature
from models.commitment import SECRET_BYTES, check_secret, commit
from models.errors import Malformed, Undecided, VerificationError
from models.evidence import Evidence, EvidenceId, Link, Statement
from models.merkle import leaf_hash, verify_inclusion
from models.template import Template

FORMAT = "cz-promise/1"


@dataclass(frozen=True, slots=True)
class Promise:
    """A checked promise: this content stands at this leaf of this log, and will be on chain by then.

    `secret` opens the item: with it and the content alone anyone can rebuild every leaf, so it is kept
    like the content itself. `created` is false where the service had the item already.
    """

    evidence_id: EvidenceId
    leaf_index: int
    state: str
    evidence: Evidence
    checkpoint: Note
    inclusion_proof: tuple[bytes, ...]
    on_chain_by: datetime
    secret: bytes | None = field(repr=False)
    created: bool = True

    @property
    def package_hash(self) -> str:
        """Hex SM3(E), the standard's PackageHash."""
        return self.evidence.package_hash.hex()

    def to_json(self) -> dict[str, JSONValue]:
        """The promise as a document to keep: with it and the content we can be held to it without us.

        Source: formats §2.1 (content + secret + E + proof survive us).
        """
        value: dict[str, JSONValue] = {
            "format": FORMAT,
            "evidence_id": self.evidence_id,
            "leaf_index": self.leaf_index,
            "state": self.state,
            "package_hash": self.package_hash,
            "evidence": self.evidence.data.decode(),
            "promise": {
                "checkpoint": self.checkpoint.data,
                "inclusion_proof": [b64(node) for node in self.inclusion_proof],
                "on_chain_by": format_time(self.on_chain_by),
            },
        }
        if self.secret is not None:
            value["secret"] = b64(self.secret)
        return value


def _member(answer: Mapping[str, JSONValue], name: str, kind: type | tuple[type, ...]) -> JSONValue:
    value = answer.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Malformed(f"promise lacks a member or has it in another form: {name}")
    return value


def _signed_by(note: Note, keys: Sequence[VerifierKey]) -> int:
    """The T of the least line of a known key; every line of a known key must verify."""
    times = []
    for line in note.lines:
        for key in keys:
            if (line.name, line.key_id) == (key.name, key.key_id):
                verify_cosignature(note.text, line, key)
                times.append(line.time)
    if not times:
        raise VerificationError(
            "promise is signed by no known key of the log", hint="has the log's key changed? compare it with a trust file"
        )
    return min(times)


def check_promise(answer: JSONValue, *, keys: Sequence[VerifierKey], created: bool = True) -> Promise:
    """The promise in `answer`, whose parts fit together and whose checkpoint a key of `keys` signed.

    Raises: Malformed if the answer has another form; Unknown for other versions; VerificationError if a digest, the
        signature, the inclusion or a time does not hold.
    Source: formats §2.4, §2.5, §3.3; RFC 9162 §2.1.3.2.
    """
    if not isinstance(answer, dict):
        raise Malformed("promise is not an object")
    evidence = Evidence.parse(_member(answer, "evidence", str).encode())
    terms = _member(answer, "promise", dict)
    if answer.get("evidence_id") != evidence.evidence_id:
        raise VerificationError("promise names another evidence id than its statement gives")
    if answer.get("package_hash") != evidence.package_hash.hex():
        raise VerificationError("promise names another package hash than its evidence gives")
    note = Note.parse(_member(terms, "checkpoint", str))
    head = note.checkpoint()
    if head.origin != evidence.statement.log:
        raise VerificationError("promise stands in another log than its statement names")
    signed_at = datetime.fromtimestamp(_signed_by(note, [key for key in keys if key.name == head.origin]), UTC)
    if signed_at < evidence.created_at:
        raise VerificationError("checkpoint was signed before the evidence it holds was made")
    index = _member(answer, "leaf_index", int)
    path = tuple(unb64(node, size=32, what="hash of the inclusion proof") for node in _member(terms, "inclusion_proof", list))
    verify_inclusion(leaf_hash(evidence.entry), index, head.size, path, head.root)
    on_chain_by = parse_time(terms.get("on_chain_by"), what="on_chain_by")
    if on_chain_by != evidence.on_chain_by:
        raise VerificationError("promise names another deadline than its evidence")
    sent_secret = answer.get("secret")
    secret = None if sent_secret is None else unb64(sent_secret, size=SECRET_BYTES, what="secret")
    return Promise(
        evidence.evidence_id, index, str(answer.get("state", "promised")), evidence, note, path, on_chain_by, secret, created
    )


def link_of(value: JSONValue) -> Link | None:
    """The link that a submission states. Raises: Malformed."""
    if value is None:
        return None
    if not isinstance(value, dict) or not {"code"} <= set(value) <= {"code", "follows", "closes"}:
        raise Malformed("link has wrong members: expected code and perhaps follows and closes")
    return Link.from_json({"closes": value.get("closes", False), "code": value["code"], "follows": value.get("follows")})


def statement_of(
    submission: Mapping[str, JSONValue], template: Template, *, secret: bytes, log: str, submitter: str, subject: tuple[str, str]
) -> Statement:
    """The statement that `submission` gives under `secret`, for that log, account and subject.

    Raises: Malformed if the submission has another form.
    Source: formats §2.2, §2.3.
    """
    stages = submission.get("stages")
    if not isinstance(stages, dict):
        raise Malformed("submission has no stages: expected an object")
    client_key = str(submission.get("client_key"))
    made = commit(template, stages, secret=secret, log=log, submitter=submitter, client_key=client_key)
    return Statement.build(
        client_key=client_key,
        link=link_of(submission.get("link")),
        log=log,
        occurred_at=None if submission.get("occurred_at") is None else parse_time(submission["occurred_at"], what="occurred_at"),
        stages=[(stage.name, stage.pair) for stage in made],
        subject=subject,
        submitter=submitter,
        template=(template.name, template.pair),
    )


def check_content(
    promise: Promise, submission: Mapping[str, JSONValue], *, template: Callable[[str], Template], secret: bytes | None
) -> None:
    """The promise is about what was sent: the statement rebuilt from `submission` has the promise's evidence id.

    `secret` is the one that was sent, used where the promise returned none; `template` finds a template by name.
    Raises: VerificationError if the promise is about other content; Undecided if no secret is at hand; Malformed.
    Source: formats §2.3, §2.6.
    """
    said = promise.evidence.statement
    sealed = submission.get("sealed")
    if isinstance(sealed, dict):
        if sealed.get("statement") != said.data.decode():
            raise VerificationError("promise is about another statement than was sent")
        return
    opened = promise.secret or secret
    if opened is None:
        raise Undecided("promise cannot be compared with what was sent: the service returned no secret")
    check_secret(opened)
    found = template(str(submission.get("template")))
    subject = (said.subject_id, said.subject_name)
    rebuilt = statement_of(submission, found, secret=opened, log=said.log, submitter=said.submitter, subject=subject)
    if rebuilt.data != said.data:
        if promise.secret is None and not promise.created:
            # The item stood already, and the service gives back no secret of what was signed: ours may be a later one.
            raise Undecided(
                "promise cannot be compared with what was sent: the item stands under the secret that was sent first",
                hint="send the secret of the first promise again",
            )
        raise VerificationError("promise is about other content than was sent: the rebuilt statement differs")


def parse_promise(data: JSONValue, *, keys: Sequence[VerifierKey]) -> Promise:
    """The kept promise in a document that `to_json` wrote, checked again. Raises: as `check_promise`."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise Malformed(f"document is no promise: expected format {FORMAT}")
    return check_promise(data, keys=keys)
