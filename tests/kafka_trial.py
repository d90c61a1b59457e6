"""A real Kafka for a person's own trial: `python tests/kafka_trial.py TOPIC` prints the address of its source.

What is typed is sent to the topic, each line a message; the end of the input (Ctrl-D) or Ctrl-C ends the broker and removes it.
"""

import contextlib
import sys
from collections.abc import Sequence

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError

from kafka_broker import Cluster, Distribution, Unavailable


def main(words: Sequence[str]) -> int:
    if len(words) != 1:
        return _say("expected the name of a topic")
    (topic,) = words
    _say("starting Apache Kafka (the first time it is fetched by mvn, which takes minutes)")
    try:
        cluster = Cluster(Distribution())
    except Unavailable as error:
        return _say(str(error))
    try:
        admin = KafkaAdminClient(bootstrap_servers=cluster.servers)
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
        admin.close()
        print(f"kafka://{cluster.servers}/{topic}", flush=True)  # noqa: T201 - the answer of a script
        _say("each line typed here becomes a message; Ctrl-D ends the broker")
        with contextlib.suppress(KeyboardInterrupt):
            _send(cluster, topic)
    except KafkaError as error:
        return _say(f"Kafka refused: {type(error).__name__} ({topic})")
    finally:
        cluster.remove()
    return 0


def _send(cluster: Cluster, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=cluster.servers)
    for count, line in enumerate(sys.stdin.buffer, 1):
        producer.send(topic, line.rstrip(b"\r\n")).get(30)
        _say(f"sent {count}")
    producer.close()


def _say(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
