"""The declaration of a stream: what is collected, how it is cut, counted and committed to, by whom.

It is fixed before the first slice, and every slice names it; so an answer can be held to the
keywords and the counting rule that were chosen before the question was known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from models.canonical import JSONValue, canonical, members, parse_canonical
from models.checkpoint import STATEMENT_TYPE, VerifierKey
from models.counting import Boundary, Case
from models.digest import Pair, pair
from models.errors import Malformed
from models.extraction import MAX_RULES, Cells, DeclaredRule, Rule, cells
from models.keywords import (
    MAX_KEYWORDS,
    check_keyword,
    keyword_leaves,
    keywords_pair,
    parse_keyword_file,
)
from models.names import check_format, check_origin
from models.record import Encoding

__all__ = [
    "STAGE",
    "TEMPLATE",
    "Boundary",
    "Case",
    "Declaration",
    "DeclaredRule",
    "Encoding",
    "EvidenceAlgorithm",
    "Rule",
    "check_algorithms",
    "keyword_leaves",
    "parse_keyword_file",
    "table_c1",
]

TEMPLATE: Final = "stream@1"
STAGE: Final = "流式数据-声明"
MAX_SECONDS: Final = 31_622_400
MAX_DECLARATION_BYTES: Final = 64 << 10

_MEMBERS = (
    "boundary case charset collector encoding format index keywords log max_silence_s previous rules slice slice_proof_s"
    " source stream_id"
)
_STREAM_ID = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)
_CHARSET = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FOLDABLE = frozenset({"utf-8", "ascii"})


class EvidenceAlgorithm(StrEnum):
    """How a slice's content or index becomes its evidence value: one digest, or a tree (Table C.1)."""

    HASH = "hash"
    MERKLE = "merkle"


def table_c1(*, slice_private: bool, index_private: bool) -> tuple[EvidenceAlgorithm, EvidenceAlgorithm]:
    """The algorithms of slice and index that Table C.1 gives for what is private.

    A private index needs a private slice's algorithm too: a slice shown whole shows its keywords.
    Source: T/SAC 004—2024 C.5-p5, Table C.1.
    """
    if index_private:
        return EvidenceAlgorithm.MERKLE, EvidenceAlgorithm.MERKLE
    return (EvidenceAlgorithm.MERKLE if slice_private else EvidenceAlgorithm.HASH), EvidenceAlgorithm.HASH


def check_algorithms(slice_algorithm: str, index_algorithm: str, *, slice_private: bool, index_private: bool) -> None:
    """Pass a pair of algorithms that is no weaker than the table's.

    Raises: Malformed if slice or index has `hash` where the table has `merkle`.
    Source: T/SAC 004—2024 C.5-p1, Table C.1; formats §11 (`index: hash` only for streams whose K is public).
    """
    wanted = table_c1(slice_private=slice_private, index_private=index_private)
    for what, given, least in zip(("slice", "index"), (slice_algorithm, index_algorithm), wanted, strict=True):
        if given == EvidenceAlgorithm.HASH and least is EvidenceAlgorithm.MERKLE:
            raise Malformed(
                f"evidence algorithm of the {what} is weaker than Table C.1 allows: expected merkle, got hash",
                hint="where slice or index is private, its answers may not show it whole",
            )


def check_stream_id(value: JSONValue) -> str:
    """`value` as a stream id. Raises: Malformed. Source: formats §11 (Streams)."""
    if not isinstance(value, str) or not _STREAM_ID.fullmatch(value):
        raise Malformed("stream id has wrong form: expected 1 to 64 of a-z 0-9 . _ -")
    return value


def check_text(value: JSONValue, what: str, limit: int = 1024) -> str:
    """`value` as text of 1 to `limit` characters without control characters. Raises: Malformed."""
    if not isinstance(value, str) or not 1 <= len(value) <= limit or _CONTROL.search(value):
        raise Malformed(f"{what} has wrong form: expected 1 to {limit} characters without control characters")
    return value


