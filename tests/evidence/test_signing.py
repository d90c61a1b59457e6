"""Laws of accepting a submitter's signature, on SQLite and on PostgreSQL."""

import base64
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from databases import KINDS, empty_database
from gmssl.sm2 import CryptSM2

from clock import ManualClock
from evidence.access import Access, Role
from evidence.errors import Conflict, NotFound, SettingWrong
from evidence.sandbox_ca import SandboxAuthority
from evidence.signing import Signing
from evidence.store import make_engine
from evidence.tables import METADATA
from models import signature as sm2
from models.certificate import CA_USAGE, Certificate, RevocationList, issue, make_crl, make_csr
from models.checkpoint import NOTE_TYPE, STATEMENT_TYPE, vkey
from models.digest import sm3
from models.errors import Malformed, VerificationError
from models.libcrypto import load
from models.signature import SM2Signer, rs_to_der, verify

S = b'{"client_key":"k","format":"cz-statement/1"}'
DAY = timedelta(days=1)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Desk:
    """A service's view of signatures, with a sandbox authority and one submitter who holds a certificate and a key."""

    def __init__(self, path: Path, url: str, clock: ManualClock) -> None:
        self.clock = clock
        self.engine = make_engine(url, readers=0)
        METADATA.create_all(self.engine)
        self.access = Access(self.engine, clock=clock)
        for account in ("desk-1", "desk-2"):
            self.access.add(account, roles=[Role.BUSINESS], subject=("s1", "示例证券"), expires_at=None)
        self.authority = SandboxAuthority(path, clock=clock)
        self.authority.create()
        self.signer = SM2Signer.generate()
        self.certificate = self.certify(self.signer)
        self.access.register_certificate("desk-1", self.certificate.der)
        self.key = vkey("desk-1", self.signer.public_key, STATEMENT_TYPE)
        self.access.register_key("desk-1", str(self.key))
        self.signing = Signing(self.access, ca_folder=self.authority.folder)

    def certify(self, signer: SM2Signer, days: int = 10) -> Certificate:
        csr = make_csr("CN=desk,O=示例证券", signer=signer)
        return self.authority.sign_request(csr, not_after=self.clock() + days * DAY)

    def value(self, raw: bytes | None = None, **changes: Any) -> dict[str, Any]:
        raw = self.signer.sign(S) if raw is None else raw
        return {"certificate": b64(self.certificate.der), "encoding": "rs", "value": b64(raw)} | changes

    def accept(self, value: Any, account: str = "desk-1", statement: bytes = S) -> Any:
        return self.signing.accept(statement, value, account=account, at=self.clock())


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Desk]:
    url = empty_database(request, tmp_path / "main.db")
    desk = Desk(tmp_path, url, clock)
    yield desk
    desk.engine.dispose()


@pytest.fixture
def desk(tmp_path: Path, clock: ManualClock) -> Iterator[Desk]:
    found = Desk(tmp_path, f"sqlite:///{tmp_path}/main.db", clock)
    yield found
    found.engine.dispose()


def test_signature_is_accepted_under_a_certificate_named_in_any_way(both: Desk) -> None:
    raw = both.signer.sign(S)
    digest = both.certificate.digest.value.hex()
    for named in (digest, b64(both.certificate.der), both.certificate.to_pem().decode()):
        accepted = both.accept(both.value(raw, certificate=named))
        assert (accepted.signer, accepted.value, accepted.by_certificate) == (digest, raw, True)
    assert both.accept(both.value(rs_to_der(raw), encoding="der")).value == raw
    without = both.value(raw)
    del without["encoding"]
    assert both.accept(without).value == raw


def test_signature_is_accepted_under_a_registered_key(both: Desk) -> None:
    value = {"key_id": both.key.key_id.hex(), "encoding": "rs", "value": b64(both.signer.sign(S))}
    accepted = both.accept(value)
    assert (accepted.signer, accepted.by_certificate) == (both.key.key_id.hex(), False)
    with pytest.raises(VerificationError, match="not registered for this account"):
        both.accept(value, account="desk-2")
    with pytest.raises(VerificationError, match="not registered for this account"):
        both.accept(value | {"key_id": "00000000"})


def test_refuses_an_altered_statement_or_signature(desk: Desk) -> None:
    raw = desk.signer.sign(S)
    for place in (0, 31, 32, 63):
        altered = bytearray(raw)
        altered[place] ^= 1
        with pytest.raises(VerificationError, match="signature is refused"):
            desk.accept(desk.value(bytes(altered)))
    with pytest.raises(VerificationError, match="signature is refused"):
        desk.accept(desk.value(raw), statement=S + b" ")
    with pytest.raises(VerificationError, match="signature is refused"):
        desk.accept(desk.value(SM2Signer.generate().sign(S)))


