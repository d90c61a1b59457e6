"""What a collector and the service say to each other: statements of streams, a slice as one body.

Pure: used by both sides, so that neither depends on the other's insides.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from models.canonical import JSONValue, b64, canonical, parse, unb64
from models.checkpoint import STATEMENT_TYPE, vkey
from models.declaration import TEMPLATE as DECLARATION_TEMPLATE
from models.declaration import Declaration
from models.digest import Pair
from models.errors import Malformed
from models.evidence import Statement
from models.signature import Signer
from models.slice import TEMPLATE as SLICE_TEMPLATE
from models.slice import SliceHeader
from models.template import builtin
from streaming.archive import MAX_PACKED_BYTES

_COUNT: Final = struct.Struct(">I")
MAX_HEAD_BYTES: Final = 256 << 10
MAX_SLICE_BODY_BYTES: Final = _COUNT.size + MAX_HEAD_BYTES + MAX_PACKED_BYTES
HTTP_SOURCE: Final = "http:push"
"""The source of a stream whose records are pushed to the service, which then is its collector."""


# --- statements -----------------------------------------------------------------------------------------------------


def declaration_key(stream_id: str, number: int) -> str:
    """The client_key of a stream's declaration `number`; no slice_id has this form."""
    return f"{stream_id}/d{number}"


@dataclass(frozen=True, slots=True)
class Origin:
    """For which log, account and subject the items of a stream are."""

    log: str
    submitter: str
    subject_id: str
    subject_name: str

    def _statement(self, template: str, client_key: str, stages: Sequence[tuple[str, Pair]], at: datetime | None) -> Statement:
        shipped = builtin(template)
        return Statement.build(
            client_key=client_key,
            link=None,
            log=self.log,
            occurred_at=at,
            stages=stages,
            subject=(self.subject_id, self.subject_name),
            submitter=self.submitter,
            template=(shipped.name, shipped.pair),
        )

    def of_declaration(self, declaration: Declaration, number: int) -> Statement:
        """S of a stream's declaration `number`."""
        return self._statement(DECLARATION_TEMPLATE, declaration_key(declaration.stream_id, number), declaration.stages(), None)

    def of_slice(self, header: SliceHeader) -> Statement:
        """S of a slice: client_key = slice_id, occurred at slice_create_time."""
        return self._statement(SLICE_TEMPLATE, header.slice_id, header.stages(), header.created_at)


def signature_of(statement: Statement, signer: Signer) -> dict[str, JSONValue]:
    """The member `signature` of a submission: by the key of the account, r‖s."""
    key_id = vkey(statement.submitter, signer.public_key, STATEMENT_TYPE).key_id.hex()
    return {"encoding": "rs", "key_id": key_id, "value": b64(signer.sign(statement.data))}


def declare_body(
    declaration: Declaration,
    number: int,
    keywords: Sequence[bytes],
    *,
    origin: Origin,
    secret: bytes,
    signer: Signer,
) -> dict[str, JSONValue]:
    """The body of POST /v1/streams."""
    statement = origin.of_declaration(declaration, number)
    return {
        "declaration": declaration.data.decode(),
        "keywords": [b64(keyword) for keyword in keywords],
        "sealed": {"statement": statement.data.decode()},
        "secret": b64(secret),
        "signature": signature_of(statement, signer),
    }


# --- a slice as one body --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SliceBody:
    """The body of POST /v1/streams/{id}/slices: H, S, signature, secret, and the slice as `streaming.archive` packs it."""

    header: SliceHeader
    statement: Statement
    signature: Mapping[str, JSONValue]
    secret: bytes
    packed: bytes

    def to_bytes(self) -> bytes:
        """The body as it is sent. Shapes: u32 length ‖ JSON head ‖ packed slice, empty for one without lines."""
        head = canonical(
            {
                "header": self.header.data.decode(),
                "sealed": {"statement": self.statement.data.decode()},
                "secret": b64(self.secret),
                "signature": dict(self.signature),
            }
        )
        return _COUNT.pack(len(head)) + head + self.packed

    @classmethod
    def parse(cls, body: bytes) -> SliceBody:
        """The body that `body` is. Raises: Malformed; Unknown for another version of H or S."""
        if len(body) < _COUNT.size:
            raise Malformed("body of a slice is too short: expected a length, a head and records")
        (length,) = _COUNT.unpack_from(body)
        if length > MAX_HEAD_BYTES or len(body) < _COUNT.size + length:
            raise Malformed("body of a slice is cut short: its head is longer than it")
        value = parse(body[_COUNT.size : _COUNT.size + length], max_bytes=MAX_HEAD_BYTES)
        text = _members(value, {"header", "sealed", "secret", "signature"})
        header, sealed, signature = text["header"], text["sealed"], text["signature"]
        if not isinstance(header, str) or not isinstance(signature, dict):
            raise Malformed("head of a slice has wrong form: expected texts of header and statement, and a signature")
        return cls(
            SliceHeader.parse(header.encode()),
            sealed_statement(sealed),
            signature,
            secret_of(text["secret"]),
            body[_COUNT.size + length :],
        )


def _members(value: JSONValue, names: set[str]) -> dict[str, JSONValue]:
    if not isinstance(value, dict) or set(value) != names:
        raise Malformed(f"body has wrong members: expected {', '.join(sorted(names))}")
    return value


def sealed_statement(value: JSONValue) -> Statement:
    """S of the member `sealed`. Raises: Malformed, Unknown."""
    text = value.get("statement") if isinstance(value, dict) and set(value) == {"statement"} else None
    if not isinstance(text, str):
        raise Malformed("sealed has wrong form: expected an object of statement, the canonical text of S")
    return Statement.parse(text.encode())


def secret_of(value: JSONValue) -> bytes:
    """The member `secret`. Raises: Malformed."""
    return unb64(value, size=32, what="secret")


@dataclass(frozen=True, slots=True)
class DeclareBody:
    """The body of POST /v1/streams as a collector sends it."""

    declaration: Declaration
    statement: Statement
    signature: Mapping[str, JSONValue]
    secret: bytes
    keywords: tuple[bytes, ...]

    @classmethod
    def parse(cls, value: JSONValue) -> DeclareBody:
        """The body that a parsed value is. Raises: Malformed, Unknown."""
        text = _members(value, {"declaration", "keywords", "sealed", "secret", "signature"})
        declaration, keywords, signature = text["declaration"], text["keywords"], text["signature"]
        if not isinstance(declaration, str) or not isinstance(keywords, list) or not isinstance(signature, dict):
            raise Malformed("declaration of a stream has wrong form: expected texts of D and S, keywords, and a signature")
        return cls(
            Declaration.parse(declaration.encode()),
            sealed_statement(text["sealed"]),
            signature,
            secret_of(text["secret"]),
            tuple(unb64(keyword, what="keyword") for keyword in keywords),
        )
