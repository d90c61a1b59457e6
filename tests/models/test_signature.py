"""SM2 signatures: the standard's vectors, both backends, the openssl command, and every malformed form."""

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import signature as sm2
from models.digest import sm3
from models.errors import Malformed, VerificationError
from models.signature import (
    USER_ID,
    Backend,
    N,
    P,
    SM2Signer,
    available_backend,
    check_public_key,
    check_signature,
    der_to_rs,
    rs_to_der,
    verify,
)
from models.x509 import SPKI_PREFIX, to_pem

BACKENDS = pytest.mark.parametrize("backend", list(Backend), ids=str)
GBT = json.loads((Path(__file__).parents[1] / "vectors/crypto/gbt.json").read_text())
KEY = bytes.fromhex(GBT["sm2"]["public"])
MESSAGE = GBT["sm2"]["message"].encode()
R, S = int(GBT["sm2"]["r"], 16), int(GBT["sm2"]["s"], 16)
SIGNATURE = R.to_bytes(32) + S.to_bytes(32)
SIGNER = SM2Signer.generate()


@pytest.mark.parametrize("case", GBT["sm3"]["cases"], ids=["A.1", "A.2"])
def test_sm3_is_that_of_the_standard(case: dict[str, str]) -> None:
    assert sm3(case["text"].encode()).hex() == case["digest"]


@BACKENDS
def test_signature_of_the_standard_verifies(backend: Backend) -> None:
    assert GBT["sm2"]["user_id"].encode() == USER_ID
    verify(KEY, MESSAGE, SIGNATURE, backend=backend)
    verify(KEY, MESSAGE, der_to_rs(rs_to_der(SIGNATURE)), user_id=USER_ID, backend=backend)


def test_z_is_that_of_the_standard() -> None:
    state = sm2._z_context(KEY, USER_ID).copy()
    state.update(MESSAGE)
    assert state.digest() == sm3(bytes.fromhex(GBT["sm2"]["z"]) + MESSAGE)


def test_libcrypto_is_what_verifies_here() -> None:
    assert available_backend() is Backend.LIBCRYPTO


@BACKENDS
@settings(max_examples=20)
@given(st.binary(max_size=300))
def test_what_is_signed_verifies_and_nothing_near_it(backend: Backend, message: bytes) -> None:
    made = SIGNER.sign(message)
    verify(SIGNER.public_key, message, made, backend=backend)
    for key, text, shown in (
        (SIGNER.public_key, message + b"\0", made),
        (KEY, message, made),
        (SIGNER.public_key, message, made[32:] + made[:32]),
    ):
        with pytest.raises(VerificationError):
            verify(key, text, shown, backend=backend)


@BACKENDS
@pytest.mark.parametrize("user_id", [b"", b"ALICE123@YAHOO.COM", USER_ID + b"\0", USER_ID[:-1], b"x" * 8190])
def test_refuses_under_another_user_id(backend: Backend, user_id: bytes) -> None:
    with pytest.raises(VerificationError):
        verify(KEY, MESSAGE, SIGNATURE, user_id=user_id, backend=backend)


@BACKENDS
@pytest.mark.parametrize("user_id", [b"", b"ALICE123@YAHOO.COM", b"x" * 8190], ids=["empty", "mail", "longest"])
def test_another_user_id_verifies_where_it_was_used(backend: Backend, user_id: bytes) -> None:
    library, key = SIGNER._library, SIGNER._key
    made = der_to_rs(library.sign(key, MESSAGE, user_id))
    verify(SIGNER.public_key, MESSAGE, made, user_id=user_id, backend=backend)
    with pytest.raises(VerificationError):
        verify(SIGNER.public_key, MESSAGE, made, backend=backend)


def test_refuses_user_id_that_is_too_long() -> None:
    with pytest.raises(VerificationError, match="too long"):
        verify(KEY, MESSAGE, SIGNATURE, user_id=b"x" * 8191)


@BACKENDS
def test_keys_whose_text_begins_with_0_or_4_verify(backend: Backend) -> None:
    # `gmssl` strips these digits from a key; behind our checks it must not matter.
    found: dict[str, SM2Signer] = {}
    while {"0", "4"} - set(found):
        signer = SM2Signer.generate()
        found.setdefault(signer.public_key[1:].hex()[0], signer)
    for first in "04":
        verify(found[first].public_key, b"m", found[first].sign(b"m"), backend=backend)


def test_threads_sign_and_verify_at_once() -> None:
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                message = b"%d/%d" % (number, turn)
                verify(SIGNER.public_key, message, SIGNER.sign(message))
        except Exception as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_no_two_signatures_share_a_nonce() -> None:
    assert len({SIGNER.sign(b"same")[:32] for _ in range(50)}) == 50


