"""The Kafka client that everybody can install: kafka-python, plain Python throughout."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition, errors

from streaming.kafka_client import MAX_FETCH_BYTES, REQUEST_S, Address, Fetched, Message, OutOfRange, UnknownTopic, unreachable
from streaming.port import SourceRefused, SourceUnavailable, StreamError

_MOST_AT_ONCE: Final = 5000
# The position is no longer the partition's: records removed, the topic made anew, or a leader that knows a shorter log.
_BEYOND: Final = (errors.OffsetOutOfRangeError, errors.LogTruncationError)
_REFUSALS: Final = (
    errors.AuthorizationError,
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
)
T = TypeVar("T")


class PythonClient:
    """See `streaming.kafka_client.Client`."""

    def __init__(self, address: Address) -> None:
        self._topic = address.topic
        self._place = TopicPartition(address.topic, address.partition or 0)
        address.check_files()
        settings = _settings(address)
        with _explained(sasl=address.user is not None):
            self._consumer = KafkaConsumer(
                group_id=None, enable_auto_commit=False, auto_offset_reset="none", isolation_level="read_committed",
                max_poll_records=_MOST_AT_ONCE, max_partition_fetch_bytes=MAX_FETCH_BYTES, fetch_max_bytes=2 * MAX_FETCH_BYTES,
                allow_auto_create_topics=False, **settings,
            )  # fmt: skip
            try:
                self._admin = KafkaAdminClient(**settings)
            except BaseException:
                self._consumer.close()
                raise

    def topic_id(self) -> str | None:
        """See `Client`."""
        told = self._described().get("topic_id")
        return None if told is None or not any(character not in "0-" for character in str(told)) else str(told)

    def partitions(self) -> list[int]:
        """See `Client`."""
        return sorted(int(each["partition_index"]) for each in self._described()["partitions"])

    def _described(self) -> dict[str, Any]:
        found: dict[str, Any] = _asked(lambda: self._admin.describe_topics([self._topic])[0])
        code = int(found["error_code"])
        if code:
            raise _meaning(errors.for_code(code)())
        return found

    def offsets(self) -> tuple[int, int]:
        """See `Client`."""
        first = _asked(lambda: self._consumer.beginning_offsets([self._place])[self._place])
        return int(first), int(_asked(lambda: self._consumer.end_offsets([self._place])[self._place]))

    def seek(self, offset: int) -> None:
        """See `Client`."""
        self._consumer.assign([self._place])
        self._consumer.seek(self._place, offset)

    def fetch(self, timeout_s: float) -> Fetched:
        """See `Client`."""
        try:
            found = _asked(lambda: self._consumer.poll(timeout_ms=int(timeout_s * 1000))).get(self._place, [])
        except _BEYOND as error:
            raise OutOfRange from error
        messages = [Message(each.offset, each.timestamp, each.key, each.value) for each in found]
        return Fetched(messages, int(self._consumer.position(self._place)))

    def close(self) -> None:
        """See `Client`."""
        self._consumer.close()
        self._admin.close()


def _settings(address: Address) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bootstrap_servers": address.servers.split(","),
        "client_id": "evidence",
        "security_protocol": str(address.security),
        "request_timeout_ms": int(REQUEST_S * 1000),
        "bootstrap_timeout_ms": int(REQUEST_S * 1000),
        "reconnect_backoff_max_ms": 2000,
    }
    if address.user is not None:
        settings |= {
            "sasl_mechanism": address.mechanism, "sasl_plain_username": address.user, "sasl_plain_password": address.password(),
        }  # fmt: skip
    for name, path in (("ssl_cafile", address.ca), ("ssl_certfile", address.certificate), ("ssl_keyfile", address.key)):
        if path is not None:
            settings[name] = str(path)
    return settings


def _asked(question: Callable[[], T]) -> T:
    """What the cluster answers. Raises: as `Client`; those of `_BEYOND`, which only a fetch meets."""
    try:
        return question()
    except _BEYOND:
        raise
    except errors.KafkaError as error:
        raise _meaning(error) from error


def _meaning(error: Exception) -> StreamError:
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return UnknownTopic("kafka has no such topic or partition", hint="check its name; topics are not made by reading")
    if isinstance(error, errors.SaslAuthenticationFailedError):
        return SourceRefused("kafka refused user or password", hint="check user, password_file and mechanism")
    if isinstance(error, _REFUSALS):
        return SourceRefused("kafka gives no permission to read the topic", hint="the user needs READ on the topic")
    if isinstance(error, ssl.SSLCertVerificationError):
        return SourceRefused("certificate of kafka was refused", hint="name the authority's certificate as ca")
    return unreachable(type(error).__name__)


class _Heard(logging.Handler):
    """Hears why connections failed: the library says it in its log, and after that only that it took too long."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reasons: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.reasons += [argument for argument in record.args if isinstance(argument, BaseException)]


@contextmanager
def _explained(*, sasl: bool) -> Iterator[None]:
    """Errors of the first connection become ours, with the reason that the library had for them."""
    heard = _Heard()
    log = logging.getLogger("kafka")
    log.addHandler(heard)
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise _reason(heard.reasons, error, sasl=sasl) from error
    finally:
        log.removeHandler(heard)


def _reason(reasons: list[BaseException], error: Exception, *, sasl: bool) -> StreamError:
    heard = [each for reason in reasons[::-1] for each in _chain(reason)]
    for each in heard:
        if isinstance(each, errors.SaslAuthenticationFailedError):
            return _meaning(each)
        if "CERTIFICATE_VERIFY_FAILED" in str(each):
            return _meaning(ssl.SSLCertVerificationError())
    told = unreachable(type(error).__name__, map(str, heard))
    if sasl and isinstance(told, SourceUnavailable) and any("disconnected" in str(reason) for reason in reasons):
        # The broker's answer to a wrong password can be overtaken by the end of its connection.
        return SourceUnavailable("kafka closed the connection while logging in", hint="check user, password_file and mechanism")
    return told


def _chain(reason: BaseException) -> Iterator[BaseException]:
    """The reason and what it came from."""
    following: BaseException | None = reason
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__
