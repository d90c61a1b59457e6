"""A real Kafka for the tests of this folder: started when first asked for, killed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kafka_broker import Cluster, Distribution, Unavailable


@pytest.fixture(scope="session")
def kafka_cluster() -> Iterator[Cluster]:
    """One broker per test process."""
    try:
        cluster = Cluster(Distribution())
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def broker(kafka_cluster: Cluster) -> Cluster:
    """A broker that runs; the test may kill it."""
    kafka_cluster.start()
    return kafka_cluster


@pytest.fixture
def three_brokers() -> Iterator[Cluster]:
    """A cluster that goes on without any one of its nodes."""
    try:
        cluster = Cluster(Distribution(), nodes=3)
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        cluster.remove()
