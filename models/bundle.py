"""The container of evidence: one ZIP encoding, and no other, of a set of named files.

A ZIP can be read in many ways; attacks live in the difference. Here the encoding is written by
hand, and a file is accepted iff encoding what was read gives the same bytes again.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from models.canonical import JSONValue, canonical, members, parse_canonical
from models.digest import Pair, pair
from models.errors import Malformed
from models.names import check_format

KINDS = ("item", "transaction", "answer")
MANIFEST = "manifest.json"
MAX_BUNDLE_BYTES = 1 << 30
MAX_FILE_BYTES = 256 << 20
MAX_ENTRIES = 4096
MAX_JSON_BYTES = 4 << 20
MAX_VALUES = 1 << 18
"""Values in one JSON file, counted by commas and brackets: what keeps a reader within its memory."""
MAX_TOTAL_VALUES = 1 << 21
MAX_TOTAL_BYTES = 96 << 20
"""Values and bytes in all files but slices and lines: what keeps a reader within its time."""

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_VERSION, _DATE = 20, 0x21  # 2.0 on system 0; 1980-01-01
_NAME = re.compile(r"[a-z0-9/._-]{1,128}", re.ASCII)


class _Rule(NamedTuple):
    """A form of name, the most bytes of one such file and of all of them, and the kinds of bundle it may stand in."""

    pattern: re.Pattern[str]
    limit: int
    total: int
    kinds: tuple[str, ...]


def _rule(pattern: str, limit: int, *kinds: str, total: int = MAX_BUNDLE_BYTES) -> _Rule:
    return _Rule(re.compile(pattern, re.ASCII), limit, total, kinds or KINDS)


_N = r"(?:0|[1-9][0-9]{0,3})"
_SIZE = r"(?:0|[1-9][0-9]{0,15})"
_PROOF = 128 << 10
_NAMES = (
    _rule(rf"evidence/{_N}/evidence\.json", 1 << 20, total=6 << 20),
    _rule(rf"evidence/{_N}/disclosure\.json", MAX_JSON_BYTES),
    _rule(rf"evidence/{_N}/template\.json", 256 << 10),
    _rule(rf"evidence/{_N}/(?:sm3|sha256)\.tlog-proof", _PROOF, total=8 << 20),
    _rule(rf"log/(?:sm3|sha256)/{_SIZE}-{_SIZE}\.consistency", _PROOF, total=8 << 20),
    _rule(rf"anchors/{_N}/(?:payload|receipt)\.json", MAX_JSON_BYTES),
    _rule(rf"(?:blocks|erasure)/{_N}\.json", MAX_JSON_BYTES),
    _rule(rf"time/{_N}\.tsr", 64 << 10),
    _rule(rf"certs/{_N}\.(?:cer|crl)", MAX_JSON_BYTES),
    _rule(rf"renewal/{_N}\.er", MAX_JSON_BYTES),
    _rule(r"stream/query\.json", MAX_JSON_BYTES, "answer"),
    _rule(r"stream/(?:declarations|slices|index|lines|keywords|rules)\.jsonl", MAX_FILE_BYTES, "answer"),
    _rule(rf"stream/recount/{_N}\.note", 64 << 10, "answer"),
    _rule(rf"stream/slices/{_SIZE}\.bin", 8 << 20, "answer"),
)
_PIECE = 1 << 16
_BULK = re.compile(r".*\.(?:jsonl|bin)")
_NUMBERED = re.compile(rf"(evidence|anchors|blocks|erasure|time|certs|renewal)/({_N})[/.](.*)", re.ASCII)


class Files(Mapping[str, bytes]):
    """The files of a bundle by name, in the order of the container; each look-up copies one file out."""

    def __init__(self, views: Mapping[str, memoryview]) -> None:
        self._views = views

    def __getitem__(self, name: str) -> bytes:
        return bytes(self._views[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, name: object) -> bool:
        return name in self._views

    @property
    def size(self) -> int:
        """How many bytes all files have together."""
        return sum(map(len, self._views.values()))

    def lines(self, name: str, *, limit: int) -> Iterator[bytes]:
        """The lines of a file without their LF. Raises: Malformed as `some_lines`."""
        for some in self.some_lines(name, limit=limit):
            yield from some

    def some_lines(self, name: str, *, limit: int) -> Iterator[list[bytes]]:
        """The lines of a file without their LF, those that end in one piece of it together: a long file is never copied whole.

        Raises: Malformed if a line is longer than `limit`, or the last has no LF.
        """
        view, size = self._views[name], 0
        waiting: list[bytes] = []
        for start in range(0, len(view), _PIECE):
            first, *others = bytes(view[start : start + _PIECE]).split(b"\n")
            waiting.append(first)
            size += len(first)
            if size > limit:
                raise Malformed(f"line of a file in the bundle is too long: expected at most {limit} bytes ({name})")
            if others:
                yield [b"".join(waiting), *others[:-1]]
                waiting, size = [others[-1]], len(others[-1])
        if size:
            raise Malformed(f"last line of a file in the bundle has no end ({name})")


@dataclass(frozen=True, slots=True)
class Bundle:
    """An unpacked bundle: its kind and its files without the manifest."""

    kind: str
    files: Files


def numbers(files: Mapping[str, bytes], folder: str) -> range:
    """The numbers N that stand under `folder`, from 0 without gap."""
    found = {int(match[2]) for name in files if (match := _NUMBERED.fullmatch(name)) and match[1] == folder}
    return range(len(found))


def _check_name(name: str, size: int, kind: str, totals: dict[_Rule, int]) -> None:
    parts = name.split("/")
    if not _NAME.fullmatch(name) or any(part in ("", ".", "..") for part in parts):
        raise Malformed("name in the bundle has wrong form: expected a-z 0-9 / . _ - without empty parts")
    rule = next((rule for rule in _NAMES if kind in rule.kinds and rule.pattern.fullmatch(name)), None)
    if rule is None:
        raise Malformed(f"name in the bundle is unknown: {name} has no place in a bundle of kind {kind}")
    if size > rule.limit:
        raise Malformed(f"file in the bundle is too long: expected at most {rule.limit} bytes, got {size} ({name})")
    totals[rule] = totals.get(rule, 0) + size
    if totals[rule] > rule.total:
        raise Malformed(f"files of one kind in the bundle are too long: expected at most {rule.total} bytes ({name})")
    if size == 0 and kind == "answer":
        raise Malformed(f"file in the bundle is empty ({name})")


class _Limits:
    """What the files of one bundle may be called and hold, each and all together: told of them one after the other."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._totals: dict[_Rule, int] = {}
        self._bytes = self._values = 0

    def take(self, name: str, data: memoryview | bytes) -> None:
        """Pass one more file. Raises: Malformed."""
        _check_name(name, len(data), self._kind, self._totals)
        if not _BULK.fullmatch(name):
            self._bytes += len(data)
            self._values += _check_work(name, data) if name.endswith(".json") else 0
            if self._bytes > MAX_TOTAL_BYTES or self._values > MAX_TOTAL_VALUES:
                raise Malformed(f"bundle holds too much: expected at most {MAX_TOTAL_BYTES} bytes and {MAX_TOTAL_VALUES} values")


