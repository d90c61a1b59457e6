"""The native core: SM3 of many messages at once, where it could be built; every caller has a way without it.

`core.c` beside this file is compiled when the package is installed (`models.native.build`). It hashes
what `hashlib` hashes, to the bit: it is used only after it has said so of messages of every length
around a block, in every width the processor has. Nothing is loaded but the file in this folder.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Iterable, Sized
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from models.digest import DIGEST_BYTES, sm3
from models.errors import Malformed

FILE: Final = "core.dll" if sys.platform == "win32" else "core.so"
LANES: Final = (1, 4, 8, 16)
OFFSET: Final = "I"
"""The array type of offsets: u32."""

_BRIEF: Final = 256
_BRIEF_BYTES: Final = 1 << 16
"""Up to so many messages and bytes a call keeps the interpreter's lock: to give it up and take it again costs more."""
_REFUSED: Final = "messages do not lie in their buffer: expected ascending offsets within it, a front of at most 63 bytes"


class Core:
    """The library, loaded. Pure functions of their arguments; threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The same file twice: the first keeps the interpreter's lock during a call, the second gives it up.
        self._brief, self._long = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        text, address, size, offset = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
        messages = (text, size, text, size, text, size, address, offset, size)
        for library in (self._brief, self._long):
            library.cz_lanes.restype = ctypes.c_int
            library.cz_hash_each.argtypes = (ctypes.c_int, *messages, address)
            library.cz_hash_each.restype = ctypes.c_int
            library.cz_frame_each.argtypes = (*messages, address, size)
            library.cz_frame_each.restype = size
            library.cz_parents.argtypes = (text, size, address)
            library.cz_parents.restype = None
            library.cz_roots.argtypes = (text, size, text, size, address, size, address, size, address, address, address)
            library.cz_roots.restype = ctypes.c_int
            library.cz_levels.argtypes = (text, size, address)
            library.cz_levels.restype = size
        self.lanes: int = self._brief.cz_lanes()

    def _of(self, count: int, size: int) -> Any:
        return self._brief if count <= _BRIEF and size <= _BRIEF_BYTES else self._long

    def hash_each(
        self, front: bytes, body: bytes, offsets: array[int], *, heads: bytes = b"", gap: int = 0, lanes: int = 0
    ) -> bytes:
        """SM3 of every message front ‖ head ‖ part of the body.

        Shapes: n+1 `offsets` ("I"), part i being body[offsets[i] : offsets[i+1] - gap]; `heads` n of one length, joined, or
            none; front and head ≤ 63 bytes together → n hashes of 32 bytes, joined.
        Raises: Malformed if a part lies outside the body or heads are not n.
        Source: GB/T 32905—2016.
        """
        count, head_size = _counted(offsets, heads)
        made = array("Q", bytes(DIGEST_BYTES * count))
        failed = self._of(count, len(body)).cz_hash_each(
            lanes, front, len(front), heads, head_size, body, len(body), offsets.buffer_info()[0], gap, count,
            made.buffer_info()[0],
        )  # fmt: skip
        if failed:
            raise Malformed(_REFUSED)
        return made.tobytes()

    def frame_each(self, front: bytes, body: bytes, offsets: array[int], *, heads: bytes = b"", gap: int = 0) -> bytes:
        """The messages of `hash_each` joined, before each its length as u32: what a flat is the hash of.

        Raises: Malformed as `hash_each` does.
        """
        count, head_size = _counted(offsets, heads)
        room = max(0, offsets[-1] - offsets[0]) + count * (4 + len(front) + head_size)
        made = array("B", bytes(room))
        written: int = self._of(count, len(body)).cz_frame_each(
            front, len(front), heads, head_size, body, len(body), offsets.buffer_info()[0], gap, count,
            made.buffer_info()[0], room,
        )  # fmt: skip
        if count and not written:
            raise Malformed(_REFUSED)
        return made.tobytes()[:written]

    def parents(self, level: bytes) -> bytes:
        """The parents of the pairs of hashes in `level`; a last one without a sibling has none here.

        Shapes: n hashes of 32 bytes, joined → n // 2 hashes.
        Source: RFC 9162 2.1.1.
        """
        count = len(level) // (2 * DIGEST_BYTES)
        made = array("Q", bytes(DIGEST_BYTES * count))
        self._of(count, len(level)).cz_parents(level, count, made.buffer_info()[0])
        return made.tobytes()

    def roots(self, front: bytes, body: bytes, offsets: array[int], bounds: array[int]) -> bytes:
        """The root of each of many small trees whose leaves are messages as in `hash_each`.

        Shapes: `bounds` m+1 ("I"), tree t having the leaves bounds[t] .. bounds[t+1], at least one → m hashes, joined.
        Raises: Malformed as `hash_each`, or if bounds do not ascend from 0 to the number of leaves.
        Source: RFC 9162 2.1.1.
        """
        count, _ = _counted(offsets, b"")
        trees, _ = _counted(bounds, b"")
        work, sizes, made = (
            array("Q", bytes(DIGEST_BYTES * count)),
            array("I", bytes(4 * trees)),
            array("Q", bytes(DIGEST_BYTES * trees)),
        )
        failed = self._of(count, len(body)).cz_roots(
            front, len(front), body, len(body), offsets.buffer_info()[0], count, bounds.buffer_info()[0], trees,
            sizes.buffer_info()[0], work.buffer_info()[0], made.buffer_info()[0],
        )  # fmt: skip
        if failed or (count and not trees):
            raise Malformed(_REFUSED)
        return made.tobytes()

    def levels(self, leaf_hashes: bytes) -> bytes:
        """Every level of the tree over n ≥ 1 leaf hashes above the leaves, joined, the root last; empty for one leaf.

        Shapes: an odd last node of a level stands in the next as it is.
        Source: RFC 9162 2.1.1.
        """
        count = len(leaf_hashes) // DIGEST_BYTES
        made = array("Q", bytes(DIGEST_BYTES * (2 * count + 64)))
        total: int = self._of(count, len(leaf_hashes)).cz_levels(leaf_hashes, count, made.buffer_info()[0])
        return made.tobytes()[: total * DIGEST_BYTES]


def _counted(offsets: array[int], heads: bytes) -> tuple[int, int]:
    count = len(offsets) - 1
    if offsets.typecode != OFFSET or offsets.itemsize != 4 or count < 0 or (heads and (count == 0 or len(heads) % count)):
        raise Malformed("offsets or heads of messages have wrong form: expected n + 1 of u32 and n heads of one length")
    return count, len(heads) // count if heads else 0


def offsets_of(parts: Iterable[Sized]) -> array[int]:
    """Where these parts begin once they are joined, and where the last one ends.

    Raises: OverflowError if they are 2³² bytes or more together.
    """
    return array(OFFSET, accumulate(map(len, parts), initial=0))


def agrees(core: Core) -> bool:
    """Whether the library gives what `hashlib` gives: for every length around a block, in every width it has, and for a tree."""
    body = bytes(range(256)) * 2
    sizes = [0, 1, 54, 55, 56, 57, 62, 63, 64, 65, 118, 119, 120, 127, 128, 129, 200, 183, 7]
    parts = [body[:size] for size in sizes]
    widths = [lanes for lanes in LANES if lanes <= core.lanes]
    hashes: list[bytes] = []
    for head_size, gap in ((8, 1), (0, 0)):
        heads, joined = body[: head_size * len(parts)], (b"\n" * gap).join(parts)
        offsets = array(OFFSET, accumulate([size + gap for size in sizes], initial=0))
        messages = [b"\x01" + heads[at * head_size : (at + 1) * head_size] + part for at, part in enumerate(parts)]
        framed = b"".join([len(message).to_bytes(4) + message for message in messages])
        hashes = [sm3(message) for message in messages]
        made = [core.hash_each(b"\x01", joined, offsets, heads=heads, gap=gap, lanes=lanes) for lanes in widths]
        if set(made) != {b"".join(hashes)} or core.frame_each(b"\x01", joined, offsets, heads=heads, gap=gap) != framed:
            return False
    return _agrees_on_trees(core, parts, hashes)


def _agrees_on_trees(core: Core, parts: list[bytes], hashes: list[bytes]) -> bool:
    joined, offsets, expected = b"".join(parts), offsets_of(parts), b"".join(hashes)
    levels: list[bytes] = []
    while len(hashes) > 1:
        above = [sm3(b"\x01" + hashes[at] + hashes[at + 1]) for at in range(0, len(hashes) - 1, 2)]
        hashes = above + hashes[-1:] if len(hashes) & 1 else above
        levels += hashes
    made = b"".join(levels)
    return (
        core.levels(expected) == made
        and core.parents(expected) == made[: len(parts) // 2 * DIGEST_BYTES]
        and core.roots(b"\x01", joined, offsets, array(OFFSET, [0, len(parts)])) == made[-DIGEST_BYTES:]
    )


@cache
def load() -> Core | None:
    """The native core, or None where it was not built, cannot be loaded or does not agree with `hashlib`."""
    path = Path(__file__).parent / FILE
    if not path.is_file():
        return None
    try:
        core = Core(path)
        return core if agrees(core) else None
    except (OSError, AttributeError, Malformed):
        return None