def check_count(value: JSONValue, what: str, least: int = 0, most: int = (1 << 53) - 1) -> int:
    """`value` as an integer from `least` to `most`. Raises: Malformed."""
    if type(value) is not int or not least <= value <= most:
        raise Malformed(f"{what} is out of range: expected an integer from {least} to {most}")
    return value


def _one_of(value: JSONValue, kind: type[StrEnum], what: str) -> str:
    names = [member.value for member in kind]
    if value not in names:
        raise Malformed(f"{what} of the declaration has wrong value: expected {' or '.join(names)}")
    return str(value)


@dataclass(frozen=True, slots=True)
class Declaration:
    """D: a stream as declared; `data` are its canonical bytes, preserved as `stream@1`.

    Source: T/SAC 004—2024 C.3, C.4-a, C.5-p1; formats §5.1, §5.9, §11 (Streams).
    """

    boundary: str
    case: str
    charset: str | None
    collector: VerifierKey
    encoding: str
    index: str
    keywords_size: int
    keywords: Pair
    log: str
    max_silence_s: int
    previous: Pair | None
    rules: tuple[DeclaredRule, ...]
    slice: str
    slice_proof_s: int
    source: str
    stream_id: str
    data: bytes = field(default=b"", repr=False)
    pair: Pair = field(default=Pair(b"", b""), repr=False)

    @classmethod
    def build(
        cls,
        *,
        stream_id: str,
        log: str,
        source: str,
        collector: VerifierKey,
        keywords: Sequence[bytes],
        rules: Sequence[Rule] = (),
        secret: bytes,
        max_silence_s: int,
        slice_proof_s: int,
        encoding: str = Encoding.LINE,
        boundary: str = Boundary.NONE,
        case: str = Case.EXACT,
        charset: str | None = None,
        slice_private: bool = True,
        index_private: bool = True,
        slice_algorithm: str | None = None,
        index_algorithm: str | None = None,
        previous: Declaration | None = None,
    ) -> Declaration:
        """The declaration over these facts; keywords and cell keys are fixed with salts from `secret` (its item's).

        The algorithms follow from what is private (Table C.1) unless stronger ones are named.

        Shapes: keywords strictly ascending bytewise, rules ascending by name, as `parse_keyword_file` gives them.
        Raises: Malformed if a fact is none that `parse` accepts, an algorithm is weaker than what is private
            needs, or the declaration before is of another stream.
        """
        check_stream_id(stream_id)
        table = table_c1(slice_private=slice_private, index_private=index_private)
        chosen = (slice_algorithm or table[0].value, index_algorithm or table[1].value)
        check_algorithms(*chosen, slice_private=slice_private, index_private=index_private)
        before = None if previous is None else previous.pair
        if list(keywords) != sorted(set(keywords)):
            raise Malformed("keywords do not ascend bytewise, each once")
        for keyword in keywords:
            check_keyword(keyword, case=case, encoding=encoding)
        fixed = keywords_pair(keywords, secret=secret, stream_id=stream_id, previous=before)
        made = [
            DeclaredRule(rule, cells(rule.check(), secret=secret, stream_id=stream_id, previous=before).pair) for rule in rules
        ]
        value = {
            "boundary": boundary, "case": case, "charset": charset, "collector": str(collector), "encoding": encoding,
            "format": "cz-stream/1", "index": chosen[1], "keywords": {**fixed.to_json(), "size": len(keywords)}, "log": log,
            "max_silence_s": max_silence_s, "previous": before and before.to_json(), "rules": [rule.to_json() for rule in made],
            "slice": chosen[0], "slice_proof_s": slice_proof_s, "source": source, "stream_id": stream_id,
        }  # fmt: skip
        declaration = cls.parse(canonical(value))
        if previous is not None:
            declaration.check_follows(previous)
        return declaration

    @classmethod
    def parse(cls, data: bytes) -> Declaration:
        """The declaration whose canonical bytes are `data`.

        Raises: Malformed on any deviation from the schema; Unknown for another version of it.
        Source: formats §5.1, §11 (Streams).
        """
        value = parse_canonical(data, max_bytes=MAX_DECLARATION_BYTES, what="declaration")
        check_format(value, "cz-stream")
        (
            boundary, case, charset, collector, encoding, _, index, keywords, log, max_silence_s, previous, rules, slice_,
            slice_proof_s, source, stream_id,
        ) = members(value, _MEMBERS, "declaration")  # fmt: skip
        sha256_hex, size, sm3_hex = members(keywords, "sha256 size sm3", "keywords of the declaration")
        if charset is not None and (not isinstance(charset, str) or not _CHARSET.fullmatch(charset)):
            raise Malformed("charset of the declaration has wrong form: expected for example utf-8, or null")
        key = VerifierKey.parse(collector)
        if key.type != STATEMENT_TYPE:
            raise Malformed("collector of the declaration is no key for statements")
        if not isinstance(rules, list) or len(rules) > MAX_RULES:
            raise Malformed(f"rules of the declaration has wrong form: expected an array of at most {MAX_RULES}")
        found = tuple(DeclaredRule.from_json(entry) for entry in rules)
        names = [declared.rule.name for declared in found]
        if names != sorted(set(names)):
            raise Malformed("rules of the declaration do not ascend by name, each once")
        declaration = cls(
            _one_of(boundary, Boundary, "boundary"),
            _one_of(case, Case, "case"),
            charset,
            key,
            _one_of(encoding, Encoding, "encoding"),
            _one_of(index, EvidenceAlgorithm, "index"),
            check_count(size, "size of the keywords", most=MAX_KEYWORDS),
            Pair.from_json({"sha256": sha256_hex, "sm3": sm3_hex}, what="keywords of the declaration"),
            check_origin(log),
            check_count(max_silence_s, "max_silence_s", 1, MAX_SECONDS),
            None if previous is None else Pair.from_json(previous, what="previous of the declaration"),
            found,
            _one_of(slice_, EvidenceAlgorithm, "slice"),
            check_count(slice_proof_s, "slice_proof_s", 1, MAX_SECONDS),
            check_text(source, "source of the declaration"),
            check_stream_id(stream_id),
            data,
            pair(data),
        )
        declaration._check()
        return declaration

    def _check(self) -> None:
        if (self.boundary == Boundary.WORD or self.case == Case.ASCII) and self.charset not in _FOLDABLE:
            raise Malformed(
                "boundary word and case ascii need charset utf-8 or ascii",
                hint="in other encodings a byte of a character can look like a letter",
            )
        if self.keywords_size == 0 and not self.rules:
            raise Malformed("declaration has neither keywords nor rules: expected at least one")

    def check_follows(self, previous: Declaration) -> None:
        """Pass a declaration that takes the place of `previous`: the same stream, other keywords or rules.

        Raises: Malformed if it names another declaration before it, or log, stream, source, encoding or collector differ.
        Source: formats §5.1, §11 (22).
        """
        if self.previous != previous.pair:
            raise Malformed("older declaration: declaration names another one as previous than the one before it")
        for name in ("log", "stream_id", "source", "encoding", "collector"):
            if getattr(self, name) != getattr(previous, name):
                raise Malformed(f"declaration of the same stream has another {name} than the one before it")

    def rule(self, name: str) -> DeclaredRule | None:
        """The rule called `name`, if the declaration has one."""
        return next((declared for declared in self.rules if declared.rule.name == name), None)

    def cells(self, rule: Rule, *, secret: bytes) -> Cells:
        """The cell keys of a rule of this declaration, whose item's secret is `secret`."""
        return cells(rule, secret=secret, stream_id=self.stream_id, previous=self.previous)

    def keyword_leaves(self, keywords: Sequence[bytes], *, secret: bytes) -> list[bytes]:
        """The leaves of K by rank, whose root is `keywords.sm3`.

        Raises: Malformed if `keywords` and `secret` do not give what the declaration states.
        """
        if keywords_pair(keywords, secret=secret, stream_id=self.stream_id, previous=self.previous) != self.keywords:
            raise Malformed("keywords or secret are not the declaration's: they give another root")
        return keyword_leaves(keywords, secret=secret, stream_id=self.stream_id, previous=self.previous)

    def stages(self) -> tuple[tuple[str, Pair], ...]:
        """The stages of its statement, of template `stream@1`."""
        return ((STAGE, self.pair),)
