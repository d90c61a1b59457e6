"""The verbs that need no service: exit codes, documents, streams."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from evidence.cli.app import run
from evidence.cli.console import fit, printable, table, width
from evidence.sealing import Opening
from models.commitment import commit
from models.digest import sm3
from models.evidence import Statement
from models.signature import SM2Signer, verify
from models.template import builtin

ENTRY = [sys.executable, "-m", "evidence.cli.main"]
ACCOUNT = ("--log", "sandbox.test/log/1", "--submitter", "acct-1", "--subject-id", "s1", "--subject-name", "示例证券")


def command(argv: Sequence[str], *, cwd: Path, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """The real command in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EVIDENCE_")}
    return subprocess.run(
        [*ENTRY, *argv], cwd=cwd, input=stdin, capture_output=True, check=False, env={**clean, **environ}, timeout=60
    )


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"EVIDENCE_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "k.pem"
    path.write_bytes(SM2Signer.generate().to_pem())
    return path


# --- templates ------------------------------------------------------------------------------------------------


def test_lists_the_templates_that_can_be_submitted(capsys: pytest.CaptureFixture[str], environ: dict[str, str]) -> None:
    assert run(["templates", "--json"], environ=environ) == 0
    names = [each["name"] for each in json.loads(capsys.readouterr().out)["items"]]
    assert names == ["file@1", "tsac004.fund-order@1", "tsac004.underwriting-papers@1"]