def test_refuses_a_certificate_of_another_account_or_of_none(desk: Desk) -> None:
    with pytest.raises(VerificationError, match="not registered for this account"):
        desk.accept(desk.value(), account="desk-2")
    stranger = desk.certify(desk.signer)
    with pytest.raises(VerificationError, match="not registered for this account"):
        desk.accept(desk.value(certificate=b64(stranger.der)))


def test_refuses_a_certificate_of_an_authority_that_is_not_accepted(desk: Desk, tmp_path: Path) -> None:
    other = SandboxAuthority(tmp_path / "other", clock=desk.clock)
    other.create()
    certificate = other.sign_request(make_csr("CN=desk", signer=desk.signer), not_after=desk.clock() + DAY)
    desk.access.register_certificate("desk-1", certificate.der)
    with pytest.raises(VerificationError):
        desk.accept(desk.value(certificate=b64(certificate.der)))
    alone = Signing(desk.access, ca_folder=None)
    with pytest.raises(VerificationError, match="unknown authority"):
        alone.accept(S, desk.value(), account="desk-1", at=desk.clock())


def test_refuses_an_expired_certificate_and_one_not_yet_valid(desk: Desk) -> None:
    value = desk.value()
    desk.accept(value)
    desk.clock.advance(10 * 86_400)
    desk.accept(value)
    desk.clock.advance(1)
    with pytest.raises(VerificationError, match="had expired"):
        desk.accept(value)
    desk.clock.set(datetime(2025, 12, 31, tzinfo=UTC))
    with pytest.raises(VerificationError, match="not yet valid"):
        desk.accept(value)


def test_revocation_counts_from_its_time_on(desk: Desk) -> None:
    value = desk.value()
    before = desk.clock()
    desk.accept(value)
    desk.clock.advance(5)
    desk.authority.revoke(desk.certificate.serial)
    with pytest.raises(VerificationError, match="was revoked"):
        desk.accept(value)
    assert desk.signing.accept(S, value, account="desk-1", at=before).value == base64.b64decode(value["value"])


def test_refuses_where_no_revocation_list_speaks(desk: Desk) -> None:
    (desk.authority.folder / "ca.crl").unlink()
    with pytest.raises(VerificationError, match="no revocation list covers"):
        desk.accept(desk.value())


def test_refuses_a_certificate_for_another_usage(desk: Desk) -> None:
    ca = desk.authority
    begin, end = desk.clock(), desk.clock() + DAY
    der = issue(
        "CN=desk",
        desk.signer.public_key,
        signer=ca._signer(ca.certificate),
        issuer=ca.certificate,
        serial=77,
        not_before=begin,
        not_after=end,
        key_usage={"key_agreement"},
    )
    desk.access.register_certificate("desk-1", der)
    with pytest.raises(VerificationError, match="another usage"):
        desk.accept(desk.value(certificate=b64(der)))


def without_z(desk: Desk) -> bytes:
    """Signed by a library that takes the digest itself for e."""
    der = base64.b64decode(b"".join(desk.signer.to_pem().splitlines()[1:-1]))
    # The 32 bytes of the key stand after this header in its PKCS#8 form.
    private = int.from_bytes(der[der.index(b"\x02\x01\x01\x04\x20") + 5 :][:32])
    crypt = CryptSM2(private_key=f"{private:064x}", public_key=desk.signer.public_key[1:].hex())
    crypt.public_key = desk.signer.public_key[1:].hex()
    return bytes.fromhex(crypt.sign(sm3(S), os.urandom(31).hex()))


