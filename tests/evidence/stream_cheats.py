"""A prover who cheats by structure: each cheat changes what an answer says and makes every layer above it again, honestly.

He holds all that the platform holds: secrets, records, the collector's key. What he cannot change is
what was anchored. So each cheat ends where a digest in an anchored evidence stands in its way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

from stream_world import STREAM, Stream, secret_of

from models.answer import DECLARATIONS, INDEX, KEYWORDS, LINES, QUERY, RULES, SLICES
from models.bundle import pack
from models.canonical import b64, b64u, canonical, format_time, parse_time, unb64, unb64u
from models.counting import Counted
from models.digest import pair
from models.errors import EvidenceError
from models.leaf import index_leaf, line_leaf, open_line
from models.merkle import leaf_hashes, subset_path
from models.record import Buffer, Record
from models.salting import CONTENT_SALT, salts, slice_flat_salt, slice_key
from models.slice import SliceHeader, commit_slice, evidence_pair, line_leaves

Json = dict[str, Any]
ROWS = (DECLARATIONS, SLICES, KEYWORDS, INDEX, LINES, RULES)


class Prover:
    """An answer taken apart: rows as values, so that a cheat changes them and they are written anew."""

    def __init__(self, stream: Stream, files: dict[str, bytes], random: Random) -> None:
        self.stream = stream
        self.random = random
        self.other = {name: data for name, data in files.items() if name not in ROWS and name != QUERY}
        self.query: Json = json.loads(files[QUERY])
        self.rows: dict[str, list[Json]] = {
            name: [json.loads(line) for line in files.get(name, b"").splitlines()] for name in ROWS
        }

    @property
    def headers(self) -> list[Json]:
        return self.rows[SLICES]

    def bundle(self) -> bytes:
        files = dict(self.other)
        files[QUERY] = canonical(self.query)
        for name, rows in self.rows.items():
            if rows:
                files[name] = b"".join(canonical(row) + b"\n" for row in rows)
        return pack(files, "answer")

    def relink(self, start: int = 0) -> None:
        """Make numbers, ids and links of the headers from `start` on fit each other again."""
        for place in range(max(1, start), len(self.headers)):
            before, header = self.headers[place - 1], self.headers[place]
            header["number"] = before["number"] + 1
            header["slice_id"] = f"{STREAM}/{header['number']}"
            header["previous"] = pair(canonical(before)).to_json()

    def pick(self, rows: list[Json]) -> Json | None:
        return self.random.choice(rows) if rows else None

    def place_of(self, number: int) -> int:
        return next(place for place, header in enumerate(self.headers) if header["number"] == number)

    def row(self, name: str, number: int) -> Json | None:
        return next((row for row in self.rows[name] if row.get("number") == number), None)

    def evidence_of(self, number: int) -> None:
        """Show the genuine evidence of slice `number` as that of the last header."""
        kept = {name: data for name, data in self.other.items() if not name.startswith("evidence/0/")}
        made = self.stream.world.files([self.stream.held[number].made], [self.stream.anchor()], fields=[])
        self.other = {**kept, **{name: data for name, data in made.items() if name.startswith("evidence/0/")}}

    def forge_last(self) -> None:
        """Sign a new evidence of the last header, and show it at the place of the genuine one."""
        header = SliceHeader.parse(canonical(self.headers[-1]))
        made = self.stream.preserve("stream-slice@1", header.slice_id, header.stages())
        self.stream.world.items.pop()
        self.other["evidence/0/evidence.json"] = made.evidence.data

    # --- making a slice again -----------------------------------------------------------------------------------------

    def remake(self, number: int, *, index: list[Counted] | None = None, records: list[Record] | None = None) -> None:
        """Commit to other records, or to another index of them, and write header, proofs and links again."""
        held = self.stream.held[number]
        declared = self.stream.declared(held.header.declaration.sm3)
        buffer = held.buffer if records is None else Buffer.of(records)
        made = commit_slice(
            buffer, declared.declaration, declared.keywords, secret=secret_of(number), number=number, index=index,
            cell_keys=self.stream.cell_keys(declared),
        )  # fmt: skip
        place = self.place_of(number)
        header = self.headers[place]
        rules = None if made.rules is None else [{"name": name, **digests.to_json()} for name, digests in made.rules]
        header.update(bytes=made.payload_bytes, content=made.content.to_json(), lines=len(made.lines), rules=rules)
        header["index"] = made.index and made.index.to_json()
        row = self.row(INDEX, number)
        if row is not None:
            ranks = [rank for rank, _ in row["leaves"]]
            row["leaves"] = [[rank, made.leaves[rank].decode()] for rank in ranks]
            if "salt" not in row:
                row["proof"] = [b64(node) for node in subset_path(leaf_hashes(made.leaves), ranks)]
        shown = self.row(LINES, number)
        if shown is not None:
            self.show(shown, number, [line for line, _ in shown["lines"] if line < len(made.lines)], list(made.lines))
        self.relink(place)

    def show(self, row: Json, number: int, lines: list[int], leaves: list[bytes] | None = None) -> None:
        """Show exactly `lines` of a slice, with an honest proof of them."""
        if leaves is None:
            leaves = line_leaves(self.stream.held[number].buffer, secret=secret_of(number), stream_id=STREAM, number=number)
        row["lines"] = [[line, b64(leaves[line])] for line in lines]
        if "salt" not in row:
            row["proof"] = [b64(node) for node in subset_path(leaf_hashes(leaves), lines)] if lines else []

    def demanded(self, row: Json) -> list[list[list[int]]]:
        return [json.loads(text)[4] for _, text in row["leaves"]]


Cheat = Callable[[Prover], bool]
CHEATS: dict[str, Cheat] = {}


def apply(prover: Prover, name: str) -> bool:
    """Whether the cheat found something to do; after another one, what it needs may be gone."""
    try:
        return CHEATS[name](prover)
    except (KeyError, IndexError, StopIteration, TypeError, ValueError, EvidenceError):
        return False


def cheat(function: Cheat) -> Cheat:
    CHEATS[function.__name__] = function
    return function


# --- lines ------------------------------------------------------------------------------------------------------------


@cheat
def drop_a_hit(prover: Prover) -> bool:
    row = prover.pick(prover.rows[LINES])
    if row is None:
        return False
    lines = [line for line, _ in row["lines"]]
    lines.remove(prover.random.choice(lines))
    if lines:
        prover.show(row, row["number"], lines)
    else:
        prover.rows[LINES].remove(row)
    return True


@cheat
def drop_all_hits_of_a_slice(prover: Prover) -> bool:
    row = prover.pick(prover.rows[LINES])
    if row is not None:
        prover.rows[LINES].remove(row)
    return row is not None


@cheat
def drop_all_lines(prover: Prover) -> bool:
    had = bool(prover.rows[LINES])
    prover.rows[LINES] = []
    return had


@cheat
def add_a_line(prover: Prover) -> bool:
    row = prover.pick([row for row in prover.rows[LINES] if len(row["lines"]) < len(prover.stream.held[row["number"]].buffer)])
    if row is None:
        return False
    have = {line for line, _ in row["lines"]}
    others = [line for line in range(len(prover.stream.held[row["number"]].buffer)) if line not in have]
    prover.show(row, row["number"], sorted(have | {prover.random.choice(others)}))
    return True


@cheat
def alter_a_line(prover: Prover) -> bool:
    row = prover.pick(prover.rows[LINES])
    if row is None:
        return False
    entry = prover.random.choice(row["lines"])
    salt, record = open_line(unb64(entry[1]))
    entry[1] = b64(line_leaf(salt, record.position, record.payload + b"!"))
    return True


@cheat
def alter_a_line_and_make_the_slice_again(prover: Prover) -> bool:
    row = prover.pick(prover.rows[LINES])
    if row is None:
        return False
    records = list(prover.stream.held[row["number"]].buffer.records())
    line = prover.random.choice(row["lines"])[0]
    records[line] = Record(records[line].position, bytes(reversed(records[line].payload)))
    index = None if prover.random.random() < 0.5 else prover.stream.held[row["number"]].index
    prover.remake(row["number"], records=records, index=index)
    if prover.random.random() < 0.5:
        prover.forge_last()
    return True


@cheat
def swap_lines(prover: Prover) -> bool:
    row = prover.pick([row for row in prover.rows[LINES] if len(row["lines"]) > 1])
    if row is None:
        return False
    first, second = prover.random.sample(range(len(row["lines"])), 2)
    row["lines"][first][1], row["lines"][second][1] = row["lines"][second][1], row["lines"][first][1]
    return True


@cheat
def swap_records_and_make_the_slice_again(prover: Prover) -> bool:
    numbers = [each.header.number for each in prover.stream.held if len(each.buffer) > 1]
    numbers = [number for number in numbers if any(header["number"] == number for header in prover.headers)]
    if not numbers:
        return False
    number = prover.random.choice(numbers)
    records = list(prover.stream.held[number].buffer.records())
    first, second = sorted(prover.random.sample(range(len(records)), 2))
    one, two = records[first], records[second]
    records[first], records[second] = Record(one.position, two.payload), Record(two.position, one.payload)
    prover.remake(number, records=records)
    return True


@cheat
def move_a_line_to_another_number(prover: Prover) -> bool:
    row = prover.pick(prover.rows[LINES])
    if row is None:
        return False
    row["lines"][-1][0] += 1
    return True


@cheat
def show_a_line_of_another_slice(prover: Prover) -> bool:
    if len(prover.rows[LINES]) < 2:
        return False
    one, two = prover.random.sample(prover.rows[LINES], 2)
    one["lines"][0][1] = two["lines"][0][1]
    return True


# --- index ------------------------------------------------------------------------------------------------------------


def _lower(prover: Prover, number: int, place: int) -> list[Counted]:
    """The index of a slice with one occurrence of one keyword taken away, n and positions agreeing."""
    index = list(prover.stream.held[number].index)
    counted = index[place]
    lines = list(counted.lines)
    at = prover.random.randrange(len(lines))
    line, n = lines[at]
    lines[at : at + 1] = [(line, n - 1)] if n > 1 else []
    index[place] = Counted(counted.keyword, counted.n - 1, lines)
    return index


def _hit(prover: Prover) -> tuple[int, int] | None:
    """A slice shown with an index row, and the rank of a keyword asked that stands in it."""
    found = [
        (row["number"], rank)
        for row in prover.rows[INDEX]
        for rank, _ in row["leaves"]
        if prover.stream.held[row["number"]].index[rank].n
    ]
    return prover.random.choice(found) if found else None


def _follow_index(prover: Prover, number: int) -> None:
    """Show the lines that the index now shown demands, no more."""
    row, index = prover.row(LINES, number), prover.row(INDEX, number)
    if row is None or index is None:
        return
    asked = {unb64u(keyword) for keyword in prover.query["keywords"]}
    places = [json.loads(text) for _, text in index["leaves"]]
    sets = [{line for line, _ in leaf[4]} for leaf in places if unb64u(leaf[2]) in asked]
    joined = set.intersection(*sets) if sets and prover.query["op"] == "and" else set().union(*sets)
    lines = sorted(joined)
    if lines and "salt" not in row:
        prover.show(row, number, lines)
    elif not lines:
        prover.rows[LINES].remove(row)


@cheat
def lower_n_in_the_leaf(prover: Prover) -> bool:
    hit = _hit(prover)
    if hit is None:
        return False
    number, rank = hit
    row = prover.row(INDEX, number)
    assert row is not None
    salt = salts(slice_key(secret_of(number), "cz-index/1", STREAM, number), rank + 1)[rank]
    for entry in row["leaves"]:
        if entry[0] == rank:
            entry[1] = index_leaf(salt, _lower(prover, number, rank)[rank]).decode()
    _follow_index(prover, number)
    return True


@cheat
def lower_n_and_make_the_slice_again(prover: Prover) -> bool:
    hit = _hit(prover)
    if hit is None:
        return False
    prover.remake(hit[0], index=_lower(prover, *hit))
    _follow_index(prover, hit[0])
    if prover.random.random() < 0.5:
        prover.forge_last()
    return True


@cheat
def state_another_n(prover: Prover) -> bool:
    hit = _hit(prover)
    if hit is None:
        return False
    row = prover.row(INDEX, hit[0])
    assert row is not None
    for entry in row["leaves"]:
        value = json.loads(entry[1])
        value[3] = max(0, value[3] - 1)
        entry[1] = canonical(value).decode()
    return True


@cheat
def use_the_index_of_another_slice(prover: Prover) -> bool:
    if len(prover.rows[INDEX]) < 2:
        return False
    one, two = prover.random.sample(prover.rows[INDEX], 2)
    for name in set(one) - {"number"}:
        one[name] = two[name]
    if prover.random.random() < 0.5:
        prover.headers[prover.place_of(one["number"])]["index"] = prover.headers[prover.place_of(two["number"])]["index"]
        prover.relink(prover.place_of(one["number"]))
    return True


@cheat
def hide_a_keyword_in_one_slice(prover: Prover) -> bool:
    row = prover.pick([row for row in prover.rows[INDEX] if row["leaves"]])
    if row is None:
        return False
    at = prover.random.randrange(len(row["leaves"]))
    rank = row["leaves"][at][0]
    number = row["number"]
    index = list(prover.stream.held[number].index)
    if prover.random.random() < 0.5 and len(index) > 1:  # show another keyword's leaf in its place
        other = prover.random.choice([place for place in range(len(index)) if place != rank])
        index[rank] = index[other]
        prover.remake(number, index=index)
    else:
        del row["leaves"][at]
    _follow_index(prover, number)
    return True


@cheat
def drop_the_index_of_a_slice(prover: Prover) -> bool:
    row = prover.pick(prover.rows[INDEX])
    if row is None:
        return False
    prover.rows[INDEX].remove(row)
    shown = prover.row(LINES, row["number"])
    if shown is not None:
        prover.rows[LINES].remove(shown)
    return True


@cheat
def call_a_slice_with_hits_a_heartbeat(prover: Prover) -> bool:
    row = prover.pick(prover.rows[INDEX])
    if row is None:
        return False
    number = row["number"]
    place = prover.place_of(number)
    header = prover.headers[place]
    declaration = prover.stream.declared(prover.stream.held[number].header.declaration.sm3).declaration
    salt = slice_flat_salt(secret_of(number), STREAM, number, CONTENT_SALT)
    header.update(bytes=0, content=evidence_pair([], salt, declaration.slice).to_json(), index=None, rules=None, lines=0)
    header.update(kind="heartbeat", slice_end_position=header["slice_start_position"])
    prover.relink(place)
    prover.rows[INDEX].remove(row)
    shown = prover.row(LINES, number)
    if shown is not None:
        prover.rows[LINES].remove(shown)
    return True


@cheat
def cut_a_slice_short(prover: Prover) -> bool:
    """Leave the last record of a slice out, and make everything above again."""
    numbers = [row["number"] for row in prover.rows[INDEX] if len(prover.stream.held[row["number"]].buffer) > 1]
    if not numbers:
        return False
    number = prover.random.choice(numbers)
    records = list(prover.stream.held[number].buffer.records())[:-1]
    prover.remake(number, records=records)
    _follow_index(prover, number)
    return True


# --- keywords and declarations ------------------------------------------------------------------------------------------


@cheat
def show_another_rank(prover: Prover) -> bool:
    if not prover.rows[KEYWORDS] or not prover.rows[KEYWORDS][0]["leaves"]:
        return False
    leaves = prover.rows[KEYWORDS][0]["leaves"]
    at = prover.random.randrange(len(leaves))
    old = leaves[at][0]
    new = old + prover.random.choice([-1, 1])
    leaves[at][0] = new
    for row in prover.rows[INDEX]:
        for entry in row["leaves"]:
            if entry[0] == old:
                entry[0] = new
    return True


@cheat
def use_another_declaration(prover: Prover) -> bool:
    """Declare other keywords afterwards, and let the slices name that declaration."""
    declared = prover.stream.declareds[0]
    value = json.loads(declared.declaration.data)
    value["keywords"]["sm3"], value["keywords"]["sha256"] = value["keywords"]["sha256"], value["keywords"]["sm3"]
    if prover.random.random() < 0.5:
        value["max_silence_s"] *= 1000
    prover.rows[DECLARATIONS][0] = value
    if prover.random.random() < 0.5:
        for header in prover.headers:
            header["declaration"] = pair(canonical(value)).to_json()
        prover.relink()
    return True


@cheat
def leave_a_declaration_out(prover: Prover) -> bool:
    if len(prover.rows[DECLARATIONS]) < 2:
        return False
    gone = prover.random.randrange(len(prover.rows[DECLARATIONS]))
    del prover.rows[DECLARATIONS][gone]
    if prover.rows[KEYWORDS]:
        del prover.rows[KEYWORDS][gone]
    return True


@cheat
def go_on_under_the_older_declaration(prover: Prover) -> bool:
    if len(prover.rows[DECLARATIONS]) < 2:
        return False
    old = prover.headers[0]["declaration"]
    for header in prover.headers:
        header["declaration"] = old
    del prover.rows[DECLARATIONS][1:]
    del prover.rows[KEYWORDS][1:]
    prover.relink()
    return True


# --- the row of slices ------------------------------------------------------------------------------------------------


def _drop_rows(prover: Prover, numbers: set[int]) -> None:
    for name in (INDEX, LINES, RULES):
        prover.rows[name] = [row for row in prover.rows[name] if row.get("number") not in numbers]


@cheat
def leave_a_slice_out(prover: Prover) -> bool:
    if len(prover.headers) < 2:
        return False
    place = prover.random.randrange(len(prover.headers) - 1)
    _drop_rows(prover, {prover.headers[place]["number"]})
    del prover.headers[place]
    return True


@cheat
def leave_a_slice_out_and_close_the_row(prover: Prover) -> bool:
    if len(prover.headers) < 3:
        return False
    place = prover.random.randrange(1, len(prover.headers) - 1)
    gone = prover.headers.pop(place)
    _drop_rows(prover, {gone["number"]})
    renamed = {header["number"]: header["number"] - 1 for header in prover.headers[place:]}
    prover.headers[place]["slice_start_position"] = gone["slice_start_position"]
    prover.relink(place)
    for name in (INDEX, LINES, RULES):
        for row in prover.rows[name]:
            if "number" in row:
                row["number"] = renamed.get(row["number"], row["number"])
    return True


@cheat
def cut_the_tail(prover: Prover) -> bool:
    if len(prover.headers) < 2:
        return False
    left = prover.random.randrange(1, len(prover.headers))
    gone = {header["number"] for header in prover.headers[left:]}
    del prover.headers[left:]
    _drop_rows(prover, gone)
    prover.evidence_of(prover.headers[-1]["number"])
    return True


@cheat
def end_early(prover: Prover) -> bool:
    """Cut the tail and call the last slice the end of the stream."""
    if not cut_the_tail(prover):
        return False
    header = prover.headers[-1]
    number = header["number"]
    declaration = prover.stream.declared(prover.stream.held[number].header.declaration.sm3).declaration
    salt = slice_flat_salt(secret_of(number), STREAM, number, CONTENT_SALT)
    header.update(bytes=0, content=evidence_pair([], salt, declaration.slice).to_json(), index=None, rules=None, lines=0)
    header.update(kind="end", slice_end_position=header["slice_start_position"], next_by=None, pieces=0)
    _drop_rows(prover, {number})
    if prover.random.random() < 0.5:
        prover.forge_last()
    return True


@cheat
def begin_late(prover: Prover) -> bool:
    if len(prover.headers) < 2:
        return False
    left = prover.random.randrange(1, len(prover.headers))
    _drop_rows(prover, {header["number"] for header in prover.headers[:left]})
    del prover.headers[:left]
    return True


@cheat
def begin_late_and_call_it_the_beginning(prover: Prover) -> bool:
    if not begin_late(prover):
        return False
    shift = prover.headers[0]["number"]
    first = prover.headers[0]
    first.update(number=0, slice_id=f"{STREAM}/0", previous=None)
    first["epoch"] = {"identity": "inode 1", "previous_complete": True, "reason": "start"}
    prover.relink()
    for name in (INDEX, LINES, RULES):
        for row in prover.rows[name]:
            if "number" in row:
                row["number"] -= shift
    return True


@cheat
def reorder_slices(prover: Prover) -> bool:
    if len(prover.headers) < 2:
        return False
    place = prover.random.randrange(len(prover.headers) - 1)
    prover.headers[place], prover.headers[place + 1] = prover.headers[place + 1], prover.headers[place]
    return True


@cheat
def reorder_rows(prover: Prover) -> bool:
    name = prover.random.choice([INDEX, LINES])
    rows = prover.rows[name]
    if len(rows) < 2:
        return False
    prover.random.shuffle(rows)
    return True


@cheat
def show_a_slice_twice(prover: Prover) -> bool:
    place = prover.random.randrange(len(prover.headers))
    prover.headers.insert(place, dict(prover.headers[place]))
    return True


@cheat
def conceal_a_gap(prover: Prover) -> bool:
    gaps = [place for place, header in enumerate(prover.headers) if header["kind"] == "gap"]
    if not gaps:
        return False
    place = prover.random.choice(gaps)
    header = prover.headers[place]
    header.update(kind="heartbeat", reason=None)
    if prover.random.random() < 0.5:
        header["slice_end_position"] = header["slice_start_position"]
        if place + 1 < len(prover.headers):
            prover.headers[place + 1]["slice_start_position"] = header["slice_start_position"]
    prover.relink(place)
    return True


@cheat
def say_the_epoch_before_was_complete(prover: Prover) -> bool:
    places = [
        place for place, header in enumerate(prover.headers) if header["epoch"] and not header["epoch"]["previous_complete"]
    ]
    if not places:
        return False
    prover.headers[places[0]]["epoch"]["previous_complete"] = True
    prover.relink(places[0])
    return True


@cheat
def put_the_times_closer(prover: Prover) -> bool:
    """Move a slice earlier, as if no deadline had been missed, or out of the range."""
    if len(prover.headers) < 2:
        return False
    place = prover.random.randrange(1, len(prover.headers))
    before, header = prover.headers[place - 1], prover.headers[place]
    _at(prover, header, parse_time(before["slice_create_time"]) + timedelta(milliseconds=1))
    prover.relink(place)
    return True


@cheat
def put_the_last_time_later(prover: Prover) -> bool:
    """Claim that the last slice was made after the end of the range."""
    header = prover.headers[-1]
    _at(prover, header, parse_time(prover.query["to"]) + timedelta(days=1))
    if prover.random.random() < 0.5:
        prover.forge_last()
    return True


def _at(prover: Prover, header: Json, moment: Any) -> None:
    header["slice_create_time"] = format_time(moment)
    if header["next_by"] is not None:
        silence = prover.stream.declareds[0].declaration.max_silence_s
        header["next_by"] = format_time(moment + timedelta(seconds=silence))


@cheat
def move_a_boundary_of_positions(prover: Prover) -> bool:
    place = prover.random.randrange(len(prover.headers))
    header = prover.headers[place]
    epoch, offset = header["slice_end_position"].split(":")
    header["slice_end_position"] = f"{epoch}:{int(offset) + prover.random.choice([1, 7])}"
    if prover.random.random() < 0.5 and place + 1 < len(prover.headers):
        prover.headers[place + 1]["slice_start_position"] = header["slice_end_position"]
        prover.relink(place)
    return True


# --- question ---------------------------------------------------------------------------------------------------------


@cheat
def say_another_range_was_asked(prover: Prover) -> bool:
    name, days = prover.random.choice([("from", -1), ("to", 1)])
    prover.query[name] = format_time(parse_time(prover.query[name]) + timedelta(days=days))
    return True


@cheat
def say_a_shorter_range_was_asked(prover: Prover) -> bool:
    start, end = (parse_time(prover.query[name]) for name in ("from", "to"))
    name = prover.random.choice(["from", "to"])
    prover.query[name] = format_time(start + (end - start) / 2)
    return True


@cheat
def say_another_op_was_asked(prover: Prover) -> bool:
    prover.query["op"] = "and" if prover.query["op"] == "or" else "or"
    return True


@cheat
def say_fewer_keywords_were_asked(prover: Prover) -> bool:
    if len(prover.query["keywords"]) < 2:
        return False
    prover.query["keywords"].pop(prover.random.randrange(len(prover.query["keywords"])))
    return True


@cheat
def say_another_keyword_was_asked(prover: Prover) -> bool:
    if not prover.query["keywords"]:
        return False
    keywords = prover.stream.declareds[0].keywords
    prover.query["keywords"] = [b64u(prover.random.choice(keywords))]
    return True


@cheat
def say_another_value_was_asked(prover: Prover) -> bool:
    if prover.query["value"] is None:
        return False
    prover.query["value"]["v"] = b64u(prover.random.choice([b"11", b"12", b"22"]))
    return True


# --- rules --------------------------------------------------------------------------------------------------------------


def _value_row(prover: Prover, *, present: bool) -> Json | None:
    return prover.pick([row for row in prover.rows[RULES] if "number" in row and (row["entry"] is not None) is present])


@cheat
def call_a_value_absent(prover: Prover) -> bool:
    row = _value_row(prover, present=True)
    if row is None:
        return False
    row["entry"] = None
    if prover.random.random() < 0.7:
        row["slot"] = None
    shown = prover.row(LINES, row["number"])
    if shown is not None:
        prover.rows[LINES].remove(shown)
    return True


@cheat
def answer_with_the_row_of_another_slice(prover: Prover) -> bool:
    rows = [row for row in prover.rows[RULES] if "number" in row]
    if len(rows) < 2:
        return False
    one, two = prover.random.sample(rows, 2)
    for name in ("entry", "path", "slot"):
        one[name] = two[name]
    shown = prover.row(LINES, one["number"])
    if one["entry"] is None and shown is not None:
        prover.rows[LINES].remove(shown)
    return True


@cheat
def lower_n_of_a_value(prover: Prover) -> bool:
    row = _value_row(prover, present=True)
    if row is None:
        return False
    value = json.loads(row["entry"])
    value[4] = value[4][1:]
    value[3] = sum(n for _, n in value[4])
    row["entry"] = canonical(value).decode()
    shown = prover.row(LINES, row["number"])
    if shown is not None and value[4]:
        prover.show(shown, row["number"], [line for line, _ in value[4]])
    elif shown is not None:
        prover.rows[LINES].remove(shown)
    return True


@cheat
def shorten_the_way_to_a_value(prover: Prover) -> bool:
    row = prover.pick([row for row in prover.rows[RULES] if row.get("path")])
    if row is None:
        return False
    row["path"] = row["path"][1:]
    return True


# --- evidence -----------------------------------------------------------------------------------------------------------


@cheat
def show_the_evidence_of_another_slice(prover: Prover) -> bool:
    prover.evidence_of(prover.random.randrange(len(prover.stream.held)))
    return True


@cheat
def leave_other_evidence_out(prover: Prover) -> bool:
    """Only the last header's evidence is shown: declarations and earlier slices are not."""
    kept = {name: data for name, data in prover.other.items() if not name.startswith("evidence/") or "/0/" in name}
    changed = len(kept) < len(prover.other)
    prover.other = kept
    return changed
