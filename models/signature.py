"""SM2 signatures with SM3: 64 bytes r‖s under a fixed user id.

Signing goes through libcrypto alone. Verifying has two backends that must agree: libcrypto, and
the pure-Python `gmssl` package for machines whose libcrypto has no SM2. Whichever is used, the
form is judged here first, so that neither is ever handed anything but a point on the curve and
r, s in range. `gmssl` never makes a key or a signature: its nonces come from a generator that
can be foretold.
"""

from __future__ import annotations

import threading
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, Self

from models.digest import Algorithm, Hasher, hasher, sm3
from models.errors import Malformed, SigningUnavailable, VerificationError
from models.libcrypto import Key, Libcrypto, load

USER_ID = b"1234567812345678"
PUBLIC_KEY_BYTES = 65
SIGNATURE_BYTES = 64
KEYS_CACHED = 1024
MAX_USER_ID_BYTES = 8190
"""One less than its 16-bit count of bits could hold: libcrypto refuses more, and both backends must agree."""

P = 0xFFFFFFFE_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_00000000_FFFFFFFF_FFFFFFFF
N = 0xFFFFFFFE_FFFFFFFF_FFFFFFFF_FFFFFFFF_7203DF6B_21C6052B_53BBF409_39D54123
A = P - 3
B = 0x28E9FA9E_9D9F5E34_4D5A9E4B_CF6509A7_F39789F5_15AB8F92_DDBCBD41_4D940E93
G = bytes.fromhex(
    "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0"
)


class Backend(StrEnum):
    """What does the arithmetic of a verification."""

    LIBCRYPTO = "libcrypto"
    PORTABLE = "portable"


class Signer(Protocol):
    """Something that signs with one SM2 key: a key in memory, or one held by a device."""

    @property
    def public_key(self) -> bytes:
        """The public key: 65 bytes 04‖X‖Y."""

    def sign(self, message: bytes) -> bytes:
        """The signature over `message` under `USER_ID`, 64 bytes r‖s; threads may call it at once.

        Raises: SigningUnavailable where no signature can be made.
        """


