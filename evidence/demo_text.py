"""What the demonstration prints: the tables of what was preserved and of what was refused, in the reader's language."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from evidence.demo import Forgery, Shown
from evidence.demo_stream import StreamShown
from evidence.wording import beijing, chinese
from models.canonical import parse_time

_LINES_SHOWN: Final = 5
_REASON_CELLS: Final = 120
_PARTICULARS: Final = re.compile(
    r": expected [0-9a-f]{8}…, got [0-9a-f]{8}…|：应为 [0-9a-f]{8}…，实为 [0-9a-f]{8}…"
    r"| \([a-z0-9-]+/[0-9]+\)$|（[^（）]*/[0-9]+）$"
)
"""What differs from copy to copy is left to --json, in either language: digests, and which file of the bundle."""

_VERDICTS: Final = {"VALID": "有效", "INVALID": "无效", "INDETERMINATE": "不能判定", "malformed": "格式错误"}
_ENGLISH: Final = {
    "证据体改一字节，清单未改": "one byte of the evidence, manifest as it was",
    "证据体改期限，清单重做": "deadline in the evidence, manifest made anew",
    "披露的取值被改，清单重做": "a disclosed value, manifest made anew",
    "回执改一字节，清单重做": "one digit of the receipt, manifest made anew",
    "展示的一行被改一字节，清单重做": "one byte of a line shown, manifest made anew",
    "隐去一处命中，清单重做": "one hit left out, manifest made anew",
}


class Table(Protocol):
    """Lays out heads and lines."""

    def __call__(self, head: Sequence[str], rows: Sequence[Sequence[str]], /, *, widest: int) -> str:
        """The table; a cell wider than `widest` is cut."""


class DemoText:
    """The text of one demonstration; `say` picks the reader's of two wordings, `table` lays out."""

    def __init__(self, say: Callable[[str, str], str], table: Table) -> None:
        self._say = say
        self._table = table

    def text(self, shown: Sequence[Shown], stream: StreamShown | None, *, holds: bool) -> str:
        """Everything: what was preserved, what was refused and why, the stream, and how it came out."""
        parts = [self._preserved(shown), self._refused(shown)]
        parts += [] if stream is None else [self._streamed(stream)]
        say = self._say
        parts.append(
            say("全部有效，所有篡改副本均被拒绝", "every verdict is VALID, and every tampered copy is refused")
            if holds
            else say("未全部通过", "not everything holds")
        )
        return "\n\n".join(parts)

    def _verdict(self, verdict: str) -> str:
        return self._say(f"{_VERDICTS[verdict]} ({verdict})" if verdict in _VERDICTS else verdict, verdict)

    def _moment(self, time: str) -> str:
        """A time that the document gives in UTC; a reader of Chinese gets Beijing time, which the head of the column says."""
        return self._say(beijing(parse_time(time, what="time")).removesuffix("（北京时间）"), time)

    def _reason(self, forgery: Forgery) -> str:
        reason = _PARTICULARS.sub("", self._say(chinese(forgery.reason), forgery.reason))
        return self._say(f"第 {forgery.step} 步：{reason}", f"step {forgery.step}: {reason}")

    def _change(self, forgery: Forgery) -> str:
        return self._say(forgery.change, _ENGLISH.get(forgery.change, forgery.change))

    def _preserved(self, shown: Sequence[Shown]) -> str:
        head = self._say("对象 存证编号 序号 块高 结论 不晚于（北京时间）", "what id leaf height verdict not-after").split()
        rows = [
            [
                each.what,
                each.promise.evidence_id[:15] + "…",
                str(each.promise.leaf_index),
                "–" if each.height is None else str(each.height),
                self._verdict(each.verdict),
                "–" if each.not_after is None else self._moment(each.not_after),
            ]
            for each in shown
        ]
        title = self._say("存证、出证并离线验证：", "preserved, issued, verified offline:")
        return f"{title}\n{self._table(head, rows, widest=48)}"

    def _refused(self, shown: Sequence[Shown]) -> str:
        refused: dict[tuple[str, str, str], int] = {}
        for forgery in (forgery for each in shown for forgery in each.forgeries):
            key = (self._change(forgery), self._verdict(forgery.verdict), self._reason(forgery))
            refused[key] = refused.get(key, 0) + 1
        head = self._say("篡改 份数 结论 原因", "change copies verdict reason").split()
        rows = [[change, str(count), verdict, reason] for (change, verdict, reason), count in refused.items()]
        title = self._say("逐份篡改后再验证：", "a copy of each, altered and verified:")
        return f"{title}\n{self._table(head, rows, widest=_REASON_CELLS)}"

    def _streamed(self, stream: StreamShown) -> str:
        head = self._say("流 分片 查询词 命中行 结论", "stream slices word hits verdict").split()
        row = [stream.what, str(stream.slices), f"“{stream.keyword}”", str(stream.n), self._verdict(stream.verdict)]
        forged = [[self._change(each), self._verdict(each.verdict), self._reason(each)] for each in stream.forgeries]
        heads = self._say("位置 采集时间（北京时间） 命中行之内容", "position collected-at line").split()
        lines = [[place, self._moment(time), text] for place, time, text in stream.lines[:_LINES_SHOWN]]
        more = len(stream.lines) - _LINES_SHOWN
        left = [self._say(f"…… 另有 {more} 行", f"… and {more} more")] if more > 0 else []
        return "\n".join(
            [
                self._say(
                    "流式：采集一份日志，查询一个词，离线验证答案：", "a log as a stream, one word asked for, verified offline:"
                ),
                self._table(head, [row], widest=48),
                "",
                self._table(heads, lines, widest=90),
                *left,
                "",
                self._table(self._say("篡改 结论 原因", "change verdict reason").split(), forged, widest=_REASON_CELLS),
            ]
        )
