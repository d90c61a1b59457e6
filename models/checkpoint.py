"""The log's signed head and the files of proofs that carry it.

Text formats of C2SP: signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof and the body of
tlog-witness, with SM2 in place of Ed25519. All of them are parsed strictly: what is accepted is
exactly what `format`, `make_note` or `text` would write.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.canonical import MAX_INTEGER, b64, unb64
from models.digest import Algorithm
from models.errors import Malformed, Unknown, VerificationError
from models.names import check_origin
from models.signature import Signer, check_public_key, verify

_OID = b"1.2.156.10197.1.501"
COSIGNATURE_TYPE = b"\xff" + _OID + b"/cosignature/v1"
NOTE_TYPE = b"\xff" + _OID + b"/note/v1"
STATEMENT_TYPE = b"\xff" + _OID + b"/statement/v1"
ED25519_TYPE = b"\x01"
ED25519_COSIGNATURE_TYPE = b"\x04"
_SM2_TYPES = (COSIGNATURE_TYPE, NOTE_TYPE, STATEMENT_TYPE)
_ED25519_TYPES = (ED25519_TYPE, ED25519_COSIGNATURE_TYPE)
_SM2_KEY_BYTES, _ED25519_KEY_BYTES = 65, 32

SANDBOX_PREFIX = "sandbox."
MAX_NOTE_BYTES = 64 << 10
MAX_NOTE_LINES = 64
MAX_PATH_HASHES = 63
MAX_PROOF_BYTES = 128 << 10
MAX_T = 253_402_300_800
"""First second of the year 10000: every time here lies before it."""

_KEY_ID_BYTES, _TIME_BYTES, _SIGNATURE_BYTES = 4, 8, 64
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_VKEY = re.compile(r"([^\s+]{1,128})\+([0-9a-f]{8})\+([A-Za-z0-9+/=]{1,256})")
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f]")
_LINE = re.compile("\u2014 ([^\\s+]{1,256}) ([A-Za-z0-9+/=]{8,16384})")
_FIRST_LINE = {Algorithm.SM3: "cz/tlog-proof-sm3@v", Algorithm.SHA256: "c2sp.org/tlog-proof@v"}


def _size(text: str, what: str) -> int:
    if not _SIZE.fullmatch(text) or int(text) > MAX_INTEGER:
        raise Malformed(f"{what} has wrong form: expected a decimal number below 2^53 without leading zero")
    return int(text)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of one tree of one log: origin, number of entries, root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines that are signed, without extension lines (formats §3.2)."""
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint that exactly `text` states.

        Raises: Malformed if it has other lines, an origin of another form, or a root that is not 32 bytes.
        Source: C2SP tlog-checkpoint; formats §3.2.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise Malformed("checkpoint has wrong form: expected the three lines origin, size, root")
        origin = check_origin(lines[0])
        return cls(origin, _size(lines[1], "checkpoint size"), unb64(lines[2], size=32, what="checkpoint root"))


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under its one name and for its one use."""

    name: str
    key_id: bytes
    type: bytes
    public_key: bytes

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64(self.type + self.public_key)}"

    @property
    def algorithm(self) -> str:
        """`sm2-sm3` or `ed25519`."""
        return "sm2-sm3" if self.type in _SM2_TYPES else "ed25519"

    @classmethod
    def parse(cls, text: object) -> VerifierKey:
        """The key that a vkey string names.

        Raises: Malformed if form, key id or key are wrong; Unknown if the signature type is none of ours.
        Source: C2SP signed-note (verifier keys); formats §3.3.
        """
        match = _VKEY.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise Malformed("verifier key has wrong form: expected name+hex key id+base64")
        name, key_id, body = match[1], bytes.fromhex(match[2]), unb64(match[3], what="verifier key")
        known = next((kind for kind in (*_SM2_TYPES, *_ED25519_TYPES) if body.startswith(kind)), None)
        if known is None:
            raise Unknown("verifier key is of an unknown signature type")
        key = vkey(name, body[len(known) :], known)
        if key.key_id != key_id:
            raise Malformed(f"verifier key has another key id: expected {key.key_id.hex()}, got {key_id.hex()}")
        return key


def vkey(name: str, public_key: bytes, kind: bytes) -> VerifierKey:
    """The verifier key of `public_key` under `name` for signatures of type `kind`.

    Shapes: SM2 key 65 bytes 04‖X‖Y, Ed25519 key 32 bytes → key id of 4 bytes.
    Raises: Malformed if the name holds a space or a plus, or the key is not one of that type.
    Source: formats §3.3 (key id = SHA-256(name‖0x0A‖type‖key)[:4]).
    """
    if not name or "+" in name or any(letter.isspace() for letter in name):
        raise Malformed("key name has wrong form: expected text without space and plus")
    if kind in _SM2_TYPES:
        if len(public_key) != _SM2_KEY_BYTES:
            raise Malformed(f"public key has wrong length: expected {_SM2_KEY_BYTES} bytes, got {len(public_key)}")
        check_public_key(public_key)
    elif len(public_key) != _ED25519_KEY_BYTES:
        raise Malformed(f"public key has wrong length: expected {_ED25519_KEY_BYTES} bytes, got {len(public_key)}")
    key_id = hashlib.sha256(name.encode() + b"\n" + kind + public_key).digest()[:_KEY_ID_BYTES]
    return VerifierKey(name, key_id, kind, public_key)


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature line of a note: `text` is the line with its newline, `body` what follows the key id."""

    name: str
    key_id: bytes
    body: bytes
    text: str

    @property
    def time(self) -> int:
        """T in Unix seconds of a cosignature line.

        Raises: Malformed if the line is no cosignature (u64 time and 64 bytes) or names a year past 9999.
        """
        if len(self.body) != _TIME_BYTES + _SIGNATURE_BYTES:
            raise Malformed(f"signature line has wrong length: expected 76 bytes, got {_KEY_ID_BYTES + len(self.body)}")
        moment = int.from_bytes(self.body[:_TIME_BYTES], "big")
        if moment >= MAX_T:
            raise Malformed("signature line names a time past the year 9999")
        return moment

    @property
    def signature(self) -> bytes:
        """The last 64 bytes: r‖s, or an Ed25519 signature."""
        return self.body[-_SIGNATURE_BYTES:]

    @classmethod
    def parse(cls, text: str) -> SignatureLine:
        """The line that `text`, ended by a newline, states.

        Raises: Malformed if it is not `— name base64` with at least 5 bytes.
        """
        match = _LINE.fullmatch(text[:-1]) if text.endswith("\n") else None
        if match is None:
            raise Malformed("signature line has wrong form: expected a dash, a name and base64")
        raw = unb64(match[2], what="signature line")
        if len(raw) <= _KEY_ID_BYTES:
            raise Malformed("signature line holds no signature")
        return cls(match[1], raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:], text)


