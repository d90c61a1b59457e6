"""Merkle trees against a slow oracle written from RFC 9162, the published vectors, and every way a proof can lie."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.digest import Algorithm, sm3
from models.errors import Malformed, VerificationError
from models.merkle import (
    Builder,
    Tree,
    consistency_path,
    empty_root,
    flat,
    inclusion_path,
    leaf_hash,
    leaf_hashes,
    node_hash,
    root,
    subset_path,
    verify_consistency,
    verify_inclusion,
    verify_subset,
)

BOTH = pytest.mark.parametrize("algorithm", list(Algorithm), ids=str)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors/crypto/rfc6962_sha256.json").read_text())
SIZES = [*range(1, 34), 63, 64, 65, 100]


# --- the oracle: RFC 9162 2.1.1, 2.1.3.1, 2.1.4.1 and formats §1, word by word ------------------


def h(algorithm: Algorithm, data: bytes) -> bytes:
    return hashlib.new(algorithm.value, data).digest()


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: Sequence[bytes], a: Algorithm) -> bytes:
    if not d:
        return h(a, b"")
    if len(d) == 1:
        return h(a, b"\x00" + d[0])
    k = split(len(d))
    return h(a, b"\x01" + mth(d[:k], a) + mth(d[k:], a))


def path(m: int, d: Sequence[bytes], a: Algorithm) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    if m < k:
        return [*path(m, d[:k], a), mth(d[k:], a)]
    return [*path(m - k, d[k:], a), mth(d[:k], a)]


def subproof(m: int, d: Sequence[bytes], a: Algorithm, *, known: bool) -> list[bytes]:
    if m == len(d):
        return [] if known else [mth(d, a)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], a, known=known), mth(d[k:], a)]
    return [*subproof(m - k, d[k:], a, known=False), mth(d[:k], a)]


def subset(indices: set[int], d: Sequence[bytes], a: Algorithm, start: int = 0) -> list[bytes]:
    if not any(start <= i < start + len(d) for i in indices):
        return [mth(d, a)]
    if len(d) == 1:
        return []
    k = split(len(d))
    return subset(indices, d[:k], a, start) + subset(indices, d[k:], a, start + k)


def datas(n: int) -> list[bytes]:
    return [b"leaf %d" % i * (i % 5) + b"%d" % i * (i > 0) for i in range(n)]


# --- agreement ----------------------------------------------------------------------------------


@BOTH
def test_hashes_are_separated_by_their_first_byte(algorithm: Algorithm) -> None:
    left, right = leaf_hash(b"l", algorithm=algorithm), leaf_hash(b"r", algorithm=algorithm)
    assert left == h(algorithm, b"\x00l")
    assert node_hash(left, right, algorithm=algorithm) == h(algorithm, b"\x01" + left + right)
    assert empty_root(algorithm) == root([], algorithm=algorithm) == h(algorithm, b"")
    assert leaf_hashes([b"l", b"r"], algorithm=algorithm) == [left, right]


def test_sm3_is_the_default() -> None:
    assert leaf_hash(b"x") == sm3(b"\0x")
    assert empty_root() == sm3(b"")
    assert Tree([leaf_hash(b"a"), leaf_hash(b"b")]).root() == root([leaf_hash(b"a"), leaf_hash(b"b")])


@BOTH
@pytest.mark.parametrize("n", [0, *SIZES])
def test_root_is_the_oracles_however_it_is_built(algorithm: Algorithm, n: int) -> None:
    leaves = leaf_hashes(datas(n), algorithm=algorithm)
    expected = mth(datas(n), algorithm)
    assert root(leaves, algorithm=algorithm) == expected
    one_by_one, at_once, tree = Builder(algorithm=algorithm), Builder(algorithm=algorithm), Tree(algorithm=algorithm)
    at_once.extend(leaves)
    for leaf in leaves:
        one_by_one.append(leaf)
        tree.append(leaf)
    assert one_by_one.root() == at_once.root() == tree.root() == Tree(leaves, algorithm=algorithm).root() == expected
    assert one_by_one.size == at_once.size == tree.size == n


def test_builders_copy_goes_on_by_itself() -> None:
    leaves = leaf_hashes(datas(9))
    first = Builder()
    first.extend(leaves[:5])
    second = first.copy()
    second.extend(leaves[5:])
    assert (first.root(), second.root()) == (root(leaves[:5]), root(leaves))


@BOTH
@pytest.mark.parametrize("n", SIZES)
def test_inclusion_path_is_the_oracles_and_verifies(algorithm: Algorithm, n: int) -> None:
    leaves = leaf_hashes(datas(n), algorithm=algorithm)
    top, tree = root(leaves, algorithm=algorithm), Tree(leaves + leaves, algorithm=algorithm)
    for index in range(n):
        found = inclusion_path(leaves, index, algorithm=algorithm)
        assert found == path(index, datas(n), algorithm) == tree.inclusion_path(index, n)
        verify_inclusion(leaves[index], index, n, found, top, algorithm=algorithm)


@BOTH
@pytest.mark.parametrize("n", SIZES)
def test_consistency_path_is_the_oracles_and_verifies(algorithm: Algorithm, n: int) -> None:
    leaves = leaf_hashes(datas(n), algorithm=algorithm)
    tree = Tree(leaves + leaves, algorithm=algorithm)
    for old in range(n + 1):
        found = consistency_path(leaves, old, n, algorithm=algorithm)
        assert found == tree.consistency_path(old, n)
        assert found == (subproof(old, datas(n), algorithm, known=True) if old else [])
        verify_consistency(old, n, found, tree.root(old), tree.root(n), algorithm=algorithm)


@settings(max_examples=150)
@given(st.data())
def test_subset_path_is_the_oracles_and_verifies(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 70))
    indices = data.draw(st.sets(st.integers(0, n - 1)))
    algorithm = data.draw(st.sampled_from(list(Algorithm)))
    leaves = leaf_hashes(datas(n), algorithm=algorithm)
    found = subset_path(leaves, indices, algorithm=algorithm)
    assert found == subset(indices, datas(n), algorithm)
    verify_subset({i: leaves[i] for i in indices}, n, found, root(leaves, algorithm=algorithm), algorithm=algorithm)


def test_subset_of_one_leaf_holds_the_hashes_of_its_inclusion_path() -> None:
    leaves = leaf_hashes(datas(13))
    for index in range(13):
        assert sorted(subset_path(leaves, [index])) == sorted(inclusion_path(leaves, index))
    assert subset_path(leaves, range(13)) == []


def test_published_vectors_hold() -> None:
    leaves = leaf_hashes([bytes.fromhex(data) for data in VECTORS["leaves"]], algorithm=Algorithm.SHA256)
    roots = [bytes.fromhex(each) for each in VECTORS["roots"]]
    tree = Tree(leaves, algorithm=Algorithm.SHA256)
    for size, expected in enumerate(roots):
        assert root(leaves[:size], algorithm=Algorithm.SHA256) == tree.root(size) == expected
    for each in VECTORS["inclusion"]:
        index, size, hashes = each["index"], each["size"], [bytes.fromhex(one) for one in each["path"]]
        assert tree.inclusion_path(index, size) == hashes
        verify_inclusion(leaves[index], index, size, hashes, roots[size], algorithm=Algorithm.SHA256)
    for each in VECTORS["consistency"]:
        old, new, hashes = each["old"], each["new"], [bytes.fromhex(one) for one in each["path"]]
        assert tree.consistency_path(old, new) == hashes
        verify_consistency(old, new, hashes, roots[old], roots[new], algorithm=Algorithm.SHA256)


@BOTH
def test_flat_commits_to_every_length(algorithm: Algorithm) -> None:
    salt = bytes(range(16))
    expected = h(algorithm, b"\x02" + salt + b"\0\0\0\x02ab" + b"\0\0\0\x00" + b"\0\0\0\x01c")
    assert flat(salt, [b"ab", b"", b"c"], algorithm=algorithm) == expected
    assert flat(salt, [b"a", b"b", b"c"], algorithm=algorithm) != expected
    with pytest.raises(Malformed):
        flat(salt[:15], [], algorithm=algorithm)


# --- refusals -------------------------------------------------------------------------------------

ZERO = bytes(32)


def flipped(value: bytes) -> bytes:
    return bytes([value[0] ^ 8]) + value[1:]


def bent_paths(good: list[bytes], top: bytes) -> list[tuple[str, list[bytes]]]:
    """Every damage to a list of hashes; two of its hashes swapped only where they differ."""
    bent = [
        ("one more at the end", [*good, top]),
        ("one more of zeros", [*good, ZERO]),
        ("one more at the front", [top, *good]),
        ("an empty hash more", [*good, b""]),
        ("one twice as long", [*good[:-1], (good or [ZERO])[-1] * 2]),
    ]
    if good:
        bent += [
            ("nothing", []),
            ("one less at the end", good[:-1]),
            ("one less at the front", good[1:]),
            ("one byte less", [good[0][:-1], *good[1:]]),
            ("one byte more", [good[0] + b"\0", *good[1:]]),
        ]
        bent += [(f"bit of hash {i}", [*good[:i], flipped(good[i]), *good[i + 1 :]]) for i in range(len(good))]
        bent += [(f"halves of hash {i}", [*good[:i], good[i][16:] + good[i][:16], *good[i + 1 :]]) for i in range(len(good))]
    if len(good) > 1:
        bent += [("upside down", good[::-1]), ("first two swapped", [good[1], good[0], *good[2:]])]
    return bent


def refused(act: Callable[[], None]) -> None:
    with pytest.raises(VerificationError):
        act()


@BOTH
@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 13, 16])
def test_refuses_every_bent_inclusion_path(algorithm: Algorithm, n: int) -> None:
    leaves = leaf_hashes(datas(n + 1), algorithm=algorithm)
    other, leaves = leaves[n], leaves[:n]
    top = root(leaves, algorithm=algorithm)
    for index in range(n):
        leaf, good = leaves[index], inclusion_path(leaves, index, algorithm=algorithm)

        def check(leaf: bytes = leaf, index: int = index, size: int = n, good: list[bytes] = good, top: bytes = top) -> None:
            verify_inclusion(leaf, index, size, good, top, algorithm=algorithm)

        check()
        for _what, bent in bent_paths(good, top):
            refused(partial(check, good=bent))
        for place in (-1, n, n + 1, 2 * n, index ^ 1, index + (1 << 40), True, 1 << 64):
            if place != index:
                refused(partial(check, index=place))
        for size in (0, -1, index, 4 * n, 1 << 63, 1 << 70):
            refused(partial(check, size=size))
        for bad in (other, flipped(leaf), ZERO, b"", leaf + b"\0", leaf[:31]):
            refused(partial(check, leaf=bad))
        for bad in (flipped(top), empty_root(algorithm), ZERO, b"", root([*leaves, other], algorithm=algorithm)):
            refused(partial(check, top=bad))


@BOTH
def test_refuses_an_inner_node_shown_as_a_leaf(algorithm: Algorithm) -> None:
    leaves = leaf_hashes(datas(8), algorithm=algorithm)
    top = root(leaves, algorithm=algorithm)
    inner = node_hash(leaves[0], leaves[1], algorithm=algorithm)
    above = inclusion_path(leaves, 0, algorithm=algorithm)[1:]
    refused(lambda: verify_inclusion(inner, 0, 8, above, top, algorithm=algorithm))
    # In the tree of half the size the walk has the right length, so only the stated size keeps it out.
    verify_inclusion(inner, 0, 4, above, top, algorithm=algorithm)
    # The data of a leaf cannot be made of two hashes, since a leaf begins with another byte.
    forged = leaf_hash(leaves[0] + leaves[1], algorithm=algorithm)
    refused(lambda: verify_inclusion(forged, 0, 4, above, top, algorithm=algorithm))


@BOTH
@pytest.mark.parametrize("new", [1, 2, 3, 5, 7, 8, 13, 16])
def test_refuses_every_bent_consistency_path(algorithm: Algorithm, new: int) -> None:
    leaves = leaf_hashes(datas(new), algorithm=algorithm)
    others = leaf_hashes([b"other" + data for data in datas(new)], algorithm=algorithm)
    new_root = root(leaves, algorithm=algorithm)
    for old in range(1, new + 1):
        old_root = root(leaves[:old], algorithm=algorithm)
        foreign = root(others[:old], algorithm=algorithm)
        good = consistency_path(leaves, old, new, algorithm=algorithm)

        def check(
            old: int = old, new: int = new, good: list[bytes] = good, first: bytes = old_root, second: bytes = new_root
        ) -> None:
            verify_consistency(old, new, good, first, second, algorithm=algorithm)

        check()
        for _what, bent in bent_paths(good, new_root):
            refused(partial(check, good=bent))
        for bad in (foreign, flipped(old_root), empty_root(algorithm), b"", old_root + b"\0"):
            refused(partial(check, first=bad))
        for bad in (root(others, algorithm=algorithm), flipped(new_root), empty_root(algorithm), b""):
            refused(partial(check, second=bad))
        for sizes in ((new + 1, new), (old, -1), (-1, new), (old, old - 1), (True, 2 * new), (old, 1 << 63)):
            refused(partial(check, old=sizes[0], new=sizes[1]))
        if old < new:
            refused(partial(check, first=new_root, second=old_root))
            refused(partial(check, old=new))


def test_consistency_from_nothing_is_the_empty_root_and_no_path() -> None:
    top = root(leaf_hashes(datas(5)))
    verify_consistency(0, 5, [], empty_root(), top)
    verify_consistency(0, 0, [], empty_root(), empty_root())
    for old, new, hashes, first, second in (
        (0, 5, [], top, top),
        (0, 5, [top], empty_root(), top),
        (0, 0, [], empty_root(), top),
        (0, 0, [], top, top),
        (0, 5, [], empty_root(Algorithm.SHA256), top),
    ):
        refused(partial(verify_consistency, old, new, hashes, first, second))


@pytest.mark.parametrize("shape", [b"\0" * 96, "text", None, iter(()), {}], ids=["bytes", "str", "none", "iterator", "dict"])
def test_refuses_a_path_that_is_no_list(shape: object) -> None:
    leaves = leaf_hashes(datas(8))
    top = root(leaves)
    refused(lambda: verify_inclusion(leaves[0], 0, 8, shape, top))  # type: ignore[arg-type]
    refused(lambda: verify_consistency(3, 8, shape, root(leaves[:3]), top))  # type: ignore[arg-type]
    refused(lambda: verify_subset({0: leaves[0]}, 8, shape, top))  # type: ignore[arg-type]


@BOTH
def test_refuses_every_bent_subset_proof(algorithm: Algorithm) -> None:
    n = 13
    leaves = leaf_hashes(datas(n), algorithm=algorithm)
    top = root(leaves, algorithm=algorithm)
    for indices in ({0}, {12}, {3, 4}, {0, 5, 12}, {1, 2, 3, 9}, set(range(n)), set(range(1, n))):
        shown = {i: leaves[i] for i in indices}
        good = subset_path(leaves, indices, algorithm=algorithm)
        verify_subset(shown, n, good, top, algorithm=algorithm)
        for _what, bent in bent_paths(good, top):
            refused(partial(verify_subset, shown, n, bent, top, algorithm=algorithm))
        some = min(indices)
        rest = {i: leaf for i, leaf in shown.items() if i != some}
        free = next((i for i in range(n) if i not in indices), None)
        bent_leaves = [
            {**shown, some: flipped(shown[some])},
            {**rest, n: shown[some]},
            {**rest, -1: shown[some]},
            {**shown, some: shown[some][:31]},
            {**shown, n: ZERO},
            rest,
        ]
        if free is not None:
            bent_leaves += [{**rest, free: shown[some]}, {**shown, free: leaves[free]}]
        for bent_leaf in bent_leaves:
            refused(partial(verify_subset, bent_leaf, n, good, top, algorithm=algorithm))
        for size in (0, -1, 1 << 63, max(indices), 4 * n):
            refused(partial(verify_subset, shown, size, good, top, algorithm=algorithm))
        refused(partial(verify_subset, shown, n, good, flipped(top), algorithm=algorithm))


def test_proof_of_one_algorithm_is_none_of_the_other() -> None:
    leaves = leaf_hashes(datas(6))
    top = root(leaves)
    refused(lambda: verify_inclusion(leaves[2], 2, 6, inclusion_path(leaves, 2), top, algorithm=Algorithm.SHA256))
    refused(lambda: verify_consistency(3, 6, consistency_path(leaves, 3, 6), root(leaves[:3]), top, algorithm=Algorithm.SHA256))
    refused(lambda: verify_subset({2: leaves[2]}, 6, subset_path(leaves, [2]), top, algorithm=Algorithm.SHA256))


def test_huge_sizes_cost_nothing() -> None:
    size = (1 << 63) - 1
    refused(lambda: verify_inclusion(ZERO, size - 1, size, [ZERO] * 64, ZERO))
    refused(lambda: verify_consistency(size - 1, size, [ZERO] * 64, ZERO, ZERO))
    refused(lambda: verify_subset({5: ZERO, size - 1: ZERO}, size, [ZERO] * 200, ZERO))


def test_refuses_to_prove_what_is_not_there() -> None:
    leaves = leaf_hashes(datas(5))
    tree = Tree(leaves)
    for act in (
        lambda: inclusion_path(leaves, 5),
        lambda: inclusion_path(leaves, -1),
        lambda: inclusion_path([], 0),
        lambda: tree.inclusion_path(3, 3),
        lambda: tree.inclusion_path(0, 6),
        lambda: tree.inclusion_path(0, 0),
        lambda: tree.consistency_path(4, 3),
        lambda: tree.consistency_path(1, 6),
        lambda: consistency_path(leaves, -1, 3),
        lambda: subset_path(leaves, [5]),
        lambda: subset_path(leaves, [-1]),
        lambda: subset_path(leaves, [1, 1]),
        lambda: subset_path([], []),
        lambda: tree.root(6),
        lambda: tree.append(b"short"),
    ):
        with pytest.raises(Malformed):
            act()
    assert tree.root() == root(leaves)
