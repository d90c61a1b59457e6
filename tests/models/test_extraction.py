"""Extraction rules: values, cells, labels, entries and the trie that proves presence and absence."""

import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import b64u, canonical
from models.declaration import Declaration
from models.errors import Malformed, VerificationError
from models.extraction import (
    EMPTY,
    Rule,
    Slot,
    Trie,
    bit,
    cell_of,
    label_of,
    trie_of,
    values_in,
    values_of,
    verify_cell,
    verify_value,
)
from models.record import Buffer, Record

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/streams/stream.json").read_text())
SECRET = bytes(range(32))
RULE = Rule("account", b"acct=", b"0123456789", 6, 20, bits=4)
DECLARED = Declaration.parse(VECTOR["declaration"].encode())
CELLS = DECLARED.cells(RULE, secret=SECRET)


def trie(lines: list[bytes], rule: Rule = RULE) -> Trie:
    buffer = Buffer.of(Record(position, line) for position, line in enumerate(lines))
    return trie_of(values_of(buffer, rule), rule, CELLS.keys, secret=SECRET, stream_id="s1", number=0)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"acct=123456", [b"123456"]),
        (b"acct=12345", []),
        (b"acct=123456x acct=7654321 acct=123456", [b"123456", b"7654321", b"123456"]),
        (b"acct=" + b"1" * 21, []),
        (b"acct=" + b"1" * 20, [b"1" * 20]),
        (b"acct=acct=123456", [b"123456"]),
        (b"acct= 123456", []),
        (b"", []),
    ],
)
def test_value_is_the_whole_run_after_its_mark(text: bytes, found: list[bytes]) -> None:
    assert values_in(text, RULE) == found


def test_marks_may_overlap_and_every_occurrence_counts() -> None:
    assert values_in(b"aaa1", Rule("r", b"a", b"1a", 1, 9)) == [b"aa1", b"a1", b"1"]


def test_no_record_makes_a_rule_slow() -> None:
    began = time.monotonic()
    assert values_in(b"a" * (1 << 20), Rule("r", b"a", b"a", 1, 64))[-1] == b"a"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""}, {"name": "Über"}, {"after": b""}, {"after": b"x" * 257}, {"class_": b""}, {"class_": b"ba"},
        {"class_": b"aa"}, {"min": 0}, {"min": 7, "max": 6}, {"max": 65}, {"bits": 0}, {"bits": 17}, {"min": 1.0}, {"max": True},
    ],
)  # fmt: skip
def test_rule_out_of_range_is_refused(options: dict[str, Any]) -> None:
    facts: dict[str, Any] = {"name": "r", "after": b"x", "class_": b"ab", "min": 1, "max": 6}
    with pytest.raises(Malformed):
        Rule(**{**facts, **options}).check()


# --- cells ------------------------------------------------------------------------------------------------------------


def test_cell_label_slot_entry_and_path_are_those_of_the_vector() -> None:
    value = VECTOR["value"].encode()
    leaf, path = CELLS.proof(value)
    assert leaf.decode() == VECTOR["cell_leaf"]
    assert [node.hex() for node in path] == VECTOR["cell_proof"]
    label = label_of(CELLS.keys[cell_of(RULE, value)], "s1", 0, "account", value)
    assert label.hex() == VECTOR["label"]
    slot, way = trie([line.encode() for _, line in VECTOR["records"]]).find(label)
    assert slot is not None
    assert (slot.slot.decode(), slot.entry.decode()) == (VECTOR["slot"], VECTOR["entry"])
    assert [node.hex() for node in way] == VECTOR["path"]


def test_cell_and_label_by_hand() -> None:
    value = b"100001"
    digest = hashlib.new("sm3", canonical(["cz-cell-of/1", "account", b64u(value)])).digest()
    assert cell_of(RULE, value) == digest[0] >> 4
    key = CELLS.keys[digest[0] >> 4]
    message = canonical(["cz-label/1", "s1", 0, "account", b64u(value)])
    assert label_of(key, "s1", 0, "account", value) == hmac.new(key, message, "sm3").digest()


def test_cell_of_another_value_or_key_is_refused() -> None:
    declared = DECLARED.rule("account")
    assert declared is not None
    value = b"100001"
    leaf, path = CELLS.proof(value)
    assert verify_cell(declared, value, leaf.decode(), path) == CELLS.keys[cell_of(RULE, value)]
    other = next(b"%06d" % number for number in range(100) if cell_of(RULE, b"%06d" % number) != cell_of(RULE, value))
    wrong = leaf.decode().replace(b64u(CELLS.keys[cell_of(RULE, value)]), b64u(bytes(16)))
    for which, text, way in (
        (other, leaf.decode(), path),
        (value, wrong, path),
        (value, leaf.decode(), path[1:]),
        (value, None, path),
    ):
        with pytest.raises(VerificationError):
            verify_cell(declared, which, text, way)


# --- trie -------------------------------------------------------------------------------------------------------------


def slow_root(slots: list[Slot], depth: int = 0) -> bytes:
    if not slots:
        return EMPTY
    if len(slots) == 1:
        return hashlib.new("sm3", b"\0" + slots[0].slot).digest()
    sides = [[slot for slot in slots if bit(slot.label, depth) == side] for side in (0, 1)]
    return hashlib.new("sm3", b"\1" + slow_root(sides[0], depth + 1) + slow_root(sides[1], depth + 1)).digest()


VALUES = st.lists(st.integers(100000, 100040).map(lambda number: b"%d" % number), max_size=12)


@given(VALUES, st.integers(100000, 100040).map(lambda number: b"%d" % number))
def test_every_value_is_proven_present_with_its_lines_or_absent(values: list[bytes], asked: bytes) -> None:
    lines = [b"acct=" + value for value in values]
    made = trie(lines)
    assert made.root == slow_root(list(made.slots))
    label = label_of(CELLS.keys[cell_of(RULE, asked)], "s1", 0, "account", asked)
    slot, path = made.find(label)
    own = slot is not None and slot.label == label
    shown: dict[str, Any] = {"entry": slot.entry.decode() if slot and own else None, "slot": slot.slot.decode() if slot else None}
    entry = verify_value("account", asked, label, made.root, path=path, lines=len(lines), **shown)
    assert (entry is not None) == (asked in values)
    if entry is not None:
        assert entry.lines == [(line, 1) for line, value in enumerate(values) if value == asked]
    for change in ({"entry": None, "slot": None}, {"slot": None}, {"entry": VECTOR["entry"]}, {"slot": VECTOR["slot"]}):
        if {**shown, **change} == shown:
            continue
        with pytest.raises(VerificationError):
            verify_value("account", asked, label, made.root, path=path, lines=len(lines), **{**shown, **change})
    for way in (path[1:], [*path, EMPTY], path[::-1]):
        if way != path:
            with pytest.raises(VerificationError):
                verify_value("account", asked, label, made.root, path=way, lines=len(lines), **shown)


def test_labels_of_one_value_differ_between_slices_and_streams() -> None:
    key = CELLS.keys[0]
    labels = {label_of(key, stream, number, name, b"1") for stream in ("a", "b") for number in (0, 1) for name in ("r", "s")}
    assert len(labels) == 8


def test_twin_of_a_trie_is_the_flat_of_slots_and_entries_by_label() -> None:
    made = trie([b"acct=100001", b"acct=100002"])
    salt = bytes(16)
    parts = [part for slot in sorted(made.slots) for part in (slot.slot, slot.entry)]
    body = b"".join(len(part).to_bytes(4) + part for part in parts)
    assert made.flat(salt) == hashlib.sha256(b"\2" + salt + body).digest()