def signature_line(name: str, key_id: bytes, body: bytes) -> str:
    """The line `— name base64` with its newline."""
    return f"\u2014 {name} {b64(key_id + body)}\n"


def _printable(text: str) -> bool:
    return _UNPRINTABLE.search(text) is None


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note: `text` ends with a newline; `data` is the whole of it as it stands."""

    text: str
    lines: tuple[SignatureLine, ...]
    data: str

    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the note's text states; Malformed if it states none."""
        return Checkpoint.parse(self.text)

    @classmethod
    def parse(cls, data: str | bytes) -> Note:
        """The note that `data` is.

        Shapes: ≤ 64 KiB, ≤ 64 lines, at least one signature line.
        Raises: Malformed if it is anything else.
        Source: C2SP signed-note; formats §6.2.
        """
        text = data if isinstance(data, str) else _text(data, MAX_NOTE_BYTES, "note")
        if len(text.encode("utf-8", "replace")) > MAX_NOTE_BYTES or text.count("\n") > MAX_NOTE_LINES:
            raise Malformed(f"note is too long: expected at most {MAX_NOTE_BYTES} bytes and {MAX_NOTE_LINES} lines")
        gap = text.rfind("\n\n")
        if gap < 0 or not _printable(text) or text.startswith("\n"):
            raise Malformed("note has wrong form: expected a text, an empty line and signature lines")
        lines = tuple(SignatureLine.parse(line) for line in text[gap + 2 :].splitlines(keepends=True))
        if not lines:
            raise Malformed("note has no signature line")
        if len({line.text for line in lines}) != len(lines):
            raise Malformed("note has a signature line twice")
        return cls(text[: gap + 1], lines, text)


