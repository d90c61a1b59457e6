"""Keyword sets: read from a file with clear errors, committed to by the declaration, proven one by one.

A keyword is bytes, whatever the encoding; there are no patterns, so none can be catastrophic. What
has no fixed list is found by an extraction rule instead.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from models.canonical import JSONValue, b64u
from models.commitment import derive
from models.counting import FOLD, Case
from models.digest import Algorithm, Pair
from models.errors import Malformed, VerificationError
from models.extraction import MAX_BITS, MAX_RULES, Rule
from models.leaf import opened, unbased
from models.merkle import flat, leaf_hash, leaf_hashes, root, subset_path, verify_subset
from models.nodes import SALT_BYTES
from models.record import Encoding
from models.salting import salt, salts

MAX_KEYWORD_BYTES: Final = 256
MAX_KEYWORDS: Final = 1 << 14
MAX_KEYWORD_TOTAL: Final = 1 << 20
"""Keywords in one set and their bytes together: so that all leaves fit one JSON line of 4 MiB, shown whole."""
MAX_FILE_BYTES: Final = 4 << 20
MAX_ASKED: Final = 16
TAG: Final = "cz-keyword/1"

_TOML = re.compile(rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*(?:\[\[[ \t]*rule[ \t]*\]\]|keywords[ \t]*=)")
_LINE_OF_TOML = re.compile(r"at line (\d+)")
_CHARSETS = ("utf-8", "ascii", "gbk", "gb18030")


# --- the file -------------------------------------------------------------------------------------------------------


def parse_keyword_file(
    text: bytes, *, case: str = Case.EXACT, encoding: str = Encoding.LINE, charset: str = "utf-8"
) -> tuple[tuple[bytes, ...], tuple[Rule, ...]]:
    """The keywords, strictly ascending bytewise, and rules, ascending by name, that a keyword file states.

    Plain form: one keyword a line, taken byte for byte, ended by LF. TOML form (its first member is
    `keywords = […]` or `[[rule]]`): texts are encoded in `charset`, one of utf-8, ascii, gbk, gb18030.

    Shapes: ≤ 4 MiB; ≤ 16,384 keywords of 1–256 bytes, ≤ 1 MiB together; ≤ 16 rules.
    Raises: Malformed, naming the line, for a keyword that is empty, too long, there twice, holds LF
        (`line`) or A–Z (`ascii`), for CR at an end of a line, a byte-order mark, too many keywords or a wrong rule.
    Source: T/SAC 004—2024 C.4-a; formats §5.2, §5.9.
    """
    if len(text) > MAX_FILE_BYTES:
        raise Malformed(f"keyword file is too long: expected at most {MAX_FILE_BYTES} bytes, got {len(text)}")
    if text.startswith(b"\xef\xbb\xbf"):
        raise Malformed("keyword file begins with a byte-order mark (line 1)", hint="save it as UTF-8 without mark")
    if _TOML.match(text):
        placed, rules = _toml(text, charset)
    else:
        placed, rules = _plain(text), ()
    if not placed and not rules:
        raise Malformed("keyword file is empty: expected at least one keyword or rule", hint="write one keyword a line")
    return _sorted(placed, case=case, encoding=encoding), rules


def _plain(text: bytes) -> list[tuple[bytes, str]]:
    lines = text.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\r"):
            raise Malformed(f"keyword ends with CR (line {number})", hint="save the file with LF at the ends of lines")
    return [(line, f"line {number}") for number, line in enumerate(lines, 1)]


def _toml(text: bytes, charset: str) -> tuple[list[tuple[bytes, str]], tuple[Rule, ...]]:
    if charset not in _CHARSETS:
        raise Malformed(f"charset of the keyword file is unknown: expected one of {', '.join(_CHARSETS)}")
    try:
        value = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        place = _LINE_OF_TOML.search(str(error))
        raise Malformed(f"keyword file is not TOML in UTF-8{f' (line {place[1]})' if place else ''}") from error
    if set(value) - {"keywords", "rule"}:
        raise Malformed("keyword file has an unknown member: expected only keywords and rule")
    listed, tables = value.get("keywords", []), value.get("rule", [])
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise Malformed("keywords of the keyword file is not an array of texts")
    placed = [(_encoded(word, charset, f"keyword {place}"), f"keyword {place}") for place, word in enumerate(listed, 1)]
    if not isinstance(tables, list) or len(tables) > MAX_RULES:
        raise Malformed(f"rule of the keyword file has wrong form: expected at most {MAX_RULES} tables [[rule]]")
    rules = sorted((_rule(table, place, charset) for place, table in enumerate(tables, 1)), key=lambda rule: rule.name)
    for first, second in pairwise(rules):
        if first.name == second.name:
            raise Malformed(f"rule stands twice in the keyword file (rule {first.name})")
    return placed, tuple(rules)


def _encoded(text: str, charset: str, where: str) -> bytes:
    try:
        return text.encode(charset)
    except UnicodeEncodeError as error:
        raise Malformed(f"text cannot be written in {charset} ({where})") from error


def _rule(table: Any, place: int, charset: str) -> Rule:
    needed = {"name", "after", "class", "min", "max"}
    if not isinstance(table, dict) or not needed <= set(table) <= needed | {"bits"}:
        raise Malformed(f"rule has wrong members: expected name, after, class, min, max and perhaps bits (rule {place})")
    if not all(isinstance(table[name], str) for name in ("name", "after", "class")):
        raise Malformed(f"name, after or class of a rule is not text (rule {place})")
    after = _encoded(table["after"], charset, f"rule {place}")
    bits = table.get("bits", MAX_BITS)
    return Rule(table["name"], after, character_class(table["class"]), table["min"], table["max"], bits).check()


def character_class(text: str) -> bytes:
    """The bytes that a class such as `0-9A-Za-z_` stands for, ascending; `-` stands for itself first or last.

    Raises: Malformed if it is empty, not ASCII, begins with ^, or a range runs backwards.
    """
    if not text or not text.isascii() or text.startswith("^"):
        raise Malformed("class of a rule has wrong form: expected ASCII characters and ranges such as 0-9, without ^ first")
    found: set[int] = set()
    at, raw = 0, text.encode()
    while at < len(raw):
        if at + 2 < len(raw) and raw[at + 1] == ord("-"):
            if raw[at] > raw[at + 2]:
                raise Malformed("class of a rule has a range that runs backwards: expected for example 0-9")
            found.update(range(raw[at], raw[at + 2] + 1))
            at += 3
        else:
            found.add(raw[at])
            at += 1
    return bytes(sorted(found))


def _sorted(placed: Iterable[tuple[bytes, str]], *, case: str, encoding: str) -> tuple[bytes, ...]:
    places: dict[bytes, str] = {}
    total = 0
    for keyword, where in placed:
        try:
            check_keyword(keyword, case=case, encoding=encoding)
        except Malformed as error:
            raise Malformed(f"{error.message} ({where})", hint=error.hint) from error
        if keyword in places:
            raise Malformed(f"keyword stands twice: it was there before ({places[keyword]}, again {where})")
        places[keyword] = where
        total += len(keyword)
        if len(places) > MAX_KEYWORDS or total > MAX_KEYWORD_TOTAL:
            raise Malformed(
                f"keyword file has too many keywords: expected at most {MAX_KEYWORDS} and {MAX_KEYWORD_TOTAL} bytes ({where})",
                hint="an extraction rule finds values that are too many to list",
            )
    return tuple(sorted(places))


def check_keyword(keyword: bytes, *, case: str = Case.EXACT, encoding: str = Encoding.LINE) -> None:
    """Pass a keyword that can stand in K or in a question.

    Raises: Malformed if it is empty, longer than 256 bytes, holds LF (`line`) or A–Z (`ascii`).
    Source: formats §5.2, §11 (Streams).
    """
    if not 1 <= len(keyword) <= MAX_KEYWORD_BYTES:
        raise Malformed(f"keyword has wrong length: expected 1 to {MAX_KEYWORD_BYTES} bytes, got {len(keyword)}")
    if encoding == Encoding.LINE and b"\n" in keyword:
        raise Malformed("keyword holds LF, which no line holds")
    if case == Case.ASCII and keyword.translate(FOLD) != keyword:
        raise Malformed("keyword holds A–Z, but case is folded: expected a–z", hint="write it in lower case")


# --- the tree -------------------------------------------------------------------------------------------------------


def keyword_leaves(keywords: Sequence[bytes], *, secret: bytes, stream_id: str, previous: Pair | None) -> list[bytes]:
    """The leaf of every keyword, by rank.

    Source: formats §5.2, §11 (salts of D's keywords have context stream_id, then pair(D).sm3 of `previous` or null).
    """
    drawn = salts(derive(secret, TAG, stream_id, previous and previous.sm3.hex()), len(keywords))
    return [f'["{TAG}","{b64u(fresh)}","{b64u(keyword)}"]'.encode() for fresh, keyword in zip(drawn, keywords, strict=True)]


def keywords_pair(keywords: Sequence[bytes], *, secret: bytes, stream_id: str, previous: Pair | None) -> Pair:
    """The root and flat of K as D states them."""
    leaves = keyword_leaves(keywords, secret=secret, stream_id=stream_id, previous=previous)
    flat_salt = salt(derive(secret, "cz-flat/1", stream_id, previous and previous.sm3.hex()), 0)
    return Pair(root(leaf_hashes(leaves)), flat(flat_salt, leaves, algorithm=Algorithm.SHA256))


class RankedKeyword(NamedTuple):
    """A keyword as its leaf shows it, at its rank in K."""

    rank: int
    keyword: bytes


def shown_ranks(keywords: Sequence[bytes], asked: Iterable[bytes], *, absences: bool = False) -> list[int]:
    """The ranks whose leaves answer for `asked`: its own, or, to prove absences, those around its place.

    Neighbours are keywords that were not asked for: they are shown only to who may know them.

    Source: formats §11 (22: not in K = two leaves r, r+1 around it, or the first or last leaf).
    """
    ranks: set[int] = set()
    for keyword in asked:
        place = bisect_left(keywords, keyword)
        if place < len(keywords) and keywords[place] == keyword:
            ranks.add(place)
        elif absences:
            ranks |= {near for near in (place - 1, place) if 0 <= near < len(keywords)}
    return sorted(ranks)


def keyword_proof(leaves: Sequence[bytes], ranks: Sequence[int]) -> list[bytes]:
    """The subset proof of the leaves at `ranks`; empty for a set without keywords."""
    return subset_path(leaf_hashes(leaves), ranks) if leaves else []


def open_keyword(text: JSONValue) -> bytes:
    """The keyword that a leaf states. Raises: VerificationError if its form is wrong."""
    salt_text, keyword = opened(text, TAG, 2, "keyword leaf")
    unbased(salt_text, "salt of a keyword", SALT_BYTES)
    return unbased(keyword, "keyword")


def verify_keywords(
    leaves: Sequence[tuple[int, str]], path: Sequence[bytes], *, size: int, root: bytes, asked: Sequence[bytes]
) -> dict[bytes, int | None]:
    """The rank of every keyword asked under the root of K, or None where its neighbours show that it is none of K's.

    A keyword that is neither shown nor shown to be absent is left out of the answer.

    Raises: VerificationError if the leaves do not stand under the root at ascending ranks, or the keywords
        do not ascend with them.
    Source: formats §4 check 22, §11 (22).
    """
    shown = [RankedKeyword(rank, open_keyword(text)) for rank, text in leaves]
    for first, second in pairwise(shown):
        if first.rank >= second.rank or first.keyword >= second.keyword:
            raise VerificationError("keyword leaves do not ascend by rank and bytewise")
    if shown:
        verify_subset({rank: leaf_hash(text.encode()) for rank, text in leaves}, size, path, root)
    elif path:
        raise VerificationError("proof is shown of no keyword leaf")
    known: dict[bytes, int | None] = {entry.keyword: entry.rank for entry in shown}
    return {keyword: known.get(keyword) for keyword in asked if keyword in known or _is_absent(shown, keyword, size)}


def _is_absent(shown: Sequence[RankedKeyword], keyword: bytes, size: int) -> bool:
    """Whether the leaves shown prove a keyword to be none of K's: two neighbouring ranks around it, or an end."""
    place = bisect_left([entry.keyword for entry in shown], keyword)
    below = shown[place - 1].rank if place else -1
    above = shown[place].rank if place < len(shown) else size
    return above == below + 1
