"""`evidence stream`: run, list, show, query, recount, end, as a person runs them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from served import ENTRY, Served, Verb, clean_environment

from evidence.cli.app import build_parser, run
from evidence.cli.exits import Usage
from evidence.collector import CollectorState, state_path

LINES = [f"line {number} {'ERROR 失败' if number % 5 == 0 else 'ok'}" for number in range(40)]
WAIT_S = 30


@pytest.fixture
def stream(verb: Verb, request: pytest.FixtureRequest) -> str:
    """A stream collected from a file of the test's folder; its id."""
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())[-50:]
    Path("app.log").write_text("".join(f"{line}\n" for line in LINES), "utf-8")
    Path("words.txt").write_text("ERROR\n失败\nwarn\n", "utf-8")
    code, document = verb(*collect(name))
    assert (code, document["lines"], document["state"]) == (0, len(LINES), "stopped")
    return name


def collect(name: str, *more: str) -> list[str]:
    source = ["--source", "file:app.log", "--keywords", "words.txt", "--slice-lines", "10"]
    return ["stream", "run", "--stream", name, *source, "--state", "state", "--once", *more]


def test_answer_verifies_offline_and_prints_the_question_first(
    verb: Verb, stream: str, capsys: pytest.CaptureFixture[str], cli_service: Served
) -> None:
    code, found = verb("stream", "query", stream, "--keyword", "ERROR", "-o", "answer.cz")
    assert code == 0
    assert [line["text"] for line in found["lines"]] == [line for line in LINES if "ERROR" in line]
    assert all(line["position"] and line["collected_at"] for line in found["lines"])
    assert verb("trust", "export", "-o", "trust.toml")[0] == 0
    assert run(["verify", "answer.cz", "--trust", "trust.toml", "--lang", "en"], environ={}) == 0
    said = capsys.readouterr().out
    assert 0 < said.index("question:") < said.index("checks:")
    assert "complete with respect to the committed index" in said


def test_the_question_in_an_answer_is_compared_with_the_one_that_was_asked(verb: Verb, stream: str) -> None:
    code, found = verb("stream", "query", stream, "--keyword", "ERROR", "-o", "answer.cz")
    assert (code, verb("trust", "export", "-o", "trust.toml")[0]) == (0, 0)
    check = ["verify", "answer.cz", "--trust", "trust.toml"]
    assert verb(*check, "--keyword", "ERROR", "--from", found["from"], "--to", found["to"])[0] == 0
    code, report = verb(*check, "--keyword", "warn", "--to", found["to"])
    assert (code, report["verdict"], report["question_differs"]) == (1, "VALID", ["keywords"])
    assert verb(*check, "--from", "2026-01-01")[1]["question_differs"] == ["from"]


def test_lines_are_printed_in_order_with_position_and_time(
    stream: str, capsys: pytest.CaptureFixture[str], cli_service: Served
) -> None:
    argv = ["stream", "query", stream, "--keyword", "ERROR", "--keyword", "失败", "--all", "--lang", "en"]
    assert run(argv, environ=cli_service.environ) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0:0  20")
    assert lines[0].endswith(LINES[0])
    assert "n(ERROR) = 8" in lines


def test_several_keywords_follow_one_option_and_the_id_may_come_last(verb: Verb, stream: str) -> None:
    _, expected = verb("stream", "query", stream, "--keyword", "ERROR", "--keyword", "失败", "--all")
    several = verb("stream", "query", stream, "--keyword", "ERROR", "失败", "--all")[1]
    last = verb("stream", "query", "--all", "--keyword", "ERROR", "失败", stream)[1]
    for found in (several, last):
        assert (found["counts"], found["lines"], found["verdict"]) == (expected["counts"], expected["lines"], "VALID")
    assert verb("stream", "query", "--keyword", "ERROR", stream)[0] == 0
    assert verb("stream", "query", "--keyword", "ERROR")[0] == 64
    assert verb("stream", "query", "--value", "account=1")[0] == 64


