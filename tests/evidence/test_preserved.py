"""The answer to an accepted item, written out for speed, says what its plain form says."""

import json
from datetime import UTC, datetime
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.preservation import Preserved
from models.canonical import canonical
from models.evidence import EvidenceId

ANSWER = Preserved(
    EvidenceId("ev_" + "0a" * 32),
    7,
    "SEALED",
    bytes(range(32)),
    '{"statement":{"subject":{"name":"示例 \\"证券\\"\\\\"}}}'.encode(),
    bytes(reversed(range(32))),
    True,
    "sandbox.localhost/log/1\n8\nabc=\n\n\u2014 sandbox.localhost/log/1 xyz=\n",
    (bytes(32), b"\xff" * 32),
    8,
    datetime(2026, 11, 21, 6, 0, 0, 123456, UTC),
)


@pytest.mark.parametrize(
    "answer",
    [ANSWER, ANSWER._replace(secret=None), ANSWER._replace(inclusion_proof=()), ANSWER._replace(checkpoint="")],
    ids=["new", "without a secret", "alone in the log", "of an empty log"],
)
def test_bytes_of_an_answer_are_its_json(answer: Preserved) -> None:
    assert json.loads(answer.to_bytes()) == answer.to_json()
    assert answer.to_bytes() == json.dumps(answer.to_json(), ensure_ascii=False, separators=(",", ":")).encode()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_every_canonical_evidence_is_written_as_json_writes_it(text: str) -> None:
    answer = ANSWER._replace(evidence=canonical({"name": normalize("NFC", text)}))
    assert answer.to_bytes() == json.dumps(answer.to_json(), ensure_ascii=False, separators=(",", ":")).encode()


def test_bytes_of_another_answer_are_others() -> None:
    assert ANSWER._replace(leaf_index=8).to_bytes() != ANSWER.to_bytes()
    assert ANSWER._replace(checkpoint="other").to_bytes() != ANSWER.to_bytes()
