"""A prover who cheats by structure: each cheat changes what an answer says and makes every layer above it again, honestly.

He holds all that the platform holds: secrets, records, the collector's key. What he cannot change is
what was anchored. So each cheat ends where a digest in an anchored evidence stands in its way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from stream_world import STREAM, Stream, secret_of

from models.answer import DECLARATIONS, INDEX, KEYWORDS, LINES, QUERY, RULES, SLICES
from models.bundle import pack
from models.canonical import b64, canonical
from models.counting import Counted
from models.digest import pair
from models.errors import EvidenceError
from models.merkle import leaf_hashes, subset_path
from models.record import Buffer, Record
from models.slice import SliceHeader, commit_slice, line_leaves

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
