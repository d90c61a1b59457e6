"""The pipeline that G3 is held against: the best that parts from PyPI give, in one loop without a frame around it.

Of each 2 MiB of a log file: lines by one split, counted by one scan (`hyperscan`, every match of
every keyword, overlaps too), a salt for each line from one SM4 keystream, an SM3 tree over salted
lines by copied `hashlib` contexts, zstd at level 1, SM4-GCM, a file that is flushed, and a row of
SQLite with synchronous=FULL that names file, root and counts. One slice is durable before the next
is read.

`Lean` stops there. `Baseline` makes the evidence that formats §5 asks for, to the byte: positions in
the leaves, the second digest over all lines, a salted leaf for every keyword and their tree. Neither
signs, links, follows a file that is rotated or can go on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from base64 import urlsafe_b64encode
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from struct import Struct, pack
from typing import Any

import hyperscan
import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SLICE_BYTES = 2 << 20
_SALT, _HEAD = Struct("16s"), Struct("24s")
_LEAF, _LINE = hashlib.new("sm3", b"\0"), hashlib.new("sm3", b"\0cz-line/1")
_NODE = hashlib.new("sm3", b"\1")
_AT_ONCE = 512
_TABLE = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE slice (number INTEGER PRIMARY KEY, file TEXT NOT NULL, key BLOB NOT NULL, digests BLOB NOT NULL);
"""

Found = list[list[tuple[int, int]]]
"""Of each keyword (line, count), ascending."""


def keystream(key: bytes, count: int) -> bytes:
    """So many salts of 16 bytes, joined."""
    return Cipher(algorithms.SM4(key), modes.CTR(bytes(16))).encryptor().update(bytes(16 * count))


def root_of(level: list[bytes]) -> bytes:
    """The root over leaf hashes: RFC 9162 over SM3, an odd node carried up."""
    node: Any = _NODE.copy
    while len(level) > 1:
        pairs = iter(level)
        above = [
            state.digest() for left, right in zip(pairs, pairs, strict=False) if (state := node()).update(left + right) is None
        ]
        if len(level) & 1:
            above.append(level[-1])
        level = above
    return level[0]


class Lean:
    """The pipeline over one folder, with as much evidence as must be."""

    def __init__(self, folder: Path, keywords: Sequence[bytes]) -> None:
        folder.mkdir()
        self._folder, self._keywords = folder, keywords
        self._automaton = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._automaton.compile(expressions=list(keywords), ids=list(range(len(keywords))), literal=True)
        self._compress = zstandard.ZstdCompressor(level=1, write_checksum=True).compress
        self._database = sqlite3.connect(folder / "rows", isolation_level=None)
        self._database.executescript(_TABLE)
        self._descriptor = os.open(folder, os.O_RDONLY)
        self._number = 0
        self._position = 0
        self.totals = [0] * len(keywords)
        self.lines = 0

    def collect(self, path: Path) -> None:
        """Every line of the file is durable."""
        for text in _texts(path):
            self._put(text)
            self._position += len(text)

    def _put(self, text: bytes) -> None:
        lines = text.split(b"\n")
        lines.pop()
        key = os.urandom(16)
        found = self._count(text, lines)
        digests, counts = self.commit(lines, found, self._position, key)
        nonce = os.urandom(12)
        encryptor = Cipher(algorithms.SM4(key), modes.GCM(nonce)).encryptor()
        sealed = encryptor.update(self._compress(text)) + encryptor.update(self._compress(counts)) + encryptor.finalize()
        name = f"{self._number}.bin"
        with (self._folder / name).open("wb") as file:
            file.write(nonce + sealed + encryptor.tag)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(self._descriptor)
        self._database.execute("INSERT INTO slice VALUES (?, ?, ?, ?)", (self._number, name, key, b"".join(digests)))
        self._number += 1
        self.lines += len(lines)
        for rank, places in enumerate(found):
            self.totals[rank] += sum(n for _, n in places)

    def _count(self, text: bytes, lines: Sequence[bytes]) -> Found:
        """Where every keyword stands in `text`, whose lines end in LF: no keyword holds one, so none crosses lines."""
        hits: list[tuple[int, int]] = []
        append = hits.append
        self._automaton.scan(text, match_event_handler=lambda keyword, _start, end, _flags, _context: append((keyword, end)))
        ends = [end + line for line, end in enumerate(accumulate(map(len, lines)))]
        found: list[list[int]] = [[] for _ in self._keywords]
        for keyword, end in hits:
            found[keyword].append(bisect_left(ends, end))
        return [list(Counter(places).items()) for places in found]

    def commit(self, lines: list[bytes], found: Found, position: int, key: bytes) -> tuple[list[bytes], bytes]:
        """The root over salted lines and the digest of the counts; the counts as they are kept."""
        del position
        leaf: Any = _LEAF.copy
        salted = zip(_SALT.iter_unpack(keystream(key, len(lines))), lines, strict=True)
        level = [state.digest() for (salt,), line in salted if (state := leaf()).update(salt + line) is None]
        counts = json.dumps(found, separators=(",", ":")).encode()
        return [root_of(level), hashlib.new("sm3", counts).digest()], counts

    def close(self) -> None:
        """Nothing is open any more."""
        os.close(self._descriptor)
        self._database.close()


