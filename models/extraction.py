"""Extraction rules: values that nobody can list beforehand, each provable present or absent by itself.

A rule finds values in records; each value of a slice has an entry under a label that only the
holder of its cell key can compute. Labels place the entries in a trie, so that one root gives one
answer per value and an empty place proves absence without showing a neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from models.canonical import JSONValue, b64u, canonical, members, unb64u
from models.commitment import derive, hmac_sm3
from models.counting import Counted
from models.digest import Algorithm, Pair, is_hex, sm3
from models.errors import Malformed, VerificationError
from models.leaf import occurrences, opened, unbased
from models.merkle import Tree, flat, leaf_hash, leaf_hashes, node_hash, subset_path, verify_subset
from models.nodes import SALT_BYTES
from models.record import Buffer, Encoding, counted_part
from models.salting import salt, salts

MAX_VALUE_BYTES: Final = 64
MAX_AFTER_BYTES: Final = 256
MAX_RULES: Final = 16
MAX_BITS: Final = 16
MAX_TRIE_HASHES: Final = 63
CELL_TAG: Final = "cz-cell/1"
ENTRY_TAG: Final = "cz-entry/1"
SLOT_TAG: Final = "cz-slot/1"
EMPTY: Final = sm3(b"")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as a value: the maximal run of bytes of `class_` directly after `after`, `min` to `max` bytes long.

    Shapes: `class_` holds its bytes ascending, each once; 1 ≤ min ≤ max ≤ 64; `bits` 1 to 16.
    Source: formats §5.9, ours: the standard knows keywords only.
    """

    name: str
    after: bytes
    class_: bytes
    min: int
    max: int
    bits: int = MAX_BITS

    def check(self) -> Rule:
        """The rule itself, if it is one.

        Raises: Malformed if a member is out of its range.
        """
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise Malformed("name of a rule has wrong form: expected 1 to 64 of a-z 0-9 . _ -")
        if not 1 <= len(self.after) <= MAX_AFTER_BYTES:
            raise Malformed(f"after of a rule has wrong length: expected 1 to {MAX_AFTER_BYTES} bytes (rule {self.name})")
        if not self.class_ or bytes(sorted(set(self.class_))) != self.class_:
            raise Malformed(f"class of a rule has wrong form: expected its bytes ascending, each once (rule {self.name})")
        if not all(type(number) is int for number in (self.min, self.max, self.bits)):
            raise Malformed(f"min, max or bits of a rule is not an integer (rule {self.name})")
        if not 1 <= self.min <= self.max <= MAX_VALUE_BYTES:
            raise Malformed(f"min and max of a rule are out of range: expected 1 ≤ min ≤ max ≤ 64 (rule {self.name})")
        if not 1 <= self.bits <= MAX_BITS:
            raise Malformed(f"bits of a rule are out of range: expected 1 to {MAX_BITS} (rule {self.name})")
        return self

    def can_hold(self, value: bytes) -> bool:
        """Whether `value` could be found by the rule at all."""
        return self.min <= len(value) <= self.max and set(value) <= set(self.class_)


class DeclaredRule(NamedTuple):
    """A rule as a declaration has it, with the pair that fixes its cell keys."""

    rule: Rule
    cells: Pair

    def to_json(self) -> dict[str, JSONValue]:
        """The rule as it stands in D."""
        rule = self.rule
        return {
            "after": b64u(rule.after), "bits": rule.bits, "cells": self.cells.to_json(), "class": b64u(rule.class_),
            "max": rule.max, "min": rule.min, "name": rule.name,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: JSONValue) -> DeclaredRule:
        """The rule of D. Raises: Malformed."""
        after, bits, cells, class_, most, least, name = members(value, "after bits cells class max min name", "rule")
        found = Rule(name, unb64u(after, what="after of a rule"), unb64u(class_, what="class of a rule"), least, most, bits)
        return cls(found.check(), Pair.from_json(cells, what="cells of a rule"))


# --- finding --------------------------------------------------------------------------------------------------------


def values_in(text: bytes, rule: Rule) -> list[bytes]:
    """The values of `rule` in one record, one for each occurrence, in order; a run longer than `max` is no value.

    The time is bounded: no run is read beyond max + 1 bytes, whatever the record holds.
    """
    found: list[bytes] = []
    after, size, most, members_ = rule.after, len(rule.after), rule.max, rule.class_
    at = text.find(after)
    while at >= 0:
        ahead = text[at + size : at + size + most + 1]
        length = len(ahead) - len(ahead.lstrip(members_))
        if rule.min <= length <= most:
            found.append(ahead[:length])
        at = text.find(after, at + 1)
    return found


def values_of(buffer: Buffer, rule: Rule, *, encoding: str = Encoding.LINE) -> list[Counted]:
    """Every value of `rule` in a slice with its count and lines, ascending bytewise.

    Raises: Malformed if a payload is not of `encoding`.
    Source: formats §5.9.
    """
    found: dict[bytes, dict[int, int]] = {}
    for line, payload in enumerate(buffer.payloads()):
        for value in values_in(counted_part(payload, encoding), rule):
            lines = found.setdefault(value, {})
            lines[line] = lines.get(line, 0) + 1
    return [Counted(value, sum(found[value].values()), list(found[value].items())) for value in sorted(found)]


