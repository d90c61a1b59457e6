"""The binding to libcrypto: keys in and out, the one sentence where it cannot work, nothing left behind."""

import ctypes
import gc
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from models import libcrypto, signature
from models.errors import Malformed, SigningUnavailable, VerificationError
from models.libcrypto import Libcrypto, load
from models.signature import USER_ID, Backend, SM2Signer, der_to_rs, verify

PASSWORD = b"correct horse"
REAL = ctypes.CDLL


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True, timeout=30).stdout


def test_key_reads_back_from_pem() -> None:
    signer = SM2Signer.generate()
    plain, sealed = signer.to_pem(), signer.to_pem(password=PASSWORD)
    assert plain.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert sealed.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert SM2Signer.from_pem(plain).public_key == signer.public_key
    again = SM2Signer.from_pem(sealed, password=PASSWORD)
    assert again.public_key == signer.public_key
    verify(signer.public_key, b"m", again.sign(b"m"))


@pytest.mark.parametrize("password", [None, b"wrong", b"correct horse ", b"x" * 5000], ids=["none", "wrong", "longer", "huge"])
def test_refuses_encrypted_key_without_its_password_and_never_asks(password: bytes | None) -> None:
    with pytest.raises(Malformed):
        SM2Signer.from_pem(SM2Signer.generate().to_pem(password=PASSWORD), password=password)


def test_refuses_to_encrypt_under_a_password_that_could_not_be_given_again() -> None:
    signer = SM2Signer.generate()
    longest = b"x" * 1023
    assert SM2Signer.from_pem(signer.to_pem(password=longest), password=longest).public_key == signer.public_key
    for password in (b"", longest + b"x"):
        with pytest.raises(Malformed, match="password"):
            signer.to_pem(password=password)


def test_keys_go_to_and_from_the_openssl_command() -> None:
    theirs = openssl("genpkey", "-algorithm", "SM2")
    ours = SM2Signer.from_pem(theirs)
    public = openssl("pkey", "-pubout", "-outform", "DER", data=theirs)
    assert public.endswith(ours.public_key)
    assert openssl("pkey", "-pubout", "-outform", "DER", data=ours.to_pem()) == public
    sealed = ours.to_pem(password=PASSWORD)
    assert openssl("pkey", "-passin", "pass:" + PASSWORD.decode(), "-pubout", "-outform", "DER", data=sealed) == public


@pytest.mark.parametrize(
    "arguments",
    [("RSA", "rsa_keygen_bits:1024"), ("EC", "ec_paramgen_curve:P-256"), ("ED25519", "")],
    ids=["rsa", "p-256", "ed25519"],
)
def test_refuses_keys_of_another_kind(arguments: tuple[str, str]) -> None:
    option = ("-pkeyopt", arguments[1]) if arguments[1] else ()
    with pytest.raises(Malformed, match="expected SM2"):
        SM2Signer.from_pem(openssl("genpkey", "-algorithm", arguments[0], *option))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "public", "long", "legacy"])
