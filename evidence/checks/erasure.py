"""Check 21: a tombstone names the item; it is itself evidence, judged by checks 3, 5, 10 and 11."""

from __future__ import annotations

from evidence.checks.case import Case
from models.bundle import MAX_JSON_BYTES, numbers
from models.canonical import members, parse_canonical, unb64
from models.checkpoint import TlogProof
from models.commitment import DisclosedField, verify_disclosure
from models.digest import Algorithm
from models.errors import Malformed, Undecided, VerificationError
from models.evidence import Evidence
from models.merkle import leaf_hash, verify_inclusion
from models.names import check_format
from models.template import builtin, builtin_names

TEMPLATE = "erasure@1"


def read_tombstones(case: Case) -> None:
    """Check 21: each tombstone is a whole proof of its own and names an item of the bundle.

    Source: formats §7.1, §11 (Bundle: erasure/N.json).
    """
    ids = {str(item.evidence.evidence_id) for item in case.items}
    for number in numbers(case.files, "erasure"):
        name = f"erasure/{number}.json"
        with case.judge.trying(21, name):
            value = parse_canonical(case.files[name], max_bytes=MAX_JSON_BYTES, what="tombstone")
            check_format(value, "cz-tombstone")
            disclosure, data, _, proof_text = members(value, "disclosure evidence format proof", "tombstone")
            evidence = Evidence.parse(unb64(data, what="evidence of a tombstone"))
            if not isinstance(proof_text, str):
                raise Malformed("proof of a tombstone is not text")
            _check_inclusion(case, evidence, TlogProof.parse(proof_text, kind=Algorithm.SM3))
            fields = _disclosed(evidence, disclosure)
            named = {field.value for field in fields if field.field == "evidence_id" and isinstance(field.value, str)}
            if not case.whole:
                continue
            if not named & ids:
                raise VerificationError("tombstone names another evidence than the bundle shows")
            for item in case.items:
                item.erased = item.erased or str(item.evidence.evidence_id) in named
            case.judge.findings.add(f"contents were erased: a tombstone is shown ({name})")
            case.judge.passed(21, "tombstone names an evidence of the bundle")


def _check_inclusion(case: Case, evidence: Evidence, proof: TlogProof) -> None:
    head = case.show(Algorithm.SM3, proof.note)
    if evidence.statement.log != head.origin or (case.origin is not None and head.origin != case.origin):
        raise VerificationError("tombstone stands in another log than the evidence")
    verify_inclusion(leaf_hash(evidence.entry), proof.index, head.size, proof.path, head.root)


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
