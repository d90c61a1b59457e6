"""Which witnesses together make a checkpoint believable: the text of C2SP tlog-policy without log lines.

A checkpoint is witnessed if the named quorum is: a witness by its own good cosignature, a group by
at least k of its members. Groups name only what stands above them, so there are no circles.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from models.checkpoint import COSIGNATURE_TYPE, ED25519_COSIGNATURE_TYPE, VerifierKey
from models.errors import Malformed

NONE = "none"
MAX_LINES = 1024
_COUNT = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Group:
    """A named group of witnesses and groups; it has witnessed what `threshold` of its members have."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """Witnesses by their name in the policy, groups in order, the quorum's name, and the text itself."""

    witnesses: tuple[tuple[str, VerifierKey], ...]
    groups: tuple[Group, ...]
    quorum: str
    text: str

    def is_satisfied_by(self, names: Collection[str]) -> bool:
        """Whether cosignatures of exactly the witnesses `names` make the quorum."""
        if self.quorum == NONE:
            return True
        done = set(names)
        for group in self.groups:
            if sum(member in done for member in group.members) >= group.threshold:
                done.add(group.name)
        return self.quorum in done

    @classmethod
    def parse(cls, text: object) -> WitnessPolicy:
        """The policy that `text` states.

        Shapes: lines ended by newline; witness, group and exactly one quorum line.
        Raises: Malformed on any other line, a double name or key, or a name not defined above its use;
            Unknown if a witness key is of an unknown signature type.
        Source: C2SP tlog-policy; formats §6.3.
        """
        if not isinstance(text, str) or not text.endswith("\n") or text.count("\n") > MAX_LINES:
            raise Malformed(f"witness policy has wrong form: expected at most {MAX_LINES} lines ended by newline")
        if any((letter < " " and letter not in "\t\n") or letter == "\x7f" for letter in text):
            raise Malformed("witness policy holds a control character")
        reader = _Reader()
        for line in text.split("\n"):
            words = [word for word in re.split("[ \t]+", line) if word]
            if words and not words[0].startswith("#"):
                reader.take(words)
        if reader.quorum is None:
            raise Malformed("witness policy has no quorum line")
        return cls(tuple(reader.witnesses), tuple(reader.groups), reader.quorum, text)


class _Reader:
    def __init__(self) -> None:
        self.witnesses: list[tuple[str, VerifierKey]] = []
        self.groups: list[Group] = []
        self.quorum: str | None = None
        self._names: set[str] = set()
        self._members: set[str] = set()

    def take(self, words: list[str]) -> None:
        verb, *rest = words
        if verb == "witness" and len(rest) in (2, 3):
            self._witness(rest[0], rest[1])
        elif verb == "group" and len(rest) >= 3:
            self._group(rest[0], rest[1], rest[2:])
        elif verb == "quorum" and len(rest) == 1 and self.quorum is None:
            if rest[0] != NONE and rest[0] not in self._names:
                raise Malformed("witness policy names an unknown quorum: expected a name defined above")
            self.quorum = rest[0]
        else:
            raise Malformed("witness policy has a line of wrong form: expected witness, group or one quorum")

    def _define(self, name: str) -> None:
        if name == NONE or name in self._names:
            raise Malformed("witness policy defines a name twice, or the name none")
        self._names.add(name)

    def _witness(self, name: str, text: str) -> None:
        key = VerifierKey.parse(text)
        if key.type not in (COSIGNATURE_TYPE, ED25519_COSIGNATURE_TYPE):
            raise Malformed("witness key is not for cosignatures")
        if any(key.public_key == other.public_key for _, other in self.witnesses):
            raise Malformed("witness policy holds one key twice")
        self._define(name)
        self.witnesses.append((name, key))

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        if not all(member in self._names for member in members):
            raise Malformed("witness policy has a group of unknown members: expected names defined above")
        if len(set(members)) != len(members) or self._members & set(members):
            raise Malformed("witness policy has a name in groups twice: expected each once")
        count = {"all": len(members), "any": 1}.get(threshold)
        if count is None:
            if not _COUNT.fullmatch(threshold):
                raise Malformed("witness policy has a threshold of wrong form: expected all, any or a number")
            count = int(threshold)
        if count > len(members):
            raise Malformed("witness policy has a threshold above the number of members")
        self._define(name)
        self._members.update(members)
        self.groups.append(Group(name, count, tuple(members)))