def test_refuses_what_is_no_private_key(damage: str) -> None:
    pem = SM2Signer.generate().to_pem()
    bent = {
        "empty": b"",
        "text": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "cut": pem[: len(pem) // 2],
        "public": openssl("pkey", "-pubout", data=pem),
        "long": pem + b"\n" * 20000,
        "legacy": openssl("ec", data=pem),
    }[damage]
    with pytest.raises(Malformed):
        SM2Signer.from_pem(bent)


def test_refuses_private_key_beside_anothers_public_key() -> None:
    first, second = (openssl("pkey", "-outform", "DER", data=SM2Signer.generate().to_pem()) for _ in range(2))
    mixed = first[:-64] + second[-64:]
    pem = openssl("base64", data=mixed)
    with pytest.raises(Malformed):
        SM2Signer.from_pem(b"-----BEGIN PRIVATE KEY-----\n" + pem + b"-----END PRIVATE KEY-----\n")


def test_public_key_signs_nothing() -> None:
    library = load()
    with pytest.raises(SigningUnavailable):
        library.sign(library.public_key(SM2Signer.generate().public_key), b"m", USER_ID)


@pytest.mark.parametrize("path", ["/nonexistent/libcrypto.so", "libc.so.6"])
def test_signing_without_sm2_refuses_with_one_sentence(path: str) -> None:
    with pytest.raises(SigningUnavailable) as caught:
        SM2Signer.generate(library=load(path))
    assert "\n" not in str(caught.value)
    assert "OpenSSL 3.0" in str(caught.value)


class Lacking:
    """A libcrypto built without SM2, as some distributions ship it: every name there, no such algorithm."""

    def __init__(self, path: str) -> None:
        self._library = REAL(path)

    def __getattr__(self, name: str) -> object:
        if name == "EVP_PKEY_CTX_new_from_name":
            return lambda *_: None
        return getattr(self._library, name)


def test_verifying_goes_on_by_gmssl_where_libcrypto_has_no_sm2(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = SM2Signer.generate()
    made = signer.sign(b"m")
    monkeypatch.setattr(ctypes, "CDLL", Lacking)
    libcrypto._loaded.cache_clear()
    signature._libcrypto.cache_clear()
    try:
        with pytest.raises(SigningUnavailable, match="without SM2"):
            Libcrypto("libcrypto.so.3")
        with pytest.raises(SigningUnavailable):
            SM2Signer.generate()
        assert signature.available_backend() is Backend.PORTABLE
        verify(signer.public_key, b"m", made)
        with pytest.raises(VerificationError):
            verify(signer.public_key, b"n", made)
        with pytest.raises(SigningUnavailable):
            verify(signer.public_key, b"m", made, backend=Backend.LIBCRYPTO)
    finally:
        monkeypatch.undo()
        libcrypto._loaded.cache_clear()
        signature._libcrypto.cache_clear()
    assert signature.available_backend() is Backend.LIBCRYPTO


def test_sm4_gives_the_published_vectors() -> None:
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    assert load().sm4(key, key).hex() == "681edf34d206965e86b3e94f536e4246"
    assert load().sm4(key, key * 2) == load().sm4(key, key) * 2


@given(key=st.binary(min_size=16, max_size=16), count=st.integers(0, 512), data=st.binary(min_size=16, max_size=64))
def test_sm4_is_that_of_a_second_implementation(key: bytes, count: int, data: bytes) -> None:
    blocks = (data * (1 + 16 * count // len(data)))[: 16 * count]
    theirs = Cipher(algorithms.SM4(key), modes.ECB()).encryptor().update(blocks)
    assert load().sm4(key, blocks) == theirs


@pytest.mark.parametrize(("key", "blocks"), [(b"k" * 15, b""), (b"k" * 17, bytes(16)), (b"k" * 16, bytes(15)), (b"", b"")])
def test_sm4_refuses_key_and_blocks_that_are_not_whole(key: bytes, blocks: bytes) -> None:
    with pytest.raises(Malformed, match="SM4"):
        load().sm4(key, blocks)


class WithoutSM4(Lacking):
    """A libcrypto that has SM2 and no SM4."""

    def __getattr__(self, name: str) -> object:
        if name == "EVP_CIPHER_fetch":
            return lambda *_: None
        return getattr(self._library, name)


def test_sm4_refuses_with_one_sentence_where_libcrypto_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", WithoutSM4)
    with pytest.raises(SigningUnavailable, match="SM4"):
        Libcrypto("libcrypto.so.3").sm4(bytes(16), bytes(16))


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_nothing_is_left_behind() -> None:
    library = load()

    def work(rounds: int) -> None:
        for _ in range(rounds):
            key = library.generate()
            der = library.sign(key, b"m", USER_ID)
            public = library.public_key(key.public_key)
            library.verify(public, b"m", der, USER_ID)
            library.verify(public, b"n", der, USER_ID)
            library.private_key(library.to_pem(key))
            library.sm4(der[:16], der[:64])
            with pytest.raises(Malformed):
                library.public_key(b"\4" + bytes(64))

    work(50)
    gc.collect()
    before = resident_kib()
    work(400)
    gc.collect()
    # One leaked key of about 1 kB a round would show as 400 kB and more.
    assert resident_kib() - before < 400


def test_nonces_differ_on_both_sides_of_a_fork() -> None:
    signer = SM2Signer.generate()
    signer.sign(b"warm")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, signer.sign(b"same"))
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(reader, 64), signer.sign(b"same")
    os.close(reader)
    os.close(writer)
    verify(signer.public_key, b"same", theirs)
    assert theirs[:32] != ours[:32]


def test_library_gives_strict_der_within_72_bytes() -> None:
    library, key = load(), load().generate()
    for turn in range(30):
        der = library.sign(key, b"%d" % turn, USER_ID)
        assert len(der_to_rs(der)) == 64
