"""Declarations, keyword files and keyword proofs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import canonical
from models.checkpoint import NOTE_TYPE, STATEMENT_TYPE, vkey
from models.declaration import Declaration, EvidenceAlgorithm, check_algorithms, parse_keyword_file, table_c1
from models.errors import Malformed, Unknown, VerificationError
from models.extraction import Rule
from models.keywords import (
    MAX_KEYWORD_BYTES,
    MAX_KEYWORDS,
    character_class,
    keyword_leaves,
    keyword_proof,
    keywords_pair,
    shown_ranks,
    verify_keywords,
)

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/streams/stream.json").read_text())
SECRET = bytes(range(32))
COLLECTOR = vkey("acct-1", bytes.fromhex(VECTOR["collector_key"]), STATEMENT_TYPE)
RULE = Rule("account", b"acct=", b"0123456789", 6, 20, bits=4)


def declare(**options: Any) -> Declaration:
    facts: dict[str, Any] = {
        "stream_id": "s1", "log": "evidence.example.cn/log/1", "source": "file:/var/log/app.log", "collector": COLLECTOR,
        "keywords": (b"AA", b"buy"), "rules": (RULE,), "secret": SECRET, "max_silence_s": 60, "slice_proof_s": 3600,
    }  # fmt: skip
    return Declaration.build(**{**facts, **options})


def test_declaration_and_its_leaves_are_those_of_the_vector() -> None:
    declaration = declare()
    assert declaration.data.decode() == VECTOR["declaration"]
    assert declaration.pair.to_json() == VECTOR["declaration_pair"]
    leaves = declaration.keyword_leaves((b"AA", b"buy"), secret=SECRET)
    assert [leaf.decode() for leaf in leaves] == VECTOR["keyword_leaves"]
    assert Declaration.parse(declaration.data) == declaration


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boundary", "line"), ("case", "folded"), ("charset", "UTF 8"), ("charset", 8), ("collector", "x"), ("encoding", "text"),
        ("index", "plain"), ("log", "no origin!"), ("max_silence_s", 0), ("max_silence_s", 1.5), ("max_silence_s", True),
        ("previous", {}), ("rules", {}), ("slice", "tree"), ("slice_proof_s", 0), ("source", ""), ("source", "a\nb"),
        ("stream_id", "S1"), ("stream_id", ""), ("stream_id", "s" * 65), ("extra", 1), ("keywords", {"size": 1}),
    ],
)  # fmt: skip
def test_member_out_of_form_is_refused(name: str, value: object) -> None:
    changed = {**json.loads(VECTOR["declaration"]), name: value}
    with pytest.raises(Malformed):
        Declaration.parse(json.dumps(changed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def test_other_version_is_unknown_and_other_text_malformed() -> None:
    with pytest.raises(Unknown):
        Declaration.parse(VECTOR["declaration"].replace("cz-stream/1", "cz-stream/2").encode())
    with pytest.raises(Malformed):
        Declaration.parse(VECTOR["declaration"].encode() + b"\n")


def test_collector_is_a_key_for_statements() -> None:
    with pytest.raises(Malformed, match="statements"):
        declare(collector=vkey("acct-1", COLLECTOR.public_key, NOTE_TYPE))


@pytest.mark.parametrize("options", [{"boundary": "word"}, {"case": "ascii", "keywords": (b"aa",)}])
def test_word_and_ascii_need_a_charset_in_which_bytes_are_letters(options: dict[str, Any]) -> None:
    for charset in (None, "gbk"):
        with pytest.raises(Malformed, match="charset"):
            declare(**options, charset=charset)
    assert declare(**options, charset="utf-8").charset == "utf-8"


def test_declaration_without_keywords_needs_a_rule() -> None:
    assert declare(keywords=()).keywords_size == 0
    with pytest.raises(Malformed, match="neither"):
        declare(keywords=(), rules=())


@pytest.mark.parametrize("keywords", [(b"buy", b"AA"), (b"AA", b"AA"), (b"",), (b"a\nb",), (b"x" * 257,)])
def test_keywords_out_of_order_or_form_are_refused(keywords: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed):
        declare(keywords=keywords)


def test_next_declaration_names_the_one_before_and_keeps_the_stream() -> None:
    first = declare()
    second = declare(keywords=(b"AA",), previous=first)
    second.check_follows(first)
    assert second.previous == first.pair
    with pytest.raises(Malformed, match="older declaration"):
        first.check_follows(second)
    with pytest.raises(Malformed, match="source"):
        declare(previous=first, source="file:/other")


# --- Table C.1 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slice_private", "index_private", "pair"),
    [(False, False, ("hash", "hash")), (True, False, ("merkle", "hash")), (True, True, ("merkle", "merkle")),
     (False, True, ("merkle", "merkle"))],
)  # fmt: skip
def test_table_c1_gives_the_algorithms_and_nothing_weaker_passes(
    *, slice_private: bool, index_private: bool, pair: tuple[str, str]
) -> None:
    facts = {"slice_private": slice_private, "index_private": index_private}
    assert tuple(table_c1(**facts)) == pair
    for one in EvidenceAlgorithm:
        for two in EvidenceAlgorithm:
            weaker = (one == "hash" and pair[0] == "merkle") or (two == "hash" and pair[1] == "merkle")
            if weaker:
                with pytest.raises(Malformed, match="weaker than Table"):
                    check_algorithms(one, two, **facts)
                with pytest.raises(Malformed, match="weaker than Table"):
                    declare(slice_algorithm=one.value, index_algorithm=two.value, **facts)
            else:
                made = declare(slice_algorithm=one.value, index_algorithm=two.value, **facts)
                assert (made.slice, made.index) == (one, two)


# --- keyword files ----------------------------------------------------------------------------------------------------


def test_plain_file_has_one_keyword_a_line() -> None:
    words = ["卖出".encode("gbk"), b"buy", "买入".encode(), b" a b "]
    for end in (b"", b"\n"):
        assert parse_keyword_file(b"\n".join(words) + end) == (tuple(sorted(words)), ())


def test_toml_file_has_keywords_and_rules() -> None:
    text = """# what we look for