# --- the malformed corpus ---------------------------------------------------------------------------


class Case(NamedTuple):
    kind: str
    key: bytes
    message: bytes
    signature: bytes
    user_id: bytes = USER_ID


def number(value: int, size: int = 32) -> bytes:
    return value.to_bytes(size)


def out_of_range() -> Iterator[Case]:
    bad = [0, N, N + 1, N + 2, P, P + 1, (1 << 256) - 1, (1 << 256) - 2, N + (1 << 200), (1 << 256) - (1 << 128)]
    for value in bad:
        yield Case("r out of range", KEY, MESSAGE, number(value) + number(S))
        yield Case("s out of range", KEY, MESSAGE, number(R) + number(value))
        yield Case("r and s out of range", KEY, MESSAGE, number(value) + number(value))
    for r in (1, 2, 3, R, S, N - 1, N - 2, N // 2, 1 << 255, 1 << 128):
        yield Case("r + s = n", KEY, MESSAGE, number(r) + number(N - r))


def wrong_lengths() -> Iterator[Case]:
    for size in (0, 1, 8, 16, 31, 32, 33, 48, 62, 63):
        yield Case("too short", KEY, MESSAGE, SIGNATURE[:size])
        yield Case("cut at the front", KEY, MESSAGE, SIGNATURE[64 - size :] if size else b"")
    for size in (1, 2, 8, 32, 64, 1000):
        yield Case("too long", KEY, MESSAGE, SIGNATURE + bytes(size))
        yield Case("too long at the front", KEY, MESSAGE, bytes(size) + SIGNATURE)
    yield Case("DER for r‖s", KEY, MESSAGE, rs_to_der(SIGNATURE))
    yield Case("hex for bytes", KEY, MESSAGE, SIGNATURE.hex().encode())
    yield Case("recovery byte", KEY, MESSAGE, b"\x1b" + SIGNATURE)


def wrong_values() -> Iterator[Case]:
    for place in range(64):
        changed = bytearray(SIGNATURE)
        changed[place] ^= 1 << (place % 8)
        yield Case("one bit", KEY, MESSAGE, bytes(changed))
    for r, s in (
        *((S, R), (N - R, S), (R, N - S), (N - R, N - S), (1, 1), (1, S), (R, 1), (N - 1, N - 2), (R, R), (S, S)),
        *((int.from_bytes(SIGNATURE[31::-1]), S), (R, int.from_bytes(SIGNATURE[:31:-1]))),
    ):
        yield Case("other numbers", KEY, MESSAGE, number(r % N) + number(s % N))
    # Multiples that make s·G + t·P the point at infinity or one of the summands: t = r + s = 0 is refused above.
    d = int(GBT["sm2"]["private"], 16)
    for t in (1, 2, 3, 5, N - 1, N - 2, N // 2, 1 << 128):
        s = -t * d % N
        yield Case("sum at infinity", KEY, MESSAGE, number((t - s) % N) + number(s))
        s = t * d % N
        yield Case("summands equal", KEY, MESSAGE, number((t - s) % N) + number(s))


def wrong_messages() -> Iterator[Case]:
    for message in (
        b"",
        MESSAGE[:-1],
        MESSAGE + b"\0",
        MESSAGE + b"\n",
        b"\0" + MESSAGE,
        MESSAGE.upper(),
        MESSAGE.hex().encode(),
    ):
        yield Case("another message", KEY, message, SIGNATURE)
    yield Case("digest for message", KEY, sm3(MESSAGE), SIGNATURE)
    yield Case("z put in front", KEY, bytes.fromhex(GBT["sm2"]["z"]) + MESSAGE, SIGNATURE)
    for place in range(len(MESSAGE)):
        yield Case("another message", KEY, MESSAGE[:place] + b"X" + MESSAGE[place + 1 :], SIGNATURE)
    for user_id in (b"", b"1234567812345678\0", b"123456781234567", b"8765432187654321", USER_ID * 2, USER_ID.hex().encode()):
        yield Case("another user id", KEY, MESSAGE, SIGNATURE, user_id)


def wrong_keys() -> Iterator[Case]:
    x, y = KEY[1:33], KEY[33:]
    for first in (0, 1, 2, 3, 5, 6, 7, 0x44, 0x84, 0xFF):
        yield Case("first byte of the key", bytes([first]) + x + y, MESSAGE, SIGNATURE)
    for key in (b"", b"\0", b"\4", x + y, KEY[:-1], KEY + b"\0", b"\2" + x, b"\3" + x, KEY[:33], KEY * 2, KEY.hex().encode()):
        yield Case("length of the key", key, MESSAGE, SIGNATURE)
    yield Case("DER for the key", SPKI_PREFIX + KEY, MESSAGE, SIGNATURE)
    px, py = int.from_bytes(x), int.from_bytes(y)
    for a, b in (
        *((0, 0), (0, 1), (1, 0), (1, 1), (px, 0), (0, py), (py, px), (px, py ^ 1), (px ^ 1, py), (px + 1, py), (px, P - 1)),
        *((P - 1, P - 1), (2, 2), (px, (py + 1) % P), (5, 1 << 200)),
    ):
        yield Case("point off the curve", b"\4" + number(a) + number(b), MESSAGE, SIGNATURE)
    for a, b in ((P, py), (px, P), (P, P), (P + 1, py), (px, P + 1), ((1 << 256) - 1, py), (px, (1 << 256) - 1), (P, 0)):
        yield Case("coordinate out of range", b"\4" + number(a) + number(b), MESSAGE, SIGNATURE)
    # The generator of another curve (P-256), which a check against the wrong b would pass.
    p256 = (
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    )
    yield Case("point of another curve", bytes.fromhex("04" + p256), MESSAGE, SIGNATURE)
    yield Case("another key", b"\4" + x + number(P - py), MESSAGE, SIGNATURE)
    yield Case("another key", b"\4" + sm2.G, MESSAGE, SIGNATURE)
    yield Case("another key", SIGNER.public_key, MESSAGE, SIGNATURE)
    for place in range(1, 65, 4):
        changed = bytearray(KEY)
        changed[place] ^= 0x10
        yield Case("point off the curve", bytes(changed), MESSAGE, SIGNATURE)


CORPUS = [*out_of_range(), *wrong_lengths(), *wrong_values(), *wrong_messages(), *wrong_keys()]


def integer(value: int, *, pad: int = 0) -> bytes:
    body = bytes(pad) + value.to_bytes(value.bit_length() // 8 + 1)
    return b"\x02" + bytes([len(body)]) + body


def sequence(body: bytes, tag: int = 0x30) -> bytes:
    return bytes([tag, len(body)]) + body


def bent_der() -> Iterator[tuple[str, bytes]]:
    good = rs_to_der(SIGNATURE)
    r, s, body = integer(R), integer(S), good[2:]
    raw_r, raw_s = number(R), number(S)
    for pad in (1, 2, 3, 8):
        yield "needless zeros", sequence(integer(R, pad=pad) + s)
        yield "needless zeros", sequence(r + integer(S, pad=pad))
    yield "negative", sequence(b"\x02\x20" + raw_r + s)
    yield "negative", sequence(r + b"\x02\x20" + raw_s)
    yield "negative", sequence(b"\x02\x01\xff" + s)
    yield "negative", sequence(r + b"\x02\x01\x80")
    for form in (b"\x30\x81", b"\x30\x82\x00", b"\x30\x83\x00\x00"):
        yield "long length", form + bytes([len(body)]) + body
    yield "long length", sequence(b"\x02\x81" + r[1:] + s)
    yield "long length", sequence(r + b"\x02\x81" + s[1:])
    yield "endless length", b"\x30\x80" + body + b"\0\0"
    for size in (1, 2, 10):
        yield "bytes after the end", good + bytes(size)
        yield "bytes inside the sequence", sequence(body + bytes(size))
    yield "third integer", sequence(body + b"\x02\x01\x01")
    yield "one integer", sequence(r)
    yield "no integer", sequence(b"")
    yield "null inside", sequence(body + b"\x05\x00")
    for tag in (0x00, 0x10, 0x31, 0x24, 0x04, 0xA0, 0x70, 0xB0):
        yield "wrong tag", sequence(body, tag)
    for tag in (0x00, 0x01, 0x03, 0x04, 0x0A, 0x22, 0x42, 0x82):
        yield "wrong tag", sequence(bytes([tag]) + r[1:] + s)
        yield "wrong tag", sequence(r + bytes([tag]) + s[1:])
    yield "empty integer", sequence(b"\x02\x00" + s)
    yield "empty integer", sequence(r + b"\x02\x00")
    for value in (0, N, N + 1, P, (1 << 256) - 1, 1 << 256, 1 << 263):
        yield "out of range", sequence(integer(value) + s)
        yield "out of range", sequence(r + integer(value))
    yield "r + s = n", sequence(integer(R) + integer(N - R))
    for size in range(len(good)):
        yield "cut", good[:size]
    for place in (0, 1, 2, 3, 2 + len(r), 3 + len(r)):
        for flip in (1, 2, 0x40, 0x80):
            changed = bytearray(good)
            changed[place] ^= flip
            yield "tag or length changed", bytes(changed)
    yield "r‖s for DER", SIGNATURE
    yield "swapped halves of the wrapping", body + good[:2]


BENT_DER = list(bent_der())


def test_corpus_lists_at_least_300_cases_by_class() -> None:
    classes = Counter(case.kind for case in CORPUS) + Counter(f"DER: {kind}" for kind, _ in BENT_DER)
    assert len(set(CORPUS)) + len(set(BENT_DER)) >= 300
    assert len(classes) >= 30, classes


@pytest.mark.parametrize("kind", sorted({case.kind for case in CORPUS}))
def test_both_backends_refuse_the_malformed(kind: str) -> None:
    for case in CORPUS:
        if case.kind == kind:
            for backend in Backend:
                with pytest.raises(VerificationError):
                    verify(case.key, case.message, case.signature, user_id=case.user_id, backend=backend)


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in BENT_DER}))
def test_refuses_every_other_encoding(kind: str) -> None:
    for each, der in BENT_DER:
        if each == kind:
            with pytest.raises(Malformed):
                der_to_rs(der)