def _check_kind(kind: JSONValue) -> None:
    if kind not in KINDS:
        raise Malformed("manifest names an unknown kind: expected item, transaction or answer")


def _check_size(manifest: memoryview | bytes) -> None:
    if len(manifest) > MAX_JSON_BYTES:
        raise Malformed(f"manifest is too long: expected at most {MAX_JSON_BYTES} bytes")
    _check_work(MANIFEST, manifest)


def _check_names(names: list[str], kind: str) -> None:
    """The numbers of every folder go from 0 without gap, and what belongs together is there together."""
    found: dict[str, dict[int, set[str]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            found.setdefault(match[1], {}).setdefault(int(match[2]), set()).add(match[3])
    for folder, entries in found.items():
        if sorted(entries) != list(range(len(entries))):
            raise Malformed(f"numbers in the bundle have a gap: expected {folder}/0 and on")
    if any(files != {"payload.json", "receipt.json"} for files in found.get("anchors", {}).values()):
        raise Malformed("anchor in the bundle is not whole: expected payload.json and receipt.json")
    items = found.get("evidence", {})
    if not items or any("evidence.json" not in files for files in items.values()):
        raise Malformed("bundle lacks an evidence.json: expected one for every evidence")
    if kind == "item" and len(items) != 1:
        raise Malformed(f"bundle of kind item holds more than one evidence: expected 1, got {len(items)}")


def _check_work(name: str, data: memoryview | bytes) -> int:
    """The number of values in a JSON file at most; a reader never meets more than it has room for."""
    raw = bytes(data)
    count = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if count > MAX_VALUES:
        raise Malformed(f"file in the bundle holds too many values: expected at most {MAX_VALUES}, got {count} ({name})")
    return count


def _order(name: str) -> tuple[bool, bytes]:
    return name != MANIFEST, name.encode()


def _local(name: bytes, crc: int, size: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0) + name


def _central(name: bytes, crc: int, size: int, offset: int) -> bytes:
    record = _CENTRAL.pack(b"PK\1\2", _VERSION, _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0, 0, 0, 0, 0, offset)
    return record + name


def manifest_of(files: Mapping[str, bytes], kind: str) -> bytes:
    """The bytes of manifest.json for `files` (without it), in the order of the container (formats §6.1)."""
    listed: list[JSONValue] = []
    for name in sorted(files, key=_order):
        digests = pair(files[name])
        listed.append({"name": name, "sha256": digests.sha256.hex(), "size": len(files[name]), "sm3": digests.sm3.hex()})
    return canonical({"files": listed, "format": "cz/1", "kind": kind})


def encode(files: Mapping[str, bytes]) -> bytes:
    """The one ZIP encoding of `files`, the manifest first, then bytewise by name.

    Raises: Malformed if there are too many files or bytes.
    Source: formats §6.1, §11 (Bundle).
    """
    too_long = Malformed(f"bundle is too long: expected at most {MAX_ENTRIES} files and {MAX_BUNDLE_BYTES} bytes")
    if len(files) > MAX_ENTRIES or sum(map(len, files.values())) > MAX_BUNDLE_BYTES:
        raise too_long
    body: list[bytes] = []
    directory, position = bytearray(), 0
    for name in sorted(files, key=_order):
        data, raw = files[name], name.encode("ascii")
        crc = zlib.crc32(data)
        directory += _central(raw, crc, len(data), position)
        body += (_local(raw, crc, len(data)), data)
        position += len(body[-2]) + len(data)
    end = _END.pack(b"PK\5\6", 0, 0, len(files), len(files), len(directory), position, 0)
    if position + len(directory) + len(end) > MAX_BUNDLE_BYTES:
        raise too_long
    # Joined once: a bundle can be large, and its files stand beside it in memory already.
    return b"".join([*body, directory, end])


def pack(files: Mapping[str, bytes], kind: str) -> bytes:
    """The bundle of `files` (without manifest) and its manifest: the same bytes for the same files.

    Shapes: `kind` is item, transaction or answer.
    Raises: Malformed if a name or size is none that `unpack` accepts.
    Source: formats §6.1, §6.2.
    """
    manifest, limits = manifest_of(files, kind), _Limits(kind)
    _check_kind(kind)
    _check_size(manifest)
    for name in sorted(files, key=_order):
        limits.take(name, files[name])
    _check_names(list(files), kind)
    return encode({MANIFEST: manifest, **files})


def unpack(data: bytes) -> Bundle:
    """The bundle that exactly `data` encodes; nothing is allocated before its limit was checked.

    Shapes: ≤ 1 GiB, ≤ 4,096 files of ≤ 256 MiB, each within the limit of its name.
    Raises: Malformed if `data` is not the one encoding of its files, manifest and files do not
        agree, or a name or limit is broken; Unknown if the manifest names a later version.
    Source: formats §6.1, §6.2, §11 (Bundle).
    """
    views = _decode(memoryview(data))
    manifest = views.pop(MANIFEST, None)
    if manifest is None:
        raise Malformed("bundle has no manifest: expected manifest.json first")
    _check_size(manifest)
    value = parse_canonical(bytes(manifest), max_bytes=MAX_JSON_BYTES, what="manifest")
    check_format(value, "cz")
    listed, _, kind = members(value, "files format kind", "manifest")
    _check_kind(kind)
    if not isinstance(listed, list) or len(listed) != len(views):
        raise Malformed("manifest does not list the files of the bundle, each once and in order")
    limits = _Limits(kind)
    for entry, (name, view) in zip(listed, views.items(), strict=True):
        stated, sha256_hex, size, sm3_hex = members(entry, "name sha256 size sm3", "file of the manifest")
        if stated != name or isinstance(size, bool) or size != len(view):
            raise Malformed(f"manifest does not agree with the file at its place ({name})")
        limits.take(name, view)
        _check_digests(view, Pair.from_json({"sha256": sha256_hex, "sm3": sm3_hex}), name)
    _check_names(list(views), kind)
    return Bundle(kind, Files(views))


def _check_digests(view: memoryview, stated: Pair, name: str) -> None:
    if pair(view) != stated:  # type: ignore[arg-type]
        raise Malformed(f"digest in the manifest is not the file's ({name})")


def _decode(data: memoryview) -> dict[str, memoryview]:
    """The files by name, in order; every header is compared with the one that `encode` would write."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise Malformed(f"bundle is too long: expected at most {MAX_BUNDLE_BYTES} bytes, got {len(data)}")
    views: dict[str, memoryview] = {}
    directory = bytearray()
    position = 0
    while bytes(data[position : position + 4]) == b"PK\3\4":
        if len(views) >= MAX_ENTRIES:
            raise Malformed(f"bundle has too many files: expected at most {MAX_ENTRIES}")
        if len(data) - position < _LOCAL.size:
            raise Malformed("bundle ends within a header")
        header = _LOCAL.unpack_from(data, position)
        crc, size, length = header[6], header[8], header[9]
        start = position + _LOCAL.size + length
        name = bytes(data[position + _LOCAL.size : start])
        if size > MAX_FILE_BYTES or start + size > len(data):
            raise Malformed("file in the bundle is longer than allowed, or than the bundle")
        if bytes(data[position:start]) != _local(name, crc, size):
            raise Malformed("bundle is not in its one encoding: a local header differs")
        text = name.decode("ascii", "replace")
        if not _NAME.fullmatch(text) or (views and _order(text) <= _order(next(reversed(views)))):
            raise Malformed("files of the bundle are not in order, or a name has wrong form or stands twice")
        views[text] = data[start : start + size]
        if zlib.crc32(views[text]) != crc:
            raise Malformed("bundle is not in its one encoding: a checksum differs")
        directory += _central(name, crc, size, position)
        position = start + size
    end = _END.pack(b"PK\5\6", 0, 0, len(views), len(views), len(directory), position, 0)
    if bytes(data[position : position + len(directory) + len(end) + 1]) != bytes(directory) + end:
        raise Malformed("bundle is not in its one encoding: its directory or end differs")
    return views