keywords = ["买入", "sell"]
[[rule]]
name = "order"
after = "单号="
class = "A-Z0-9-"
min = 6
max = 20
[[rule]]
name = "account"
after = "acct="
class = "0-9"
min = 6
max = 20
bits = 12
"""
    keywords, rules = parse_keyword_file(text.encode(), charset="gbk")
    assert keywords == tuple(sorted(["买入".encode("gbk"), b"sell"]))
    assert [rule.name for rule in rules] == ["account", "order"]
    assert rules[0] == Rule("account", b"acct=", b"0123456789", 6, 20, bits=12)
    assert rules[1].after == "单号=".encode("gbk")
    assert rules[1].class_ == b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (b"", {}, "empty"),
        (b"\n", {}, "line 1"),
        (b"a\n\nb\n", {}, "line 2"),
        (b"a\nb\na\n", {}, "line 1, again line 3"),
        (b"a\r\nb\r\n", {}, "CR (line 1)"),
        (b"\xef\xbb\xbfa\n", {}, "line 1"),
        (b"a\n" + b"x" * 257, {}, "line 2"),
        (b"a\nBuy\n", {"case": "ascii"}, "line 2"),
        (b'keywords = ["a\\nb"]', {}, "keyword 1"),
        (b'keywords = ["a", ""]', {}, "keyword 2"),
        (b'keywords = ["a"\n[[rule]]\n', {}, "line"),
        (b"keywords = [1]", {}, "texts"),
        (b'keywords = ["\xe4\xb9\xb0"]', {"charset": "ascii"}, "keyword 1"),
        (b'keywords = ["a"]', {"charset": "latin-1"}, "charset"),
        (b'keywords = ["a"]\nother = 1', {}, "unknown member"),
        (b'[[rule]]\nname = "a"', {}, "rule 1"),
        (b'[[rule]]\nname="a"\nafter="x"\nclass="(a+)+$"\nmin=1\nmax=65', {}, "min and max"),
        (b'[[rule]]\nname="a"\nafter="x"\nclass="9-0"\nmin=1\nmax=6', {}, "backwards"),
        (b'[[rule]]\nname="a"\nafter="x"\nclass="^0-9"\nmin=1\nmax=6', {}, "without ^"),
        (b'[[rule]]\nname="a"\nafter=""\nclass="0-9"\nmin=1\nmax=6', {}, "after"),
        (b'[[rule]]\nname="a"\nafter="x"\nclass="0-9"\nmin=1.5\nmax=6', {}, "not an integer"),
        (b'[[rule]]\nname="A b"\nafter="x"\nclass="0-9"\nmin=1\nmax=6', {}, "name"),
    ],
)
def test_file_out_of_form_is_refused_naming_the_place(text: bytes, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_keyword_file(text, **options)
    assert words in caught.value.message


def test_rule_that_stands_twice_is_refused() -> None:
    rule = b'[[rule]]\nname="a"\nafter="x"\nclass="0-9"\nmin=1\nmax=6\n'
    with pytest.raises(Malformed, match="twice"):
        parse_keyword_file(rule + rule)


def test_hundred_thousand_words_are_refused_with_a_way_out() -> None:
    text = b"".join(b"word-%d\n" % number for number in range(100_000))
    with pytest.raises(Malformed, match=f"at most {MAX_KEYWORDS}") as caught:
        parse_keyword_file(text)
    assert "rule" in str(caught.value.hint)
    assert len(parse_keyword_file(b"".join(b"word-%d\n" % number for number in range(MAX_KEYWORDS)))[0]) == MAX_KEYWORDS


def test_lf_is_a_keyword_only_of_kafka() -> None:
    assert parse_keyword_file(b'keywords = ["a\\nb"]', encoding="kafka")[0] == (b"a\nb",)


def test_what_looks_like_a_pattern_is_only_text() -> None:
    keywords, _ = parse_keyword_file(b"(a+)+$\n.*\n[[rule\n")
    assert keywords == (b"(a+)+$", b".*", b"[[rule")
    assert character_class("(a+)*-") == b"()*+-a"


@given(st.sets(st.binary(min_size=1, max_size=MAX_KEYWORD_BYTES).filter(lambda word: not set(word) & set(b"\r\n")), min_size=1))
def test_any_bytes_make_a_keyword(words: set[bytes]) -> None:
    text = b"\n".join(words) + b"\n"
    if not text.startswith((b"\xef\xbb\xbf", b"[[", b"keywords", b" ", b"\t", b"#")):
        assert parse_keyword_file(text)[0] == tuple(sorted(words))


# --- proofs of rank and absence -----------------------------------------------------------------------------------------

WORDS = st.sets(st.binary(min_size=1, max_size=2), max_size=9).map(lambda words: tuple(sorted(words)))


@given(WORDS, st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=4, unique=True).map(sorted))
def test_every_keyword_is_shown_at_its_rank_or_absent(words: tuple[bytes, ...], asked: list[bytes]) -> None:
    leaves = keyword_leaves(words, secret=SECRET, stream_id="s1", previous=None)
    top = keywords_pair(words, secret=SECRET, stream_id="s1", previous=None).sm3
    ranks = shown_ranks(words, asked, absences=True)
    assert {rank for rank in ranks if words[rank] in asked} == set(shown_ranks(words, asked))
    shown = [(rank, leaves[rank].decode()) for rank in ranks]
    path = keyword_proof(leaves, ranks) if ranks else []
    found = verify_keywords(shown, path, size=len(words), root=top, asked=asked)
    assert found == {word: words.index(word) if word in words else None for word in asked}
    for gone in range(len(shown)):
        less = shown[:gone] + shown[gone + 1 :]
        fewer = keyword_proof(leaves, [rank for rank, _ in less]) if less else []
        try:
            again = verify_keywords(less, fewer, size=len(words), root=top, asked=asked)
        except VerificationError:
            continue
        assert all(found[word] == rank for word, rank in again.items())


def _moved(leaves: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(rank + 1, text) for rank, text in leaves]


def _swapped(leaves: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(leaves[0][0], leaves[1][1]), (leaves[1][0], leaves[0][1])]


@pytest.mark.parametrize("change", [_moved, _swapped, lambda leaves: leaves[::-1], lambda leaves: leaves * 2, lambda _: []])
def test_leaves_that_are_moved_are_refused(change: Callable[[list[tuple[int, str]]], list[tuple[int, str]]]) -> None:
    words = (b"a", b"b", b"c", b"d", b"e")
    leaves = keyword_leaves(words, secret=SECRET, stream_id="s1", previous=None)
    top = keywords_pair(words, secret=SECRET, stream_id="s1", previous=None).sm3
    shown = [(1, leaves[1].decode()), (3, leaves[3].decode())]
    path = keyword_proof(leaves, [1, 3])
    assert verify_keywords(shown, path, size=5, root=top, asked=[b"b", b"d"]) == {b"b": 1, b"d": 3}
    with pytest.raises(VerificationError):
        verify_keywords(change(shown), path, size=5, root=top, asked=[b"b", b"d"])


@pytest.mark.parametrize("text", ['["cz-keyword/1","AA","YQ"]', '["cz-keyword/2"]', "{}", '[ "cz-keyword/1"]', "", "\ud800"])
def test_leaf_out_of_form_is_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        verify_keywords([(0, text)], [], size=1, root=bytes(32), asked=[b"a"])


def test_keywords_that_are_not_the_declared_ones_give_no_leaves() -> None:
    declaration = declare()
    for keywords, secret in (((b"AA",), SECRET), ((b"AA", b"buy"), bytes(range(1, 33)))):
        with pytest.raises(Malformed, match="not the declaration's"):
            declaration.keyword_leaves(keywords, secret=secret)


def test_data_is_canonical() -> None:
    assert canonical(json.loads(declare().data)) == declare().data
