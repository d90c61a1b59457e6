"""What a verifier says: numbered steps, one verdict, one fixed sentence, as JSON of one form.

A report is a function of bundle, trust file and originals alone: no clock, no locale, no order of
a dictionary. Two verifiers that agree print the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from models.canonical import JSONValue, canonical_text, format_time
from models.digest import Pair

FORMAT = "cz-report/1"
SANDBOX_WARNING = "测试环境 · 不得作为证据使用"
AUTHENTICITY = "上链前真实性"
"""Whether what was preserved was true before it was preserved: no chain can say (formats §6.4)."""


class Verdict(StrEnum):
    """The three answers: proven, contradicted, or not to be told from what is at hand."""

    VALID = "VALID"
    INVALID = "INVALID"
    INDETERMINATE = "INDETERMINATE"


SENTENCES = {
    Verdict.VALID: (
        "所示内容与所列日志和区块链上的记录一致：最迟于所示“不晚于”时间已经存在，此后未被更改。",
        "What is shown agrees with the log and the chains listed: it existed by the not-after shown, and was not altered since.",
    ),
    Verdict.INVALID: (
        "所示内容与其证明相互矛盾，不能证明所述事项。",
        "What is shown contradicts its proofs and proves nothing of what it states.",
    ),
    Verdict.INDETERMINATE: (
        "依所给材料和信任文件不能判定：既未证实，也未证伪。",
        "The material and the trust file given do not decide: neither proven nor refuted.",
    ),
}
EXIT_CODES = {Verdict.VALID: 0, Verdict.INVALID: 1, Verdict.INDETERMINATE: 2}
MALFORMED_EXIT_CODE = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table of checks: number, names, and the clause it answers."""

    number: int
    name: str
    name_zh: str
    clause: str


CHECKS = (
    Check(1, "container", "封装", "6.4.6-p3"),
    Check(2, "formats and versions", "格式与版本", "6.4.6-p5"),
    Check(3, "evidence and statement", "证据体与声明", "6.4.2-e"),
    Check(4, "template", "模板", "6.4.2-a, 6.4.2-b"),
    Check(5, "disclosure", "披露内容", "C.5-verify-1 to C.5-verify-4"),
    Check(6, "values against the template", "字段取值", "6.4.2-a"),
    Check(7, "originals", "原件", "7.2-p2.1"),
    Check(8, "submitter's signature", "提交方签名", "6.4.3-a, 6.4.3-b, 6.4.3-d"),
    Check(9, "link parts", "链式数据", "7.1-p3.1"),
    Check(10, "inclusion in the log", "日志包含证明", "C.5-verify-2, C.5-verify-3"),
    Check(11, "log signature", "日志签名", "6.4.3-d"),
    Check(12, "one history", "日志一致性", "6.4.6-p4.1"),
    Check(13, "SHA-256 twin", "SHA-256 对照树", "6.4.2-e"),
    Check(14, "anchor", "上链数据", "6.4.4-c"),
    Check(15, "receipt", "上链回执", "6.4.4-e, 4.1.6-d"),
    Check(16, "chains counted", "链的数目", "6.4.4-e"),
    Check(17, "order of times", "时间先后", "7.2-p2.1"),
    Check(18, "witness quorum", "见证人", "6.4.6-p5"),
    Check(19, "time-stamps", "时间戳", "6.4.6-p5"),
    Check(20, "algorithm end dates", "算法有效期", "4.4.2-p1.1"),
    Check(21, "tombstone", "抹除记录", "7.4-p1"),
)
STREAM_CHECKS = (
    Check(22, "declaration and keywords", "采集声明与关键字", "C.4 a"),
    Check(23, "row of slices", "分片连续", "C.3 d"),
    Check(24, "positions", "位置衔接", "C.3 d"),
    Check(25, "slices and declarations preserved", "分片与采集声明的存证", "C.1 c, d"),
    Check(26, "range covered", "时间范围覆盖", "6.4.5 d"),
    Check(27, "deadlines and times", "时限与时间", "6.4.5 d"),
    Check(28, "index", "索引", "C.4 b, c"),
    Check(29, "lines demanded", "命中行齐全", "6.4.5 d"),
    Check(30, "lines and recount", "行内容与重新计数", "C.5"),
    Check(31, "recount notes and whole slices", "复核记录与完整分片", "C.5 a"),
)
"""The rows that only an answer about a stream has (formats §5)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one check found; `verdict` is None where there was nothing for it to judge."""

    number: int
    name: str
    verdict: Verdict | None
    detail: str
    clause: str

    def to_json(self) -> dict[str, JSONValue]:
        """The step as it stands in the report."""
        verdict = None if self.verdict is None else self.verdict.value
        return {"clause": self.clause, "detail": self.detail, "name": self.name, "number": self.number, "verdict": verdict}


