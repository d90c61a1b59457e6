"""Bundles made to make the verifier raise, run long or grow: certificates, names full of marks, wide texts, slow signatures."""

import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_verifier_bounds import CPU_S, MEASURED, MEMORY_MB, VECTORS, remade
from verifier_world import Made, World, key, one, refusals

from evidence.checks.judge import MAX_SIGNATURES, Judge
from evidence.render import render
from evidence.verifier import verify
from models.canonical import canonical, is_nfc, parse
from models.certificate import Certificate, RevocationList
from models.checkpoint import COSIGNATURE_TYPE, TlogProof, signature_line, vkey
from models.digest import Algorithm, sm3
from models.errors import EvidenceError, Undecided, Unknown
from models.evidence import Link, Part, Signature
from models.report import Verdict
from models.signature import Backend, rs_to_der
from models.trust import format_trust
from models.x509 import SM2_WITH_SM3, SPKI_PREFIX, tlv

VALID, INDETERMINATE = Verdict.VALID, Verdict.INDETERMINATE
GARBAGE = rs_to_der((1).to_bytes(32) * 2)
YEARS = tlv(0x30, tlv(0x17, b"260101000000Z") + tlv(0x17, b"360101000000Z"))
COMMON_NAME, ORGANISATION = bytes.fromhex("0603550403"), bytes.fromhex("060355040a")
X400, EDI = tlv(0xA3, tlv(0x30, b"")), tlv(0xA5, tlv(0xA1, tlv(12, b"x")))


def name_of(value: bytes, kind: bytes = COMMON_NAME) -> bytes:
    return tlv(0x30, tlv(0x31, tlv(0x30, kind + tlv(12, value))))


A_NAME = name_of(b"a")


def extension(last: int, value: bytes, *, critical: bool = False) -> bytes:
    """An extension 2.5.29.`last`."""
    return tlv(0x30, tlv(6, bytes((0x55, 0x1D, last))) + (tlv(1, b"\xff") if critical else b"") + tlv(4, value))


