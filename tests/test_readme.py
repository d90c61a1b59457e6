"""Every command block of the README, run in its order in a folder like a checkout, against the service that `make run` starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from processes import die_with_parent, free_port

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SERVES = "the service and its explorer"
TIMEOUT_S = 240
START_S = 60


def _checkout(folder: Path) -> Path:
    """A folder whose entries are those of the checkout, but with a home of its own."""
    place = folder / "checkout"
    place.mkdir()
    for entry in TOP.iterdir():
        if entry.name != "var":
            (place / entry.name).symlink_to(entry)
    return place


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EVIDENCE_")}


def _start(place: Path, port: int) -> subprocess.Popen[str]:
    service = subprocess.Popen(
        # The environment is the checkout's own and is installed: an install from here would point it at this folder.
        ["make", "-o", ".venv/.installed", "run", f"EVIDENCE_PORT={port}"],
        cwd=place,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call between fork and exec takes no lock
    )
    assert service.stdout is not None
    said = []
    for line in service.stdout:
        said.append(line)
        if SERVES in line:
            _await_ready(port)
            return service
    pytest.fail("make run ended:\n" + "".join(said))


def _await_ready(port: int) -> None:
    """The line is printed as the service begins to open the home; a person takes longer to change the window."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=START_S).status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    pytest.fail("the service that make run left was not ready in time")


def _run(kind: str, text: str, place: Path, port: int) -> str:
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    command = ["bash", "-euo", "pipefail", "-c", text] if kind == "bash" else [str(place / ".venv/bin/python"), "-c", text]
    environment = {**_environment(), "EVIDENCE_URL": f"http://127.0.0.1:{port}", "EVIDENCE_HOME": str(place / "var")}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{text}\n--- exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _is_ignored(name: str) -> bool:
    asked = ["git", "check-ignore", "--no-index", name, f"{name}/"]
    return bool(subprocess.run(asked, cwd=TOP, capture_output=True, check=False).stdout)


@pytest.mark.long
def test_every_block_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    assert BLOCKS[0] == ("bash", "make run\n"), "the first block is the run"
    place, port = _checkout(tmp_path), free_port()
    service = _start(place, port)
    try:
        said = [_run(kind, text, place, port) for kind, text in BLOCKS[1:]]
    finally:
        os.killpg(service.pid, signal.SIGINT)
        service.communicate(timeout=60)
    everything = "".join(said)
    for expected in ('"promise"', "有效 (VALID)", "无效 (INVALID)", "行被更改", "命中行缺失"):
        assert expected in everything
    assert (place / "first.cz").stat().st_size > 1000
    # Who follows the README in his checkout has nothing of it in the next commit, and `make test` still passes.
    left = {entry.name for entry in place.iterdir() if not entry.is_symlink()}
    assert {"promise.json", "steps", "var"} <= left
    assert {name for name in left if not _is_ignored(name)} == set()


def test_readme_names_only_files_that_exist() -> None:
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (TOP / name).exists(), name


def test_what_belongs_to_the_project_is_not_ignored() -> None:
    for name in ("README.md", "pyproject.toml", "evidence", "models", "words.md", "steps.py"):
        assert not _is_ignored(name), name


def test_first_line_of_the_readme_says_what_it_is() -> None:
    assert README.startswith("# 存证")
