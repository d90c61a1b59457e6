"""The certification authorities that the settings accept: a folder of certificates and revocation lists.

The folder is looked at again whenever a file in it changes, so that a new revocation list works
without a restart.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from evidence.errors import SettingWrong
from models.certificate import Certificate, RevocationList
from models.errors import EvidenceError

_CERTIFICATES = (".pem", ".cer", ".crt", ".der")
_LISTS = (".crl",)
_MAX_FILE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the folder holds: anchors are trusted by lying there, intermediates only below an anchor."""

    anchors: tuple[Certificate, ...] = ()
    intermediates: tuple[Certificate, ...] = ()
    lists: tuple[RevocationList, ...] = ()


_State = tuple[tuple[str, int, int], ...]


class AuthorityFolder:
    """The folder of the setting EVIDENCE_CA_FOLDER; without one no certificate is accepted. Threads may share it.

    A CA certificate whose issuer lies in the folder too is an intermediate, any other an anchor;
    certificates that are no CA's are left alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._state: _State | None = None
        self._accepted = Accepted()

    def read(self) -> tuple[Accepted, object]:
        """What the folder holds now, and a mark that changes whenever a file does.

        Raises: SettingWrong if the folder or a file in it cannot be read; nothing is passed over in silence.
        """
        if self._folder is None:
            return self._accepted, None
        with self._lock:
            try:
                state = self._look(self._folder)
                if state != self._state:
                    self._accepted = self._load(self._folder, [name for name, _, _ in state])
                    self._state = state
            except OSError as error:
                raise SettingWrong(f"EVIDENCE_CA_FOLDER cannot be read: {os.strerror(error.errno or 0).lower()}") from error
            return self._accepted, self._state

    def _look(self, folder: Path) -> _State:
        with os.scandir(folder) as entries:
            names = [entry for entry in entries if entry.name.lower().endswith(_CERTIFICATES + _LISTS) and entry.is_file()]
            return tuple(sorted((entry.name, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in names))

    def _load(self, folder: Path, names: list[str]) -> Accepted:
        certificates: list[Certificate] = []
        lists: list[RevocationList] = []
        for name in names:
            try:
                with (folder / name).open("rb") as file:
                    data = file.read(_MAX_FILE_BYTES)
                if name.lower().endswith(_LISTS):
                    lists.append(RevocationList.parse(data))
                else:
                    certificates.append(Certificate.parse(data))
            except EvidenceError as error:
                raise SettingWrong(f"EVIDENCE_CA_FOLDER holds a file that cannot be used: {error.message} ({name})") from error
        known = {certificate.subject_der for certificate in certificates if certificate.is_ca}
        anchors: list[Certificate] = []
        intermediates: list[Certificate] = []
        for certificate in certificates:
            if certificate.is_ca:
                below = certificate.issuer_der != certificate.subject_der and certificate.issuer_der in known
                (intermediates if below else anchors).append(certificate)
        return Accepted(tuple(anchors), tuple(intermediates), tuple(lists))
