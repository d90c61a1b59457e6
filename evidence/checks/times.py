"""Checks 17 to 19 and the interval: which times are proven, and by whom."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from evidence.checks.anchors import block_times
from evidence.checks.case import TREES, Case, Item, Shown, at, later
from evidence.checks.engines import verify_block
from models.anchor import BlockRef
from models.bundle import MAX_JSON_BYTES, numbers
from models.canonical import JSONValue, format_time, members, parse_canonical
from models.checkpoint import verify_cosignature
from models.digest import Algorithm, digest
from models.errors import Malformed, Undecided, VerificationError
from models.names import check_format
from models.quorum import NONE, WitnessPolicy
from models.report import Party

_ENGINE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)


def check_order_of_times(case: Case) -> None:
    """Check 17: created_at ≤ T of the smallest checkpoint; T of P's note ≤ block_time and allowance; `after` before both."""
    skew = case.trust.policy.skew_s
    for item in case.items:
        with case.judge.trying(17, item.name):
            time = _least_time(case, item)
            if time is None:
                continue
            if item.evidence.created_at > at(time):
                raise VerificationError("created_at is later than T of the checkpoint that holds the item")
            case.judge.passed(17, f"created before the checkpoint that holds it ({item.name})")
    for anchor in case.anchors:
        if anchor.facts is None or anchor.payload is None:
            continue
        shown = case.shown[Algorithm.SM3].get(anchor.payload.head.text)
        with case.judge.trying(17, anchor.name):
            if shown is not None and shown.time is not None and at(shown.time) > later(anchor.facts.block_time, skew):
                raise VerificationError("T of the note in the payload is later than the block that holds it")
    _check_blocks(case)


def _least_time(case: Case, item: Item) -> int | None:
    """T of the smallest checkpoint shown that exceeds the item's index, by its trusted lines."""
    if item.index is None:
        return None
    above = [shown for shown in case.by_size(Algorithm.SM3) if shown.checkpoint.size > item.index]
    return above[0].time if above else None


def _check_blocks(case: Case) -> None:
    """Each block proof is of a block that an `after` names; what it proves bounds the item from below."""
    named: dict[tuple[str, int], list[tuple[Item, BlockRef]]] = {}
    for item in case.items:
        for ref in item.evidence.after:
            named.setdefault((ref.chain, ref.height), []).append((item, ref))
    seen: set[tuple[str, int]] = set()
    for number in numbers(case.files, "blocks"):
        with case.judge.trying(17, f"blocks/{number}.json"):
            value = parse_canonical(case.files[f"blocks/{number}.json"], max_bytes=MAX_JSON_BYTES, what="block proof")
            check_format(value, "cz-block-proof")
            chain_id, engine, _, height, proof = members(value, "chain engine format height proof", "block proof")
            if not isinstance(chain_id, str) or isinstance(height, bool) or not isinstance(height, int):
                raise Malformed("block proof has wrong form: expected a chain id and a height")
            if not isinstance(engine, str) or not _ENGINE.fullmatch(engine):
                raise Malformed("engine of a block proof has wrong form")
            if (chain_id, height) not in named:
                if case.whole and case.bundle.kind != "answer":  # there a slice header may name it
                    raise VerificationError("block proof is of a block that no evidence names")
                continue
            if (chain_id, height) in seen:
                raise VerificationError("block proof stands twice")
            seen.add((chain_id, height))
            for item, ref in named[chain_id, height]:
                _judge_block(case, item, ref, engine, proof)
    if case.bundle.kind != "answer":  # there the blocks of slice headers are still to come
        name_unbounded(case)


def _judge_block(case: Case, item: Item, ref: BlockRef, engine: str, proof: JSONValue) -> None:
    proven = prove_block(case, ref, engine, proof)
    if proven is None:
        return
    if proven.time > later(item.evidence.created_at, case.trust.policy.skew_s):
        raise VerificationError("block that the evidence names is later than created_at")
    case.judge.passed(17, f"block {ref.height} of chain {ref.chain} came before {item.name}")
    if proven.bounds:
        item.stood_after(proven.time)


@dataclass(frozen=True, slots=True)
class ProvenBlock:
    """The header time of a block that the quorum sealed; `bounds` unless one party can choose the chain's hashes."""

    time: datetime
    bounds: bool


