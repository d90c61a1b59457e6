"""Certificates: read strictly, made as others read them, and judged at one moment."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.certificate import (
    CA_USAGE,
    Certificate,
    RevocationList,
    issue,
    make_crl,
    make_csr,
    parse_csr,
    subject_form,
    to_pem,
    verify_path,
)
from models.digest import sm3
from models.errors import EvidenceError, Malformed, Undecided, Unknown, VerificationError
from models.signature import SM2Signer, rs_to_der
from models.x509 import SM2_WITH_SM3, SPKI_PREFIX, children, tlv

NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)
DAY = timedelta(days=1)
FROM, UNTIL = NOW - 30 * DAY, NOW + 30 * DAY
ROOT_KEY, SUB_KEY, LEAF_KEY, OTHER_KEY = (SM2Signer.generate() for _ in range(4))


def make(
    subject: str = "CN=leaf,O=示例证券,C=CN",
    *,
    key: SM2Signer = LEAF_KEY,
    by: SM2Signer = ROOT_KEY,
    issuer: Certificate | None = None,
    serial: int = 7,
    start: datetime = FROM,
    end: datetime = UNTIL,
    usage: frozenset[str] = frozenset({"digital_signature"}),
    path_length: int | None = None,
) -> Certificate:
    der = issue(
        subject,
        key.public_key,
        signer=by,
        issuer=issuer,
        serial=serial,
        not_before=start,
        not_after=end,
        key_usage=usage,
        path_length=path_length,
    )
    return Certificate.parse(der)


ROOT = make("CN=root,C=CN", key=ROOT_KEY, serial=1, usage=CA_USAGE)
SUB = make("CN=sub,C=CN", key=SUB_KEY, issuer=ROOT, serial=2, usage=CA_USAGE, path_length=0)
LEAF = make(by=SUB_KEY, issuer=SUB)
DIRECT = make(issuer=ROOT, serial=9)


def crl(
    issuer: Certificate = ROOT,
    by: SM2Signer = ROOT_KEY,
    revoked: dict[int, datetime] | None = None,
    start: datetime = NOW - DAY,
    end: datetime = NOW + DAY,
) -> RevocationList:
    return RevocationList.parse(make_crl(issuer, revoked or {}, signer=by, number=1, this_update=start, next_update=end))


LISTS = (crl(), crl(SUB, SUB_KEY))


def test_certificate_says_what_was_issued() -> None:
    assert LEAF.subject == "CN=leaf,O=示例证券,C=CN"
    assert LEAF.issuer == SUB.subject == "CN=sub,C=CN"
    assert (LEAF.serial, LEAF.public_key) == (7, LEAF_KEY.public_key)
    assert (LEAF.not_before, LEAF.not_after) == (FROM, UNTIL)
    assert LEAF.key_usage == frozenset({"digital_signature"})
    assert (LEAF.is_ca, SUB.is_ca, SUB.path_length, ROOT.path_length) == (False, True, 0, None)
    assert LEAF.digest.value == sm3(LEAF.der)


def test_certificate_reads_the_same_from_pem() -> None:
    assert Certificate.parse(LEAF.to_pem()) == LEAF
    assert Certificate.parse(b"text before\n" + LEAF.to_pem()) == LEAF
    with pytest.raises(Malformed):
        Certificate.parse(LEAF.to_pem() + SUB.to_pem())
    with pytest.raises(Malformed):
        Certificate.parse(to_pem(LEAF.der, "X509 CRL"))


def test_path_leads_from_leaf_to_anchor() -> None:
    assert verify_path(LEAF, [SUB], [ROOT], at=NOW, crls=LISTS) == (LEAF, SUB, ROOT)
    assert verify_path(DIRECT, [], [ROOT], at=NOW, crls=LISTS) == (DIRECT, ROOT)
    assert verify_path(LEAF, [], [SUB], at=NOW, crls=LISTS) == (LEAF, SUB)


def test_certificate_that_is_itself_an_anchor_is_trusted_without_a_list() -> None:
    assert verify_path(LEAF, [], [LEAF], at=NOW) == (LEAF,)
    with pytest.raises(VerificationError, match="expired"):
        verify_path(LEAF, [], [LEAF], at=UNTIL + DAY)


@pytest.mark.parametrize(
    ("at", "word"), [(FROM - timedelta(seconds=1), "not yet valid"), (UNTIL + timedelta(seconds=1), "expired")]
)
def test_refuses_certificate_outside_its_time(at: datetime, word: str) -> None:
    lists = (crl(start=at - DAY, end=at + DAY),)
    with pytest.raises(VerificationError, match=word):
        verify_path(DIRECT, [], [ROOT], at=at, crls=lists)


@pytest.mark.parametrize("at", [FROM, UNTIL])
def test_certificate_holds_at_both_ends_of_its_time(at: datetime) -> None:
    verify_path(DIRECT, [], [ROOT], at=at, crls=(crl(start=at - DAY, end=at + DAY),))


def test_refuses_certificate_revoked_by_then_and_holds_before() -> None:
    lists = (crl(revoked={9: NOW - timedelta(hours=1)}, start=NOW, end=NOW + DAY),)
    verify_path(DIRECT, [], [ROOT], at=NOW - timedelta(hours=2), crls=lists)
    for at in (NOW - timedelta(hours=1), NOW, NOW + 10 * DAY):
        with pytest.raises(VerificationError, match="revoked"):
            verify_path(DIRECT, [], [ROOT], at=at, crls=lists)


def test_refuses_path_through_a_revoked_authority() -> None:
    with pytest.raises(VerificationError, match="revoked"):
        verify_path(LEAF, [SUB], [ROOT], at=NOW, crls=(crl(revoked={2: NOW - DAY}), LISTS[1]))


@pytest.mark.parametrize(
    "lists",
    [
        (),
        (crl(SUB, SUB_KEY),),
        (crl(start=NOW - 2 * DAY, end=NOW),),
        (crl(start=UNTIL + DAY, end=UNTIL + 2 * DAY),),
    ],
    ids=["none", "of another authority", "out of date", "after the certificate expired"],
)
def test_cannot_tell_without_a_list_for_that_time(lists: tuple[RevocationList, ...]) -> None:
    with pytest.raises(Undecided, match="revocation"):
        verify_path(DIRECT, [], [ROOT], at=NOW, crls=lists)


def test_later_list_covers_an_earlier_moment() -> None:
    verify_path(DIRECT, [], [ROOT], at=NOW, crls=(crl(start=NOW + 3 * DAY, end=NOW + 4 * DAY),))


def test_refuses_list_not_signed_by_its_authority() -> None:
    forged = replace(LISTS[0], signature=OTHER_KEY.sign(LISTS[0].signed))
    with pytest.raises(VerificationError, match="revocation list is not signed"):
        verify_path(DIRECT, [], [ROOT], at=NOW, crls=(forged,))


def test_cannot_tell_under_an_unknown_authority() -> None:
    stranger = make("CN=stranger", key=OTHER_KEY, by=OTHER_KEY, usage=CA_USAGE)
    with pytest.raises(Undecided, match="unknown authority"):
        verify_path(LEAF, [SUB], [stranger], at=NOW, crls=LISTS)
    with pytest.raises(Undecided, match="unknown authority"):
        verify_path(LEAF, [], [ROOT], at=NOW, crls=LISTS)


def test_authority_with_a_new_key_under_its_old_name_is_unknown_not_forged() -> None:
    renewed = make("CN=root,C=CN", key=OTHER_KEY, by=OTHER_KEY, serial=1, usage=CA_USAGE)
    with pytest.raises(Undecided):
        verify_path(DIRECT, [], [renewed], at=NOW, crls=LISTS)
    assert verify_path(DIRECT, [], [renewed, ROOT], at=NOW, crls=LISTS) == (DIRECT, ROOT)


@pytest.mark.parametrize("anchor", ["direct", "through another"])
def test_refuses_certificate_its_authority_did_not_sign(anchor: str) -> None:
    genuine, intermediates = (DIRECT, []) if anchor == "direct" else (LEAF, [SUB])
    forged = replace(genuine, signature=OTHER_KEY.sign(genuine.signed))
    with pytest.raises(VerificationError, match="not signed"):
        verify_path(forged, intermediates, [ROOT], at=NOW, crls=LISTS)


def test_refuses_certificate_for_another_usage() -> None:
    sealing = make(issuer=ROOT, usage=frozenset({"key_encipherment"}))
    with pytest.raises(VerificationError, match="usage"):
        verify_path(sealing, [], [ROOT], at=NOW, crls=LISTS)
    verify_path(sealing, [], [ROOT], at=NOW, crls=LISTS, usage="key_encipherment")


def test_refuses_leaf_that_issues_certificates() -> None:
    child = make("CN=child", key=OTHER_KEY, by=LEAF_KEY, issuer=DIRECT)
    with pytest.raises(VerificationError, match="no authority"):
        verify_path(child, [DIRECT], [ROOT], at=NOW, crls=(*LISTS, crl(DIRECT, LEAF_KEY)))


def test_refuses_path_longer_than_its_authority_allows() -> None:
    below = make("CN=below", key=OTHER_KEY, by=SUB_KEY, issuer=SUB, serial=3, usage=CA_USAGE)
    leaf = make(by=OTHER_KEY, issuer=below)
    with pytest.raises(VerificationError, match="shorter path"):
        verify_path(leaf, [below, SUB], [ROOT], at=NOW, crls=(*LISTS, crl(below, OTHER_KEY)))


def test_many_certificates_of_one_name_end_in_a_bounded_time() -> None:
    crowd = [make("CN=same", key=OTHER_KEY, by=OTHER_KEY, serial=n, usage=CA_USAGE) for n in range(1, 20)]
    leaf = make(by=OTHER_KEY, issuer=crowd[0])
    with pytest.raises(Undecided, match="too many"):
        verify_path(leaf, crowd, [ROOT], at=NOW)


def test_request_names_the_key_that_signed_it() -> None:
    request = parse_csr(make_csr("CN=leaf,O=示例证券", signer=LEAF_KEY))
    assert (request.subject, request.public_key) == ("CN=leaf,O=示例证券", LEAF_KEY.public_key)
    issued = Certificate.parse(
        issue(request, request.public_key, signer=ROOT_KEY, issuer=ROOT, serial=5, not_before=FROM, not_after=UNTIL)
    )
    assert issued.subject == request.subject
    body = children(request.der)[0]
    forged = tlv(0x30, body + SM2_WITH_SM3 + tlv(3, b"\0" + rs_to_der(OTHER_KEY.sign(body))))
    with pytest.raises(VerificationError):
        parse_csr(forged)


def reject(what: Callable[[], object], word: str) -> None:
    with pytest.raises(Malformed, match=word):
        what()


def test_refuses_to_issue_what_contradicts_itself() -> None:
    reject(lambda: make(by=OTHER_KEY, issuer=ROOT), "signer is not the issuer")
    reject(lambda: make(key=LEAF_KEY, by=OTHER_KEY), "signer is not the issuer")
    reject(lambda: make(issuer=ROOT, serial=0), "serial")
    reject(lambda: make(issuer=ROOT, serial=1 << 159), "serial")
    reject(lambda: make(issuer=ROOT, start=UNTIL, end=FROM), "ends? before|end before")
    reject(lambda: make(issuer=ROOT, path_length=1), "path length")
    reject(lambda: make(issuer=ROOT, usage=frozenset({"everything"})), "usage")
    reject(lambda: make(issuer=ROOT, usage=frozenset()), "usage")
    reject(lambda: make("no name", issuer=ROOT), "RFC 4514")
    reject(lambda: make("", issuer=ROOT), "empty")
    reject(make_crl_without_zone, "zone")
    reject(lambda: crl(by=OTHER_KEY), "signer is not the issuer")


def make_crl_without_zone() -> bytes:
    naive = NOW.replace(tzinfo=None)
    return make_crl(ROOT, {}, signer=ROOT_KEY, number=1, this_update=naive, next_update=naive)


def test_subject_has_one_form() -> None:
    assert subject_form("CN=a\\2cb") == "CN=a\\,b"
    with pytest.raises(Malformed):
        subject_form("leaf")


@pytest.mark.parametrize("year", [1949, 1950, 2049, 2050, 9999])
def test_time_keeps_its_year(year: int) -> None:
    at = datetime(year, 6, 1, tzinfo=UTC)
    assert make(issuer=ROOT, start=at, end=at).not_before == at


# --- strictness -----------------------------------------------------------------------------


def test_refuses_every_byte_after_the_end() -> None:
    for der, parse in ((LEAF.der, Certificate.parse), (LISTS[0].der, RevocationList.parse)):
        with pytest.raises(Malformed):
            parse(der + b"\0")
        with pytest.raises(Malformed):
            parse(der[:-1])


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_changed_byte_leaves_a_certificate_that_verifies() -> None:
    for place in range(len(DIRECT.der)):
        for flip in (0x01, 0x80):
            changed = bytearray(DIRECT.der)
            changed[place] ^= flip
            with pytest.raises(EvidenceError):
                verify_path(Certificate.parse(bytes(changed)), [], [ROOT], at=NOW, crls=LISTS)


def rebuilt(body: bytes, algorithm: bytes = SM2_WITH_SM3, signature: bytes | None = None) -> bytes:
    value = rs_to_der(ROOT_KEY.sign(body)) if signature is None else signature
    return tlv(0x30, body + algorithm + tlv(3, b"\0" + value))


def test_refuses_other_encodings_of_the_same_certificate() -> None:
    body = DIRECT.signed
    content = DIRECT.der[4:]
    value = rs_to_der(DIRECT.signature)
    assert Certificate.parse(rebuilt(body, signature=value)) == DIRECT
    long_length = b"\x30\x83" + len(content).to_bytes(3) + content
    endless = b"\x30\x80" + content + b"\0\0"
    spare_bits = tlv(0x30, body + SM2_WITH_SM3 + tlv(3, b"\x01" + value))
    padded = value[:2] + tlv(2, b"\0" + value[4 : 4 + value[3]]) + value[4 + value[3] :]
    padded = tlv(0x30, padded[2:])
    ecdsa = bytes.fromhex("300a06082a8648ce3d040302")
    for der in (long_length, endless, spare_bits, rebuilt(body, signature=padded)):
        with pytest.raises(Malformed):
            Certificate.parse(der)
    with pytest.raises(Unknown):
        Certificate.parse(rebuilt(body, ecdsa))
    with pytest.raises(Malformed, match="two signature algorithms"):
        Certificate.parse(rebuilt(body, bytes.fromhex("300c06082a811ccf550183750500")))


def with_extension(oid: str, value: bytes, critical: bytes) -> Certificate:
    """DIRECT with one extension more, signed anew by the same authority."""
    *parts, extensions = children(DIRECT.signed)
    (inner,) = children(extensions)
    extra = tlv(0x30, tlv(6, bytes.fromhex(oid)) + critical + tlv(4, value))
    body = tlv(0x30, b"".join(parts) + tlv(0xA3, tlv(0x30, b"".join((*children(inner), extra)))))
    return Certificate.parse(rebuilt(body))


CRITICAL = tlv(1, b"\xff")


def test_refuses_unknown_critical_extension_and_passes_one_that_is_not() -> None:
    with pytest.raises(Unknown, match="critical extension"):
        with_extension("2a030405", b"\x05\x00", CRITICAL)
    verify_path(with_extension("2a030405", b"\x05\x00", b""), [], [ROOT], at=NOW, crls=LISTS)


def test_refuses_extension_given_twice_or_with_its_default_written_out() -> None:
    with pytest.raises(Malformed):
        with_extension("551d0f", bytes.fromhex("03020780"), CRITICAL)
    with pytest.raises(Malformed):
        with_extension("2a030405", b"\x05\x00", tlv(1, b"\0"))


def test_certificate_bound_to_a_purpose_serves_no_other() -> None:
    stamping, any_purpose = bytes.fromhex("300a06082b06010505070308"), bytes.fromhex("30060604551d2500")
    bound = with_extension("551d25", stamping, CRITICAL)
    with pytest.raises(VerificationError, match="purposes"):
        verify_path(bound, [], [ROOT], at=NOW, crls=LISTS)
    verify_path(bound, [], [ROOT], at=NOW, crls=LISTS, purpose="1.3.6.1.5.5.7.3.8")
    with pytest.raises(VerificationError, match="another purpose"):
        verify_path(DIRECT, [], [ROOT], at=NOW, crls=LISTS, purpose="1.3.6.1.5.5.7.3.8")
    verify_path(with_extension("551d25", stamping, b""), [], [ROOT], at=NOW, crls=LISTS)
    verify_path(with_extension("551d25", any_purpose, CRITICAL), [], [ROOT], at=NOW, crls=LISTS)


def test_no_changed_byte_leaves_a_list_that_covers() -> None:
    for place in range(len(LISTS[0].der)):
        changed = bytearray(LISTS[0].der)
        changed[place] ^= 0x01
        with pytest.raises(EvidenceError):
            verify_path(DIRECT, [], [ROOT], at=NOW, crls=(RevocationList.parse(bytes(changed)),))


def test_refuses_list_that_is_not_the_whole_list() -> None:
    known = crl(revoked={5: NOW - DAY})
    parts = children(known.signed)
    *before, entries, extensions = parts
    (inner,) = children(extensions)
    delta = tlv(0x30, tlv(6, bytes.fromhex("551d1b")) + CRITICAL + tlv(4, tlv(2, b"\1")))
    body = tlv(0x30, b"".join((*before, entries, tlv(0xA0, tlv(0x30, b"".join((*children(inner), delta)))))))
    with pytest.raises(Unknown, match="critical"):
        RevocationList.parse(rebuilt(body))
    # An entry of another authority's certificate (an indirect list).
    (entry,) = children(entries)
    name = tlv(0x30, tlv(6, bytes.fromhex("551d1d")) + CRITICAL + tlv(4, tlv(0x30, tlv(0xA4, ROOT.subject_der))))
    indirect = tlv(0x30, b"".join(children(entry)) + tlv(0x30, name))
    body = tlv(0x30, b"".join((*before, tlv(0x30, indirect), extensions)))
    with pytest.raises(Unknown, match="critical"):
        RevocationList.parse(rebuilt(body))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_one_of_our_errors(data: bytes) -> None:
    for parse in (Certificate.parse, RevocationList.parse, parse_csr):
        for form in (data, b"\x30" + data, to_pem(data, "CERTIFICATE")):
            with pytest.raises(EvidenceError):
                parse(form)


# --- the openssl command as second opinion -----------------------------------------------------


def openssl(*arguments: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True, check=False, timeout=30)


DISTID = "distid:1234567812345678"


def test_openssl_verifies_our_path(tmp_path: Path) -> None:
    for name, data in {
        "root.pem": ROOT.to_pem(),
        "sub.pem": SUB.to_pem(),
        "leaf.pem": LEAF.to_pem(),
        "foreign.pem": make("CN=root,C=CN", key=OTHER_KEY, by=OTHER_KEY, usage=CA_USAGE).to_pem(),
    }.items():
        (tmp_path / name).write_bytes(data)
    # The command passes the user id on to the certificate it is asked about only, so each step is a question of its own.
    at = ("-attime", str(int(NOW.timestamp())), "-vfyopt", DISTID, "-partial_chain")
    for authority, below in (("root.pem", "sub.pem"), ("sub.pem", "leaf.pem")):
        good = openssl("verify", *at, "-trusted", tmp_path / authority, tmp_path / below)
        assert good.returncode == 0, good.stderr
    for authority, below in (("foreign.pem", "sub.pem"), ("root.pem", "leaf.pem")):
        assert openssl("verify", *at, "-trusted", tmp_path / authority, tmp_path / below).returncode != 0


def test_openssl_reads_our_certificate_request_and_list(tmp_path: Path) -> None:
    shown = openssl("x509", "-inform", "DER", "-noout", "-subject", "-serial", "-nameopt", "RFC2253,-esc_msb,utf8", data=LEAF.der)
    assert "subject=CN=leaf,O=示例证券,C=CN" in shown.stdout.decode()
    request = make_csr("CN=leaf", signer=LEAF_KEY)
    assert openssl("req", "-inform", "DER", "-verify", "-vfyopt", DISTID, "-noout", data=request).returncode == 0
    # `openssl verify -crl_check` cannot be told the user id of a list's signature, so that is verified by itself.
    known = crl(revoked={0xABCDEF: NOW})
    (tmp_path / "list.tbs").write_bytes(known.signed)
    (tmp_path / "list.sig").write_bytes(rs_to_der(known.signature))
    (tmp_path / "root.pub").write_bytes(to_pem(SPKI_PREFIX + ROOT.public_key, "PUBLIC KEY"))
    verify = ("dgst", "-sm3", "-sigopt", DISTID, "-verify", tmp_path / "root.pub", "-signature", tmp_path / "list.sig")
    assert openssl(*verify, tmp_path / "list.tbs").returncode == 0
    (tmp_path / "list.tbs").write_bytes(known.signed[:-1])
    assert openssl(*verify, tmp_path / "list.tbs").returncode != 0
    listed = openssl("crl", "-inform", "DER", "-noout", "-text", data=known.der)
    assert b"ABCDEF" in listed.stdout


def test_certificate_request_and_list_of_openssl_are_read(tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> None:
        done = openssl(*arguments)
        assert done.returncode == 0, done.stderr

    key, leaf_key = tmp_path / "ca.key", tmp_path / "leaf.key"
    key.write_bytes(ROOT_KEY.to_pem())
    leaf_key.write_bytes(LEAF_KEY.to_pem())
    sign = ("-sm3", "-sigopt", DISTID)
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run("req", "-x509", "-new", "-key", key, *sign, "-subj", "/CN=theirs", "-days", "30", *usage, "-out", tmp_path / "ca.pem")
    run("req", "-new", "-key", leaf_key, *sign, "-subj", "/O=x/CN=leaf", "-out", tmp_path / "leaf.csr")
    (tmp_path / "ext").write_text("keyUsage=digitalSignature\nauthorityKeyIdentifier=keyid\n")
    run(
        *("x509", "-req", "-in", tmp_path / "leaf.csr", "-vfyopt", DISTID, "-CA", tmp_path / "ca.pem", "-CAkey", key, *sign),
        *("-set_serial", "77", "-days", "20", "-extfile", tmp_path / "ext", "-out", tmp_path / "leaf.pem"),
    )
    (tmp_path / "index.txt").write_text("")
    (tmp_path / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={tmp_path}/index.txt\ndefault_md=sm3\ndefault_crl_days=9\n"
    )
    run(
        *("ca", "-config", tmp_path / "ca.cnf", "-gencrl", "-keyfile", key, "-cert", tmp_path / "ca.pem", "-sigopt", DISTID),
        *("-out", tmp_path / "list.pem"),
    )
    authority, leaf = (Certificate.parse((tmp_path / name).read_bytes()) for name in ("ca.pem", "leaf.pem"))
    assert parse_csr((tmp_path / "leaf.csr").read_bytes()).public_key == LEAF_KEY.public_key
    known = RevocationList.parse((tmp_path / "list.pem").read_bytes())
    at = known.this_update + timedelta(minutes=1)
    assert verify_path(leaf, [], [authority], at=at, crls=[known]) == (leaf, authority)
    with pytest.raises(VerificationError, match="expired"):
        verify_path(leaf, [], [authority], at=at + 40 * DAY, crls=[known])
