"""Recounting (formats §5.7): slices and index derived again from the archived records, and the result attested.

The definition counts here, not the fast automaton of collection: two ways must agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from sqlalchemy import Connection

from evidence.access import Caller, Role
from evidence.errors import NotFound
from evidence.log import Log
from evidence.stream_shelf import Shelf, StreamHoldings, shows_lines
from evidence.stream_store import StreamRow, put_note
from evidence.times import range_end
from models.canonical import JSONValue, format_time
from models.errors import EvidenceError, Invalid, Malformed, Problem, VerificationError
from models.extraction import trie_of
from models.leaf import index_leaf
from models.levels import levels_of
from models.merkle import leaf_hashes
from models.recount import recount_note, recount_slice
from models.salting import INDEX_SALT, salts, slice_flat_salt, slice_key
from models.signature import Signer
from models.slice import Kind, SliceHeader, evidence_pair
from models.validation import unknown_members

_MEMBERS = {"from", "to", "submitter"}


class Recounting:
    """Derives slices again, and signs what agrees. `name` is that of the recounter in trust files."""

    def __init__(self, *, shelf: Shelf, log: Log, signer: Signer, name: str, clock: Callable[[], datetime]) -> None:
        self._shelf, self._log, self._signer, self._name, self._clock = shelf, log, signer, name, clock
        # A year of slices takes hours: whoever asks for that keeps one thread busy, and not all that the service has.
        self._turn = asyncio.Lock()

    async def recount(self, stream_id: str, body: JSONValue, caller: Caller) -> dict[str, JSONValue]:
        """Every slice of the range derived again; notes over those that agree stand in later answers.

        Raises: Invalid, NotFound, Ambiguous, Forbidden.
        Source: formats §5.7; T/SAC 004—2024 C.4-b.
        """
        caller.require(Role.BUSINESS, Role.COURT)
        start, end, submitter = _read(body)
        row = await asyncio.to_thread(self._shelf.find, stream_id, caller, submitter)
        if not shows_lines(caller, row.subject):
            raise NotFound("no stream has that id")
        async with self._turn:
            value, notes = await asyncio.to_thread(self._recount, row, start, end)

        def keep(connection: Connection) -> None:
            for first, last, note in notes:
                put_note(connection, row.id, first, last, note)

        await self._log.write(keep)
        return value

    def _recount(
        self, row: StreamRow, start: datetime | None, end: datetime | None
    ) -> tuple[dict[str, JSONValue], list[tuple[int, int, bytes]]]:
        newest = self._shelf.newest(row)
        if newest is None:
            raise NotFound("stream has no slice yet, so there is nothing to recount")
        holdings = StreamHoldings(self._shelf, row, last=newest.number, proven_at=lambda _: None)
        found = _Found()
        made = []
        for (_, digest), run in groupby(_derived(holdings, start, end, found), lambda one: (one[0], one[1].declaration.sm3)):
            note = recount_note(holdings.declared(digest).declaration, (header for _, header in run))
            made.append((note.first, note.last, note.sign(self._signer, name=self._name).encode()))
        last, count = found.last, found.slices
        covered = end is None or (last is not None and (last.created_at >= end or last.kind == Kind.END))
        value: dict[str, JSONValue] = {
            "stream_id": row.stream_id,
            "submitter": row.submitter,
            "lines_total": found.lines,
            "slices": count,
            "range": {
                "from": None if start is None else format_time(start),
                "to": None if end is None else format_time(end),
                "first": None if last is None else last.number - count + 1,
                "last": None if last is None else last.number,
            },
            "complete": bool(count) and covered and not found.failed,
            "failed": list(found.failed),
            "recounter": self._name,
            "notes": [note.decode() for _, _, note in made],
        }
        return value, made


@dataclass(slots=True)
class _Found:
    """What was met while slices were derived again."""

    lines: int = 0
    slices: int = 0
    last: SliceHeader | None = None
    failed: list[JSONValue] = field(default_factory=list)


def _derived(
    holdings: StreamHoldings, start: datetime | None, end: datetime | None, found: _Found
) -> Iterator[tuple[int, SliceHeader]]:
    """The headers of a range that are derived again, each with how many were not before it; a page of them is held at a time."""
    for header in holdings.headers(0 if start is None else holdings.first_shown(start)):
        if start is not None and header.created_at < start:
            continue
        found.lines, found.slices, found.last = found.lines + header.lines, found.slices + 1, header
        try:
            derive_again(header, holdings)
        except EvidenceError as error:
            found.failed.append({"slice_id": header.slice_id, "problem": error.message})
        else:
            yield len(found.failed), header
        if end is not None and header.created_at >= end:
            break


def check_counts(header: SliceHeader, holdings: StreamHoldings) -> None:
    """The counts that questions are answered from give the index and the rules that the header states.

    Raises: VerificationError otherwise.
    """
    if not header.lines:
        return
    declared, number = holdings.declared(header.declaration.sm3), header.number
    declaration, secret, counts = declared.declaration, holdings.secret(number), holdings.counts(number)
    drawn = salts(slice_key(secret, "cz-index/1", header.stream_id, number), len(counts.index))
    leaves = [index_leaf(fresh, entry) for fresh, entry in zip(drawn, counts.index, strict=True)]
    flat_salt = slice_flat_salt(secret, header.stream_id, number, INDEX_SALT)
    if evidence_pair(leaves, flat_salt, declaration.index) != header.index:
        raise VerificationError(f"stored counts do not give the index of the header ({header.slice_id})")
    kept = holdings.index_levels(number)
    if kept is not None and kept != levels_of(leaf_hashes(leaves)):
        raise VerificationError(f"stored hashes are not those of the index ({header.slice_id})")
    for entry, values, (name, stated) in zip(declaration.rules, counts.values, header.rules or (), strict=True):
        keys = declaration.cells(entry.rule, secret=declared.secret).keys
        trie = trie_of(values, entry.rule, keys, secret=secret, stream_id=header.stream_id, number=number)
        if trie.root != stated.sm3:
            raise VerificationError(f"stored values do not give the rule {name} of the header ({header.slice_id})")


def derive_again(header: SliceHeader, holdings: StreamHoldings) -> None:
    """The archived records give content, index, rules and positions of the header, counted by the definition.

    Raises: VerificationError if they do not; NotFound if they are away; Malformed.
    """
    declared = holdings.declared(header.declaration.sm3)
    declaration = declared.declaration
    if holdings.row(header.number).number != header.number:
        raise Malformed("slice stands under another number than its header states")
    keys = [declaration.cells(entry.rule, secret=declared.secret).keys for entry in declaration.rules]
    recount_slice(
        header,
        holdings.records(header.number),
        declaration,
        declared.keywords,
        secret=holdings.secret(header.number),
        cell_keys=keys,
    )


def _read(body: JSONValue) -> tuple[datetime | None, datetime | None, str | None]:
    given = body if isinstance(body, dict) else {"": body}
    problems = list(unknown_members("", "member", "复核请求", given, sorted(_MEMBERS), "C.4-b", of="a recount"))
    times: list[datetime | None] = []
    for name in ("from", "to"):
        times.append(None)
        if given.get(name) is not None:
            try:
                times[-1] = range_end(given[name], name=name, is_last=name == "to")
            except Malformed as error:
                problems.append(Problem(f"/{name}", name, "复核请求", error.message, "something else", "C.4-b"))
    if times[0] is not None and times[1] is not None and times[0] >= times[1]:
        problems.append(Problem("/from", "from", "复核请求", "a time before to", "an empty or reversed range", "C.4-b"))
    submitter = given.get("submitter")
    if submitter is not None and not isinstance(submitter, str):
        problems.append(Problem("/submitter", "submitter", "复核请求", "the account whose stream it is", "no text", "C.4-b"))
    if problems:
        raise Invalid(f"recount request has {len(problems)} problem{'s' if len(problems) > 1 else ''}", tuple(problems))
    return times[0], times[1], submitter
