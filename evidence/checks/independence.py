"""Whose keys a verdict rests on, and who together could have forged it (formats §6.4)."""

from __future__ import annotations

from evidence.checks.case import Case
from models.errors import Undecided
from models.names import TWIN_SUFFIX
from models.report import Independence, Party


def independence(case: Case) -> Independence:
    """Parties relied on, who must collude, and how many of them are not the submitter's.

    Shapes: parties sorted; one sentence for the log and one for each counted chain.
    """
    parties = sorted(case.judge.parties, key=lambda party: (party.role, party.organisation))
    own = {name for item in case.items for name in _own_names(case, item.number)}
    third = {party.organisation for party in parties if _is_third(party)} - own
    logs = [party for party in parties if party.role.startswith("log ") and not party.role.endswith(TWIN_SUFFIX)]
    collude = [f"{party.organisation} ({party.role})" for party in logs]
    for anchor in case.anchors:
        facts = anchor.facts
        if anchor.counted and facts is not None and facts.quorum and anchor.chain is not None:
            names = ", ".join(sorted({validator.organisation for validator in facts.validators}))
            sentence = f"{facts.quorum} of {len(facts.validators)} nodes of chain {anchor.chain.id}: {names}"
            if sentence not in collude:
                collude.append(sentence)
    quorum = case.trust.policy.witnesses.quorum
    if quorum != "none":
        collude.append(f"witness quorum {quorum}")
    return Independence(tuple(parties), tuple(collude), len(third))


def _own_names(case: Case, number: int) -> tuple[str, ...]:
    statement = next(item for item in case.items if item.number == number).evidence.statement
    return statement.submitter, statement.subject_id, statement.subject_name


def _is_third(party: Party) -> bool:
    return party.role.startswith("chain ") or party.role in ("witness", "time-stamp authority")


def check_third_parties(case: Case, found: Independence) -> None:
    """The policy's demand for organisations other than the submitter's; said by check 16, which counts."""
    wanted = case.trust.policy.third_parties
    if wanted == 0:
        return
    with case.judge.trying(16):
        if found.third_parties < wanted:
            raise Undecided(f"too few third parties: expected {wanted}, got {found.third_parties}")
