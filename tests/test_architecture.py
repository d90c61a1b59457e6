"""The shape of the project: who may import whom, what lies where, how long a file may be."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PACKAGES = ("models", "chain_gateway", "streaming", "evidence")
TOP_LEVEL = {
    "LICENSE", "Makefile", "README.md", "pyproject.toml",
    "benchmarks", "chain_gateway", "docker", "evidence", "models", "streaming", "tests",
}  # fmt: skip
VERIFIER_LIBRARIES = {"asn1crypto", "cryptography", "gmssl", "pydantic", "pydantic_core"}
SHAPELESS_NAMES = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}
MAX_LINES = 500
MAX_FUNCTION_LINES = 60


def _files() -> list[Path]:
    """Every file that is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=TOP, check=True, capture_output=True
    ).stdout.decode()
    return sorted(path for name in listed.split("\0") if name and (path := TOP / name).is_file())


FILES = _files()
PYTHON = [path for path in FILES if path.suffix == ".py"]
PRODUCT = [path for path in PYTHON if path.relative_to(TOP).parts[0] in PACKAGES]


def _name(path: Path) -> str:
    return path.relative_to(TOP).as_posix()


# --- imports ---------------------------------------------------------------------------------------------------------


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


def test_import_contracts_hold() -> None:
    result = _lint_imports(TOP)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("models/errors.py", "evidence.errors"),
        ("models/errors.py", "httpx"),
        ("chain_gateway/port.py", "evidence.errors"),
        ("chain_gateway/port.py", "streaming.port"),
        ("streaming/port.py", "chain_gateway.port"),
        ("streaming/port.py", "evidence.errors"),
        ("evidence/verifier.py", "sqlalchemy"),
        ("chain_gateway/embedded/proof.py", "fastapi"),
    ],
)
def test_import_that_breaks_a_contract_is_found(tmp_path: Path, importer: str, imported: str) -> None:
    for package in PACKAGES:
        shutil.copytree(TOP / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    with (tmp_path / importer).open("a") as file:
        file.write(f"\nimport {imported}\n")
    result = _lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout


def _imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in the file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _source(module: str) -> Path | None:
    path = TOP.joinpath(*module.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def _closure(start: list[Path]) -> dict[str, str]:
    """Every module reached from `start`, ours by file and others by top-level name, each with a file that imports it."""
    reached: dict[str, str] = {}
    todo = list(start)
    while todo:
        path = todo.pop()
        for module in _imports(path):
            source = _source(module)
            if source is None:
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names and top not in PACKAGES:
                    reached.setdefault(top, _name(path))
            elif _name(source) not in reached:
                reached[_name(source)] = _name(path)
                todo.append(source)
    return reached


@pytest.mark.parametrize("start", ["evidence/verifier.py", *sorted(map(_name, TOP.glob("chain_gateway/*/proof.py")))])
def test_verifying_needs_only_models_and_the_crypto_libraries(start: str) -> None:
    own = ("models/", "evidence/__init__.py", "evidence/verifier.py", "evidence/checks/", "chain_gateway/__init__.py")
    for module, importer in _closure([TOP / start]).items():
        if module.endswith(".py"):
            of_this_engine = start.startswith("chain_gateway/") and module.startswith(start.rpartition("/")[0])
            assert module.startswith(own) or of_this_engine, f"{importer} imports {module}"
        else:
            assert module in VERIFIER_LIBRARIES, f"{importer} imports {module}"


def test_init_files_are_empty() -> None:
    assert [_name(path) for path in PYTHON if path.name == "__init__.py" and path.read_bytes().strip()] == []


# --- files -----------------------------------------------------------------------------------------------------------


def test_top_level_is_the_fixed_one() -> None:
    found = {path.relative_to(TOP).parts[0] for path in FILES}
    assert {name for name in found if not name.startswith(".")} == TOP_LEVEL


def test_no_file_is_longer_than_the_limit() -> None:
    lines = {_name(path): len(path.read_bytes().splitlines()) for path in PYTHON if "migrations" not in path.parts}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def _long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{_name(path)}:{node.lineno} {node.name} has {length} lines"


def test_every_function_fits_on_a_screen() -> None:
    """A migration excepted: a schema written out is as long as it has tables."""
    written = [path for path in PRODUCT if "migrations" not in path.parts]
    assert [found for path in written for found in _long_functions(path)] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [_name(path) for path in PRODUCT if set(path.relative_to(TOP).with_suffix("").parts) & SHAPELESS_NAMES] == []


def test_every_package_says_what_it_is() -> None:
    folders = [*PACKAGES, "docker", *(_name(path.parent) for path in TOP.glob("chain_gateway/*/engine.py"))]
    assert [folder for folder in folders if not (TOP / folder / "README.md").is_file()] == []


def test_every_engine_has_its_four_files_and_two_entry_points() -> None:
    points = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["entry-points"]
    engines = sorted(path.parent.name for path in TOP.glob("chain_gateway/*/engine.py"))
    assert engines == sorted(points["chain_gateway.engines"]) == sorted(points["chain_gateway.proofs"])
    for engine in engines:
        files = {path.name for path in (TOP / "chain_gateway" / engine).iterdir()}
        assert {"README.md", "engine.py", "proof.py", "testing.py"} <= files


# Written in pieces, so that this file does not contain what it looks for.
FOREIGN = {
    "package registry": "|".join(
        re.escape(first + second)
        for first, second in (
            ("pypi", ".org"), ("pythonhosted", ".org"), ("registry.npmjs", ".org"), ("static.crates", ".io"),
            ("proxy.golang", ".org"), ("repo1.maven", ".org"), ("deb.debian", ".org"), ("docker", ".io/"), ("ghcr", ".io/"),
        )
    ),
    "machine path": "/wo" "rk/(?:main|shared|[.])|/ro" "ot/|/ho" "me/[a-z]|/Us" "ers/[A-Za-z]",
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_names_where_it_was_made(what: str) -> None:
    pattern = re.compile(FOREIGN[what].encode())
    found = [f"{_name(path)}: {hit.group().decode()}" for path in FILES if (hit := pattern.search(path.read_bytes()))]
    assert found == []
