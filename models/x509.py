"""Certificates, requests and revocation lists with SM2 and SM3, read strictly.

`cryptography` reads the outer form (its DER parser takes one encoding only); it knows no SM2, so
the key and the signature are taken out here. The wrapping that no signature covers is rebuilt and
compared, so that one certificate has exactly one encoding and one digest.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID

from models import signature
from models.digest import Algorithm, Digest, sm3
from models.errors import Malformed, Unknown

MAX_BYTES = 1 << 16
MAX_LIST_BYTES = 4 << 20
SM2_WITH_SM3 = bytes.fromhex("300a06082a811ccf55018375")
_SM2_WITH_SM3_NULL = bytes.fromhex("300c06082a811ccf550183750500")
SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
_SM2_WITH_SM3_OID = "1.2.156.10197.1.501"
_KNOWN_CRITICAL = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE})
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n([A-Za-z0-9+/=\r\n]*?)\r?\n-----END \1-----")
_REFUSED_BY_PARSER = (
    ValueError,
    TypeError,
    KeyError,
    UnsupportedAlgorithm,
    Warning,  # of a name of odd length, where a process makes errors of warnings
    x509.AttributeNotFound,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
)

KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@contextmanager
def _parsing(what: str, form: str) -> Iterator[None]:
    """What `cryptography` raises, also late and for one extension only, as the errors of this module."""
    try:
        yield
    except x509.UnsupportedGeneralNameType as error:
        raise Unknown(f"{what} holds a name of a kind that cannot be read: x400Address or ediPartyName") from error
    except _REFUSED_BY_PARSER as error:
        raise Malformed(f"{what} is not {form} in DER") from error


def tlv(tag: int, content: bytes) -> bytes:
    """One DER value.

    Source: X.690 8.1, 10.1.
    """
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def children(content: bytes) -> list[bytes]:
    """The values inside a SEQUENCE whose DER was already found strict.

    Raises: Malformed if a length runs over the end.
    """
    found: list[bytes] = []
    position = _content_start(content, 0)
    while position < len(content):
        start = _content_start(content, position)
        end = start + _content_size(content, position)
        if end > len(content):
            raise Malformed("DER value runs over its end")
        found.append(content[position:end])
        position = end
    return found


def _content_start(data: bytes, position: int) -> int:
    if position + 2 > len(data):
        raise Malformed("DER value runs over its end")
    return position + 2 + (data[position + 1] & 0x7F if data[position + 1] & 0x80 else 0)


def _content_size(data: bytes, position: int) -> int:
    first = data[position + 1]
    return int.from_bytes(data[position + 2 : position + 2 + (first & 0x7F)]) if first & 0x80 else first


def from_pem(data: bytes, label: str, *, max_bytes: int) -> bytes:
    """The DER in `data`, which is DER itself or one PEM block of this label.

    Raises: Malformed if it is too long, or holds no such block or more than one.
    """
    what = label.lower()
    if not isinstance(data, bytes) or len(data) > 2 * max_bytes:
        raise Malformed(f"{what} is too long: expected at most {max_bytes} bytes")
    if not data.startswith(b"\x30"):
        blocks = _PEM.findall(data)
        if len(blocks) != 1 or data.count(b"-----BEGIN") != 1 or blocks[0][0] != label.encode():
            raise Malformed(f"{what} has wrong form: expected one PEM block {label}")
        try:
            data = base64.b64decode(b"".join(blocks[0][1].split()), validate=True)
        except binascii.Error as error:
            raise Malformed(f"{what} is not base64") from error
    if len(data) > max_bytes:
        raise Malformed(f"{what} is too long: expected at most {max_bytes} bytes")
    return data


def to_pem(der: bytes, label: str) -> bytes:
    """`der` as one PEM block, for example of label CERTIFICATE."""
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join((b"-----BEGIN %s-----" % label.encode(), *lines, b"-----END %s-----" % label.encode(), b""))


def _signature_of(der: bytes, tbs: bytes, value: bytes, algorithm: x509.ObjectIdentifier, what: str) -> bytes:
    """r‖s, once the wrapping around the signed bytes is found to be the one form of itself."""
    if algorithm.dotted_string != _SM2_WITH_SM3_OID:
        raise Unknown(f"{what} is signed by another algorithm: expected SM2 with SM3")
    wrapped = (tlv(0x30, tbs + form + tlv(3, b"\x00" + value)) for form in (SM2_WITH_SM3, _SM2_WITH_SM3_NULL))
    if der not in wrapped:
        raise Malformed(f"{what} is not in its one DER form")
    return signature.der_to_rs(value)


def _public_key_of(spki: bytes, what: str) -> bytes:
    if not spki.startswith(SPKI_PREFIX):
        raise Unknown(f"{what} has another kind of key: expected SM2")
    public_key = spki[len(SPKI_PREFIX) :]
    signature.check_public_key(public_key)
    return public_key


def _check_inner_algorithm(found: bytes, der: bytes, what: str) -> None:
    if children(der)[1] != found:
        raise Malformed(f"{what} names two signature algorithms")


_T = TypeVar("_T", bound=x509.ExtensionType)


def _extension(extensions: x509.Extensions, kind: type[_T]) -> _T | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _usages(extensions: x509.Extensions) -> frozenset[str] | None:
    value = _extension(extensions, x509.KeyUsage)
    if value is None:
        return None
    names = KEY_USAGES if value.key_agreement else KEY_USAGES[:7]
    return frozenset(name for name in names if getattr(value, name))


def _key_identifiers(extensions: x509.Extensions) -> tuple[bytes | None, bytes | None]:
    own = _extension(extensions, x509.SubjectKeyIdentifier)
    authority = _extension(extensions, x509.AuthorityKeyIdentifier)
    return (own.digest if own else None, authority.key_identifier if authority else None)


@dataclass(frozen=True, slots=True)
class Certificate:
    """An X.509 v3 certificate of an SM2 key signed with SM2 and SM3.

    `key_usage` is None where the certificate does not restrict it, and so is `purposes` (extended
    key usage, dotted), which `is_bound_to_purposes` if that extension is critical. Names are RFC
    4514 texts, and compared by their DER. `is_ca` and `path_length` are of its basic constraints.
    """

    der: bytes = field(repr=False)
    digest: Digest
    subject: str
    issuer: str
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    serial: int
    public_key: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    key_usage: frozenset[str] | None
    purposes: frozenset[str] | None
    is_bound_to_purposes: bool
    is_ca: bool
    path_length: int | None
    key_identifier: bytes | None = field(repr=False)
    authority_key_identifier: bytes | None = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, der_or_pem: bytes) -> Certificate:
        """The certificate in DER, or in one PEM block.

        Shapes: ≤ 64 KiB of DER.
        Raises: Malformed if it is not strict DER of an X.509 v3 certificate; Unknown if key or
            signature are not SM2, a critical extension is none we know, or a name in one cannot be read.
        Source: RFC 5280 4; GM/T 0015—2012.
        """
        der = from_pem(der_or_pem, "CERTIFICATE", max_bytes=MAX_BYTES)
        with _parsing("certificate", "X.509"):
            return cls._parse(der)

    @classmethod
    def _parse(cls, der: bytes) -> Certificate:
        read = x509.load_der_x509_certificate(der)
        if read.version is not x509.Version.v3:
            raise Malformed("certificate has another version: expected X.509 v3")
        tbs = read.tbs_certificate_bytes
        value = _signature_of(der, tbs, read.signature, read.signature_algorithm_oid, "certificate")
        parts = children(tbs)
        _check_inner_algorithm(parts[2], der, "certificate")
        for each in read.extensions:
            if each.critical and each.oid not in _KNOWN_CRITICAL:
                raise Unknown(f"certificate has a critical extension that is unknown: {each.oid.dotted_string}")
        if not 0 < read.serial_number < 1 << 160:
            raise Malformed("certificate has a serial number out of range: expected 1 to 20 bytes, positive")
        if read.not_valid_before_utc > read.not_valid_after_utc:
            raise Malformed("certificate ends before it begins")
        constraints = _extension(read.extensions, x509.BasicConstraints)
        purposes = _extension(read.extensions, x509.ExtendedKeyUsage)
        own, authority = _key_identifiers(read.extensions)
        return cls(
            der=der,
            digest=Digest(Algorithm.SM3, sm3(der)),
            subject=read.subject.rfc4514_string(),
            issuer=read.issuer.rfc4514_string(),
            subject_der=parts[5],
            issuer_der=parts[3],
            serial=read.serial_number,
            public_key=_public_key_of(parts[6], "certificate"),
            not_before=read.not_valid_before_utc,
            not_after=read.not_valid_after_utc,
            key_usage=_usages(read.extensions),
            purposes=frozenset(each.dotted_string for each in purposes) if purposes else None,
            is_bound_to_purposes=any(each.critical and each.oid == ExtensionOID.EXTENDED_KEY_USAGE for each in read.extensions),
            is_ca=constraints is not None and constraints.ca,
            path_length=constraints.path_length if constraints else None,
            key_identifier=own,
            authority_key_identifier=authority,
            signed=tbs,
            signature=value,
        )

    def to_pem(self) -> bytes:
        """The certificate as one PEM block."""
        return to_pem(self.der, "CERTIFICATE")


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request whose maker holds the key: its own signature is good."""

    der: bytes = field(repr=False)
    subject: str
    subject_der: bytes = field(repr=False)
    public_key: bytes = field(repr=False)


