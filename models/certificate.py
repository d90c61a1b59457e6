"""Whether a certificate leads to an authority that is trusted, at one moment.

Three answers, never mixed up: the path holds; it contradicts itself (expired, revoked by then,
wrong usage, bad signature); or it cannot be told (an authority nobody trusts here, no revocation
data for that moment). Reading is in `models.x509`, making in `models.issuing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise

from models import signature
from models.errors import Undecided, VerificationError
from models.issuing import CA_USAGE, LEAF_USAGE, issue, make_crl, make_csr, subject_form
from models.x509 import KEY_USAGES, Certificate, Request, RevocationList, parse_csr, to_pem

__all__ = [
    "CA_USAGE",
    "KEY_USAGES",
    "LEAF_USAGE",
    "Certificate",
    "Request",
    "RevocationList",
    "is_signed_by",
    "issue",
    "make_crl",
    "make_csr",
    "parse_csr",
    "subject_form",
    "to_pem",
    "verify_path",
]

ANY_PURPOSE = "2.5.29.37.0"
MAX_PATH = 8
MAX_SIGNATURES = 64
MAX_STEPS = 256


def _brief(certificate: Certificate) -> str:
    """Which certificate, by its digest: the subject may be a person's name."""
    return f"certificate {certificate.digest.value[:4].hex()}…"


def _may_issue(issuer: Certificate, child: Certificate | RevocationList) -> bool:
    """Whether the names fit, and the key identifiers where both are given: an authority may change its key."""
    wanted, own = child.authority_key_identifier, issuer.key_identifier
    return issuer.subject_der == child.issuer_der and (wanted is None or own is None or wanted == own)


SignedBy = Callable[[Certificate | RevocationList, Certificate], bool]
"""Whether the issuer's key made the child's signature."""


class _Search:
    """All ways from a certificate to an anchor whose signatures hold, within a bounded effort."""

    def __init__(self, intermediates: Sequence[Certificate], anchors: Sequence[Certificate], signed_by: SignedBy) -> None:
        self._intermediates = intermediates
        self._anchors = anchors
        self._signed_by = signed_by
        self._checked: dict[tuple[bytes, bytes], bool] = {}
        self._steps = 0
        self.contradicted = False

    def is_signed_by(self, child: Certificate | RevocationList, issuer: Certificate) -> bool:
        """Whether the issuer's key made the child's signature, worked out once."""
        place = (child.der, issuer.public_key)
        if place not in self._checked:
            if len(self._checked) >= MAX_SIGNATURES:
                raise Undecided(f"too many certificates to try: expected at most {MAX_SIGNATURES} signatures")
            self._checked[place] = self._signed_by(child, issuer)
        return self._checked[place]

    def paths(self, path: tuple[Certificate, ...]) -> Iterator[tuple[Certificate, ...]]:
        """Every path that goes on from `path` to an anchor, shortest first at each step."""
        last = path[-1]
        # Certificates of one name and one key, each of the other, make more paths than can be walked.
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise Undecided(f"too many certificates to try: expected at most {MAX_STEPS} steps")
        if last in self._anchors:
            yield path
            return
        if len(path) >= MAX_PATH:
            return
        for anchor in self._anchors:
            if _may_issue(anchor, last):
                if self.is_signed_by(last, anchor):
                    yield (*path, anchor)
                else:
                    self.contradicted = True
        for issuer in self._intermediates:
            if not _may_issue(issuer, last) or issuer in path or issuer in self._anchors:
                continue
            if self.is_signed_by(last, issuer):
                yield from self.paths((*path, issuer))
            elif next(self.paths((issuer,)), None) is not None:
                # Somebody named an authority that is trusted, whose key did not sign.
                self.contradicted = True


def is_signed_by(child: Certificate | RevocationList, issuer: Certificate) -> bool:
    """Whether the issuer's key made the child's signature; names are not looked at."""
    try:
        signature.verify(issuer.public_key, child.signed, child.signature)
    except VerificationError:
        return False
    return True


