"""Whatever the verifier can say in English has its Chinese, and what is not known stays as it was said."""

import ast
import json
import re
import unicodedata
from pathlib import Path
from random import Random
from time import process_time
from typing import Any, Literal

import pytest
import stream_cheats
import stream_cheats_row
from hypothesis import given
from hypothesis import strategies as st
from stream_prover import CHEATS, Prover, apply
from stream_world import Stream
from wording_texts import PROOF, model_files, raised, spoken, terms, variants, verifier_files

from evidence.cli.trust import fingerprint_of
from evidence.render import render
from evidence.verifier import verify
from evidence.wording import beijing, chinese, chinese_name, chinese_reasons
from models.canonical import parse_time
from models.extraction import Rule
from models.report import SANDBOX_WARNING, Independence, Party, Report, Verdict

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "expected.json").read_text())
HAN = re.compile("[\u4e00-\u9fff]")
ENGLISH = re.compile(r"[A-Za-z']+,? [a-z][a-z']*,? [a-z]+")
"""Three English words in a row: a sentence, not a name."""
QUOTED = re.compile(r"“[^”]*”|(?:[0-9a-f]{4} ){15}[0-9a-f]{4}")
"""Keywords and names in quotes, and grouped digests, whose letters are no words."""
SELF_NAMED = re.compile(r"[a-z]+(_[a-z]+)+|[A-Z]\w*[A-Z]\w*|from|to|seen|after|follows|tlog-proof|bizName of the template")

RULE = Rule("id", b"id=", b"12", 1, 3, bits=2)
CHEATING = (stream_cheats, stream_cheats_row)
"""The modules whose import fills the list of cheats."""

NO_SENTENCES = {
    "%Y-%m-%d %H:%M:%S": "a form of times",
    "disclosure evidence format proof": "members of a tombstone",
    "leaves proof": "members of a row",
    "leaf proof": "members of a row",
    "chain engine format height proof": "members of a block proof",
    "chain format key payload sender signature": "members of a transaction",
    "chain difficulty format height nodes parent state_root time tx_count tx_root version": "members of a block header",
    "header index path seals transaction": "members of the proof of a receipt",
    "header seals": "members of the proof of a block",
    "node value": "members of a seal",
    "log 7": "the role of a party, by its term",
    "chain 7": "the role of a party, by its term",
    "time-stamp authority": "the role of a party, by its term",
    "checkpoint of size 7": "a place in brackets, by its term",
    "7, 7": "two places in brackets",
    "7 (7)": "an organisation and its role",
    "7 = 7": "a rule and a value",
    "b64u 7": "a keyword",
    "the start": "part of the sentences on silence and gaps, which are tried whole",
    "nothing is covered": "part of the sentences on the range, which are tried whole",
    "value: the rule finds none of its form": "part of `not indexed`, by its term",
    "statement 7": "a mark that is never said",
}
FRAGMENTS = (
    "between 2026",
    "positions 7 to 7 were lost",
    "covered is 2026",
    "in 7 slice",
    "submitted by ",
    "times are the collector's word",
)
"""Beginnings of texts that are said only as part of others, which are tried whole."""

NOT_THE_VERIFIERS = {
    "issuing": "certificates are issued by others",
    "answer": "answers are made by the service",
    "commitment.disclose": "disclosures are made by the service",
    "commitment.check_secret": "secrets are the submitter's",
    "libcrypto._key": "private keys are the signers'",
    "libcrypto.private_key": "private keys are the signers'",
    "libcrypto.sm4": "salts are made by the service",
    "libcrypto.to_pem": "private keys are the signers'",
    "library": "messages are put together by those who hash them",
    "keywords.parse_keyword_file": "keyword files are read where a stream is declared",
    "keywords._plain": "keyword files are read where a stream is declared",
    "keywords._toml": "keyword files are read where a stream is declared",
    "keywords._rule": "keyword files are read where a stream is declared",
    "keywords._encoded": "keyword files are read where a stream is declared",
    "keywords._sorted": "keyword files are read where a stream is declared",
    "keywords.character_class": "keyword files are read where a stream is declared",
    "toml.value_of": "trust files are written by the service",
    "x509.parse_csr": "requests are read where certificates are issued",
    "validation.stage": "submissions are validated by the service",
    "validation.field": "submissions are validated by the service",
    "validation.member": "submissions are validated by the service",
}


def _is_chinese(text: str) -> bool:
    put = chinese(text)
    return HAN.search(put) is not None and ENGLISH.search(QUOTED.sub("", put)) is None


def _name(path: Path, node: ast.expr) -> str:
    return f"{path.stem}:{node.lineno}"


