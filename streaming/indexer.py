"""Counting keywords and finding values fast: over the whole buffer of a slice at once, with one automaton.

The definition is `models.counting.index_of` and `models.extraction.values_of`; what is here must
give the same for every input, and a property test holds it to that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

from models.counting import FOLD, WORD, Boundary, Case, Counted
from models.extraction import Rule
from models.record import Buffer, Encoding, open_kafka

_MATCHES_AT_ONCE: Final = 1 << 18
"""So many matches may be in memory at one time, at about 150 bytes each."""
_LEAST_WINDOW: Final = 1 << 10
_DFA_BYTES: Final = 1 << 15
"""Keyword sets up to this size become a table of states, the fastest form; larger ones the library's own choice."""
_KAFKA_HEAD_BYTES: Final = 16
_NULL: Final = 0xFFFFFFFF


class KeywordIndex:
    """A keyword set made ready for counting in many slices. Safe to use from several threads.

    Shapes: keywords as a declaration fixes them: ascending, each once, 1 to 256 bytes.
    Source: T/SAC 004—2024 C.4-b; formats §5.2.
    """

    def __init__(
        self,
        keywords: Sequence[bytes],
        *,
        boundary: str = Boundary.NONE,
        case: str = Case.EXACT,
        encoding: str = Encoding.LINE,
    ) -> None:
        self.keywords = tuple(keywords)
        self._word = boundary == Boundary.WORD
        self._fold = case == Case.ASCII
        self._encoding = encoding
        self._longest = max(map(len, self.keywords), default=0)
        self._window = max(_LEAST_WINDOW, _MATCHES_AT_ONCE // _most_at_one_end(self.keywords))
        size = sum(map(len, self.keywords))
        self._automaton = (
            BytesAhoCorasick(
                list(self.keywords),
                matchkind=MatchKind.Standard,
                implementation=Implementation.DFA if size <= _DFA_BYTES else None,
            )
            if self.keywords
            else None
        )

    def count(self, buffer: Buffer) -> list[Counted]:
        """KN of a slice: every keyword with its count and lines, zeros included, in the order of the keywords.

        Memory is bounded whatever the records hold: a window of the buffer is searched at a time.
        Raises: Malformed if a payload is not of the encoding.
        """
        found: list[dict[int, int]] = [{} for _ in self.keywords]
        if self._automaton is not None and buffer.data:
            starts, ends = countable(buffer, encoding=self._encoding)
            data = buffer.data.translate(FOLD) if self._fold else buffer.data
            for base in range(0, len(data), self._window):
                # A window begins where a keyword that ends in it can begin; what ends at or before its base was counted.
                self._search(data, max(0, base - self._longest + 1), base, starts, ends, found)
        return [
            Counted(keyword, sum(lines.values()), list(lines.items()))
            for keyword, lines in zip(self.keywords, found, strict=True)
        ]

    def _search(
        self, data: bytes, low: int, base: int, starts: Sequence[int], ends: Sequence[int], found: list[dict[int, int]]
    ) -> None:
        """Adds the matches of the window from `base` on that lie within one record; the search begins at `low`."""
        word = self._word
        size = len(data)
        line_start, line_end, line = 0, -1, -1
        window = memoryview(data)[low : base + self._window]
        for rank, first, behind in self._matches(window):
            start, end = first + low, behind + low
            if end <= base:
                continue
            if not line_start <= start < line_end:
                line = bisect_right(starts, start) - 1
                if line < 0:
                    continue
                line_start, line_end = starts[line], ends[line]
            if end > line_end:
                continue
            if word and (
                (start > line_start and data[start - 1] in WORD) or (end < line_end and end < size and data[end] in WORD)
            ):
                continue
            lines = found[rank]
            lines[line] = lines.get(line, 0) + 1

    def _matches(self, window: memoryview) -> list[tuple[int, int, int]]:
        if self._automaton is None:
            return []
        return self._automaton.find_matches_as_indexes(window, overlapping=True)


def _most_at_one_end(keywords: Sequence[bytes]) -> int:
    """How many keywords can end at one place: the longest row of keywords that are each other's endings."""
    known = set(keywords)
    return max((sum(word[at:] in known for at in range(len(word))) for word in keywords), default=1)


def countable(buffer: Buffer, *, encoding: str) -> tuple[Sequence[int], Sequence[int]]:
    """Where what is counted of each record begins and ends in the buffer: a line whole, of a Kafka record its value.

    Raises: Malformed if a payload is not of that encoding.
    Source: formats §5.3.
    """
    starts = buffer.offsets
    ends = starts[1:]
    if starts:
        ends.append(len(buffer.data))
    if encoding != Encoding.KAFKA:
        return starts, ends
    data = buffer.data
    values, value_ends = array("I"), array("I")
    for start, end in zip(starts, ends, strict=True):
        key_bytes = int.from_bytes(data[start + 8 : start + 12])
        value = start + _KAFKA_HEAD_BYTES + (0 if key_bytes == _NULL else key_bytes)
        value_bytes = int.from_bytes(data[value - 4 : value])
        if value > end or value + (0 if value_bytes == _NULL else value_bytes) != end:
            open_kafka(data[start:end])
        values.append(value)
        value_ends.append(end)
    return values, value_ends


def find_values(buffer: Buffer, rule: Rule, *, encoding: str = Encoding.LINE) -> list[Counted]:
    """Every value of `rule` in a slice with its count and lines, ascending bytewise.

    The time is bounded: no run is read beyond max + 1 bytes, and there is no backtracking.
    Raises: Malformed if a payload is not of the encoding.
    Source: formats §5.9.
    """
    data, after, most, class_ = buffer.data, rule.after, rule.max, rule.class_
    starts, ends = countable(buffer, encoding=encoding)
    size = len(after)
    found: dict[bytes, dict[int, int]] = {}
    at = data.find(after)
    while at >= 0:
        line = bisect_right(starts, at) - 1
        behind = at + size
        if line >= 0 and behind <= ends[line]:
            ahead = data[behind : min(behind + most + 1, ends[line])]
            length = len(ahead) - len(ahead.lstrip(class_))
            if rule.min <= length <= most:
                lines = found.setdefault(ahead[:length], {})
                lines[line] = lines.get(line, 0) + 1
        at = data.find(after, at + 1)
    return [Counted(value, sum(found[value].values()), list(found[value].items())) for value in sorted(found)]