def _check_purpose(leaf: Certificate, usage: str, purpose: str | None) -> None:
    if leaf.key_usage is not None and usage not in leaf.key_usage:
        raise VerificationError(f"{_brief(leaf)} is for another usage: expected {usage}")
    purposes = leaf.purposes or frozenset()
    if purpose is not None and purpose not in purposes:
        raise VerificationError(f"{_brief(leaf)} is for another purpose: expected {purpose}")
    if purpose is None and leaf.is_bound_to_purposes and ANY_PURPOSE not in purposes:
        raise VerificationError(f"{_brief(leaf)} is bound to other purposes than signing evidence")


def _check_form(path: tuple[Certificate, ...], at: datetime) -> None:
    for certificate in path:
        if at < certificate.not_before:
            raise VerificationError(f"{_brief(certificate)} was not yet valid at that time")
        if at > certificate.not_after:
            raise VerificationError(f"{_brief(certificate)} had expired at that time")
    for below, authority in enumerate(path[1:]):
        if not authority.is_ca or (authority.key_usage is not None and "key_cert_sign" not in authority.key_usage):
            raise VerificationError(f"{_brief(authority)} is no authority: it may not sign certificates")
        if authority.path_length is not None and below > authority.path_length:
            limit = authority.path_length
            raise VerificationError(f"{_brief(authority)} allows a shorter path: expected at most {limit} authorities below it")


def _covers(known: RevocationList, certificate: Certificate, at: datetime) -> bool:
    """Whether a list without this certificate says that it was not revoked at `at`.

    A later list says so as well, unless the certificate had expired by then: authorities drop those.
    """
    if known.this_update >= at:
        return known.this_update <= certificate.not_after
    return known.next_update is not None and at < known.next_update


def _check_revocation(
    search: _Search, certificate: Certificate, issuer: Certificate, crls: Sequence[RevocationList], at: datetime
) -> None:
    covered = False
    for known in crls:
        if not _may_issue(issuer, known):
            continue
        if not search.is_signed_by(known, issuer):
            raise VerificationError("revocation list is not signed by its authority")
        if issuer.key_usage is not None and "crl_sign" not in issuer.key_usage:
            raise VerificationError(f"{_brief(issuer)} may not sign revocation lists")
        moment = known.revoked(certificate.serial)
        if moment is not None and moment <= at:
            raise VerificationError(f"{_brief(certificate)} was revoked at that time")
        covered = covered or moment is not None or _covers(known, certificate, at)
    if not covered:
        raise Undecided(f"no revocation list covers that time ({_brief(certificate)})")


def verify_path(
    leaf: Certificate,
    intermediates: Sequence[Certificate],
    anchors: Sequence[Certificate],
    *,
    at: datetime,
    crls: Sequence[RevocationList] = (),
    usage: str = "digital_signature",
    purpose: str | None = None,
    signed_by: SignedBy | None = None,
) -> tuple[Certificate, ...]:
    """The path from `leaf` to one of `anchors` that held at `at`, leaf first.

    An anchor is trusted by being given: its own revocation is for whoever gave it. A certificate
    revoked after `at` still held then. `purpose` is an extended key usage, dotted, that the leaf
    must name; without one, a leaf bound to certain purposes signs no evidence. `signed_by` stands in
    for `is_signed_by` where a caller counts or keeps what was verified.

    Shapes: at most 8 certificates a path, 64 signatures tried.
    Raises: VerificationError if every path is expired, not yet valid, revoked by then, of wrong
        usage or badly signed; Undecided if no trusted authority issued it or no list covers `at`.
    Source: RFC 5280 6; 6.4.3-a, 6.4.3-b, 6.4.3-d.
    """
    search = _Search(intermediates, anchors, signed_by or is_signed_by)
    refusal: VerificationError | Undecided | None = None
    for path in search.paths((leaf,)):
        try:
            _check_form(path, at)
            _check_purpose(leaf, usage, purpose)
            for certificate, issuer in pairwise(path):
                _check_revocation(search, certificate, issuer, crls, at)
        except VerificationError as error:
            refusal = refusal or error
        except Undecided as error:
            # Where one path fails and another cannot be told, it cannot be told.
            refusal = error if not isinstance(refusal, Undecided) else refusal
        else:
            return path
    if refusal is not None:
        raise refusal
    if search.contradicted:
        raise VerificationError(f"{_brief(leaf)} is not signed by the authority it names")
    raise Undecided(f"{_brief(leaf)} was issued by an unknown authority")
