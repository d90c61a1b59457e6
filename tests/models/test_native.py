"""The native core says what hashlib says, of every message, in every width; without it everything is the same but slower."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import mmap
import random
import re
import runpy
import shutil
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compilers import NAMES, Unavailable, compiler_named
from models import nodes
from models.declaration import EvidenceAlgorithm
from models.digest import Algorithm, pair
from models.errors import Malformed
from models.levels import levels_of
from models.merkle import Tree, leaf_hash, leaf_hashes, root, roots
from models.native import library as native
from models.native.build import compile_core, compile_with_any, compilers
from models.record import Buffer, Record
from models.slice import _content_pair, _line_salts

SOURCE = Path(native.__file__).parent
EDGES = [0, 1, 31, 32, 54, 55, 56, 57, 62, 63, 64, 65, 118, 119, 120, 121, 127, 128, 129, 183, 184, 255, 256, 257]


def _sm3(data: bytes) -> bytes:
    return hashlib.new("sm3", data).digest()


def _offsets(sizes: list[int], gap: int = 0) -> array[int]:
    return array("I", accumulate([size + gap for size in sizes], initial=0))


@pytest.fixture(scope="module", params=NAMES)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> native.Core:
    """Compiled here, of the source as it now is, without a warning."""
    try:
        command = compiler_named(request.param)
    except Unavailable as error:
        pytest.skip(str(error))
    made = tmp_path_factory.mktemp("core") / native.FILE
    compile_core(SOURCE, [*command, "-Werror"], made)
    return native.Core(made)


def test_an_installation_with_a_compiler_has_the_core() -> None:
    if not compilers():
        pytest.skip("there is no C compiler")
    installed = native.load()
    assert installed is not None
    assert {Algorithm.SM3: installed} == nodes.CORE


def test_published_digests_in_every_lane(core: native.Core) -> None:
    """GB/T 32905—2016 appendix A.1 and A.2."""
    short, long = b"abc", b"abcd" * 16
    expected = {
        short: "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
        long: "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
    }
    messages = [short, long, long, short, short] * 8
    for lanes in [lanes for lanes in native.LANES if lanes <= core.lanes]:
        found = core.hash_each(b"", b"".join(messages), _offsets(list(map(len, messages))), lanes=lanes)
        assert [found[at : at + 32].hex() for at in range(0, len(found), 32)] == [expected[each] for each in messages]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_message_has_the_digest_of_hashlib(core: native.Core, data: st.DataObject) -> None:
    head_size = data.draw(st.sampled_from([0, 0, 1, 24, 31]))
    front = data.draw(st.binary(max_size=63 - head_size))
    sizes = data.draw(st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 700)), max_size=50))
    gap, lanes = data.draw(st.sampled_from([0, 0, 1, 2])), data.draw(st.sampled_from([0, *native.LANES]))
    draw = random.Random(data.draw(st.integers(0, 2**32)))
    offsets, heads = _offsets(sizes, gap), draw.randbytes(head_size * len(sizes))
    body = draw.randbytes(max(0, offsets[-1] - gap))
    messages = [
        front + heads[at * head_size : (at + 1) * head_size] + body[offsets[at] : offsets[at] + size]
        for at, size in enumerate(sizes)
    ]
    framed = b"".join([len(each).to_bytes(4) + each for each in messages])
    assert core.frame_each(front, body, offsets, heads=heads, gap=gap) == framed
    if lanes > core.lanes:
        with pytest.raises(Malformed):
            core.hash_each(front, body, offsets, heads=heads, gap=gap, lanes=lanes)
        return
    expected = b"".join(map(_sm3, messages))
    assert core.hash_each(front, body, offsets, heads=heads, gap=gap, lanes=lanes) == expected


@pytest.mark.parametrize(
    ("body", "offsets", "heads", "gap", "front"),
    [
        (b"x" * 10, [0, 11], b"", 0, b""),
        (b"x" * 10, [0, 5, 4], b"", 0, b""),
        (b"x" * 10, [11, 11], b"", 0, b""),
        (b"x" * 10, [0, 2**32 - 1], b"", 0, b""),
        (b"x" * 10, [0, 5, 5, 10], b"", 1, b""),
        (b"x" * 10, [0, 12], b"", 1, b""),
        (b"x" * 10, [0, 5], b"", 2**32 - 1, b""),
        (b"x" * 10, [0, 5], b"", 0, b"f" * 64),
        (b"x" * 10, [0, 5, 10], b"h" * 64, 0, b"f" * 32),
        (b"x" * 10, [0, 5, 10], b"hhh", 0, b""),
        (b"x" * 10, [0], b"h", 0, b""),
        (b"x" * 10, [], b"", 0, b""),
    ],
)
def test_what_does_not_lie_in_its_buffer_is_refused(
    core: native.Core, body: bytes, offsets: list[int], heads: bytes, gap: int, front: bytes
) -> None:
    for each in (core.hash_each, core.frame_each):
        with pytest.raises(Malformed):
            each(front, body, array("I", offsets), heads=heads, gap=gap)
    with pytest.raises(Malformed):
        core.hash_each(b"", body, array("Q", [0, 5]))


def test_no_byte_behind_a_buffer_is_read(core: native.Core, tmp_path: Path) -> None:
    """Every buffer ends where a page ends behind which nothing may be read: one byte too far would end the process."""
    script = tmp_path / "guarded.py"
    script.write_text(_GUARDED)
    done = subprocess.run(
        [sys.executable, script, core.path, str(mmap.PAGESIZE)],
        capture_output=True,
        text=True,
        check=False,
        cwd=SOURCE.parent.parent,
    )
    assert (done.returncode, done.stdout) == (0, "read to the last byte\n"), done.stderr


_GUARDED = """
import ctypes, hashlib, mmap, random, sys
from array import array
from itertools import accumulate
library, page = ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None)
kept = []
def ending(data):
    size = -(-max(1, len(data)) // page) * page
    area = mmap.mmap(-1, size + page)
    kept.append(area)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert libc.mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    ctypes.memmove(start + size - len(data), data, len(data))
    return ctypes.c_void_p(start + size - len(data))
size = ctypes.c_size_t
draw = random.Random(7)
for count in [1, 2, 3, 5, 16, 17, 40]:
    for lanes in [1, 4, library.cz_lanes()]:
        sizes = [draw.choice([0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 128, 300]) for _ in range(count)]
        offsets, body, heads = array("I", accumulate(sizes, initial=0)), draw.randbytes(sum(sizes)), draw.randbytes(24 * count)
        out, front = ending(bytes(32 * count)), draw.randbytes(10)
        places = (ending(front), size(10), ending(heads), size(24), ending(body), size(len(body)))
        assert library.cz_hash_each(lanes, *places, ending(offsets.tobytes()), 0, size(count), out) == 0
        messages = [front + heads[24 * at : 24 * at + 24] + body[offsets[at] : offsets[at + 1]] for at in range(count)]
        expected = b"".join(hashlib.new("sm3", each).digest() for each in messages)
        assert ctypes.string_at(out, 32 * count) == expected
        framed = b"".join(len(each).to_bytes(4) + each for each in messages)
        out = ending(bytes(len(framed)))
        library.cz_frame_each.restype = size
        assert library.cz_frame_each(*places, ending(offsets.tobytes()), 0, size(count), out, size(len(framed))) == len(framed)
        assert ctypes.string_at(out, len(framed)) == framed
    total, level = 0, count
    while level > 1:
        level = level // 2 + level % 2
        total += level
    library.cz_levels.restype = size
    assert library.cz_levels(ending(draw.randbytes(32 * count)), size(count), ending(bytes(32 * total))) == total
    bounds = array("I", [0, *sorted(draw.sample(range(1, count), min(count - 1, 3))), count])
    offsets, body = array("I", accumulate([7] * count, initial=0)), draw.randbytes(7 * count)
    trees = len(bounds) - 1
    given = (ending(b"f"), size(1), ending(body), size(len(body)), ending(offsets.tobytes()), size(count))
    more = (ending(bounds.tobytes()), size(trees), ending(bytes(4 * trees)), ending(bytes(32 * count)), ending(bytes(32 * trees)))
    assert library.cz_roots(*given, *more) == 0
print("read to the last byte")
"""


def _oracle(hashes: list[bytes]) -> list[list[bytes]]:
    """Every level above the leaves, as RFC 9162 2.1.1 splits."""
    levels = []
    while len(hashes) > 1:
        above = [_sm3(b"\x01" + hashes[at] + hashes[at + 1]) for at in range(0, len(hashes) - 1, 2)]
        hashes = above + hashes[-1:] if len(hashes) & 1 else above
        levels.append(hashes)
    return levels


@pytest.mark.parametrize("count", [*range(1, 40), 63, 64, 65, 255, 256, 257, 511, 513, 1025])
def test_levels_are_those_of_the_rfc(core: native.Core, count: int) -> None:
    hashes = [_sm3(b"%d" % number) for number in range(count)]
    levels = _oracle(hashes)
    assert core.levels(b"".join(hashes)) == b"".join(each for level in levels for each in level)
    pairs = levels[0][: count // 2] if levels else []
    assert core.parents(b"".join(hashes)) == b"".join(pairs)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 2**32))
def test_roots_of_many_trees_are_those_of_each(core: native.Core, sizes: list[int], seed: int) -> None:
    draw = random.Random(seed)
    leaves = [draw.randbytes(draw.choice(EDGES)) for _ in range(sum(sizes))]
    bounds = _offsets(sizes)
    found = core.roots(b"\x00", b"".join(leaves), _offsets(list(map(len, leaves))), bounds)
    expected = []
    for first, end in itertools.pairwise(bounds):
        hashes = [_sm3(b"\x00" + leaf) for leaf in leaves[first:end]]
        expected.append([hashes, *_oracle(hashes)][-1][0])
    assert found == b"".join(expected)


@pytest.mark.parametrize("bounds", [[0, 2], [0, 4], [1, 3], [0, 0, 3], [0, 3, 3], [0, 2, 1, 3], [0], [], [0, 2**32 - 1]])
def test_trees_that_do_not_share_out_the_leaves_are_refused(core: native.Core, bounds: list[int]) -> None:
    with pytest.raises(Malformed):
        core.roots(b"\x00", b"abc", array("I", [0, 1, 2, 3]), array("I", bounds))
    with pytest.raises(Malformed):
        core.roots(b"\x00", b"ab", array("I", [0, 1, 2, 3]), array("I", [0, 3]))


# --- the same with and without ----------------------------------------------------------------------------------------


@pytest.fixture
def both(core: native.Core, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], tuple[object, object]]:
    """What a function gives with the core and without it."""

    def run(make: Callable[[], object]) -> tuple[object, object]:
        monkeypatch.setitem(nodes.CORE, Algorithm.SM3, core)
        made = make()
        monkeypatch.delitem(nodes.CORE, Algorithm.SM3)
        return made, make()

    return run


Both = Callable[[Callable[[], object]], tuple[object, object]]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 33, 1000, 1025, 8192, 8193, 16385, 20001])
def test_leaves_and_roots_are_the_same_without_the_core(both: Both, count: int) -> None:
    datas = [b"leaf %d" % number * (number % 40) for number in range(count)]
    for make in (lambda: leaf_hashes(datas), lambda: leaf_hashes(iter(datas)), lambda: root(leaf_hashes(datas))):
        fast, slow = both(make)
        assert fast == slow
    assert leaf_hashes(datas[:3]) == [leaf_hash(data) for data in datas[:3]]
    fast, slow = both(lambda: Tree(leaf_hashes(datas)).root())
    assert fast == slow == root(leaf_hashes(datas))
    if count:
        fast, slow = both(lambda: levels_of(leaf_hashes(datas)))
        assert fast == slow


@pytest.mark.parametrize("trees", [[], [1], [6] * 16, [137, 1, 2, 3, 0xFF], [5000, 1]])
def test_roots_of_many_are_the_same_without_the_core(both: Both, trees: list[int]) -> None:
    datas = [[b"%d of %d" % (leaf, place) for leaf in range(size)] for place, size in enumerate(trees)]
    fast, slow = both(lambda: roots(datas))
    assert fast == slow == [root(leaf_hashes(data)) for data in datas]


def test_leaves_too_long_to_join_are_the_same(both: Both) -> None:
    datas = [bytes([number]) * (1 << 20) for number in range(9)]
    fast, slow = both(lambda: leaf_hashes(datas))
    assert fast == slow == [leaf_hash(data) for data in datas]
    fast, slow = both(lambda: roots([datas, datas[:1]]))
    assert fast == slow == [root(leaf_hashes(datas)), leaf_hash(datas[0])]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 1025])
def test_digests_of_many_are_those_of_each_with_and_without_the_core(both: Both, count: int) -> None:
    datas = [b"item %d" % number * (number % 200) for number in range(count)]
    fast, slow = both(lambda: nodes.pairs(datas))
    assert fast == slow == [pair(data) for data in datas] == nodes.pairs(iter(datas))


@pytest.mark.parametrize("algorithm", list(EvidenceAlgorithm))
@pytest.mark.parametrize("lines", [[], [b""], [b"", b""], [b"one"], [b"a" * 55, b"", b"b" * 200] * 171, [b"x" * 70_000]])
def test_slices_are_committed_to_in_the_same_bytes(both: Both, algorithm: EvidenceAlgorithm, lines: list[bytes]) -> None:
    places = list(accumulate([len(line) + 1 for line in lines], initial=1000))
    apart = Buffer.of([Record(at, line) for at, line in zip(places, lines, strict=False)])
    buffers = [apart]
    if lines:
        buffers.append(Buffer.of_lines(b"\n".join(lines), 1000, lines, map(len, lines)))
    salts = _line_salts(bytes(range(32)), "s", 0, len(lines))
    found = []
    for buffer in buffers:
        fast, slow = both(lambda buffer=buffer: _content_pair(buffer, salts, bytes(16), algorithm))  # type: ignore[misc]
        assert fast == slow
        found.append(fast)
    assert len(set(found)) == 1


# --- what is not the core is not used ---------------------------------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the loader takes for its own; what it finds there is not remembered."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native.load.cache_clear()
    yield tmp_path / native.FILE
    native.load.cache_clear()


def test_a_core_is_loaded_from_its_folder(core: native.Core, beside: Path) -> None:
    shutil.copy(core.path, beside)
    found = native.load()
    assert found is not None
    assert found.path == beside


def test_no_file_is_no_core(beside: Path) -> None:
    assert not beside.exists()
    assert native.load() is None


def test_a_file_that_is_no_library_is_no_core(beside: Path) -> None:
    beside.write_bytes(b"no library")
    assert native.load() is None


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("0x79cc4519u", "0x79cc4518u"),
        ("if (from <= size)", "if (from < size)"),
        ("cz_levels(", "cz_no_levels("),
        (
            "static const uint8_t node = 1;\n    const Messages leaves",
            "static const uint8_t node = 2;\n    const Messages leaves",
        ),
        ("store32(at, (uint32_t)(first + size));", "store32(at, size);"),
        ("all->heads + lane->message * all->head_size", "all->heads"),
        ("all->offsets[message + 1] - all->gap - all->offsets", "all->offsets[message + 1] - all->offsets"),
        ("if (lanes == 0) lanes = most;", "if (lanes <= most) return -1;"),
    ],
)
def test_a_library_that_hashes_otherwise_or_lacks_a_function_is_no_core(beside: Path, true: str, false: str) -> None:
    commands = compilers()
    if not commands:
        pytest.skip("there is no C compiler")
    source = (SOURCE / "core.c").read_text()
    assert source.count(true) == 1
    (beside.parent / "core.c").write_text(source.replace(true, false))
    compile_core(beside.parent, commands[0], beside)
    assert native.load() is None


def test_a_compiler_that_refuses_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    commands = compilers()
    if not commands:
        pytest.skip("there is no C compiler")
    (tmp_path / "core.c").write_text("int broken(")
    with pytest.raises(RuntimeError, match="refuses the native core"):
        compile_core(tmp_path, commands[0], tmp_path / "out.so")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core.c"]


def test_the_next_compiler_is_tried_where_one_refuses_or_is_none(tmp_path: Path) -> None:
    commands = compilers()
    if not commands:
        pytest.skip("there is no C compiler")
    made = tmp_path / native.FILE
    broken = [[sys.executable, "-c", "raise SystemExit('stdint.h: no such file')"], [str(tmp_path / "absent")]]
    compile_with_any(SOURCE, [*broken, *commands], made)
    assert native.agrees(native.Core(made))
    with pytest.raises(RuntimeError, match="no such file"):
        compile_with_any(SOURCE, broken, tmp_path / "other.so")
    with pytest.raises(RuntimeError, match="no C compiler"):
        compile_with_any(SOURCE, [], tmp_path / "other.so")
    assert [path.name for path in tmp_path.iterdir()] == [native.FILE]


def test_the_library_needs_nothing_but_the_system(core: native.Core) -> None:
    assert ctypes.CDLL(str(core.path)).cz_lanes() == core.lanes
    assert core.lanes in native.LANES[1:]
    needed = set(re.findall(rb"\blib[a-z0-9_+-]+\.so[.0-9]*", core.path.read_bytes()))
    assert needed <= {b"libc.so.6", b"libc.so"}, needed


@pytest.mark.parametrize("is_there", [True, False])
def test_an_installation_says_whether_the_core_is_there(
    core: native.Core,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_there: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(native, "load", lambda: core if is_there else None)
    runpy.run_module("models.native", run_name="__main__")
    said = f"native core: SM3 of {core.lanes} messages at once\n" if is_there else "native core: none, everything works"
    assert capsys.readouterr().out.startswith(said)
