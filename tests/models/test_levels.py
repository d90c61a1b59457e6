"""Hashes kept level by level give the proof that is computed, for every small tree and choice of leaves."""

from random import Random

import pytest

from models.errors import Malformed, VerificationError
from models.levels import kept_size, levels_of, proof_length, subset_from, subset_root
from models.merkle import leaf_hashes, root, subset_path, verify_subset


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


@pytest.mark.parametrize("size", [*range(1, 20), 31, 32, 33, 100, 511, 512])
def test_root_walked_in_steps_is_the_one_that_the_general_walk_accepts(size: int) -> None:
    leaves, random = hashes_of(size), Random(size)
    for _ in range(60):
        wanted = sorted(random.sample(range(size), random.randint(1, min(size, 9))))
        path, shown = subset_path(leaves, wanted), [leaves[index] for index in wanted]
        assert proof_length(size, tuple(wanted)) == len(path)
        assert subset_root(size, tuple(wanted), shown, path) == root(leaves)
        place = random.randrange(len(path) + len(shown))
        altered = [bytes(32) if at == place else each for at, each in enumerate([*shown, *path])]
        found = subset_root(size, tuple(wanted), altered[: len(shown)], altered[len(shown) :])
        verify_subset(dict(zip(wanted, altered, strict=False)), size, altered[len(shown) :], found)
        with pytest.raises(VerificationError):
            verify_subset(dict(zip(wanted, altered, strict=False)), size, altered[len(shown) :], root(leaves))