def test_what_is_not_indexed_is_undecided_and_offers_the_scan(verb: Verb, stream: str) -> None:
    code, found = verb("stream", "query", stream, "--keyword", "line")
    assert (code, found["counts"][0]["n"]) == (2, None)
    code, found = verb("stream", "query", stream, "--keyword", "line", "--scan")
    assert (code, found["scan"]["counts"]) == (2, [len(LINES)])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--keyword", "ERROR", "--from", "2026-01-02", "--to", "2026-01-01"], 3),
        (["--keyword", "ERROR", "--from", "yesterday"], 3),
        (["--keyword", ""], 3),
        (["--value", "account=1"], 3),
        (["--value", "account"], 64),
        (["--value", "a=1", "--keyword", "b"], 64),
        ([], 64),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_refuses_a_question_that_asks_nothing_or_too_much(verb: Verb, stream: str, words: list[str], expected: int) -> None:
    assert verb("stream", "query", stream, *words)[0] == expected


@pytest.mark.parametrize(
    "line",
    [
        "run --stream ID --source kafka://H:1/T --keywords F --slice-lines 1 --slice-bytes 1 --slice-seconds 1",
        "run --stream ID --source file:P --keywords F --slice merkle --index hash --once",
        "list",
        "show ID",
        "query ID --keyword K L --all --from T --to T -o answer.cz",
        "query ID --value RULE=V --from T --to T -o answer.cz",
        "recount ID --from T --to T",
        "end ID",
    ],
)
def test_words_of_the_interface_are_understood_and_others_are_not(line: str) -> None:
    parser = build_parser("en")
    assert parser.parse_args(["stream", *line.split(), "--url", "U", "--json"]).run
    with pytest.raises(Usage):
        parser.parse_args(["stream", *line.split(), "--no-such-word"])


def test_refuses_an_unknown_stream(verb: Verb) -> None:
    assert verb("stream", "query", "nobody", "--keyword", "x")[0] == 1
    assert verb("stream", "show", "nobody")[0] == 1
    assert verb("stream", "end", "nobody")[0] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "empty"), ("a\na\n", "twice"), ("a\n\nb\n", "wrong length"), ("x" * 300 + "\n", "wrong length"), ("a\r\n", "CR")],
    ids=["empty", "twice", "empty line", "too long", "CR"],
)
def test_refuses_a_keyword_file_and_names_the_fault(verb: Verb, text: str, said: str) -> None:
    Path("app.log").write_text("one\n", "utf-8")
    Path("words.txt").write_text(text, "utf-8", newline="")
    code, document = verb(*collect("keywords"))
    assert code == 3
    assert said in document["detail"]


@pytest.mark.parametrize(("source", "expected"), [("nowhere:x", 3), ("app.log", 3), ("file:", 3), ("file:missing.log", 4)])
def test_refuses_a_source_that_is_none(verb: Verb, source: str, expected: int) -> None:
    Path("words.txt").write_text("a\n", "utf-8")
    argv = ["stream", "run", "--stream", "nosource", "--source", source, "--keywords", "words.txt", "--state", "state", "--once"]
    assert verb(*argv)[0] == expected


def test_a_weaker_algorithm_than_the_table_is_refused(verb: Verb) -> None:
    Path("app.log").write_text("one\n", "utf-8")
    Path("words.txt").write_text("a\n", "utf-8")
    code, document = verb(*collect("weak", "--index", "hash"))
    assert (code, "Table C.1" in document["detail"]) == (3, True)
    assert verb(*collect("weak", "--index", "hash", "--slice", "hash", "--public-index", "--public-slice"))[0] == 0
    code, found = verb("stream", "query", "weak", "--keyword", "a")
    assert (code, found["counts"][0]["n"]) == (0, 0)


