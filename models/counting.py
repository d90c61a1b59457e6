"""How often a keyword stands in a record: the plain definition, which every faster way must agree with.

Bytes are counted, not characters; occurrences may overlap; none crosses the end of a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from models.record import Buffer, Encoding, counted_part

FOLD: Final = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))
"""A–Z to a–z, every other byte as it is: for `bytes.translate`."""
WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")


class Boundary(StrEnum):
    """Whether a keyword counts anywhere, or only where no [0-9A-Za-z_] stands beside it."""

    NONE = "none"
    WORD = "word"


class Case(StrEnum):
    """Whether bytes are compared as they are, or with A–Z of the record folded to a–z."""

    EXACT = "exact"
    ASCII = "ascii"


class Counted(NamedTuple):
    """A keyword, how often it stands in a slice, and where: (line, count) for each line that has it, ascending."""

    keyword: bytes
    n: int
    lines: list[tuple[int, int]]


def folded(text: bytes, case: str) -> bytes:
    """`text` as it is compared."""
    return text.translate(FOLD) if case == Case.ASCII else text


def count(text: bytes, keyword: bytes, *, boundary: str = Boundary.NONE, case: str = Case.EXACT) -> int:
    """How often `keyword` stands in `text`, overlaps counted.

    Shapes: `keyword` ≥ 1 byte, without A–Z under `ascii`.
    Source: T/SAC 004—2024 C.4-b; formats §5.2: n(k, p) = |{i : p[i : i+|k|] = k}|.
    """
    text = folded(text, case)
    found, at = 0, text.find(keyword)
    whole = boundary == Boundary.WORD
    size = len(keyword)
    while at >= 0:
        if not whole or (text[at - 1 : at] not in _WORDS and text[at + size : at + size + 1] not in _WORDS):
            found += 1
        at = text.find(keyword, at + 1)
    return found


_WORDS: Final = frozenset(bytes((byte,)) for byte in WORD)


def index_of(
    buffer: Buffer,
    keywords: Sequence[bytes],
    *,
    boundary: str = Boundary.NONE,
    case: str = Case.EXACT,
    encoding: str = Encoding.LINE,
) -> list[Counted]:
    """KN of a slice: every keyword with its count and lines, zeros included, in the order of `keywords`.

    Raises: Malformed if a payload is not of `encoding`.
    Source: T/SAC 004—2024 C.4-a, C.4-b; formats §5.2, §5.5.
    """
    texts = [folded(counted_part(payload, encoding), case) for payload in buffer.payloads()]
    index: list[Counted] = []
    everything = b"\n".join(texts)
    for keyword in keywords:
        # What is in no line is not in all of them joined: most of many keywords are done with at one look.
        lines = [] if keyword not in everything else [
            (line, n) for line, text in enumerate(texts) if keyword in text and (n := count(text, keyword, boundary=boundary))
        ]  # fmt: skip
        index.append(Counted(keyword, sum(n for _, n in lines), lines))
    return index
