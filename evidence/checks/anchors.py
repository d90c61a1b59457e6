"""Checks 14 to 16: what was put on chains, the receipts for it, and how many chains count."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from evidence.checks.case import TREES, Case, Item, ShownAnchor, at, later, reading
from evidence.checks.content import template_of
from evidence.checks.engines import verify_receipt
from evidence.checks.log import notes_over
from models.anchor import ChainReceipt, Payload, Record, item_record
from models.bundle import numbers
from models.canonical import BEIJING, JSONValue, beijing_seconds, format_time
from models.checkpoint import Note
from models.commitment import verify_stage_data
from models.digest import Algorithm
from models.errors import Malformed, Undecided, VerificationError
from models.report import Party
from models.trust import ChainTrust


def check_anchors(case: Case) -> None:
    """Checks 14 and 15 of every anchor by itself, and of their order and use.

    One anchor is read at a time, its receipt before its payload: each can be megabytes.
    """
    per_chain: Counter[str] = Counter()
    for number in numbers(case.files, "anchors"):
        anchor = ShownAnchor(number)
        case.anchors.append(anchor)
        _read_receipt(case, anchor, per_chain)
        _read_payload(case, anchor)
        _check_payload(case, anchor)
    _check_order(case)
    _check_use(case)


def _read_receipt(case: Case, anchor: ShownAnchor, per_chain: Counter[str]) -> None:
    with reading(case, 15, anchor.name):
        receipt = ChainReceipt.parse(case.files[f"{anchor.name}/receipt.json"])
        anchor.receipt = replace(receipt, proof=None, data=b"")
        anchor.chain = case.trust.chain(receipt.chain)
        per_chain[receipt.chain] += 1
        if per_chain[receipt.chain] <= max(1, len(case.items) + len(case.tombstones)):
            _check_receipt(case, anchor, receipt)
            return
        case.judge.refused(14, f"more anchors of one chain than evidence are shown ({anchor.name})")
    anchor.holds = False


def _read_payload(case: Case, anchor: ShownAnchor) -> None:
    wanted = {item.evidence.package_hash for item in case.items}
    with reading(case, 14, anchor.name) as attempt:
        payload = Payload.parse(case.files[f"{anchor.name}/payload.json"])
        for tree, text in ((Algorithm.SM3, payload.checkpoint), (Algorithm.SHA256, payload.twin)):
            note = Note.parse(text)
            case.show(tree, note)
            anchor.notes[tree] = note
        first, *others = payload.records
        kept = (first, *(record for record in others if record.package_hash in wanted))
        anchor.payload = replace(payload, records=kept, data=b"", checkpoint="", twin="")
    anchor.holds = anchor.holds and attempt.holds


def _check_receipt(case: Case, anchor: ShownAnchor, receipt: ChainReceipt) -> None:
    judge, chain = case.judge, anchor.chain
    if chain is None:
        judge.not_checked.add(f"receipt of chain {receipt.chain}: unknown to the trust file ({anchor.name})")
        return
    with judge.trying(15, anchor.name, unknown=15) as attempt:
        epoch = chain.epoch(receipt.height)
        judge.spend_signatures(1 + (len(epoch.validators) if epoch is not None else 0))
        facts = verify_receipt(receipt, chain)
        if facts.key != receipt.key or facts.block_time != receipt.block_time:
            raise VerificationError("receipt states another key or block_time than its proof establishes")
        facts.check_payload(case.files[f"{anchor.name}/payload.json"])
        anchor.facts = replace(facts, payload=b"")
        for relied in facts.relied_on:
            judge.relied_on.add(f"node {relied.key[:16]} of chain {chain.id} ({relied.organisation})")
            judge.parties[Party(relied.organisation, f"chain {chain.id}")] = None
        judge.not_checked.update_all(f"{sentence} (chain {chain.id})" for sentence in facts.not_checked)
        judge.passed(15, f"chain {chain.id} holds it since {format_time(receipt.block_time)} ({anchor.name})")
    anchor.holds = anchor.holds and attempt.holds


def _check_payload(case: Case, anchor: ShownAnchor) -> None:
    payload, receipt = anchor.payload, anchor.receipt
    if payload is None:
        return
    with case.judge.trying(14, anchor.name) as attempt:
        if receipt is not None and receipt.chain != payload.chain:
            raise VerificationError("payload and receipt are of different chains")
        if receipt is not None and receipt.key != payload.key:
            raise VerificationError("key of the receipt is not that of the payload's chain, log and start of range")
        for tree in TREES:
            _check_note(anchor.notes[tree], payload, tree)
            _check_lines_shown(case, anchor.notes[tree])
        _check_times(case, anchor, payload)
        if anchor.chain is not None and payload.start < anchor.chain.first:
            raise Undecided("range begins before the first anchor that the trust file names for the chain")
    anchor.holds = anchor.holds and attempt.holds


def _check_note(note: Note, payload: Payload, tree: Algorithm) -> None:
    origin = payload.head.origin if tree is Algorithm.SM3 else payload.twin_head.origin
    if any(line.name != origin for line in note.lines):
        raise VerificationError("note in the payload holds a line that is not the log's own")
    ids = [line.key_id for line in note.lines]
    if ids != sorted(set(ids)):
        raise VerificationError("lines of a note in the payload do not ascend by key id, one a key")


def _check_lines_shown(case: Case, note: Note) -> None:
    own = {line.text for line in note.lines}
    for name, shown in notes_over(case, note.text):
        if not own <= {line.text for line in shown.lines}:
            raise VerificationError(f"note of {name} lacks the line that stands in the payload")


def _wall_time(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) - BEIJING
    except (ValueError, OverflowError) as error:
        raise Malformed("time in an on-chain record names no time that exists") from error


def _check_times(case: Case, anchor: ShownAnchor, payload: Payload) -> None:
    """T0's times: made of the least T of the lines in P; not later than the block, with the allowance of the policy."""
    signed = min(line.time for line in anchor.notes[Algorithm.SM3].lines)
    if payload.records[0].create_time != beijing_seconds(at(signed)):
        raise VerificationError("CreateTime of the checkpoint's record is not the T of the note's line")
    uploaded = _wall_time(payload.upload_time)
    if anchor.facts is not None and uploaded > later(anchor.facts.block_time, case.trust.policy.skew_s):
        raise VerificationError("UploadTime is later than the block that holds it")


