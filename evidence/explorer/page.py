"""The pages a person sees: one frame, two languages, no script and nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from evidence.explorer.words import LEGEND, WORDS
from models.canonical import BEIJING, format_time

SANDBOX_BANNER = "测试环境 · 不得作为证据使用"
SANDBOX_BANNER_EN = "SANDBOX · NOT EVIDENCE"

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="6" fill="#0b5394"/>'
    '<path d="M9 16.5l5 5 9-11" fill="none" stroke="#fff" stroke-width="3.5"/></svg>'
)
"""The icon of every page, at `/favicon.ico`: browsers ask for it also beside an answer that is no page."""

FRAME_STYLE = """
:root{color-scheme:light dark;--ink:#16202a;--soft:#54636f;--line:#d9e0e6;--paper:#fff;--ground:#f5f7f9;--accent:#0b5394;
--warn:#8a1f11;--warnbg:#fdecea}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa7b3;--line:#2d3742;--paper:#161c23;--ground:#0e1318;
--accent:#7db7ee;--warn:#ffb4a8;--warnbg:#3a1712}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.6 system-ui,"PingFang SC",
"Microsoft YaHei","Noto Sans CJK SC",sans-serif}
.banner{background:var(--warnbg);color:var(--warn);text-align:center;padding:.5rem 1rem;font-weight:600}
.top{max-width:68rem;margin:0 auto;padding:1rem;display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;align-items:baseline}
.top h1{font-size:1.35rem;margin:0;flex:1 1 auto}
.top nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem}
.top a{color:var(--accent)}
"""

STYLE = (
    FRAME_STYLE
    + """