def certificate(serial: int, *, name: bytes = A_NAME, extensions: bytes = b"", is_signed: bool = True) -> bytes:
    """A certificate that names itself as its issuer."""
    signer = key("hostile")
    more = tlv(0xA3, tlv(0x30, extensions)) if extensions else b""
    number = tlv(2, serial.to_bytes(serial.bit_length() // 8 + 1))
    version = tlv(0xA0, tlv(2, b"\2"))
    tbs = tlv(0x30, version + number + SM2_WITH_SM3 + name + YEARS + name + SPKI_PREFIX + signer.public_key + more)
    made = rs_to_der(signer.sign(tbs)) if is_signed else GARBAGE
    return tlv(0x30, tbs + SM2_WITH_SM3 + tlv(3, b"\0" + made))


def revocation_list(*, extensions: bytes = b"", entry: bytes = b"") -> bytes:
    day = tlv(0x17, b"260101000000Z")
    revoked = tlv(0x30, tlv(0x30, tlv(2, b"\5") + day + (tlv(0x30, entry) if entry else b"")))
    more = tlv(0xA0, tlv(0x30, extensions)) if extensions else b""
    tbs = tlv(0x30, tlv(2, b"\1") + SM2_WITH_SM3 + A_NAME + day + day + revoked + more)
    return tlv(0x30, tbs + SM2_WITH_SM3 + tlv(3, b"\0" + GARBAGE))


def signed_with(der: bytes, parts: int = 1) -> dict[str, bytes]:
    """A bundle of parts of one link, each signed under `der`."""
    world = World()
    items: list[Made] = []
    world.add()
    for number in range(parts):
        items.append(
            world.add(
                link=Link("L"),
                part=Part(number, items[-1].evidence.pair if items else None),
                sign=lambda statement: Signature(sm3(der).hex(), key("hostile").sign(statement.data)),
            )
        )
    return {**world.files(items, [world.anchor()]), "certs/0.cer": der}


# --- exceptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [X400, EDI], ids=["x400Address", "ediPartyName"])
@pytest.mark.parametrize("last", [17, 18], ids=["subject", "issuer"])
def test_name_of_a_kind_that_cannot_be_read_is_unknown(name: bytes, last: int) -> None:
    der = certificate(5, extensions=extension(last, tlv(0x30, name)))
    with pytest.raises(Unknown, match="kind that cannot be read"):
        Certificate.parse(der)
    report = verify(remade(signed_with(der), "transaction"), World().trust())
    assert report.step(8).verdict is INDETERMINATE
    assert render(report)
    dns = certificate(5, extensions=extension(last, tlv(0x30, tlv(0x82, b"example.cn"))))
    assert Certificate.parse(dns).serial == 5
    for made in ({"extensions": extension(18, tlv(0x30, name))}, {"entry": extension(29, tlv(0x30, name))}):
        with pytest.raises(Unknown, match="kind that cannot be read"):
            RevocationList.parse(revocation_list(**made))


GENERAL = st.sampled_from(
    [
        X400, EDI, tlv(0xA0, tlv(6, b"\x2a") + tlv(0xA0, tlv(12, b"x"))), tlv(0x81, b"\xff"), tlv(0x82, b"x"), tlv(0xA4, A_NAME),
        tlv(0x86, b"http://[x"), tlv(0x87, b"1"), tlv(0x87, b"\xff" * 8), tlv(0x88, b"\x2a"),
    ]
)  # fmt: skip
DER = st.recursive(
    st.builds(tlv, st.sampled_from([1, 2, 3, 4, 5, 6, 12, 19, 22, 23, 24, 30, 0x80, 0x82, 0x87]), st.binary(max_size=12))
    | GENERAL,
    lambda inner: st.builds(
        tlv, st.sampled_from([0x30, 0x31, 0xA0, 0xA1, 0xA3, 0xA5]), st.lists(inner, max_size=3).map(b"".join)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from([9, 14, 15, 16, 17, 18, 19, 20, 21, 24, 27, 28, 29, 30, 31, 32, 33, 35, 36, 37, 46, 54]), DER, st.booleans()
)
@settings(max_examples=150)
def test_any_extension_is_read_or_refused(last: int, value: bytes, critical: object) -> None:
    made = extension(last, value, critical=critical is True)
    for read, der in (
        (Certificate.parse, certificate(5, extensions=made, is_signed=False)),
        (RevocationList.parse, revocation_list(extensions=made)),
        (RevocationList.parse, revocation_list(entry=made)),
    ):
        try:
            read(der)
        except EvidenceError:
            continue


# --- time and memory -------------------------------------------------------------------------------------------------

UNPORTABLE = """
import ctypes
REAL = ctypes.CDLL
class Lacking:
    def __init__(self, path): self._library = REAL(path)
    def __getattr__(self, name):
        return (lambda *_: None) if name == "EVP_PKEY_CTX_new_from_name" else getattr(self._library, name)
ctypes.CDLL = Lacking
"""


def measured(files: dict[str, bytes], trust: bytes, folder: Path, before: str = "") -> str:
    """The verdict, once CPU and memory were found within their bounds."""
    path, roots = folder / "hostile.cz", folder / "trust.toml"
    path.write_bytes(remade(files, "transaction" if "evidence/1/evidence.json" in files else "item"))
    roots.write_bytes(trust)
    command = [sys.executable, "-c", before + MEASURED, str(VECTORS / "good" / "transaction.cz"), str(path), str(roots)]
    cpu_s, memory_mb, verdict = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert float(cpu_s) < CPU_S
    assert float(memory_mb) < MEMORY_MB
    return verdict


def _name_of_marks() -> dict[str, bytes]:
    marks = "\u0301".encode() * 7_700 + "\u0316".encode() * 7_700
    return signed_with(certificate(1, name=name_of(marks, ORGANISATION)), 40)


def _certificates_of_one_name() -> dict[str, bytes]:
    files = signed_with(certificate(1))
    for number in range(1, 4000):
        files[f"certs/{number}.cer"] = certificate(1000 + number, is_signed=False)
    return files


def _certificates_that_sign_each_other() -> dict[str, bytes]:
    files = signed_with(certificate(1), 40)
    for number in range(1, 64):
        files[f"certs/{number}.cer"] = certificate(1000 + number)
    return files


def _shown() -> tuple[World, dict[str, bytes]]:
    world = World()
    item, anchor = one(world)
    return world, world.files([item], [anchor])


WIDE = "\U0001f600\u0308"
"""Four bytes a character for the whole text, and a mark that asks for the slow way of telling NFC."""


def _wide_text() -> dict[str, bytes]:
    _, files = _shown()
    files["anchors/0/payload.json"] = b'["' + b"a" * 4_194_000 + WIDE.encode() + b'"]'
    return files


def _wide_texts() -> dict[str, bytes]:
    _, files = _shown()
    files["anchors/0/payload.json"] = b"[" + b",".join([f'"{WIDE}{"a" * 18}"'.encode()] * 139_000) + b"]"
    return files


def _wide_transaction() -> dict[str, bytes]:
    _, files = _shown()
    receipt = parse(files["anchors/0/receipt.json"])
    transaction = parse(receipt["proof"]["transaction"].encode())
    transaction["payload"] = "a" * 3_900_000 + WIDE
    receipt["proof"]["transaction"] = canonical(transaction).decode()
    files["anchors/0/receipt.json"] = canonical(receipt)
    return files


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "build",
    [
        _name_of_marks, _certificates_of_one_name, _certificates_that_sign_each_other, _wide_text, _wide_texts,
        _wide_transaction,
    ],
    ids=lambda build: build.__name__.strip("_"),
)  # fmt: skip
def test_hostile_bundle_is_judged_within_the_bounds(build: Callable[[], dict[str, bytes]], tmp_path: Path) -> None:
    assert measured(build(), format_trust(World().trust()), tmp_path) != "VALID"


def _lines_without_end(world: World, files: dict[str, bytes], item: Made) -> None:
    """Fifteen notes of 58 lines each under the log's own key, none of which verifies."""
    mark = vkey(world.checkpoint(Algorithm.SM3, 3).origin, key("log").public_key, COSIGNATURE_TYPE)
    proof = TlogProof.parse(files["evidence/0/sm3.tlog-proof"], kind=Algorithm.SM3)
    for number in range(15):
        lines = "".join(
            signature_line(mark.name, mark.key_id, (1_700_000_000).to_bytes(8) + sm3(b"%d %d" % (number, line)).rjust(64, b"\1"))
            for line in range(58)
        )
        files[f"evidence/{number}/evidence.json"] = item.evidence.data
        files[f"evidence/{number}/sm3.tlog-proof"] = (proof.format() + lines).encode()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_slow_backend_stays_within_the_bounds(tmp_path: Path) -> None:
    world = World()
    item, anchor = one(world)
    files = world.files([item], [anchor])
    trust = format_trust(world.trust())
    assert measured(dict(files), trust, tmp_path, UNPORTABLE) == "VALID"
    _lines_without_end(world, files, item)
    assert measured(files, trust, tmp_path, UNPORTABLE) != "VALID"


def test_signatures_of_a_run_cost_what_the_backend_costs() -> None:
    assert MAX_SIGNATURES[Backend.PORTABLE] * 0.0129 < CPU_S / 2
    assert MAX_SIGNATURES[Backend.LIBCRYPTO] * 0.00033 < CPU_S / 2
    judge = Judge()
    judge.spend_signatures(MAX_SIGNATURES[Backend.LIBCRYPTO])
    with pytest.raises(Undecided):
        judge.spend_signatures()


# --- what the bounds must not break ----------------------------------------------------------------------------------


@given(st.text(alphabet="aeé\u0301\u0316\u1100\u1161\u11a8 x", max_size=40), st.integers(0, 40))
@settings(max_examples=200)
def test_nfc_is_told_alike_whole_and_in_pieces(text: str, before: int) -> None:
    long = "a" * (65_536 - before) + text + "b"
    assert is_nfc(long) == unicodedata.is_normalized("NFC", long)
    assert is_nfc(text) == unicodedata.is_normalized("NFC", text)


def test_sentence_is_cut_to_its_length_in_nfc() -> None:
    judge = Judge()
    judge.findings.add("\u0301\u0316" * 400 + "\ufb2c" * 400)
    (said,) = judge.findings
    assert len(said) == 1000
    assert is_nfc(said)
    judge.findings.add("plain")
    assert "plain" in judge.findings


def test_chain_of_certificates_is_followed_by_name() -> None:
    report = verify(remade(signed_with(certificate(1)), "transaction"), World().trust())
    assert report.step(8).verdict is INDETERMINATE
    assert "unknown authority" in report.step(8).detail, refusals(report)
    stray = {**signed_with(certificate(1)), "certs/1.cer": certificate(2, name=name_of(b"b"))}
    assert verify(remade(stray, "transaction"), World().trust()).step(8).verdict is Verdict.INVALID