@settings(max_examples=100)
@given(st.integers(1, N - 1), st.integers(1, N - 1))
def test_der_reads_back(r: int, s: int) -> None:
    if r + s == N:
        return
    der = rs_to_der(number(r) + number(s))
    assert der_to_rs(der) == number(r) + number(s)
    assert der == sequence(integer(r) + integer(s))


@pytest.mark.parametrize("value", [None, 7, "text", ["x"], bytearray(64), bytearray(65)], ids=lambda v: type(v).__name__)
def test_refuses_other_types(value: object) -> None:
    with pytest.raises(VerificationError):
        verify(KEY, MESSAGE, value)  # type: ignore[arg-type]
    with pytest.raises(VerificationError):
        verify(value, MESSAGE, SIGNATURE)  # type: ignore[arg-type]
    for check in (check_signature, check_public_key, der_to_rs, rs_to_der):
        with pytest.raises(Malformed):
            check(value)  # type: ignore[arg-type]


# --- the openssl command -------------------------------------------------------------------------------


def command_accepts(folder: Path, case: Case) -> bool:
    halves = (case.signature[:32], case.signature[32:])
    (folder / "key.pem").write_bytes(to_pem(SPKI_PREFIX + case.key, "PUBLIC KEY"))
    (folder / "message").write_bytes(case.message)
    (folder / "signature").write_bytes(sequence(b"".join(integer(int.from_bytes(half)) for half in halves)))
    done = subprocess.run(
        [
            *("openssl", "pkeyutl", "-verify", "-rawin", "-digest", "sm3", "-pubin", "-inkey", "key.pem"),
            *("-in", "message", "-sigfile", "signature", "-pkeyopt", f"distid:{case.user_id.decode()}"),
        ],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=30,
    )
    return done.returncode == 0


