"""Counting keywords and finding values fast: over the whole buffer of a slice at once, with one automaton.

The definition is `models.counting.index_of` and `models.extraction.values_of`; what is here must
give the same for every input, and a property test holds it to that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

from models.counting import FOLD, WORD, Boundary, Case, Counted
from models.extraction import Rule
from models.record import Buffer, Encoding, open_kafka

_WINDOW: Final = 1 << 17
"""So many bytes are searched at a time, and so at most so many matches are in memory, at about 150 bytes each."""
_DFA_BYTES: Final = 1 << 15
"""Keyword sets up to this size become a table of states, the fastest form; larger ones the library's own choice."""
_KAFKA_HEAD_BYTES: Final = 16
_NULL: Final = 0xFFFFFFFF


_MOST: Final = 255
_EVERY: Final = frozenset(range(_MOST + 1))


class _Beside(NamedTuple):
    """What can stand where a keyword was found, beginning within it but not being it.

    `inside` are (offset, rank, length) of the keywords that lie wholly in it, and so always stand there; `at` the offsets
    where one can begin that ends behind it. Both ascend by offset.
    """

    inside: tuple[tuple[int, int, int], ...]
    at: tuple[int, ...]


class KeywordIndex:
    """A keyword set made ready for counting in many slices. Safe to use from several threads.

    The automaton looks for the leftmost and there longest match and goes on behind it, which it does many bytes at a
    time; every other match begins within one that it finds, and is looked up there.

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
        self._ranks = {keyword: rank for rank, keyword in enumerate(self.keywords)}
        self._lengths = sorted({len(keyword) for keyword in self.keywords})
        self._window = _WINDOW
        # Worked out when a keyword is first found: a large set has few that ever are. Two threads would find the same.
        self._beside: dict[int, _Beside] = {}
        self._nexts = [_EVERY] * len(self.keywords)
        size = sum(map(len, self.keywords))
        self._automaton = (
            BytesAhoCorasick(
                list(self.keywords),
                matchkind=MatchKind.LeftmostLongest,
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
            self._search(self._automaton, data, starts, ends, found)
        return [
            Counted(keyword, sum(lines.values()), list(lines.items()))
            for keyword, lines in zip(self.keywords, found, strict=True)
        ]

    def _search(
        self, automaton: BytesAhoCorasick, data: bytes, starts: list[int], ends: list[int], found: list[dict[int, int]]
    ) -> None:
        """Adds all matches that lie within one record."""
        view, size, window, word = memoryview(data), len(data), self._window, self._word
        longest, known = self._lengths[-1], self._nexts
        low = end = line_end = 0
        line = -1
        while low < size:
            high = low + window
            matches = automaton.find_matches_as_indexes(view[low : high + longest - 1])
            while matches and matches[-1][1] >= window:
                matches.pop()
            for rank, first, behind in matches:
                start, end = first + low, behind + low
                if start >= line_end:
                    line = bisect_right(starts, start) - 1
                    line_end = ends[line] if line >= 0 else 0
                if end <= line_end and not (word and _is_in_word(data, start, end, starts[line], line_end)):
                    lines = found[rank]
                    if line in lines:
                        lines[line] += 1
                    else:
                        lines[line] = 1
                if (nexts := known[rank]) and (end == size or data[end] in nexts):
                    self._add_beside(rank, data, start, end, starts, ends, found)
            del matches  # before the next ones are there
            # What begins before the end of a match was found with it, also where that lies behind the window.
            low = max(high, end)

    def _add_beside(
        self, rank: int, data: bytes, start: int, end: int, starts: list[int], ends: list[int], found: list[dict[int, int]]
    ) -> None:
        """Adds what begins within a match but is not it. Of one keyword what lies inside begins before what ends behind."""
        beside = self._beside.get(rank) or self._stands_beside(rank)
        matches = [(inner, start + offset, start + offset + size) for offset, inner, size in beside.inside]
        for offset in beside.at:
            place = start + offset
            for size in self._lengths[bisect_right(self._lengths, end - place) :]:
                other = self._ranks.get(data[place : place + size])
                if other is not None:
                    matches.append((other, place, place + size))
        for other, first, behind in matches:
            line = bisect_right(starts, first) - 1
            if line < 0 or behind > ends[line]:
                continue
            if self._word and _is_in_word(data, first, behind, starts[line], ends[line]):
                continue
            lines = found[other]
            lines[line] = lines.get(line, 0) + 1

    def _stands_beside(self, rank: int) -> _Beside:
        """What can stand beside keyword `rank`; from now on known, as is which bytes must follow it for that."""
        keyword, ranks, size = self.keywords[rank], self._ranks, len(self.keywords[rank])
        inside = tuple(
            (offset, ranks[part], length)
            for offset in range(size)
            for length in self._lengths
            if offset + length <= size and length < size and (part := keyword[offset : offset + length]) in ranks
        )
        follow = [self._following(keyword[offset:]) for offset in range(1, size)]
        beside = _Beside(inside, tuple(offset for offset, bytes_ in enumerate(follow, 1) if bytes_))
        self._beside[rank] = beside
        self._nexts[rank] = _EVERY if inside else frozenset[int]().union(*follow)
        return beside

    def _following(self, text: bytes) -> frozenset[int]:
        """The bytes that follow `text` in the keywords that begin with it: in ascending order these are neighbours."""
        found: set[int] = set()
        at = bisect_right(self.keywords, text)
        while at < len(self.keywords) and self.keywords[at].startswith(text):
            byte = self.keywords[at][len(text)]
            found.add(byte)
            if byte == _MOST:
                break
            at = bisect_left(self.keywords, text + bytes((byte + 1,)))
        return frozenset(found)


def _is_in_word(data: bytes, start: int, end: int, line_start: int, line_end: int) -> bool:
    """Whether a byte of a word stands beside a match, in its own record."""
    return (start > line_start and data[start - 1] in WORD) or (end < line_end and data[end] in WORD)


def countable(buffer: Buffer, *, encoding: str) -> tuple[list[int], list[int]]:
    """Where what is counted of each record begins and ends in the buffer: a line whole, of a Kafka record its value.

    Raises: Malformed if a payload is not of that encoding.
    Source: formats §5.3.
    """
    starts = buffer.offsets.tolist()
    ends = [start - 1 for start in starts[1:]] + [len(buffer.data)] if buffer.tiled else buffer.ends().tolist()
    if encoding != Encoding.KAFKA:
        return starts, ends
    data = buffer.data
    values: list[int] = []
    for start, end in zip(starts, ends, strict=True):
        key_bytes = int.from_bytes(data[start + 8 : start + 12])
        value = start + _KAFKA_HEAD_BYTES + (0 if key_bytes == _NULL else key_bytes)
        value_bytes = int.from_bytes(data[value - 4 : value])
        if value > end or value + (0 if value_bytes == _NULL else value_bytes) != end:
            open_kafka(data[start:end])
        values.append(value)
    return values, ends


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