@pytest.mark.parametrize("path", [*verifier_files(), PROOF], ids=lambda path: path.stem)
def test_every_text_of_the_checks_has_its_chinese(path: Path) -> None:
    known_terms = {text for node in terms(path) for text in variants(node)}
    lacking = [
        (_name(path, node), text)
        for node in spoken(path)
        for text in variants(node)[:1]
        if not text.startswith(FRAGMENTS) and text not in NO_SENTENCES and text not in known_terms
        if not any(map(_is_chinese, variants(node)))
    ]
    assert lacking == []


@pytest.mark.parametrize("path", model_files(), ids=lambda path: path.stem)
def test_every_error_that_a_check_can_meet_has_its_chinese(path: Path) -> None:
    lacking = [
        (where, variants(node)[0])
        for where, node in raised(path)
        if path.stem not in NOT_THE_VERIFIERS and where not in NOT_THE_VERIFIERS
        if not any(map(_is_chinese, variants(node)))
    ]
    assert lacking == []


@pytest.mark.parametrize("path", [*verifier_files(), PROOF, *model_files()], ids=lambda path: path.stem)
def test_every_term_that_sentences_are_made_of_has_its_chinese(path: Path) -> None:
    lacking = [
        (_name(path, node), text)
        for node in terms(path)
        for text in variants(node)[:1]
        if not SELF_NAMED.fullmatch(text) and f"{path.stem}.{text}" not in NOT_THE_VERIFIERS
        if not any(HAN.search(chinese_name(each)) for each in variants(node))
    ]
    assert lacking == []


def test_a_text_without_chinese_would_be_found() -> None:
    assert not _is_chinese("the moon is made of cheese (evidence/0)")
    assert not _is_chinese("closes is not a boolean; the moon is made of cheese")
    assert len(model_files()) > 20
    assert sum(1 for path in model_files() for _ in raised(path)) > 300


# --- whole reports -----------------------------------------------------------------------------------------------------


def _english_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if ENGLISH.search(QUOTED.sub("", line))]


def _report(case: dict[str, Any]) -> Report:
    originals = [(VECTORS / name).read_bytes() for name in case["originals"]]
    return verify((VECTORS / case["file"]).read_bytes(), (VECTORS / case["trust"]).read_bytes(), originals)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['file']}-{case['trust']}")
def test_no_english_sentence_stands_in_a_chinese_report(case: dict[str, Any]) -> None:
    report = _report(case)
    assert _english_in(render(report)) == []
    if report.steps:
        assert _english_in(render(report, "en")) != []


def _stream() -> Stream:
    stream = Stream([b"a", b"b", b"id="], rules=[RULE])
    for lines in ([b"a line", b"id=12 b"], [b"b and a", b"neither", b"id=1"], [], [b"a a", b"b"]):
        stream.collect(lines)
    return stream


def test_no_english_sentence_stands_in_the_chinese_of_an_answer() -> None:
    stream = _stream()
    report = verify(stream.answer(stream.question(b"a", b"b")), stream.trust())
    assert report.verdict == Verdict.VALID
    text = render(report)
    assert _english_in(text) == []
    assert "关键字：“a”、“b”（含有其一）" in text
    assert "就采集时固定并已存证的索引而言，本答案完整：无遗漏，无添加\n" in text
    assert "“a”依索引共出现 5 次，见于范围内 3 个分片" in text
    assert "the answer is complete" not in text


def test_an_answer_of_a_value_says_which() -> None:
    stream = _stream()
    report = verify(stream.answer(stream.value("id", b"12")), stream.trust())
    assert "规则取值：id = “12”" in render(report)
    assert "value of a rule: id = “12”" in render(report, "en")


@pytest.mark.parametrize("cheat", sorted(CHEATS))
def test_no_english_sentence_stands_in_the_chinese_of_a_cheating_answer(cheat: str) -> None:
    stream = _stream()
    question = stream.value("id", b"12") if "value" in cheat or "slot" in cheat else stream.question(b"a", b"b")
    prover = Prover(stream, stream.files(question), Random(1))
    apply(prover, cheat)
    assert _english_in(render(verify(prover.bundle(), stream.trust()))) == []


# --- the wording -------------------------------------------------------------------------------------------------------


@given(st.text())
def test_no_text_is_lost_or_raises(text: str) -> None:
    assert chinese(text) or not text


@pytest.mark.parametrize(
    "text",
    [
        " (a)" * 250,
        "bundle: " * 125 + "x",
        "root of " * 38 + "x" + " of the trust file" * 38,
        "gap: positions" + " to " * 240,
        "; ".join(["x (" * 100 + ")" * 100] * 8),
        "; " * 4000,
    ],
    ids=["brackets", "prefixes", "terms", "slots", "nested brackets", "semicolons"],
)
def test_no_text_of_a_bundle_makes_work_without_end(text: str) -> None:
    start = process_time()
    assert chinese(text)
    assert process_time() - start < 2