@pytest.mark.parametrize("name", ["file@1", "tsac004.fund-order@1", "tsac004.underwriting-papers@1"])
def test_an_example_is_valid_and_has_a_fresh_client_key(name: str, capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    found = []
    for number in range(2):
        assert run(["templates", "example", name], environ={}) == 0
        text = capsys.readouterr().out
        Path(f"{number}.json").write_text(text, "utf-8")
        found.append(json.loads(text)["client_key"])
        assert run(["templates", "check", f"{number}.json"], environ={}) == 0
        capsys.readouterr()
    assert found[0] != found[1]


def test_check_names_every_problem_and_no_value(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    run(["templates", "example", "file@1"], environ={})
    submission = json.loads(capsys.readouterr().out)
    submission["stages"]["文件"] |= {"file_size": "geheim-77", "unknown_field": "geheim-78"}
    Path("s.json").write_text(json.dumps(submission), "utf-8")
    assert run(["templates", "check", "s.json", "--json"], environ={}) == 3
    out, err = capsys.readouterr()
    assert {each["pointer"] for each in json.loads(out)["errors"]} >= {"/stages/文件/file_size", "/stages/文件"}
    assert "geheim" not in out + err


def test_a_template_file_is_told_by_its_content(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    Path("anything.bin").write_bytes(builtin("file@1").data)
    assert run(["templates", "check", "anything.bin", "--json"], environ={}) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "file@1"
    Path("anything.bin").write_bytes(builtin("file@1").data.replace(b'"TIME"', b'"NEVER"'))
    assert run(["templates", "check", "anything.bin"], environ={}) == 3


# --- seal -----------------------------------------------------------------------------------------------------


def test_sealed_form_holds_no_value_and_its_opening_gives_the_stages(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, key: Path, environ: dict[str, str]
) -> None:
    Path("秘密合同.txt").write_text("内容", "utf-8")
    argv = ["seal", "秘密合同.txt", "-o", "x.sealed.json", "--opening", "x.opening.json", "--key", str(key), *ACCOUNT, "--json"]
    assert run(argv, environ=environ) == 0
    evidence_id = json.loads(capsys.readouterr().out)["evidence_id"]
    text = Path("x.sealed.json").read_text("utf-8")
    assert "秘密合同" not in text
    sealed = json.loads(text)
    statement = Statement.parse(sealed["sealed"]["statement"].encode())
    assert statement.evidence_id == evidence_id
    signer = SM2Signer.from_pem(key.read_bytes())
    verify(signer.public_key, statement.data, base64.b64decode(sealed["signature"]["value"]))
    opening = Opening.parse(Path("x.opening.json").read_bytes())
    made = commit(
        builtin("file@1"),
        opening.stages,
        secret=opening.secret,
        log=statement.log,
        submitter="acct-1",
        client_key=opening.client_key,
    )
    assert tuple((stage.name, stage.pair) for stage in made) == statement.stages
    assert Path("x.opening.json").stat().st_mode & 0o077 == 0


def test_an_opening_is_never_replaced(elsewhere: Path, key: Path, environ: dict[str, str]) -> None:
    Path("a.txt").write_text("a")
    argv = ["seal", "a.txt", "-o", "x.sealed.json", "--opening", "x.opening.json", "--key", str(key), *ACCOUNT]
    assert run(argv, environ=environ) == 0
    kept = Path("x.opening.json").read_bytes()
    assert run(argv, environ=environ) == 64
    assert Path("x.opening.json").read_bytes() == kept


def test_seal_refuses_a_key_of_another_certificate_or_no_account(elsewhere: Path, key: Path, environ: dict[str, str]) -> None:
    Path("a.txt").write_text("a")
    base = ["seal", "a.txt", "-o", "x", "--opening", "y", "--key", str(key)]
    assert run(base, environ=environ) == 64
    Path("bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert run(["seal", "a.txt", "-o", "x", "--opening", "y", "--key", "bad.pem", *ACCOUNT], environ=environ) == 3
    assert run([*base[:-1], "absent.pem", *ACCOUNT], environ=environ) == 64


def test_client_keys_are_opaque_and_the_same_for_the_same_file(elsewhere: Path, key: Path, environ: dict[str, str]) -> None:
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("a")
    keys = {}
    for number, name in enumerate(["a.txt", "a.txt", "b.txt"]):
        assert run(["seal", name, "-o", "s", "--opening", f"o{number}", "--key", str(key), *ACCOUNT], environ=environ) == 0
        keys[number] = json.loads(Path("s").read_text())["client_key"]
    assert keys[0] == keys[1] != keys[2]
    assert len(keys[0]) == 64
    assert keys[0] != sm3(b"a").hex()


# --- trust ----------------------------------------------------------------------------------------------------

TRUST = """\
format = "cz-trust/1"
issued_at = 2026-11-21T00:00:00Z
[policy]
chains = 1
[[log]]
origin = "sandbox.test/log/1"
tree = "sm3"
keys = []
[[chain]]
id = "c1"
engine = "embedded"
epochs = []
"""


def test_fingerprint_is_ten_groups_of_the_digest(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    Path("t.toml").write_text(TRUST)
    assert run(["trust", "fingerprint", "t.toml", "--quiet"], environ={}) == 0
    text = capsys.readouterr().out.strip()
    digits = sm3(TRUST.encode()).hex()
    assert text.replace(" ", "") == digits[:40]
    assert [len(group) for group in text.split(" ")] == [4] * 10


def test_fingerprint_of_something_else_is_refused(elsewhere: Path) -> None:
    Path("t.toml").write_text("format = 'cz-trust/2'\n")
    assert run(["trust", "fingerprint", "t.toml"], environ={}) == 3
    assert run(["trust", "fingerprint", "absent.toml"], environ={}) == 64


# --- verify ---------------------------------------------------------------------------------------------------


def test_what_is_no_bundle_is_malformed_and_no_verdict(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    Path("t.toml").write_text(TRUST)
    Path("x.cz").write_bytes(b"PK\x03\x04 nothing")
    assert run(["verify", "x.cz", "--trust", "t.toml", "--json"], environ={}) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] is None
    assert report["malformed"]


# --- exit codes, streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], 64),
        (["nosuch"], 64),
        (["--nosuch"], 64),
        (["verify"], 64),
        (["verify", "x.cz"], 64),
        (["verify", "x.cz", "--trust", "absent"], 64),
        (["verify", "--trust", "t.toml", "."], 64),
        (["templates", "show", "nosuch@1"], 3),
        (["templates", "example", "nosuch@1"], 3),
        (["templates", "nosuch"], 64),
        (["templates", "check", "absent.json"], 64),
        (["templates", "check", "deep.json"], 3),
        (["templates", "check", "gbk.json"], 3),
        (["templates", "check", "double.json"], 3),
        (["templates", "check", "big.json"], 3),
        (["templates", "check", "list.json"], 3),
        (["trust", "fingerprint"], 64),
        (["trust", "fingerprint", "gbk.json"], 3),
        (["seal", "deep.json"], 64),
        (["preserve"], 64),
        (["preserve", "absent"], 64),
        (["preserve", "."], 64),
        (["preserve", "-f", "deep.json"], 3),
        (["preserve", "-f", "gbk.json"], 3),
        (["preserve", "-f", "list.json"], 3),
        (["preserve", "-f", "absent.json"], 64),
        (["preserve", "list.json", "-f", "list.json"], 64),
        (["preserve", "list.json", "--timeout", "soon"], 64),
        (["preserve", "list.json", "--wait", "maybe"], 64),
        (["preserve", "list.json"], 4),
        (["show"], 64),
        (["show", "ev_00000000"], 4),
        (["show", "ev_00000000", "--url", "gopher://x"], 64),
        (["query", "--field", "noequals"], 64),
        (["query", "--limit", "-1"], 64),
        (["query", "--axis", "sideways"], 64),
        (["query", "--file", "absent"], 64),
        (["query"], 4),
        (["issue", "ev_00000000"], 64),
        (["issue", "ev_00000000", "-o", "x.cz"], 4),
        (["issue", "ev_00000000", "-o", "x.cz", "--opening", "list.json"], 3),
        (["chain"], 64),
        (["chain", "nodes"], 4),
        (["chain", "blocks", "--limit", "0"], 64),
        (["chain", "show"], 64),
        (["chain", "show", "aa", "--node", "1", "--all-nodes"], 64),
        (["chain", "compare", "ev_00000000"], 4),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else str(value),
)
def test_verb_and_injury(
    argv: list[str], code: int, capsys: pytest.CaptureFixture[str], elsewhere: Path, environ: dict[str, str]
) -> None:
    Path("t.toml").write_text(TRUST)
    Path("deep.json").write_text("[" * 100_000)
    Path("gbk.json").write_bytes("说明".encode("gbk"))
    Path("double.json").write_text('{"template": "file@1", "template": "file@1"}')
    Path("big.json").write_bytes(b" " * (1 << 20) + b"1")
    Path("list.json").write_text("[]")
    environ |= {"EVIDENCE_URL": "http://127.0.0.1:9", "EVIDENCE_TOKEN": "cz_secret-token"}
    assert run([*argv, "--json"], environ=environ) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["detail"]
    assert "Traceback" not in err
    assert "cz_secret-token" not in out + err


def test_mistakes_say_so_on_stderr_and_leave_stdout_empty(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert run(["verify", "x.cz"], environ={}) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert "--trust" in err


def test_help_says_local_or_remote_in_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    for lang in ("zh", "en"):
        for verb, place in {"verify": "(local)", "preserve": "(remote)", "seal": "(local)", "show": "(remote)"}.items():
            assert run([verb, "--help", "--lang", lang], environ={}) == 0
            assert place in capsys.readouterr().out


def test_a_crash_is_70_with_a_request_id_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        msg = "confidential"
        raise KeyError(msg)

    monkeypatch.setattr("models.template.builtin_names", broken)
    assert run(["templates", "list", "--lang", "en"], environ={}) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert "request id" in err
    assert "confidential" not in err
    assert run(["templates", "list"], environ={"EVIDENCE_DEBUG": "1"}) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_verdict_never_leaves_without_a_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("evidence.cli.console.Console.document", lambda *_: None)
    assert run(["templates", "list"], environ={}) == 70
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("injury", ["raise ImportError('x')", "raise SystemExit(1)", "raise KeyboardInterrupt", "exec('def')"])
def test_a_broken_import_is_no_verdict(tmp_path: Path, injury: str) -> None:
    """A file that shadows a module of the service's breaks the import before a verb is known."""
    package = tmp_path / "broken"
    package.mkdir()
    (package / "sitecustomize.py").write_text(
        "import sys, importlib.abc\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'evidence.cli.app':\n"
        f"            {injury}\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = command(["verify", "x", "--trust", "y"], cwd=tmp_path, PYTHONPATH=str(package))
    assert done.returncode in {70, 130}
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


def test_no_stream_encoding_breaks_the_output(tmp_path: Path) -> None:
    done = command(["templates", "list"], cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert rb"\u7535\u5b50" in done.stdout
    done = command(["templates", "list", "--json"], cwd=tmp_path, PYTHONIOENCODING="gbk")
    assert json.loads(done.stdout.decode("ascii"))["items"][0]["title"] == "电子文件存证"


def test_a_closed_pipe_is_no_crash(tmp_path: Path) -> None:
    script = f"{sys.executable} -m evidence.cli.main templates show tsac004.fund-order@1 | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert int(done.stdout) in {0, 141}
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_full_disk_under_stdout_is_no_verdict(tmp_path: Path) -> None:
    script = f"{sys.executable} -m evidence.cli.main templates list > /dev/full"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert done.returncode == 70


def test_closed_streams_are_no_verdict(tmp_path: Path) -> None:
    script = f"{sys.executable} -m evidence.cli.main templates list >&- 2>&-"
    assert subprocess.run(["bash", "-c", script], cwd=tmp_path, check=False, timeout=60).returncode == 70


def test_verifying_loads_neither_network_nor_database(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(TRUST)
    (tmp_path / "x.cz").write_bytes(b"x")
    script = (
        "import sys\n"
        "from evidence.cli.app import run\n"
        "assert run(['verify', 'x.cz', '--trust', 't.toml']) == 3\n"
        "heavy = {'httpx', 'fastapi', 'starlette', 'sqlalchemy', 'uvicorn', 'alembic', 'ssl', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], environ={}) == 0
    assert capsys.readouterr().out.startswith("evidence 0.")


# --- text -----------------------------------------------------------------------------------------------------


def test_columns_line_up_where_characters_are_wide() -> None:
    lines = table(["名称", "b"], [["存证", "1"], ["ab", "2"]]).splitlines()
    assert len({width(line[: line.index(last)]) for line, last in zip(lines[2:], "12", strict=True)}) == 1
    assert width("存a") == 3
    assert fit("存证存证", 5) == "存证…"


def test_foreign_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\u202eb\n") == "a\\u001b[31m\\u202eb\n"