@dataclass(frozen=True, slots=True)
class Party:
    """An organisation whose key was relied on, and as what."""

    organisation: str
    role: str

    def to_json(self) -> dict[str, JSONValue]:
        """The party as it stands in the report."""
        return {"organisation": self.organisation, "role": self.role}


@dataclass(frozen=True, slots=True)
class Independence:
    """Whose keys were relied on, who together could have forged this, and how many are not the submitter."""

    parties: tuple[Party, ...] = ()
    must_collude: tuple[str, ...] = ()
    third_parties: int = 0

    def to_json(self) -> dict[str, JSONValue]:
        """The member `independence` of the report."""
        return {
            "must_collude": list(self.must_collude),
            "parties": [party.to_json() for party in self.parties],
            "third_parties": self.third_parties,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The whole answer; `verdict` is None iff the input was malformed, and then only `malformed` is printed.

    Source: formats §6.4, §11 (Report).
    """

    verdict: Verdict | None
    malformed: str = ""
    steps: tuple[Step, ...] = ()
    kind: str = ""
    question: JSONValue = None
    bundle: Pair | None = None
    trust: Pair | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    environment: str = ""
    evidence: tuple[str, ...] = ()
    relied_on: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    independence: Independence = Independence()

    @property
    def sentence(self) -> str:
        """The one sentence of the verdict, Chinese first."""
        return "" if self.verdict is None else " ".join(SENTENCES[self.verdict])

    @property
    def exit_code(self) -> int:
        """0 VALID, 1 INVALID, 2 INDETERMINATE, 3 malformed (interface §2)."""
        return MALFORMED_EXIT_CODE if self.verdict is None else EXIT_CODES[self.verdict]

    def step(self, number: int) -> Step:
        """The step of that number."""
        return next(step for step in self.steps if step.number == number)

    def to_json(self) -> dict[str, JSONValue]:
        """The report as a JSON value.

        Source: formats §6.4, §11 (Report of malformed input).
        """
        if self.verdict is None:
            return {"format": FORMAT, "malformed": self.malformed, "verdict": None}
        return {
            "bundle": None if self.bundle is None else self.bundle.to_json(),
            "environment": self.environment,
            "findings": list(self.findings),
            "format": FORMAT,
            "independence": self.independence.to_json(),
            "interval": {
                "not_after": None if self.not_after is None else format_time(self.not_after),
                "not_before": None if self.not_before is None else format_time(self.not_before),
            },
            "kind": self.kind,
            "not_checked": list(self.not_checked),
            "question": self.question,
            "relied_on": list(self.relied_on),
            "sentence": self.sentence,
            "steps": [step.to_json() for step in self.steps],
            "trust": None if self.trust is None else self.trust.to_json(),
            "verdict": self.verdict.value,
        }

    def to_text(self) -> str:
        """The report as canonical JSON text."""
        return canonical_text(self.to_json())


def verdict_of(steps: Sequence[Step]) -> Verdict:
    """Any INVALID → INVALID; else any INDETERMINATE → INDETERMINATE; else VALID (formats §4)."""
    found = {step.verdict for step in steps}
    for verdict in (Verdict.INVALID, Verdict.INDETERMINATE):
        if verdict in found:
            return verdict
    return Verdict.VALID
