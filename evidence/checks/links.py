"""Check 9: the parts of one transaction chain (链式数据) stand in order, each naming the one before."""

from __future__ import annotations

from itertools import pairwise

from evidence.checks.case import Case, Item
from models.errors import VerificationError


def check_links(case: Case) -> None:
    """Check 9: part numbers, previous, one subject and code, nothing after a closing part.

    Source: formats §2.8, §4 check 9, §11 (Statement, evidence; Bundle).
    """
    if not case.whole or not case.items:
        return
    linked = [item for item in case.items if item.evidence.link is not None]
    if case.bundle.kind != "transaction" and not linked:
        return
    with case.judge.trying(9):
        if len(linked) != len(case.items):
            raise VerificationError("bundle of kind transaction holds an evidence without link")
        for first, second in pairwise(case.items):
            _check_pair(first, second)
        parts = [item.evidence.link.number for item in case.items if item.evidence.link is not None]
        case.judge.passed(9, f"parts {parts[0]} to {parts[-1]} of one link")
        last = case.items[-1].evidence.statement.link
        if last is not None and not last.closes:
            case.judge.not_checked.add("whether the link has later parts: the last part shown does not close it")


def _check_pair(first: Item, second: Item) -> None:
    one, two = first.evidence, second.evidence
    if one.link is None or two.link is None or one.statement.link is None or two.statement.link is None:
        return
    if two.link.number != one.link.number + 1:
        raise VerificationError(f"parts are not contiguous and ascending: {one.link.number} stands before {two.link.number}")
    if two.link.previous != one.pair:
        raise VerificationError(f"part {two.link.number} names another evidence as previous than the part before it")
    if one.statement.link.closes:
        raise VerificationError(f"part {two.link.number} follows a part that closes the link")
    if (one.statement.subject_id, one.statement.link.code) != (two.statement.subject_id, two.statement.link.code):
        raise VerificationError("parts have different subjects or link codes")
    if one.statement.log != two.statement.log:
        raise VerificationError("parts name different logs")
    if two.created_at < one.created_at or (first.index is not None and second.index is not None and first.index >= second.index):
        raise VerificationError(f"created_at or leaf index falls between parts {one.link.number} and {two.link.number}")