def test_openssl_command_agrees_on_what_is_signed(tmp_path: Path) -> None:
    assert command_accepts(tmp_path, Case("", KEY, MESSAGE, SIGNATURE))
    made = SIGNER.sign("存证".encode())
    assert command_accepts(tmp_path, Case("", SIGNER.public_key, "存证".encode(), made))
    done = subprocess.run(["openssl", "dgst", "-sm3", "-r"], input=MESSAGE, capture_output=True, check=True)
    assert done.stdout.split()[0].decode() == sm3(MESSAGE).hex()


def test_openssl_command_agrees_on_what_is_refused(tmp_path: Path) -> None:
    asked = [case for case in CORPUS if len(case.signature) == 64 and len(case.key) == 65 and case.user_id]
    for case in asked[::4]:
        assert not command_accepts(tmp_path, case), case.kind


def test_signature_of_the_openssl_command_verifies(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(SIGNER.to_pem())
    (tmp_path / "message").write_bytes(MESSAGE)
    for distid, good in (("distid:1234567812345678", True), ("distid:other", False)):
        made = subprocess.run(
            [
                *("openssl", "pkeyutl", "-sign", "-rawin", "-digest", "sm3", "-inkey", "key.pem"),
                *("-in", "message", "-pkeyopt", distid),
            ],
            cwd=tmp_path,
            capture_output=True,
            check=True,
            timeout=30,
        ).stdout
        for backend in Backend:
            if good:
                verify(SIGNER.public_key, MESSAGE, der_to_rs(made), backend=backend)
            else:
                with pytest.raises(VerificationError):
                    verify(SIGNER.public_key, MESSAGE, der_to_rs(made), backend=backend)
