"""The demonstration: the whole path on real files, and every forgery refused."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import ENTRY, Served, clean_environment, served

from evidence.bootstrap import utc_now
from evidence.cli.app import run
from evidence.client import AsyncClient, Client
from evidence.demo import Forgery, Shown, appendices
from evidence.demo_stream import collect, stream_name
from evidence.errors import Unauthorised
from models.canonical import canonical
from models.template import builtin
from models.trust import TrustRoots


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("demo") / "home", EVIDENCE_ANCHOR_INTERVAL_S="0.05") as found:
        yield found


def demo(service: Served, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    code = run(["demo", "--json", "--quiet", *argv], environ=service.environ)
    return code, json.loads(capsys.readouterr().out)


def test_everything_is_valid_and_every_forgery_refused_also_the_second_time(
    service: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, first = demo(service, capsys, "--keep", str(tmp_path))
    assert (code, first["holds"]) == (0, True)
    names = [each["what"] for each in first["items"]]
    assert {"README.md", "LICENSE", "附录A 投行底稿"} <= set(names)
    assert len([name for name in names if name.startswith("附录B")]) == 9
    for each in first["items"]:
        assert each["verdict"] == "VALID"
        assert each["height"] >= 1
        assert len(each["forgeries"]) == 4
        assert all(
            forgery["verdict"] in {"INVALID", "malformed"} and forgery["step"] and forgery["reason"]
            for forgery in each["forgeries"]
        )
    TrustRoots.parse((tmp_path / "trust.toml").read_bytes())
    code, second = demo(service, capsys)
    assert code == 0
    by_name = {each["what"]: each["evidence_id"] for each in first["items"] if not each["what"].startswith("/")}
    assert by_name == {each["what"]: each["evidence_id"] for each in second["items"] if not each["what"].startswith("/")}


def test_the_collector_of_the_log_says_how_far_it_is_behind_and_says_why_it_is_refused(service: Served, tmp_path: Path) -> None:
    log, token = tmp_path / "app.log", (service.home / "token").read_text()
    log.write_text("started\nstopped\n", "utf-8")
    for text in ("", "started again\n"):
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
        collect(AsyncClient(service.url, token=token), log, tmp_path, clock=utc_now, randomness=os.urandom)()
        with Client(service.url, token=token) as client:
            shown = client.stream(stream_name(log))
        size = log.stat().st_size
        assert (shown["position"], shown["behind"]["count"], shown["behind"]["unit"]) == (f"0:{size}", 0, "bytes")
    again = collect(AsyncClient(service.url, token="no-token"), log, tmp_path, clock=utc_now, randomness=os.urandom)
    with pytest.raises(Unauthorised):
        again()


def test_the_nine_stages_come_from_three_accounts_and_form_one_closed_link(
    service: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(service, capsys)[0] == 0
    assert run(["query", "--template", "tsac004.fund-order@1", "--json"], environ=service.environ) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert len({item["submitter"] for item in items}) == 3
    parts = []
    for item in items:
        assert run(["show", item["evidence_id"], "--json"], environ=service.environ) == 0
        shown = json.loads(capsys.readouterr().out)
        parts.append((shown["part"], shown["link"]["code"], shown["link"]["closes"]))
    assert sorted(part for part, _, _ in parts) == list(range(9))
    assert len({code for _, code, _ in parts}) == 1
    assert [closes for _, _, closes in sorted(parts)] == [False] * 8 + [True]


def test_files_that_are_named_are_shown_instead(service: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "合同.txt").write_text("内容", "utf-8")
    code, document = demo(service, capsys, str(tmp_path / "a"))
    assert (code, [each["what"] for each in document["items"]]) == (0, [str(tmp_path / "a" / "合同.txt")])


def test_the_table_lines_up_and_says_why(service: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert run(["demo", str(tmp_path / "a.txt"), "--lang", "en", "--quiet"], environ=service.environ) == 0
    out = capsys.readouterr().out
    assert "every tampered copy is refused" in out
    assert "step 15" in out


def test_a_reader_of_chinese_meets_no_english_reason_and_beijing_time(
    service: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--quiet"], environ=service.environ) == 0
    chinese = capsys.readouterr().out
    assert "有效 (VALID)" in chinese
    assert "全部有效，所有篡改副本均被拒绝" in chinese
    assert re.search(r"不晚于（北京时间）\n", chinese)
    for line in chinese.splitlines():
        if "第 " in line and " 步：" in line:
            assert not re.search(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}", line), line
    assert "expected" not in chinese
    assert not re.search(r"\dT\d\d:\d\d.*Z", chinese)
    assert run(["demo", "--quiet", "--lang", "en"], environ=service.environ) == 0
    english = capsys.readouterr().out
    assert re.search(r"not-after\n", english)
    assert "inclusion path leads to another root" in english
    assert "证据体" not in english
    assert re.search(r"\dT\d\d:\d\d.*Z", english)


def test_a_foreign_trust_file_or_none_is_wrong_usage(service: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = {"EVIDENCE_HOME": str(tmp_path / "other"), "EVIDENCE_ORIGIN": "sandbox.elsewhere/log/1"}
    assert run(["init", "--quiet"], environ=other) == 0
    assert run(["trust", "export", "-o", str(tmp_path / "t.toml")], environ=other) == 0
    assert run(["demo", "--trust", str(tmp_path / "t.toml")], environ=service.environ) == 64
    token = (service.home / "token").read_text()
    alone = {"EVIDENCE_HOME": str(tmp_path / "none"), "EVIDENCE_URL": service.url, "EVIDENCE_TOKEN": token}
    assert run(["demo"], environ=alone) == 64


def test_a_forgery_that_passes_fails_the_demonstration() -> None:
    refused, passed = Forgery("x", "INVALID", 5, "y"), Forgery("x", "VALID", None, "y")
    promise: Any = None

    def shown(verdict: str, *forgeries: Forgery) -> Shown:
        return Shown("w", promise, 1, verdict, None, forgeries)

    assert shown("VALID", refused).holds
    assert not shown("VALID", refused, passed).holds
    assert not shown("VALID").holds
    assert not shown("INDETERMINATE", refused).holds


def test_appendices_repeat_for_one_key_and_differ_for_another() -> None:
    accounts = ["a", "b", "c"]
    first, again, other = (
        [dict(each.submission) for each in appendices(key, accounts)] for key in (b"k" * 32, b"k" * 32, b"l" * 32)
    )
    assert canonical(first) == canonical(again)
    assert {each["client_key"] for each in first}.isdisjoint({each["client_key"] for each in other})
    assert [next(iter(each["stages"])) for each in first[1:]] == [stage.name for stage in builtin("tsac004.fund-order@1").stages]


def test_an_interrupted_service_says_so(tmp_path: Path) -> None:
    environ = clean_environment(EVIDENCE_HOME=str(tmp_path / "home"))
    assert run(["init", "--quiet"], environ=environ) == 0
    process = subprocess.Popen(
        [*ENTRY, "serve", "--port", "0", "--quiet"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.stdout.close()
