"""Checks 10 to 13: the item's place in the log, the log's signatures, its one history, its twin.

Each tree is judged alone; the sizes and texts of checkpoints tie them to the anchors.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

from evidence.checks.case import INCLUSION, SIGNED, TREES, Case, Item, Shown, later
from models.checkpoint import ED25519_TYPE, Note, SignatureLine, verify_cosignature, verify_line
from models.digest import Algorithm
from models.errors import Undecided, VerificationError
from models.merkle import leaf_hash, verify_consistency, verify_inclusion
from models.report import Party
from models.trust import LogKey, LogTrust


def check_inclusion(case: Case, item: Item) -> None:
    """Checks 10 and 13: entry, leaf, inclusion in the item's own log, in the smallest checkpoint shown that exceeds its index."""
    for tree in TREES:
        proof = item.proofs.get(tree)
        if proof is None:
            _absent(case, item, tree)
            continue
        with case.judge.trying(INCLUSION[tree], item.name):
            head = proof.note.checkpoint()
            expected = item.evidence.statement.log + ("/sha256" if tree is Algorithm.SHA256 else "")
            if head.origin != expected:
                raise VerificationError("proof stands in a checkpoint of another log than the statement names")
            leaf = leaf_hash(item.evidence.entry, algorithm=tree)
            verify_inclusion(leaf, proof.index, head.size, proof.path, head.root, algorithm=tree)
            main = item.proofs.get(Algorithm.SM3)
            if tree is Algorithm.SHA256 and main is not None:
                if proof.index != main.index or head.size != main.note.checkpoint().size:
                    raise VerificationError("twin proof has another index or size than the proof over SM3")
            else:
                _check_smallest(case, proof.index, head.size, tree)
            item.proven[tree] = head
            case.judge.passed(INCLUSION[tree], f"entry stands at {proof.index} of {head.size} ({item.name})")


def _check_smallest(case: Case, index: int, size: int, tree: Algorithm) -> None:
    sizes = [shown.checkpoint.size for shown in case.by_size(tree) if shown.checkpoint.size > index]
    if sizes and min(sizes) != size:
        raise VerificationError(f"proof is not in the smallest checkpoint above its index: expected {min(sizes)}, got {size}")


def _absent(case: Case, item: Item, tree: Algorithm) -> None:
    if tree is Algorithm.SM3:
        if f"{item.name}/sm3.tlog-proof" not in case.files:
            case.judge.undecided(10, f"inclusion proof is absent ({item.name})")
    elif f"{item.name}/sha256.tlog-proof" not in case.files:
        if case.trust.policy.twin == "required":
            case.judge.undecided(13, f"twin proof is absent and the policy requires it ({item.name})")
        else:
            case.judge.not_checked.add(f"SHA-256 twin of {item.name}: no proof is shown")


def check_lines(case: Case) -> None:
    """Checks 11, 13 and 18, first half: every line of a known key verifies; the others are listed."""
    witnesses = {(key.name, key.key_id): (name, key) for name, key in case.trust.policy.witnesses.witnesses}
    for tree in TREES:
        for shown in case.shown[tree].values():
            log = case.log_of(tree, shown.checkpoint.origin)
            keys = {(entry.key.name, entry.key.key_id): entry for entry in log.keys} if log is not None else {}
            for line in shown.lines.values():
                mark = (line.name, line.key_id)
                if mark in keys:
                    _judge_log_line(case, tree, shown, line, keys[mark])
                elif mark not in witnesses:
                    case.judge.not_checked.add(f"signature line of {line.name} key {line.key_id.hex()}: unknown key")


def _judge_log_line(case: Case, tree: Algorithm, shown: Shown, line: SignatureLine, entry: LogKey) -> None:
    with case.judge.trying(SIGNED[tree], f"checkpoint of size {shown.checkpoint.size}"):
        case.judge.spend_signatures()
        if entry.key.type == ED25519_TYPE:
            verify_line(shown.checkpoint.text(), line, entry.key)
        else:
            verify_cosignature(shown.checkpoint.text(), line, entry.key)
            shown.good.append((line, entry.organisation))


def _block_time(case: Case, size: int) -> tuple[datetime, int] | None:
    """The least counted block_time among anchors of that size or larger, with its allowance (formats §11, check 11)."""
    times = [
        (anchor.facts.block_time, anchor.facts.not_later_than_error_s)
        for anchor in case.anchors
        if anchor.counted and anchor.facts is not None and anchor.size >= size
    ]
    return min(times, default=None)


def check_windows(case: Case) -> None:
    """Checks 11 and 13, second half: each checkpoint relied on has a good line whose key's window holds the chain's time."""
    judge = case.judge
    for tree in TREES:
        origin = case.tree_origin(tree)
        if origin is None:
            continue
        log = case.log_of(tree, origin)
        relied = _relied_sizes(case, tree)
        for shown in case.by_size(tree):
            size = shown.checkpoint.size
            if size not in relied:
                judge.not_checked.add(f"signature of the {tree.value} checkpoint of size {size}: nothing relied on stands in it")
                continue
            if shown.good or not _names_a_key(shown, log):  # else its bad line was said already
                with judge.trying(SIGNED[tree]):
                    _check_window(case, tree, shown, log)


