"""Fixtures of the tests that run verbs against a real service; one service serves all of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, Verb, served

from evidence.cli.app import run


@pytest.fixture(scope="session")
def cli_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served") / "home", EVIDENCE_ANCHOR_INTERVAL_S="0.05") as found:
        yield found


@pytest.fixture
def verb(cli_service: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs a verb with --json and gives back its exit code and document."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str, **environ: str) -> tuple[int, Any]:
        code = run([*argv, "--json", "--quiet"], environ={**cli_service.environ, **environ})
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


@pytest.fixture
def preserved(verb: Verb) -> dict[str, Any]:
    """What `preserve` said of a file in the test's folder that is final."""
    Path("秘密.txt").write_text("一段只有我们知道的内容", "utf-8")
    code, document = verb("preserve", "秘密.txt", "--wait", "final")
    assert code == 0
    found: dict[str, Any] = document
    return found


@pytest.fixture
def bundle(verb: Verb, preserved: dict[str, Any]) -> str:
    """The bundle of that file, beside it, and the service's trust.toml."""
    assert verb("trust", "export", "-o", "trust.toml")[0] == 0
    assert verb("issue", preserved["evidence_id"], "-o", "x.cz")[0] == 0
    return "x.cz"
