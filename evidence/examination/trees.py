"""Both trees, re-derived: every root that was ever signed, every full tile, and which copy of a leaf is the true one.

A leaf is stored up to three times: as E, as the entry beside it, and as hashes in the tiles. Where
they differ the signed root decides: the copy that leads to it is what was committed, and the
others are named. Confirmed leaves are kept as a tree's open hashes only, so memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice

from evidence.examination.damage import Findings, How, Unit
from evidence.store import TREE_NUMBER
from models.digest import DIGEST_BYTES, Algorithm
from models.merkle import leaf_hash
from models.tiles import TILE_BYTES, TILE_WIDTH, TiledTree

MAX_SINCE = 1 << 16
MAX_TRIES = 256
UNKNOWN = bytes(DIGEST_BYTES)
TREES = (Algorithm.SM3, Algorithm.SHA256)

ReadTile = Callable[[Algorithm, int, int], bytes | None]


@dataclass(slots=True)
class Suspect:
    """A leaf whose copies differ or are absent: the entries that E and the entry column give, the hashes of both tiles.

    `is_likely`: E reads as the columns beside it say.
    """

    index: int
    from_evidence: bytes | None
    from_entry: bytes | None
    from_tiles: dict[Algorithm, bytes]
    is_likely: bool = False

    def hashes(self, algorithm: Algorithm) -> dict[str, bytes]:
        """The leaf hash of each copy, the likeliest first."""
        copies = [("evidence", self.from_evidence), ("entry", self.from_entry)]
        ordered = copies if self.is_likely else copies[::-1]
        made = {name: leaf_hash(entry, algorithm=algorithm) for name, entry in ordered if entry is not None}
        if algorithm in self.from_tiles:
            made["tile"] = self.from_tiles[algorithm]
        votes = list(made.values())
        return dict(sorted(made.items(), key=lambda each: -votes.count(each[1])))


@dataclass(slots=True)
class _Walk:
    """One tree: what is confirmed by a signed root, and the leaves since."""

    algorithm: Algorithm
    base: TiledTree
    since: list[bytes] = field(default_factory=list)
    lost_at: int | None = None

    @property
    def is_lost(self) -> bool:
        return self.lost_at is not None


def _no_tile(_level: int, _index: int, _width: int) -> bytes:
    raise LookupError("roots of the present size need no stored tile")


class Trees:
    """Takes leaves in order and signed roots as they come; names what does not fit."""

    def __init__(self, findings: Findings, read_tile: ReadTile) -> None:
        """`read_tile` gives a stored full tile of a level above 0."""
        self._findings, self._read_tile = findings, read_tile
        self._walks = {algorithm: _Walk(algorithm, TiledTree(0, _no_tile, algorithm=algorithm)) for algorithm in TREES}
        self._suspects: list[Suspect] = []
        self._tiles: dict[tuple[Algorithm, int], list[tuple[int, bytes, bytes]]] = {}
        self.size = 0

    def is_lost_at(self, leaf: int) -> bool:
        """Whether no root says any more what this leaf is."""
        return any(walk.lost_at is not None and leaf >= walk.lost_at for walk in self._walks.values())

    def take(self, sm3: Sequence[bytes], sha256: Sequence[bytes]) -> None:
        """Leaves follow whose copies agree."""
        self.size += len(sm3)
        for algorithm, hashes in zip(TREES, (sm3, sha256), strict=True):
            walk = self._walks[algorithm]
            if not walk.is_lost:
                walk.since += hashes
                if len(walk.since) > MAX_SINCE:
                    self._give_up(walk)

    def take_suspect(self, suspect: Suspect) -> None:
        """A leaf follows whose copies differ."""
        self._suspects.append(suspect)
        self.size += 1
        for walk in self._walks.values():
            if not walk.is_lost:
                walk.since.append(next(iter(suspect.hashes(walk.algorithm).values()), UNKNOWN))

    def meet(self, roots: dict[Algorithm, bytes], *, is_signed: bool) -> dict[Algorithm, bytes]:
        """The present size has these roots, as its checkpoint says; gives those re-derived that differ, or nothing where all fit.

        `is_signed` tells whether the checkpoint's signatures hold: then the leaves are at fault, else the checkpoint.
        """
        other: dict[Algorithm, bytes] = {}
        is_settled = True
        for algorithm, root in roots.items():
            walk = self._walks[algorithm]
            if walk.is_lost:
                continue
            got = self._confirm(walk, root)
            if got is None:
                continue
            is_settled = False
            if is_signed:
                self._lose(walk, root, got)
            else:
                other[algorithm] = got
        if is_settled and len(roots) == len(TREES):
            self._settle()
        return other

    # --- one root ---------------------------------------------------------------------------------------------

    def _confirm(self, walk: _Walk, root: bytes) -> bytes | None:
        """The leaves since the last root lead to this one, perhaps by other copies; else the root they lead to."""
        first: bytes | None = None
        for hashes in islice(self._choices(walk), MAX_TRIES):
            trial = walk.base.copy()
            tiles = trial.append(hashes)
            got = trial.root()
            if got == root:
                for tile in tiles:
                    if tile.level:
                        self._compare_upper(walk.algorithm, tile.level, tile.n, tile.data)
                self._judge(walk, hashes)
                walk.base, walk.since = trial, []
                return None
            first = first or got
        return first

    def _choices(self, walk: _Walk) -> Iterator[list[bytes]]:
        """The leaves as they are likeliest, then with other copies of one suspect, of two, and so on."""
        yield walk.since
        start = walk.base.size
        others = []
        for suspect in self._suspects:
            place = suspect.index - start
            if place >= 0:
                others += [(place, each) for each in set(suspect.hashes(walk.algorithm).values()) if each != walk.since[place]]
        for count in range(1, len(others) + 1):
            for chosen in combinations(others, count):
                hashes = walk.since.copy()
                for place, other in chosen:
                    hashes[place] = other
                yield hashes

    def _judge(self, walk: _Walk, hashes: list[bytes]) -> None:
        """The copies of each suspect that did not lead to the signed root are named."""
        start, algorithm = walk.base.size, walk.algorithm
        for suspect in self._suspects:
            place = suspect.index - start
            if not 0 <= place < len(hashes):
                continue
            true = hashes[place]
            for kind, found in suspect.hashes(algorithm).items():
                if found != true:
                    self._blame(suspect, kind, algorithm, true, found)

    def _blame(self, suspect: Suspect, kind: str, algorithm: Algorithm, true: bytes, found: bytes) -> None:
        index = suspect.index
        if kind == "tile":
            self._tiles.setdefault((algorithm, index // TILE_WIDTH), []).append((index % TILE_WIDTH, true, found))
        elif kind == "entry":
            detail = "the 64 bytes of the log are not those that the signed root holds"
            self._findings.add(Unit.ENTRY, f"leaf {index}", How.ALTERED, detail, expected=true, found=found, leaf=index)
        else:
            detail = "the stored bytes E are not those that the signed root holds"
            self._findings.add(Unit.EVIDENCE, f"leaf {index}", How.ALTERED, detail, expected=true, found=found, leaf=index)
            self._findings.lose_proof(index, index + 1)

    def _settle(self) -> None:
        start = min(self.size if walk.is_lost else walk.base.size for walk in self._walks.values())
        self._suspects = [each for each in self._suspects if each.index >= start]

    def _lose(self, walk: _Walk, root: bytes, got: bytes) -> None:
        """No copy leads to a root that was truly signed: the leaves since the last one are named, and this tree ends here."""
        start, stop = walk.base.size, walk.base.size + len(walk.since)
        suspects = [each for each in self._suspects if each.index >= start]
        for suspect in suspects:
            self._name_open(suspect)
        if not suspects:
            detail = f"the entries of these leaves do not give the signed {walk.algorithm.value} root of size {stop}"
            where = f"leaves {start} to {stop - 1}"
            self._findings.add(Unit.ROOT, where, How.ALTERED, detail, expected=root, found=got, leaves=(start, stop))
        self._findings.lose_proof(start, stop)
        self._give_up(walk)

    def _name_open(self, suspect: Suspect) -> None:
        """The copies of a leaf differ and no root decides between them."""
        if suspect.from_evidence is None or suspect.from_entry is None:
            return
        where, index = f"leaf {suspect.index}", suspect.index
        detail = "E and the entry of the log differ, and neither leads to the signed root"
        expected, found = (leaf_hash(each) for each in (suspect.from_entry, suspect.from_evidence))
        if expected != found:
            self._findings.add(Unit.EVIDENCE, where, How.ALTERED, detail, expected=expected, found=found, leaf=index)

    def _give_up(self, walk: _Walk) -> None:
        walk.lost_at, walk.since = walk.base.size, []
        name = walk.algorithm.value
        sentence = f"{name} roots and tiles above level 0 from leaf {walk.lost_at} on: a leaf they rest on is lost"
        self._findings.not_checked[sentence] = None

    # --- tiles ------------------------------------------------------------------------------------------------

    def _compare_upper(self, algorithm: Algorithm, level: int, number: int, data: bytes) -> None:
        found = self._read_tile(algorithm, level, number)
        self._findings.count("tiles")
        compare_tile(self._findings, algorithm, level, number, data, found)

    def finish(self) -> None:
        """Everything was taken: what no later root decided is named, and the damaged tiles."""
        for suspect in self._suspects:
            self._name_open(suspect)
        for (algorithm, number), places in sorted(self._tiles.items()):
            places.sort()
            place, true, found = places[0]
            _name_tile(self._findings, algorithm, 0, number, (len(places), place, true, found))


def tile_name(algorithm: Algorithm, level: int, number: int) -> str:
    """A tile as damage names it."""
    return f"{algorithm.value} tile {level}/{number}"


def _name_tile(
    findings: Findings, algorithm: Algorithm, level: int, number: int, differing: tuple[int, int, bytes, bytes]
) -> None:
    count, place, true, found = differing
    width = TILE_WIDTH ** (level + 1)
    where = tile_name(algorithm, level, number)
    detail = f"{count} of {TILE_WIDTH} hashes differ from the tree, first hash {place}"
    leaves = (number * width, (number + 1) * width)
    findings.add(Unit.TILE, where, How.ALTERED, detail, expected=true, found=found, leaves=leaves)


def compare_tile(findings: Findings, algorithm: Algorithm, level: int, number: int, data: bytes, found: bytes | None) -> None:
    """A stored full tile is the one that the tree gives, or it is named."""
    if found is None or len(found) != TILE_BYTES:
        name_short_tile(findings, algorithm, level, number, found)
    elif found != data:
        pieces = [(data[at : at + DIGEST_BYTES], found[at : at + DIGEST_BYTES]) for at in range(0, TILE_BYTES, DIGEST_BYTES)]
        places = [place for place, (wanted, got) in enumerate(pieces) if wanted != got]
        _name_tile(findings, algorithm, level, number, (len(places), places[0], *pieces[places[0]]))


def name_short_tile(findings: Findings, algorithm: Algorithm, level: int, number: int, found: bytes | None) -> None:
    """A full tile is absent, or has another length."""
    width = TILE_WIDTH ** (level + 1)
    how = How.MISSING if found is None else How.ALTERED
    length = f"the tile has wrong length: expected {TILE_BYTES} bytes, got {len(found or b'')}"
    detail = "the tile is absent" if found is None else length
    where = tile_name(algorithm, level, number)
    findings.add(Unit.TILE, where, how, detail, leaves=(number * width, (number + 1) * width))


def full_tiles(size: int) -> dict[int, int]:
    """How many full tiles each level of a tree of `size` leaves has."""
    found, level = {}, 0
    while size := size // TILE_WIDTH:
        found[level] = size
        level += 1
    return found


TREE_OF = {number: Algorithm(name) for name, number in TREE_NUMBER.items()}
