"""Certificates, requests and revocation lists with SM2 and SM3, made.

For the platform's own sandbox authority and for the keys of nodes; a production CA is somebody
else's. Serial numbers and times are parameters, and so is the signer: its key may be in a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from cryptography import x509

from models.digest import sm3
from models.errors import Malformed
from models.signature import Signer, check_public_key, rs_to_der
from models.x509 import KEY_USAGES, SM2_WITH_SM3, SPKI_PREFIX, Certificate, Request, tlv

LEAF_USAGE = frozenset({"digital_signature", "content_commitment"})
CA_USAGE = frozenset({"key_cert_sign", "crl_sign"})
_MAX_SERIAL = 1 << 159


def _integer(number: int) -> bytes:
    return tlv(2, number.to_bytes(number.bit_length() // 8 + 1))


def _time(moment: datetime) -> bytes:
    """UTCTime until 2049, then GeneralizedTime (RFC 5280 4.1.2.5), cut to the second."""
    if moment.tzinfo is None:
        raise Malformed("time has no zone")
    moment = moment.astimezone(UTC)
    text = f"{moment.year:04d}{moment:%m%d%H%M%S}Z"
    return tlv(0x17, text[2:].encode()) if 1950 <= moment.year < 2050 else tlv(0x18, text.encode())


def _name(text: str) -> bytes:
    try:
        return x509.Name.from_rfc4514_string(text).public_bytes()
    except ValueError as error:
        raise Malformed("subject has wrong form: expected RFC 4514, for example CN=name,O=organisation,C=CN") from error


def subject_form(text: str) -> str:
    """The RFC 4514 text as `Certificate.subject` writes it, so that the two can be compared.

    Raises: Malformed if it is not RFC 4514.
    """
    try:
        return x509.Name.from_rfc4514_string(text).rfc4514_string()
    except ValueError as error:
        raise Malformed("subject has wrong form: expected RFC 4514, for example CN=name,O=organisation,C=CN") from error


def _extension(value: x509.ExtensionType, critical: bytes = b"") -> bytes:
    oid = tlv(6, _oid(value.oid.dotted_string))
    return tlv(0x30, oid + critical + tlv(4, value.public_bytes()))


_CRITICAL = tlv(1, b"\xff")


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    encoded = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        encoded += bytes(reversed(groups))
    return bytes(encoded)


def _key_id(public_key: bytes) -> bytes:
    # RFC 5280 4.2.1.2 leaves the method open; SHA-1 has no place here, so the first 20 bytes of SM3.
    return sm3(public_key)[:20]


def _key_usage(usage: Collection[str]) -> x509.KeyUsage:
    unknown = set(usage) - set(KEY_USAGES)
    if unknown or not usage:
        raise Malformed(f"key usage is unknown or empty: expected some of {', '.join(KEY_USAGES)}")
    try:
        return x509.KeyUsage(**{name: name in usage for name in KEY_USAGES})
    except ValueError as error:
        raise Malformed("key usage contradicts itself: encipher_only and decipher_only need key_agreement") from error


def _sign(tbs: bytes, signer: Signer) -> bytes:
    value = rs_to_der(signer.sign(tbs))
    return tlv(0x30, tbs + SM2_WITH_SM3 + tlv(3, b"\x00" + value))


def _check_serial(serial: int) -> None:
    if not 0 < serial < _MAX_SERIAL:
        raise Malformed("serial number is out of range: expected 1 to 20 bytes, positive")


def issue(
    subject: str | Request,
    public_key: bytes,
    *,
    signer: Signer,
    issuer: Certificate | None,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    key_usage: Collection[str] = LEAF_USAGE,
    path_length: int | None = None,
) -> bytes:
    """A certificate for `public_key`; it is a CA's iff `key_usage` holds key_cert_sign.

    `issuer` None makes a self-signed one. `subject` is RFC 4514 text, or a request, whose name is
    taken over byte for byte.

    Shapes: public key 65 bytes, serial 1 ≤ n < 2¹⁵⁹ → DER.
    Raises: Malformed if a name, key, serial, time or usage is wrong, or the signer's key is not the issuer's.
    Source: RFC 5280 4; GM/T 0015—2012; 6.4.3-a.
    """
    check_public_key(public_key)
    _check_serial(serial)
    if not_before > not_after:
        raise Malformed("certificate would end before it begins")
    if isinstance(subject, Request) and subject.public_key != public_key:
        raise Malformed("public key is not the one of the request")
    if signer.public_key != (issuer.public_key if issuer else public_key):
        raise Malformed("signer is not the issuer: expected the key of the issuing certificate")
    is_ca = "key_cert_sign" in key_usage
    if path_length is not None and not is_ca:
        raise Malformed("path length is given for a certificate that is no CA")
    subject_der = subject.subject_der if isinstance(subject, Request) else _name(subject)
    if len(subject_der) <= 2:
        raise Malformed("subject is empty")
    authority = issuer.key_identifier if issuer else _key_id(public_key)
    extensions = [
        _extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), _CRITICAL),
        _extension(_key_usage(key_usage), _CRITICAL),
        _extension(x509.SubjectKeyIdentifier(_key_id(public_key))),
    ]
    if authority is not None:
        extensions.append(_extension(x509.AuthorityKeyIdentifier(authority, None, None)))
    tbs = tlv(
        0x30,
        tlv(0xA0, _integer(2))
        + _integer(serial)
        + SM2_WITH_SM3
        + (issuer.subject_der if issuer else subject_der)
        + tlv(0x30, _time(not_before) + _time(not_after))
        + subject_der
        + SPKI_PREFIX
        + public_key
        + tlv(0xA3, tlv(0x30, b"".join(extensions))),
    )
    return _sign(tbs, signer)


def make_csr(subject: str, *, signer: Signer) -> bytes:
    """A certificate request for the signer's key, signed by it.

    Shapes: subject RFC 4514 → DER.
    Raises: Malformed if the subject is not RFC 4514.
    Source: RFC 2986 4.
    """
    return _sign(tlv(0x30, _integer(0) + _name(subject) + SPKI_PREFIX + signer.public_key + tlv(0xA0, b"")), signer)


def make_crl(
    issuer: Certificate,
    revoked: Mapping[int, datetime],
    *,
    signer: Signer,
    number: int,
    this_update: datetime,
    next_update: datetime,
) -> bytes:
    """The issuer's list of revoked serial numbers, each with its time.

    Shapes: `number` grows with each list, below 2¹⁵⁹ → DER.
    Raises: Malformed if a serial, number or time is wrong, or the signer's key is not the issuer's.
    Source: RFC 5280 5.
    """
    if signer.public_key != issuer.public_key:
        raise Malformed("signer is not the issuer: expected the key of the issuing certificate")
    if this_update > next_update:
        raise Malformed("revocation list would end before it begins")
    if not 0 <= number < _MAX_SERIAL:
        raise Malformed("list number is out of range: expected 0 to 20 bytes")
    entries = bytearray()
    for serial, moment in sorted(revoked.items()):
        _check_serial(serial)
        entries += tlv(0x30, _integer(serial) + _time(moment))
    extensions = [_extension(x509.CRLNumber(number))]
    if issuer.key_identifier is not None:
        extensions.insert(0, _extension(x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None)))
    tbs = tlv(
        0x30,
        _integer(1)
        + SM2_WITH_SM3
        + issuer.subject_der
        + _time(this_update)
        + _time(next_update)
        + (tlv(0x30, bytes(entries)) if entries else b"")
        + tlv(0xA0, tlv(0x30, b"".join(extensions))),
    )
    return _sign(tbs, signer)
