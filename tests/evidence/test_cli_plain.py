"""`evidence stream plain`: a proof of another system is read, judged, and never VALID; no service, no home, no heavy library."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from served import clean_environment

from evidence.cli.app import run
from models.plain import plain_path, plain_root

LINES = ["买入 600000 100", "卖出 600001 50", "买入 600002 7"]
HEAVY = {"alembic", "fastapi", "httpx", "kafka", "confluent_kafka", "psycopg", "sqlalchemy", "starlette", "uvicorn", "streaming"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    items = [line.encode() for line in LINES]
    value = {
        "format": "cz-plain/1",
        "profile": "plain",
        "algorithm": "sm3",
        "root": plain_root(items).hex(),
        "item": LINES[1],
        "index": 1,
        "size": 3,
        "path": [node.hex() for node in plain_path(items, 1)],
    }
    Path("proof.json").write_text(json.dumps(value, ensure_ascii=False, indent=2), "utf-8")
    Path("slice.log").write_text("\n".join(LINES), "utf-8")
    return tmp_path


def changed(**changes: Any) -> None:
    value = json.loads(Path("proof.json").read_text("utf-8"))
    Path("proof.json").write_text(json.dumps({**value, **changes}), "utf-8")


def plain(*more: str) -> int:
    return run(["stream", "plain", "proof.json", *more], environ={})


def test_what_agrees_is_undecided_with_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain("--slice", "slice.log", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], [step["holds"] for step in found["steps"]]) == ("INDETERMINATE", [True, True, True])
    assert plain("--lang", "en") == 2
    said = capsys.readouterr().out
    assert said.startswith("INDETERMINATE  matches a root that does not separate leaves from nodes")
    assert "the content of the slice was not given" in said
    assert plain() == 2
    said = capsys.readouterr().out
    assert said.startswith("不能判定 (INDETERMINATE)")
    assert "未加盐" in said


def test_what_contradicts_is_invalid(capsys: pytest.CaptureFixture[str]) -> None:
    Path("slice.log").write_text("\n".join([*LINES[:2], "买入 600002 70"]), "utf-8")
    assert plain("--slice", "slice.log", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], [step["holds"] for step in found["steps"]]) == ("INVALID", [True, False, True])
    changed(item="卖出 600001 500")
    assert plain("--lang", "en") == 1
    said = capsys.readouterr().out
    assert said.startswith("INVALID  The proof does not hold under the rule it names")
    assert "path: CONTRADICTS" in said


@pytest.mark.parametrize(
    ("changes", "argv", "expected"),
    [
        ({"size": "3"}, [], 3),
        ({"extra": 1}, [], 3),
        ({"format": "cz-plain/9"}, [], 3),
        ({}, ["--slice", "empty"], 3),
        ({}, ["--slice", "nowhere"], 64),
        ({}, ["--whole", "slice.log"], 64),
        ({}, ["--url", "http://127.0.0.1:1"], 64),
    ],
    ids=["form", "member", "version", "empty slice", "no slice", "option", "no service is asked"],
)
def test_refuses_bad_input_with_no_verdict(
    changes: dict[str, Any], argv: list[str], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").touch()
    changed(**changes)
    assert plain(*argv, "--json") == expected
    assert "verdict" not in json.loads(capsys.readouterr().out)


def test_verify_says_which_verb_reads_it_and_gives_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    trust = Path(__file__).parents[1] / "vectors" / "items" / "trust.toml"
    for name, is_told in (("proof.json", True), ("slice.log", False)):
        assert run(["verify", name, "--trust", str(trust), "--lang", "en"], environ={}) == 3
        said = capsys.readouterr()
        assert ("evidence stream plain" in said.err) is is_told
        assert "INDETERMINATE" not in said.out


def test_a_file_that_is_not_there_or_no_json_is_refused() -> None:
    assert run(["stream", "plain", "nowhere.json"], environ={}) == 64
    assert run(["stream", "plain", "slice.log"], environ={}) == 3
    assert run(["stream", "plain"], environ={}) == 64


def test_it_needs_no_service_and_no_heavy_library(folder: Path) -> None:
    code = (
        "import sys; from evidence.cli.app import run; code = run(['stream', 'plain', 'proof.json', '--json'], environ={}); "
        "sys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (2, "INDETERMINATE")
    loaded = set(done.stderr.split())
    assert {"evidence", "models"} <= loaded
    assert loaded.isdisjoint(HEAVY)
