"""Each benchmark runs, small, and prints lines of the one shape. What they measure is judged by people, on a quiet machine."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
NAMES = sorted([path.name for path in FOLDER.glob("g*.py")] + ["commitment.py"])
MEMBERS = ["goal", "against", "ours", "baseline", "ratio", "unit"]


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments], capture_output=True, text=True, cwd=ROOT, timeout=240, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_prints_lines_of_the_one_shape(name: str) -> None:
    done = run(name, "--quick", "--pairs", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines
    for line in lines:
        value = json.loads(line)
        assert list(value) == MEMBERS
        assert all(isinstance(value[member], str) and value[member] for member in ("goal", "against", "unit"))
        assert all(math.isfinite(value[member]) and value[member] > 0 for member in ("ours", "baseline", "ratio"))


def test_benchmark_refuses_an_option_it_does_not_know() -> None:
    done = run("commitment.py", "--fast")
    assert done.returncode != 0
    assert done.stdout == ""


def test_load_generator_refuses_to_leave_the_machine() -> None:
    arguments = ["http://192.0.2.1:80", "token", "1", "1", "1", "0", "1"]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "load.py"), *arguments],
        input="go\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "127.0.0.1 only" in done.stderr


def test_readme_names_every_benchmark() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    assert [name for name in NAMES if f"`{name}`" not in text] == []
