"""One item: submission → statement S → evidence E.

S is what a submitter signs; its digest is the evidence id. E is what the sequencer makes of S and
what the log commits to. Both are kept and disclosed as these very bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, NewType

from models.anchor import BlockRef, block_refs
from models.canonical import (
    JSONValue,
    b64,
    canonical,
    canonical_text,
    format_time,
    members,
    parse_canonical,
    parse_time,
    quoted,
    unb64,
)
from models.digest import Pair, is_hex, pair, sm3, unhex
from models.errors import Malformed, Unknown, VerificationError
from models.names import check_format, check_name, check_origin
from models.nodes import pairs

EvidenceId = NewType("EvidenceId", str)
PackageHash = NewType("PackageHash", bytes)

ENTRY_BYTES = 64
MAX_PROMISE = timedelta(days=7)
SIGNATURE_ALGORITHM = "sm2-sm3"
COMMITMENTS = ("plaintext", "hash", "merkle")
VALIDATORS = ("platform", "submitter")

_ID = re.compile(r"ev_[0-9a-f]{64}", re.ASCII)


def parse_evidence_id(value: JSONValue) -> EvidenceId:
    """`value` as a whole evidence id. Raises: Malformed otherwise. Source: formats §2.4."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Malformed("evidence id has wrong form: expected ev_ and 64 lower-case hex digits")
    return EvidenceId(value)


@dataclass(frozen=True, slots=True)
class Link:
    """A part's place in a transaction chain (链式数据) as its submitter states it."""

    code: str
    follows: bytes | None = None
    closes: bool = False

    def to_json(self) -> JSONValue:
        """The link as it stands in S."""
        return {"closes": self.closes, "code": self.code, "follows": None if self.follows is None else self.follows.hex()}

    @classmethod
    def from_json(cls, value: JSONValue) -> Link | None:
        """The link of S. Raises: Malformed."""
        if value is None:
            return None
        closes, code, follows = members(value, "closes code follows", "link of the statement")
        if not isinstance(closes, bool):
            raise Malformed("closes is not a boolean")
        return cls(check_name(code, "link code"), None if follows is None else unhex(follows, what="follows"), closes)


def _digests(pair: Pair) -> str:
    return f'"sha256":"{pair.sha256.hex()}","sm3":"{pair.sm3.hex()}"'


_format_time = lru_cache(maxsize=256)(format_time)
"""The two times of E are the same for all items of one commit."""

_quoted = lru_cache(maxsize=1024)(quoted)
"""Of the names that stand in one item after another."""


@lru_cache(maxsize=256)
def _tail(subject: tuple[str, str], submitter: str, template: tuple[str, Pair]) -> str:
    """The end of S, which is one for all that a submitter makes of one template."""
    return (
        f'"subject":{{"id":{quoted(subject[0])},"name":{quoted(subject[1])}}},"submitter":{quoted(submitter)},'
        f'"template":{{"name":{quoted(template[0])},{_digests(template[1])}}}}}'
    )


def _time_text(moment: datetime | None) -> str:
    return "null" if moment is None else f'"{format_time(moment)}"'


def _link_text(link: Link | None) -> str:
    if link is None:
        return "null"
    follows = "null" if link.follows is None else f'"{link.follows.hex()}"'
    return f'{{"closes":{"true" if link.closes else "false"},"code":{quoted(link.code)},"follows":{follows}}}'


