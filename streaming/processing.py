"""What is done to one slice, in one step over one contiguous buffer: salting, hashing, counting, compressing.

The step is a value that the pipeline is given, so that another, as one that does all of it in
native code, takes its place without anything else changing. It is a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from models.declaration import Declaration
from models.errors import Malformed
from models.record import Buffer
from models.recount import counts_bytes
from models.slice import SliceCommitment, commit_slice
from streaming.archive import pack
from streaming.indexer import KeywordIndex, find_values


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What all slices under one declaration have in common, made ready once.

    `keywords` are K, `cell_keys` the cell keys of each rule; both are what the declaration fixes.
    """

    declaration: Declaration
    keywords: tuple[bytes, ...]
    cell_keys: tuple[Sequence[bytes], ...]
    index: KeywordIndex = field(repr=False)

    @classmethod
    def of(cls, declaration: Declaration, keywords: Sequence[bytes], *, secret: bytes) -> Plan:
        """The plan under `declaration`, whose item's secret is `secret`.

        Raises: Malformed if keywords and secret are not the declaration's: its slices would answer no question.
        """
        declaration.keyword_leaves(keywords, secret=secret)
        made = [declaration.cells(declared.rule, secret=secret) for declared in declaration.rules]
        for declared, cells in zip(declaration.rules, made, strict=True):
            if cells.pair != declared.cells:
                raise Malformed(f"cell keys are not the declaration's: its secret gives another root (rule {declared.rule.name})")
        index = KeywordIndex(
            keywords, boundary=declaration.boundary, case=declaration.case, encoding=declaration.encoding
        )
        return cls(declaration, tuple(keywords), tuple(cells.keys for cells in made), index)


@dataclass(frozen=True, slots=True, eq=False)
class Processed:
    """What the bytes of a slice give: its commitments, and what the archive keeps of it (empty without lines)."""

    commitment: SliceCommitment
    packed: bytes = field(repr=False)


class Process(Protocol):
    """The one step. Safe to run from several threads; bounded by the size of a slice."""

    def __call__(self, buffer: Buffer, plan: Plan, *, secret: bytes, number: int) -> Processed:
        """The slice `number` of `plan`'s stream, whose item's secret is `secret`.

        Raises: Malformed if a payload is not of the declared encoding.
        """


def process(buffer: Buffer, plan: Plan, *, secret: bytes, number: int) -> Processed:
    """The step in Python, with hashlib, an automaton and zstd.

    Source: T/SAC 004—2024 C.3, C.4, C.5; formats §5.
    """
    declaration = plan.declaration
    commitment = commit_slice(
        buffer,
        declaration,
        plan.keywords,
        secret=secret,
        number=number,
        cell_keys=plan.cell_keys,
        index=plan.index.count(buffer),
        values=[find_values(buffer, declared.rule, encoding=declaration.encoding) for declared in declaration.rules],
    )
    return Processed(commitment, pack(buffer, bytewise=counts_bytes(declaration)) if commitment.size else b"")
