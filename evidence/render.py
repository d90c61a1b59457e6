"""A report as a person reads it: the sentence, a numbered table, the interval, who was relied on, what was not checked.

Chinese by default, the details too; times in Beijing time and in UTC. The text is a function of report
and language, as the report is of its inputs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from evidence.checks.stream_matter import shown_keyword
from evidence.wording import beijing, chinese, chinese_name, chinese_reasons
from models.canonical import JSONValue, canonical, format_time
from models.errors import EvidenceError
from models.question import Op, Question
from models.report import AUTHENTICITY, CHECKS, SANDBOX_WARNING, SENTENCES, STREAM_CHECKS, Report, Step, Verdict

Language = Literal["zh", "en"]

_WORDS: dict[Language, dict[str, str]] = {
    "zh": {
        "colon": "：",
        "comma": "、",
        "remark": "{}（{}）",
        "warning": SANDBOX_WARNING,
        "item": "单项存证 (item)",
        "transaction": "交易的链式数据 (transaction)",
        "answer": "流查询答案 (answer)",
        "question": "所问",
        "stream": "流",
        "submitter": "提交方",
        "log": "日志",
        "start": "采集时间自",
        "end": "采集时间至",
        "keywords": "关键字",
        "value": "规则取值",
        Op.AND.value: "同时含有",
        Op.OR.value: "含有其一",
        "malformed": "输入格式错误，未作判定",
        "title": "验证报告",
        "kind": "类别",
        "id": "存证编号",
        "bundle": "证据包 SM3",
        "trust": "信任文件 SM3（前十组为指纹）",
        "steps": "检查项目",
        "interval": "存证形成的时间区间",
        "not_before": "不早于",
        "not_after": "不晚于",
        "unknown": "未证实",
        "independence": "独立性",
        "parties": "所依赖的各方",
        "collude": "以下各方须合谋方能伪造",
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
        "colon": ": ",
        "comma": ", ",
        "remark": "{} ({})",
        "warning": f"{SANDBOX_WARNING} · test environment, not to be used as evidence",
        "item": "item",
        "transaction": "transaction",
        "answer": "answer",
        "question": "question",
        "stream": "stream",
        "submitter": "submitter",
        "log": "log",
        "start": "collected from",
        "end": "collected before",
        "keywords": "keywords",
        "value": "value of a rule",
        Op.AND.value: "all of them",
        Op.OR.value: "any of them",
        "malformed": "malformed input, no verdict",
        "title": "verification report",
        "kind": "kind",
        "id": "evidence",
        "bundle": "SM3 of the bundle",
        "trust": "SM3 of the trust file (its first ten groups are the fingerprint)",
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
_GROUP_DIGITS = 4
"""As the fingerprint of a trust file is read aloud, so that the two can be compared by eye."""

_BRIEF_ID = re.compile(r"\bev_([0-9a-f]{12})[0-9a-f]{52}\b")
_BILINGUAL = re.compile(r"(\(\w′?\) )?[\u4e00-\u9fff][^:]*: (.+)")
_AUTHENTICITY_EN = "whether what was preserved was true before it was anchored"


def render(report: Report, lang: Language = "zh") -> str:
    """The text of `report` in `lang`, ended by a newline.

    Shapes: one reason a line, aligned where Chinese letters are two columns wide.
    Source: formats §6.4; T/SAC 004—2024 6.4.6.
    """
    return "\n".join(_Page(lang).lines(report)) + "\n"


class _Page:
    """The writing of one report in one language."""

    def __init__(self, lang: Language) -> None:
        self._lang = lang
        self._words = _WORDS[lang]

    def lines(self, report: Report) -> list[str]:
        words = self._words
        if report.verdict is None:
            return [self._pair("malformed", self._detail(report.malformed))]
        lines = [self._pair("title", f"{_VERDICTS[self._lang][report.verdict]} ({report.verdict.value})")]
        if self._lang == "en":
            lines = [self._pair("title", report.verdict.value)]
        lines += [SENTENCES[report.verdict][0 if self._lang == "zh" else 1]]
        if report.environment == "sandbox":
            lines = [words["warning"], *lines, words["warning"]]
        lines += ["", self._pair("kind", words.get(report.kind, report.kind) or words["none"])]
        lines += [self._pair("id", name) for name in report.evidence]
        for name, digests in (("bundle", report.bundle), ("trust", report.trust)):
            if digests is not None:
                lines.append(self._pair(name, _grouped(digests.sm3)))
        lines += self._question(report.question)
        lines += ["", self._pair("steps"), *self._table(report.steps)]
        lines += ["", self._pair("interval")]
        lines += [f"  {self._pair(name, self._moment(getattr(report, name)))}" for name in ("not_before", "not_after")]
        lines += self._independence(report)
        lines += ["", *self._listed("relied", report.relied_on)]
        lines += ["", *self._listed("unchecked", report.not_checked)]
        return [*lines, "", *self._listed("findings", report.findings)]

    def _pair(self, name: str, text: str = "") -> str:
        return f"{self._words[name]}{self._words['colon']}{text}".rstrip()

    def _detail(self, text: str) -> str:
        return "；".join(self._reasons(text)) if self._lang == "zh" else "; ".join(self._reasons(text))

    def _reasons(self, text: str) -> list[str]:
        text = _safe(text)
        if self._lang == "zh":
            return chinese_reasons(text)
        return text.split("; ")

    def _sentence(self, text: str) -> str:
        """One entry of a list; what the report says in both languages is said in one."""
        text = _safe(text)
        if self._lang == "zh":
            return chinese(text)
        if text == AUTHENTICITY:
            return _AUTHENTICITY_EN
        both = _BILINGUAL.fullmatch(text)
        return text if both is None else f"{both[1] or ''}{both[2]}"

    def _listed(self, name: str, sentences: Sequence[str], indent: str = "") -> list[str]:
        if not sentences:
            return [f"{indent}{self._pair(name, self._words['none'])}"]
        return [f"{indent}{self._pair(name)}", *(f"{indent}  - {self._sentence(sentence)}" for sentence in sentences)]

    def _table(self, steps: Sequence[Step]) -> list[str]:
        """One line a reason; number, name and verdict stand on the first of each step."""
        names = {check.number: check.name_zh if self._lang == "zh" else check.name for check in (*CHECKS, *STREAM_CHECKS)}
        rows = [
            (f"{step.number:>3}", names[step.number], self._words[step.verdict.value if step.verdict else ""], step)
            for step in steps
        ]
        widths = [max((_width(texts[column]) for *texts, _ in rows), default=0) for column in range(3)]
        lines: list[str] = []
        for *texts, step in rows:
            head = "  ".join(_padded(text, width) for text, width in zip(texts, widths, strict=True))
            reasons = self._reasons(step.detail) if step.verdict is not None else [""]
            for reason in reasons:
                lines.append(f"{head}  {_BRIEF_ID.sub(_brief_id, reason)}".rstrip())
                head = " " * _width(head)
        return lines

    def _moment(self, moment: datetime | None) -> str:
        if moment is None:
            return self._words["unknown"]
        if self._lang == "zh":
            return f"{beijing(moment)}  {format_time(moment)} (UTC)"
        return f"{format_time(moment)} (UTC)  {beijing(moment).removesuffix('（北京时间）')} (Beijing)"

    def _independence(self, report: Report) -> list[str]:
        """The parties by role, in the order of the report."""
        roles: dict[str, list[str]] = {}
        for party in report.independence.parties:
            roles.setdefault(party.role, []).append(_safe(party.organisation))
        parties = [self._party(_safe(role), names) for role, names in roles.items()]
        lines = ["", self._pair("independence"), f"  {self._pair('third', str(report.independence.third_parties))}"]
        lines += [f"  {self._pair('parties', '' if parties else self._words['none'])}"]
        lines += [f"    - {party}" for party in parties]
        return [*lines, *self._listed("collude", report.independence.must_collude, "  ")]

    def _party(self, role: str, names: Iterable[str]) -> str:
        known = chinese_name(role) if self._lang == "zh" else role
        return f"{known}{self._words['colon']}{self._words['comma'].join(names)}"

    def _question(self, value: JSONValue) -> list[str]:
        """What an answer answers; a question that cannot be read is left to the steps, which refuse it."""
        if value is None:
            return []
        try:
            question = Question.parse(canonical(value))
        except EvidenceError:
            return []
        words = self._words
        if question.value is None:
            asked = [("keywords", words["comma"].join(map(shown_keyword, question.keywords)))]
            if len(question.keywords) > 1:
                asked = [("keywords", words["remark"].format(asked[0][1], words[question.op]))]
        else:
            asked = [("value", f"{question.value.rule} = {shown_keyword(question.value.value)}")]
        facts = [("log", question.log), ("submitter", question.submitter), ("stream", question.stream_id)]
        facts += [("start", self._moment(question.start)), ("end", self._moment(question.end)), *asked]
        return ["", self._pair("question"), *(f"  {self._pair(name, _safe(text))}" for name, text in facts)]


def _grouped(digest: bytes) -> str:
    digits = digest.hex()
    return " ".join(digits[start : start + _GROUP_DIGITS] for start in range(0, len(digits), _GROUP_DIGITS))


def _brief_id(found: re.Match[str]) -> str:
    """An evidence id cut where its whole stands above; enough of it for the service to find it by."""
    return f"ev_{found[1]}…"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _safe(text: str) -> str:
    """`text` on one line: names inside a bundle cannot move the cursor or turn the writing around."""
    return "".join(letter if letter.isprintable() or letter == " " else "\ufffd" for letter in text)
