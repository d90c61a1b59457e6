"""Check 8: who signed the statement, under which key or certificate, and whether that held at not-after."""

from __future__ import annotations

import re

from evidence.checks.case import Case, Item
from models.certificate import Certificate, RevocationList, verify_path
from models.errors import EvidenceError, Undecided, VerificationError
from models.evidence import Signature
from models.signature import verify
from models.trust import Submitter

MAX_CERTIFICATE_BYTES = 4 << 20
"""Bytes of certificates and revocation lists that one run reads: a list costs ten times its size to hold."""

MAX_PATH_SIGNATURES = 64
_FILE = re.compile(r"certs/[0-9]+\.(cer|crl)", re.ASCII)


class _Shelf:
    """The certificates and lists of the bundle, and those in trust; `used` are the names referred to."""

    def __init__(self, case: Case) -> None:
        self.certificates: dict[str, Certificate] = {}
        self.lists: dict[str, RevocationList] = {}
        self.used: set[str] = set()
        self.readable = True
        self.names = [name for name in case.files if _FILE.fullmatch(name)]
        if sum(len(case.files[name]) for name in self.names) > MAX_CERTIFICATE_BYTES:
            case.judge.undecided(8, f"certificates are too long for one run: expected at most {MAX_CERTIFICATE_BYTES} bytes")
            self.readable = False
            return
        for name in self.names:
            with case.judge.trying(8, name, unknown=8) as attempt:
                if name.endswith(".cer"):
                    self.certificates[name] = Certificate.parse(case.files[name])
                else:
                    self.lists[name] = RevocationList.parse(case.files[name])
            self.readable = self.readable and attempt.holds
            if not attempt.holds:
                self.used.add(name)  # said already

    def refer(self, digest: str) -> Certificate | None:
        """The certificate whose SM3 is `digest`; it, those above it by name and their lists are then referred to."""
        first = next((name for name, cert in self.certificates.items() if cert.digest.value.hex() == digest), None)
        if first is None:
            return None
        waiting = [first]
        while waiting:
            name = waiting.pop()
            if name in self.used:
                continue
            self.used.add(name)
            issuer = self.certificates[name].issuer_der
            waiting += [other for other, cert in self.certificates.items() if cert.subject_der == issuer]
            self.used |= {other for other, crl in self.lists.items() if crl.issuer_der == issuer}
        return self.certificates[first]


def check_submitters(case: Case) -> None:
    """Check 8 of every item, and that each certificate and list shown belongs to one of them.

    Source: formats §4 check 8, §11 (Statement, evidence; Bundle); 6.4.3 a, b, d.
    """
    shelf = _Shelf(case)
    if case.whole and not any(item.evidence.signature and item.evidence.signature.by_certificate for item in case.items):
        for name in shelf.names:
            case.judge.refused(8, f"certificate or revocation list though no evidence is signed by certificate ({name})")
    for item in case.items:
        signature = item.evidence.signature
        if item.evidence.validated_by == "submitter":
            case.judge.findings.add(f"contents were validated by the submitter only, not by the platform ({item.name})")
        if signature is None:
            if case.trust.policy.signature == "required":
                case.judge.undecided(8, f"evidence is unsigned and the policy requires a signature ({item.name})")
            case.judge.findings.add(f"statement is not signed by its submitter ({item.name})")
            continue
        with case.judge.trying(8, item.name, unknown=8):
            case.judge.spend_signatures()
            if signature.by_certificate:
                _check_by_certificate(case, item, signature, shelf)
            else:
                _check_by_key(case, item, signature)
    if not case.whole or not shelf.readable:
        return
    for name in (*shelf.certificates, *shelf.lists):
        if name not in shelf.used:
            case.judge.refused(8, f"certificate or revocation list that nothing in the bundle refers to ({name})")


def _check_by_key(case: Case, item: Item, signature: Signature) -> None:
    statement = item.evidence.statement
    for entry in case.trust.submitters:
        key = entry.vkey
        if key is not None and entry.account == statement.submitter and key.key_id.hex() == signature.signer:
            verify(key.public_key, statement.data, signature.value)
            case.judge.relied_on.add(f"submitter's key {signature.signer} of account {statement.submitter}")
            case.judge.passed(8, f"statement is signed by the account's key {signature.signer} ({item.name})")
            return
    raise Undecided(f"signing key is unknown to the trust file: {signature.signer}")


def _check_by_certificate(case: Case, item: Item, signature: Signature, shelf: _Shelf) -> None:
    statement = item.evidence.statement
    leaf = shelf.refer(signature.signer)
    if leaf is None:
        raise Undecided("signer's certificate is not in the bundle")
    verify(leaf.public_key, statement.data, signature.value)
    _check_account(case, item, leaf)
    if item.not_after is None:
        raise Undecided("no time is proven at which the certificate could be judged")
    anchors: list[Certificate] = []
    for authority in case.trust.authorities:
        if not authority.window.holds(item.not_after):
            continue
        try:
            anchors.append(Certificate.parse(authority.certificate.encode()))
        except EvidenceError as error:
            case.judge.not_checked.add(f"an authority of the trust file cannot be used: {error.message}")
    case.judge.spend_signatures(MAX_PATH_SIGNATURES)
    above = [cert for name, cert in shelf.certificates.items() if name in shelf.used]
    lists = [crl for name, crl in shelf.lists.items() if name in shelf.used]
    path = verify_path(leaf, above, anchors, at=item.not_after, crls=lists)
    case.judge.relied_on.add(f"certification authority {path[-1].subject}")
    case.judge.passed(8, f"statement is signed under a certificate that held at not-after ({item.name})")


def _check_account(case: Case, item: Item, leaf: Certificate) -> None:
    """The certificate is registered for the account of the statement, or for none (then a finding names it)."""
    account = item.evidence.statement.submitter

    def names(entry: Submitter) -> bool:
        return entry.certificate == leaf.digest.value or (entry.subject is not None and entry.subject == leaf.subject)

    owners = {entry.account for entry in case.trust.submitters if names(entry)}
    if not owners:
        case.judge.findings.add(f"certificate is tied to no account by the trust file: {leaf.subject} ({item.name})")
    elif account not in owners:
        raise VerificationError("certificate is registered for another account than the statement's submitter")
