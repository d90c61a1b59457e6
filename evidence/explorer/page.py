"""The pages a person sees: one frame, two languages, no script and nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from models.canonical import BEIJING, format_time

SANDBOX_BANNER = "测试环境 · 不得作为证据使用"
SANDBOX_BANNER_EN = "SANDBOX · NOT EVIDENCE"

STYLE = """
:root{--ink:#16202a;--soft:#5b6b7a;--line:#d9e0e6;--paper:#fff;--ground:#f5f7f9;--accent:#0b5394;--warn:#8a1f11;--warnbg:#fdecea}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa7b3;--line:#2d3742;--paper:#161c23;--ground:#0e1318;
--accent:#7db7ee;--warn:#ffb4a8;--warnbg:#3a1712}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.6 system-ui,"PingFang SC",
"Microsoft YaHei","Noto Sans CJK SC",sans-serif}
.banner{background:var(--warnbg);color:var(--warn);text-align:center;padding:.5rem 1rem;font-weight:600}
header,main,footer{max-width:68rem;margin:0 auto;padding:1rem}
header{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;align-items:baseline}
header h1{font-size:1.35rem;margin:0;flex:1 1 auto}
a{color:var(--accent)}
section{background:var(--paper);border:1px solid var(--line);border-radius:.5rem;padding:1rem 1.25rem;margin:0 0 1rem}
h2{font-size:1.05rem;margin:0 0 .5rem}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.25rem 1.25rem;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code,.mono{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.9em}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.4rem .75rem .4rem 0;border-top:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:500;border-top:0}
footer,p.soft{color:var(--soft);font-size:.9rem}
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log stands."""

    origin: str
    size: int
    sm3_root: str
    sha256_root: str
    signed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ChainRow:
    """How far one chain is: final up to the size `anchored`; `height` is its head's, None if it does not answer."""

    chain: str
    engine: str
    height: int | None
    anchored: int
    open_anchors: int


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One of the newest items, without anything of its contents."""

    leaf_index: int
    id_prefix: str
    template: str
    created_at: datetime
    state: str


_WORDS = {
    "zh": {
        "title": "区块链存证",
        "head": "日志现状",
        "origin": "日志",
        "size": "存证数",
        "sm3": "根 (SM3)",
        "sha256": "根 (SHA-256)",
        "signed": "签发时间",
        "chains": "区块链",
        "chain": "链",
        "engine": "引擎",
        "height": "高度",
        "anchored": "已最终上链",
        "open": "进行中",
        "items": "最新存证",
        "leaf": "序号",
        "id": "编号",
        "template": "模板",
        "time": "受理时间（北京时间）",
        "state": "状态",
        "none": "尚无存证",
        "down": "不可达",
        "never": "尚未签发",
        "docs": "接口文档",
        "checkpoint": "日志检查点",
        "other": "English",
        "final": "已最终确认",
        "submitted": "已提交上链",
        "promised": "已承诺",
        "overdue": "逾期",
        "soft": "此页只显示编号前缀与状态，不含任何存证内容。",
    },
    "en": {
        "title": "Evidence preservation",
        "head": "The log",
        "origin": "Log",
        "size": "Items",
        "sm3": "Root (SM3)",
        "sha256": "Root (SHA-256)",
        "signed": "Signed at",
        "chains": "Chains",
        "chain": "Chain",
        "engine": "Engine",
        "height": "Height",
        "anchored": "Final up to",
        "open": "Open",
        "items": "Newest items",
        "leaf": "Leaf",
        "id": "Id",
        "template": "Template",
        "time": "Accepted (Beijing time)",
        "state": "State",
        "none": "No items yet",
        "down": "unreachable",
        "never": "not signed yet",
        "docs": "API",
        "checkpoint": "Checkpoint",
        "other": "中文",
        "final": "final",
        "submitted": "submitted",
        "promised": "promised",
        "overdue": "overdue",
        "soft": "This page shows prefixes of ids and states, and nothing of what was preserved.",
    },
}


def page(title: str, body: str, *, language: str, sandbox: bool, path: str) -> str:
    """A whole page around `body`, which is HTML already; `title` and `path` are text."""
    words = _WORDS[language]
    warning = SANDBOX_BANNER if language == "zh" else f"{SANDBOX_BANNER_EN} · {SANDBOX_BANNER}"
    banner = f'<div class="banner" role="note">{warning}</div>' if sandbox else ""
    other = "en" if language == "zh" else "zh"
    code = "zh-CN" if language == "zh" else "en"
    return (
        f'<!doctype html><html lang="{code}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{banner}"
        f'<header><h1>{escape(title)}</h1><a href="/docs">{words["docs"]}</a>'
        f'<a href="{escape(path)}?lang={other}" lang="{"en" if other == "en" else "zh-CN"}">{words["other"]}</a></header>'
        f"<main>{body}</main></body></html>"
    )


def _facts(pairs: Iterable[tuple[str, str]], *, mono: bool = False) -> str:
    style = ' class="mono"' if mono else ""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd{style}>{escape(value)}</dd>" for name, value in pairs) + "</dl>"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _beijing(moment: datetime) -> str:
    return format_time(moment + BEIJING)[:19].replace("T", " ")


def front(head: Head, chains: Sequence[ChainRow], items: Sequence[ItemRow], *, language: str, sandbox: bool) -> str:
    """The page at `/`: where the log stands, how far each chain is, the newest items by prefix and state."""
    words = _WORDS[language]
    signed = words["never"] if head.signed_at is None else f"{_beijing(head.signed_at)} (UTC+08:00)"
    facts = _facts([(words["origin"], head.origin), (words["size"], str(head.size)), (words["signed"], signed)])
    roots = _facts([(words["sm3"], head.sm3_root), (words["sha256"], head.sha256_root)], mono=True)
    chain_lines = [
        (
            row.chain,
            row.engine,
            words["down"] if row.height is None else str(row.height),
            str(row.anchored),
            str(row.open_anchors),
        )
        for row in chains
    ]
    chain_heads = [words[name] for name in ("chain", "engine", "height", "anchored", "open")]
    item_lines = [
        (str(row.leaf_index), row.id_prefix + "…", row.template, _beijing(row.created_at), words.get(row.state, row.state))
        for row in items
    ]
    item_heads = [words[name] for name in ("leaf", "id", "template", "time", "state")]
    listed = _table(item_heads, item_lines) if items else f"<p>{words['none']}</p>"
    body = (
        f'<section><h2>{words["head"]}</h2>{facts}{roots}<p><a href="/v1/log/checkpoint">{words["checkpoint"]}</a></p></section>'
        f"<section><h2>{words['chains']}</h2>{_table(chain_heads, chain_lines)}</section>"
        f'<section><h2>{words["items"]}</h2>{listed}<p class="soft">{words["soft"]}</p></section>'
    )
    return page(words["title"], body, language=language, sandbox=sandbox, path="/")


def explanation(title: str, pairs: Sequence[tuple[str, str]], *, language: str, sandbox: bool, path: str) -> str:
    """A page that says one thing in named facts: the page behind a problem's `type`."""
    return page(title, f"<section>{_facts(pairs)}</section>", language=language, sandbox=sandbox, path=path)