def _names_a_key(shown: Shown, log: LogTrust | None) -> bool:
    keys = (entry.key for entry in log.keys if entry.key.type != ED25519_TYPE) if log is not None else ()
    marks = {(key.name, key.key_id) for key in keys}
    return any((line.name, line.key_id) in marks for line in shown.lines.values())


def _relied_sizes(case: Case, tree: Algorithm) -> set[int]:
    found = {head.size for item in case.items if (head := item.proven.get(tree)) is not None}
    if tree is Algorithm.SM3:
        found |= {tombstone.head.size for tombstone in case.tombstones}
    if tree is Algorithm.SM3 or found:
        found |= {anchor.size for anchor in case.anchors if anchor.counted}
    return found


def _check_window(case: Case, tree: Algorithm, shown: Shown, log: LogTrust | None) -> None:
    judge, size = case.judge, shown.checkpoint.size
    required = tree is Algorithm.SM3 or case.trust.policy.twin == "required"
    doubt = None
    if log is None:
        doubt = f"log is unknown to the trust file: {shown.checkpoint.origin}"
    elif not shown.good:
        doubt = f"checkpoint of size {size} of the {tree.value} tree has no line under a key that the trust file knows"
    else:
        block = _block_time(case, size)
        windows = {entry.key.key_id: entry.window for entry in log.keys}
        if block is None:
            judge.not_checked.add(f"window of the {tree.value} log's key at size {size}: no counted anchor is as large")
            holding = shown.good
        else:
            times = (block[0], later(block[0], block[1]))
            holding = [(line, who) for line, who in shown.good if all(windows[line.key_id].holds(time) for time in times)]
        if not holding:
            doubt = f"no window of a key that signed the checkpoint of size {size} holds the block's time"
        if holding:
            case.trusted[tree].add(shown.checkpoint.text())
        for line, who in holding:
            judge.relied_on.add(f"log key {line.name} {line.key_id.hex()} ({who})")
            judge.parties[Party(who, f"log {line.name}")] = None
    if doubt is None:
        judge.passed(SIGNED[tree], f"checkpoint of size {size} is signed by a trusted key of its log")
    elif required:
        raise Undecided(doubt)
    else:
        judge.not_checked.add(f"SHA-256 twin: {doubt}")


def check_history(case: Case) -> None:
    """Check 12: all checkpoints shown of one tree are one history, joined by consistency proofs between neighbours."""
    for tree in TREES:
        ladder = case.by_size(tree)
        for first, second in pairwise(ladder):
            if first.checkpoint.size == second.checkpoint.size:
                case.judge.refused(12, f"fork: two roots of the {tree.value} tree at size {first.checkpoint.size}")
        steps = {(first.checkpoint.size, second.checkpoint.size): (first, second) for first, second in pairwise(ladder)}
        steps = {sizes: pair for sizes, pair in steps.items() if sizes[0] < sizes[1]}
        _check_consistency_files(case, tree, steps)
        _check_gaps(case, tree, steps)
        if len(ladder) == 1 and tree is Algorithm.SM3:
            case.judge.passed(12, f"one checkpoint is shown, of size {ladder[0].checkpoint.size}")


def _check_consistency_files(case: Case, tree: Algorithm, steps: dict[tuple[int, int], tuple[Shown, Shown]]) -> None:
    for (kind, old, new), proof in case.consistency.items():
        if kind is not tree:
            continue
        name = f"log/{tree.value}/{old}-{new}.consistency"
        with case.judge.trying(12, name):
            head = proof.note.checkpoint()
            joined = steps.get((old, new))
            if joined is None:
                if case.whole:
                    raise VerificationError("consistency file joins no two neighbouring checkpoints shown")
                continue
            first, second = joined
            if head != second.checkpoint:
                raise VerificationError("consistency file holds another checkpoint than the one shown: fork, or another log")
            for line in proof.note.lines:
                second.lines.setdefault(line.text, line)
            verify_consistency(old, new, proof.path, first.checkpoint.root, head.root, algorithm=tree)
            case.judge.passed(12, f"{tree.value} tree of size {new} continues that of size {old}")


def _check_gaps(case: Case, tree: Algorithm, steps: dict[tuple[int, int], tuple[Shown, Shown]]) -> None:
    for old, new in steps:
        name = f"log/{tree.value}/{old}-{new}.consistency"
        if name in case.files:
            continue
        sentence = f"consistency proof from {old} to {new} of the {tree.value} tree is absent"
        origin = case.tree_origin(Algorithm.SHA256)
        twin_shown = any(Algorithm.SHA256 in item.proofs for item in case.items)
        twin_known = origin is not None and case.log_of(Algorithm.SHA256, origin) is not None
        if tree is Algorithm.SM3 or case.trust.policy.twin == "required" or (twin_shown and twin_known):
            case.judge.undecided(12, sentence)
        else:
            case.judge.not_checked.add(sentence)


def notes_over(case: Case, text: str) -> Iterator[tuple[str, Note]]:
    """Each note of a proof or consistency file over that checkpoint text, with the name of its file."""
    for item in case.items:
        for tree, proof in item.proofs.items():
            if proof.note.text == text:
                yield f"{item.name}/{tree.value}.tlog-proof", proof.note
    for (kind, old, new), consistency in case.consistency.items():
        if consistency.note.text == text:
            yield f"log/{kind.value}/{old}-{new}.consistency", consistency.note
