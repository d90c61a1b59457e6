"""Laws of re-deriving the trees: which copy of a leaf is the true one, and tiles of every level, without a database."""

from __future__ import annotations

from itertools import pairwise

import pytest

from evidence.examination.damage import Findings, How, Unit
from evidence.examination.trees import TREES, Suspect, Trees, compare_tile, full_tiles
from models.digest import Algorithm, sha256, sm3
from models.merkle import Tree, leaf_hashes

SIZE = 65_536 + 300


def entry(number: int) -> bytes:
    return sm3(b"%d" % number) + sha256(b"%d" % number)


ENTRIES = [entry(number) for number in range(SIZE)]
HASHES = {algorithm: leaf_hashes(ENTRIES, algorithm=algorithm) for algorithm in TREES}
LEVEL_1: dict[Algorithm, bytes] = {}


@pytest.fixture(scope="module")
def trees() -> dict[Algorithm, Tree]:
    return {algorithm: Tree(HASHES[algorithm], algorithm=algorithm) for algorithm in TREES}


def roots(trees: dict[Algorithm, Tree], size: int) -> dict[Algorithm, bytes]:
    return {algorithm: tree.root(size) for algorithm, tree in trees.items()}


def tile(trees: dict[Algorithm, Tree], algorithm: Algorithm, number: int) -> bytes:
    """A tile of level 1: the roots of 256 tiles of level 0."""
    tree = trees[algorithm]
    return b"".join(tree._node(8, number * 256 + place) for place in range(256))


def take(found: Trees, start: int, stop: int) -> None:
    found.take(HASHES[Algorithm.SM3][start:stop], HASHES[Algorithm.SHA256][start:stop])


def walked(trees: dict[Algorithm, Tree], sizes: list[int], read_tile: dict[Algorithm, bytes | None]) -> Findings:
    findings = Findings()
    found = Trees(findings, lambda algorithm, level, number: read_tile[algorithm] if (level, number) == (1, 0) else None)
    for start, stop in pairwise([0, *sizes]):
        take(found, start, stop)
        assert found.meet(roots(trees, stop), is_signed=True) == {}
    found.finish()
    return findings


def named(findings: Findings) -> set[tuple[Unit, How, str]]:
    return {(each.unit, each.how, each.where) for each in findings.damages.values()}


def test_tile_above_the_leaves_is_compared(trees: dict[Algorithm, Tree]) -> None:
    good: dict[Algorithm, bytes | None] = {algorithm: tile(trees, algorithm, 0) for algorithm in TREES}
    sizes = [1, 255, 256, 40_000, SIZE]
    assert named(walked(trees, sizes, good)) == set()
    bad = bytearray(good[Algorithm.SHA256] or b"")
    bad[32 * 200] ^= 1
    findings = walked(trees, sizes, {**good, Algorithm.SHA256: bytes(bad)})
    assert named(findings) == {(Unit.TILE, How.ALTERED, "sha256 tile 1/0")}
    (damage,) = findings.damages.values()
    assert damage.detail == "1 of 256 hashes differ from the tree, first hash 200"
    assert damage.leaves == (0, 65_536)
    absent = walked(trees, sizes, {**good, Algorithm.SM3: None})
    assert named(absent) == {(Unit.TILE, How.MISSING, "sm3 tile 1/0")}


def test_full_tiles_are_counted_by_level() -> None:
    assert full_tiles(255) == {}
    assert full_tiles(256) == {0: 1}
    assert full_tiles(SIZE) == {0: 257, 1: 1}


