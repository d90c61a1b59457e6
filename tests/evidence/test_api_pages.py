"""The pages for people and the description: what a reader of Chinese or English sees, and that its examples can be sent."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_service import Running, running

from evidence.api.deps import JSON
from evidence.api.openapi import chinese
from evidence.api.problems import KINDS
from evidence.bootstrap import utc_now
from evidence.explorer import page
from evidence.explorer.words import LEGEND, WORDS, advice
from models.example import example
from models.template import builtin


def submission() -> dict[str, Any]:
    return example(builtin("file@1"), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as found:
        with found.client() as client:
            assert client.post("/v1/evidence?wait=final&timeout_s=30", json=submission()).status_code == 201
        yield found


def _get(api: Running, path: str, status: int = 200) -> str:
    with api.client(None) as client:
        answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.text


# --- the front page ---------------------------------------------------------------------------------------------------


def test_the_front_page_says_when_in_beijing_time_and_what_in_chinese(api: Running) -> None:
    text = _get(api, "/")
    head = api.service.log.state.head
    signed = datetime.fromtimestamp(head.signed_at_s, UTC)
    shown = datetime.fromtimestamp(head.signed_at_s + 8 * 3600, UTC).strftime("%Y-%m-%d %H:%M:%S")
    assert f"{shown}</time>（北京时间，UTC+8）" in text
    assert f'datetime="{signed.strftime("%Y-%m-%dT%H:%M:%S.000Z")}"' in text
    assert builtin("file@1").title in text
    assert "已最终确认" in text
    for name, meaning in LEGEND["zh"]:
        assert f"<dt>{name}</dt><dd>{meaning}" in text
    assert "不构成证明" in text


def test_an_id_on_the_front_page_finds_its_item_as_it_stands(api: Running) -> None:
    with api.client() as client:
        made = client.post("/v1/evidence", json=submission()).json()
        shown = re.findall(r"<code>(ev_[^<]*)</code>", client.get("/").text)
        assert made["evidence_id"].startswith(shown[0])
        assert client.get(f"/v1/evidence/{shown[0]}").json()["evidence_id"] == made["evidence_id"]


def test_an_empty_log_promises_no_checkpoint(tmp_path: Path) -> None:
    with running(tmp_path) as api:
        text = _get(api, "/")
        assert "/v1/log/checkpoint" not in text
        assert WORDS["zh"]["never"] in text
        assert WORDS["zh"]["none"] in text
        with api.client() as client:
            client.post("/v1/evidence", json=submission())
        assert "/v1/log/checkpoint" in _get(api, "/")


def test_a_promise_that_was_not_kept_is_called_overdue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, anchor_interval_s=3600.0) as api, api.client() as client:
        client.post("/v1/evidence", json=submission())
        promised, overdue = (f"<span>{WORDS['en'][state]}</span>" for state in ("promised", "overdue"))
        text = _get(api, "/?lang=en")
        assert promised in text
        assert overdue not in text
        end = utc_now() + timedelta(seconds=api.service.settings.promise_s + 60)
        monkeypatch.setattr(api.service, "clock", lambda: end)
        text = _get(api, "/?lang=en")
        assert overdue in text
        assert promised not in text


def test_a_damaged_item_does_not_take_the_page_away(tmp_path: Path) -> None:
    with running(tmp_path, anchor_interval_s=3600.0) as api, api.client() as client:
        for _ in range(2):
            client.post("/v1/evidence", json=submission())
        assert WORDS["zh"]["damaged"] not in _get(api, "/").partition(WORDS["zh"]["legend"])[0]
        with sqlite3.connect(tmp_path / "evidence.db") as database:
            database.execute("UPDATE evidence SET data = x'7b7d' WHERE leaf_index = 1")
        text = _get(api, "/").partition(WORDS["zh"]["legend"])[0]
        assert text.count(WORDS["zh"]["damaged"]) == 1
        assert text.count(WORDS["zh"]["promised"]) == 1


def test_what_a_page_is_given_is_text_and_no_markup() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    hostile = '<script>"&'
    text = page.front(
        page.Head(hostile, 1, hostile, hostile, now),
        [page.ChainRow(hostile, hostile, None, 0, 0)],
        [page.ItemRow(0, hostile, hostile, hostile, now, hostile)],
        now=now,
        language="zh",
        sandbox=True,
    )
    assert "<script" not in text
    assert text.count("&lt;script&gt;&quot;&amp;") == 9
    assert WORDS["zh"]["down"] in text


@pytest.mark.parametrize("path", ["/", "/docs", "/problems", "/problems/conflict"])
def test_every_page_is_in_the_language_asked_for_and_leads_on_in_it(api: Running, path: str) -> None:
    for language, code, other in (("zh", "zh-CN", "en"), ("en", "en", "zh")):
        text = _get(api, f"{path}?lang={language}")
        assert f'<html lang="{code}">' in text
        assert f'href="{path}?lang={other}"' in text
        for link in re.findall(r'<a href="(/[a-z/-]*\?[^"]*)"', text):
            assert _get(api, link)
            assert link.endswith(f"?lang={language}") or link == f"{path}?lang={other}"
        assert text.count("<h1>") == 1
        assert page.SANDBOX_BANNER in text
    assert _get(api, f"{path}?lang=fr", 422)


def test_both_languages_have_the_same_words() -> None:
    assert set(WORDS["zh"]) == set(WORDS["en"])
    assert len(LEGEND["zh"]) == len(LEGEND["en"])


def test_the_icon_that_every_browser_asks_for_exists(api: Running) -> None:
    with api.client(None) as client:
        answer = client.get("/favicon.ico")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert 'href="/favicon.ico"' in _get(api, "/")


# --- the problems -----------------------------------------------------------------------------------------------------


def test_every_problem_is_listed_and_explained_in_both_languages(api: Running) -> None:
    assert set(advice()) == set(KINDS)
    for language in ("zh", "en"):
        listed = _get(api, f"/problems?lang={language}")
        for name in KINDS:
            assert f'href="/problems/{name}?lang={language}"' in listed
    with api.client(None) as client:
        assert advice()["conflict"]["zh"] in client.get("/problems/conflict").text
        assert advice()["conflict"]["en"] in client.get("/problems/conflict?lang=en").text
        assert client.get("/problems/none").json()["type"] == "/problems/not-found"


def test_a_browser_that_asks_for_no_page_gets_a_page_and_a_program_a_problem(api: Running) -> None:
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "accept-language": "zh-CN,zh;q=0.9"}
    with api.client(None) as client:
        for path, status in (("/none", 404), ("/problems/none", 404), ("/?lang=fr", 422)):
            shown = client.get(path, headers=browser)
            assert (shown.status_code, shown.headers["content-type"]) == (status, "text/html; charset=utf-8")
            assert shown.headers["x-request-id"] in shown.text
            assert client.get(path).headers["content-type"] == "application/problem+json"
        assert client.get("/v1/none", headers=browser).headers["content-type"] == "application/problem+json"


# --- the description --------------------------------------------------------------------------------------------------


def _texts(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, member in value.items():
            if key not in ("examples", "example", "enum"):
                yield from _texts(member, key)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member)
    elif name in ("summary", "description") and isinstance(value, str):
        yield value


def test_every_text_of_the_description_has_a_chinese_one(api: Running) -> None:
    with api.client(None) as client:
        english = client.get("/openapi.json").json()
        translated = client.get("/openapi.json?lang=zh").json()
    missing = sorted({text for text in _texts(english) if chinese(text) is None})
    assert not missing, "evidence/api/openapi_zh.toml lacks them"
    # Words that are the same in both are names of formats.
    same = {text for text in _texts(translated) if re.fullmatch(r"[\x00-\x7f]*", text)}
    assert same <= {"JSON Schema 2020-12."}
    assert english["paths"].keys() == translated["paths"].keys()
    assert chinese("a text that nobody wrote") is None


def test_every_operation_and_parameter_is_described(api: Running) -> None:
    with api.client(None) as client:
        found = client.get("/openapi.json").json()
    tags = {tag["name"] for tag in found["tags"]}
    for path, operations in found["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert set(operation["tags"]) <= tags
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), f"{path}: {parameter['name']}"
            for status, answer in operation["responses"].items():
                assert answer["description"], f"{path}: {status}"


ORDER = (
    "preserveEvidence",
    "preserveBatch",
    "searchEvidence",
    "createIssuance",
    "declareStream",
    "pushRecords",
    "putProgress",
    "queryStream",
    "recountStream",
    "endStream",
)


def _operations(client: httpx.Client) -> dict[str, tuple[str, str, dict[str, Any]]]:
    paths = client.get("/openapi.json").json()["paths"]
    return {each["operationId"]: (method, path, each) for path, members in paths.items() for method, each in members.items()}


def _filled(path: str, values: Mapping[str, Any]) -> str:
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", str(value))
    return path


def test_every_body_shown_as_an_example_can_be_sent_as_it_stands(tmp_path: Path) -> None:
    with running(tmp_path) as api, api.client() as client:
        operations = _operations(client)
        takes = {name for name, (_, _, each) in operations.items() if JSON in each.get("requestBody", {}).get("content", {})}
        assert takes == set(ORDER)
        for name in ORDER:
            method, path, each = operations[name]
            given = {parameter["name"]: parameter.get("example") for parameter in each.get("parameters", [])}
            query = "?wait=final&timeout_s=30" if name == "preserveEvidence" else ""
            for title, shown in each["requestBody"]["content"][JSON]["examples"].items():
                answer = client.request(method, _filled(path, given) + query, json=shown["value"])
                assert answer.is_success, f"{name} {title}: {answer.text}"
                if name == "preserveBatch":
                    assert [result["status"] for result in answer.json()["results"]] == [200]
                if name == "queryStream":
                    assert [count["n"] for count in answer.json()["counts"]] == [1]


def test_every_parameter_shown_as_an_example_finds_something(api: Running) -> None:
    with api.client() as client:
        (chain,) = client.get("/v1/chains").json()["items"]
        tried = set()
        for name, (method, path, each) in _operations(client).items():
            required = [parameter for parameter in each.get("parameters", []) if parameter.get("required")]
            given = {parameter["name"]: parameter.get("example") for parameter in required}
            given |= {"chain": chain["chain"]} if "chain" in given else {}
            if method != "get" or not given or "stream_id" in given or None in given.values():
                continue  # an id that differs from service to service
            query = {parameter["name"]: given[parameter["name"]] for parameter in required if parameter["in"] == "query"}
            assert client.get(_filled(path, given), params=query).status_code == 200, name
            tried.add(name)
    assert {"logTile", "twinTile", "logInclusion", "logConsistency", "getTemplate", "getBlock"} <= tried