# --- cells ----------------------------------------------------------------------------------------------------------


def cell_of(rule: Rule, value: bytes) -> int:
    """u(v): the cell that `value` falls into, the first `bits` bits of a digest of name and value."""
    digest = sm3(canonical(["cz-cell-of/1", rule.name, b64u(value)]))
    return int.from_bytes(digest[:4]) >> (32 - rule.bits)


def cells_key(secret: bytes, stream_id: str, name: str) -> bytes:
    """The key whose salt u is the key of cell u (formats §5.9)."""
    return derive(secret, CELL_TAG, stream_id, name)


def cell_leaf(key: bytes, name: str, cell: int) -> bytes:
    """The leaf that fixes the key of one cell."""
    return f'["{CELL_TAG}","{b64u(key)}","{name}",{cell}]'.encode()


class Cells:
    """All cell keys of one rule under one declaration, and the tree that fixes them."""

    def __init__(self, rule: Rule, *, secret: bytes, stream_id: str, previous: Pair | None) -> None:
        self.rule = rule
        self.keys = salts(cells_key(secret, stream_id, rule.name), 1 << rule.bits)
        leaves = [cell_leaf(key, rule.name, cell) for cell, key in enumerate(self.keys)]
        self._hashes = leaf_hashes(leaves)
        flat_salt = salt(derive(secret, "cz-flat/1", stream_id, previous and previous.sm3.hex(), rule.name), 0)
        self.pair = Pair(Tree(self._hashes).root(), flat(flat_salt, leaves, algorithm=Algorithm.SHA256))

    def proof(self, value: bytes) -> tuple[bytes, list[bytes]]:
        """The leaf of the value's cell and its subset proof."""
        cell = cell_of(self.rule, value)
        return cell_leaf(self.keys[cell], self.rule.name, cell), subset_path(self._hashes, [cell])


@lru_cache(maxsize=8)
def cells(rule: Rule, *, secret: bytes, stream_id: str, previous: Pair | None) -> Cells:
    """The cells of a rule; the last few are kept, since 65,536 leaves take half a second."""
    return Cells(rule, secret=secret, stream_id=stream_id, previous=previous)


def verify_cell(declared: DeclaredRule, value: bytes, leaf: JSONValue, path: Sequence[bytes]) -> bytes:
    """The key of the cell of `value`, which `leaf` states and the declaration fixes.

    Raises: VerificationError if the leaf is of another cell or rule, or does not stand in the tree.
    Source: formats §5.9, check 22.
    """
    rule = declared.rule
    key_text, name, cell = opened(leaf, CELL_TAG, 3, "cell leaf")
    key = unbased(key_text, "cell key", SALT_BYTES)
    if name != rule.name or type(cell) is not int or cell != cell_of(rule, value):
        raise VerificationError("cell leaf is of another rule or cell than the value's")
    verify_subset({cell: leaf_hash(leaf.encode())}, 1 << rule.bits, path, declared.cells.sm3)
    return key


# --- entries and trie -----------------------------------------------------------------------------------------------


def label_of(cell_key: bytes, stream_id: str, number: int, name: str, value: bytes) -> bytes:
    """The label of a value in one slice: random to whoever lacks the cell's key.

    Shapes: 32 bytes.
    """
    return hmac_sm3(cell_key, canonical(["cz-label/1", stream_id, number, name, b64u(value)]))


class Slot(NamedTuple):
    """One place of a trie: a label, the slot that stands there, and the entry it holds."""

    label: bytes
    slot: bytes
    entry: bytes


class Entry(NamedTuple):
    """What an entry says: a value, its count and lines."""

    salt: bytes
    name: str
    value: bytes
    n: int
    lines: list[tuple[int, int]]


def bit(label: bytes, depth: int) -> int:
    """Bit `depth` of a label, from the first byte's highest on."""
    return label[depth >> 3] >> (7 - (depth & 7)) & 1


