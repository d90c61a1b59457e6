"""The command line: reads the words, runs the verb, and turns whatever happens into an exit code.

An answer on stdout stands beside each of the codes 0, 1 and 2; a verb that ended so without one
has a fault of ours in it and ends with 70.
"""

from __future__ import annotations

import argparse
import importlib
import secrets
import sys
import traceback
from collections.abc import Mapping, Sequence

from evidence.cli.console import Console
from evidence.cli.exits import ANSWERS, Exit, error_document, exit_code
from evidence.cli.verbs import EXIT_CODES, Parser, Verbs, common_options
from evidence.settings import environment
from models.errors import EvidenceError, Invalid

_MODULES = (
    "service",
    "examine",
    "demo",
    "templates",
    "preserve",
    "seal",
    "find",
    "stream",
    "issue",
    "verify",
    "trust",
    "chain",
    "access",
    "key",
)


def _version() -> str:
    from importlib.metadata import version

    return version("evidence")


def _wanted_lang(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """The language of --lang or EVIDENCE_LANG before anything is parsed, because help and usage are texts too."""
    lang = environ.get("EVIDENCE_LANG", "")
    for place, word in enumerate(argv):
        if word == "--":
            break
        if word.startswith("--lang="):
            lang = word.removeprefix("--lang=")
        elif word == "--lang" and place + 1 < len(argv):
            lang = argv[place + 1]
    return "en" if lang == "en" else "zh"


def build_parser(lang: str) -> Parser:
    """The parser of the whole command line, its help in `lang`."""
    zh = lang == "zh"
    parser = Parser(
        prog="evidence",
        description="区块链电子数据存证（T/SAC 004—2024）" if zh else "blockchain evidence preservation (T/SAC 004—2024)",
        epilog=EXIT_CODES[0 if zh else 1],
        parents=[common_options(lang)],
    )
    parser.add_argument("--version", action="version", version=f"evidence {_version()}")
    table = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    verbs = Verbs(table, lang)
    for name in _MODULES:
        importlib.import_module(f"evidence.cli.{name}").register(verbs)
    return parser


def _report(console: Console, error: EvidenceError, code: Exit) -> Exit:
    """Say what went wrong: on stdout where the code is an answer or --json asks for a document, else on stderr."""
    document = error_document(error, console.request_id)
    lines = [str(document.get("detail") or error.message)]
    if isinstance(error, Invalid):
        for problem in error.problems:
            clause = f" [{problem.clause}]" if problem.clause else ""
            lines.append(f"  {problem.pointer} {problem.field_zh}: {problem.expected}; {problem.got}{clause}")
    elif isinstance(document.get("errors"), list):
        lines += [
            f"  {each.get('pointer')} {each.get('field_zh')}: {each.get('expected')}; {each.get('got')}"
            for each in document["errors"]
        ]
    text = "\n".join(lines)
    if not console.answered and (console.json or code in ANSWERS):
        console.document(document, text)
    if code not in ANSWERS:
        console.warn(f"evidence: {text}")
    elif not console.json and not console.is_watched:
        # Whoever redirected the answer still sees on the terminal that it is a refusal.
        console.warn(f"evidence: {lines[0]}")
    hint = document.get("hint") or error.hint
    if hint:
        console.warn(str(hint))
    return code


def _run_verb(argv: Sequence[str], console: Console) -> Exit:
    lang = console.lang = _wanted_lang(argv, console.environ)
    # A parser error may hide a --json behind the mistake; the document is owed all the same.
    console.json = "--json" in argv
    console.quiet = "--quiet" in argv
    args: argparse.Namespace = build_parser(lang).parse_args(argv)
    console.json = getattr(args, "json", False)
    console.quiet = getattr(args, "quiet", False)
    code: Exit = args.run(args, console)
    if code in ANSWERS and not console.answered:
        raise RuntimeError("verb ended without an answer")
    return code


def _answer(argv: Sequence[str], console: Console) -> Exit:
    try:
        return _run_verb(argv, console)
    except EvidenceError as error:
        code = exit_code(error)
        if code is Exit.INTERNAL:
            raise
        return _report(console, error, code)


def run(argv: Sequence[str], *, environ: Mapping[str, str] | None = None) -> int:
    """The exit code of the command line `argv`; never raises.

    Source: interface §2.
    """
    console = Console(environ=environment() if environ is None else environ, request_id=secrets.token_hex(8))
    try:
        return _answer(argv, console)
    except SystemExit as stop:  # --help and --version, which argparse has printed
        sys.stdout.flush()
        return Exit.DONE if not stop.code else Exit.INTERNAL
    except KeyboardInterrupt:
        console.warn(console.say("已中断", "interrupted"))
        return Exit.INTERRUPTED
    except BrokenPipeError:
        console.abandon_stdout()
        return Exit.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the top of the process: a crash must not become a verdict
        return _crash(console, error)


def _crash(console: Console, error: Exception) -> Exit:
    console.warn(
        console.say(
            f"evidence: 内部错误（{type(error).__name__}），请求编号 {console.request_id}",
            f"evidence: internal error ({type(error).__name__}), request id {console.request_id}",
        )
    )
    if console.environ.get("EVIDENCE_DEBUG"):
        console.warn("".join(traceback.format_exception(error)))
    if isinstance(error, OSError):
        console.abandon_stdout()
    return Exit.INTERNAL