@pytest.mark.parametrize("is_likely", [True, False])
@pytest.mark.parametrize(
    ("evidence", "column", "tiles", "blamed"),
    [
        pytest.param(False, True, None, {Unit.EVIDENCE}, id="E altered, no tile"),
        pytest.param(True, False, None, {Unit.ENTRY}, id="entry altered, no tile"),
        pytest.param(False, True, True, {Unit.EVIDENCE}, id="E altered"),
        pytest.param(True, False, True, {Unit.ENTRY}, id="entry altered"),
        pytest.param(False, False, True, {Unit.EVIDENCE, Unit.ENTRY}, id="both altered"),
        pytest.param(True, True, False, {Unit.TILE}, id="tile altered"),
        pytest.param(True, False, False, {Unit.ENTRY, Unit.TILE}, id="entry and tile altered"),
    ],
)
def test_signed_root_decides_which_copy_is_true(
    trees: dict[Algorithm, Tree], *, evidence: bool, column: bool, tiles: bool | None, blamed: set[Unit], is_likely: bool
) -> None:
    findings = Findings()
    found = Trees(findings, lambda *_: None)
    take(found, 0, 10)
    other = entry(999_999)
    hashes = {} if tiles is None else {a: HASHES[a][10] if tiles else sm3(b"other") for a in TREES}
    found.take_suspect(Suspect(10, ENTRIES[10] if evidence else other, ENTRIES[10] if column else other, hashes, is_likely))
    take(found, 11, 20)
    assert found.meet(roots(trees, 20), is_signed=True) == {}
    found.finish()
    assert {each.unit for each in findings.damages.values()} == blamed


def test_several_altered_leaves_of_one_commit_are_told_apart(trees: dict[Algorithm, Tree]) -> None:
    findings = Findings()
    found = Trees(findings, lambda *_: None)
    other = entry(999_999)
    for index in range(20):
        if index in (3, 7, 8):
            found.take_suspect(Suspect(index, other, ENTRIES[index], {}))
        elif index in (5, 11):
            found.take_suspect(Suspect(index, ENTRIES[index], other, {}))
        else:
            take(found, index, index + 1)
    found.meet(roots(trees, 20), is_signed=True)
    assert named(findings) == {(Unit.EVIDENCE, How.ALTERED, f"leaf {index}") for index in (3, 7, 8)} | {
        (Unit.ENTRY, How.ALTERED, f"leaf {index}") for index in (5, 11)
    }


def test_leaves_that_no_copy_brings_to_the_signed_root_are_named_as_a_range(trees: dict[Algorithm, Tree]) -> None:
    findings = Findings()
    found = Trees(findings, lambda *_: None)
    take(found, 0, 10)
    found.meet(roots(trees, 10), is_signed=True)
    take(found, 11, 21)
    found.meet(roots(trees, 20), is_signed=True)
    take(found, 20, 30)
    assert found.meet(roots(trees, 30), is_signed=True) == {}
    found.finish()
    assert named(findings) == {(Unit.ROOT, How.ALTERED, "leaves 10 to 19")}
    assert findings.unprovable.ranges() == ((10, 20),)
    assert found.is_lost_at(10)
    assert not found.is_lost_at(9)


def test_root_of_an_unsigned_note_blames_the_note_and_not_the_leaves(trees: dict[Algorithm, Tree]) -> None:
    findings = Findings()
    found = Trees(findings, lambda *_: None)
    take(found, 0, 10)
    other = found.meet({**roots(trees, 10), Algorithm.SM3: bytes(32)}, is_signed=False)
    assert other == {Algorithm.SM3: trees[Algorithm.SM3].root(10)}
    take(found, 10, 20)
    assert found.meet(roots(trees, 20), is_signed=True) == {}
    assert named(findings) == set()


def test_leaf_without_any_copy_ends_the_tree_quietly(trees: dict[Algorithm, Tree]) -> None:
    findings = Findings()
    found = Trees(findings, lambda *_: None)
    take(found, 0, 10)
    found.take_suspect(Suspect(10, None, None, {}))
    found.meet(roots(trees, 11), is_signed=True)
    found.finish()
    # The row that is absent was named where it was missed.
    assert named(findings) == set()
    assert any("from leaf 0 on" in sentence for sentence in findings.not_checked)


def test_tile_of_wrong_length_is_named() -> None:
    findings = Findings()
    compare_tile(findings, Algorithm.SM3, 0, 3, bytes(8192), bytes(8160))
    assert named(findings) == {(Unit.TILE, How.ALTERED, "sm3 tile 0/3")}
