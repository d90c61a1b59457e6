"""Encryption at rest: SM4-GCM, and the key of an item's content.

Whoever reads the database alone reads nothing: field values lie under K_content, which only the
item's secret gives, and the secret lies wrapped in a store of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from models.commitment import derive
from models.errors import Malformed, VerificationError

KEY_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES

Randomness = Callable[[int], bytes]


class Wrap:
    """SM4-GCM under one key: `seal` gives nonce ‖ ciphertext ‖ tag, `open` takes it back. Threads may share it.

    The key itself is never given out.
    Source: GB/T 32907—2016; formats §1 (sm4-gcm), §8.2.
    """

    __slots__ = ("_cipher", "_randomness")

    def __init__(self, key: bytes, *, randomness: Randomness = os.urandom) -> None:
        if len(key) != KEY_BYTES:
            raise Malformed(f"SM4 key has wrong length: expected {KEY_BYTES} bytes, got {len(key)}")
        self._cipher = algorithms.SM4(key)
        self._randomness = randomness

    def __repr__(self) -> str:
        return "Wrap(…)"

    def seal(self, plaintext: bytes, *, aad: bytes) -> bytes:
        """`plaintext` encrypted under a fresh random nonce and bound to `aad`.

        Shapes: n bytes → 12 + n + 16 bytes.
        """
        return self._seal(self._randomness(NONCE_BYTES), plaintext, aad)

    def seal_each(self, values: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Each plaintext, given with its aad, as `seal` gives it; the nonces are drawn at once."""
        values = list(values)
        # Each draw gives the interpreter's lock away, and a thread that seals many would wait for it each time.
        nonces = self._randomness(NONCE_BYTES * len(values))
        places = range(0, len(nonces), NONCE_BYTES)
        return [self._seal(nonces[at : at + NONCE_BYTES], *value) for at, value in zip(places, values, strict=True)]

    def _seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        body, tag = self.seal_at(nonce, plaintext, aad=aad)
        return nonce + body + tag

    def seal_at(self, nonce: bytes, plaintext: bytes, *, aad: bytes) -> tuple[bytes, bytes]:
        """Ciphertext and tag under a nonce that the caller never uses twice with this key."""
        encryptor = Cipher(self._cipher, modes.GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(aad)
        body = encryptor.update(plaintext) + encryptor.finalize()
        return body, encryptor.tag

    def open(self, sealed: bytes, *, aad: bytes, what: str = "sealed value") -> bytes:
        """What was sealed.

        Raises: VerificationError if a bit was altered, or key or `aad` are others.
        """
        if len(sealed) < OVERHEAD_BYTES:
            raise VerificationError(f"{what} is too short: expected at least {OVERHEAD_BYTES} bytes, got {len(sealed)}")
        return self.open_at(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:-TAG_BYTES], sealed[-TAG_BYTES:], aad=aad, what=what)

    def open_at(self, nonce: bytes, body: bytes, tag: bytes, *, aad: bytes, what: str = "sealed value") -> bytes:
        """What `seal_at` was given. Raises: VerificationError."""
        decryptor = Cipher(self._cipher, modes.GCM(nonce, tag)).decryptor()
        decryptor.authenticate_additional_data(aad)
        try:
            return decryptor.update(body) + decryptor.finalize()
        except InvalidTag as error:
            raise VerificationError(f"{what} does not open: altered, or sealed under another key or name") from error


def content_key(secret: bytes, evidence_id: str) -> bytes:
    """K_content of an item: what its content and its originals' keys are sealed under.

    Shapes: secret of 32 bytes → 16 bytes.
    Source: formats §1 (derived key, `cz-content/1`), §7.1.
    """
    return derive(secret, "cz-content/1", evidence_id)


def seal_content(secret: bytes, evidence_id: str, plaintext: bytes, *, randomness: Randomness = os.urandom) -> bytes:
    """The item's content under K_content, bound to the evidence id.

    Shapes: n bytes → n + 28 bytes (nonce ‖ ciphertext ‖ tag).
    Source: formats §8.2.
    """
    return Wrap(content_key(secret, evidence_id), randomness=randomness).seal(plaintext, aad=evidence_id.encode())


def open_content(secret: bytes, evidence_id: str, sealed: bytes) -> bytes:
    """What `seal_content` was given.

    Raises: VerificationError if the stored bytes were altered or belong to another item.
    """
    what = f"content of evidence {evidence_id[:11]}…"
    return Wrap(content_key(secret, evidence_id)).open(sealed, aad=evidence_id.encode(), what=what)
