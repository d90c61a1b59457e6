"""What the Kafka source needs of a client library, and how an address says where and as whom to read."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl, quote

from models.errors import Malformed
from streaming.port import SourceRefused, SourceUnavailable, StreamError

REQUEST_S: Final = 10.0
"""How long one question to a broker may take before it counts as unreachable."""
MAX_FETCH_BYTES: Final = 1 << 20

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", re.ASCII)
_OUR_CERTIFICATE = re.compile(r"alert[ _].*(certificate|unknown[ _]ca|access[ _]denied)", re.IGNORECASE)
_OPTIONS = frozenset(["partition", "client", "security", "mechanism", "user", "password_file", "ca", "certificate", "key"])


class Security(StrEnum):
    """How a connection is protected, in Kafka's words."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class Address:
    """`kafka://HOST:PORT[,HOST:PORT…]/TOPIC?partition=N&…`. Secrets are paths, never part of it."""

    servers: str
    topic: str
    partition: int | None = None
    client: str | None = None
    security: Security = Security.PLAINTEXT
    mechanism: str = "PLAIN"
    user: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address that `url` states.

        Raises: Malformed if it has another form, an option that is unknown or twice there, or options that do not go together.
        """
        rest = url.removeprefix("kafka://")
        place, _, query = rest.partition("?")
        servers, _, topic = place.partition("/")
        if rest == url or not all(_SERVER.fullmatch(server) for server in servers.split(",")) or not _TOPIC.fullmatch(topic):
            raise Malformed("source has wrong form: expected kafka://HOST:PORT/TOPIC")
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=16)
        options = dict(pairs)
        if len(options) != len(pairs) or not options.keys() <= _OPTIONS:
            raise Malformed(f"source has an unknown option or one twice: expected of {', '.join(sorted(_OPTIONS))}")
        return _with_options(cls(servers, topic), options)

    def at(self, partition: int) -> str:
        """The address of one partition, as text."""
        options = {
            "partition": partition,
            "client": self.client,
            "security": None if self.security == Security.PLAINTEXT else self.security,
            "mechanism": self.mechanism if self.user else None,
            "user": self.user,
            "password_file": self.password_file,
            "ca": self.ca,
            "certificate": self.certificate,
            "key": self.key,
        }
        text = "&".join(f"{name}={quote(str(value), safe='/')}" for name, value in options.items() if value is not None)
        return f"kafka://{self.servers}/{self.topic}?{text}"

    def password(self) -> str | None:
        """The password, read from its file. Raises: SourceRefused if it cannot be read."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceRefused("password file of the source cannot be read", hint="name a file with one line of text") from error

    def check_files(self) -> None:
        """Certificates and key are there and can be used, whatever a client would make of them.

        Raises: SourceRefused naming the option. A key under a password is refused: nobody is there to be asked for it.
        """
        for name in ("ca", "certificate", "key"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise SourceRefused(f"file of the source's {name} cannot be read", hint=f"check the path given as {name}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:
            raise SourceRefused("file of the source's ca holds no certificate", hint="expected PEM") from error
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            hint = "expected PEM, the key without a password and that of the certificate"
            raise SourceRefused("certificate and key of the source cannot be used", hint=hint) from error


def _with_options(address: Address, options: Mapping[str, str]) -> Address:
    number = options.get("partition")
    if number is not None and (not number.isascii() or not number.isdigit() or len(number) > 6):
        raise Malformed("partition of the source is no number")
    client = options.get("client")
    if client not in (None, "python", "fast"):
        raise Malformed("client of the source is unknown: expected python or fast")
    security = options.get("security", Security.SASL_PLAINTEXT if "user" in options else Security.PLAINTEXT)
    if security not in list(Security):
        raise Malformed(f"security of the source is unknown: expected {', '.join(Security)}")
    mechanism = options.get("mechanism", "PLAIN")
    if mechanism not in MECHANISMS:
        raise Malformed(f"mechanism of the source is unknown: expected {', '.join(MECHANISMS)}")
    if security.startswith("SASL") != ("user" in options) or ("user" in options) != ("password_file" in options):
        raise Malformed("user, password_file and a SASL security of the source go together")
    named = ("password_file", "ca", "certificate", "key")
    paths: dict[str, Any] = {name: Path(options[name]) for name in named if options.get(name)}
    if not security.endswith("SSL") and paths.keys() & {"ca", "certificate", "key"}:
        raise Malformed("ca, certificate and key of the source need security SSL or SASL_SSL")
    if ("certificate" in paths) != ("key" in paths):
        raise Malformed("certificate and key of the source go together: expected both, which may be one file")
    return replace(
        address, partition=None if number is None else int(number), client=client, security=Security(security),
        mechanism=mechanism, user=options.get("user"), **paths,
    )  # fmt: skip


class Message(NamedTuple):
    """One record of a partition."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Fetched(NamedTuple):
    """Records in order, and where to read on: behind them, and behind what holds no record for us."""

    messages: Sequence[Message]
    position: int


class OutOfRange(Exception):
    """The offset asked for is not, or no longer, in the partition."""


def unreachable(reason: str, heard: Iterable[str] = ()) -> StreamError:
    """The error where no connection came about, from what the libraries below said while they tried.

    A broker that does not accept our certificate says so by a TLS alert after the handshake (RFC 8446, 6.2), and to the
    client's caller that is one more connection that was closed.
    """
    if any(_OUR_CERTIFICATE.search(text) for text in heard):
        hint = "name a certificate and key of an authority that kafka knows; check that it has not expired"
        return SourceRefused("kafka does not accept our certificate, or wants one", hint=hint)
    return SourceUnavailable(f"kafka cannot be reached: {reason}", hint="check host, port and security")


class UnknownTopic(SourceRefused):
    """The cluster has no such topic or partition."""


class Client(Protocol):
    """A client of one partition. Blocking; used from one thread at a time.

    Nothing is ever committed to a group, and no group assigns anything: the partition is read by assignment, from an offset.
    Of transactions only what was committed is seen.

    Raises (all): SourceUnavailable; SourceRefused; UnknownTopic.
    """

    def topic_id(self) -> str | None:
        """The topic's id as text, asked anew; None if the cluster has none (before 2.8)."""

    def partitions(self) -> list[int]:
        """The numbers of the topic's partitions, ascending."""

    def offsets(self) -> tuple[int, int]:
        """The first offset that is there, and the end as readers of committed records see it."""

    def seek(self, offset: int) -> None:
        """The next fetch reads from `offset` on."""

    def fetch(self, timeout_s: float) -> Fetched:
        """What there is, after at most `timeout_s`. Raises: OutOfRange."""

    def close(self) -> None:
        """All connections are closed."""
