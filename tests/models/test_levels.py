"""Hashes kept level by level give the proof that is computed, for every small tree and choice of leaves."""

from random import Random

import pytest

from models.digest import Algorithm
from models.errors import Malformed, VerificationError
from models.levels import kept_size, levels_of, proof_length, subset_from, subset_roots
from models.merkle import leaf_hashes, root, subset_path, verify_subset
from models.nodes import CORE


def hashes_of(size: int) -> list[bytes]:
    return leaf_hashes(bytes([number % 256, number >> 8]) for number in range(size))


@pytest.mark.parametrize("size", [*range(1, 20), 31, 32, 33, 100, 511, 512])
def test_kept_levels_give_the_computed_proof(size: int) -> None:
    leaves, random = hashes_of(size), Random(size)
    levels = levels_of(leaves)
    assert len(levels) == kept_size(size)
    assert levels[-32:] == root(leaves)
    for _ in range(60):
        wanted = random.sample(range(size), random.randint(1, min(size, 9)))
        path = subset_from(levels, size, wanted)
        assert path == subset_path(leaves, wanted)
        verify_subset({index: leaves[index] for index in wanted}, size, path, root(leaves))


@pytest.mark.parametrize(("size", "wanted"), [(4, [4]), (4, [-1]), (4, [1, 1]), (5, [0]), (3, [0]), (0, [])])
def test_other_sizes_and_places_are_refused(size: int, wanted: list[int]) -> None:
    with pytest.raises(Malformed):
        subset_from(levels_of(hashes_of(4)), size, wanted)


@pytest.mark.parametrize("core", [True, False])
@pytest.mark.parametrize("size", [*range(1, 20), 31, 32, 33, 100, 511, 512])
def test_roots_walked_in_steps_are_those_that_the_general_walk_accepts(
    size: int,
    core: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not core:
        monkeypatch.delitem(CORE, Algorithm.SM3, raising=False)
    leaves, random = hashes_of(size), Random(size)
    for _ in range(30):
        wanted = sorted(random.sample(range(size), random.randint(1, min(size, 9))))
        path, shown = subset_path(leaves, wanted), [leaves[index] for index in wanted]
        assert proof_length(size, tuple(wanted)) == len(path)
        trees = [[*shown, *path]]
        for _ in range(random.choice([0, 1, 4, 20])):
            place = random.randrange(len(trees[0]))
            trees.append([random.randbytes(32) if at == place else each for at, each in enumerate(trees[0])])
        columns = [list(column) for column in zip(*trees, strict=True)]
        roots = subset_roots(size, tuple(wanted), columns[: len(shown)], columns[len(shown) :])
        assert roots[0] == root(leaves)
        for tree, found in zip(trees, roots, strict=True):
            claimed, proof = dict(zip(wanted, tree, strict=False)), tree[len(shown) :]
            verify_subset(claimed, size, proof, found)
            with pytest.raises(VerificationError):
                verify_subset(claimed, size, proof, bytes(32))
        assert len(set(roots)) == len({tuple(tree) for tree in trees})
