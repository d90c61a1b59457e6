"""Rows of the index in the form that almost every one has: judged many at a time, and none of them read as JSON.

What is found here is what the general rules would find; what they would refuse is not found here, and left to them.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from models.canonical import b64u
from models.declaration import Declaration, EvidenceAlgorithm
from models.digest import DIGEST_BYTES
from models.levels import proof_length, subset_roots
from models.merkle import leaf_hashes
from models.usual import row_of_leaves

_PADDED: Final = Struct(f"{DIGEST_BYTES}sx")
"""A hash in base64 with A in place of its padding: 44 characters, which are its 32 bytes and a zero."""


class UsualRow(NamedTuple):
    """What a row of that form says: its slice, the root its leaves and proof lead to, of each leaf d, n and places as text."""

    number: int
    root: bytes
    leaves: tuple[bytes, ...]
    counts: tuple[bytes, ...]
    places: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class UsualForm:
    """The form under one declaration: the leaves of exactly the keywords asked at their ranks, each hash in its one form.

    Shapes: `wanted` the ranks asked, ascending; `size` how many keywords are declared.
    """

    pattern: re.Pattern[bytes]
    size: int
    wanted: tuple[int, ...]

    @classmethod
    def of(cls, declaration: Declaration, ranks: Sequence[tuple[int, int]], keywords: Sequence[bytes]) -> UsualForm | None:
        """The form under a declaration, `ranks` being (place in the question, rank in K); None if the list is shown whole."""
        wanted, size = tuple(rank for _, rank in ranks), declaration.keywords_size
        if not wanted or list(wanted) != sorted(set(wanted)) or wanted[-1] >= size or declaration.index == EvidenceAlgorithm.HASH:
            return None
        texts = [(rank, b64u(keywords[place])) for place, rank in ranks]
        return cls(row_of_leaves(texts, proof_length(size, wanted)), size, wanted)

    def judge(self, rows: Sequence[bytes]) -> list[UsualRow | None]:
        """What each of these rows says, None of one that has another form."""
        matches = [self.pattern.fullmatch(row) for row in rows]
        found = [match.groups() for match in matches if match is not None]
        if not found:
            return [None] * len(rows)
        end, hashes = 3 * len(self.wanted), proof_length(self.size, self.wanted)
        leaves = [[said[at].replace(b'\\"', b'"') for said in found] for at in range(0, end, 3)]
        shown = b"".join([said[-1].replace(b'=","', b"A") + b"A" for said in found]) if hashes else b""
        nodes = [node for (node,) in _PADDED.iter_unpack(a2b_base64(shown))]
        roots = subset_roots(
            self.size, self.wanted, [leaf_hashes(column) for column in leaves], [nodes[at::hashes] for at in range(hashes)]
        )
        judged = (
            UsualRow(int(said[-2]), root, of_row, said[1:end:3], said[2:end:3])
            for said, root, of_row in zip(found, roots, zip(*leaves, strict=True), strict=True)
        )
        return [None if match is None else next(judged) for match in matches]
