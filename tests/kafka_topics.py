"""Topics for tests: made, filled, emptied and made anew, with the client that makes no difference to who reads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from kafka_broker import Cluster

_names = itertools.count(1)


class Topic:
    """A topic of its own on a cluster."""

    def __init__(self, cluster: Cluster, *, partitions: int = 1, copies: int = 1, settings: dict[str, str] | None = None) -> None:
        self.name = f"topic-{next(_names)}"
        self.partitions = partitions
        self._copies = copies
        self._settings = settings or {}
        self._cluster = cluster
        self._admin = AdminClient({"bootstrap.servers": cluster.servers, "log_level": 0})
        self._make()

    def _make(self) -> None:
        """The topic is there and every partition has a leader."""
        new = NewTopic(self.name, self.partitions, self._copies, config=self._settings)
        self._until_done(lambda: self._admin.create_topics([new])[self.name].result(20))
        self._until_led()

    def _until_led(self) -> None:
        for _ in range(400):
            known = self._admin.list_topics(self.name, timeout=10).topics[self.name].partitions
            if len(known) == self.partitions and all(each.leader >= 0 for each in known.values()):
                return
            time.sleep(0.02)
        raise AssertionError("topic has no leader")

    def leader(self) -> int:
        """The node that leads partition 0."""
        return int(self._admin.list_topics(self.name, timeout=10).topics[self.name].partitions[0].leader)

    @staticmethod
    def _until_done(ask: Callable[[], object]) -> None:
        """A name that was just given back may be refused for a moment."""
        for attempt in range(100):
            try:
                ask()
            except KafkaException:
                if attempt == 99:
                    raise
                time.sleep(0.05)
            else:
                return

    def grow(self, partitions: int) -> None:
        """There are so many partitions, and every one has a leader."""
        self._admin.create_partitions([NewPartitions(self.name, partitions)])[self.name].result(20)
        self.partitions = partitions
        self._until_led()

    def allow(self, user: str) -> None:
        """The user may read the topic, until `disallow`."""
        (made,) = self._admin.create_acls([AclBinding(*self._permission(user))]).values()
        made.result(20)

    def disallow(self, user: str) -> None:
        (gone,) = self._admin.delete_acls([AclBindingFilter(*self._permission(user))]).values()
        gone.result(20)

    def _permission(self, user: str) -> tuple[Any, ...]:
        kind, read, allow = ResourceType.TOPIC, AclOperation.READ, AclPermissionType.ALLOW
        return kind, self.name, ResourcePatternType.LITERAL, f"User:{user}", "*", read, allow

    def whole(self, *, client: str) -> str:
        """The address of all its partitions."""
        return f"kafka://{self._cluster.servers}/{self.name}?client={client}"

    def url(self, partition: int = 0, *, client: str) -> str:
        return f"kafka://{self._cluster.servers}/{self.name}?partition={partition}&client={client}"

    def producer(self, **settings: str | int | bool) -> Producer:
        given = {"bootstrap.servers": self._cluster.servers, "log_level": 0, "message.max.bytes": 5_000_000}
        return Producer({**given, "enable.idempotence": True, **settings})

    def fill(
        self, values: Iterable[bytes], *, partition: int = 0, key: bytes | None = None, timestamp: int = 1_700_000_000_000
    ) -> None:
        producer = self.producer()
        for value in values:
            producer.produce(self.name, value, key=key, partition=partition, timestamp=timestamp)
            producer.poll(0)
        assert producer.flush(30) == 0

    def in_transactions(self, groups: Sequence[tuple[Sequence[bytes], bool]]) -> None:
        """Each group in a transaction, committed or aborted."""
        producer = self.producer(**{"transactional.id": f"{self.name}-writer"})
        producer.init_transactions(30)
        for values, committed in groups:
            producer.begin_transaction()
            for value in values:
                producer.produce(self.name, value, partition=0)
            producer.flush(20)
            (producer.commit_transaction if committed else producer.abort_transaction)(30)

    def forget_by_retention(self) -> int:
        """Retention removes all there is, as it is older than the topic keeps it; the offset of the next record."""
        self._configure("retention.ms", "1000")
        for _ in range(1000):
            low, high = self._consumer().get_watermark_offsets(TopicPartition(self.name, 0), timeout=10)
            if low == high:
                self._configure("retention.ms", "-1")
                return int(high)
            time.sleep(0.05)
        raise AssertionError("retention removed nothing")

    def _configure(self, name: str, value: str) -> None:
        change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.name, incremental_configs=[change])
        self._admin.incremental_alter_configs([resource])[resource].result(20)

    def _consumer(self) -> Consumer:
        return Consumer({"bootstrap.servers": self._cluster.servers, "group.id": "test", "log_level": 0})

    def forget_before(self, offset: int, *, partition: int = 0) -> None:
        """All before `offset` is removed at once, which to a reader is the same as retention."""
        place = TopicPartition(self.name, partition, offset)
        self._admin.delete_records([place])[place].result(20)

    def make_anew(self) -> None:
        """Deleted and made again under the same name."""
        self._admin.delete_topics([self.name])[self.name].result(20)
        self._make()
