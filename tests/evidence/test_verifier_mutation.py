"""No altered copy of a good bundle is ever VALID: not one byte of the container, of a file, not one member of a value."""

import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from verifier_world import CHAIN, World

from chain_gateway.embedded.proof import node_id
from evidence.verifier import verify
from models.bundle import encode, manifest_of, pack, unpack
from models.canonical import b64, canonical, parse
from models.errors import EvidenceError
from models.report import Report, Verdict
from models.trust import TrustRoots

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "expected.json").read_text())
GOOD = {case["file"]: case["trust"] for case in CASES if case["verdict"] == "VALID" and case["trust"] != "trust-rotated.toml"}
GOOD["good/two-chains.cz"] = "trust-two-chains.toml"
BUNDLES = {name: (VECTORS / name).read_bytes() for name in GOOD}
TRUST = {name: TrustRoots.parse((VECTORS / trust).read_bytes()) for name, trust in GOOD.items()}
EVERY = "EVIDENCE_EVERY_BYTE" in os.environ
"""With it set every byte and every value is altered in turn (half an hour); else a sample, the same in each run."""


def sample(name: str, length: int, stride: int) -> range:
    """Places to alter: each in turn, or one in `stride` from a place that depends on the name."""
    return range(length) if EVERY else range(random.Random(name).randrange(min(stride, length)), length, stride)


def refuse(report: Report, what: str) -> None:
    assert report.verdict is not Verdict.VALID, what