def prove_block(case: Case, ref: BlockRef, engine: str, proof: JSONValue) -> ProvenBlock | None:
    """What the proof of a block named by an `after` shows; None, and said so, where the trust file cannot judge it.

    Raises: VerificationError if it is of another block or engine, or contradicts itself or the trust file.
    Source: formats §4 check 17 and not-before, §11 (Bundle: blocks/N.json).
    """
    chain = case.trust.chain(ref.chain)
    if chain is None:
        case.judge.not_checked.add(f"block {ref.height} of chain {ref.chain}: unknown to the trust file")
        return None
    if engine != chain.engine:
        raise VerificationError("block proof is of another engine than the trust file names")
    epoch = chain.epoch(ref.height)
    case.judge.spend_signatures(len(epoch.validators) if epoch is not None else 0)
    try:
        proven = verify_block(proof, ref, chain)
    except Undecided as error:
        case.judge.not_checked.add(f"block {ref.height} of chain {ref.chain}: {error.message}")
        return None
    if proven.hash != ref.hash or proven.time is None:
        raise VerificationError("block proof is of another block than the evidence names")
    if not chain.not_before:
        case.judge.findings.add(f"block {ref.height} of chain {ref.chain} is no lower bound: one party can choose its hashes")
    return ProvenBlock(proven.time, chain.not_before)


def name_unbounded(case: Case) -> None:
    """Each item that no proven block bounds from below is named: its own `after`, or that of the slice it preserves."""
    for item in case.items:
        if item.not_before is None:
            case.judge.findings.add(f"not-before is unproven ({item.name})")


def check_witnesses(case: Case) -> None:
    """Check 18: a quorum of known witnesses has cosigned a checkpoint that holds each item.

    Source: formats §4 check 18; C2SP tlog-policy.
    """
    policy = case.trust.policy.witnesses
    keys = {(key.name, key.key_id): (name, key) for name, key in policy.witnesses}
    good: list[tuple[Algorithm, Shown, str, int]] = []
    for tree in TREES:
        for shown in case.by_size(tree):
            for line in shown.lines.values():
                known = keys.get((line.name, line.key_id))
                if known is None:
                    continue
                with case.judge.trying(18, f"witness {known[0]}"):
                    case.judge.spend_signatures()
                    verify_cosignature(shown.checkpoint.text(), line, known[1])
                    good.append((tree, shown, known[0], line.time))
    for item in case.items:
        by_text: dict[str, list[tuple[int, str]]] = {}
        for tree, shown, name, signed in good:
            if _holds(item, tree, shown):
                by_text.setdefault(shown.checkpoint.text(), []).append((signed, name))
                case.judge.relied_on.add(f"witness {name}")
                case.judge.parties[Party(name, "witness")] = None
        if policy.quorum == NONE:
            continue
        times = [time for cosigned in by_text.values() if (time := _quorum_time(policy, cosigned)) is not None]
        if times:
            earliest = at(min(times))
            item.not_after = earliest if item.not_after is None else min(item.not_after, earliest)
            case.judge.passed(18, f"the witness quorum has cosigned a checkpoint that holds {item.name}")
        else:
            case.judge.undecided(18, f"witness quorum is missing ({item.name})")


def _quorum_time(policy: WitnessPolicy, cosigned: list[tuple[int, str]]) -> int | None:
    """The earliest time by which a whole quorum had cosigned: fewer than it may lie about theirs. None without a quorum."""
    names: set[str] = set()
    for time, name in sorted(cosigned):
        names.add(name)
        if policy.is_satisfied_by(names):
            return time
    return None


def check_interval(case: Case) -> None:
    """Check 17, last: no item is proven to have stood before it was created, but for the allowance of the policy."""
    for item in case.items:
        with case.judge.trying(17, item.name):
            if item.not_after is not None and item.evidence.created_at > later(item.not_after, case.trust.policy.skew_s):
                raise VerificationError("created_at is later than the time by which the item is proven to have stood")


def _holds(item: Item, tree: Algorithm, shown: Shown) -> bool:
    return item.index is not None and tree in item.proven and shown.checkpoint.size > item.index


def check_timestamps(case: Case) -> None:
    """Check 19: time-stamp tokens over notes of payloads. Judging the tokens themselves is not part of this version."""
    tokens = numbers(case.files, "time")
    imprints = [digest(tree, note.data.encode()) for anchor in case.anchors for tree, note in anchor.notes.items()]
    for number in tokens:
        data = case.files[f"time/{number}.tsr"]
        if case.whole and not any(imprint in data for imprint in imprints):
            case.judge.refused(19, f"time-stamp is over no note that stands in a payload (time/{number}.tsr)")
        elif case.trust.timestampers:
            case.judge.undecided(19, f"time-stamps cannot be judged by this version (time/{number}.tsr)")
        else:
            case.judge.not_checked.add(f"time-stamp time/{number}.tsr: its authority is unknown to the trust file")
    wanted = case.trust.policy.timestamps
    if wanted > 0:
        case.judge.undecided(19, f"too few time-stamps: expected {wanted}, got 0 that could be judged")


def bound(case: Case) -> None:
    """The not-after of every item: the earliest counted block, each with the allowance of its chain."""
    for item in case.items:
        times = block_times(case, item)
        item.not_after = min(times, default=item.not_after)
        if times and min(times) > item.evidence.on_chain_by:
            promised = format_time(item.evidence.on_chain_by)
            case.judge.findings.add(f"promise was kept late: expected on chain by {promised} ({item.name})")
