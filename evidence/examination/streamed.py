"""Items of streams: their stages commit to a declaration D or a slice header H, kept as the bytes that were hashed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from evidence.examination.damage import Findings, How, Unit
from evidence.examination.kept import as_bytes, plain, raw
from evidence.stream_store import declaration, slice_, stream
from models.declaration import TEMPLATE as DECLARATION_TEMPLATE
from models.declaration import Declaration
from models.digest import Pair
from models.errors import EvidenceError
from models.evidence import Statement
from models.slice import TEMPLATE as SLICE_TEMPLATE
from models.slice import SliceHeader

TEMPLATES = frozenset({DECLARATION_TEMPLATE, SLICE_TEMPLATE})


def check_streamed(connection: Connection, leaf: int, statement: Statement, findings: Findings) -> None:
    """D or H of the item is stored, and gives the very stages that S commits to.

    Source: formats §5.1, §5.4.
    """
    stream_id, _, number = statement.client_key.rpartition("/")
    is_slice = statement.template_name == SLICE_TEMPLATE
    where, kept = f"leaf {leaf} {'slice' if is_slice else 'declaration'}", slice_ if is_slice else declaration
    query = (
        select(*raw(kept))
        .join(stream, stream.c.id == kept.c.stream)
        .where(stream.c.submitter == statement.submitter, stream.c.stream_id == stream_id)
        .where(kept.c.number == _number(number))
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        findings.add(Unit.STREAM, where, How.MISSING, "the row of the item's declaration or slice is absent", leaf=leaf)
        return
    if row.leaf_index != leaf:
        detail = "column leaf_index is not the item's"
        findings.add(Unit.STREAM, f"{where} leaf_index", How.ALTERED, detail, expected=leaf, found=row.leaf_index, leaf=leaf)
    stages = _stages(as_bytes(plain((row.header if is_slice else row.data,))[0]), is_slice=is_slice)
    if stages is None or tuple(stages) != statement.stages:
        found = None if not stages else stages[0][1].sm3
        detail = "the stored declaration or header does not give the committed stages"
        expected = statement.stages[0][1].sm3
        findings.add(Unit.STREAM, where, How.ALTERED, detail, expected=expected, found=found, leaf=leaf)


def _number(text: str) -> int:
    digits = text.removeprefix("d")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 16 else -1


def _stages(data: bytes, *, is_slice: bool) -> Sequence[tuple[str, Pair]] | None:
    try:
        return SliceHeader.parse(data).stages() if is_slice else Declaration.parse(data).stages()
    except (EvidenceError, ValueError):
        return None
