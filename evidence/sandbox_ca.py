"""A certification authority of the home itself, for trials: it certifies node keys and submitters.

Its certificate and everything it issued lie in `certs`, for anyone to read; its key lies in `keys`.
In production certificates come from a licensed authority, and this one is trusted by nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from evidence.content import Randomness
from evidence.errors import HomeRefused, StorageFull
from evidence.keys import HomeKeys, TimedSigner, make_folder, sync_folder, write_once
from models.certificate import CA_USAGE, Certificate, RevocationList, issue, make_crl, parse_csr
from models.errors import EvidenceError, Malformed
from models.names import check_name

CA_NAME = "ca"
CA_SUBJECT = "CN=sandbox certification authority,O=not for production"
_CA_LIFE = timedelta(days=3650)
_LIST_LIFE = timedelta(days=366)
_LIST_AGE = timedelta(days=30)
_PUBLIC = 0o644


class SandboxAuthority:
    """The authority `keys/ca.pem` of a home; made by `create`, once."""

    def __init__(self, home: Path, *, clock: Callable[[], datetime], randomness: Randomness = os.urandom) -> None:
        self.folder = home / "certs"
        self._keys = HomeKeys(home, clock=clock, randomness=randomness)
        self._clock = clock
        self._randomness = randomness

    def create(self) -> bool:
        """Key, certificate and a present revocation list exist; True if they were made now. Idempotent.

        Raises: SigningUnavailable, StorageFull, HomeRefused.
        """
        made = self._keys.create_signer(CA_NAME)
        if not self._path(CA_NAME).exists():
            begin = self._clock().replace(microsecond=0)
            end = begin + _CA_LIFE
            signer = self._keys.signer(CA_NAME, not_before=begin, not_after=end)
            der = issue(
                CA_SUBJECT,
                signer.public_key,
                signer=signer,
                issuer=None,
                serial=self._serial(),
                not_before=begin,
                not_after=end,
                key_usage=CA_USAGE,
            )
            write_once(self._path(CA_NAME), der, randomness=self._randomness, mode=_PUBLIC)
        self.refresh_list()
        return made

    @property
    def certificate(self) -> Certificate:
        """The authority's own certificate. Raises: HomeRefused if it is absent or damaged."""
        return self._read(CA_NAME)

    def certify(self, name: str, subject: str, public_key: bytes, *, not_before: datetime, not_after: datetime) -> Certificate:
        """The certificate `certs/<name>.cer` of this key exists; made once, then given back.

        Shapes: public key 65 bytes, subject RFC 4514.
        Raises: HomeRefused if the certificate there is of another key; Malformed; SigningUnavailable
            if the authority's own time is over.
        Source: T/SAC 004—2024 6.4.3-a, 6.4.3-b.
        """
        path = self._path(name)
        if not path.exists():
            authority = self.certificate
            der = issue(
                subject,
                public_key,
                signer=self._signer(authority),
                issuer=authority,
                serial=self._serial(),
                not_before=not_before,
                not_after=min(not_after, authority.not_after),
            )
            write_once(path, der, randomness=self._randomness, mode=_PUBLIC)
        found = self._read(name)
        if found.public_key != public_key:
            raise HomeRefused(f"certificate {name}.cer is of another key than the home's: expected that of {name}")
        return found

    def sign_request(self, csr: bytes, *, not_after: datetime) -> Certificate:
        """A certificate for whoever made this request, from now until `not_after`; its key never came here.

        Raises: Malformed, Unknown, VerificationError if the request is none or not signed by its key; SigningUnavailable.
        """
        request = parse_csr(csr)
        authority = self.certificate
        der = issue(
            request,
            request.public_key,
            signer=self._signer(authority),
            issuer=authority,
            serial=self._serial(),
            not_before=self._clock(),
            not_after=min(not_after, authority.not_after),
        )
        return Certificate.parse(der)

    def revoke(self, serial: int) -> RevocationList:
        """The certificate of this serial number is revoked from now on; the list that says so. Idempotent."""
        entries = dict(self._list().entries)
        entries.setdefault(serial, self._clock())
        return self._write_list(entries)

    def refresh_list(self) -> RevocationList:
        """The present revocation list; made anew if it is a month old, so that it never runs out while anyone looks."""
        if not self._list_path.exists():
            return self._write_list({})
        known = self._list()
        if self._clock() - known.this_update >= _LIST_AGE:
            return self._write_list(dict(known.entries))
        return known

    @property
    def _list_path(self) -> Path:
        return self.folder / f"{CA_NAME}.crl"

    def _list(self) -> RevocationList:
        try:
            return RevocationList.parse(self._list_path.read_bytes())
        except (OSError, EvidenceError) as error:
            raise HomeRefused(f"revocation list {CA_NAME}.crl cannot be read") from error

    def _write_list(self, entries: dict[int, datetime]) -> RevocationList:
        authority, now = self.certificate, self._clock()
        der = make_crl(
            authority,
            entries,
            signer=self._signer(authority),
            number=int(now.timestamp()),
            this_update=now,
            next_update=now + _LIST_LIFE,
        )
        spare = self.folder / f".{CA_NAME}.{self._randomness(8).hex()}"
        try:
            make_folder(self.folder)
            with spare.open("xb") as file:
                file.write(der)
                file.flush()
                os.fsync(file.fileno())
            spare.replace(self._list_path)
            sync_folder(self.folder)
        except OSError as error:
            raise StorageFull(f"revocation list cannot be written: {error.strerror}", retry_after_s=30) from error
        finally:
            spare.unlink(missing_ok=True)
        return RevocationList.parse(der)

    def _signer(self, authority: Certificate) -> TimedSigner:
        return self._keys.signer(CA_NAME, not_before=authority.not_before, not_after=authority.not_after)

    def _serial(self) -> int:
        return int.from_bytes(self._randomness(16)) >> 1 | 1

    def _path(self, name: str) -> Path:
        check_name(name, "certificate name")
        if "/" in name or name.startswith("."):
            raise Malformed("certificate name has wrong form: expected a file name")
        return self.folder / f"{name}.cer"

    def _read(self, name: str) -> Certificate:
        try:
            return Certificate.parse(self._path(name).read_bytes())
        except (OSError, EvidenceError) as error:
            raise HomeRefused(f"certificate {name}.cer cannot be read", hint="run evidence init") from error
