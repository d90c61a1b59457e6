"""Compiles the native core when the package is installed, with the C compiler that is there; without one it is left out.

The compiler is `CC` or `cc` of the machine, else the one of the wheel `ziglang`, which the Makefile
and the image fetch where there is no other. No header beyond the C standard's is needed, not
Python's either. A processor's own instructions are chosen when the core runs, so what is compiled
here runs on every machine of this kind.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")


def compiler() -> list[str] | None:
    """The command of a C compiler, or None if there is none."""
    for name in (sysconfig.get_config_var("CC") or "cc", "cc"):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
    return None


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


class CoreHook(BuildHookInterface[Any]):
    """Puts the compiled core into the wheel, or beside its source where the project is installed editable."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """The core is compiled and part of the build; where that cannot be done, it is said and the build goes on without."""
        del version
        folder = Path(self.root) / "models" / "native"
        made = folder / ("core.dll" if sys.platform == "win32" else "core.so")
        made.unlink(missing_ok=True)
        command = compiler()
        if command is None:
            self.app.display_warning("no C compiler: the native core is left out, everything works and hashing is slower")
            return
        try:
            compile_core(folder, command, made)
        except (RuntimeError, OSError) as error:
            self.app.display_warning(f"the native core is left out, everything works and hashing is slower: {error}")
            return
        build_data["artifacts"].append(f"/models/native/{made.name}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
