"""The submitter's signature over S: who may sign for an account, and what is refused, with the reason.

A refused signature is tried again with the mistakes that signers commonly make; if one of them
would have passed, the answer names it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Column, LargeBinary, Table, insert, select

from evidence.access import Access
from evidence.authorities import Accepted, AuthorityFolder
from evidence.tables import COUNTER, METADATA
from models.canonical import JSONValue, unb64
from models.certificate import Certificate, RevocationList, verify_path
from models.digest import is_hex, sm3
from models.errors import EvidenceError, Malformed, Undecided, VerificationError
from models.evidence import Signature
from models.signature import SIGNATURE_BYTES, USER_ID, check_signature, der_to_rs, verify
from models.trust import Authority, Submitter

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REMEMBERED = timedelta(seconds=1)
MAX_REMEMBERED = 4096

# Every revocation list that a signature was accepted by: a bundle needs it after the authority replaced it.
_list = Table(
    "revocation_list",
    METADATA,
    Column("number", COUNTER, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("issuer", LargeBinary, nullable=False),
    Column("this_ms", COUNTER, nullable=False),
    Column("der", LargeBinary, nullable=False),
)


class _Path(NamedTuple):
    """A certificate's path as it was last found to hold."""

    at: datetime
    mark: object


class Signing:
    """Accepts signatures of submitters, and says to bundles and trust files by whom. Threads may share it.

    Raises: SettingWrong if the folder of authorities cannot be used.
    """

    def __init__(self, access: Access, *, ca_folder: Path | None) -> None:
        self._access = access
        self._folder = AuthorityFolder(ca_folder)
        self._folder.read()
        self._paths: dict[bytes, _Path] = {}
        self._kept: set[bytes] = set()

    def accept(self, statement: bytes, value: JSONValue, *, account: str, at: datetime) -> Signature:
        """The signature as it will stand in E: made over these very bytes, for this account, under what is valid at `at`.

        Shapes: `value` as the member `signature` of a submission: certificate (hex SM3 of a
            registered one, PEM, or base64 of DER) or key_id, encoding rs or der, value base64.
        Raises: Malformed if the form is wrong; VerificationError if the signature does not verify,
            or key or certificate are unknown here, another account's, expired, revoked or not of an
            accepted authority; its hint names a common mistake that would have passed.
        Source: T/SAC 004—2024 6.4.3-a, 6.4.3-b; formats §2.3, §4 check 8.
        """
        if not isinstance(value, dict) or len({"certificate", "key_id"} & set(value)) != 1:
            raise Malformed("signature has wrong form: expected certificate or key_id, encoding and value")
        certificate = None
        if "certificate" in value:
            certificate = self._certificate(value["certificate"], account)
            signer, public_key = certificate.digest.value.hex(), certificate.public_key
        else:
            signer, public_key = self._key(value["key_id"], account)
        raw = self._verified(public_key, statement, value)
        if certificate is not None:
            self._check_path(certificate, at)
        return Signature(signer, raw)

    def authorities(self) -> tuple[Authority, ...]:
        """The accepted authorities, as a trust file names them."""
        accepted, _ = self._folder.read()
        return tuple(Authority(anchor.to_pem().decode()) for anchor in accepted.anchors)

    def submitters(self) -> tuple[Submitter, ...]:
        """The keys and certificates of all accounts, as a trust file names them."""
        keys = [Submitter(key.name, vkey=key) for key in self._access.submitter_keys()]
        for account, certificate in self._access.certificates():
            if account is not None:
                keys.append(Submitter(account, certificate=certificate.digest.value))
        return tuple(keys)

    def bundle_files(self, digests: Sequence[bytes]) -> dict[str, bytes]:
        """`certs/N.cer` and `certs/N.crl` that judge signatures under these certificates, in a fixed order.

        Each leaf, then the intermediates above it by name, then per authority its newest list that
        still speaks of the leaf: one made before the leaf's end, since authorities drop what has expired.
        Raises: NotFound if a certificate is not registered; SettingWrong.
        """
        accepted, _ = self._folder.read()
        found: dict[bytes, Certificate] = {}
        lists: dict[bytes, RevocationList] = {}
        for digest in digests:
            chain = [Certificate.parse(self._access.certificate(digest))]
            found.setdefault(digest, chain[0])
            for certificate in chain:
                above = [one for one in accepted.intermediates if one.subject_der == certificate.issuer_der and one not in chain]
                chain += above
                found.update((one.digest.value, one) for one in above)
                newest = self._newest_list(certificate, accepted)
                if newest is not None:
                    lists[newest.digest.value] = newest
        files = {f"certs/{number}.cer": certificate.der for number, certificate in enumerate(found.values())}
        files |= {f"certs/{number}.crl": one.der for number, one in enumerate(lists.values())}
        return files

    def _newest_list(self, certificate: Certificate, accepted: Accepted) -> RevocationList | None:
        query = select(_list.c.der).where(_list.c.issuer == certificate.issuer_der).order_by(_list.c.this_ms)
        with self._access.reading() as connection:
            stored = [RevocationList.parse(bytes(der)) for der in connection.execute(query).scalars()]
        own = [one for one in (*stored, *accepted.lists) if one.issuer_der == certificate.issuer_der]
        speaking = [one for one in own if one.this_update <= certificate.not_after]
        return max(speaking or own, key=lambda one: (one.this_update, one.der), default=None)

    def _certificate(self, text: JSONValue, account: str) -> Certificate:
        if not isinstance(text, str):
            raise Malformed("certificate is not a text: expected PEM, base64 of DER, or hex SM3 of a registered one")
        own = {certificate.digest.value: certificate for _, certificate in self._access.certificates(account)}
        if is_hex(text):
            digest = bytes.fromhex(text)
        elif text.lstrip().startswith("-----BEGIN"):
            digest = Certificate.parse(text.encode()).digest.value
        else:
            digest = Certificate.parse(unb64(text, what="certificate")).digest.value
        if digest not in own:
            raise VerificationError(
                f"certificate is not registered for this account ({digest.hex()[:8]}…)", hint="ask an operator to register it"
            )
        return own[digest]

    def _key(self, key_id: JSONValue, account: str) -> tuple[str, bytes]:
        for key in self._access.submitter_keys(account):
            if key.key_id.hex() == key_id:
                return key.key_id.hex(), key.public_key
        hint = "key_id is 8 hex digits; ask an operator to register the key"
        raise VerificationError("key is not registered for this account", hint=hint)

    def _verified(self, public_key: bytes, statement: bytes, value: dict[str, JSONValue]) -> bytes:
        encoding, text = value.get("encoding", "rs"), value.get("value")
        if encoding not in ("rs", "der"):
            raise Malformed("encoding of the signature has wrong value: expected rs or der")
        if not isinstance(text, str) or len(text) > 1024:
            raise Malformed("value of the signature is not a short text: expected base64 of 64 bytes r‖s, or of DER")
        try:
            data = unb64(text, what="signature value")
            raw = der_to_rs(data) if encoding == "der" else data
            verify(public_key, statement, raw)
        except EvidenceError as error:
            mistake = next((said for said, passes in _mistakes(public_key, statement, text, encoding) if passes), None)
            if mistake is not None:
                raise VerificationError(f"signature is refused: {mistake}", hint="correct this; all else is right") from error
            raise VerificationError(f"signature is refused: {error.message}", hint="sign the exact bytes of S") from error
        return raw

    def _check_path(self, certificate: Certificate, at: datetime) -> None:
        accepted, mark = self._folder.read()
        known = self._paths.get(certificate.digest.value)
        if known is not None and known.mark == mark and timedelta(0) <= at - known.at < REMEMBERED:
            return
        try:
            path = verify_path(certificate, accepted.intermediates, accepted.anchors, at=at, crls=accepted.lists)
        except Undecided as error:
            # What cannot be told is not accepted: whoever signs brings a certificate that can be judged.
            raise VerificationError(f"certificate is not accepted: {error.message}") from error
        self._keep_lists(path, accepted)
        if len(self._paths) >= MAX_REMEMBERED:
            self._paths.clear()
        self._paths[certificate.digest.value] = _Path(at, mark)

    def _keep_lists(self, path: Sequence[Certificate], accepted: Accepted) -> None:
        issuers = {certificate.issuer_der for certificate in path[:-1]}
        new = [one for one in accepted.lists if one.issuer_der in issuers and one.digest.value not in self._kept]
        if not new:
            return
        with self._access.writing() as connection:
            for one in new:
                if connection.execute(select(_list.c.number).where(_list.c.digest == one.digest.value)).one_or_none() is None:
                    this_ms = (one.this_update - _EPOCH) // timedelta(milliseconds=1)
                    row = {"digest": one.digest.value, "issuer": one.issuer_der, "this_ms": this_ms, "der": one.der}
                    connection.execute(insert(_list), row)
        self._kept |= {one.digest.value for one in new}


