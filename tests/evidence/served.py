"""A real service in a process of its own, on a free port, with a home of its own."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.cli.app import run

Verb = Callable[..., tuple[int, Any]]
"""Runs a verb with --json and gives back its exit code and document."""

ENTRY = [sys.executable, "-m", "evidence.cli.main"]


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of ours, and `more`."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("EVIDENCE_")}, **more}


@dataclass(frozen=True)
class Served:
    """A running service: its address, its home, and the environment of a client on the same machine."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def environ(self) -> dict[str, str]:
        return {"EVIDENCE_HOME": str(self.home), "EVIDENCE_URL": self.url}


@contextmanager
def served(home: Path, *, options: Sequence[str] = ("--quiet",), **settings: str) -> Iterator[Served]:
    """The service of a fresh home, its log in `serve.log` beside it; stopped by SIGTERM, and then it must have ended with 0."""
    environ = clean_environment(EVIDENCE_HOME=str(home), **settings)
    with redirect_stdout(io.StringIO()):
        assert run(["init", "--quiet"], environ=environ) == 0
    with (home.parent / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*ENTRY, "serve", "--port", "0", "--json", *options],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=home.parent,
        )
    assert process.stdout is not None
    try:
        lines = b""
        while not lines.rstrip().endswith(b"}"):
            line = process.stdout.readline()
            assert line, (home.parent / "serve.log").read_text("utf-8")
            lines += line
        yield Served(json.loads(lines)["url"], home, process)
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def example(verb: Verb, name: str = "file@1") -> dict[str, Any]:
    """A fresh valid submission of the template."""
    code, document = verb("templates", "example", name)
    assert code == 0
    found: dict[str, Any] = document
    return found
