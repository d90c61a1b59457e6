"""Check 21: a tombstone names the item; it is itself evidence, judged by checks 3, 5, 10 and 11.

It is read first, because its checkpoint belongs to the one history; what it says is believed last,
once that checkpoint is found signed by the log and covered by a chain.
"""

from __future__ import annotations

from evidence.checks.case import Case, Tombstone
from models.bundle import MAX_JSON_BYTES, numbers
from models.canonical import members, parse_canonical, unb64
from models.checkpoint import Checkpoint, TlogProof
from models.commitment import DisclosedField, verify_disclosure
from models.digest import Algorithm
from models.errors import Malformed, Undecided, VerificationError
from models.evidence import Evidence
from models.merkle import leaf_hash, verify_inclusion
from models.names import check_format
from models.report import Verdict
from models.template import builtin, builtin_names

TEMPLATE = "erasure@1"
ONE_HISTORY = 12


def read_tombstones(case: Case) -> None:
    """Check 21, what each tombstone holds: evidence, disclosure and inclusion agree (checks 3, 5, 10).

    Source: formats §7.1, §11 (Bundle: erasure/N.json).
    """
    for number in numbers(case.files, "erasure"):
        name = f"erasure/{number}.json"
        with case.judge.trying(21, name):
            value = parse_canonical(case.files[name], max_bytes=MAX_JSON_BYTES, what="tombstone")
            check_format(value, "cz-tombstone")
            disclosure, data, _, proof_text = members(value, "disclosure evidence format proof", "tombstone")
            evidence = Evidence.parse(unb64(data, what="evidence of a tombstone"))
            if not isinstance(proof_text, str):
                raise Malformed("proof of a tombstone is not text")
            proof = TlogProof.parse(proof_text, kind=Algorithm.SM3)
            head = _check_inclusion(case, evidence, proof)
            fields = _disclosed(evidence, disclosure)
            named = frozenset(field.value for field in fields if field.field == "evidence_id" and isinstance(field.value, str))
            case.tombstones.append(Tombstone(name, evidence.statement.submitter, proof.index, head, named))


def judge_tombstones(case: Case) -> None:
    """Check 21, whether each is to be believed: its checkpoint is signed by the log (11) and covered by a counted anchor.

    Whoever appends a leaf of his own to the public tree has a good proof, but no signature of the log's.
    """
    ids = {str(item.evidence.evidence_id) for item in case.items}
    for tombstone in case.tombstones:
        with case.judge.trying(21, tombstone.name):
            if case.whole and not tombstone.named & ids:
                raise VerificationError("tombstone names another evidence than the bundle shows")
            if tombstone.head.text() not in case.trusted[Algorithm.SM3]:
                raise Undecided("checkpoint of the tombstone is not signed by a trusted key of the log")
            for item in case.items:
                item.erased = item.erased or str(item.evidence.evidence_id) in tombstone.named
            if case.judge.verdict(ONE_HISTORY) is not Verdict.VALID:
                raise Undecided("checkpoint of the tombstone is not shown to continue the history of the others")
            if not any(anchor.counted and anchor.size >= tombstone.head.size for anchor in case.anchors):
                raise Undecided("checkpoint of the tombstone is larger than that of any anchor that counts")
            if not case.whole:
                continue
            who = f"submitted by {tombstone.submitter}"
            case.judge.findings.add(f"contents were erased: a tombstone is shown, {who} ({tombstone.name})")
            case.judge.passed(21, "tombstone names an evidence of the bundle")


def _check_inclusion(case: Case, evidence: Evidence, proof: TlogProof) -> Checkpoint:
    head = case.show(Algorithm.SM3, proof.note)
    if evidence.statement.log != head.origin or (case.origin is not None and head.origin != case.origin):
        raise VerificationError("tombstone stands in another log than the evidence")
    verify_inclusion(leaf_hash(evidence.entry), proof.index, head.size, proof.path, head.root)
    return head


def _disclosed(evidence: Evidence, disclosure: object) -> list[DisclosedField]:
    statement = evidence.statement
    if statement.template_name != TEMPLATE:
        raise VerificationError(f"tombstone is evidence of another template: expected {TEMPLATE}")
    if TEMPLATE not in builtin_names():
        raise Undecided(f"template is not built in: {TEMPLATE}")
    template = builtin(TEMPLATE)
    if template.pair != statement.template_pair:
        raise Undecided(f"tombstone was made under another {TEMPLATE} than the built-in one")
    return verify_disclosure(template, statement.stages, disclosure)
