"""Says whether the native core is there: what an installation prints at its end."""

import sys

from models.native import library as native

core = native.load()
said = (
    f"native core: SM3 of {core.lanes} messages at once"
    if core is not None
    else "native core: none, everything works and hashing is slower (no C compiler was found, or it refused)"
)
sys.stdout.write(said + "\n")
