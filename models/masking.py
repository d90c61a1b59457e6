"""How a personal value is shown to somebody who may see that it is there, but not what it is.

Masking is a matter of display: what is committed is always the true value, salted. A template names
the mask of each field; where it names none, a graded field is not shown at all. Grade 4 never is.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Final

from models.canonical import JSONValue, canonical_text
from models.field import Field, FieldType, Mask
from models.opaque import EMAIL, IDENTITY, PHONE, Pattern, passes_luhn

SUPPRESSED: Final = "***"
NEVER_SHOWN: Final = 4
FIRST_PERSONAL: Final = 2
FREE_TEXT_HIDDEN: Final = 3

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_MOBILE = re.compile(r"1[3-9][0-9]{9}", re.ASCII)
_ADDRESS = re.compile(
    r"(?:(?:北京|天津|上海|重庆)市|[^\s省]{2,3}省|(?:内蒙古|广西壮族|西藏|宁夏回族|新疆维吾尔)自治区|(?:香港|澳门)特别行政区)?"
    r"(?:[^\s市州盟路街道号巷弄]{2,10}(?:市|自治州|地区|盟))?"
    r"(?:市[中南北]区|[^\s区县旗市路街道号巷弄村镇乡\d]{1,8}(?:(?<![小园社校厂库])区|县|旗|市))?"
)
_YEAR = re.compile(r"((?:18|19|20)[0-9]{2})(?:[-/.年]?(?:0?[1-9]|1[0-2])[-/.月]?(?:0?[1-9]|[12][0-9]|3[01])日?)", re.ASCII)
_ADULT_AGE = 14
_BAND = 10


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def _kept(text: str, head: int, tail: int, hidden: int = 1) -> str:
    """`text` with its first `head` and last `tail` characters shown, if at least `hidden` are not."""
    if len(text) < head + tail + hidden:
        return "*" * len(text)
    return text[:head] + "*" * (len(text) - head - tail) + (text[-tail:] if tail else "")


def _name(text: str) -> str:
    if not text:
        return ""
    if _HAN.search(text):
        name = re.sub(r"\s", "", text)
        return "*" if len(name) == 1 else name[0] + "*" * (len(name) - 1)
    return f"{text[0]}{SUPPRESSED}"


def _phone_digits(text: str) -> str:
    digits = re.sub(r"[^0-9+]", "", text)
    digits = re.sub(r"^(?:\+86|0086|\+)", "", digits)
    return digits[2:] if len(digits) == 13 and digits.startswith("86") else digits


def _phone(text: str) -> str:
    digits = _phone_digits(text)
    return _kept(digits, 3, 4) if _MOBILE.fullmatch(digits) else _kept(digits, 0, 2, 4)


def _joined(text: str) -> str:
    return re.sub(r"[\s-]", "", text).upper()


def _account(text: str) -> str:
    account = _joined(text)
    if len(account) >= 8:
        return _kept(account, 0, 4)
    return _kept(account, 0, 2) if len(account) >= 5 else "*" * len(account)


def _email(text: str) -> str:
    local, at, domain = text.lower().partition("@")
    if not at or "@" in domain:
        return SUPPRESSED
    return f"{local[0] if len(local) > 1 else ''}{SUPPRESSED}@{domain}"


def _address(text: str) -> str:
    match = _ADDRESS.match(re.sub(r"\s", "", text))
    return f"{match.group() if match else ''}******"


def _birth(text: str) -> str:
    match = _YEAR.fullmatch(text)
    return f"{match.group(1) if match else '****'}-**-**"


def _age(text: str) -> str:
    if not text.isascii() or not text.isdigit() or len(text) > 3:
        return SUPPRESSED
    age = int(text)
    if age < _ADULT_AGE:
        return f"<{_ADULT_AGE}"
    first = age - age % _BAND
    return f"{max(first, _ADULT_AGE)}-{first + _BAND - 1}"


def _address_of_network(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return SUPPRESSED
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return ":".join([*address.exploded.split(":")[:2], *["*"] * 6])
        address = address.ipv4_mapped
    return ".".join([*str(address).split(".")[:2], "*", "*"])


def _mac(text: str) -> str:
    digits = re.sub(r"[:\-.\s]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{12}", digits):
        return "**:**:**:**:**:**"
    return f"{digits[:2]}:{digits[2:4]}:{digits[4:6]}:**:**:**"


def _amount(text: str) -> str:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return SUPPRESSED
    if not amount.is_finite():
        return SUPPRESSED
    exponent = amount.adjusted()
    return f"[1e{exponent},1e{exponent + 1})" if amount else "0"


_DETECTORS: Final = (
    (IDENTITY, str.upper),
    (PHONE, _phone_digits),
    (
        Pattern(
            "CARD",
            "a bank card number",
            re.compile(r"(?<![0-9])\d{4}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![0-9])", re.ASCII),
            passes_luhn,
        ),
        lambda text: re.sub(r"[^0-9]", "", text),
    ),
    (EMAIL, str.lower),
    (
        Pattern(
            "MAC", "a device address", re.compile(r"(?<![0-9A-Fa-f:-])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:-])")
        ),
        lambda text: text.lower().replace("-", ":"),
    ),
    (
        Pattern(
            "IPV4",
            "a network address",
            re.compile(r"(?<![0-9.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![0-9.])", re.ASCII),
        ),
        str,
    ),
)


_NARROW = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
"""Full-width digits and letters as plain ones, one for one, so that positions stay."""


def redacted(text: str) -> str:
    """`text` with each number or address of a person that can be told by its form replaced by its kind.

    Names and addresses in prose are not found: the result is de-identified, not anonymous.
    """
    narrow = text.translate(_NARROW)
    taken: list[tuple[int, int, str]] = []
    for pattern, canon in _DETECTORS:
        seen: dict[str, int] = {}
        for start, end in pattern.find(narrow):
            if any(start < other_end and other_start < end for other_start, other_end, _ in taken):
                continue
            number = seen.setdefault(canon(narrow[start:end]), len(seen) + 1)
            taken.append((start, end, f"〔{pattern.kind}#{number}〕"))
    for start, end, label in sorted(taken, reverse=True):
        text = text[:start] + label + text[end:]
    return text


_MASKS: dict[Mask, Callable[[str], str]] = {
    Mask.KEEP: str,
    Mask.SUPPRESS: lambda _text: SUPPRESSED,
    Mask.MASK_NAME: _name,
    Mask.MASK_PHONE: _phone,
    Mask.MASK_ID: lambda text: _kept(_joined(text), 1, 1, 4),
    Mask.MASK_CARD: lambda text: _kept(re.sub(r"[^0-9]", "", text), 0, 4, 8),
    Mask.MASK_ACCOUNT: _account,
    Mask.MASK_EMAIL: _email,
    Mask.MASK_ADDRESS: _address,
    Mask.MASK_DOB: _birth,
    Mask.BAND_AGE: _age,
    Mask.MASK_IP: _address_of_network,
    Mask.MASK_MAC: _mac,
    Mask.MASK_DEVICE_ID: lambda text: _kept(_joined(text), 0, 4, 8),
    Mask.MASK_NICK: lambda text: SUPPRESSED if len(text) < 3 else f"{text[0]}{SUPPRESSED}{text[-1]}",
    Mask.MASK_CERT: lambda _text: SUPPRESSED,
    Mask.MASK_AMOUNT_BAND: _amount,
    Mask.FILE_HASH_ONLY: lambda text: f"〔{len(text)} 字符〕",
    Mask.REDACT_TEXT: redacted,
}


_VERBATIM = frozenset({Mask.KEEP, Mask.REDACT_TEXT})


def masked(mask: Mask, text: str) -> str:
    """`text` as `mask` shows it."""
    return _MASKS[mask](text if mask in _VERBATIM else _plain(text))


def mask(field: Field, value: JSONValue) -> str:
    """`value` of `field` as an auditor sees it.

    Shapes: nothing for null; a field that is not personal as it is; a grade without a mask as ***.
    Source: T/TSAC 001—2025 8.4.4 a), c) (which masks is ours: the standard names none); T/SAC 004—2024 7.4-p2.
    """
    if value is None:
        return ""
    grade = field.grade or 0
    chosen = field.detail.mask or (Mask.KEEP if grade < FIRST_PERSONAL else Mask.SUPPRESS)
    if grade >= NEVER_SHOWN:
        chosen = Mask.SUPPRESS
    if chosen is Mask.REDACT_TEXT and grade >= FREE_TEXT_HIDDEN:
        # No pattern finds a name or an address in free text: what may hold one is not shown at all.
        chosen = Mask.FILE_HASH_ONLY
    if field.type is FieldType.FILE_OBJECT and chosen is not Mask.KEEP:
        return f"〔文件 {value['size']} 字节〕" if chosen is Mask.FILE_HASH_ONLY else SUPPRESSED
    if field.type is FieldType.OBJECT_ARRAY and chosen is Mask.KEEP:
        return "；".join("、".join(_member(field, name, member) for name, member in element.items()) for element in value)
    if field.enum is not None and chosen is Mask.KEEP:
        return f"{value} {field.enum.get(value, '')}".rstrip()
    return masked(chosen, value if isinstance(value, str) else canonical_text(value))


def _member(field: Field, name: str, value: JSONValue) -> str:
    item = next((item for item in field.items if item.name == name), None)
    return f"{name} {canonical_text(value) if item is None else mask(item, value)}".rstrip()
