"""`evidence examine`: the damage map of a home, for a person and for a machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evidence.cli.console import Console, table
from evidence.cli.exits import Exit
from evidence.cli.local import settings_of
from evidence.cli.verbs import LOCAL, Verbs

if TYPE_CHECKING:
    from evidence.examination.damage import Damage, DamageMap

_SHOWN = 200
_MORE_ZH = """\
只读，可与服务同时运行。指出最小的受损单元、应有与实有的摘要（8 位十六进制），以及仍可出证的存证。
链不可达而其余完好时退出 4。"""
_MORE_EN = """\
Read-only, beside a running service. Names the smallest damaged unit, what was committed and
what was found (8 hex digits), and which items remain provable. 4 if a chain is out of reach
and all else is well."""


def register(verbs: Verbs) -> None:
    """`examine` is in the table."""
    verbs.add(
        "examine",
        LOCAL,
        _examine,
        "由所存字节与链重新推导一切；有损坏时退出 1 并列出损坏图",
        "re-derive everything from stored bytes and chains; 1 with a damage map",
        more=(_MORE_ZH, _MORE_EN),
    )


def _examine(_: argparse.Namespace, console: Console) -> Exit:
    from evidence.bootstrap import utc_now
    from evidence.examine import examine

    def progress(done: int, total: int, what: str) -> None:
        if total:
            console.progress(done, total, what)

    damage = examine(settings_of(console), clock=utc_now, progress=progress)
    if damage.is_clean and not damage.is_whole:
        for each in damage.out_of_reach:
            console.warn(f"{console.say('不可达', 'out of reach')}: {each}")
    console.document(damage.to_json(), map_text(damage, console))
    if not damage.is_clean:
        return Exit.REFUSED
    return Exit.DONE if damage.is_whole else Exit.UNREACHABLE


def map_text(damage: DamageMap, console: Console) -> str:
    """The map as a person reads it: the sentence first, then the damage, then what remains provable."""
    say = console.say
    count = len(damage.damages) + damage.more
    lines = [
        say("完好：未发现损坏", "whole: no damage found")
        if damage.is_clean
        else say(f"发现 {count} 处损坏", f"{count} damaged unit{'s' if count != 1 else ''}"),
        f"{damage.origin}  " + say(f"共 {damage.size} 条", f"{damage.size} entries"),
    ]
    if damage.damages:
        head = say("单元 损坏 位置 应为 实为 说明", "unit damage where committed found detail").split()
        rows = [_row(each, console) for each in damage.damages[:_SHOWN]]
        lines += ["", table(head, rows, widest=56)]
        if count > _SHOWN:
            lines.append(say(f"另有 {count - _SHOWN} 处，见 --json", f"{count - _SHOWN} more: see --json"))
    lines.append("")
    for zh, en, ranges in (
        ("仍可出证", "provable", damage.provable),
        ("不可再出证", "no longer provable", damage.unprovable),
        ("内容不可再出示", "values no longer to be shown", damage.undisclosable),
        ("尚未最终确认", "not final yet", damage.unanchored),
    ):
        if ranges:
            lines.append(f"{say(zh, en)}: {_ranges(ranges)}")
    examined = ", ".join(f"{name} {number}" for name, number in damage.examined.items())
    lines.append(f"{say('已检查', 'examined')}: {examined}")
    lines += [f"{say('不可达', 'out of reach')}: {each}" for each in damage.out_of_reach]
    lines += [f"{say('未检查', 'not checked')}: {each}" for each in damage.not_checked]
    return "\n".join(lines)


def _row(damage: Damage, console: Console) -> list[str]:
    from evidence.examination.damage import HOW_ZH, UNITS_ZH

    unit = console.say(UNITS_ZH[damage.unit], damage.unit.value)
    how = console.say(HOW_ZH[damage.how], damage.how.value)
    return [unit, how, damage.where, damage.expected or "–", damage.found or "–", damage.detail]


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    shown = [str(start) if stop == start + 1 else f"{start}–{stop - 1}" for start, stop in ranges[:20]]
    return ", ".join(shown) + (" …" if len(ranges) > len(shown) else "")
