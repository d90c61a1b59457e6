from __future__ import annotations

import importlib
import json
from collections.abc import Iterator

import pytest

from evidence.api.problems import (
    KINDS,
    OF_SETTINGS,
    TABLE,
    Internal,
    Kind,
    Retry,
    headers_of,
    kind_of,
    problem_response,
    problem_value,
)
from evidence.errors import Conflict, Erased, NotFound, Overloaded, StorageFull, Unauthorised
from models.errors import EvidenceError, Invalid, Malformed, Problem

MODULES = ("models.errors", "evidence.errors", "chain_gateway.port", "evidence.api.problems")


def _descendants(kind: type[EvidenceError]) -> Iterator[type[EvidenceError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _descendants(below)


def _errors() -> list[type[EvidenceError]]:
    for name in MODULES:
        importlib.import_module(name)
    bases = {"ServiceError", "ChainError"}
    return [
        found
        for found in dict.fromkeys(_descendants(EvidenceError))
        if found.__module__ in MODULES and found.__name__ not in bases and found not in OF_SETTINGS
    ]


@pytest.mark.parametrize("kind", _errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_its_own_row(kind: type[EvidenceError]) -> None:
    assert kind in TABLE


def test_an_error_without_a_row_is_answered_as_its_nearest_base() -> None:
    class Nearer(NotFound):
        pass

    class Stranger(EvidenceError):
        pass

    assert kind_of(Nearer("no")) is TABLE[NotFound]
    assert kind_of(Stranger("no")) is TABLE[Internal]


@pytest.mark.parametrize("kind", TABLE.values(), ids=lambda kind: kind.name)
def test_a_kind_is_said_in_both_languages_and_has_a_name_of_its_own(kind: Kind) -> None:
    assert KINDS[kind.name] is kind
    assert kind.title("zh") != kind.title("en")
    assert kind.title("en").isascii()
    assert not kind.title("zh").isascii()
    assert 400 <= kind.status <= 599
    if kind.status in (429, 503):
        assert kind.retry in (Retry.LATER, Retry.NOW)


def test_a_problem_has_every_member_of_the_interface() -> None:
    problem = Problem("/stages/文件/size", "size", "文件大小", "a whole number", "text of 3 characters", "A.1")
    value = problem_value(Invalid("submission has 1 problem", (problem,), hint="see the template"), request_id="r-1")
    assert value == {
        "type": "/problems/invalid",
        "title": "内容不符合要求",
        "status": 422,
        "detail": "submission has 1 problem",
        "request_id": "r-1",
        "retry": "fix",
        "errors": [problem.to_json()],
        "hint": "see the template",
    }


def test_only_errors_that_know_more_say_more() -> None:
    plain = problem_value(Malformed("text is not JSON"), request_id="r")
    assert set(plain) == {"type", "title", "status", "detail", "request_id", "retry", "errors"}
    assert problem_value(Conflict("no", record_id="ev_1"), request_id="r")["record_id"] == "ev_1"
    assert problem_value(Erased("no", tombstone={"basis": "b"}), request_id="r")["tombstone"] == {"basis": "b"}


@pytest.mark.parametrize(
    ("error", "seconds"), [(Overloaded("wait", retry_after_s=7), "7"), (StorageFull("full", retry_after_s=30), "30")]
)
def test_who_must_come_back_is_told_when(error: EvidenceError, seconds: str) -> None:
    assert headers_of(error)["retry-after"] == seconds


def test_who_need_not_come_back_is_not() -> None:
    assert "retry-after" not in headers_of(NotFound("no"))
    assert headers_of(Unauthorised("no"))["www-authenticate"].startswith("Bearer")


def test_the_answer_is_a_problem_document_in_the_language_asked_for() -> None:
    response = problem_response(NotFound("no such item in this log"), request_id="r", language="en")
    assert response.status_code == 404
    assert response.media_type == "application/problem+json"
    assert response.headers["content-language"] == "en"
    assert json.loads(bytes(response.body))["title"] == TABLE[NotFound].title_en
