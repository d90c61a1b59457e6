"""The shipped answers about a stream: each has its verdict, for as long as its versions are known."""

import json
from pathlib import Path

import pytest

from evidence.verifier import verify
from models.report import Verdict

STREAMS = Path(__file__).parents[1] / "vectors" / "streams"
EXPECTED = json.loads((STREAMS / "expected.json").read_text())
TRUST = (STREAMS / "trust.toml").read_bytes()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_shipped_answer_has_its_verdict(name: str) -> None:
    report = verify((STREAMS / name).read_bytes(), TRUST)
    expected = EXPECTED[name]
    assert report.verdict == Verdict(expected["verdict"])
    if "check" in expected:
        assert expected["says"] in report.step(expected["check"]).detail
    assert verify((STREAMS / name).read_bytes(), TRUST).to_text() == report.to_text()


def test_every_shipped_answer_is_expected() -> None:
    assert {f"{path.parent.name}/{path.name}" for path in STREAMS.glob("*/*.cz")} == set(EXPECTED)
