"""The offline verifier: bundle, trust file and originals in, a report out.

A pure function: no clock, no network, no settings. Whatever the bytes are, it returns a report; it
raises nothing, and its time and memory are bounded by limits checked before the work is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evidence.checks import algorithms, anchors, content, links, log, stream, submitter, times
from evidence.checks.case import Case, read
from evidence.checks.content import OriginalDigest, original
from evidence.checks.erasure import judge_tombstones, read_tombstones
from evidence.checks.independence import check_third_parties, independence
from evidence.checks.judge import Judge
from models.bundle import Bundle, unpack
from models.checkpoint import SANDBOX_PREFIX
from models.digest import Pair, pair
from models.errors import EvidenceError, Unknown
from models.report import AUTHENTICITY, Independence, Report, Step, Verdict, verdict_of
from models.trust import TrustRoots

__all__ = ["OriginalDigest", "verify"]

MAX_HASHED_BYTES = 512 << 20


def verify(
    bundle: bytes, trust: bytes | TrustRoots, originals: Sequence[bytes | OriginalDigest] = (), *, named: bool = True
) -> Report:
    """What `bundle` proves under `trust`, and whether `originals` are what it speaks of.

    `named`: whether the report names the bundle by its digests. Who judges what he has just made needs none.

    Shapes: bundle ≤ 1 GiB; trust as the bytes of a trust file or parsed; originals as bytes, or as
        digests where they are too large to hold.
    Raises: nothing: malformed input gives a report whose verdict is None.
    Source: formats §4 (checks 1–21), §6.4, §11; T/SAC 004—2024 6.4.6.
    """
    try:
        roots = trust if isinstance(trust, TrustRoots) else TrustRoots.parse(trust)
    except EvidenceError as error:
        return Report(None, malformed=f"trust file: {error.message}")
    judge = Judge()
    try:
        unpacked = unpack(bundle)
    except Unknown as error:
        judge.undecided(2, error.message)
        return _report(judge, "", _digests(bundle) if named else None, roots, None)
    except EvidenceError as error:
        return Report(None, malformed=f"bundle: {error.message}")
    judge.passed(1, f"one canonical encoding of {len(unpacked.files)} files")
    judge.not_checked.add(AUTHENTICITY)
    judge.answers = unpacked.kind == "answer"
    case = _run(unpacked, roots, judge, [original(one) if isinstance(one, bytes) else one for one in originals])
    return _report(judge, unpacked.kind, _digests(bundle) if named else None, roots, case)


def _digests(bundle: bytes) -> Pair | None:
    """The digests of the container; none of one so large that hashing it again would break the bound on time."""
    return pair(bundle) if len(bundle) <= MAX_HASHED_BYTES else None


def _run(bundle: Bundle, trust: TrustRoots, judge: Judge, originals: Sequence[OriginalDigest]) -> Case:
    """All checks in an order in which each finds what it needs; every one runs, whatever the others said."""
    case = read(bundle, trust, judge)
    read_tombstones(case)
    for item in case.items:
        judge.passed(3, f"{item.evidence.evidence_id}")
    content.check_contents(case, originals)
    links.check_links(case)
    anchors.check_anchors(case)
    for item in case.items:
        log.check_inclusion(case, item)
    log.check_history(case)
    log.check_lines(case)
    anchors.check_records(case)
    anchors.check_count(case)
    log.check_windows(case)
    judge_tombstones(case)
    times.bound(case)
    times.check_order_of_times(case)
    times.check_witnesses(case)
    times.check_interval(case)
    times.check_timestamps(case)
    submitter.check_submitters(case)
    algorithms.check_algorithms(case)
    if bundle.kind == "answer":
        stream.check_stream(case)
    if judge.verdict(2) is None:
        judge.passed(2, "all formats, versions and algorithms are known")
    return case


def _report(judge: Judge, kind: str, bundle: Pair | None, trust: TrustRoots, case: Case | None) -> Report:
    items = case.items if case is not None else []
    not_after = _all([item.not_after for item in items], latest=True)
    not_before = _all([item.not_before for item in items], latest=False)
    if trust.refresh_by is not None and not_after is not None and trust.refresh_by <= not_after:
        judge.findings.add("trust file was to be refreshed before this was anchored: it is stale")
    found = Independence()
    if case is not None:
        found = independence(case)
        check_third_parties(case, found)
    steps: tuple[Step, ...] = judge.steps()
    if kind == "answer" and verdict_of(steps) is Verdict.VALID:
        # Not before: an answer complete in itself proves nothing where its slices stand on no log or chain.
        judge.findings.add(stream.COMPLETE)
    sandbox = any(item.evidence.statement.log.startswith(SANDBOX_PREFIX) for item in items)
    return Report(
        verdict_of(steps),
        steps=steps,
        kind=kind,
        question=None if case is None else case.question,
        bundle=bundle,
        trust=trust.pair,
        not_before=not_before,
        not_after=not_after,
        environment="sandbox" if sandbox else "production" if items else "",
        evidence=tuple(str(item.evidence.evidence_id) for item in items),
        relied_on=tuple(judge.relied_on),
        not_checked=tuple(judge.not_checked),
        findings=tuple(judge.findings),
        independence=found,
    )


def _all(moments: Sequence[datetime | None], *, latest: bool) -> datetime | None:
    """The bound that holds for every item: the latest not-after, the earliest not-before; None if one is unknown."""
    known = [moment for moment in moments if moment is not None]
    if not known or len(known) != len(moments):
        return None
    return max(known) if latest else min(known)
