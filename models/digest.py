"""Digests: SM3 carries the evidence, SHA-256 is its twin.

Both go through OpenSSL. A context is made once per algorithm and copied, because looking the
algorithm up costs more than hashing a short message.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from cryptography.hazmat.primitives import hashes as _pyca

from models.errors import Malformed, Unknown

DIGEST_BYTES = 32
_HEX = re.compile("[0-9a-f]*")


class Algorithm(StrEnum):
    """The digest algorithms of evidence (formats §1): both give 32 bytes."""

    SM3 = "sm3"
    SHA256 = "sha256"


_BY_NAME = {member.value: member for member in Algorithm}


class Hasher(Protocol):
    """A running digest, as hashlib has it."""

    def update(self, data: bytes, /) -> None:
        """Take `data` in."""

    def digest(self) -> bytes:
        """The digest of everything taken in so far; more may follow."""

    def copy(self) -> Self:
        """Another running digest that goes on from here."""


class _PycaSM3:
    """SM3 of the OpenSSL inside `cryptography`, for a Python whose own OpenSSL was built without it."""

    def __init__(self, state: _pyca.Hash | None = None) -> None:
        self._state = state or _pyca.Hash(_pyca.SM3())

    def update(self, data: bytes, /) -> None:
        self._state.update(data)

    def digest(self) -> bytes:
        return self._state.copy().finalize()

    def copy(self) -> Self:
        return type(self)(self._state.copy())


def _sm3_context() -> Hasher:
    if "sm3" in hashlib.algorithms_available:
        return hashlib.new("sm3")
    return _PycaSM3()


_CONTEXT: dict[Algorithm, Hasher] = {Algorithm.SM3: _sm3_context(), Algorithm.SHA256: hashlib.sha256()}


def hasher(algorithm: Algorithm, prefix: bytes = b"") -> Hasher:
    """A fresh running digest that has already taken `prefix` in; copy it to hash many short messages."""
    state = _CONTEXT[algorithm].copy()
    if prefix:
        state.update(prefix)
    return state


def sm3(data: bytes) -> bytes:
    """SM3 of `data`.

    Shapes: any length → 32 bytes.
    Source: GB/T 32905—2016.
    """
    state = _CONTEXT[Algorithm.SM3].copy()
    state.update(data)
    return state.digest()


def sha256(data: bytes) -> bytes:
    """SHA-256 of `data`.

    Shapes: any length → 32 bytes.
    Source: FIPS 180-4.
    """
    return hashlib.sha256(data).digest()


_FUNCTION: dict[Algorithm, Callable[[bytes], bytes]] = {Algorithm.SM3: sm3, Algorithm.SHA256: sha256}


def digest(algorithm: Algorithm, data: bytes) -> bytes:
    """The digest of `data` under `algorithm`, 32 bytes."""
    return _FUNCTION[algorithm](data)


def is_hex(text: object, *, size: int = DIGEST_BYTES) -> bool:
    """Whether `text` is exactly `size` bytes in lower-case hex."""
    return isinstance(text, str) and len(text) == 2 * size and _HEX.fullmatch(text) is not None


def unhex(text: object, *, size: int = DIGEST_BYTES, what: str = "digest") -> bytes:
    """The bytes of a lower-case hex text of `size` bytes.

    Raises: Malformed if it is anything else (upper case, other length, other characters).
    """
    if not isinstance(text, str) or not is_hex(text, size=size):
        raise Malformed(f"{what} has wrong form: expected {2 * size} lower-case hex digits")
    return bytes.fromhex(text)


@dataclass(frozen=True, slots=True)
class Digest:
    """An algorithm and its 32 bytes; as text `sm3:<64 hex digits>`."""

    algorithm: Algorithm
    value: bytes

    def __str__(self) -> str:
        return f"{self.algorithm.value}:{self.value.hex()}"

    @classmethod
    def parse(cls, text: object) -> Digest:
        """The digest that `algorithm:hex` names.

        Raises: Malformed if the form is wrong; Unknown if the algorithm is none of ours.
        """
        if not isinstance(text, str) or ":" not in text:
            raise Malformed("digest has wrong form: expected algorithm:hex, for example sm3:1ab2…")
        name, _, tail = text.partition(":")
        algorithm = _BY_NAME.get(name)
        if algorithm is None:
            raise Unknown("digest algorithm is unknown: expected sm3 or sha256")
        return cls(algorithm, unhex(tail))


class Pair(NamedTuple):
    """One thing's two digests (formats, Notation: pair(x))."""

    sm3: bytes
    sha256: bytes

    def to_json(self) -> dict[str, str]:
        """The pair as it stands in canonical JSON."""
        return {"sha256": self.sha256.hex(), "sm3": self.sm3.hex()}

    @classmethod
    def from_json(cls, value: object, *, what: str = "digest pair") -> Pair:
        """The pair that an object with exactly the members sha256 and sm3 holds.

        Raises: Malformed if it is anything else.
        """
        if not isinstance(value, dict) or set(value) != {"sha256", "sm3"}:
            raise Malformed(f"{what} has wrong form: expected an object of sha256 and sm3")
        return cls(unhex(value["sm3"], what=what), unhex(value["sha256"], what=what))


def pair(data: bytes) -> Pair:
    """Both digests of `data`."""
    return Pair(sm3(data), sha256(data))


def pair_of_chunks(chunks: Iterable[bytes]) -> tuple[Pair, int]:
    """Both digests and the length in bytes of a stream of chunks, in one pass and bounded memory."""
    first, second, size = hasher(Algorithm.SM3), hasher(Algorithm.SHA256), 0
    for chunk in chunks:
        first.update(chunk)
        second.update(chunk)
        size += len(chunk)
    return Pair(first.digest(), second.digest()), size
