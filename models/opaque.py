"""What looks like personal information in a text that must be opaque.

`client_key` and link code stand in the statement of every bundle, so they must not carry what the
bundle hides. The patterns find an identity number, a mobile number, an e-mail address and a bank
card number; names and addresses cannot be found this way, and the README says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from models.errors import Problem

_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK: Final = "10X98765432"
_CARD_DIGITS: Final = range(16, 20)
_DOUBLED_OVER: Final = 9


def _is_identity_number(text: str) -> bool:
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text, strict=False))
    return _ID_CHECK[total % 11] == text[17].upper()


def passes_luhn(text: str) -> bool:
    """Whether the digits of `text` have the check digit of a card number (ISO/IEC 7812-1)."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit * 2 > _DOUBLED_OVER) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of personal information that can be told by its form."""

    kind: str
    title: str
    form: re.Pattern[str]
    holds: Callable[[str], bool] = lambda _text: True

    def find(self, text: str) -> list[tuple[int, int]]:
        """Where in `text` it stands."""
        return [match.span() for match in self.form.finditer(text) if self.holds(match.group())]


IDENTITY: Final = Pattern(
    "ID",
    "an identity card number",
    re.compile(
        r"(?<![0-9A-Za-z])[1-9][0-9]{5}(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx](?![0-9A-Za-z])"
    ),
    _is_identity_number,
)
PHONE: Final = Pattern(
    "PHONE", "a mobile number", re.compile(r"(?<![0-9])(?:\+?86[- ]?)?1[3-9][0-9][- ]?[0-9]{4}[- ]?[0-9]{4}(?![0-9])")
)
EMAIL: Final = Pattern(
    "EMAIL", "an e-mail address", re.compile(r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]{1,64}(?:\.[A-Za-z0-9\-]{1,64}){1,8}")
)
# Beside a letter too, unlike IDENTITY: a key is often a prefix and a number. Cards by the first digits of the schemes in use:
# any 13 to 19 digits with a check digit would be one sequence number in ten.
_KEYED_IDENTITY = replace(
    IDENTITY,
    form=re.compile(
        r"(?<![0-9])[1-9][0-9]{5}[ /-]?(?:18|19|20)[0-9]{2}[ /-]?(?:0[1-9]|1[0-2])[ /-]?"
        r"(?:0[1-9]|[12][0-9]|3[01])[ /-]?[0-9]{3}[0-9Xx](?![0-9])"
    ),
    holds=lambda text: _is_identity_number(re.sub("[ /-]", "", text)),
)
# The form of before 1999 has no check digit, so the region must be one that exists and the day one that may.
_OLD_IDENTITY = replace(
    IDENTITY,
    form=re.compile(
        r"(?<![0-9])(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[12])[0-9]{4}[0-9]{2}"
        r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}(?![0-9])"
    ),
    holds=lambda _text: True,
)
_KEYED_PHONE = replace(
    PHONE, form=re.compile(r"(?<![0-9])(?:(?:\+|00)?86[- ]?|00?)?1[3-9][0-9][- ]?[0-9]{4}[- ]?[0-9]{4}(?![0-9])")
)
_LANDLINE = Pattern(
    "PHONE", "a telephone number", re.compile(r"(?<![0-9])\(?0(?:10|2[0-9]|[3-9][0-9]{2})[)-][ ]?[2-8][0-9]{6,7}(?![0-9])")
)
_KEYED_EMAIL = replace(EMAIL, form=re.compile(r"[^\s@<>,;:/]{1,64}@[A-Za-z0-9\-]{1,64}(?:\.[A-Za-z0-9\-]{1,64}){1,8}"))
_CARD = Pattern(
    "CARD",
    "a bank card number",
    re.compile(r"(?<![0-9])(?:62|4[0-9]|5[1-5])[0-9]{2}(?:[ -]?[0-9]{4}){2,3}[ -]?[0-9]{1,7}(?![0-9])"),
    lambda text: passes_luhn(text) and sum(char.isdigit() for char in text) in _CARD_DIGITS,
)
PATTERNS: Final = (_KEYED_IDENTITY, _OLD_IDENTITY, _KEYED_PHONE, _LANDLINE, _CARD, _KEYED_EMAIL)

_RANDOM = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # UUID
    r"|(?<![0-9a-z])(?=[0-9]*[a-f][0-9]*[a-f])[0-9a-f]{24,}(?![0-9a-z])",  # digest or random handle in hex
    re.IGNORECASE,
)
"""Random handles in hex hold eleven digits in a row now and then; refusing one key in 300 would be no service."""


_NUMBERED = re.compile(r"@|(?:[0-9][^0-9]*){10}")
"""What every pattern needs: an address has its sign, and the shortest number, a landline's, has ten digits."""


def kinds(text: str) -> list[str]:
    """The titles of the kinds of personal information that `text` seems to hold, in fixed order."""
    plain = _RANDOM.sub("\n", unicodedata.normalize("NFKC", text))
    if not _NUMBERED.search(plain):
        return []
    return list(dict.fromkeys(pattern.title for pattern in PATTERNS if pattern.find(plain)))


def check_opaque(text: str, pointer: str, field: str, *, values: Collection[str] = ()) -> list[Problem]:
    """The problems of a `client_key` or link code that is not opaque; empty if there are none.

    `values` are texts of personal fields of the same submission (`template.personal_values`): a key
    that contains one of them would disclose what the bundle hides. No problem repeats what was found.
    Source: formats §2.3 (client_key and link code must be opaque); T/SAC 004—2024 6.4.2-c, 7.4-p2.
    """
    found = kinds(text)
    if any(value in text for value in values):
        found.append("the value of a personal field of this submission")
    return [
        Problem(
            pointer=pointer,
            field=field,
            field_zh={"client_key": "客户端键", "code": "事务环节唯一编码"}.get(field, field),
            expected="an opaque text that says nothing of a person, for example a random UUID",
            got=f"text of {len(text)} characters that holds {what}",
            clause="6.4.2-c",
        )
        for what in found
    ]