MISTAKES: dict[str, tuple[Callable[[Desk], dict[str, Any]], str]] = {
    "der-as-rs": (lambda desk: desk.value(rs_to_der(desk.signer.sign(S))), "it is DER, but was sent as r‖s"),
    "rs-as-der": (lambda desk: desk.value(encoding="der"), "it is r‖s, but was sent as DER"),
    "hex-for-base64": (lambda desk: desk.value(value=desk.signer.sign(S).hex()), "it is hex text, expected base64 of the bytes"),
    "base64-of-hex": (lambda desk: desk.value(desk.signer.sign(S).hex().encode()), "it is base64 of hex text"),
    "no-user-id": (
        lambda desk: desk.value(sm2.der_to_rs(load().sign(desk.signer._key, S, b""))),
        "without the user id 1234567812345678",
    ),
    "no-z": (lambda desk: desk.value(without_z(desk)), "over SM3(S) alone, without the user id and the key"),
    "digest-signed": (lambda desk: desk.value(desk.signer.sign(sm3(S))), "over SM3(S), not over S itself"),
    "digest-hex-signed": (lambda desk: desk.value(desk.signer.sign(sm3(S).hex().encode())), "over the hex text of SM3(S)"),
    "hex-signed": (lambda desk: desk.value(desk.signer.sign(S.hex().encode())), "over the hex text of S"),
    "newline": (lambda desk: desk.value(desk.signer.sign(S + b"\n")), "S and a final newline"),
    "halves-swapped": (lambda desk: desk.value((raw := desk.signer.sign(S))[32:] + raw[:32]), "s stands before r"),
    "two-at-once": (
        lambda desk: desk.value(rs_to_der(desk.signer.sign(sm3(S)))),
        "it is DER, but was sent as r‖s; and it was made over SM3(S)",
    ),
}


@pytest.mark.parametrize(("make", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_refused_signature_names_the_mistake_that_would_have_passed(
    desk: Desk, make: Callable[[Desk], dict[str, Any]], said: str
) -> None:
    with pytest.raises(VerificationError) as refused:
        desk.accept(make(desk))
    assert said in refused.value.message
    assert refused.value.hint == "correct this; all else is right"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {},
        {"value": "AA=="},
        {"certificate": "x", "key_id": "y", "value": "AA=="},
        {"certificate": 5, "value": "AA=="},
        {"certificate": "not a certificate", "value": "AA=="},
        {"certificate": "-----BEGIN CERTIFICATE-----\n", "value": "AA=="},
    ],
    ids=repr,
)
def test_refuses_a_signature_of_wrong_form(desk: Desk, value: Any) -> None:
    with pytest.raises(Malformed):
        desk.accept(value)


@pytest.mark.parametrize("changes", [{"encoding": "pem"}, {"value": 5}, {"value": "A" * 1025}, {"value": None}], ids=repr)
def test_refuses_an_encoding_or_value_of_wrong_form(desk: Desk, changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        desk.accept(desk.value(**changes))


@pytest.mark.parametrize("text", ["", "!", "AA==", "ff", "é", "00" * 64, "A" * 1000], ids=repr)
def test_refuses_a_value_that_is_no_signature_without_an_exception_of_another_kind(desk: Desk, text: str) -> None:
    for encoding in ("rs", "der"):
        with pytest.raises(VerificationError, match="signature is refused"):
            desk.accept(desk.value(value=text, encoding=encoding))


def test_key_and_certificate_belong_to_one_account_only(both: Desk) -> None:
    both.access.register_key("desk-1", str(both.key))
    both.access.register_certificate("desk-1", both.certificate.to_pem())
    with pytest.raises(Conflict):
        both.access.register_certificate("desk-2", both.certificate.der)
    with pytest.raises(Conflict):
        both.access.register_key("desk-2", str(vkey("desk-2", both.signer.public_key, STATEMENT_TYPE)))
    with pytest.raises(NotFound):
        both.access.register_certificate("nobody", both.certify(SM2Signer.generate()).der)
    with pytest.raises(Malformed, match="named as the account"):
        both.access.register_key("desk-2", str(both.key))
    with pytest.raises(Malformed, match="statement"):
        both.access.register_key("desk-1", str(vkey("desk-1", SM2Signer.generate().public_key, NOTE_TYPE)))
    assert both.access.submitter_keys("desk-1") == both.access.submitter_keys() == (both.key,)
    assert both.access.certificates() == (("desk-1", both.certificate),)


def test_every_certificate_can_be_fetched_and_no_other_thing(both: Desk) -> None:
    node = both.certify(SM2Signer.generate())
    both.access.register_certificate(None, node.der)
    for certificate in (both.certificate, node):
        assert both.access.certificate(certificate.digest.value) == certificate.der
    with pytest.raises(NotFound, match="not registered"):
        both.access.certificate(bytes(32))
    with pytest.raises(VerificationError, match="not registered for this account"):
        both.accept(both.value(certificate=node.digest.value.hex()))


def test_trust_file_entries_name_authorities_and_submitters(both: Desk) -> None:
    (authority,) = both.signing.authorities()
    assert Certificate.parse(authority.certificate.encode()) == both.authority.certificate
    assert [(entry.account, entry.vkey, entry.certificate) for entry in both.signing.submitters()] == [
        ("desk-1", both.key, None),
        ("desk-1", None, both.certificate.digest.value),
    ]


def test_bundle_files_hold_what_judges_the_signature_also_after_the_list_was_replaced(both: Desk) -> None:
    digest = both.certificate.digest.value
    both.accept(both.value())
    files = both.signing.bundle_files([digest, digest])
    assert sorted(files) == ["certs/0.cer", "certs/0.crl"]
    assert files["certs/0.cer"] == both.certificate.der
    assert files == both.signing.bundle_files([digest])
    both.clock.advance(40 * 86_400)
    both.authority.refresh_list()
    assert both.signing.bundle_files([digest]) == files
    assert RevocationList.parse(files["certs/0.crl"]).this_update <= both.certificate.not_after
    with pytest.raises(NotFound):
        both.signing.bundle_files([bytes(32)])
    assert both.signing.bundle_files([]) == {}


def test_path_over_an_intermediate_is_accepted_and_bundled(desk: Desk) -> None:
    ca, middle = desk.authority, SM2Signer.generate()
    begin, end = desk.clock(), desk.clock() + 100 * DAY
    root_signer = ca._signer(ca.certificate)
    issued = partial(issue, not_before=begin, not_after=end)
    der = issued("CN=middle", middle.public_key, signer=root_signer, issuer=ca.certificate, serial=5, key_usage=CA_USAGE)
    between = Certificate.parse(der)
    leaf = Certificate.parse(issued("CN=leaf", desk.signer.public_key, signer=middle, issuer=between, serial=6))
    (ca.folder / "middle.cer").write_bytes(der)
    crl = make_crl(between, {}, signer=middle, number=1, this_update=begin, next_update=end)
    (ca.folder / "middle.crl").write_bytes(crl)
    desk.access.register_certificate("desk-1", leaf.der)
    assert desk.accept(desk.value(certificate=b64(leaf.der))).signer == leaf.digest.value.hex()
    files = desk.signing.bundle_files([leaf.digest.value])
    assert [files["certs/0.cer"], files["certs/1.cer"]] == [leaf.der, der]
    assert len(files) == 4
    assert len(desk.signing.authorities()) == 1


@pytest.mark.parametrize("name", ["bad.pem", "bad.cer", "bad.crl"])
def test_folder_with_a_file_that_cannot_be_read_is_refused_and_named(desk: Desk, name: str) -> None:
    (desk.authority.folder / name).write_bytes(b"half a fi")
    with pytest.raises(SettingWrong, match=rf"EVIDENCE_CA_FOLDER .*{name}"):
        Signing(desk.access, ca_folder=desk.authority.folder)
    with pytest.raises(SettingWrong):
        desk.accept(desk.value())
    (desk.authority.folder / name).unlink()
    desk.accept(desk.value())
    with pytest.raises(SettingWrong, match="cannot be read"):
        Signing(desk.access, ca_folder=desk.authority.folder / "none")


def test_authority_is_made_once_and_certifies_once(tmp_path: Path, clock: ManualClock) -> None:
    authority = SandboxAuthority(tmp_path, clock=clock)
    assert authority.create()
    first = authority.certificate
    assert not authority.create()
    assert authority.certificate == first
    node = SM2Signer.generate()
    window = {"not_before": clock(), "not_after": clock() + DAY}
    certificate = authority.certify("node-1", "CN=node-1", node.public_key, **window)
    assert authority.certify("node-1", "CN=node-1", node.public_key, **window) == certificate
    assert verify(first.public_key, certificate.signed, certificate.signature) is None  # type: ignore[func-returns-value]
    with pytest.raises(Exception, match=r"node-1\.cer is of another key"):
        authority.certify("node-1", "CN=node-1", SM2Signer.generate().public_key, **window)
    with pytest.raises(Malformed):
        authority.certify("../x", "CN=x", node.public_key, **window)
    assert sorted(path.name for path in (tmp_path / "certs").iterdir()) == ["ca.cer", "ca.crl", "node-1.cer"]


def test_revoking_twice_keeps_the_first_time(tmp_path: Path, clock: ManualClock) -> None:
    authority = SandboxAuthority(tmp_path, clock=clock)
    authority.create()
    first = authority.revoke(9).revoked(9)
    clock.advance(100)
    assert authority.revoke(9).revoked(9) == first
    clock.advance(60 * 86_400)
    assert authority.refresh_list().revoked(9) == first
    assert authority.refresh_list().this_update == clock()