class Statement(NamedTuple):
    """S: what was submitted, by whom, for which log; `data` are the bytes that are signed and hashed.

    Shapes: `stages` ≥ 1 in template order, each with its digest pair.
    Source: formats §2.3.
    """

    client_key: str
    link: Link | None
    log: str
    occurred_at: datetime | None
    stages: tuple[tuple[str, Pair], ...]
    subject_id: str
    subject_name: str
    submitter: str
    template_name: str
    template_pair: Pair
    data: bytes = b""
    digest: bytes = b""
    """SM3(S), 32 bytes: the item's id in every store."""

    @classmethod
    def build(
        cls,
        *,
        client_key: str,
        link: Link | None,
        log: str,
        occurred_at: datetime | None,
        stages: Sequence[tuple[str, Pair]],
        subject: tuple[str, str],
        submitter: str,
        template: tuple[str, Pair],
    ) -> Statement:
        """The statement over these facts, with its canonical bytes. `subject` is (id, name), `template` (name, pair).

        Raises: Malformed if a text cannot stand in canonical JSON.
        """
        # Written out member by member, because this is the hot path: the general encoder takes six times as long.
        parts = ",".join([f'{{"name":{_quoted(name)},{_digests(pair)}}}' for name, pair in stages])
        text = (
            f'{{"client_key":{quoted(client_key)},"format":"cz-statement/1","link":{_link_text(link)},"log":{_quoted(log)},'
            f'"occurred_at":{_time_text(occurred_at)},"stages":[{parts}],{_tail(subject, submitter, template)}'
        )
        data = text.encode()
        return cls(
            client_key,
            link,
            log,
            occurred_at,
            tuple(stages),
            subject[0],
            subject[1],
            submitter,
            template[0],
            template[1],
            data,
            sm3(data),
        )

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """The statement whose canonical bytes are `data`.

        Raises: Malformed on any deviation from the schema; Unknown for another version of it.
        """
        return cls.from_json(parse_canonical(data, what="statement"), data)

    @classmethod
    def from_json(cls, value: JSONValue, data: bytes | None = None) -> Statement:
        """The statement that a parsed canonical object states. Raises: Malformed, Unknown."""
        check_format(value, "cz-statement")
        data = canonical(value) if data is None else data
        client_key, _, link, log, occurred_at, stages, subject, submitter, template = members(
            value, "client_key format link log occurred_at stages subject submitter template", "statement"
        )
        if not isinstance(stages, list) or not stages:
            raise Malformed("statement has no stages: expected at least one")
        found: dict[str, Pair] = {}
        for stage in stages:
            name, sha, sm = members(stage, "name sha256 sm3", "stage of the statement")
            if not isinstance(name, str) or not name or name in found:
                raise Malformed("stage name of the statement is missing or stands twice")
            found[name] = Pair.from_json({"sha256": sha, "sm3": sm}, what="stage digest")
        subject_id, subject_name = members(subject, "id name", "subject of the statement")
        if not isinstance(subject_name, str):
            raise Malformed("subject name is not a string")
        template_name, template_sha, template_sm = members(template, "name sha256 sm3", "template of the statement")
        if not isinstance(template_name, str) or not template_name:
            raise Malformed("template name is not a string")
        return cls(
            check_name(client_key, "client_key"),
            Link.from_json(link),
            check_origin(log),
            None if occurred_at is None else parse_time(occurred_at, what="occurred_at"),
            tuple(found.items()),
            check_name(subject_id, "subject id"),
            subject_name,
            check_name(submitter, "submitter"),
            template_name,
            Pair.from_json({"sha256": template_sha, "sm3": template_sm}, what="template digest"),
            data,
            sm3(data),
        )

    @property
    def evidence_id(self) -> EvidenceId:
        """`ev_` and the hex SM3 of S: stable from the first acceptance on. Source: formats §2.4."""
        return EvidenceId("ev_" + self.digest.hex())


@dataclass(frozen=True, slots=True)
class Signature:
    """The submitter's SM2 signature over S, with the key's name: hex SM3 of the certificate, or a key id."""

    signer: str
    value: bytes
    algorithm: str = SIGNATURE_ALGORITHM

    def to_json(self) -> JSONValue:
        """The signature as it stands in E."""
        return {"algorithm": self.algorithm, "signer": self.signer, "value": b64(self.value)}

    @property
    def by_certificate(self) -> bool:
        """Whether the signer is named by a certificate's digest (else by a key id of 8 hex digits)."""
        return len(self.signer) == 64

    @classmethod
    def from_json(cls, value: JSONValue) -> Signature | None:
        """The signature of E. Raises: Malformed; Unknown for another algorithm."""
        if value is None:
            return None
        algorithm, signer, raw = members(value, "algorithm signer value", "signature of the evidence")
        if algorithm != SIGNATURE_ALGORITHM:
            if isinstance(algorithm, str) and algorithm:
                raise Unknown("signature algorithm is unknown: expected sm2-sm3")
            raise Malformed("signature algorithm is not a string")
        if not (is_hex(signer) or is_hex(signer, size=4)):
            raise Malformed("signer has wrong form: expected hex SM3 of a certificate or a key id of 8 hex digits")
        return cls(signer, unb64(raw, size=64, what="signature value"))