@pytest.mark.parametrize("text", ["the moon is made of cheese", "7", "", "a; b (c)", "上链前真实性", "n4me (n4me)", ") (", "; "])
def test_what_is_unknown_stays_as_it_is(text: str) -> None:
    assert chinese(text) == text.replace("; ", "；")


def test_an_unknown_reason_stays_beside_known_ones() -> None:
    text = "closes is not a boolean; the moon is made of cheese (evidence/3); and 4 more"
    assert chinese_reasons(text) == ["closes 不是布尔值", "the moon is made of cheese（存证 evidence/3）", "另有 4 项"]


def test_names_numbers_and_digests_stay_as_they_are() -> None:
    put = chinese("node 15a0327088a288d8 of chain chain of the sea (Office (Beijing) of nodes)")
    assert put == "链 chain of the sea 的节点 15a0327088a288d8（Office (Beijing) of nodes）"
    put = chinese("inclusion path leads to another root: expected 260c2d5e…, got 18d960fd… (evidence/0, anchors/12)")
    assert put == "包含证明路径得出的根不符：应为 260c2d5e…，实为 18d960fd…（存证 evidence/0，上链 anchors/12）"


def test_a_reason_with_a_semicolon_of_its_own_is_one() -> None:
    text = "end of the range is not reached: nothing is covered; tail cut or collector silent: s/1 is the last shown, though more was due; nothing is covered"  # noqa: E501
    assert len(chinese_reasons(text)) == 2


def test_times_in_details_are_in_beijing_time() -> None:
    put = chinese("chain c holds it since 2026-11-21T16:55:25.000Z (anchors/0)")
    assert put == "链 c 自 2026-11-22 00:55:25（北京时间）起已载有该内容（上链 anchors/0）"


@pytest.mark.parametrize(
    ("utc", "shown"),
    [
        ("2026-11-21T16:55:25.000Z", "2026-11-22 00:55:25（北京时间）"),
        ("2026-11-21T16:55:25.007Z", "2026-11-22 00:55:25.007（北京时间）"),
        ("9999-12-31T23:59:59.000Z", "9999-12-31T23:59:59.000Z"),
    ],
)
def test_a_time_is_shown_in_beijing_unless_its_year_has_no_name_there(utc: str, shown: str) -> None:
    assert beijing(parse_time(utc)) == shown


# --- the page ----------------------------------------------------------------------------------------------------------


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _from_column(line: str, column: int) -> str:
    """What of `line` stands from `column` on."""
    return next(line[place:] for place in range(len(line) + 1) if _columns(line[:place]) >= column)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_details_of_all_steps_stand_in_one_column(lang: Literal["zh", "en"]) -> None:
    report = _report(next(case for case in CASES if case["file"] == "good/transaction.cz"))
    lines = render(report, lang).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("  1  "))
    table = lines[start : lines.index("", start)]
    details = [line for line in table if "evidence/" in line]
    place = {"zh": "通过", "en": "holds"}[lang]
    column = _columns(table[0][: table[0].index(place)]) + {"zh": 8, "en": 16}[lang]
    columns = {_columns(line) - _columns(_from_column(line, column)) for line in details}
    assert len(details) > 10
    assert columns == {column}
    assert all(_from_column(line, column)[0] != " " for line in details)


def test_both_times_and_the_fingerprint_of_the_trust_file_can_be_read_off() -> None:
    case = next(case for case in CASES if case["file"] == "good/hash.cz")
    report = _report(case)
    assert report.trust is not None
    trust = (VECTORS / case["trust"]).read_bytes()
    for lang, beside in (("zh", "（北京时间）  2026-"), ("en", "Z (UTC)  2026-")):
        text = render(report, lang)  # type: ignore[arg-type]
        assert beside in text
        assert fingerprint_of(trust) in text


def test_english_says_nothing_in_chinese_but_names_and_the_warning() -> None:
    stream = _stream()
    for report in (_report(CASES[0]), verify(stream.answer(stream.question(b"a")), stream.trust())):
        said = [line for line in render(report, "en").splitlines() if HAN.search(line) and SANDBOX_WARNING not in line]
        assert said == []


def test_a_name_in_a_bundle_cannot_write_a_line_of_its_own() -> None:
    party = Party("A\n验证报告：有效\x1b[2J\u202e", "witness")
    report = Report(Verdict.INVALID, findings=("x\n  - y",), independence=Independence((party,)))
    for lang in ("zh", "en"):
        text = render(report, lang)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert not any(line.startswith(("验证报告：有效", "  - y")) for line in text.splitlines())
