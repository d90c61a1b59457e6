"""Compiles the native core when the package is installed, with the C compiler that is there; without one it is left out.

The compiler is the one that this Python was made with, or `cc`, where the machine has it and it
works, else the one of the wheel `ziglang`, which the Makefile and the image fetch. No header beyond
the C standard's is needed, not Python's either. A processor's own instructions are chosen when the
core runs, so what is compiled here runs on every machine of this kind.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")


def compilers() -> list[list[str]]:
    """The commands of the C compilers that there are, the first to be tried first."""
    names = (sysconfig.get_config_var("CC") or "cc", "cc")
    found = [words for words in map(shlex.split, dict.fromkeys(names)) if words and shutil.which(words[0])]
    if find_spec("ziglang") is not None:
        found.append([sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"])
    return found


def compile_core(folder: Path, command: list[str], made: Path) -> None:
    """`made` is the core compiled of the source in `folder`; it stands there whole or not at all.

    Raises: RuntimeError with the compiler's words if it refuses.
    """
    with tempfile.TemporaryDirectory(dir=made.parent, prefix=".core-") as place:
        new = Path(place) / made.name
        done = subprocess.run(
            [*command, *FLAGS, "-o", str(new), str(folder / "core.c")], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the compiler refuses the native core ({shlex.join(command)}):\n{done.stderr[-4000:]}")
        new.chmod(0o755)
        new.replace(made)


def compile_with_any(folder: Path, commands: Iterable[list[str]], made: Path) -> None:
    """As `compile_core`, by the first of these compilers that can: one may be there without the headers of C.

    Raises: RuntimeError with the words of all if none can, or there is none.
    """
    refusals: list[str] = []
    for command in commands:
        try:
            return compile_core(folder, command, made)
        except (RuntimeError, OSError) as error:
            refusals.append(str(error))
    raise RuntimeError("\n".join(refusals) or "there is no C compiler")


class CoreHook(BuildHookInterface[Any]):
    """Puts the compiled core into the wheel, or beside its source where the project is installed editable."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """The core is compiled and part of the build; where that cannot be done, it is said and the build goes on without."""
        del version
        folder = Path(self.root) / "models" / "native"
        made = folder / ("core.dll" if sys.platform == "win32" else "core.so")
        made.unlink(missing_ok=True)
        try:
            compile_with_any(folder, compilers(), made)
        except RuntimeError as error:
            self.app.display_warning(f"the native core is left out, everything works and hashing is slower: {error}")
            return
        build_data["artifacts"].append(f"/models/native/{made.name}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
