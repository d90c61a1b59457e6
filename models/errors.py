"""The errors of data and of verification.

Each class answers one question a caller has: was it the form (`Malformed`), the content of a
submission (`Invalid`), a contradiction (`VerificationError`), or can it not be told from what is
at hand (`Undecided`, `Unknown`)? "Cannot tell" is never "forged".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


class EvidenceError(Exception):
    """Something the caller can be told in one sentence: lower case, no full stop, nothing personal.

    `hint` says what to do next and is shown apart from the message.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Malformed(EvidenceError):
    """The bytes do not have the form that the format page prescribes."""


class Unknown(EvidenceError):
    """A known kind of thing in a version, algorithm or engine that this program does not know."""


class VerificationError(EvidenceError):
    """A proof, signature or digest contradicts what it should prove."""


class Undecided(EvidenceError):
    """Something needed for a decision is absent, or unknown to the trust file."""


class SigningUnavailable(EvidenceError):
    """No signature can be made here: no SM2 in libcrypto, or a key that is absent, expired or refused."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a submission: where, which field, what was expected and what kind of thing came.

    `got` is a type and a length, never a value: what was sent may be personal.
    """

    pointer: str
    field: str
    field_zh: str
    expected: str
    got: str
    clause: str

    def to_json(self) -> dict[str, str]:
        """The problem as the member of `errors` that RFC 9457 bodies carry."""
        return asdict(self)


class Invalid(EvidenceError):
    """A submission breaks its template; every fault is listed, not only the first."""

    def __init__(self, message: str, problems: tuple[Problem, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems
