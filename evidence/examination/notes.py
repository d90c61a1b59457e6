"""Every checkpoint that was ever signed: its two notes, their signatures and times, and the root that the entries give."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from evidence import tables
from evidence.examination.damage import Findings, How, Unit
from evidence.examination.ground import LOG_KEYS, Ground
from evidence.examination.trees import TREES
from evidence.store import CheckpointRow
from models.checkpoint import Checkpoint, Note, SignatureLine, verify_cosignature
from models.digest import Algorithm
from models.errors import EvidenceError
from models.names import twin_origin

_FOREIGN_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Read:
    """A checkpoint as its notes state it; `is_signed` where both signatures hold, `t` their time then."""

    roots: dict[Algorithm, bytes]
    is_signed: bool
    t: int | None


@dataclass(slots=True)
class Notes:
    """Judges checkpoints in order of their sizes; `judged` and `foreign` tell at the end whether a key was replaced."""

    ground: Ground
    last_t: int = 0
    judged: dict[Algorithm, int] = field(default_factory=dict)
    foreign: dict[Algorithm, list[tuple[int, bytes]]] = field(default_factory=dict)

    @property
    def findings(self) -> Findings:
        """Where damage is named."""
        return self.ground.findings

    def read(self, row: CheckpointRow) -> Read:
        """What the row's notes state, each judged by itself."""
        self.findings.count("checkpoints")
        roots: dict[Algorithm, bytes] = {}
        is_signed, origin, times = True, self.ground.origin, []
        for algorithm, text, named in zip(TREES, (row.note, row.twin), (origin, twin_origin(origin)), strict=True):
            try:
                note = Note.parse(text)
                checkpoint = Checkpoint.parse(note.text)
                if (checkpoint.size, checkpoint.origin) != (row.size, named):
                    self._name(row.size, algorithm, "the note is of another size or log than its row")
                    is_signed = False
                    continue
                roots[algorithm] = checkpoint.root
                times += [line.time for line in note.lines]
                is_signed = self._check_lines(row, algorithm, note) and is_signed
            except (EvidenceError, TypeError) as error:
                what = error.message if isinstance(error, EvidenceError) else "the note is no text"
                self._name(row.size, algorithm, what)
                is_signed = False
        return Read(roots, is_signed, min(times) if is_signed and times else None)

    def _name(self, size: int, algorithm: Algorithm, detail: str) -> None:
        note = "note" if algorithm is Algorithm.SM3 else "twin"
        self.findings.add(Unit.CHECKPOINT, f"size {size} {note}", How.ALTERED, detail, leaves=(size - 1, size))

    def _check_lines(self, row: CheckpointRow, algorithm: Algorithm, note: Note) -> bool:
        """Whether every line of the note was verified; the column of the time is the lines' time."""
        verified = [self._is_verified(row, algorithm, note, line) for line in note.lines]
        for line in note.lines:
            where = f"size {row.size} note"
            if line.time != row.signed_at_s and not self.findings.has(Unit.CHECKPOINT, where):
                detail = "column signed_at_s is not the time of the note's line"
                where, found = f"size {row.size} signed_at_s", row.signed_at_s
                self.findings.add(Unit.CHECKPOINT, where, How.ALTERED, detail, expected=line.time, found=found)
        return all(verified)

    def _is_verified(self, row: CheckpointRow, algorithm: Algorithm, note: Note, line: SignatureLine) -> bool:
        key = self.ground.log_keys.get(algorithm)
        if key is None:
            return False
        if line.key_id != key.key_id:
            kept = self.foreign.setdefault(algorithm, [])
            if len(kept) < _FOREIGN_KEPT:
                kept.append((row.size, line.key_id))
            return False
        try:
            verify_cosignature(note.text, line, key)
        except EvidenceError as error:
            self._name(row.size, algorithm, error.message)
            return False
        self.judged[algorithm] = self.judged.get(algorithm, 0) + 1
        return True

    def name_roots(self, size: int, other: dict[Algorithm, bytes], read: Read) -> None:
        """The entries give other roots than a note whose signature does not hold."""
        for algorithm, root in other.items():
            note = "note" if algorithm is Algorithm.SM3 else "twin"
            detail = "the note states another root than the entries give, and its signature does not hold"
            where, found = f"size {size} {note}", read.roots[algorithm]
            self.findings.add(Unit.CHECKPOINT, where, How.ALTERED, detail, expected=root, found=found)

    def check_time(self, size: int, t: int, created_ms: int | None) -> None:
        """T is not before the newest item that the checkpoint covers, nor before an earlier T (I5)."""
        if (created_ms is not None and t * 1000 < created_ms) or t < self.last_t:
            detail = "the checkpoint's time is before that of an item it covers, or of an earlier checkpoint"
            self.findings.add(Unit.CHECKPOINT, f"size {size} note", How.ALTERED, detail, found=t)
        self.last_t = max(self.last_t, t)
        self._check_window(t)

    def _check_window(self, t: int) -> None:
        facts = self.ground.facts
        if facts is None:
            return
        for name in LOG_KEYS.values():
            window = facts.windows.get(name)
            start = None if window is None or window.start is None else window.start.timestamp()
            until = None if window is None or window.until is None else window.until.timestamp()
            if window is None or (start is not None and t < start) or (until is not None and t > until + 1):
                detail = "a checkpoint was signed outside the validity of its key"
                self.findings.add(Unit.HOME, f"home.json key {name}", How.ALTERED, detail, found=t)

    def finish(self) -> None:
        """A key that verified nothing was replaced; else each note by another key is named."""
        for algorithm, notes in self.foreign.items():
            key = self.ground.log_keys[algorithm]
            if self.judged.get(algorithm):
                for size, _ in notes:
                    self._name(size, algorithm, "the note is signed by another key than the log's")
            else:
                detail = "the key is not the one that signed the stored checkpoints"
                where = f"keys/{LOG_KEYS[algorithm]}.pem"
                self.findings.add(Unit.KEY, where, How.ALTERED, detail, expected=notes[0][1], found=key.key_id)


def read_checkpoints(connection: Connection, start: int, stop: int) -> list[CheckpointRow]:
    """The checkpoints of sizes in (start, stop]."""
    c = tables.checkpoint.c
    query = select(tables.checkpoint).where(c.size > start, c.size <= stop).order_by(c.size)
    return [CheckpointRow(*row) for row in connection.execute(query)]
