"""What a verb says and where: its answer on stdout, everything else on stderr.

A verb answers once, with `document` or `raw`; `answered` tells the top of the process so, because
an exit code that is a verdict stands only beside an answer.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from evidence.cli.exits import Usage
from models.canonical import JSONValue

# What could move the cursor, recolour or reorder the reader's screen: text in bundles and answers is foreign.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BAR_CELLS = 24


def printable(text: str) -> str:
    """`text` with every control and direction character written out as an escape."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def width(text: str) -> int:
    """The cells that `text` takes on a terminal: two for a wide or full-width character, none for a combining one."""
    cells = 0
    for letter in text:
        if unicodedata.combining(letter):
            continue
        cells += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
    return cells


def fit(text: str, cells: int) -> str:
    """`text` cut or padded to exactly `cells` cells."""
    if width(text) > cells:
        kept = ""
        for letter in text:
            if width(kept + letter) > cells - 1:
                break
            kept += letter
        text = kept + "…"
    return text + " " * (cells - width(text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, widest: int = 44) -> str:
    """Rows under a head in columns that line up also where characters are two cells wide."""
    lines = [[printable(cell).replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [min(widest, max(width(line[column]) for line in lines)) for column in range(len(head))]
    lines.insert(1, ["─" * cells for cells in widths])
    return "\n".join("  ".join(fit(cell, cells) for cell, cells in zip(line, widths, strict=True)).rstrip() for line in lines)


class Console:
    """The streams of one run of one verb, its language and its form of output."""

    def __init__(
        self, *, environ: Mapping[str, str], request_id: str, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.environ = environ
        self.request_id = request_id
        self.json = False
        self.lang = "zh"
        self.quiet = False
        self.answered = False
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        for stream in (self._stdout, self._stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")

    @property
    def is_watched(self) -> bool:
        """Whether the answer goes to a terminal, where a second copy on stderr would only repeat it."""
        return self._stdout.isatty()

    def say(self, zh: str, en: str) -> str:
        """The one of two wordings that the reader asked for."""
        return zh if self.lang == "zh" else en

    def document(self, value: JSONValue, text: str | None = None) -> None:
        """The verb's answer is on stdout: `value` as one JSON document under --json, else `text`."""
        if self.answered:
            raise RuntimeError("a verb answers once")
        if self.json or text is None:
            # Escapes of the stream's error handler are no JSON beyond U+FFFF, so another charset gets pure ASCII.
            narrow = (self._stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
            text = json.dumps(value, ensure_ascii=narrow, indent=2)
        else:
            text = printable(text)
        self._stdout.write(text if text.endswith("\n") else text + "\n")
        self._stdout.flush()
        self.answered = True

    def raw(self, data: bytes) -> None:
        """The verb's answer is on stdout as these very bytes (`-o -`)."""
        if self.json:
            raise Usage("-o - and --json both want standard output: choose one")
        if self.answered:
            raise RuntimeError("a verb answers once")
        self._stdout.flush()
        binary = getattr(self._stdout, "buffer", None)
        if binary is None:
            self._stdout.write(data.decode("utf-8", "backslashreplace"))
        else:
            binary.write(data)
        self._stdout.flush()
        self.answered = True

    def note(self, text: str) -> None:
        """A line for the person at the terminal, on stderr; nothing under --quiet."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A line on stderr that --quiet does not silence: what went wrong, or a secret's warning."""
        self._stderr.write(printable(text) + "\n")
        self._stderr.flush()

    def progress(self, done: int, total: int, what: str) -> None:
        """The progress bar on stderr is at `done` of `total`; on a terminal only."""
        if self.quiet or not self._stderr.isatty():
            return
        filled = _BAR_CELLS if total == 0 else _BAR_CELLS * min(done, total) // total
        bar = "█" * filled + "░" * (_BAR_CELLS - filled)
        self._stderr.write(f"\r{bar} {done}/{total} {printable(what)}\x1b[K" + ("\n" if done >= total else ""))
        self._stderr.flush()

    def abandon_stdout(self) -> None:
        """Nothing more is written to a stdout whose reader has gone, also not by the interpreter's last flush."""
        try:
            descriptor = self._stdout.fileno()
        except (OSError, ValueError, AttributeError):
            return
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
