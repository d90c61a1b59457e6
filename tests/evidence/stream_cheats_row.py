"""Cheats with everything around the lines: declarations, the row of slices, the question, values, evidence."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from stream_prover import Json, Prover, cheat
from stream_world import STREAM, secret_of

from models.answer import DECLARATIONS, INDEX, KEYWORDS, LINES, RULES
from models.canonical import b64u, canonical, format_time, parse_time
from models.digest import pair
from models.salting import CONTENT_SALT, slice_flat_salt
from models.slice import evidence_pair

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
    value[5] = value[5][1:]
    value[4] = sum(n for _, n in value[5])
    row["entry"] = canonical(value).decode()
    shown = prover.row(LINES, row["number"])
    if shown is not None and value[5]:
        prover.show(shown, row["number"], [line for line, _ in value[5]])
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
