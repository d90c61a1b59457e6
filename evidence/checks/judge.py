"""Where checks write down what they found: a verdict and its reasons per number, and what was relied on."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from models.errors import EvidenceError, Malformed, Undecided, Unknown, VerificationError
from models.report import CHECKS, STREAM_CHECKS, Party, Step, Verdict
from models.signature import Backend, available_backend

MAX_SIGNATURES = {Backend.LIBCRYPTO: 12_000, Backend.PORTABLE: 300}
"""Signatures that one run verifies at most: a third of a millisecond each, or 13, keeps it within its time."""

MAX_WORK = 8_000_000
"""What checking a stream may cost, in microseconds of a common machine; what costs more is left open, whatever it says."""
SIGNATURES_WORK = 4_000_000
"""What as many signatures as one run verifies cost, likewise."""
MAX_SENTENCE = 1000
_MAX_REASONS = 8
_VERSIONS = 2
_RANK = {Verdict.VALID: 0, Verdict.INDETERMINATE: 1, Verdict.INVALID: 2}


def _plain(text: str) -> str:
    """`text` as it can stand in canonical JSON: a name inside a certificate may hold anything.

    Cut first: putting many marks in order takes time in the square of their number. Then cut again: NFC can be longer.
    """
    clean = text[:MAX_SENTENCE].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return unicodedata.normalize("NFC", clean)[:MAX_SENTENCE]


class _Ordered(dict[str, None]):
    """A set of sentences in the order in which they were first said."""

    def add(self, sentence: str) -> None:
        if sentence not in self:
            self[_plain(sentence)] = None

    def update_all(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.add(sentence)


@dataclass(slots=True)
class Attempt:
    """How one part of a check went; `holds` is False once it was refused or left open."""

    holds: bool = True


class Trying:
    """What `Judge.trying` gives. Written out: there are several a slice, and a generator's costs thrice as much."""

    __slots__ = ("_attempt", "_judge", "_number", "_unknown", "_where")

    def __init__(self, judge: Judge, number: int, where: str, unknown: int) -> None:
        self._judge, self._number, self._where, self._unknown = judge, number, where, unknown
        self._attempt = Attempt()

    def __enter__(self) -> Attempt:
        return self._attempt

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, EvidenceError):
            return False
        self._attempt.holds = False
        self._judge.heard(self._number, error, self._where, unknown=self._unknown)
        return True


@dataclass(slots=True)
class Judge:
    """The findings of one run. Each check may say several things; the worst is its verdict."""

    relied_on: _Ordered = field(default_factory=_Ordered)
    not_checked: _Ordered = field(default_factory=_Ordered)
    findings: _Ordered = field(default_factory=_Ordered)
    parties: dict[Party, None] = field(default_factory=dict)
    answers: bool = False
    """Whether the rows of streams belong to the table: of a bundle that answers a question."""
    _said: dict[int, dict[Verdict, list[str]]] = field(default_factory=dict)
    _more: Counter[tuple[int, Verdict]] = field(default_factory=Counter)
    _signatures: int = 0
    _signed: float = 0
    """What these signatures are as work."""
    _work: float = 0

    def _say(self, number: int, verdict: Verdict, detail: str) -> None:
        reasons = self._said.setdefault(number, {}).setdefault(verdict, [])
        detail = _plain(detail)
        if detail in reasons:
            return
        if len(reasons) < _MAX_REASONS:
            reasons.append(detail)
        else:
            self._more[number, verdict] += 1

    def passed(self, number: int, detail: str) -> None:
        """Check `number` found something that holds."""
        self._say(number, Verdict.VALID, detail)

    def refused(self, number: int, detail: str) -> None:
        """Check `number` found a contradiction."""
        self._say(number, Verdict.INVALID, detail)

    def undecided(self, number: int, detail: str) -> None:
        """Check `number` lacks something it needs."""
        self._say(number, Verdict.INDETERMINATE, detail)

    def verdict(self, number: int) -> Verdict | None:
        """The worst that check `number` said so far; None if it said nothing."""
        said = self._said.get(number)
        return max(said, key=_RANK.__getitem__) if said else None

    def trying(self, number: int, where: str = "", *, unknown: int = _VERSIONS) -> Trying:
        """Run a part of check `number`: what it raises becomes the check's word, never an exception.

        An unknown version or algorithm is said by check `unknown` (2, unless told otherwise).
        """
        return Trying(self, number, where, unknown)

    def heard(self, number: int, error: EvidenceError, where: str = "", *, unknown: int = _VERSIONS) -> None:
        """What a part of check `number` raised becomes its word, as `trying` has it: for what is done of every slice."""
        said = error.message + (f" ({where})" if where else "")
        if isinstance(error, Unknown):
            self.undecided(unknown, said)
        elif isinstance(error, Malformed | VerificationError):
            self.refused(number, said)
        else:
            self.undecided(number, said)

    def spend_signatures(self, count: int = 1) -> None:
        """Count signatures about to be verified.

        Raises: Undecided beyond the number that one run verifies with the backend at hand.
        """
        self._signatures += count
        limit = MAX_SIGNATURES[available_backend()]
        self._signed = SIGNATURES_WORK * self._signatures / limit
        if self._signatures > limit:
            raise Undecided(f"bundle holds more signatures than are verified in one run: expected at most {limit}")

    def spend(self, microseconds: float) -> None:
        """Count work on a stream about to be done, or just done where only doing it tells how much it was.

        Raises: Undecided beyond what one run does.
        """
        self._work += microseconds
        if self._work + self._signed > MAX_WORK:
            raise Undecided("answer is more work than is done in one run: expected a shorter range, or fewer keywords or lines")

    def steps(self) -> tuple[Step, ...]:
        """All checks in order, each with its verdict and reasons."""
        checks = CHECKS + STREAM_CHECKS if self.answers else CHECKS
        return tuple(self._step(check.number, check.name, check.clause) for check in checks)

    def _step(self, number: int, name: str, clause: str) -> Step:
        verdict = self.verdict(number)
        if verdict is None:
            return Step(number, name, None, "nothing of this kind to judge", clause)
        reasons = self._said[number][verdict]
        more = self._more[number, verdict]
        return Step(number, name, verdict, "; ".join(reasons) + (f"; and {more} more" if more else ""), clause)
