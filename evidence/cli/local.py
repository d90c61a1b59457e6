"""A home opened beside a running service, for the verbs that read or administer it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evidence.cli.console import Console

if TYPE_CHECKING:
    from evidence.bootstrap import Home
    from evidence.settings import Settings


def settings_of(console: Console, **overrides: object) -> Settings:
    """The settings of the environment and of `evidence.toml`. Raises: SettingWrong."""
    from evidence.settings import load_settings

    return load_settings(console.environ, **overrides)


@contextmanager
def opened(console: Console) -> Iterator[Home]:
    """The home that EVIDENCE_HOME names, open for reading; a service may run on it meanwhile.

    Raises: HomeRefused if there is none; SettingWrong.
    """
    from evidence.bootstrap import open_home

    home = open_home(settings_of(console))
    try:
        yield home
    finally:
        home.close()
