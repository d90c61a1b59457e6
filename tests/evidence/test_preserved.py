"""The answer to an accepted item, written out for speed, says what its plain form says."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from evidence.preservation import Preserved
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
    [ANSWER, replace(ANSWER, secret=None), replace(ANSWER, inclusion_proof=()), replace(ANSWER, checkpoint="")],
    ids=["new", "without a secret", "alone in the log", "of an empty log"],
)
def test_text_of_an_answer_is_its_json(answer: Preserved) -> None:
    assert json.loads(answer.to_text()) == answer.to_json()
    assert answer.to_text() == json.dumps(answer.to_json(), ensure_ascii=False, separators=(",", ":"))


def test_text_of_another_answer_is_other_text() -> None:
    assert replace(ANSWER, leaf_index=8).to_text() != ANSWER.to_text()
    assert replace(ANSWER, checkpoint="other").to_text() != ANSWER.to_text()