main,footer{max-width:68rem;margin:0 auto;padding:0 1rem 1rem}
a{color:var(--accent)}
section{background:var(--paper);border:1px solid var(--line);border-radius:.5rem;padding:1rem 1.25rem;margin:0 0 1rem}
h2{font-size:1.05rem;margin:0 0 .5rem}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.35rem 1.25rem;margin:0;align-items:baseline}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.9em;overflow-wrap:anywhere}
dd code,td code{user-select:all}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:baseline;padding:.4rem .75rem .4rem 0;border-top:1px solid var(--line)}
th{color:var(--soft);font-weight:500;border-top:0}
time,td code{white-space:nowrap}
footer,p.soft{color:var(--soft);font-size:.9rem}
section>:last-child{margin-bottom:0}
@media (max-width:44rem){
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}
table,tbody,tr,td{display:block}thead{position:absolute;clip-path:inset(50%)}
tr{border-top:1px solid var(--line);padding:.4rem 0}
td{border:0;padding:.1rem 0;display:grid;grid-template-columns:7.5rem 1fr;gap:.75rem;overflow-wrap:anywhere}
td::before{content:attr(data-name);color:var(--soft)}
td code{white-space:normal}
}
"""
)

DOCS_STYLE = """
.top{max-width:1460px;padding:1rem 20px}
@media (prefers-color-scheme:light){body{background:var(--paper)}}
"""
"""The frame around the viewer, as wide as it and of its colour."""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src 'self'; base-uri 'none'; "
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
    """One of the newest items, without anything of its contents; `state` may also be `overdue` or `damaged`."""

    leaf_index: int
    id_prefix: str
    template: str
    template_title: str
    created_at: datetime
    state: str


def page(title: str, body: str, *, language: str, sandbox: bool, path: str, style: str = STYLE, more_head: str = "") -> str:
    """A whole page around `body`, which is HTML already, as are `style` and `more_head`; `title` and `path` are text."""
    words = WORDS[language]
    warning = escape(SANDBOX_BANNER)
    if language == "en":
        warning = f'{SANDBOX_BANNER_EN} · <span lang="zh-CN">{warning}</span>'
    banner = f'<div class="banner" role="note">{warning}</div>' if sandbox else ""
    places = [("/", words["home"]), ("/docs", words["docs"]), ("/problems", words["problems"])]
    links = [f'<a href="{place}?lang={language}">{name}</a>' for place, name in places if place != path]
    other, code = ("en", "en") if language == "zh" else ("zh", "zh-CN")
    links.append(f'<a href="{escape(path)}?lang={other}" lang="{code}" hreflang="{code}">{words["other"]}</a>')
    return (
        f'<!doctype html><html lang="{"zh-CN" if language == "zh" else "en"}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" type="image/svg+xml" href="/favicon.ico">'
        f"<style>{style}</style>{more_head}</head><body>{banner}"
        f'<header class="top"><h1>{escape(title)}</h1><nav aria-label="{words["nav"]}">{"".join(links)}</nav></header>'
        f"{body}</body></html>"
    )


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Named facts; names are text, values HTML."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def _table(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML. On a narrow screen each line stands as a card, and the roles keep it a table."""
    head = "".join(f'<th scope="col" role="columnheader">{escape(name)}</th>' for name in heads)
    body = "".join(
        '<tr role="row">'
        + "".join(
            f'<td role="cell" data-name="{escape(name)}"><span>{cell}</span></td>' for name, cell in zip(heads, line, strict=True)
        )
        + "</tr>"
        for line in lines
    )
    return (
        f'<table role="table" aria-label="{escape(title)}"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _beijing(moment: datetime) -> str:
    text = format_time(moment + BEIJING)[:19].replace("T", " ")
    return f'<time datetime="{format_time(moment)}">{text}</time>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _head_section(head: Head, language: str) -> str:
    words = WORDS[language]
    signed = words["never"] if head.signed_at is None else f"{_beijing(head.signed_at)}{words['zone']}"
    facts = _facts(
        [
            (words["origin"], _code(head.origin)),
            (words["size"], str(head.size)),
            (words["signed"], signed),
            (words["sm3"], _code(head.sm3_root)),
            (words["sha256"], _code(head.sha256_root)),
        ]
    )
    # An empty log has no checkpoint, and a link to a refusal helps nobody.
    link = f'<p><a href="/v1/log/checkpoint">{words["checkpoint"]}</a></p>' if head.size else ""
    return f"<section><h2>{words['head']}</h2>{facts}{link}</section>"


def _chains_section(chains: Sequence[ChainRow], size: int, language: str) -> str:
    words = WORDS[language]
    lines = [
        (
            _code(row.chain),
            escape(row.engine),
            words["down"] if row.height is None else str(row.height),
            f"{row.anchored} / {size}",
            str(row.open_anchors),
        )
        for row in chains
    ]
    heads = [words[name] for name in ("chain", "engine", "height", "anchored", "open")]
    return (
        f"<section><h2>{words['chains']}</h2>{_table(words['chains'], heads, lines)}"
        f'<p><a href="/v1/chains">{words["nodes"]}</a></p></section>'
    )


def _items_section(items: Sequence[ItemRow], language: str) -> str:
    words = WORDS[language]
    lines = [
        (
            str(row.leaf_index),
            _code(row.id_prefix),
            f"{escape(row.template_title)}<br>{_code(row.template)}" if language == "zh" else _code(row.template),
            _beijing(row.created_at),
            words.get(row.state, escape(row.state)),
        )
        for row in items
    ]
    heads = [words[name] for name in ("leaf", "id", "template", "time", "state")]
    listed = _table(words["items"], heads, lines) if items else f"<p>{words['none']}</p>"
    return f'<section><h2>{words["items"]}</h2>{listed}<p class="soft">{words["soft"]}</p></section>'


def front(
    head: Head, chains: Sequence[ChainRow], items: Sequence[ItemRow], *, now: datetime, language: str, sandbox: bool
) -> str:
    """The page at `/`: where the log stands at `now`, how far each chain is, the newest items, and what the words mean."""
    words = WORDS[language]
    legend = _facts((name, escape(meaning)) for name, meaning in LEGEND[language])
    body = (
        f"<main>{_head_section(head, language)}{_chains_section(chains, head.size, language)}"
        f"{_items_section(items, language)}<section><h2>{words['legend']}</h2>{legend}</section></main>"
        f"<footer>{words['proves']}<br>{words['as_of']} {_beijing(now)}{words['zone']}</footer>"
    )
    return page(words["title"], body, language=language, sandbox=sandbox, path="/")


def explanation(title: str, pairs: Sequence[tuple[str, str]], *, language: str, sandbox: bool, path: str) -> str:
    """A page that says one thing in named facts, all of them text: the page behind a problem's `type`."""
    facts = _facts((name, escape(value)) for name, value in pairs)
    return page(title, f"<main><section>{facts}</section></main>", language=language, sandbox=sandbox, path=path)


def problem_list(lines: Sequence[tuple[int, str, str, str]], *, language: str, sandbox: bool) -> str:
    """The page at `/problems`: every refusal by status, name, what it means and what to do, each with a page of its own."""
    words = WORDS[language]
    rows = [
        (str(status), f'<a href="/problems/{name}?lang={language}">{_code(name)}</a>', escape(title), escape(what_to_do))
        for status, name, title, what_to_do in lines
    ]
    heads = [words[name] for name in ("status", "name", "meaning", "what_to_do")]
    table = _table(words["problems"], heads, rows)
    body = f'<main><section><p class="soft">{words["about_problems"]}</p>{table}</section></main>'
    return page(words["problems"], body, language=language, sandbox=sandbox, path="/problems")


def documentation(*, language: str, sandbox: bool) -> str:
    """The page at `/docs`: the frame around the viewer of /openapi.json, whose files are served beside it."""
    words = WORDS[language]
    return page(
        words["docs_title"],
        f'<main id="swagger-ui"><noscript>{words["noscript"]}</noscript></main><script src="/docs/swagger-ui-bundle.js"></script>'
        '<script src="/docs/docs.js"></script>',
        language=language,
        sandbox=sandbox,
        path="/docs",
        style=FRAME_STYLE + DOCS_STYLE,
        more_head='<link rel="stylesheet" href="/docs/swagger-ui.css">',
    )