class Trie:
    """The values of one rule in one slice, by label.

    Source: formats §5.9: none → SM3(""), one → SM3(0x00‖slot), else SM3(0x01‖bit 0‖bit 1).
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = sorted(slots)
        self._hashes = [leaf_hash(slot.slot) for slot in self.slots]
        self.root = self._node(0, len(self.slots), 0)

    def _middle(self, low: int, high: int, depth: int) -> int:
        while low < high:
            middle = (low + high) // 2
            if bit(self.slots[middle].label, depth):
                high = middle
            else:
                low = middle + 1
        return low

    def _node(self, low: int, high: int, depth: int) -> bytes:
        if high - low < 2:
            return self._hashes[low] if low < high else EMPTY
        middle = self._middle(low, high, depth)
        return node_hash(self._node(low, middle, depth + 1), self._node(middle, high, depth + 1))

    def flat(self, salt: bytes) -> bytes:
        """The twin: slot, entry, slot, entry … by label under one SHA-256."""
        return flat(salt, [data for slot in self.slots for data in (slot.slot, slot.entry)], algorithm=Algorithm.SHA256)

    def find(self, label: bytes) -> tuple[Slot | None, list[bytes]]:
        """What stands where the label leads, and the hashes beside the way, from the place upward."""
        low, high, depth = 0, len(self.slots), 0
        path: list[bytes] = []
        while high - low > 1:
            middle = self._middle(low, high, depth)
            if bit(label, depth):
                path.append(self._node(low, middle, depth + 1))
                low = middle
            else:
                path.append(self._node(middle, high, depth + 1))
                high = middle
            depth += 1
        return self.slots[low] if low < high else None, path[::-1]


def trie_of(
    found: Sequence[Counted],
    rule: Rule,
    keys: Sequence[bytes] | Mapping[int, bytes],
    *,
    secret: bytes,
    stream_id: str,
    number: int,
) -> Trie:
    """The trie of a rule in a slice: `found` are its values, `keys` the cell keys, `secret` the slice's.

    Source: formats §5.9: salts by ascending label under derive(slice secret, `cz-entry/1`, stream_id, number, name).
    """
    labelled = sorted(
        (label_of(keys[cell_of(rule, counted.keyword)], stream_id, number, rule.name, counted.keyword), counted)
        for counted in found
    )
    drawn = salts(derive(secret, ENTRY_TAG, stream_id, number, rule.name), len(labelled))
    slots = []
    for (label, counted), fresh in zip(labelled, drawn, strict=True):
        lines = [[line, n] for line, n in counted.lines]
        entry = canonical([ENTRY_TAG, b64u(fresh), rule.name, b64u(counted.keyword), counted.n, lines])
        slots.append(Slot(label, f'["{SLOT_TAG}","{b64u(label)}","{b64u(leaf_hash(entry))}"]'.encode(), entry))
    return Trie(slots)


def open_entry(text: JSONValue, *, lines: int) -> Entry:
    """What the entry `text` says. Raises: VerificationError if its form is wrong or its numbers disagree."""
    fresh, name, value, n, places = opened(text, ENTRY_TAG, 5, "entry")
    found = occurrences(places, n, "entry", lines=lines)
    return Entry(unbased(fresh, "salt of an entry", SALT_BYTES), str(name), unbased(value, "value of an entry"), n, found)


def verify_value(
    name: str, value: bytes, label: bytes, root: bytes, *, entry: JSONValue, slot: JSONValue, path: Sequence[bytes], lines: int
) -> Entry | None:
    """What the trie under `root` holds of `value`, whose label the caller has computed: its entry, or None, proven absent.

    Raises: VerificationError if slot and path do not lead to the root, or the entry is not the slot's or the value's.
    Source: formats §5.9, check 28.
    """
    if len(path) > MAX_TRIE_HASHES:
        raise VerificationError(f"trie path is too long: expected at most {MAX_TRIE_HASHES} hashes, got {len(path)}")
    found = None
    running = EMPTY
    if slot is not None:
        label_text, digest_text = opened(slot, SLOT_TAG, 2, "slot")
        other = unbased(label_text, "label of a slot", len(label))
        held = unbased(digest_text, "digest of a slot", len(root))
        if any(bit(other, depth) != bit(label, depth) for depth in range(len(path))):
            raise VerificationError("slot stands at another place than the value's label leads to")
        running = leaf_hash(slot.encode())
        if (other == label) != (entry is not None):
            raise VerificationError("value hidden: entry is expected of the value's own slot and of no other")
        if entry is not None:
            found = open_entry(entry, lines=lines)
            if leaf_hash(entry.encode()) != held or (found.name, found.value) != (name, value) or found.n < 1:
                raise VerificationError("entry is not the one of its slot, or of another value")
    elif entry is not None:
        raise VerificationError("entry is shown at an empty place")
    for depth, beside in zip(range(len(path) - 1, -1, -1), path, strict=True):
        running = node_hash(beside, running) if bit(label, depth) else node_hash(running, beside)
    if running != root:
        raise VerificationError(f"trie path leads to another root: expected {root[:4].hex()}…, got {running[:4].hex()}…")
    return found


def rule_pairs(value: JSONValue) -> tuple[tuple[str, Pair], ...]:
    """The pairs of H's member `rules`, ascending by name. Raises: Malformed."""
    if not isinstance(value, list) or len(value) > MAX_RULES:
        raise Malformed(f"rules has wrong form: expected an array of at most {MAX_RULES}")
    found: list[tuple[str, Pair]] = []
    for entry in value:
        name, sha256_hex, sm3_hex = members(entry, "name sha256 sm3", "rule of the slice header")
        if not isinstance(name, str) or not is_hex(sha256_hex) or not is_hex(sm3_hex) or (found and found[-1][0] >= name):
            raise Malformed("rules of the slice header have wrong form: expected names ascending, each with its pair")
        found.append((name, Pair(bytes.fromhex(sm3_hex), bytes.fromhex(sha256_hex))))
    return tuple(found)
