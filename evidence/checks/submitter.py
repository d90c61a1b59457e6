"""Check 8: who signed the statement, under which key or certificate, and whether that held at not-after."""

from __future__ import annotations

import re

from evidence.checks.case import Case, Item
from models.certificate import Certificate, RevocationList, is_signed_by, verify_path
from models.errors import EvidenceError, Undecided, VerificationError
from models.evidence import Signature
from models.signature import verify
from models.trust import Submitter

MAX_CERTIFICATE_BYTES = 4 << 20
"""Bytes of certificates and revocation lists that one run reads: a list costs ten times its size to hold."""

MAX_ISSUERS = 64
"""Certificates above one signer's, by name, that are tried for a path: each step of the search walks them all."""
_FILE = re.compile(r"certs/[0-9]+\.(cer|crl)", re.ASCII)


class _Shelf:
    """The certificates and lists of the bundle, and those in trust; `used` are the names referred to."""

    def __init__(self, case: Case) -> None:
        self._judge = case.judge
        self._signed: dict[tuple[bytes, bytes], bool] = {}
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
        self._by_digest: dict[str, str] = {}
        self._by_subject: dict[bytes, list[str]] = {}
        self._by_issuer: dict[bytes, list[str]] = {}
        for name, certificate in self.certificates.items():
            self._by_digest.setdefault(certificate.digest.value.hex(), name)
            self._by_subject.setdefault(certificate.subject_der, []).append(name)
        for name, known in self.lists.items():
            self._by_issuer.setdefault(known.issuer_der, []).append(name)

    def refer(self, digest: str) -> tuple[Certificate, list[Certificate], list[RevocationList]] | None:
        """The certificate whose SM3 is `digest`, those above it by name, and their lists: all are then referred to.

        Each name is followed once, however many certificates bear it.
        """
        first = self._by_digest.get(digest)
        if first is None:
            return None
        above: list[str] = []
        lists: list[str] = []
        followed: set[bytes] = set()
        waiting = [self.certificates[first].issuer_der]
        while waiting:
            issuer = waiting.pop()
            if issuer in followed:
                continue
            followed.add(issuer)
            found = self._by_subject.get(issuer, [])
            above += found
            lists += self._by_issuer.get(issuer, [])
            waiting += [self.certificates[name].issuer_der for name in found]
        self.used.update((first, *above, *lists))
        return self.certificates[first], [self.certificates[name] for name in above], [self.lists[name] for name in lists]

    def signed_by(self, child: Certificate | RevocationList, issuer: Certificate) -> bool:
        """Whether the issuer's key made the child's signature, counted, and worked out once for all items."""
        place = (child.der, issuer.public_key)
        if place not in self._signed:
            self._judge.spend_signatures()
            self._signed[place] = is_signed_by(child, issuer)
        return self._signed[place]


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
    referred = shelf.refer(signature.signer)
    if referred is None:
        raise Undecided("signer's certificate is not in the bundle")
    leaf, above, lists = referred
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
    if len(above) > MAX_ISSUERS:
        raise Undecided(f"too many certificates above the signer's: expected at most {MAX_ISSUERS}, got {len(above)}")
    path = verify_path(leaf, above, anchors, at=item.not_after, crls=lists, signed_by=shelf.signed_by)
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
