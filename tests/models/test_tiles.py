"""The log's tiled tree: the same answers as a whole tree, at every size, with bounded memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.digest import Algorithm
from models.errors import Malformed
from models.merkle import Tree, empty_root, leaf_hashes
from models.tiles import (
    ENTRIES,
    TILES_CACHED,
    TiledTree,
    index_path,
    parse_index_path,
    parse_tile_path,
    tile_path,
)

LEAVES = leaf_hashes([b"%d" % n for n in range(66_200)])
WHOLE = Tree(LEAVES)


class Store:
    """Where tiles lie: full ones for ever, the open ones replaced at each write, all reads counted."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.reads = 0

    def read(self, level: int, n: int, width: int) -> bytes:
        self.reads += 1
        return self.tiles[level, n][: 32 * width]

    def append(self, tree: TiledTree, leaves: list[bytes]) -> None:
        for level, n, data in tree.append(leaves):
            assert (level, n) not in self.tiles or len(self.tiles[level, n]) < len(data) == 8192
            self.tiles[level, n] = data
        for level, data in enumerate(tree.open_hashes()):
            if data:
                self.tiles[level, (tree.size >> 8 * level) // 256] = data


def filled(size: int) -> tuple[TiledTree, Store]:
    store = Store()
    tree = TiledTree(0, store.read)
    store.append(tree, LEAVES[:size])
    return tree, store


def agrees(tree: TiledTree, size: int, index: int, old: int) -> None:
    assert tree.root(size) == WHOLE.root(size)
    assert tree.consistency_path(old, size) == WHOLE.consistency_path(old, size)
    if size:
        assert tree.inclusion_path(index, size) == WHOLE.inclusion_path(index, size)


EDGES = [0, 1, 2, 255, 256, 257, 511, 512, 1000, 65_535, 65_536, 65_537, 66_200]


@pytest.mark.parametrize("size", EDGES)
def test_tree_gives_the_whole_trees_answers_and_again_when_opened_anew(size: int) -> None:
    tree, store = filled(size)
    places = sorted({0, 1, 254, 255, 256, 257, size // 2, size - 2, size - 1} & set(range(size)))
    for each in (tree, TiledTree(size, store.read)):
        assert each.size == size
        assert each.root() == WHOLE.root(size)
        assert each.open_hashes() == tree.open_hashes()
        for earlier in [n for n in EDGES if n <= size]:
            for index in [n for n in places if n < earlier]:
                agrees(each, earlier, index, index + 1)


@pytest.mark.parametrize("size", EDGES)
def test_paths_of_the_newest_leaves_are_those_of_each_alone(size: int) -> None:
    tree, store = filled(size)
    for each in (tree, TiledTree(size, store.read)):
        for start in {max(0, size - count) for count in (0, 1, 2, 3, 64, 255, 256, 257, 800)}:
            alone = [tuple(WHOLE.inclusion_path(index, size)) for index in range(start, size)]
            assert each.inclusion_paths(start) == alone


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 254, 255, 256, 257, 700, 5000]), max_size=12), st.data())
def test_tree_grown_in_any_batches_is_the_whole_tree(batches: list[int], data: st.DataObject) -> None:
    tree, store = filled(0)
    for batch in batches:
        store.append(tree, LEAVES[tree.size : tree.size + batch])
        for each in (tree, TiledTree(tree.size, store.read)):
            size = data.draw(st.integers(0, tree.size))
            agrees(each, size, data.draw(st.integers(0, max(size - 1, 0))), data.draw(st.integers(0, size)))
    stored = {place for place, content in store.tiles.items() if len(content) == 8192}
    assert stored == {(level, n) for level in (0, 1) for n in range(tree.size >> 8 * (level + 1))}


def test_sha256_twin_is_kept_alike() -> None:
    leaves = leaf_hashes([b"%d" % n for n in range(600)], algorithm=Algorithm.SHA256)
    whole, store = Tree(leaves, algorithm=Algorithm.SHA256), Store()
    tree = TiledTree(0, store.read, algorithm=Algorithm.SHA256)
    assert tree.root() == empty_root(Algorithm.SHA256)
    store.append(tree, leaves)
    assert tree.root() == whole.root()
    assert tree.inclusion_path(300) == whole.inclusion_path(300)


def test_copy_stays_where_it_was_when_the_other_goes_on() -> None:
    tree, store = filled(300)
    before, edge = tree.copy(), tree.inclusion_path(299)
    tree.append(leaf_hashes([b"rolled back"]) * 500)
    assert (before.size, before.root(), before.inclusion_path(299)) == (300, WHOLE.root(300), edge)
    store.append(before, LEAVES[300:900])
    assert before.root() == WHOLE.root(900)
    assert before.inclusion_path(400) == WHOLE.inclusion_path(400, 900)


def test_tiles_just_completed_can_be_proven_before_they_are_stored() -> None:
    tree, store = filled(100)
    full = tree.append(LEAVES[100:2000])
    assert [(tile.level, tile.n) for tile in full] == [(0, n) for n in range(7)]
    assert tree.inclusion_path(150) == WHOLE.inclusion_path(150, 2000)
    assert store.reads == 0


