"""`make run` as a person uses it: the demo is green, the service stays until Ctrl-C, and nothing is left behind."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from processes import die_with_parent, free_port

TOP = Path(__file__).parent.parent
SERVES = "the service and its explorer"


class Run:
    """One `make run` in a session of its own, as a terminal has it."""

    def __init__(self, home: Path, port: int) -> None:
        self.output: list[str] = []
        self.process = subprocess.Popen(
            ["make", "run", f"EVIDENCE_HOME={home}", f"EVIDENCE_PORT={port}"],
            cwd=TOP,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_like_a_terminal,  # noqa: PLW1509 - two system calls between fork and exec take no lock
        )

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if text in line:
                return
        pytest.fail(f"make run ended without saying {text!r}:\n{''.join(self.output)}")

    def interrupt(self) -> str:
        """Everything printed, after Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        rest, _ = self.process.communicate(timeout=60)
        return "".join(self.output) + rest


def _like_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner in the background has it ignored
    die_with_parent()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    yield folder
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("EVIDENCE_HOME") == str(folder):
            process.kill()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.long
def test_run_shows_the_demo_and_serves_until_interrupted(home: Path) -> None:
    port = free_port()
    for _ in range(2):  # the second run finds the first one's keys and data
        run = Run(home, port)
        run.wait_for(SERVES)
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, transport=transport) as client:
            assert client.get("/healthz").status_code == httpx.codes.OK
            assert "text/html" in client.get("/").headers["content-type"]
        printed = run.interrupt()
        assert "VALID" in printed
        assert "Traceback" not in printed
        assert _is_free(port)


def test_interrupted_start_leaves_no_service(home: Path) -> None:
    port = free_port()
    run = Run(home, port)
    while _is_free(port):
        assert run.process.poll() is None
        time.sleep(0.02)
    assert "Traceback" not in run.interrupt()
    assert _is_free(port)


def test_run_says_that_the_port_is_taken(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        output, _ = Run(home, port).process.communicate(timeout=60)
    assert f"port {port} is in use" in output
    assert not home.exists()


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_run_says_that_the_port_is_none(home: Path, port: str) -> None:
    result = subprocess.run(
        ["make", "run", f"EVIDENCE_HOME={home}", f"EVIDENCE_PORT={port}"], cwd=TOP, check=False, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "EVIDENCE_PORT is not a port number" in result.stderr


def test_clean_keeps_the_home_of_a_production_service(tmp_path: Path) -> None:
    _clean(tmp_path, "production")
    assert (tmp_path / "var/home.json").exists()


def test_clean_removes_what_was_made(tmp_path: Path) -> None:
    _clean(tmp_path, "sandbox")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["Makefile", "models", "models/native"]


def _clean(folder: Path, environment: str) -> None:
    for made in ("var", ".venv", ".mypy_cache", "__pycache__"):
        (folder / made).mkdir()
    (folder / "var/home.json").write_text(f'{{"environment":"{environment}"}}')
    (folder / "models/native").mkdir(parents=True)
    (folder / "models/native/core.so").write_bytes(b"")
    (folder / "Makefile").write_bytes((TOP / "Makefile").read_bytes())
    subprocess.run(["make", "clean"], cwd=folder, check=True, capture_output=True)
    assert not (folder / ".venv").exists()