@dataclass(frozen=True, slots=True)
class Part:
    """The place the sequencer gave a link part, and the digests of E of the part before it."""

    number: int
    previous: Pair | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """E: the sealed item. `data` are its canonical bytes; PackageHash = SM3 of them.

    Source: formats §2.5, §11 (Statement, evidence).
    """

    after: tuple[BlockRef, ...]
    commitment: str
    created_at: datetime
    link: Part | None
    on_chain_by: datetime
    signature: Signature | None
    statement: Statement
    validated_by: str
    data: bytes = field(default=b"", repr=False)
    _pair: Pair | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def build(
        cls,
        statement: Statement,
        *,
        after: Sequence[BlockRef],
        commitment: str,
        created_at: datetime,
        link: Part | None,
        on_chain_by: datetime,
        signature: Signature | None,
        validated_by: str,
    ) -> Evidence:
        """The evidence over these facts, with its canonical bytes.

        S is put in as the bytes it already has: it is canonical, and its text is not made anew.
        """
        blocks = ",".join([f'{{"chain":{_quoted(b.chain)},"hash":"{b.hash}","height":{b.height}}}' for b in after])
        place, signed = "null", "null"
        if link is not None:
            previous = "null" if link.previous is None else f"{{{_digests(link.previous)}}}"
            place = f'{{"part":{link.number},"previous":{previous}}}'
        if signature is not None:
            signed = canonical_text(signature.to_json())
        head = (
            f'{{"after":[{blocks}],"commitment":{_quoted(commitment)},"created_at":"{_format_time(created_at)}",'
            f'"format":"cz-evidence/1","link":{place},"on_chain_by":"{_format_time(on_chain_by)}","signature":{signed},"statement":'
        )
        data = head.encode() + statement.data + f',"validated_by":{_quoted(validated_by)}}}'.encode()
        return cls(tuple(after), commitment, created_at, link, on_chain_by, signature, statement, validated_by, data)

    @classmethod
    def parse(cls, data: bytes) -> Evidence:
        """The evidence whose canonical bytes are `data`.

        Raises: Malformed on any deviation from the schema; Unknown for another version of E or S,
            or another signature algorithm; VerificationError if members contradict each other.
        """
        value = parse_canonical(data, what="evidence")
        check_format(value, "cz-evidence")
        after, commitment, created_at, _, link, on_chain_by, signature, statement, validated_by = members(
            value, "after commitment created_at format link on_chain_by signature statement validated_by", "evidence"
        )
        if commitment not in COMMITMENTS:
            raise Malformed("commitment has wrong value: expected plaintext, hash or merkle")
        if validated_by not in VALIDATORS:
            raise Malformed("validated_by has wrong value: expected platform or submitter")
        part = None
        if link is not None:
            number, previous = members(link, "part previous", "link of the evidence")
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise Malformed("part is not a whole number")
            part = Part(number, None if previous is None else Pair.from_json(previous, what="previous"))
        evidence = cls(
            block_refs(after, what="after"),
            commitment,
            parse_time(created_at, what="created_at"),
            part,
            parse_time(on_chain_by, what="on_chain_by"),
            Signature.from_json(signature),
            Statement.from_json(statement),
            validated_by,
            data,
        )
        evidence._check()
        return evidence

    def _check(self) -> None:
        stated, part = self.statement.link, self.link
        if (stated is None) != (part is None):
            raise VerificationError("link of the evidence and of its statement do not agree: expected both or neither")
        if part is not None and (part.number == 0) != (part.previous is None):
            raise VerificationError("part 0 alone has no previous part")
        if (
            stated is not None
            and stated.follows is not None
            and (part is None or part.previous is None or part.previous.sm3 != stated.follows)
        ):
            raise VerificationError("statement follows another part than the evidence names as previous")
        if self.validated_by == "submitter" and self.signature is None:
            raise VerificationError("a sealed submission carries no signature: expected the submitter's")
        if not timedelta(0) <= self.on_chain_by - self.created_at <= MAX_PROMISE:
            raise VerificationError("promise is out of range: expected 0 to 7 days after created_at")

    @property
    def pair(self) -> Pair:
        """Both digests of E, made when they are first asked for."""
        made = self._pair
        if made is None:
            made = pair(self.data)
            object.__setattr__(self, "_pair", made)
        return made

    @property
    def evidence_id(self) -> EvidenceId:
        """The id of S."""
        return self.statement.evidence_id

    @property
    def package_hash(self) -> PackageHash:
        """SM3(E): T/SAC 004's PackageHash. Source: T/SAC 004—2024 App. A c); erratum J10."""
        return PackageHash(self.pair.sm3)

    @property
    def entry(self) -> bytes:
        """The 64 bytes that the log holds of this item: SM3(E)‖SHA-256(E). Source: formats §1, §3.1."""
        return self.pair.sm3 + self.pair.sha256


def hash_together(items: Sequence[Evidence]) -> None:
    """The digests of all of these are made, at once: that takes a third of what one after the other takes."""
    for item, made in zip(items, pairs([item.data for item in items]), strict=True):
        object.__setattr__(item, "_pair", made)


def stages_by_name(statement: Statement) -> Mapping[str, Pair]:
    """The digest pairs of a statement's stages by stage name."""
    return dict(statement.stages)