def parse_csr(der_or_pem: bytes) -> Request:
    """The request in DER, or in one PEM block, its own signature checked.

    Shapes: ≤ 64 KiB of DER.
    Raises: Malformed if it is not strict DER of a PKCS#10 request; Unknown if key or signature are
        not SM2; VerificationError if the signature is not of the key in it.
    Source: RFC 2986; GB/T 35276—2017 (user id).
    """
    der = from_pem(der_or_pem, "CERTIFICATE REQUEST", max_bytes=MAX_BYTES)
    with _parsing("certificate request", "PKCS#10"):
        read = x509.load_der_x509_csr(der)
        tbs = read.tbs_certrequest_bytes
        value = _signature_of(der, tbs, read.signature, read.signature_algorithm_oid, "certificate request")
        parts = children(tbs)
        public_key = _public_key_of(parts[2], "certificate request")
        subject = read.subject.rfc4514_string()
    signature.verify(public_key, tbs, value)
    return Request(der=der, subject=subject, subject_der=parts[1], public_key=public_key)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list of revoked certificates; whose it is and whether it is signed is for `verify_path` to judge."""

    der: bytes = field(repr=False)
    digest: Digest
    issuer: str
    issuer_der: bytes = field(repr=False)
    this_update: datetime
    next_update: datetime | None
    entries: Mapping[int, datetime] = field(repr=False)
    authority_key_identifier: bytes | None = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, der_or_pem: bytes) -> RevocationList:
        """The list in DER, or in one PEM block.

        Shapes: ≤ 4 MiB of DER.
        Raises: Malformed if it is not strict DER of a CRL; Unknown if the signature is not SM2, or
            it has a critical extension (a delta, partial or indirect list is not the whole list).
        Source: RFC 5280 5.
        """
        der = from_pem(der_or_pem, "X509 CRL", max_bytes=MAX_LIST_BYTES)
        with _parsing("revocation list", "a CRL"):
            return cls._parse(der)

    @classmethod
    def _parse(cls, der: bytes) -> RevocationList:
        read = x509.load_der_x509_crl(der)
        tbs = read.tbs_certlist_bytes
        value = _signature_of(der, tbs, read.signature, read.signature_algorithm_oid, "revocation list")
        parts = children(tbs)
        first = 1 if parts[0][0] == 2 else 0
        _check_inner_algorithm(parts[first], der, "revocation list")
        for each in read.extensions:
            if each.critical:
                raise Unknown(f"revocation list has a critical extension that is unknown: {each.oid.dotted_string}")
        entries: dict[int, datetime] = {}
        for entry in read:
            for each in entry.extensions:
                if each.critical:
                    raise Unknown(f"revocation list has a critical extension that is unknown: {each.oid.dotted_string}")
            moment = entry.revocation_date_utc
            entries[entry.serial_number] = min(moment, entries.get(entry.serial_number, moment))
        return cls(
            der=der,
            digest=Digest(Algorithm.SM3, sm3(der)),
            issuer=read.issuer.rfc4514_string(),
            issuer_der=parts[first + 1],
            this_update=read.last_update_utc,
            next_update=read.next_update_utc,
            entries=MappingProxyType(entries),
            authority_key_identifier=_key_identifiers(read.extensions)[1],
            signed=tbs,
            signature=value,
        )

    def revoked(self, serial: int) -> datetime | None:
        """When the certificate of this serial number was revoked, or None."""
        return self.entries.get(serial)
