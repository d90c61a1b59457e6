"""A shell script in the making: bytes written beside it, and one plain openssl command for each thing computed.

The script needs sh, openssl, cat, cmp and a few of coreutils. It computes into `w/` and compares;
what it compares with are files of the bundle, never a number that Python computed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from models.canonical import b64
from models.digest import Algorithm, sha256
from models.signature import USER_ID, rs_to_der

_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
"""SubjectPublicKeyInfo of an uncompressed key on sm2p256v1, before its 65 bytes (GM/T 0009)."""

HEAD = r"""#!/bin/sh
# Repeats, with nothing but openssl and coreutils, what the verifier computed. Run: sh explain.sh
# Every line says ok or FAIL; the exit code is 0 only if nothing failed.
export LC_ALL=C
cd "$(dirname "$0")" || exit 1
rm -rf w && mkdir w || exit 1
fails=0
ok() { printf 'ok    %s\n' "$1"; }
bad() { printf 'FAIL  %s\n' "$1"; fails=$((fails + 1)); }
same() { if cmp -s "$2" "$3"; then ok "$1"; else bad "$1"; fi; }
holds() { case "$(cat "$2")" in *"$3"*) ok "$1" ;; *) bad "$1" ;; esac; }
equal() { if test "$2" = "$3"; then ok "$1"; else bad "$1"; fi; }
signed() { if test "$2" -eq 0; then ok "$1"; else bad "$1"; fi; }
hex() { openssl dgst "-$1" -r "$2" | cut -d ' ' -f 1; }
"""
TAIL = r"""
printf '\n%s failed\n' "$fails"
test "$fails" -eq 0
"""


class Script:
    """Commands in order, and the files they read, all under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: list[str] = []
        self._made = 0

    def write(self, name: str, data: bytes) -> str:
        """`data` as file `name`; gives the name."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    def finish(self) -> None:
        """The script itself, as explain.sh."""
        self.write("explain.sh", (HEAD + "\n".join(self._lines) + "\n" + TAIL).encode())

    def title(self, text: str) -> None:
        """A step begins; its title is printed and stands as a comment."""
        plain = " ".join(text.split())
        self._lines += ["", f"# {plain}", f"printf '\\n%s\\n' {shlex.quote(plain)}"]

    def comment(self, text: str) -> None:
        """What the next command computes."""
        self._lines.append("# " + " ".join(text.split()))

    def run(self, *words: str) -> None:
        """One command."""
        self._lines.append(" ".join(words))

    def fail(self, text: str) -> None:
        """Something no openssl command can show, said by the verifier."""
        self._lines.append(f"bad {shlex.quote(text)}")

    def new(self) -> str:
        """A fresh name under w/."""
        self._made += 1
        return f"w/{self._made}"

    def join(self, *parts: str) -> str:
        """A file made of others, one after the other."""
        out = self.new()
        self.run("cat", *parts, ">", out)
        return out

    def dgst(self, algorithm: Algorithm, source: str) -> str:
        """The file that holds the raw digest of `source`."""
        out = self.new()
        self.run(f"openssl dgst -{algorithm.value} -binary -out {out} {source}")
        return out

    def leaf(self, algorithm: Algorithm, source: str) -> str:
        """H(0x00 ‖ source)."""
        return self.dgst(algorithm, self.join("c/00", source))

    def node(self, algorithm: Algorithm, left: str, right: str) -> str:
        """H(0x01 ‖ left ‖ right)."""
        return self.dgst(algorithm, self.join("c/01", left, right))

    def same(self, what: str, first: str, second: str) -> None:
        """Two files are equal byte for byte."""
        self.run("same", shlex.quote(what), first, second)

    def holds(self, what: str, source: str, part: str) -> None:
        """A text file holds `part` somewhere; `part` may be a shell substitution in double quotes, already quoted."""
        self.run("holds", shlex.quote(what), source, part)

    def digest_stands_in(self, what: str, algorithm: Algorithm, data: str, before: str, text: str) -> None:
        """The hex digest of file `data` stands in file `text` directly after the characters `before`."""
        self.run("holds", shlex.quote(what), text, f'{shlex.quote(before)}"$(hex {algorithm.value} {data})"')

    def value_stands_in(self, what: str, raw: str, before: str, text: str) -> None:
        """The 32 bytes of file `raw`, as hex, stand in file `text` directly after `before`."""
        self.run("holds", shlex.quote(what), text, f"{shlex.quote(before)}\"$(od -An -v -tx1 {raw} | tr -d ' \\n')\"")

    def key(self, name: str, public_key: bytes) -> str:
        """A public key as PEM for openssl; gives the file's name."""
        text = b64(_SPKI + public_key)
        rows = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
        return self.write(f"keys/{name}.pem", f"-----BEGIN PUBLIC KEY-----\n{rows}\n-----END PUBLIC KEY-----\n".encode())

    def key_stands_in(self, what: str, pem: str, prefix: bytes, text: str) -> None:
        """The key of file `pem`, after `prefix`, stands in base64 in file `text` (the trust file)."""
        raw = self.new()
        self.run(f"openssl pkey -pubin -in {pem} -outform DER | tail -c 65 > {raw}")
        whole = self.join(self.write(f"c/prefix-{sha256(prefix).hex()[:16]}", prefix), raw) if prefix else raw
        self.run("holds", shlex.quote(what), text, f'"$(openssl base64 -A -in {whole})"')

    def verify(self, what: str, pem: str, message: str, signature: bytes) -> None:
        """An SM2 signature r‖s over file `message`, handed to openssl as DER."""
        self._made += 1
        der = self.write(f"sig/{self._made}.der", rs_to_der(signature))
        self.run(
            f"openssl pkeyutl -verify -pubin -inkey {pem} -rawin -in {message} -sigfile {der}"
            f" -digest sm3 -pkeyopt distid:{USER_ID.decode()} > w/out 2>&1"
        )
        self.run("signed", shlex.quote(what), "$?")

    def hashes(self, folder: str, path: Sequence[bytes]) -> list[str]:
        """Hashes of a proof as files."""
        return [self.write(f"{folder}/{number}", value) for number, value in enumerate(path)]

    def inclusion(self, algorithm: Algorithm, leaf: str, index: int, size: int, path: Sequence[str]) -> str:
        """The file with the root that leaf and path lead to (RFC 9162 2.1.3.2)."""
        place, last, found = index, size - 1, leaf
        for sibling in path:
            if place & 1 or place == last:
                found = self.node(algorithm, sibling, found)
                while place and not place & 1:
                    place, last = place >> 1, last >> 1
            else:
                found = self.node(algorithm, found, sibling)
            place, last = place >> 1, last >> 1
        return found

    def consistency(self, algorithm: Algorithm, old: int, new: int, old_root: str, path: Sequence[str]) -> tuple[str, str]:
        """The files with the old and the new root that a consistency proof leads to (RFC 9162 2.1.4.2)."""
        hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
        place, last = old - 1, new - 1
        while place & 1:
            place, last = place >> 1, last >> 1
        first = second = hashes[0]
        for sibling in hashes[1:]:
            if place & 1 or place == last:
                first, second = self.node(algorithm, sibling, first), self.node(algorithm, sibling, second)
                while place and not place & 1:
                    place, last = place >> 1, last >> 1
            else:
                second = self.node(algorithm, second, sibling)
            place, last = place >> 1, last >> 1
        return first, second

    def subset(self, algorithm: Algorithm, leaves: dict[int, str], size: int, path: Sequence[str]) -> str:
        """The file with the root of a tree of `size` of which `leaves` are known and `path` fills the rest (formats §1)."""
        rest = iter(path)

        def walk(start: int, end: int) -> str:
            if not any(start <= index < end for index in leaves):
                return next(rest)
            if end - start == 1:
                return leaves[start]
            middle = start + (1 << ((end - start - 1).bit_length() - 1))
            return self.node(algorithm, walk(start, middle), walk(middle, end))

        return walk(0, size)
