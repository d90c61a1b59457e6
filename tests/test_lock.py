"""What is installed is what was locked: names, versions, hashes, and no word on where from."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from models.native import library as native
from models.native.build import compilers

TOP = Path(__file__).parent.parent
LOCKS = sorted(path.name for path in TOP.glob(".lock/*.txt"))
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())
RUN = PROJECT["project"]["dependencies"]
EXTRAS = [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
WANTED = {
    "build.txt": PROJECT["build-system"]["requires"],
    "compiler.txt": PROJECT["dependency-groups"]["compiler"],
    "dev.txt": [*RUN, *EXTRAS, *PROJECT["dependency-groups"]["dev"]],
    "postgresql.txt": [*RUN, *EXTRAS],
    "run.txt": RUN,
}


def _entries(lock: str) -> list[str]:
    """The entries of a lock file, each on one line."""
    text = (TOP / ".lock" / lock).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _versions(lock: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in _entries(lock):
        name, _, rest = entry.partition("==")
        found[canonicalize_name(name)] = rest.split()[0]
    return found


def test_lock_files_are_those_that_are_explained_here() -> None:
    assert set(LOCKS) == set(WANTED)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_is_one_version_with_hashes(lock: str) -> None:
    entry = re.compile(r"[a-z0-9._-]+(\[[a-z0-9,-]+\])?==\S+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", re.IGNORECASE)
    assert [line for line in _entries(lock) if not entry.fullmatch(line)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_address_is_in_a_lock_file(lock: str) -> None:
    address = re.compile(r"\S*(?:://|--index|--extra-index|--find-links|--trusted-host)\S*")
    assert address.findall((TOP / ".lock" / lock).read_text()) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_asked_for_is_locked_at_a_version_that_was_asked_for(lock: str) -> None:
    versions = _versions(lock)
    for text in WANTED[lock]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), text


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock != "dev.txt"])
def test_lock_files_agree_on_versions(lock: str) -> None:
    dev = _versions("dev.txt")
    assert {name: version for name, version in _versions(lock).items() if dev.get(name, version) != version} == {}


def test_what_runs_needs_nothing_of_what_tests() -> None:
    assert not {"pytest", "hypothesis", "pymerkle", "psycopg"} & _versions("run.txt").keys()


def test_wheel_carries_the_data_files_and_nothing_else_of_the_checkout(tmp_path: Path) -> None:
    """Built as the image builds it: the locked backend, no isolation, no network."""
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=TOP, check=True, capture_output=True
    ).stdout.decode()
    files = [name for name in listed.split("\0") if name and (TOP / name).is_file()]
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, source],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        points = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt"))).decode()
    shipped = {name for name in files if name.partition("/")[0] in {"models", "chain_gateway", "streaming", "evidence"}}
    core = f"models/native/{native.FILE}"
    assert packed - {core} == shipped
    assert (core in packed) == bool(compilers())
    assert any(name.startswith("models/templates/") for name in packed)
    assert "evidence = evidence.cli.main:main" in points
