"""The verifier's English details in Chinese, for a reader; the report itself keeps its one fixed English text.

Every detail is either a whole text of the tables or fits one of their patterns; numbers, names and
digests pass as they are. What the tables do not know stays English: it is never dropped and never guessed.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from importlib.resources import files
from typing import Final

from models.canonical import beijing_seconds, format_time, parse_time
from models.errors import Malformed

TABLES: Final = ("wording_checks.toml", "wording_streams.toml", "wording_models.toml", "wording_names.toml")
_SLOT = re.compile(r"\{([a-z])(\d?)\}")
_FORMS: Final = {"n": r"-?\d+", "t": r"\d{4}-\d\d-\d\dT[\d:.]+Z"}
_TAKES_ANY: Final = r".+?"
_AS_IT_IS = re.compile(r"[A-Za-z]+(?:_[a-z]+)+|[A-Z]\w*[A-Z]\w*|(?:cz|tlog)-[a-z-]+")
"""Words that name themselves in either language: members such as `created_at`, StageHash, formats."""

_MAX_JOINED = 3
"""Pieces between semicolons that one reason of a step is made of at most."""

_MAX_DEPTH = 6
"""How deep sentences, terms and brackets are taken apart: a name in a bundle must not make work without end."""


@dataclass(frozen=True)
class _Phrase:
    """One line of a table.

    Slots: `{n}` takes a number, `{t}` a time, `{x}` any text, `{l}` a list of names, `{a}` one of algorithms;
    `{w}` a term that must be known, `{p}` one that need not be, `{m}` a whole sentence.
    """

    english: str
    chinese: str

    @cached_property
    def literal(self) -> int:
        """How many characters stand fixed: the more, the surer the match."""
        return len(_SLOT.sub("", self.english))

    @cached_property
    def first(self) -> str:
        """The fixed first word; empty where the phrase begins with a slot."""
        word = self.english.split(" ", 1)[0]
        return "" if "{" in word else word

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        parts, end = [], 0
        for slot in _SLOT.finditer(self.english):
            parts.append(re.escape(self.english[end : slot.start()]))
            parts.append(f"(?P<{slot[1]}{slot[2]}>{_FORMS.get(slot[1], _TAKES_ANY)})")
            end = slot.end()
        return re.compile("".join([*parts, re.escape(self.english[end:])]), re.DOTALL)

    def apply(self, text: str, depth: int) -> str | None:
        found = self.pattern.fullmatch(text)
        if found is None:
            return None
        values: dict[str, str] = {}
        for name, value in found.groupdict().items():
            put = _translated(name[0], value, depth)
            if put is None:
                return None
            values[name] = put
        written, end = "", 0
        for slot in _SLOT.finditer(self.chinese):
            written = _joined(_joined(written, self.chinese[end : slot.start()]), values[slot[1] + slot[2]])
            end = slot.end()
        return _joined(written, self.chinese[end:])


def _joined(left: str, right: str) -> str:
    """The two put together as Chinese is set: a space between Chinese and other writing, none within Chinese."""
    if not left or not right:
        return left + right
    if (left.endswith(" ") and _is_wide(right[0])) or (right.startswith(" ") and _is_wide(left[-1])):
        if _is_wide(left.rstrip()[-1:]) and _is_wide(right.lstrip()[:1]):
            return left.rstrip() + right.lstrip()
    elif (_is_han(left[-1]) and right[0].isascii() and right[0].isalnum()) or (
        _is_han(right[0]) and left[-1].isascii() and left[-1].isalnum()
    ):
        return f"{left} {right}"
    return left + right


def _is_wide(letter: str) -> bool:
    return letter != "" and unicodedata.east_asian_width(letter) in "WF"


def _is_han(letter: str) -> bool:
    return "\u4e00" <= letter <= "\u9fff"


def _translated(kind: str, value: str, depth: int) -> str | None:
    """What a slot of that kind shows for `value`; None if it may not take it."""
    shown: str | None = value
    match kind:
        case "t":
            shown = _moment(value)
        case "l":
            shown = "、".join(value.split(", "))
        case "a":
            shown = "、".join(_name(each, depth) or each for each in value.split(", "))
        case "w":
            shown = _name(value, depth)
        case "p":
            shown = _name(value, depth) or value
        case "m":
            shown = _sentence(value, depth)
    return shown


@dataclass(frozen=True)
class _Phrases:
    """A table, ready to be asked: whole texts at once, patterns by their first word, the surest first."""

    whole: Mapping[str, str]
    by_word: Mapping[str, tuple[_Phrase, ...]]

    @classmethod
    def of(cls, table: Mapping[str, str]) -> _Phrases:
        slotted = [_Phrase(english, chinese) for english, chinese in table.items() if _SLOT.search(english)]
        by_word: dict[str, list[_Phrase]] = {}
        for phrase in sorted(slotted, key=lambda phrase: -phrase.literal):
            by_word.setdefault(phrase.first, []).append(phrase)
        return cls(table, {word: tuple(phrases) for word, phrases in by_word.items()})

    def find(self, text: str, depth: int) -> str | None:
        known = self.whole.get(text)
        if known is not None:
            return known
        word = text.split(" ", 1)[0]
        candidates = (*self.by_word.get(word, ()), *self.by_word.get("", ()))
        return next((put for phrase in candidates if (put := phrase.apply(text, depth)) is not None), None)


@cache
def _tables() -> tuple[_Phrases, _Phrases]:
    sentences: dict[str, str] = {}
    names: dict[str, str] = {}
    for name in TABLES:
        read = tomllib.loads((files("evidence") / name).read_text("utf-8"))
        sentences |= read.get("sentences", {})
        names |= read.get("names", {})
    return _Phrases.of(sentences), _Phrases.of(names)


def chinese(text: str) -> str:
    """`text`, a detail of a report, in Chinese; whatever of it is unknown stays as it is.

    Shapes: reasons joined by semicolons, each perhaps with a place in brackets after it.
    """
    return "；".join(chinese_reasons(text))


def chinese_reasons(text: str) -> list[str]:
    """The reasons that `text`, the detail of a step, joins, each in Chinese."""
    pieces = text.split("; ")
    put: list[str] = []
    while pieces:
        for count in range(1, min(_MAX_JOINED, len(pieces)) + 1):
            reason = "; ".join(pieces[:count])
            known = _sentence(reason)
            if known is not None:
                break
        else:
            count, known = 1, _tailed(pieces[0])
        put.append(known)
        pieces = pieces[count:]
    return put


def chinese_name(text: str) -> str:
    """A role or a place, such as `chain x` or `evidence/0`, in Chinese; as it is if unknown."""
    return _name(text) or text


def _sentence(text: str, depth: int = _MAX_DEPTH) -> str | None:
    sentences, _ = _tables()
    if text in sentences.whole:
        return sentences.whole[text]
    if depth == 0:
        return None
    head, tail = _parted(text)
    known = _sentence(head, depth - 1) if tail else None
    return sentences.find(text, depth - 1) if known is None else f"{known}（{_place(tail)}）"


def _tailed(text: str) -> str:
    """An unknown text as it is, but for the place in brackets after it, where that is known."""
    head, tail = _parted(text)
    known = _place(tail)
    return text if known == tail else f"{head}（{known}）"


def _parted(text: str) -> tuple[str, str]:
    """`text` as a head and what stands in the bracket at its end; a bracket within that one belongs to it."""
    start = len(text) if text.endswith(")") else 0
    while (start := text.rfind(" (", 0, start)) > 0:
        tail = text[start + 2 : -1]
        if tail.count("(") == tail.count(")"):
            return text[:start], tail
    return text, ""


def _place(text: str) -> str:
    parts = [_name(part) for part in text.split(", ")]
    known = [part for part in parts if part is not None]
    return "，".join(known) if len(known) == len(parts) else text


def _name(text: str, depth: int = _MAX_DEPTH) -> str | None:
    _, names = _tables()
    if _AS_IT_IS.fullmatch(text):
        return text
    return names.find(text, depth - 1) if depth else None


def _moment(text: str) -> str:
    try:
        return beijing(parse_time(text, what="time"))
    except Malformed:
        return text


def beijing(moment: datetime) -> str:
    """A time as a reader in China expects it; parts of a second only where there are any."""
    milliseconds = moment.microsecond // 1000
    try:
        return f"{beijing_seconds(moment)}{f'.{milliseconds:03d}' if milliseconds else ''}（北京时间）"
    except Malformed:
        return format_time(moment)