def _check_order(case: Case) -> None:
    keys = [(anchor.payload.chain, anchor.payload.start) for anchor in case.anchors if anchor.payload is not None]
    if keys != sorted(set(keys)):
        case.judge.refused(14, "anchors are not sorted by chain and start, each once")


def _check_use(case: Case) -> None:
    """Every anchor is referred to: its range holds an item, or it is the only one of its chain and large enough.

    Source: formats §11 (Anchors; Which check says so).
    """
    if not case.whole or not case.items or len(list(case.items_with_index())) != len(case.items):
        return
    indices = case.indices()
    for anchor in case.anchors:
        payload = anchor.payload
        if payload is None:
            continue
        alone = sum(other.payload is not None and other.payload.chain == payload.chain for other in case.anchors) == 1
        used = any(anchor.range_holds(index) for index in indices) or (alone and anchor.size > min(indices))
        if not used or payload.head.origin != case.origin:
            case.judge.refused(14, f"anchor is one that nothing in the bundle refers to ({anchor.name})")
    for index in indices:
        chains = [anchor.payload.chain for anchor in case.anchors if anchor.payload is not None and anchor.range_holds(index)]
        if len(set(chains)) != len(chains):
            case.judge.refused(14, f"two anchors of one chain hold the leaf {index}")


def check_records(case: Case) -> None:
    """Check 14, the item's own record: exactly once in each counted P whose range holds it, in no other; none if MERKLE.

    Source: formats §2.9, §4 check 14, §11 (Check 14, On-chain record).
    """
    for item in case.items:
        index = item.index
        if index is None:
            continue
        merkle = item.evidence.commitment == "merkle"
        held = False
        for anchor in case.anchors:
            if anchor.payload is None or not anchor.counted:
                continue
            record = anchor.payload.record(item.evidence.package_hash)
            inside = anchor.range_holds(index)
            held = held or inside
            with case.judge.trying(14, f"{item.name}, {anchor.name}"):
                if record is None and inside and not merkle:
                    raise VerificationError("record of the item is missing though the range holds it")
                if record is not None and (merkle or not inside):
                    raise VerificationError("record of the item stands in a payload where it has no place")
                if record is not None and item.biz_name is not None:
                    _check_record(case, item, record, anchor.payload)
                    case.judge.passed(14, f"record of {item.name} stands in the payload as recomputed ({anchor.name})")
        if merkle and case.counted(item):
            case.judge.passed(14, f"payload holds the checkpoint that holds {item.name}")
        elif not merkle and not held:
            case.judge.undecided(14, f"no range shown that counts holds the item ({item.name})")


def _check_record(case: Case, item: Item, record: Record, payload: Payload) -> None:
    evidence = item.evidence
    template = template_of(case, item) if evidence.commitment == "plaintext" else None
    stages: list[tuple[str, str, list[str] | None]] = []
    for place, (name, digests) in enumerate(evidence.statement.stages):
        data = None
        if template is not None:
            data = _stage_data(record.value, place)
            verify_stage_data(template, name, digests.sm3, data)
        stages.append((name, digests.sm3.hex(), data))
    expected = item_record(
        biz_name=item.biz_name or "",
        stages=stages,
        created_at=evidence.created_at,
        package_hash=evidence.package_hash,
        upload_time=_wall_time(payload.upload_time),
    )
    if record.value != expected:
        raise VerificationError("record of the item is not what the evidence gives")


def _stage_data(value: JSONValue, place: int) -> list[str]:
    stages = value["transaction_info"]["transaction_detail_info"]["biz_data"]["businessData"]
    found = stages[place].get("StageData") if place < len(stages) else None
    if not isinstance(found, list):
        raise VerificationError("record of a PLAINTEXT item lacks StageData")
    return found


def _wanted(case: Case, index: int) -> list[ChainTrust] | int:
    chains = case.trust.policy.chains
    if chains == "all":
        return [chain for chain in case.trust.chains if chain.first <= index and chain.epochs]
    return chains


def check_count(case: Case) -> None:
    """Check 16: enough chains hold each item; at least one, whatever the policy: all of none would be nothing."""
    for item in case.items:
        with case.judge.trying(16, item.name):
            counted = sorted({anchor.payload.chain for anchor in case.counted(item) if anchor.payload})
            wanted = _wanted(case, item.index or 0)
            needed = max(1, wanted) if isinstance(wanted, int) else 1
            if len(counted) < needed:
                raise Undecided(f"too few chains hold the item: expected {needed}, got {len(counted)}")
            if isinstance(wanted, list) and not wanted:
                raise Undecided("the policy wants all chains, and the trust file names none for the item's place in the log")
            if isinstance(wanted, list) and (lacking := sorted({chain.id for chain in wanted} - set(counted))):
                raise Undecided(f"the policy wants all chains, and this one does not hold the item: {lacking[0]}")
            case.judge.passed(16, f"{len(counted)} chains hold {item.name}: {', '.join(counted)}")


def block_times(case: Case, item: Item) -> list[datetime]:
    """The times of counted blocks that hold `item`, with their chains' allowances."""
    return [anchor.latest for anchor in case.counted(item)]
