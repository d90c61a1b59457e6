"""Salts without end: the keystream of SM4-CTR from a zero counter, as long as a slice is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from models.canonical import canonical
from models.commitment import KEY_BYTES, hmac_sm3, sm4_blocks
from models.nodes import SALT_BYTES

CONTENT_SALT: Final = 0
INDEX_SALT: Final = 1
RULE_SALT: Final = 2
"""Which salt under `cz-flat/1` a slice's flats have: content, index, and rule j of the declaration at 2 + j."""


def keystream(key: bytes, count: int, *, first: int = 0) -> bytes:
    """Salts first … first+count-1 under `key`, joined.

    Shapes: key 16 bytes → 16 bytes a salt.
    Source: formats §1 (Salt).
    """
    return Cipher(algorithms.SM4(key), modes.CTR(first.to_bytes(SALT_BYTES))).encryptor().update(bytes(SALT_BYTES * count))


def salts(key: bytes, count: int) -> list[bytes]:
    """Salts 0 … count-1 under `key`, 16 bytes each."""
    stream = keystream(key, count)
    return [stream[start : start + SALT_BYTES] for start in range(0, len(stream), SALT_BYTES)]


def salt(key: bytes, index: int) -> bytes:
    """Salt `index` under `key` alone, 16 bytes."""
    return salts_at(key, (index,))[0]


def salts_at(key: bytes, indexes: Sequence[int]) -> list[bytes]:
    """The salts at these places under `key`: the blocks of the keystream at their counters, and no others."""
    counters = b"".join([index.to_bytes(SALT_BYTES) for index in indexes])
    stream = sm4_blocks(key, counters)
    return [stream[start : start + SALT_BYTES] for start in range(0, len(stream), SALT_BYTES)]


def slice_key(secret: bytes, tag: str, stream_id: str, number: int) -> bytes:
    """The key of a slice for `tag`: `cz-line/1`, `cz-index/1` or `cz-flat/1` (formats §5.5)."""
    return hmac_sm3(secret, _context(tag, stream_id) % number)[:KEY_BYTES]


@lru_cache(maxsize=64)
def _context(tag: str, stream_id: str) -> bytes:
    """JCS([tag, stream_id, number]) but for the number: all slices of a stream have the rest in common."""
    return canonical([tag, stream_id]).replace(b"%", b"%%")[:-1] + b",%d]"


def slice_flat_salt(secret: bytes, stream_id: str, number: int, place: int) -> bytes:
    """The salt of a slice's flat at `place`: `CONTENT_SALT`, `INDEX_SALT`, or `RULE_SALT` + j."""
    return salt(slice_key(secret, "cz-flat/1", stream_id, number), place)
