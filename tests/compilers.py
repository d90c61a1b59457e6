"""C compilers for the tests of the native core: the machine's own, and the one that is fetched where there is none."""

import shutil
import subprocess
import sys
from pathlib import Path

from cache import cache_folder, locked

LOCK = Path(__file__).parent.parent / ".lock" / "compiler.txt"
NAMES = ("cc", "ziglang")


class Unavailable(Exception):
    """There is no such compiler on this machine; the message says why."""


def compiler_named(name: str) -> list[str]:
    """The command of a compiler of `NAMES`; the wheel is fetched once, as it is locked. Raises: Unavailable."""
    if name == "cc":
        if shutil.which("cc") is None:
            raise Unavailable("there is no cc on this machine")
        return ["cc"]
    (version,) = (line.split()[0].partition("==")[2] for line in LOCK.read_text().splitlines() if line.startswith("ziglang=="))
    folder = cache_folder() / f"ziglang-{version}"
    with locked("ziglang"):
        if not folder.exists():
            half = folder.with_name(folder.name + ".half")
            shutil.rmtree(half, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
            done = subprocess.run([*command, "--target", half, "-r", LOCK], check=False, capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(f"pip ended with {done.returncode}: {done.stderr[-2000:]}")
            half.rename(folder)
    return [str(folder / "ziglang" / "zig"), "cc", "-mcpu=baseline"]
