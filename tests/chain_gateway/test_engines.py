"""What must hold for whatever engines are installed, and that the README's example runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chain_gateway.conformance import make_anchor
from chain_gateway.embedded.testing import TickingClock
from chain_gateway.port import engine_module, engines, proofs
from models.anchor import ChainReceipt
from models.signature import SM2Signer

ROOT = Path(__file__).parents[2]
PURE = {"asyncio", "fastapi", "httpx", "psycopg", "socket", "sqlalchemy", "ssl", "starlette"}


@pytest.mark.parametrize("name", sorted(engines()))
def test_engine_ships_a_proof_a_harness_a_readme_and_runs_the_suite(name: str) -> None:
    folder = engine_module(name).__name__.rpartition(".")[0]
    assert name in proofs()
    assert hasattr(importlib.import_module(f"{folder}.testing"), "open_network")
    assert (ROOT / folder.replace(".", "/") / "README.md").exists()
    assert "GatewayLaws" in (Path(__file__).parent / f"test_conformance_{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(proofs()))
def test_proof_of_an_engine_imports_nothing_that_talks(name: str) -> None:
    module = inspect.getmodule(proofs()[name])
    assert module is not None
    script = f"import sys, {module.__name__}; print([name for name in {sorted(PURE)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


async def test_example_of_the_readme_runs(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"```python\n(from pathlib.*?)```", (ROOT / "chain_gateway/README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names = {"home": tmp_path, "clock": TickingClock(), "SM2Signer": SM2Signer, "anchor": make_anchor("example-1", "readme")}
    code = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, names)
    assert isinstance(names["receipt"], ChainReceipt)
    await names["gateway"].aclose()  # type: ignore[attr-defined]