def _holds(public_key: bytes, message: bytes, raw: bytes, user_id: bytes = USER_ID) -> bool:
    try:
        verify(public_key, message, raw, user_id=user_id)
    except VerificationError:
        return False
    return True


def _holds_without_z(public_key: bytes, message: bytes, raw: bytes) -> bool:
    """Whether it is a signature over e = SM3(message), as whoever leaves Z out makes it; OpenSSL has no call for that."""
    from gmssl.sm2 import CryptSM2  # noqa: PLC0415 - needed for refused signatures only

    try:
        check_signature(raw)
        crypt = CryptSM2(private_key="", public_key=public_key[1:].hex())
        # Its constructor strips leading zeros and fours from the key.
        crypt.public_key = public_key[1:].hex()
        return bool(crypt.verify(raw.hex(), sm3(message)))
    except (Malformed, TypeError):
        # TypeError: the point at infinity, for which nothing verifies.
        return False


def _mistakes(public_key: bytes, statement: bytes, text: str, encoding: str) -> Iterator[tuple[str, bool]]:
    """(what was done wrong, whether the signature verifies once that is allowed for), the commonest first.

    At most a dozen verifications: this runs for refused signatures only, and must not be a way to keep us busy.
    """
    messages = (
        ("it was made without the user id 1234567812345678", statement, b""),
        ("it was made over SM3(S), not over S itself", sm3(statement), USER_ID),
        ("it was made over the hex text of SM3(S), not over the bytes of S", sm3(statement).hex().encode(), USER_ID),
        ("it was made over the hex text of S, not over its bytes", statement.hex().encode(), USER_ID),
        ("it was made over S and a final newline", statement + b"\n", USER_ID),
    )
    forms = list(_forms(text, encoding))
    for said, raw in forms:
        if said:
            yield said, _holds(public_key, statement, raw)
            yield f"{said}; and s stands before r", _holds(public_key, statement, raw[32:] + raw[:32])
        else:
            yield "s stands before r", _holds(public_key, statement, raw[32:] + raw[:32])
    for said, raw in forms[:1]:
        for also, message, user_id in messages:
            yield f"{said}; and {also}" if said else also, _holds(public_key, message, raw, user_id)
        also = "it was made over SM3(S) alone, without the user id and the key (Z)"
        yield f"{said}; and {also}" if said else also, _holds_without_z(public_key, statement, raw)


def _forms(text: str, encoding: str) -> Iterator[tuple[str, bytes]]:
    """(mistake of form or nothing, r‖s) for each way in which the text can be read as a signature."""
    ways: list[tuple[str, bytes]] = []
    for said, data in _readings(text):
        if len(data) == SIGNATURE_BYTES:
            ways.append((said or ("" if encoding == "rs" else "it is r‖s, but was sent as DER"), data))
        else:
            try:
                ways.append((said or ("" if encoding == "der" else "it is DER, but was sent as r‖s"), der_to_rs(data)))
            except Malformed:
                continue
    yield from ways


def _readings(text: str) -> Iterator[tuple[str, bytes]]:
    with suppress(ValueError):
        yield "it is hex text, expected base64 of the bytes", bytes.fromhex(text)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return
    yield "", data
    with suppress(ValueError):
        yield "it is base64 of hex text, expected base64 of the bytes", bytes.fromhex(data.decode("ascii"))
