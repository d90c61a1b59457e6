"""Every case of the second implementation gets its verdict, at its step; and a report is a function of its inputs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evidence.render import render
from evidence.verifier import OriginalDigest, verify
from models.bundle import encode, manifest_of, pack, unpack
from models.canonical import canonical, parse_canonical
from models.digest import pair
from models.report import AUTHENTICITY, CHECKS, SANDBOX_WARNING, Verdict
from models.trust import TrustRoots

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "expected.json").read_text())
TRUST = (VECTORS / "trust.toml").read_bytes()
GOOD = (VECTORS / "good" / "merkle.cz").read_bytes()


def read(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['file']}-{case['trust']}-{len(case['originals'])}")
def test_case_gets_its_verdict_and_step(case: dict[str, Any]) -> None:
    report = verify(read(case["file"]), read(case["trust"]), [read(name) for name in case["originals"]])
    found = "MALFORMED" if report.verdict is None else report.verdict.value
    assert found == case["verdict"], [step for step in report.steps if step.verdict is not Verdict.VALID]
    if case["step"] is not None:
        assert report.step(case["step"]).verdict is report.verdict


def test_all_cases_are_here() -> None:
    assert len(CASES) == 95
    shown = {case["file"] for case in CASES}
    assert shown == {f"{path.parent.name}/{path.name}" for path in VECTORS.glob("*/*.cz")}


@pytest.mark.parametrize("case", [case for case in CASES if case["verdict"] == "INDETERMINATE"], ids=lambda case: case["why"])
def test_what_cannot_be_told_is_never_called_forged(case: dict[str, Any]) -> None:
    report = verify(read(case["file"]), read(case["trust"]), [read(name) for name in case["originals"]])
    assert all(step.verdict is not Verdict.INVALID for step in report.steps)


def test_report_is_the_same_for_the_same_inputs() -> None:
    first, second = verify(GOOD, TRUST), verify(bytes(bytearray(GOOD)), TrustRoots.parse(TRUST))
    assert first.to_text() == second.to_text()
    assert render(first) == render(second)


@pytest.mark.parametrize(
    "file", ["good/merkle.cz", *sorted({case["file"] for case in CASES if case["verdict"] == "INVALID"})[:3]]
)
def test_report_that_does_not_name_its_bundle_says_all_the_rest(file: str) -> None:
    report = verify(read(file), TRUST)
    assert report.bundle == pair(read(file))
    assert verify(read(file), TRUST, named=False) == replace(report, bundle=None)


def test_report_is_the_same_in_another_process() -> None:
    code = (
        "import sys; from evidence.verifier import verify; "
        "sys.stdout.write(verify(open(sys.argv[1],'rb').read(), open(sys.argv[2],'rb').read()).to_text())"
    )
    command = [sys.executable, "-c", code, str(VECTORS / "good" / "transaction.cz"), str(VECTORS / "trust.toml")]
    texts = {
        subprocess.run(
            command, check=True, capture_output=True, env={"PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone}
        ).stdout
        for seed, locale, zone in (("1", "C", "UTC"), ("2", "C.UTF-8", "Asia/Shanghai"))
    }
    assert texts == {verify(read("good/transaction.cz"), TRUST).to_text().encode()}


def test_report_has_exactly_the_members_of_the_page() -> None:
    value = parse_canonical(verify(GOOD, TRUST).to_text().encode())
    assert set(value) == {
        "format", "verdict", "sentence", "kind", "question", "bundle", "trust", "interval", "environment", "independence",
        "steps", "relied_on", "not_checked", "findings",
    }  # fmt: skip
    assert value["format"] == "cz-report/1"
    assert [step["number"] for step in value["steps"]] == [check.number for check in CHECKS] == list(range(1, 22))
    assert all(set(step) == {"number", "name", "verdict", "detail", "clause"} for step in value["steps"])
    assert value["bundle"] == pair(GOOD).to_json()
    assert value["trust"] == pair(TRUST).to_json()
    assert set(value["interval"]) == {"not_before", "not_after"}
    assert set(value["independence"]) == {"parties", "must_collude", "third_parties"}
    assert AUTHENTICITY in value["not_checked"]
    assert value["kind"] == "item"
    assert value["question"] is None
    assert value["environment"] == "sandbox"


def test_report_of_malformed_input_says_only_that() -> None:
    for bundle, trust in ((GOOD + b"x", TRUST), (b"", TRUST), (GOOD, b"format = 1"), (GOOD, b"\xff")):
        report = verify(bundle, trust)
        value = report.to_json()
        assert set(value) == {"format", "verdict", "malformed"}
        assert value["verdict"] is None
        assert report.exit_code == 3
        assert render(report)
        assert render(report, "en")


def test_each_verdict_has_one_sentence_and_one_exit_code() -> None:
    found: dict[Verdict | None, set[tuple[str, int]]] = {}
    for case in CASES:
        report = verify(read(case["file"]), read(case["trust"]), [read(name) for name in case["originals"]])
        found.setdefault(report.verdict, set()).add((report.sentence, report.exit_code))
    assert {verdict: len(said) for verdict, said in found.items()} == dict.fromkeys(found, 1)
    assert len(found) == 4


def test_original_may_be_given_by_its_digests() -> None:
    data = read("originals/contract.txt")
    by_digest = OriginalDigest(pair(data), len(data))
    assert verify(GOOD, TRUST, [by_digest]).step(7).verdict is Verdict.VALID
    assert verify(GOOD, TRUST, [OriginalDigest(pair(data), len(data) + 1)]).step(7).verdict is Verdict.INVALID
    assert verify(GOOD, TRUST, [data, read("originals/other.txt")]).step(7).verdict is Verdict.INVALID


def test_sandbox_is_printed_and_changes_no_verdict() -> None:
    report = verify(GOOD, TRUST)
    assert report.verdict is Verdict.VALID
    for lang in ("zh", "en"):
        assert SANDBOX_WARNING in render(report, lang)


def test_later_version_of_the_container_is_indeterminate() -> None:
    files = dict(unpack(GOOD).files)
    manifest = manifest_of(files, "item").replace(b'"cz/1"', b'"cz/2"')
    report = verify(encode({"manifest.json": manifest, **files}), TRUST)
    assert report.verdict is Verdict.INDETERMINATE
    assert report.step(2).verdict is Verdict.INDETERMINATE


def test_item_that_calls_itself_an_answer_is_refused() -> None:
    report = verify(pack(dict(unpack(GOOD).files), "answer"), TRUST)
    assert report.verdict is Verdict.INVALID
    assert report.step(22).verdict is Verdict.INVALID
    assert report.kind == "answer"


@pytest.mark.parametrize("name", ["evidence/0/disclosure.json", "evidence/0/sha256.tlog-proof"])
def test_file_that_may_be_absent_only_says_less(name: str) -> None:
    files = dict(unpack(GOOD).files)
    del files[name]
    report = verify(pack(files, "item"), TRUST)
    assert report.verdict is Verdict.VALID
    assert set(report.not_checked) - set(verify(GOOD, TRUST).not_checked)


def _disclosure(change: Any) -> bytes:
    files = dict(unpack(GOOD).files)
    value = parse_canonical(files["evidence/0/disclosure.json"])
    change(value)
    files["evidence/0/disclosure.json"] = canonical(value)
    return pack(files, "item")


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("format"),
        lambda value: value["stages"][0].pop("flat_salt"),
        lambda value: value["stages"].reverse(),
        lambda value: value["stages"][0]["fields"].reverse(),
        lambda value: value["stages"][0]["proof"].append("A" * 43 + "="),
        lambda value: value.update(extra=1),
        lambda value: value.update(stages=[]),
    ],
    ids=["format-left-out", "flat-salt-left-out", "stages-swapped", "fields-swapped", "hash-left-over", "member-added", "empty"],
)
def test_disclosure_of_another_form_is_invalid_by_5(change: Any) -> None:
    report = verify(_disclosure(change), TRUST)
    assert report.step(5).verdict is Verdict.INVALID