def remade(files: dict[str, bytes], kind: str) -> bytes:
    """The container of `files` with an honest manifest, whatever the files are."""
    return encode({"manifest.json": manifest_of(files, kind), **files})


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_altered_byte_of_the_container_is_accepted(name: str) -> None:
    data = BUNDLES[name]
    for place in sample(name, len(data), 101):
        altered = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        report = verify(altered, TRUST[name])
        assert report.verdict is None, f"byte {place}: {report.verdict}"


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_truncated_or_grown_container_is_accepted(name: str) -> None:
    data = BUNDLES[name]
    for altered in (data[:-1], data[1:], data + b"\0", b"\0" + data, data[: len(data) // 2], data + data):
        assert verify(altered, TRUST[name]).verdict is None


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_altered_byte_of_a_file_is_valid_though_the_manifest_is_remade(name: str) -> None:
    bundle = unpack(BUNDLES[name])
    files = dict(bundle.files)
    for file, data in files.items():
        for place in sample(name + file, len(data), 307):
            altered = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
            refuse(verify(remade({**files, file: altered}, bundle.kind), TRUST[name]), f"{file} byte {place}")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_file_can_be_cut_emptied_grown_renamed_or_swapped(name: str) -> None:
    bundle = unpack(BUNDLES[name])
    files = dict(bundle.files)
    for file, data in files.items():
        changed = [b"", data[:-1], data + b"\n", data + data, data.replace(b"sm3", b"sha256"), b"{}", b"null", b"\xff"]
        changed += [other for name_, other in files.items() if name_.endswith(file[-8:])]
        for altered in changed if EVERY or len(files) < 12 else changed[::4]:
            if altered != data:
                refuse(verify(remade({**files, file: altered}, bundle.kind), TRUST[name]), file)


MAY_BE_ABSENT = ("disclosure.json", "sha256.tlog-proof", "sha256/")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_file_left_out_is_not_valid_unless_it_only_says_more(name: str) -> None:
    bundle = unpack(BUNDLES[name])
    for file in bundle.files:
        files = {other: data for other, data in bundle.files.items() if other != file}
        report = verify(remade(files, bundle.kind), TRUST[name])
        if not any(part in file for part in MAY_BE_ABSENT):
            refuse(report, file)


# --- values ----------------------------------------------------------------------------------------------------------

Path_ = tuple[str | int, ...]
OTHERS: tuple[Any, ...] = (None, True, 0, -1, 2**53 - 1, "", "x", [], {}, "0" * 64)


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from places(value[number], (*path, number))


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one thing in it removed, doubled, swapped, added or replaced by something of another kind."""
    for path in places(value):
        for number, other in enumerate(OTHERS):
            yield f"{path} replaced by {number}", _replaced(value, path, partial(_instead, other))
        yield f"{path} with a member more", _replaced(value, path, _grown)
        if path:
            yield f"{path} removed", _removed(value, path)
            yield f"{path} doubled", _doubled(value, path)


def _instead(new: Any, _: Any) -> Any:
    return new


def _replaced(value: Any, path: Path_, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], change)
    return copy


def _grown(value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, "zz": None}
    if isinstance(value, list):
        return [*reversed(value), None]
    return value + 1 if isinstance(value, int) and not isinstance(value, bool) else f"{value}0"


def _removed(value: Any, path: Path_) -> Any:
    def without(parent: Any) -> Any:
        if isinstance(parent, dict):
            return {name: member for name, member in parent.items() if name != path[-1]}
        return [member for number, member in enumerate(parent) if number != path[-1]]

    return _replaced(value, path[:-1], without)


def _doubled(value: Any, path: Path_) -> Any:
    def twice(parent: Any) -> Any:
        if isinstance(parent, dict):
            return {**parent, f"{path[-1]}2": parent[path[-1]]}
        place = int(path[-1])
        return [*parent[: place + 1], *parent[place:]]

    return _replaced(value, path[:-1], twice)


@pytest.mark.parametrize("name", ["good/hash.cz", "good/plaintext.cz", "good/signed.cz"])
def test_no_altered_value_is_valid_though_it_is_canonical(name: str) -> None:
    bundle = unpack(BUNDLES[name])
    files = dict(bundle.files)
    tried = 0
    for file, data in files.items():
        if not file.endswith(".json"):
            continue
        value = parse(data)
        for number, (what, altered) in enumerate(changes(value)):
            less = what.endswith(" removed") and ("'seals', " in what or "('stages', 0)" in what or "('stages', 1)" in what)
            if altered == value or (number % 13 and not EVERY) or (less and not file.endswith("evidence.json")):
                continue  # three seals of four are still a quorum; a stage may be disclosed or not
            try:
                text = canonical(altered)
            except EvidenceError:
                continue
            tried += 1
            refuse(verify(remade({**files, file: text}, bundle.kind), TRUST[name]), f"{file} {what}")
    assert tried > 100


@pytest.mark.parametrize("name", sorted(GOOD) if EVERY else ["good/rotation.cz", "good/two-chains.cz"])
def test_no_line_of_a_proof_can_be_removed_doubled_or_swapped(name: str) -> None:
    bundle = unpack(BUNDLES[name])
    files = dict(bundle.files)
    for file, data in files.items():
        if file.endswith(".json"):
            continue
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines):
            altered = [lines[:number] + lines[number + 1 :], [*lines[:number], line, *lines[number:]]]
            both_signatures = number + 1 < len(lines) and line[:3] == lines[number + 1][:3] == "\u2014".encode()
            if number + 1 < len(lines) and not both_signatures:
                altered.append([*lines[:number], lines[number + 1], line, *lines[number + 2 :]])
            for one in altered:
                if one != lines:
                    refuse(verify(remade({**files, file: b"".join(one)}, bundle.kind), TRUST[name]), f"{file} line {number}")


# --- later layers made again honestly --------------------------------------------------------------------------------


def test_no_altered_payload_is_valid_though_it_was_anchored_so() -> None:
    first = World()
    first.add("hash")
    honest = parse(first.anchor().payload)
    seen, tried, touched = set(), 0, list[int]()
    for number, (what, _) in enumerate(changes(honest)):
        if number % 7 and not EVERY:
            continue
        world = World()
        item = world.add("hash")

        def alter(payload: dict[str, Any], number: int = number) -> None:
            altered = next(value for place, (_, value) in enumerate(changes(dict(payload))) if place == number)
            if altered == payload:
                return
            touched.append(number)
            payload.clear()
            payload.update(altered if isinstance(altered, dict) else {"other": altered})

        try:
            anchor = world.anchor(change=alter)
        except EvidenceError:
            continue
        if number not in touched:
            continue
        files = world.files([item], [])
        bundle = pack({**files, "anchors/0/payload.json": anchor.payload, "anchors/0/receipt.json": anchor.receipt}, "item")
        report = verify(bundle, world.trust())
        refuse(report, what)
        seen.add(report.step(14).verdict)
        tried += 1
    assert tried > 50
    assert seen <= {Verdict.INVALID, Verdict.INDETERMINATE}  # the latter: another version of the format
    assert Verdict.INVALID in seen


@pytest.mark.parametrize("member", ["chain", "difficulty", "format", "height", "nodes", "time", "tx_root", "version"])
def test_no_altered_header_is_valid_though_all_nodes_sealed_it(member: str) -> None:
    world = World()
    item = world.add()
    anchor = world.anchor()
    receipt = parse(anchor.receipt)
    header = parse(receipt["proof"]["header"].encode())
    value = header[member]
    header[member] = value + 1 if isinstance(value, int) else value.replace(value[-1], "0" if value[-1] != "0" else "1")
    text = canonical(header)
    seals = []
    for seal in receipt["proof"]["seals"]:
        node = next(one for one in world.nodes(CHAIN) if seal["node"] == node_id(one.public_key))
        seals.append({"node": seal["node"], "value": b64(node.sign(text))})
    receipt["proof"] |= {"header": text.decode(), "seals": seals}
    files = world.files([item], [type(anchor)(anchor.payload, canonical(receipt))])
    report = verify(pack(files, "item"), world.trust())
    assert report.step(15).verdict in (Verdict.INVALID, Verdict.INDETERMINATE)
