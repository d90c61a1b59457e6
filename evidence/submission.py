"""What a caller sends, read strictly: every fault of the envelope is reported at once.

The envelope is the HTTP body of interface §3. What stands in the stages is judged by the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from models.canonical import JSONValue, compact_encoder, parse_time, unb64
from models.commitment import check_secret
from models.digest import Digest, is_hex
from models.errors import EvidenceError, Invalid, Malformed, Problem
from models.evidence import Link, Statement
from models.field import described
from models.names import check_name
from models.validation import unknown_members

_MEMBERS = {"template", "client_key", "stages", "sealed", "link", "occurred_at", "secret", "originals", "signature"}
_TITLES = {
    "template": "模板",
    "client_key": "客户端键",
    "stages": "环节",
    "sealed": "密封声明",
    "link": "事务链",
    "occurred_at": "业务发生时间",
    "secret": "存证密钥",
    "originals": "原件",
    "signature": "签名",
    "code": "事务环节唯一编码",
    "follows": "前一部分",
    "closes": "是否结束",
}
_CLAUSES = {"signature": "6.4.3-a", "link": "7.2-p1", "originals": "6.4.2-f"}
_encode = compact_encoder()
MAX_ORIGINALS = 512


@dataclass(frozen=True, slots=True)
class OriginalRef:
    """One original that the submission says belongs to a field."""

    field: str
    digest: str
    name: str
    media_type: str

    def to_json(self) -> JSONValue:
        """The reference as it lies in the encrypted content."""
        return {"digest": self.digest, "field": self.field, "media_type": self.media_type, "name": self.name}


class Submission(NamedTuple):
    """One submission: contents in `stages`, or `sealed` alone where they stay with the submitter."""

    template: str
    client_key: str
    stages: Mapping[str, Mapping[str, JSONValue]] | None
    sealed: Statement | None
    link: Link | None
    occurred_at: datetime | None
    secret: bytes | None
    originals: tuple[OriginalRef, ...]
    signature: JSONValue

    @property
    def contents(self) -> Mapping[str, Mapping[str, JSONValue]]:
        """The stages; none where they stay with the submitter."""
        return self.stages or {}

    @classmethod
    def parse(cls, body: JSONValue) -> Submission:
        """The submission that a parsed JSON body is.

        Raises: Invalid with every fault of the envelope.
        Source: interface §3; T/SAC 004—2024 6.4.2-a.
        """
        reader = _Reader()
        if not isinstance(body, dict):
            reader.add("", "", "an object with template, client_key and stages", body)
            raise reader.error()
        if not body.keys() <= _MEMBERS:
            reader.problems += unknown_members("", "member", "存证提交", body, sorted(_MEMBERS), "6.4.2-a", of="a submission")
        submission = cls(
            template=reader.text(body, "template", "a template's name and version, for example file@1"),
            client_key=reader.name(body, "client_key"),
            stages=reader.stages(body),
            sealed=reader.sealed(body),
            link=reader.link(body),
            occurred_at=reader.time(body, "occurred_at"),
            secret=reader.secret(body),
            originals=reader.originals(body),
            signature=reader.signature(body),
        )
        if ("stages" in body) == ("sealed" in body):
            reader.add("", "stages", "exactly one of stages and sealed", body)
        if submission.sealed is not None:
            reader.agree(submission)
        if reader.problems:
            raise reader.error()
        return submission


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")[:128]


class _Reader:
    """Collects every problem of one envelope; a wrong member reads as an empty value."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, pointer: str, field: str, expected: str, value: JSONValue, *, got: str | None = None) -> None:
        clause = _CLAUSES.get(pointer.split("/")[1] if "/" in pointer else field, "6.4.2-a")
        said = described(value) if got is None else got
        self.problems.append(Problem(pointer, field, _TITLES.get(field, field), expected, said, clause))

    def error(self) -> Invalid:
        count = len(self.problems)
        return Invalid(f"submission has {count} problem{'s' if count > 1 else ''}", tuple(self.problems))

    def text(self, body: dict[str, JSONValue], name: str, expected: str) -> str:
        value = body.get(name)
        if isinstance(value, str) and value:
            return value
        self.add(f"/{name}", name, expected, value, got=None if name in body else "nothing")
        return ""

    def name(self, body: dict[str, JSONValue], name: str, pointer: str = "") -> str:
        value = body.get(name)
        try:
            return check_name(value, name)
        except Malformed:
            got = None if name in body else "nothing"
            self.add(f"{pointer}/{name}", name, "1 to 128 characters without control characters", value, got=got)
            return ""

    def stages(self, body: dict[str, JSONValue]) -> Mapping[str, Mapping[str, JSONValue]] | None:
        if "stages" not in body:
            return None
        value = body["stages"]
        if not isinstance(value, dict) or not value:
            self.add("/stages", "stages", "an object of at least one stage", value)
            return {}
        wrong = [name for name, fields in value.items() if not isinstance(fields, dict)]
        for name in wrong:
            self.add(f"/stages/{_escape(name)}", name[:64], "an object of fields", value[name])
        return value

    def sealed(self, body: dict[str, JSONValue]) -> Statement | None:
        if "sealed" not in body:
            return None
        value = body["sealed"]
        text = value.get("statement") if isinstance(value, dict) and set(value) == {"statement"} else None
        if not isinstance(text, str):
            self.add("/sealed", "sealed", "an object of statement: the canonical text of S", value)
            return None
        try:
            return Statement.parse(text.encode())
        except EvidenceError as error:
            self.add("/sealed/statement", "sealed", f"a canonical statement of cz-statement/1 ({error.message})", text)
            return None

    def link(self, body: dict[str, JSONValue]) -> Link | None:
        if body.get("link") is None:
            return None
        value = body["link"]
        if not isinstance(value, dict) or not set(value) <= {"code", "follows", "closes"}:
            self.add("/link", "link", "an object of code and, if wanted, follows and closes", value)
            return None
        follows, closes = value.get("follows"), value.get("closes", False)
        if follows is not None and not is_hex(follows):
            self.add("/link/follows", "follows", "the PackageHash of the part before: 64 lower-case hex digits", follows)
            follows = None
        if not isinstance(closes, bool):
            self.add("/link/closes", "closes", "true or false", closes)
            closes = False
        return Link(self.name(value, "code", "/link"), None if follows is None else bytes.fromhex(follows), closes)

    def time(self, body: dict[str, JSONValue], name: str) -> datetime | None:
        if body.get(name) is None:
            return None
        try:
            return parse_time(body[name])
        except Malformed:
            self.add(f"/{name}", name, "a UTC time with milliseconds, for example 2026-11-21T06:00:00.000Z", body[name])
            return None

    def secret(self, body: dict[str, JSONValue]) -> bytes | None:
        if body.get("secret") is None:
            return None
        try:
            secret = unb64(body["secret"], size=32, what="secret")
            check_secret(secret)
        except Malformed:
            self.add("/secret", "secret", "base64 of 32 random bytes of which at least 16 differ", body["secret"])
            return None
        return secret

    def originals(self, body: dict[str, JSONValue]) -> tuple[OriginalRef, ...]:
        value = body.get("originals")
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_ORIGINALS:
            self.add("/originals", "originals", f"an array of at most {MAX_ORIGINALS} originals", value)
            return ()
        found = []
        for place, entry in enumerate(value):
            pointer = f"/originals/{place}"
            if not isinstance(entry, dict) or set(entry) != {"field", "digest", "name", "media_type"}:
                self.add(pointer, "originals", "an object of field, digest, name and media_type", entry)
                continue
            if not all(isinstance(part, str) and part for part in entry.values()):
                self.add(pointer, "originals", "texts that are not empty", entry)
                continue
            try:
                Digest.parse(entry["digest"])
            except EvidenceError:
                self.add(f"{pointer}/digest", "originals", "algorithm:hex, for example sm3:… of 64 hex digits", entry["digest"])
                continue
            found.append(OriginalRef(entry["field"], entry["digest"], entry["name"], entry["media_type"]))
        return tuple(found)

    def signature(self, body: dict[str, JSONValue]) -> JSONValue:
        value = body.get("signature")
        if value is None:
            if "sealed" in body:
                self.add(
                    "/signature", "signature", "the submitter's SM2 signature over the sealed statement", None, got="nothing"
                )
            return None
        known = {"certificate", "key_id", "encoding", "value"}
        if (
            not isinstance(value, dict)
            or not set(value) <= known
            or len({"certificate", "key_id"} & set(value)) != 1
            or "value" not in value
        ):
            self.add("/signature", "signature", "an object of certificate or key_id, encoding (rs or der) and value", value)
            return None
        if value.get("encoding", "rs") not in ("rs", "der"):
            self.add("/signature/encoding", "signature", "rs or der", value.get("encoding"))
        if not all(isinstance(part, str) for part in value.values()):
            self.add("/signature", "signature", "texts only", value)
        return value

    def agree(self, submission: Submission) -> None:
        """A sealed statement and its envelope must say the same."""
        sealed = submission.sealed
        if sealed is None:
            return
        stated = (
            ("template", submission.template, sealed.template_name),
            ("client_key", submission.client_key, sealed.client_key),
        )
        for name, outer, inner in stated:
            if outer != inner:
                self.add(f"/{name}", name, f"the same {name} as in the sealed statement", outer)
        if submission.link is not None and submission.link != sealed.link:
            self.add("/link", "link", "the same link as in the sealed statement, or none", None, got="another link")
        if submission.occurred_at is not None and submission.occurred_at != sealed.occurred_at:
            self.add("/occurred_at", "occurred_at", "the same time as in the sealed statement, or none", None, got="another time")
        for name, given in (("secret", submission.secret), ("originals", submission.originals)):
            if given:
                self.add(f"/{name}", name, "nothing: what is sealed stays with the submitter", None, got="a value")


def content_of(submission: Submission) -> bytes:
    """The bytes that are encrypted and kept as the item's content.

    They are JSON and not JCS: nothing is ever computed from them, and the values were read strictly when they came.
    """
    return _encode({"originals": [original.to_json() for original in submission.originals], "stages": submission.stages}).encode()
