"""Later."""

from evidence.cli.verbs import Verbs


def register(verbs: Verbs) -> None:
    """Nothing yet."""
