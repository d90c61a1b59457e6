"""Submissions prepared together are what each of them is alone, accepted or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from homes import FUND, business, file_submission, serving, settings_of

from evidence.content import open_content
from evidence.errors import Forbidden
from evidence.preparation import Asked, Prepared
from models.canonical import b64, canonical
from models.errors import EvidenceError, Invalid
from models.example import example
from models.template import builtin


def secret_of(number: int) -> str:
    return b64(bytes((number + place) % 256 for place in range(32)))


def bodies() -> list[Any]:
    """Accepted and refused in turns, one for each step that refuses; secrets are given, so that all but the nonces repeats."""
    good = [file_submission(f"key-{number}", secret=secret_of(number)) for number in range(4)]
    fund = {**example(builtin(FUND), seed=b"p", client_key="fund"), "secret": secret_of(9)}
    wrong = file_submission("wrong")
    wrong["stages"]["文件"]["file_size"] = "1"
    other = {"field": "object", "digest": "sm3:" + "0" * 64, "name": "a", "media_type": "b"}
    return [
        good[0],
        [],
        fund,
        {"template": "file@1", "client_key": "", "stages": {"文件": 5}, "colour": 1},
        good[1],
        {**file_submission("x"), "template": "nothing@1"},
        {**file_submission("x"), "template": "conflict@1"},
        {**file_submission("x"), "template": "stream@1"},
        wrong,
        {**file_submission("13912345678"), "originals": [other]},
        good[2],
        {"template": "file@1", "client_key": "k", "sealed": {"statement": "{}"}},
        {**file_submission("signed"), "signature": {"key_id": "00000000", "value": b64(bytes(64))}},
        good[3],
    ]


def said(made: Prepared | Exception) -> Any:
    """All that may be compared: everything but the nonce and what lies under it."""
    if isinstance(made, Exception):
        assert isinstance(made, EvidenceError)
        return type(made), made.message, made.hint, getattr(made, "problems", None)
    assert made.secret is not None
    content = open_content(made.secret, made.statement.evidence_id, made.pending.content)
    return made.submission, made.template.name, made.statement, made.signature, made.secret, list(made.pending.tags), content


@pytest.mark.parametrize("count", [1, 2, 5, 14])
async def test_each_of_many_is_what_it_is_alone(tmp_path: Path, count: int) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        preparation, caller = service.preservation._preparation, business(service)
        alone = [said(made) for body in bodies() for made in preparation.prepare_each([Asked(body, caller, "r")])]
        given = bodies()
        groups = [given[at : at + count] for at in range(0, len(given), count)]
        together = [
            said(made) for group in groups for made in preparation.prepare_each([Asked(body, caller, "r") for body in group])
        ]
        assert together == alone
        assert [isinstance(each[0], type) for each in alone] == [place not in {0, 2, 4, 10, 13} for place in range(len(alone))]


async def test_one_alone_is_given_or_its_refusal_raised(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        preparation, caller = service.preservation._preparation, business(service)
        for body, (made,) in [(body, preparation.prepare_each([Asked(body, caller, "r")])) for body in bodies()]:
            if isinstance(made, EvidenceError):
                with pytest.raises(type(made)) as caught:
                    preparation.prepare(body, caller, "r")
                assert said(caught.value) == said(made)
            else:
                assert said(preparation.prepare(body, caller, "r")) == said(made)


async def test_content_and_statement_are_those_of_the_plain_encoders(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        body = bodies()[2]
        made = service.preservation._preparation.prepare(body, business(service), "r")
        content = open_content(made.secret or b"", made.statement.evidence_id, made.pending.content)
        assert (
            content == json.dumps({"originals": [], "stages": body["stages"]}, ensure_ascii=False, separators=(",", ":")).encode()
        )
        assert canonical(json.loads(made.statement.data)) == made.statement.data


async def test_every_problem_of_a_refused_one_is_told(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        preparation, caller = service.preservation._preparation, business(service)
        made = preparation.prepare_each([Asked(body, caller, "r") for body in bodies()])
        assert [type(made[place]) for place in (1, 3, 6, 7, 8)] == [Invalid, Invalid, Forbidden, Forbidden, Invalid]
        envelope, both = made[3], made[9]
        assert isinstance(envelope, Invalid)
        assert [problem.pointer for problem in envelope.problems] == ["", "/client_key", "/stages/文件"]
        assert isinstance(both, Invalid)
        assert [problem.pointer for problem in both.problems] == ["/client_key", "/originals/0"]