def test_recount_and_end(verb: Verb, stream: str) -> None:
    code, found = verb("stream", "recount", stream)
    assert code == 0
    assert {name: found[name] for name in ("lines_total", "slices", "complete")} == {
        "lines_total": len(LINES), "slices": 4, "complete": True,
    }  # fmt: skip
    assert found["range"]["first"] == 0
    code, found = verb("stream", "end", stream, "--state", "state")
    assert (code, found["ended"]) == (0, True)
    assert verb("stream", "end", stream, "--state", "state")[0] == 1
    assert verb(*collect(stream))[0] == 3
    code, page = verb("stream", "list")
    (item,) = [each for each in page["items"] if each["stream_id"] == stream]
    assert (item["ended"], item["overdue"], item["lines"]) == (True, False, len(LINES))


def test_list_says_how_far_behind_the_collector_is_or_that_it_is_unknown(
    verb: Verb, stream: str, capsys: pytest.CaptureFixture[str], cli_service: Served
) -> None:
    (item,) = [each for each in verb("stream", "list")[1]["items"] if each["stream_id"] == stream]
    assert (item["behind"]["count"], item["behind"]["unit"]) == (0, "bytes")
    assert run(["stream", "list", "--lang", "en"], environ=cli_service.environ) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(stream[:39])]
    assert f"0 bytes @ {item['behind']['at']}" in row


def test_a_pipe_cannot_say_how_far_behind_it_is_which_is_unknown_and_not_0(
    verb: Verb, cli_service: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words.txt").write_text("a\n", "utf-8")
    argv = ["stream", "run", "--stream", "piped", "--source", "-", "--keywords", "words.txt", "--state", "state", "--quiet"]
    done = subprocess.run(
        [*ENTRY, *argv], env=clean_environment(**cli_service.environ), cwd=tmp_path, input=b"a\n", check=True, capture_output=True
    )
    assert done.returncode == 0
    (item,) = [each for each in verb("stream", "list")[1]["items"] if each["stream_id"] == "piped"]
    assert (item["lines"], item["behind"]) == (1, None)
    assert run(["stream", "list", "--lang", "en"], environ=cli_service.environ) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("piped ")]
    assert "unknown" in row


def test_end_is_refused_where_the_collector_is_not(verb: Verb, stream: str) -> None:
    assert verb("stream", "end", stream, "--state", "elsewhere")[0] == 64


def until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < limit, "did not happen in time"


def test_a_stopped_collector_signs_a_last_slice_and_a_killed_one_loses_nothing(
    verb: Verb, cli_service: Served, tmp_path: Path
) -> None:
    log = tmp_path / "app.log"
    log.write_text("ERROR 1\n", "utf-8")
    (tmp_path / "words.txt").write_text("ERROR\n", "utf-8")
    argv = [*collect("follow")[:-1], "--slice-seconds", "0.2"]

    def lines() -> int:
        code, document = verb("stream", "show", "follow")
        return int(document["lines"]) if code == 0 else 0

    def start() -> subprocess.Popen[bytes]:
        environ = clean_environment(**cli_service.environ)
        return subprocess.Popen([*ENTRY, *argv, "--json", "--quiet"], env=environ, cwd=tmp_path, stdout=subprocess.PIPE)

    def append(*texts: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in texts)
            file.flush()
            os.fsync(file.fileno())

    first = start()
    try:
        until(lambda: lines() == 1)
        append("ERROR 2", "quiet")
        until(lambda: lines() == 3)
        first.send_signal(signal.SIGKILL)
        first.wait(WAIT_S)
        append("ERROR 3")
        second = start()
        try:
            until(lambda: lines() == 4)
            second.send_signal(signal.SIGTERM)
            assert second.wait(WAIT_S) == 0
        finally:
            second.kill()
    finally:
        first.kill()
    code, found = verb("stream", "query", "follow", "--keyword", "ERROR")
    assert (code, found["counts"][0]["n"]) == (0, 3)
    assert [line["text"] for line in found["lines"]] == ["ERROR 1", "ERROR 2", "ERROR 3"]


def test_two_collectors_of_one_stream_do_not_run_here(verb: Verb, stream: str) -> None:
    held = CollectorState.open(state_path(Path("state"), stream), stream).hold()
    try:
        assert verb(*collect(stream))[0] == 4
    finally:
        os.close(held)