def test_proofs_at_one_size_read_each_tile_once() -> None:
    tree, store = filled(10_000)
    tree = TiledTree(10_000, store.read)
    for index in range(5120, 5376):
        tree.inclusion_path(index)
    reads = store.reads
    assert reads < 50
    for index in range(5120, 5376):
        tree.inclusion_path(index)
    assert store.reads == reads


def test_tree_asks_its_new_reader_for_full_tiles_only() -> None:
    _, store = filled(10_000)
    widths: list[int] = []

    def read(level: int, n: int, width: int) -> bytes:
        widths.append(width)
        return store.read(level, n, width)

    tree = TiledTree(10_000, store.read).reading_from(read)
    assert tree.inclusion_path(7) == WHOLE.inclusion_path(7, 10_000)
    assert tree.inclusion_path(9_999) == WHOLE.inclusion_path(9_999, 10_000)
    assert set(widths) == {256}


def test_tree_holds_no_more_tiles_than_its_bound() -> None:
    _, store = filled(66_200)
    tree = TiledTree(66_200, store.read)
    for index in range(0, 66_200, 97):
        tree.inclusion_path(index)
    for size in range(1, 200):
        tree.root(size)
    assert len(tree._full) <= TILES_CACHED
    assert len(tree._edges) <= 16


@pytest.mark.parametrize("damage", [b"", b"\0" * 31, b"\0" * 8193])
def test_refuses_stored_tile_of_wrong_length(damage: bytes) -> None:
    with pytest.raises(Malformed, match="tile has wrong length"):
        TiledTree(5, lambda *_: damage)
    tree = TiledTree(512, lambda level, _n, width: bytes(32 * width) if level else damage)
    with pytest.raises(Malformed, match="tile has wrong length"):
        tree.inclusion_path(3)


def test_refuses_hashes_of_wrong_length_and_adds_nothing() -> None:
    tree, _ = filled(10)
    for bad in ([b"short"], [LEAVES[0], b""], [LEAVES[0] + b"\0"]):
        with pytest.raises(Malformed):
            tree.append(bad)
    assert (tree.size, tree.root()) == (10, WHOLE.root(10))


def test_refuses_to_prove_what_is_not_there() -> None:
    tree, _ = filled(10)
    for act in (
        lambda: tree.inclusion_path(10),
        lambda: tree.inclusion_path(-1),
        lambda: tree.inclusion_paths(11),
        lambda: tree.inclusion_paths(-1),
        lambda: tree.inclusion_path(3, 3),
        lambda: tree.inclusion_path(3, 11),
        lambda: tree.root(11),
        lambda: tree.root(-1),
        lambda: tree.consistency_path(5, 4),
        lambda: tree.consistency_path(5, 11),
        lambda: filled(0)[0].inclusion_path(0),
    ):
        with pytest.raises(Malformed):
            act()


# The first three are the examples of C2SP tlog-tiles.
PATHS = {
    "tile/0/x001/x234/067": (0, 1234067, 256),
    "tile/3/x001/x234/067.p/1": (3, 1234067, 1),
    "tile/entries/x001/x234/067.p/255": (ENTRIES, 1234067, 255),
    "tile/0/000": (0, 0, 256),
    "tile/63/999": (63, 999, 256),
    "tile/1/x001/000": (1, 1000, 256),
    "tile/1/x999/x999/x999/999.p/17": (1, 10**12 - 1, 17),
}


@pytest.mark.parametrize("path", PATHS)
def test_tile_path_is_that_of_c2sp(path: str) -> None:
    assert tile_path(*PATHS[path]) == path
    assert parse_tile_path(path) == PATHS[path]


@given(st.integers(0, 10**15), st.integers(1, 256))
def test_index_path_reads_back(index: int, width: int) -> None:
    assert parse_index_path(index_path(index, width)) == (index, width)


@pytest.mark.parametrize(
    "path",
    [
        *("", "000", "tile/", "tile/0", "tile/0/", "tile/64/000", "tile/00/000", "tile/-1/000", "tile/entry/000", "tile/x/000"),
        *("tile/0/0", "tile/0/1234", "tile/0/x000/001", "tile/0/001/x000", "tile/0/x001", "tile/0/001/002", "tile/0/x1/002"),
        *("tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000.p/1000", "tile/0/000.p"),
        *("/tile/0/000", "tile/0/000/", "tile/0/000\n", "tile/0/٠٠٠", "tile/0/..", "tile/0/" + "x001/" * 100 + "000"),
    ],
)
def test_refuses_paths_that_are_not_the_one_form(path: str) -> None:
    with pytest.raises(Malformed):
        parse_tile_path(path)


@pytest.mark.parametrize("tile", [(-2, 0, 256), (64, 0, 256), (0, -1, 256), (0, 0, 0), (0, 0, 257)])
def test_refuses_to_name_tiles_that_cannot_be(tile: tuple[int, int, int]) -> None:
    with pytest.raises(Malformed):
        tile_path(*tile)
