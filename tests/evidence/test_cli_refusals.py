"""What verbs refuse: wrong submissions, wrong callers, wrong conditions, each with a document and nothing stored."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from served import Served, Verb, example, served

from evidence.cli.app import run
from evidence.client import Client
from evidence.errors import Conflict
from models.digest import sm3

# --- access, refusals -----------------------------------------------------------------------------------------


def test_a_token_is_printed_once_last_on_the_line(cli_service: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["access", "add", "printed", "--role", "auditor", "--expires", "90d"], environ=cli_service.environ) == 0
    out = capsys.readouterr().out
    token = out.splitlines()[0].split()[-1]
    assert token.startswith("cz_")
    assert run(["access", "list"], environ=cli_service.environ) == 0
    assert token not in capsys.readouterr().out


@pytest.mark.parametrize("span", ["90", "d", "0d", "-1d", "90y", "999999d"])
def test_a_span_is_a_number_and_a_unit(verb: Verb, span: str) -> None:
    code = verb("access", "add", "spanned", "--role", "auditor", "--expires", span)[0]
    assert code == (64 if span != "999999d" else code)
    assert code not in {1, 2, 70}


def test_roles_are_kept_apart(verb: Verb, preserved: dict[str, Any], bundle: str) -> None:
    tokens = {}
    for role in ("auditor", "court", "operator"):
        code, document = verb("access", "add", f"one-{role}", "--role", role)
        assert code == 0
        tokens[role] = document["token"]
    Path("n.txt").write_text("n")
    for token in tokens.values():
        code, document = verb("preserve", "n.txt", EVIDENCE_TOKEN=token)
        assert (code, document["status"]) == (1, 403)
    code, item = verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=tokens["auditor"])
    assert code == 0
    assert [(each["name"], each["digest"]) for each in item["originals"]] == [(None, None)]
    assert sm3(Path("秘密.txt").read_bytes()).hex() not in json.dumps(item)
    assert verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=tokens["operator"])[1]["contents"] is None


def test_expired_revoked_rotated_and_missing_tokens_let_nobody_in(verb: Verb, preserved: dict[str, Any], tmp_path: Path) -> None:
    code, document = verb("access", "add", "leaver", "--role", "auditor")
    old = document["token"]
    assert verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=old)[0] == 0
    code, document = verb("access", "rotate", "leaver")
    deadline = time.monotonic() + 5
    while verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=old)[0] != 1:
        assert time.monotonic() < deadline
    assert verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=document["token"])[0] == 0
    assert verb("access", "revoke", "leaver")[0] == 0
    for token in ("cz_x", "nonsense", "x" * 300):
        code, document = verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=token)
        assert code == 1
        assert document["type"] == "/problems/unauthorised"
    assert verb("show", preserved["evidence_id"], EVIDENCE_HOME=str(tmp_path / "none"))[0] == 1
    assert verb("access", "revoke", "nobody")[0] == 1
    assert verb("access", "add", "leaver", "--role", "auditor")[0] == 1


def test_a_refusal_is_a_document_on_stdout(verb: Verb, cli_service: Served, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = verb("show", "ev_0000000000")
    assert (code, document["status"], document["type"]) == (1, 404, "/problems/not-found")
    assert document["request_id"]
    assert run(["show", "ev_0000000000"], environ=cli_service.environ) == 1
    assert capsys.readouterr().out


def test_not_final_yet_is_two_and_the_promise_stands(tmp_path: Path, verb: Verb) -> None:
    with served(tmp_path / "home", EVIDENCE_ANCHOR_INTERVAL_S="3600") as slow:
        Path("late.txt").write_text("late")
        code, document = verb("preserve", "late.txt", "--wait", "final", "--timeout", "0", "--save", **slow.environ)
        assert (code, document["state"]) == (2, "promised")
        assert Path("late.txt.promise.json").exists()
        code, refused = verb("issue", document["evidence_id"], "-o", "late.cz", **slow.environ)
        assert (code, refused["type"]) == (2, "/problems/not-final")
        assert not Path("late.cz").exists()
        code, refused = verb("chain", "compare", document["evidence_id"], **slow.environ)
        assert code == 2


def test_another_content_under_one_client_key_is_a_conflict_with_its_record(verb: Verb, cli_service: Served) -> None:
    first, second = example(verb), example(verb)
    second["client_key"] = first["client_key"]
    for body, expected in ((first, 0), (second, 1)):
        Path("s.json").write_text(json.dumps(body), "utf-8")
        code, document = verb("preserve", "-f", "s.json")
        assert code == expected
    assert verb("show", document["record_id"])[0] in {0, 1}
    with Client(cli_service.url, token=(cli_service.home / "token").read_text()) as client, pytest.raises(Conflict) as refused:
        client.preserve(second)
    assert refused.value.record_id == document["record_id"]


def test_all_problems_are_told_and_no_value(verb: Verb) -> None:
    body = example(verb)
    body["stages"]["文件"] |= {"file_size": "geheim-81", "collected_at": "geheim-82", "more": "geheim-83"}
    body["client_key"] = "13812345678"
    Path("s.json").write_text(json.dumps(body), "utf-8")
    code, document = verb("preserve", "-f", "s.json")
    assert code == 3
    assert len(document["errors"]) >= 3
    assert "geheim" not in json.dumps(document)
    assert "13812345678" not in json.dumps(document)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"template": "nosuch@1"}, 3),
        ({"template": 7}, 3),
        ({"client_key": ""}, 3),
        ({"client_key": "k" * 129}, 3),
        ({"client_key": None}, 3),
        ({"stages": {}}, 3),
        ({"stages": []}, 3),
        ({"stages": {"nosuch": {}}}, 3),
        ({"occurred_at": "yesterday"}, 3),
        ({"secret": "AAAA"}, 3),
        ({"secret": 5}, 3),
        ({"unknown": 1}, 3),
        ({"link": {"code": "a\u0000b"}}, 3),
        ({"sealed": {"statement": "{}"}}, 3),
        ({"signature": {"key_id": "00000000", "encoding": "rs", "value": "AAAA"}}, 3),
        ({"originals": [{"field": "object", "digest": "sm3:" + "0" * 64, "name": "x", "media_type": "y"}]}, 3),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_submission_and_injury(verb: Verb, change: dict[str, Any], code: int) -> None:
    body = {**example(verb), **change}
    size = verb("query", "--limit", "1")[1]["as_of"]["tree_size"]
    Path("s.json").write_text(json.dumps(body), "utf-8")
    found, document = verb("preserve", "-f", "s.json")
    assert (found, bool(document["detail"])) == (code, True)
    assert verb("query", "--limit", "1")[1]["as_of"]["tree_size"] == size


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["show", "x"], {1, 3}),
        (["show", "../../v1/service"], {1, 3}),
        (["show", "ev_" + "g" * 10], {1, 3}),
        (["query", "--digest", "md5:00"], {3}),
        (["query", "--from", "yesterday"], {3}),
        (["query", "--limit", "100000"], {3}),
        (["query", "--cursor", "!!"], {3}),
        (["issue", "ev_0000000000", "-o", "x.cz"], {1}),
        (["issue", "ev_0000000000", "-o", "no/such/x.cz"], {1}),
        (["chain", "blocks", "--chain", "nosuch"], {1}),
        (["chain", "blocks", "--node", "77"], {1}),
        (["chain", "show", "nosuch"], {1}),
        (["chain", "show", "nosuch", "--all-nodes"], {1}),
        (["chain", "compare", "ev_0000000000"], {1}),
        (["access", "add", "", "--role", "auditor"], {3}),
        (["access", "add", "x", "--role", "emperor"], {64}),
        (["access", "add", "x"], {64}),
        (["access", "register", "local", "--vkey", "x"], {3}),
        (["access", "register", "local"], {64}),
        (["trust", "export"], {64}),
        (["trust", "export", "-o", "no/such/t.toml"], {64}),
        (["key", "new", "-o", "-", "--account", "x"], {64}),
        (["key", "show", "absent", "--account", "x"], {64}),
        (["serve", "--port", "99999"], {64}),
        (["serve", "--port", "0"], {4}),
        (["init", "--environment", "nowhere"], {64}),
        (["init", "--environment", "production"], {64}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_verb_and_injury_against_a_service(verb: Verb, argv: Sequence[str], code: set[int]) -> None:
    found, document = verb(*argv)
    assert found in code
    assert document["detail"]


def test_a_wrong_setting_is_named_in_one_sentence(verb: Verb) -> None:
    for name, value in {"EVIDENCE_PORT": "many", "EVIDENCE_CHAINS": "nothing", "EVIDENCE_ANCHR_MODE": "BATCH"}.items():
        code, document = verb("access", "list", **{name: value})
        assert code == 64
        assert name in document["detail"]


def test_no_home_is_no_verdict(verb: Verb, tmp_path: Path) -> None:
    for argv in (["serve", "--port", "0"], ["trust", "export", "-o", "t"], ["access", "list"]):
        assert verb(*argv, EVIDENCE_HOME=str(tmp_path / "nothing"))[0] == 4
