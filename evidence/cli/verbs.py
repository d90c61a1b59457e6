"""How a verb is declared: its words, whether it is local or remote, its help in both languages."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from evidence.cli.console import Console
from evidence.cli.exits import Exit, Usage

Run = Callable[[argparse.Namespace, Console], Exit]

LOCAL, REMOTE = "local", "remote"
_PLACE = {
    LOCAL: ("在本机执行，不访问网络服务", "runs on this machine"),
    REMOTE: ("作为 --url 所指服务的客户端执行", "a client of the service at --url"),
}
_WHERE_ZH = "令牌取自 EVIDENCE_TOKEN、EVIDENCE_TOKEN_FILE 或 EVIDENCE_HOME/token；不设 --token，以免出现在进程列表中。"
_WHERE_EN = """\
The token comes from EVIDENCE_TOKEN, EVIDENCE_TOKEN_FILE or EVIDENCE_HOME/token;
there is no --token, because it would show in the list of processes."""
_CODES_ZH = """\
退出码：0 完成或 VALID · 1 INVALID 或被拒绝 · 2 INDETERMINATE 或尚未最终确认 · 3 输入不合格式
        4 服务或链不可达 · 64 用法错误 · 70 内部错误 · 130 中断"""
_CODES_EN = """\
exit codes: 0 done or VALID · 1 INVALID or refused · 2 INDETERMINATE or not final yet · 3 malformed input
            4 service or chain out of reach · 64 wrong usage · 70 internal error · 130 interrupted"""
EXIT_CODES = (_CODES_ZH, _CODES_EN)


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are Usage errors, so that none ends with argparse's own 2, which is a verdict here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise Usage(message, hint=self.format_usage().strip())


def common_options(lang: str) -> argparse.ArgumentParser:
    """The options that every verb takes, before or after its name."""
    zh = lang == "zh"
    options = Parser(add_help=False)
    options.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="以一个 JSON 文档输出结果" if zh else "print the answer as one JSON document",
    )
    options.add_argument(
        "--lang",
        choices=["zh", "en"],
        default=argparse.SUPPRESS,
        help="界面语言，默认 zh" if zh else "language of the text, default zh",
    )
    options.add_argument(
        "--quiet",
        action="store_true",
        default=argparse.SUPPRESS,
        help="不输出进度与提示" if zh else "no progress and no notes on stderr",
    )
    return options


def remote_options(lang: str) -> argparse.ArgumentParser:
    """The options of a verb that is a client of a service."""
    options = Parser(add_help=False)
    options.add_argument(
        "--url",
        default=argparse.SUPPRESS,
        help="服务地址，默认 EVIDENCE_URL 或 http://127.0.0.1:8000"
        if lang == "zh"
        else "the service, default EVIDENCE_URL or http://127.0.0.1:8000",
    )
    return options


class Verbs:
    """The table that verb modules write themselves into."""

    def __init__(self, table: Any, lang: str) -> None:
        self._table = table
        self._parents = {LOCAL: [common_options(lang)], REMOTE: [common_options(lang), remote_options(lang)]}
        self.lang = lang

    def say(self, zh: str, en: str) -> str:
        """The one of two wordings that the reader asked for."""
        return zh if self.lang == "zh" else en

    def add(self, name: str, place: str, run: Run | None, zh: str, en: str, *, more: tuple[str, str] = ("", "")) -> Parser:
        """The parser of the verb `name`, to which its module adds arguments; `run` does what it says."""
        what = f"({place}) {self.say(zh, en)}"
        parts = [what, f"{place}: {self.say(*_PLACE[place])}" + ("" if place == LOCAL else "\n" + self.say(_WHERE_ZH, _WHERE_EN))]
        if self.say(*more):
            parts.append(self.say(*more))
        parser: Parser = self._table.add_parser(
            name, help=what, description="\n\n".join(parts), epilog=self.say(*EXIT_CODES), parents=self._parents[place]
        )
        if run is not None:
            parser.set_defaults(run=run, place=place)
        return parser

    def group(self, name: str, place: str, zh: str, en: str, *, default: Run | None = None) -> Verbs:
        """A verb with verbs of its own, such as `chain nodes`; `default` is what it does when none is named."""
        parser = self.add(name, place, default, zh, en)
        inner = parser.add_subparsers(dest=f"{name}_verb", metavar="VERB", required=default is None, parser_class=Parser)
        return Verbs(inner, self.lang)


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    number = int(text)
    if number <= 0:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """A duration in seconds of at most a day, for argparse."""
    number = float(text)
    if not 0 <= number <= 86_400:  # also refuses nan
        raise ValueError(text)
    return number