def _text(data: bytes, limit: int, what: str) -> str:
    if len(data) > limit:
        raise Malformed(f"{what} is too long: expected at most {limit} bytes, got {len(data)}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"{what} is not UTF-8 at byte {error.start}") from error


def cosignature_message(text: str, time: int) -> bytes:
    """The bytes that a cosignature of `text` at T = `time` signs (formats §3.3)."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def cosign(checkpoint: Checkpoint, signer: Signer, time: int, *, name: str | None = None) -> str:
    """The signature line of `signer` over `checkpoint` at T = `time`.

    Shapes: `time` in Unix seconds; `name` defaults to the checkpoint's origin (a witness gives its own).
    Raises: Malformed if `time` lies outside 0 … year 9999; SigningUnavailable from the signer.
    Source: C2SP tlog-cosignature; formats §3.3.
    """
    if not 0 <= time < MAX_T:
        raise Malformed("time of a cosignature is out of range: expected 0 up to the year 9999")
    key = vkey(name or checkpoint.origin, signer.public_key, COSIGNATURE_TYPE)
    signature = signer.sign(cosignature_message(checkpoint.text(), time))
    return signature_line(key.name, key.key_id, time.to_bytes(_TIME_BYTES, "big") + signature)


def make_note(checkpoint: Checkpoint, lines: Sequence[str]) -> str:
    """The note of `checkpoint` with `lines`, each ended by a newline, in the order given.

    Raises: Malformed if there is no line or one has a wrong form.
    """
    return Note.parse(checkpoint.text() + "\n" + "".join(lines)).data


def verify_cosignature(text: str, line: SignatureLine, key: VerifierKey) -> None:
    """`line` is a cosignature of `text` at `line.time` under `key`.

    Raises: VerificationError if name or key id are not the key's or the signature does not verify;
        Malformed if the line has no time; Unknown if the key is not for cosignatures.
    Source: C2SP tlog-cosignature; formats §3.3.
    """
    if (line.name, line.key_id) != (key.name, key.key_id):
        raise VerificationError("signature line is of another key")
    message = cosignature_message(text, line.time)
    if key.type == COSIGNATURE_TYPE:
        verify(key.public_key, message, line.signature)
    elif key.type == ED25519_COSIGNATURE_TYPE:
        _verify_ed25519(key.public_key, message, line.signature)
    else:
        raise Unknown("verifier key is not for cosignatures")


def verify_line(text: str, line: SignatureLine, key: VerifierKey) -> None:
    """`line` is a plain note signature of `text` under `key`: SM2 of type note, or Ed25519.

    Raises: VerificationError if name or key id are not the key's or the signature does not verify;
        Unknown if the key is not for plain notes.
    Source: C2SP signed-note; formats §3.3.
    """
    if (line.name, line.key_id) != (key.name, key.key_id):
        raise VerificationError("signature line is of another key")
    if key.type == NOTE_TYPE:
        verify(key.public_key, text.encode(), line.body)
    elif key.type == ED25519_TYPE:
        _verify_ed25519(key.public_key, text.encode(), line.body)
    else:
        raise Unknown("verifier key is not for plain notes")


def _verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError("ed25519 signature does not verify") from error


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PATH_HASHES:
        raise Malformed(f"path is too long: expected at most {MAX_PATH_HASHES} hashes, got {len(lines)}")
    return tuple(unb64(line, size=32, what="hash of a path") for line in lines)


def _split(data: str | bytes, what: str) -> tuple[list[str], Note]:
    """The lines before the first empty line, and the note after it."""
    text = data if isinstance(data, str) else _text(data, MAX_PROOF_BYTES, what)
    if len(text) > MAX_PROOF_BYTES:
        raise Malformed(f"{what} is too long: expected at most {MAX_PROOF_BYTES} bytes")
    head, gap, note = text.partition("\n\n")
    if not gap:
        raise Malformed(f"{what} has wrong form: expected lines, an empty line and a note")
    return head.split("\n"), Note.parse(note)


def _number(line: str, word: str, what: str) -> int:
    if not line.startswith(word + " "):
        raise Malformed(f"{what} has wrong form: expected a line '{word} N'")
    return _size(line[len(word) + 1 :], word)


@dataclass(frozen=True, slots=True)
class TlogProof:
    """An inclusion proof file: index, path from the leaf upward, the note it stands in, and which tree."""

    index: int
    path: tuple[bytes, ...]
    note: Note
    kind: Algorithm

    def format(self) -> str:
        """The file's text (formats §6.1, §11 Notes)."""
        path = "".join(b64(node) + "\n" for node in self.path)
        return f"{_FIRST_LINE[self.kind]}1\nindex {self.index}\n{path}\n{self.note.data}"

    @classmethod
    def parse(cls, data: str | bytes, *, kind: Algorithm) -> TlogProof:
        """The proof that the file of tree `kind` states.

        Raises: Unknown if it names a later version of its own kind; Malformed if it is anything else.
        Source: C2SP tlog-proof; formats §11 (Notes, Which check says so).
        """
        text = data if isinstance(data, str) else _text(data, MAX_PROOF_BYTES, "tlog-proof")
        first, _, rest = text.partition("\n")
        version = first.removeprefix(_FIRST_LINE[kind])
        if version == first or not _VERSION.fullmatch(version):
            raise Malformed(f"tlog-proof has another first line: expected {_FIRST_LINE[kind]}1")
        if version != "1":
            raise Unknown("tlog-proof is of an unknown version: expected 1")
        head, note = _split(rest, "tlog-proof")
        return cls(_number(head[0], "index", "tlog-proof"), _hashes(head[1:]), note, kind)


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """A consistency proof file: from the tree of size `old` to the note's (body of tlog-witness add-checkpoint)."""

    old: int
    path: tuple[bytes, ...]
    note: Note

    def format(self) -> str:
        """The file's text."""
        path = "".join(b64(node) + "\n" for node in self.path)
        return f"old {self.old}\n{path}\n{self.note.data}"

    @classmethod
    def parse(cls, data: str | bytes) -> ConsistencyProof:
        """The proof that the file states.

        Raises: Malformed if it has another form.
        Source: C2SP tlog-witness (add-checkpoint); formats §6.1.
        """
        head, note = _split(data, "consistency proof")
        return cls(_number(head[0], "old", "consistency proof"), _hashes(head[1:]), note)
