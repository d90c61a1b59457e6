"""The fast Kafka client: confluent-kafka, which is the extra `fast`."""

from __future__ import annotations

import uuid
from typing import Any, Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition, admin
from confluent_kafka.admin import AdminClient

from streaming.kafka_client import MAX_FETCH_BYTES, REQUEST_S, Address, Fetched, Message, OutOfRange, UnknownTopic, unreachable
from streaming.port import SourceRefused, StreamError

_MOST_AT_ONCE: Final = 2000
_QUEUE_KBYTES: Final = 4096
_NO_GROUP: Final = "evidence-uses-no-group"
_UNKNOWN: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the library's own errors have such names
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
)
_NO_PERMISSION: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)
_AUTHENTICATION: Final = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001
_OUT_OF_RANGE: Final = (
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
    KafkaError._LOG_TRUNCATION,  # noqa: SLF001
)


class FastClient:
    """See `streaming.kafka_client.Client`."""

    def __init__(self, address: Address) -> None:
        address.check_files()
        self._topic = address.topic
        self._place = TopicPartition(address.topic, address.partition or 0)
        self._position = 0
        self._heard: list[KafkaError] = []
        settings = _settings(address)
        self._consumer = _consumer({
            **settings, "group.id": _NO_GROUP, "enable.auto.commit": False, "enable.auto.offset.store": False,
            "isolation.level": "read_committed", "auto.offset.reset": "error", "enable.partition.eof": True,
            "queued.max.messages.kbytes": _QUEUE_KBYTES, "fetch.message.max.bytes": MAX_FETCH_BYTES,
            "allow.auto.create.topics": False, "error_cb": self._heard.append,
        })  # fmt: skip
        try:
            self._consumer.list_topics(self._topic, timeout=REQUEST_S)
            self._admin = AdminClient(settings)
        except KafkaException as error:
            self._consumer.poll(0)
            self._consumer.close()
            raise self._meaning(error) from error

    # --- questions --------------------------------------------------------------------------------------------------

    def topic_id(self) -> str | None:
        """See `Client`."""
        told = self._described().topic_id
        if told is None:
            return None
        high, low = told.get_most_significant_bits(), told.get_least_significant_bits()
        number = (high & 0xFFFFFFFFFFFFFFFF) << 64 | (low & 0xFFFFFFFFFFFFFFFF)
        return str(uuid.UUID(int=number)) if number else None

    def partitions(self) -> list[int]:
        """See `Client`."""
        return sorted(int(each.id) for each in self._described().partitions)

    def _described(self) -> Any:
        try:
            asked = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=REQUEST_S)
            return asked[self._topic].result(REQUEST_S + 1)
        except (KafkaException, TimeoutError) as error:
            raise self._meaning(error) from error

    def offsets(self) -> tuple[int, int]:
        """See `Client`."""
        spec: Any = admin.OffsetSpec  # type: ignore[attr-defined]  # its stubs leave it out
        return self._offset(spec.earliest()), self._offset(spec.latest())

    def _offset(self, which: Any) -> int:
        try:
            asked = self._admin.list_offsets(
                {self._place: which}, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_S
            )
            return int(asked[self._place].result(REQUEST_S + 1).offset)
        except (KafkaException, TimeoutError) as error:
            raise self._meaning(error) from error

    # --- reading ----------------------------------------------------------------------------------------------------

    def seek(self, offset: int) -> None:
        """See `Client`."""
        self._position = offset
        self._consumer.assign([TopicPartition(self._place.topic, self._place.partition, offset)])

    def fetch(self, timeout_s: float) -> Fetched:
        """See `Client`."""
        first = self._consumer.poll(timeout_s)
        found = [] if first is None else [first, *self._consumer.consume(_MOST_AT_ONCE, 0)]
        messages: list[Message] = []
        for each in found:
            error, offset = each.error(), each.offset()
            if error is None and offset is not None:
                messages.append(Message(offset, each.timestamp()[1], each.key(), each.value()))
                self._position = offset + 1
            elif error is None or error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._position = max(self._position, offset or 0)
            elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                # The library asks after its group though none is used: what a reader may do of groups is of no account.
                continue
            elif error.code() in _OUT_OF_RANGE:
                raise OutOfRange
            else:
                raise self._meaning(KafkaException(error))
        return Fetched(messages, self._position)

    def close(self) -> None:
        """See `Client`."""
        self._consumer.close()

    # --- errors -----------------------------------------------------------------------------------------------------

    def _meaning(self, error: Exception) -> StreamError:
        reason = error.args[0] if isinstance(error, KafkaException) else None
        told = [each.code() for each in (reason, *self._heard) if each is not None]
        texts = [str(each.str()) for each in self._heard]
        self._heard.clear()
        if any(code in _UNKNOWN for code in told):
            return UnknownTopic("kafka has no such topic or partition", hint="check its name; topics are not made by reading")
        if any(code in _AUTHENTICATION for code in told):
            return SourceRefused("kafka refused user or password", hint="check user, password_file and mechanism")
        if any(code in _NO_PERMISSION for code in told):
            return SourceRefused("kafka gives no permission to read the topic", hint="the user needs READ on the topic")
        if any(code == KafkaError._SSL for code in told):  # noqa: SLF001
            return SourceRefused("certificate of kafka was refused", hint="name the authority's certificate as ca")
        return unreachable(reason.name() if reason is not None else type(error).__name__, texts)


def _consumer(settings: dict[str, Any]) -> Consumer:
    try:
        return Consumer(settings)
    except KafkaException as error:
        # No connection was tried yet: it is a certificate or key that this library, stricter than others, does not take.
        raise SourceRefused("kafka client does not take the source's files", hint="check ca, certificate and key") from error


def _settings(address: Address) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bootstrap.servers": address.servers,
        "client.id": "evidence",
        "security.protocol": str(address.security),
        "socket.timeout.ms": int(REQUEST_S * 1000),
        "reconnect.backoff.max.ms": 2000,
        "log_level": 0,
    }
    if address.user is not None:
        settings |= {
            "sasl.mechanism": address.mechanism, "sasl.username": address.user, "sasl.password": address.password(),
        }  # fmt: skip
    for name, path in (
        ("ssl.ca.location", address.ca), ("ssl.certificate.location", address.certificate), ("ssl.key.location", address.key),
    ):  # fmt: skip
        if path is not None:
            settings[name] = str(path)
    return settings