class SM2Signer:
    """A private SM2 key held by libcrypto; it never leaves it but by `to_pem`.

    Raises: SigningUnavailable if this machine's libcrypto has no SM2.
    """

    __slots__ = ("_key", "_library", "public_key")

    def __init__(self, library: Libcrypto, key: Key) -> None:
        self._library = library
        self._key = key
        self.public_key = key.public_key

    def __repr__(self) -> str:
        return f"SM2Signer({self.public_key[:5].hex()}…)"

    @classmethod
    def generate(cls, *, library: Libcrypto | None = None) -> Self:
        """A signer with a new key from OpenSSL's generator."""
        library = library or load()
        return cls(library, library.generate())

    @classmethod
    def from_pem(cls, pem: bytes, *, password: bytes | None = None, library: Libcrypto | None = None) -> Self:
        """The signer of the private key in a PKCS#8 PEM text.

        Raises: Malformed if the text or password is wrong or the key is not SM2; SigningUnavailable.
        """
        library = library or load()
        return cls(library, library.private_key(pem, password=password))

    def to_pem(self, *, password: bytes | None = None) -> bytes:
        """The private key as PKCS#8 PEM, encrypted where a password is given."""
        return self._library.to_pem(self._key, password=password)

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`.

        Shapes: any length → 64 bytes r‖s.
        Raises: SigningUnavailable if libcrypto refuses.
        Source: GB/T 32918.2—2016 6.1, user id 1234567812345678 (GB/T 35276—2017).
        """
        return der_to_rs(self._library.sign(self._key, message, USER_ID))


def check_public_key(public_key: bytes) -> None:
    """Pass a public key that is a point on the curve.

    Shapes: 65 bytes 04‖X‖Y.
    Raises: Malformed if the length or first byte is wrong, a coordinate is ≥ p, or the point is off the curve.
    Source: GB/T 32918.1—2016 6.2.1.
    """
    if not isinstance(public_key, bytes):
        raise Malformed(f"public key has wrong form: expected bytes, got {type(public_key).__name__}")
    if len(public_key) != PUBLIC_KEY_BYTES or public_key[0] != 4:
        raise Malformed(f"public key has wrong form: expected 65 bytes beginning 04, got {len(public_key)} bytes")
    x, y = int.from_bytes(public_key[1:33]), int.from_bytes(public_key[33:])
    if x >= P or y >= P:
        raise Malformed("public key has a coordinate out of range: expected less than p")
    if (y * y - (x * x + A) * x - B) % P:
        raise Malformed("public key is not a point on the SM2 curve")


def _check_range(r: int, s: int) -> None:
    if not (1 <= r < N and 1 <= s < N):
        raise Malformed("signature has a number out of range: expected 1 ≤ r, s < n")
    if r + s == N:
        raise Malformed("signature has r + s = n, which no signer makes")


def check_signature(signature: bytes) -> None:
    """Pass 64 bytes whose r and s are in range.

    Raises: Malformed if the length is wrong, r or s is 0 or ≥ n, or r + s = n.
    Source: GB/T 32918.2—2016 7.1 steps 1, 2 and 5.
    """
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        size = len(signature) if isinstance(signature, bytes) else type(signature).__name__
        raise Malformed(f"signature has wrong length: expected 64 bytes r‖s, got {size}")
    _check_range(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))


def _der_integer(value: bytes) -> bytes:
    body = value.lstrip(b"\x00")
    if not body or body[0] & 0x80:
        body = b"\x00" + body
    return bytes((2, len(body))) + body


def rs_to_der(signature: bytes) -> bytes:
    """The DER form (SEQUENCE of two INTEGERs) of r‖s.

    Shapes: 64 bytes → 8 to 72 bytes.
    Raises: Malformed if the signature's length or numbers are wrong.
    Source: GB/T 35276—2017 7.3; X.690 8.3, 10.1.
    """
    check_signature(signature)
    body = _der_integer(signature[:32]) + _der_integer(signature[32:])
    return bytes((0x30, len(body))) + body


def der_to_rs(der: bytes) -> bytes:
    """r‖s of a signature in strict DER.

    Shapes: 8 to 72 bytes → 64 bytes.
    Raises: Malformed if it is not the one DER form of two numbers in range: long lengths, padded
        or negative integers, trailing bytes.
    Source: X.690 8.3, 10.1.
    """
    wrong = "signature has wrong form: expected DER of two integers r, s"
    if not isinstance(der, bytes) or not 8 <= len(der) <= 72 or der[0] != 0x30 or der[1] != len(der) - 2:
        raise Malformed(wrong)
    numbers: list[bytes] = []
    position = 2
    for _ in range(2):
        if len(der) < position + 3 or der[position] != 2:
            raise Malformed(wrong)
        size = der[position + 1]
        body = der[position + 2 : position + 2 + size]
        if not 1 <= size <= 33 or len(body) != size:
            raise Malformed(wrong)
        if body[0] & 0x80:
            raise Malformed("signature holds a negative integer")
        if size > 1 and body[0] == 0 and not body[1] & 0x80:
            raise Malformed("signature holds an integer with needless zeros: expected DER")
        if size == 33 and body[0] != 0:
            raise Malformed("signature has a number out of range: expected 1 ≤ r, s < n")
        numbers.append(body[-32:].rjust(32, b"\x00"))
        position += 2 + size
    if position != len(der):
        raise Malformed(wrong)
    signature = numbers[0] + numbers[1]
    check_signature(signature)
    return signature


@lru_cache(maxsize=KEYS_CACHED)
def _checked_key(public_key: bytes) -> bytes:
    check_public_key(public_key)
    return public_key


class _KeyCache:
    """Parsed keys by their 65 bytes; the oldest is dropped first."""

    def __init__(self, library: Libcrypto) -> None:
        self.library = library
        self._keys: dict[bytes, Key] = {}
        self._lock = threading.Lock()

    def get(self, public_key: bytes) -> Key:
        key = self._keys.get(public_key)
        if key is None:
            key = self.library.public_key(public_key)
            with self._lock:
                while len(self._keys) >= KEYS_CACHED:
                    del self._keys[next(iter(self._keys))]
                self._keys[public_key] = key
        return key


@lru_cache(maxsize=1)
def _libcrypto() -> _KeyCache | None:
    try:
        return _KeyCache(load())
    except SigningUnavailable:
        return None


def available_backend() -> Backend:
    """The backend that `verify` uses where none is named: libcrypto if it has SM2, else the portable one."""
    return Backend.PORTABLE if _libcrypto() is None else Backend.LIBCRYPTO


@lru_cache(maxsize=KEYS_CACHED)
def _z_context(public_key: bytes, user_id: bytes) -> Hasher:
    """A running SM3 that has taken Z in, to be copied for each message."""
    curve = A.to_bytes(32) + B.to_bytes(32) + G
    z = sm3((8 * len(user_id)).to_bytes(2) + user_id + curve + public_key[1:])
    return hasher(Algorithm.SM3, z)


def _verify_portable(public_key: bytes, message: bytes, signature: bytes, user_id: bytes) -> bool:
    from gmssl.sm2 import CryptSM2  # noqa: PLC0415 - only machines without SM2 in libcrypto need it

    state = _z_context(public_key, user_id).copy()
    state.update(message)
    point = public_key[1:].hex()
    crypt = CryptSM2(private_key="", public_key=point)
    # Its constructor strips every leading "0" and "4" from the key, which breaks one key in eight.
    crypt.public_key = point
    try:
        return bool(crypt.verify(signature.hex(), state.digest()))
    except TypeError:
        # It gives None for the point at infinity and then reads from it: s·G + t·P has no x, so nothing verifies.
        return False


def verify(
    public_key: bytes, message: bytes, signature: bytes, *, user_id: bytes = USER_ID, backend: Backend | None = None
) -> None:
    """Pass a signature that the key made over exactly this message under this user id.

    Shapes: public key 65 bytes, signature 64 bytes r‖s, user id 0 to 8190 bytes.
    Raises: VerificationError for any refusal, of form or of content; SigningUnavailable if
        `backend` names libcrypto and it has no SM2.
    Source: GB/T 32918.2—2016 7.1; formats §1 (sm2-sm3).
    """
    try:
        check_signature(signature)
        if isinstance(public_key, bytes):
            _checked_key(public_key)
        else:
            check_public_key(public_key)
    except Malformed as error:
        raise VerificationError(error.message, hint=error.hint) from error
    if len(user_id) > MAX_USER_ID_BYTES:
        raise VerificationError(f"user id is too long: expected at most {MAX_USER_ID_BYTES} bytes, got {len(user_id)}")
    keys = _libcrypto() if backend is not Backend.PORTABLE else None
    if keys is not None:
        good = keys.library.verify(keys.get(public_key), message, rs_to_der(signature), user_id)
    elif backend is Backend.LIBCRYPTO:
        load()
        raise SigningUnavailable("libcrypto has no SM2")
    else:
        good = _verify_portable(public_key, message, signature, user_id)
    if not good:
        raise VerificationError(f"signature does not verify: expected one of key {public_key[1:5].hex()}… over this message")
