"""Check 20: whether the algorithms of some whole path were still believed when the path was made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise

from evidence.checks.case import TREES, Case, Item, ShownAnchor
from models.bundle import numbers
from models.digest import Algorithm
from models.errors import Undecided

SIGNATURE_ALGORITHM = "sm2-sm3"


def check_algorithms(case: Case) -> None:
    """Check 20: at least one path stands, all of whose algorithms were believed at its own not-after.

    Source: formats §4 check 20, §11 (Check 20).
    """
    ends = case.trust.algorithms
    if numbers(case.files, "renewal"):
        case.judge.undecided(20, "renewal records cannot be judged by this version")
    for item in case.items:
        anchors = case.counted(item)
        if not anchors:
            continue
        paths = [tree for tree in TREES if _is_path(case, item, tree)]
        standing = [tree for tree in paths if any(_stands(anchor, tree, ends) for anchor in anchors)]
        with case.judge.trying(20, item.name):
            if not standing:
                raise Undecided("no path is left: an algorithm of each had ended before its not-after, and nothing renewed it")
            if Algorithm.SM3 not in standing:
                _by_twin_only(case, item)
            case.judge.passed(20, f"algorithms were believed at not-after: path over {', '.join(standing)} ({item.name})")


def _is_path(case: Case, item: Item, tree: Algorithm) -> bool:
    """Whether the tree can carry the item: SM3 always (checks 10 to 12 judge it), the twin if proven and signed."""
    if tree is Algorithm.SM3:
        return True
    head = item.proven.get(tree)
    return head is not None and head.text() in case.trusted[tree]


def _stands(anchor: ShownAnchor, tree: Algorithm, ends: Mapping[str, datetime]) -> bool:
    if anchor.facts is None:
        return False
    used = {tree.value, SIGNATURE_ALGORITHM, *anchor.facts.algorithms}
    return all(anchor.latest < ends[name] for name in used if name in ends)


def _by_twin_only(case: Case, item: Item) -> None:
    """SM3 had ended: the disclosure rests on the flat twins, the log on its SHA-256 tree (formats §11, check 20)."""
    if item.partly:
        case.judge.undecided(5, f"SM3 had ended and a stage is disclosed in part: its twin cannot be judged ({item.name})")
    if item.evidence.commitment != "merkle":
        case.judge.undecided(14, f"SM3 had ended: the item's record names it by SM3 alone ({item.name})")
    ladder = case.by_size(Algorithm.SHA256)
    for first, second in pairwise(ladder):
        if (Algorithm.SHA256, first.checkpoint.size, second.checkpoint.size) not in case.consistency:
            case.judge.undecided(12, "SM3 had ended and a consistency proof of the twin is absent")