class Baseline(Lean):
    """The pipeline over one folder, with the evidence of formats §5."""

    def commit(
        self, lines: list[bytes], found: Found, position: int, key: bytes, *, index_key: bytes | None = None,
        flat_salts: tuple[bytes, bytes] | None = None,
    ) -> tuple[list[bytes], bytes]:  # fmt: skip
        """Root and flat of the lines, root and flat of the index; the index leaves as they are kept."""
        content_salt, index_salt = flat_salts or (os.urandom(16), os.urandom(16))
        content = self._content(lines, position, key, content_salt)
        salts = _SALT.iter_unpack(keystream(index_key or os.urandom(16), len(found)))
        leaves = [
            f'["cz-index/1","{_b64u(salt)}","{_b64u(keyword)}",{sum(n for _, n in places)},'.encode()
            + json.dumps(places, separators=(",", ":")).encode()
            + b"]"
            for (salt,), keyword, places in zip(salts, self._keywords, found, strict=True)
        ]
        leaf: Any = _LEAF.copy
        hashes = [state.digest() for each in leaves if (state := leaf()).update(each) is None]
        twin = hashlib.sha256(b"\2" + index_salt + b"".join([len(each).to_bytes(4) + each for each in leaves]))
        return [*content, root_of(hashes), twin.digest()], b"\n".join(leaves)

    @staticmethod
    def _content(lines: list[bytes], position: int, key: bytes, flat_salt: bytes) -> tuple[bytes, bytes]:
        stream = keystream(key, len(lines))
        positions = [end + line for line, end in enumerate(accumulate(map(len, lines), initial=position))]
        places = pack(f">{len(lines)}Q", *positions[:-1])
        twin, copy, level = hashlib.sha256(b"\2" + flat_salt), _line_copy(), []
        frames = {size: (33 + size).to_bytes(4) + b"cz-line/1" for size in set(map(len, lines))}
        heads = bytearray(24 * len(lines))
        for column in range(16):
            heads[column::24] = stream[column::16]
        for column in range(8):
            heads[16 + column :: 24] = places[column::8]
        for first in range(0, len(lines), _AT_ONCE):
            part = lines[first : first + _AT_ONCE]
            salted = [head for (head,) in _HEAD.iter_unpack(memoryview(heads)[24 * first : 24 * (first + _AT_ONCE)])]
            level += [
                state.digest()
                for head, line in zip(salted, part, strict=True)
                if (state := copy()).update(head) is state.update(line)
            ]
            framed = [b""] * (3 * len(part))
            framed[::3], framed[1::3], framed[2::3] = map(frames.__getitem__, map(len, part)), salted, part
            twin.update(b"".join(framed))
        return root_of(level), twin.digest()


def _line_copy() -> Any:
    return _LINE.copy


def _b64u(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _texts(path: Path) -> Iterator[bytes]:
    """The file in parts of at most 2 MiB, each of whole lines."""
    rest = b""
    with path.open("rb", buffering=0) as file:
        while part := file.read(SLICE_BYTES - len(rest)):
            text = rest + part if rest else part
            cut = text.rfind(b"\n") + 1
            rest = text[cut:]
            yield text[:cut]
