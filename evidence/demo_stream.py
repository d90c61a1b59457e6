"""The demonstration of streams: a real log followed, a word asked for, the answer verified, two forgeries refused."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evidence.bootstrap import Clock, Randomness
from evidence.client import AsyncClient, Client
from evidence.collector import CollectorState, Wish, state_path
from evidence.collectors import Collectors
from evidence.demo import Forgery, judge, verify_apart
from evidence.errors import NotFound
from models.answer import LINES
from models.bundle import pack, unpack
from models.canonical import JSONValue, b64, canonical, parse, unb64
from models.digest import sm3
from models.report import Verdict
from models.trust import TrustRoots
from streaming.slicer import CutRule

MAX_SILENCE_S: Final = 30 * 86_400
"""A demonstration is not always running: its stream may be silent for a month without that being a finding."""
_WORDS: Final = 8
_SAMPLE_BYTES: Final = 1 << 20
_WORD: Final = re.compile(rb"[A-Za-z]{5,24}")
"""Long enough to mean something to a person: `none`, asked for, reads like no question at all."""
_SLICE_LINES: Final = 1000


@dataclass(frozen=True, slots=True)
class StreamShown:
    """A log after the whole path: what was asked of it, what came back, and what the verifier said to altered copies."""

    what: str
    stream_id: str
    keyword: str
    n: int
    slices: int
    verdict: str
    lines: tuple[tuple[str, str, str], ...]
    """Of each line that holds the word: position, when it was collected, text."""
    forgeries: tuple[Forgery, ...]

    @property
    def holds(self) -> bool:
        """Whether the answer is VALID, and every altered copy is not."""
        return self.verdict == Verdict.VALID and bool(self.forgeries) and all(each.is_refused for each in self.forgeries)

    def to_json(self) -> dict[str, JSONValue]:
        """The part of `--json`."""
        return {
            "what": self.what,
            "stream_id": self.stream_id,
            "keyword": self.keyword,
            "n": self.n,
            "slices": self.slices,
            "verdict": self.verdict,
            "forgeries": [
                {"change": each.change, "verdict": each.verdict, "step": each.step, "reason": each.reason}
                for each in self.forgeries
            ],
        }


def stream_name(path: Path) -> str:
    """The stream of a log: the same for the same path, and it tells nothing of it."""
    return f"demo-{sm3(str(path).encode()).hex()[:16]}"


def frequent_words(path: Path) -> tuple[bytes, ...]:
    """The words that the beginning of a log holds most often, ascending; a keyword set to try with.

    Raises: NotFound if it holds none.
    """
    with path.open("rb") as stream:
        sample = stream.read(_SAMPLE_BYTES)
    found = [word for word, _ in Counter(_WORD.findall(sample)).most_common(_WORDS)]
    if not found:
        raise NotFound("log holds no word to ask for")
    return tuple(sorted(found))


def collect(client: AsyncClient, path: Path, folder: Path, *, clock: Clock, randomness: Randomness) -> Callable[[], object]:
    """A call that reads the log at `path` to its present end into its stream; what was read before is not read again.

    The call raises what the stream is refused for.
    """
    name, source = stream_name(path), f"file:{path}"
    is_known = bool(CollectorState.open(state_path(folder, name), name).declared)
    words = None if is_known else frequent_words(path)
    wish = Wish(name, source, "line", words, options={"max_silence_s": MAX_SILENCE_S, "charset": "utf-8"})

    async def run() -> None:
        async with client:
            collectors = Collectors(
                client, folder, wish, cut=lambda _wish, _state: CutRule(lines=_SLICE_LINES), follow=False, clock=clock,
                randomness=randomness,
            )  # fmt: skip
            await collectors.begin()
            await collectors.collect()
        if collectors.reason is not None:
            raise collectors.reason

    return lambda: asyncio.run(run())


def show(client: Client, path: Path, folder: Path, *, trust: bytes, words: Sequence[bytes]) -> StreamShown:
    """One word of the log asked for, the answer verified in a process without network, and two copies of it altered.

    Raises: what refuses the question; NotFound if no word of the set stands in the log.
    """
    name = stream_name(path)
    counts = client.query_stream(name, {"keywords": [word.decode() for word in words]})
    listed = [each for each in counts["counts"] if each["n"]]
    if not listed:
        raise NotFound("no word of the keyword set stands in the log")
    asked = min(listed, key=lambda each: each["n"])
    question: dict[str, JSONValue] = {"keywords": [asked["text"]], "from": counts["from"], "to": counts["to"]}
    found = client.query_stream(name, question)
    bundle = client.stream_answer(name, question)
    answer, trust_path = folder / "answer.cz", folder / "trust.toml"
    answer.write_bytes(bundle)
    trust_path.write_bytes(trust)
    (report,) = verify_apart([answer], trust_path)
    roots = TrustRoots.parse(trust)
    return StreamShown(
        str(path),
        name,
        str(asked["text"]),
        int(found["counts"][0]["n"]),
        int(found["slices"]["last"]) - int(found["slices"]["first"]) + 1,
        str(report.get("verdict") or "malformed"),
        tuple(_line(line) for line in found["lines"] or ()),
        tuple(judge(change, data, roots) for change, data in altered(bundle)),
    )


def _line(line: Mapping[str, JSONValue]) -> tuple[str, str, str]:
    return str(line["position"]), str(line["collected_at"]), str(line.get("text", line.get("b64")))


def altered(bundle: bytes) -> Iterator[tuple[str, bytes]]:
    """Copies of an answer: one with a line edited, one with a hit dropped; well formed both."""
    unpacked = unpack(bundle)
    files = {name: unpacked.files[name] for name in unpacked.files}
    if LINES not in files:
        return
    rows = files[LINES].splitlines(keepends=True)
    row = parse(rows[0], max_bytes=len(rows[0]))
    place, text = row["lines"][0]
    leaf = unb64(text, what="line")
    edited = leaf[:-1] + bytes([leaf[-1] ^ 1])
    first = canonical({**row, "lines": [[place, b64(edited)], *row["lines"][1:]]}) + b"\n"
    yield "展示的一行被改一字节，清单重做", pack({**files, LINES: first + b"".join(rows[1:])}, unpacked.kind)
    kept = [canonical({**row, "lines": row["lines"][1:]}) + b"\n"] if row["lines"][1:] else []
    rest = b"".join([*kept, *rows[1:]])
    shorter = {**files, LINES: rest} if rest else {name: data for name, data in files.items() if name != LINES}
    yield "隐去一处命中，清单重做", pack(shorter, unpacked.kind)
