"""Cheats with lines and index: hits dropped, counts lowered, lines altered, keywords hidden."""

from __future__ import annotations

import json

from stream_prover import Prover, cheat
from stream_world import STREAM, secret_of

from models.answer import INDEX, LINES
from models.canonical import b64, canonical, unb64, unb64u
from models.counting import Counted
from models.leaf import index_leaf, line_leaf, open_line
from models.record import Record
from models.salting import CONTENT_SALT, salts, slice_flat_salt, slice_key
from models.slice import evidence_pair

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
