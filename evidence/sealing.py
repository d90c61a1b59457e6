"""Sealed submissions: committed and signed at the submitter's, so that contents never leave him.

Pure. `seal` makes two documents: the sealed form, which is sent, and the opening, which is kept like
the contents themselves. `join` later puts fields of the opening into a bundle that was issued
without them. `signed` makes an ordinary submission, contents included, that carries a signature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from evidence.promise import statement_of
from models.bundle import pack, unpack
from models.canonical import JSONValue, b64, canonical, members, parse, unb64
from models.checkpoint import STATEMENT_TYPE, vkey
from models.commitment import SECRET_BYTES, check_secret, commit, disclose, verify_disclosure
from models.digest import pair
from models.errors import Malformed, VerificationError
from models.evidence import Evidence, Statement, stages_by_name
from models.names import check_format, check_name, check_origin
from models.opaque import check_opaque
from models.signature import Signer
from models.template import Template

FORMAT = "cz-opening/1"
MAX_OPENING_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Account:
    """For which log, account and subject a statement is made: they stand in S, so that nobody replays it elsewhere."""

    log: str
    submitter: str
    subject_id: str
    subject_name: str

    def check(self) -> None:
        """Raises: Malformed if a name has a wrong form."""
        check_origin(self.log)
        check_name(self.submitter, "submitter")
        check_name(self.subject_id, "subject id")


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a sealed item: its secret and its contents. Whoever holds it can show any field, and nobody else can."""

    evidence_id: str
    account: Account
    template: str
    client_key: str
    secret: bytes = field(repr=False)
    stages: Mapping[str, Mapping[str, JSONValue]] = field(repr=False)

    def to_bytes(self) -> bytes:
        """The opening as the canonical document to keep."""
        return canonical(
            {
                "client_key": self.client_key,
                "evidence_id": self.evidence_id,
                "format": FORMAT,
                "log": self.account.log,
                "secret": b64(self.secret),
                "stages": self.stages,
                "subject": {"id": self.account.subject_id, "name": self.account.subject_name},
                "submitter": self.account.submitter,
                "template": self.template,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Opening:
        """The opening that `data` is. Raises: Malformed; Unknown for another version."""
        value = parse(data, max_bytes=MAX_OPENING_BYTES)
        check_format(value, "cz-opening")
        client_key, evidence_id, _, log, secret, stages, subject, submitter, template = members(
            value, "client_key evidence_id format log secret stages subject submitter template", "opening"
        )
        subject_id, subject_name = members(subject, "id name", "subject of the opening")
        if not isinstance(stages, dict) or not all(isinstance(values, dict) for values in stages.values()):
            raise Malformed("stages of the opening have wrong form: expected an object of objects")
        opened = unb64(secret, size=SECRET_BYTES, what="secret of the opening")
        check_secret(opened)
        account = Account(log, submitter, subject_id, subject_name)
        account.check()
        return cls(str(evidence_id), account, str(template), str(client_key), opened, stages)


def _signature(statement: Statement, signer: Signer, certificate: bytes | None) -> dict[str, JSONValue]:
    value = {"encoding": "rs", "value": b64(signer.sign(statement.data))}
    if certificate is not None:
        return {"certificate": b64(certificate), **value}
    return {"key_id": vkey(statement.submitter, signer.public_key, STATEMENT_TYPE).key_id.hex(), **value}


def _stated(submission: Mapping[str, JSONValue], template: Template, account: Account, secret: bytes) -> Statement:
    account.check()
    check_secret(secret)
    check_name(submission.get("client_key"), "client_key")
    link = submission.get("link")
    code = link.get("code") if isinstance(link, dict) else None
    stages = submission.get("stages")
    template.validate(stages if isinstance(stages, dict) else {}, link_code=code)
    problems = check_opaque(str(submission.get("client_key")), "/client_key", "client_key")
    problems += check_opaque(str(code), "/link/code", "code") if code is not None else []
    if problems:
        raise Malformed("client_key or link code is not opaque: expected a text that says nothing of a person")
    subject = (account.subject_id, account.subject_name)
    return statement_of(submission, template, secret=secret, log=account.log, submitter=account.submitter, subject=subject)


def signed(
    submission: Mapping[str, JSONValue],
    template: Template,
    *,
    account: Account,
    secret: bytes,
    signer: Signer,
    certificate: bytes | None,
) -> dict[str, JSONValue]:
    """`submission` with the secret it was committed under and the submitter's signature over its statement.

    Shapes: `certificate` DER, or None where the key itself is registered for the account.
    Raises: Invalid, Malformed; SigningUnavailable.
    Source: formats §2.1, §2.3; T/SAC 004—2024 6.4.3-a.
    """
    statement = _stated(submission, template, account, secret)
    return dict(submission) | {"secret": b64(secret), "signature": _signature(statement, signer, certificate)}


def seal(
    submission: Mapping[str, JSONValue],
    template: Template,
    *,
    account: Account,
    secret: bytes,
    signer: Signer,
    certificate: bytes | None,
) -> tuple[dict[str, JSONValue], Opening]:
    """The sealed form of `submission`, to be sent, and its opening, to be kept.

    Raises: Invalid, Malformed; SigningUnavailable.
    Source: formats §2.5 (validated_by submitter).
    """
    statement = _stated(submission, template, account, secret)
    sealed: dict[str, JSONValue] = {
        "template": template.name,
        "client_key": statement.client_key,
        "sealed": {"statement": statement.data.decode()},
        "signature": _signature(statement, signer, certificate),
    }
    stages = {name: dict(values) for name, values in submission["stages"].items()}
    return sealed, Opening(statement.evidence_id, account, template.name, statement.client_key, secret, stages)


def wanted_fields(template: Template, names: Collection[str] | None) -> set[tuple[str, str]] | None:
    """The fields that `--disclose` names: `FIELD`, or `STAGE/FIELD` where several stages have it; None stays all.

    Raises: Malformed if a name is none of the template's, or several stages have it.
    """
    if names is None:
        return None
    found: set[tuple[str, str]] = set()
    for name in names:
        fits = [
            (stage.name, each.name)
            for stage in template.stages
            for each in stage.fields
            if name in (each.name, f"{stage.name}/{each.name}")
        ]
        if len(fits) != 1:
            raise Malformed(
                f"field to disclose is {'ambiguous: name it STAGE/FIELD' if fits else 'none of the template'} ({template.name})"
            )
        found.add(fits[0])
    return found


def join(bundle: bytes, opening: Opening, template: Template, names: Collection[str] | None) -> bytes:
    """The bundle of a sealed item with the fields of its opening disclosed in it; None discloses all.

    Raises: VerificationError if the opening does not open this item; Malformed.
    Source: formats §6.1, §11 (Disclosure).
    """
    unpacked = unpack(bundle)
    files = dict(unpacked.files)
    evidence = Evidence.parse(files["evidence/0/evidence.json"])
    if unpacked.kind != "item" or evidence.evidence_id != opening.evidence_id:
        raise VerificationError("opening belongs to another item than the bundle")
    account = opening.account
    made = commit(
        template,
        opening.stages,
        secret=opening.secret,
        log=account.log,
        submitter=account.submitter,
        client_key=opening.client_key,
    )
    if {stage.name: stage.pair for stage in made} != stages_by_name(evidence.statement):
        raise VerificationError("opening does not give the stages that were sealed")
    shown = disclose(template, made, wanted_fields(template, names))
    name = "evidence/0/disclosure.json"
    files.pop(name, None)
    if shown is not None:
        verify_disclosure(template, list(evidence.statement.stages), shown)
        files[name] = canonical(shown)
    if pair(template.data) != evidence.statement.template_pair:
        raise VerificationError("template is another version than the item was sealed with")
    return pack(files, "item")
