"""Others' trees, for reading only: the construction of C.5 as printed, without separation of leaves from nodes.

A match with such a root proves less than it seems: an inner node can be passed off as an item. So
nothing here says VALID; what it says is a sentence that names the weakness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from models.canonical import JSONValue, members, parse, unb64
from models.digest import DIGEST_BYTES, Algorithm, digest, unhex
from models.errors import Malformed, VerificationError
from models.names import check_format
from models.report import Verdict

MAX_PROOF_BYTES: Final = 4 << 20
MAX_CONTENT_BYTES: Final = 64 << 20
MAX_ITEMS: Final = 1 << 18
SENTENCE: Final = "matches a root that does not separate leaves from nodes"
MAX_PATH: Final = 63


class Profile(StrEnum):
    """What becomes of the odd last node of a layer: carried up, or paired with itself."""

    PLAIN = "plain"
    PLAIN_DUP = "plain-dup"


def plain_root(items: Sequence[bytes], *, profile: str = Profile.PLAIN, algorithm: Algorithm = Algorithm.SM3) -> bytes:
    """H_root of `items`: leaf H(item), node H(l‖r), layer by layer.

    Shapes: n ≥ 1 items → 32 bytes.
    Raises: Malformed if there is no item: the text leaves the empty list open (erratum M07).
    Source: T/SAC 004—2024 C.5-merkle-a to C.5-merkle-e with errata M01 to M04; formats §1 (Profile plain).
    """
    return _layers(items, profile, algorithm)[-1][0]


def plain_path(
    items: Sequence[bytes], index: int, *, profile: str = Profile.PLAIN, algorithm: Algorithm = Algorithm.SM3
) -> list[bytes]:
    """The nodes beside the way from item `index` to the root, from the leaf upward. Raises: Malformed."""
    layers = _layers(items, profile, algorithm)
    if not 0 <= index < len(items):
        raise Malformed("index is none of the items'")
    path: list[bytes] = []
    for layer in layers[:-1]:
        beside = index ^ 1
        if beside < len(layer):
            path.append(layer[beside])
        elif profile == Profile.PLAIN_DUP:
            path.append(layer[index])
        index >>= 1
    return path


def match_plain(
    item: bytes,
    index: int,
    size: int,
    path: Sequence[bytes],
    root: bytes,
    *,
    profile: str = Profile.PLAIN,
    algorithm: Algorithm = Algorithm.SM3,
) -> str:
    """The sentence to report if `item` leads to `root`; never a verdict of its own.

    Raises: VerificationError if it does not: another root, or a path of another length than index and size give.
    Source: T/SAC 004—2024 C.5-verify-1 to C.5-verify-4; formats §1 (Profile plain).
    """
    if not 0 <= index < size or len(path) > MAX_PATH or any(len(node) != DIGEST_BYTES for node in path):
        raise VerificationError("path has wrong form: expected an index below the size, and hashes of 32 bytes")
    running, last, rest = digest(algorithm, item), size - 1, iter(path)
    while last:
        if index & 1 or index < last or profile == Profile.PLAIN_DUP:
            beside = next(rest, None)
            if beside is None:
                raise VerificationError("path lacks a hash")
            if profile == Profile.PLAIN_DUP and index == last and not index & 1 and beside != running:
                raise VerificationError("odd last node is not paired with itself")
            running = digest(algorithm, beside + running if index & 1 else running + beside)
        index >>= 1
        last >>= 1
    if next(rest, None) is not None or running != root:
        raise VerificationError("item does not lead to the root")
    return SENTENCE


def _layers(items: Sequence[bytes], profile: str, algorithm: Algorithm) -> list[list[bytes]]:
    if not items:
        raise Malformed("list of items is empty: the construction of C.5 has no root of nothing")
    if profile not in list(Profile):
        raise Malformed("profile is unknown: expected plain or plain-dup")
    layers = [[digest(algorithm, item) for item in items]]
    while len(layers[-1]) > 1:
        layer = layers[-1]
        if len(layer) & 1 and profile == Profile.PLAIN_DUP:
            layer = [*layer, layer[-1]]
        above = [digest(algorithm, layer[at] + layer[at + 1]) for at in range(0, len(layer) - 1, 2)]
        layers.append(above + layer[len(layer) & ~1 :])
    return layers


# --- what another system hands out ----------------------------------------------------------------------------------

_REASONS: Final = (
    ("所合树根不区分叶节点与内部节点：内部节点可冒充条目", f"{SENTENCE}: an inner node can be passed off as an item"),
    (
        "摘要未加盐：可能取值不多的相邻条目可由其摘要猜出",
        "hashes are not salted: a neighbour of few possible values can be guessed from its hash",
    ),
    (
        "所给材料不含上链证明：树根是否在链上、何时、由谁提交，须在区块链存证平台另行核对（C.5 验证步骤）",
        "nothing here shows that the root stands on a chain, since when, or by whom: ask the chain (C.5, last step)",
    ),
)
_DOUBLED: Final = ("末尾条目重复一次而树根不变", "the last item can be repeated without changing the root")
_NODE: Final = ("条目恰为两个摘要之长，可能就是内部节点", "the item is as long as two hashes: it may itself be an inner node")
_CONTRADICTS: Final = (
    "所给证明按其所称的规则不成立：内容、路径或树根有误，或者出证方所用的并非此规则与算法。",
    "The proof does not hold under the rule it names: content, path or root differ, or it was made by another rule or digest.",
)
_AGREES: Final = ("与所列树根相符，但仅凭此不能判定。", f"{SENTENCE}; that alone decides nothing.")


@dataclass(frozen=True, slots=True)
class PlainStep:
    """One thing that was looked at: `holds` is None where what it needs was not given."""

    name: str
    name_zh: str
    holds: bool | None
    detail: str
    detail_zh: str

    def to_json(self) -> dict[str, JSONValue]:
        """The step as it stands in the report."""
        return {
            "name": self.name,
            "name_zh": self.name_zh,
            "holds": self.holds,
            "detail": self.detail,
            "detail_zh": self.detail_zh,
        }


@dataclass(frozen=True, slots=True)
class PlainReport:
    """What holds of a proof of another system. There is no VALID here: what agrees is still undecided, and `reasons` say why.

    Source: formats §1 (Profile plain).
    """

    steps: tuple[PlainStep, ...]
    reasons: tuple[tuple[str, str], ...]

    @property
    def verdict(self) -> Verdict:
        """INVALID if anything contradicts, else INDETERMINATE."""
        return Verdict.INVALID if any(step.holds is False for step in self.steps) else Verdict.INDETERMINATE

    @property
    def sentence(self) -> tuple[str, str]:
        """What the verdict means, in Chinese and English."""
        return _CONTRADICTS if self.verdict is Verdict.INVALID else _AGREES

    def to_json(self) -> dict[str, JSONValue]:
        """The whole answer."""
        zh, en = self.sentence
        return {
            "format": "cz-plain-report/1",
            "verdict": self.verdict.value,
            "sentence": en,
            "sentence_zh": zh,
            "steps": [step.to_json() for step in self.steps],
            "reasons": [en for _, en in self.reasons],
            "reasons_zh": [zh for zh, _ in self.reasons],
        }


@dataclass(frozen=True, slots=True)
class PlainProof:
    """What another system hands out for one item: item_c, its place, the nodes beside its way, and the root H_root.

    Shapes: 0 ≤ index < size; path of 32-byte nodes from the leaf upward.
    Source: T/SAC 004—2024 C.5-verify-1 to C.5-verify-3; the standard has no file for it, so the form is ours.
    """

    profile: Profile
    algorithm: Algorithm
    root: bytes
    item: bytes
    index: int
    size: int
    path: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> PlainProof:
        """The proof that strict JSON states: members algorithm, format (cz-plain/1), index, item, path, profile, root, size.

        Nothing has a default, for the standard leaves open what systems do. `item` is a text, or {"b64": …}; hashes are hex.
        Raises: Malformed; Unknown for another version.
        """
        value = parse(data, max_bytes=MAX_PROOF_BYTES)
        check_format(value, "cz-plain")
        algorithm, _, index, item, path, profile, root, size = members(
            value, "algorithm format index item path profile root size", "plain proof"
        )
        if algorithm not in list(Algorithm):
            raise Malformed("algorithm is unknown: expected sm3 or sha256")
        if profile not in list(Profile):
            raise Malformed("profile is unknown: expected plain or plain-dup")
        if type(index) is not int or type(size) is not int or not 0 <= index < size:
            raise Malformed("place of the item has wrong form: expected 0 ≤ index < size")
        if not isinstance(path, list) or len(path) > MAX_PATH:
            raise Malformed(f"path has wrong form: expected a list of at most {MAX_PATH} hashes")
        return cls(
            Profile(str(profile)),
            Algorithm(str(algorithm)),
            unhex(root, what="root"),
            _item(item),
            index,
            size,
            tuple(unhex(node, what="node of the path") for node in path),
        )

    def judge(self, content: bytes | None = None) -> PlainReport:
        """What holds of it, and with the content of the slice whether its lines give the root and have the item at its place.

        Raises: Malformed if the content has no line or too many.
        Source: T/SAC 004—2024 C.5-merkle-a to C.5-merkle-e, C.5-verify-1 to C.5-verify-4.
        """
        steps = [self._leads(), *self._agrees(content)]
        reasons = [*_REASONS]
        if self.profile == Profile.PLAIN_DUP:
            reasons.append(_DOUBLED)
        if content is None and len(self.item) == 2 * DIGEST_BYTES:
            reasons.append(_NODE)
        return PlainReport(tuple(steps), tuple(reasons))

    def _leads(self) -> PlainStep:
        try:
            match_plain(self.item, self.index, self.size, self.path, self.root, profile=self.profile, algorithm=self.algorithm)
        except VerificationError as error:
            return PlainStep("path", "路径", False, error.message, "条目与所列节点算不出所列树根")
        return PlainStep("path", "路径", True, "item and nodes give the root", "由条目与所列节点算得所列树根")

    def _agrees(self, content: bytes | None) -> list[PlainStep]:
        if content is None:
            given = (None, "the content of the slice was not given", "未提供分片内容")
            return [PlainStep("content", "分片内容", *given), PlainStep("place", "条目位置", *given)]
        lines = _lines(content)
        if plain_root(lines, profile=self.profile, algorithm=self.algorithm) == self.root:
            told = (True, f"{len(lines)} lines give the root", f"{len(lines)} 行算得所列树根")
        else:
            told = (False, f"{len(lines)} lines give another root", f"{len(lines)} 行算得另一树根")
        if len(lines) != self.size:
            place = (False, f"content has {len(lines)} lines, the proof says {self.size}", "行数与证明所称不符")
        elif lines[self.index] != self.item:
            place = (False, f"line {self.index} of the content is another", "该位置的行与条目不同")
        else:
            place = (True, f"item is line {self.index} of the content", f"条目即内容的第 {self.index} 行（自 0 起）")
        return [PlainStep("content", "分片内容", *told), PlainStep("place", "条目位置", *place)]


def _item(value: JSONValue) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return unb64(members(value, "b64", "item")[0], what="item")


def _lines(content: bytes) -> list[bytes]:
    """The items of a slice: its lines without LF; bytes after the last LF are a line too."""
    if len(content) > MAX_CONTENT_BYTES or content.count(b"\n") > MAX_ITEMS:
        raise Malformed(f"content of the slice is too long: expected at most {MAX_ITEMS} lines in {MAX_CONTENT_BYTES} bytes")
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise Malformed("content of the slice has no line")
    return lines
