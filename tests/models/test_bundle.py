"""One encoding of a set of files, and no other."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import bundle
from models.bundle import Bundle, encode, manifest_of, numbers, pack, unpack
from models.canonical import JSONValue, canonical, parse
from models.errors import Malformed, Unknown

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
BUNDLES = sorted(VECTORS.glob("good/*.cz"))
FILES = {"evidence/0/evidence.json": b"{}", "anchors/0/payload.json": b"[1]", "anchors/0/receipt.json": b"{}"}


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_bundle_of_another_implementation_packs_to_the_same_bytes(path: Path) -> None:
    data = path.read_bytes()
    found = unpack(data)
    assert pack(dict(found.files), found.kind) == data


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_an_ordinary_reader_sees_the_same_files(path: Path) -> None:
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"} == dict(unpack(data).files)


NAMES = [
    "evidence/0/evidence.json",
    "evidence/0/template.json",
    "evidence/0/sm3.tlog-proof",
    "log/sm3/5-9.consistency",
    "certs/0.cer",
    "certs/0.crl",
    "time/0.tsr",
    "blocks/0.json",
    "erasure/0.json",
    "renewal/0.er",
]


@given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=60), max_size=6))
@settings(max_examples=60)
def test_what_is_packed_is_unpacked_whatever_its_order(files: dict[str, bytes]) -> None:
    whole = {"evidence/0/evidence.json": b"{}", **files}
    data = pack(whole, "item")
    found = unpack(data)
    assert dict(found.files) == whole
    assert pack(dict(reversed(list(whole.items()))), "item") == data
    assert list(found.files) == sorted(whole)


def remade(files: dict[str, bytes], kind: str = "item") -> bytes:
    return encode({"manifest.json": manifest_of(files, kind), **files})


@pytest.mark.parametrize(
    "name",
    [
        "trust.toml",
        "evidence/0/readme.txt",
        "evidence/00/evidence.json",
        "evidence/0/../evidence.json",
        "evidence//evidence.json",
        "EVIDENCE/0/evidence.json",
        "anchors/0/payload",
        "log/sm3/05-9.consistency",
        "log/md5/1-2.consistency",
        "certs/0.pem",
        "stream/query.json",
        "slices/0.bin",
        "x" * 129,
        "evidence/10000/evidence.json",
        "time/0.tst",
    ],
)
def test_refuses_names_outside_the_list(name: str) -> None:
    with pytest.raises(Malformed):
        unpack(remade({**FILES, name: b"{}"}))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"anchors/0/payload.json": b"{}", "anchors/0/receipt.json": b"{}"},
        {**FILES, "evidence/1/evidence.json": b"{}"},
        {**FILES, "anchors/2/payload.json": b"{}", "anchors/2/receipt.json": b"{}"},
        {"evidence/0/evidence.json": b"{}", "anchors/0/payload.json": b"{}"},
        {"evidence/0/evidence.json": b"{}", "anchors/0/receipt.json": b"{}"},
        {**FILES, "certs/1.cer": b"x"},
        {"evidence/0/template.json": b"{}"},
    ],
    ids=["nothing", "no-evidence", "two-in-an-item", "gap", "no-receipt", "no-payload", "gap-in-certs", "template-alone"],
)
def test_refuses_sets_of_files_that_are_not_whole(files: dict[str, bytes]) -> None:
    with pytest.raises(Malformed):
        unpack(remade(files))


def test_transaction_may_hold_more_than_one_evidence() -> None:
    files = {**FILES, "evidence/1/evidence.json": b"{}"}
    assert unpack(remade(files, "transaction")).kind == "transaction"
    assert list(numbers(unpack(remade(files, "transaction")).files, "evidence")) == [0, 1]


def test_refuses_a_manifest_that_says_anything_else() -> None:
    honest = parse(manifest_of(FILES, "item"))
    changes: tuple[JSONValue, ...] = (
        {**honest, "kind": "other"},
        {**honest, "more": 1},
        {**honest, "files": honest["files"][:-1]},
        {**honest, "files": list(reversed(honest["files"]))},
        {**honest, "files": honest["files"] * 2},
        {**honest, "format": "zip/1"},
        {**honest, "files": [{**entry, "size": entry["size"] + 1} for entry in honest["files"]]},
        {**honest, "files": [{**entry, "sm3": "00" * 32} for entry in honest["files"]]},
        {**honest, "files": [{**entry, "sha256": "00" * 32} for entry in honest["files"]]},
        {**honest, "files": [{**entry, "name": "x"} for entry in honest["files"]]},
        {**honest, "files": 1},
        [],
        None,
    )
    for change in changes:
        with pytest.raises(Malformed):
            unpack(encode({"manifest.json": canonical(change), **FILES}))
    with pytest.raises(Malformed):
        unpack(encode({"manifest.json": manifest_of(FILES, "item") + b"\n", **FILES}))
    with pytest.raises(Malformed):
        unpack(encode(FILES))


def test_later_version_of_the_manifest_is_unknown() -> None:
    with pytest.raises(Unknown):
        unpack(encode({"manifest.json": manifest_of(FILES, "item").replace(b"cz/1", b"cz/2"), **FILES}))


def _ordinary(compression: int, *, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    files = {"manifest.json": manifest_of(FILES, "item"), **FILES}
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.comment = comment
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, compression)
    return out.getvalue()


def test_refuses_what_other_writers_make() -> None:
    for data in (_ordinary(zipfile.ZIP_STORED), _ordinary(zipfile.ZIP_DEFLATED), _ordinary(zipfile.ZIP_STORED, comment=b"x")):
        with pytest.raises(Malformed):
            unpack(data)


GOOD = pack(FILES, "item")


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=150)
def test_no_altered_byte_is_accepted(place: int, change: int) -> None:
    altered = bytearray(GOOD)
    altered[place] ^= change
    with pytest.raises((Malformed, Unknown)):
        unpack(bytes(altered))


@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.binary(max_size=40))
@settings(max_examples=150)
def test_no_spliced_container_is_accepted(place: int, cut: int, data: bytes) -> None:
    spliced = GOOD[:place] + data + GOOD[place + cut :]
    if spliced != GOOD:
        with pytest.raises((Malformed, Unknown)):
            unpack(spliced)


def test_an_entry_that_no_directory_lists_is_refused() -> None:
    name = b"evidence/0/template.json"
    hidden = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0x21, zlib.crc32(b"x"), 1, 1, len(name), 0) + name + b"x"
    start = GOOD.index(b"PK\1\2")
    with pytest.raises(Malformed):
        unpack(GOOD[:start] + hidden + GOOD[start:])


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Malformed, match="too long"):
        unpack(remade({**FILES, "evidence/0/sm3.tlog-proof": b"x" * ((128 << 10) + 1)}))
    with pytest.raises(Malformed, match="too many values"):
        unpack(remade({**FILES, "anchors/0/payload.json": b"," * (bundle.MAX_VALUES + 1)}))
    monkeypatch.setattr(bundle, "MAX_ENTRIES", 3)
    with pytest.raises(Malformed, match="too"):
        unpack(GOOD)
    monkeypatch.setattr(bundle, "MAX_ENTRIES", 4096)
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(GOOD) - 1)
    with pytest.raises(Malformed, match="too long"):
        unpack(GOOD)


def test_limit_of_bytes_that_are_read_holds() -> None:
    files = dict(FILES)
    for number in range(25):
        files[f"anchors/{number}/payload.json"] = files[f"anchors/{number}/receipt.json"] = b" " * (4 << 20)
    with pytest.raises(Malformed, match="too much"):
        unpack(remade(files))


def test_refuses_to_pack_what_it_would_not_unpack(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Malformed):
        pack({"readme.txt": b"x", **FILES}, "item")
    with pytest.raises(Malformed):
        pack({}, "item")
    assert isinstance(unpack(pack(FILES, "answer")), Bundle)
    whole = pack(FILES, "item")
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(whole))
    assert pack(FILES, "item") == whole
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(whole) - 1)
    with pytest.raises(Malformed, match="too long"):
        pack(FILES, "item")
