"""Others' trees, for reading only: the construction of C.5 as printed, without separation of leaves from nodes.

A match with such a root proves less than it seems: an inner node can be passed off as an item. So
nothing here says VALID; what it says is a sentence that names the weakness.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from models.digest import DIGEST_BYTES, Algorithm, digest
from models.errors import Malformed, VerificationError

SENTENCE: Final = "matches a root that does not separate leaves from nodes"
MAX_PATH: Final = 63


class Profile(StrEnum):
    """What becomes of the odd last node of a layer: carried up, or paired with itself."""

    PLAIN = "plain"
    PLAIN_DUP = "plain-dup"


def plain_root(items: Sequence[bytes], *, profile: str = Profile.PLAIN, algorithm: Algorithm = Algorithm.SM3) -> bytes:
    """H_root of `items`: leaf H(item), node H(l‖r), layer by layer.

    Shapes: n ≥ 1 items → 32 bytes.
    Raises: Malformed if there is no item: the text leaves the empty list open (erratum M07).
    Source: T/SAC 004—2024 C.5-merkle-a to C.5-merkle-e with errata M01 to M04; formats §1 (Profile plain).
    """
    return _layers(items, profile, algorithm)[-1][0]


def plain_path(
    items: Sequence[bytes], index: int, *, profile: str = Profile.PLAIN, algorithm: Algorithm = Algorithm.SM3
) -> list[bytes]:
    """The nodes beside the way from item `index` to the root, from the leaf upward. Raises: Malformed."""
    layers = _layers(items, profile, algorithm)
    if not 0 <= index < len(items):
        raise Malformed("index is none of the items'")
    path: list[bytes] = []
    for layer in layers[:-1]:
        beside = index ^ 1
        if beside < len(layer):
            path.append(layer[beside])
        elif profile == Profile.PLAIN_DUP:
            path.append(layer[index])
        index >>= 1
    return path


def match_plain(
    item: bytes,
    index: int,
    size: int,
    path: Sequence[bytes],
    root: bytes,
    *,
    profile: str = Profile.PLAIN,
    algorithm: Algorithm = Algorithm.SM3,
) -> str:
    """The sentence to report if `item` leads to `root`; never a verdict of its own.

    Raises: VerificationError if it does not: another root, or a path of another length than index and size give.
    Source: T/SAC 004—2024 C.5-verify-1 to C.5-verify-4; formats §1 (Profile plain).
    """
    if not 0 <= index < size or len(path) > MAX_PATH or any(len(node) != DIGEST_BYTES for node in path):
        raise VerificationError("path has wrong form: expected an index below the size, and hashes of 32 bytes")
    running, last, rest = digest(algorithm, item), size - 1, iter(path)
    while last:
        if index & 1 or index < last or profile == Profile.PLAIN_DUP:
            beside = next(rest, None)
            if beside is None:
                raise VerificationError("path lacks a hash")
            if profile == Profile.PLAIN_DUP and index == last and not index & 1 and beside != running:
                raise VerificationError("odd last node is not paired with itself")
            running = digest(algorithm, beside + running if index & 1 else running + beside)
        index >>= 1
        last >>= 1
    if next(rest, None) is not None or running != root:
        raise VerificationError("item does not lead to the root")
    return SENTENCE


def _layers(items: Sequence[bytes], profile: str, algorithm: Algorithm) -> list[list[bytes]]:
    if not items:
        raise Malformed("list of items is empty: the construction of C.5 has no root of nothing")
    if profile not in list(Profile):
        raise Malformed("profile is unknown: expected plain or plain-dup")
    layers = [[digest(algorithm, item) for item in items]]
    while len(layers[-1]) > 1:
        layer = layers[-1]
        if len(layer) & 1 and profile == Profile.PLAIN_DUP:
            layer = [*layer, layer[-1]]
        above = [digest(algorithm, layer[at] + layer[at + 1]) for at in range(0, len(layer) - 1, 2)]
        layers.append(above + layer[len(layer) & ~1 :])
    return layers
