"""A report as a person reads it: the sentence, a numbered table, the interval, who was relied on, what was not checked.

Chinese by default. The text is a function of report and language, as the report is of its inputs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from models.canonical import format_time
from models.report import CHECKS, SANDBOX_WARNING, SENTENCES, Report, Verdict

Language = Literal["zh", "en"]

_WORDS: dict[Language, dict[str, str]] = {
    "zh": {
        "malformed": "输入格式错误，未作判定",
        "title": "验证报告",
        "kind": "类别",
        "id": "存证编号",
        "bundle": "证据包摘要",
        "trust": "信任文件摘要",
        "steps": "检查项目",
        "interval": "时间区间",
        "not_before": "不早于",
        "not_after": "不晚于",
        "unknown": "未证实",
        "independence": "独立性",
        "parties": "所依赖的各方",
        "collude": "须合谋才能伪造者",
        "third": "第三方数目",
        "relied": "所依赖的密钥",
        "unchecked": "未核验事项",
        "findings": "提示",
        "none": "无",
        Verdict.VALID.value: "通过",
        Verdict.INVALID.value: "矛盾",
        Verdict.INDETERMINATE.value: "不能判定",
        "": "不适用",
    },
    "en": {
        "malformed": "malformed input, no verdict",
        "title": "verification report",
        "kind": "kind",
        "id": "evidence",
        "bundle": "digest of the bundle",
        "trust": "digest of the trust file",
        "steps": "checks",
        "interval": "interval",
        "not_before": "not before",
        "not_after": "not after",
        "unknown": "unproven",
        "independence": "independence",
        "parties": "parties relied on",
        "collude": "who would have to collude to forge this",
        "third": "third parties",
        "relied": "keys relied on",
        "unchecked": "not checked",
        "findings": "findings",
        "none": "none",
        Verdict.VALID.value: "holds",
        Verdict.INVALID.value: "contradicted",
        Verdict.INDETERMINATE.value: "undecided",
        "": "not applicable",
    },
}
_VERDICTS: dict[Language, dict[Verdict, str]] = {
    "zh": {Verdict.VALID: "有效", Verdict.INVALID: "无效", Verdict.INDETERMINATE: "不能判定"},
    "en": {verdict: verdict.value for verdict in Verdict},
}


def render(report: Report, lang: Language = "zh") -> str:
    """The text of `report` in `lang`, ended by a newline.

    Source: formats §6.4; T/SAC 004—2024 6.4.6.
    """
    words = _WORDS[lang]
    if report.verdict is None:
        return f"{words['malformed']}: {_safe(report.malformed)}\n"
    lines = [f"{words['title']}: {_VERDICTS[lang][report.verdict]} ({report.verdict.value})"]
    lines += [SENTENCES[report.verdict][0 if lang == "zh" else 1]]
    if report.environment == "sandbox":
        lines = [SANDBOX_WARNING, *lines, SANDBOX_WARNING]
    lines += ["", f"{words['kind']}: {report.kind or words['none']}"]
    lines += [f"{words['id']}: {name}" for name in report.evidence]
    if report.bundle is not None:
        lines.append(f"{words['bundle']}: sm3:{report.bundle.sm3.hex()}")
    if report.trust is not None:
        lines.append(f"{words['trust']}: sm3:{report.trust.sm3.hex()}")
    lines += ["", f"{words['steps']}:", *_table(report, lang)]
    lines += ["", f"{words['interval']}:"]
    lines += [f"  {words[name]}: {_moment(getattr(report, name), words)}" for name in ("not_before", "not_after")]
    parties = [f"{party.organisation} ({party.role})" for party in report.independence.parties]
    lines += ["", f"{words['independence']}:", f"  {words['third']}: {report.independence.third_parties}"]
    lines += _listed(f"  {words['parties']}", parties, words)
    lines += _listed(f"  {words['collude']}", report.independence.must_collude, words)
    for name, sentences in (("relied", report.relied_on), ("unchecked", report.not_checked), ("findings", report.findings)):
        lines += ["", *_listed(words[name], sentences, words)]
    return "\n".join(lines) + "\n"


def _listed(title: str, sentences: Sequence[str], words: dict[str, str]) -> list[str]:
    if not sentences:
        return [f"{title}: {words['none']}"]
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    return [f"{title}:", *(f"{indent}- {_safe(sentence)}" for sentence in sentences)]


def _table(report: Report, lang: Language) -> list[str]:
    names = {check.number: check.name_zh if lang == "zh" else check.name for check in CHECKS}
    rows = [
        (f"{step.number:>3}", names[step.number], _WORDS[lang][step.verdict.value if step.verdict else ""], _safe(step.detail))
        for step in report.steps
    ]
    widths = [max((_width(row[column]) for row in rows), default=0) for column in range(3)]
    return ["  ".join([*(_padded(row[column], widths[column]) for column in range(3)), row[3]]).rstrip() for row in rows]


def _moment(moment: datetime | None, words: dict[str, str]) -> str:
    return words["unknown"] if moment is None else format_time(moment)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _safe(text: str) -> str:
    """`text` on one line: names inside a bundle cannot move the cursor or turn the writing around."""
    return "".join(letter if letter.isprintable() or letter == " " else "\ufffd" for letter in text)
