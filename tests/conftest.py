"""What every test may ask for: a clock, a real PostgreSQL, a real Kafka; and the rule that a required test is not skipped."""

import itertools
import os
from collections.abc import Generator, Iterator

import hypothesis
import pytest

import kafka_broker
from clock import ManualClock
from postgres import Database, Server, Unavailable
from postgres_relay import Relay

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-integration", action="store_true", help="a skipped test is a failure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(collector.config, report)
    return report


def _refuse_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and config.getoption("--require-integration"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"integration is required, and this was not run: {reason.removeprefix('Skipped: ')}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first, spread over the workers, so that no core is idle while one of them ends the run.

    The list is handed out in equal runs of items, one to each worker (xdist, worksteal).
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    longest = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    left = len(items)
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        size = left // (workers - worker)
        first = longest[worker::workers]
        ordered += [*first, *itertools.islice(others, max(0, size - len(first)))]
        left -= size
    items[:] = [*ordered, *others]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One server per test process, started when first asked for."""
    try:
        server = Server()
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres(postgres_server: Server) -> Iterator[Database]:
    """A fresh empty database; the test may kill and start its server."""
    postgres_server.start()
    database = postgres_server.create_database()
    try:
        yield database
    finally:
        postgres_server.start()
        postgres_server.drop_database(database.name)


@pytest.fixture
def postgres_relay(postgres: Database) -> Iterator[Relay]:
    """A relay to the test's server: use `postgres.url_at(postgres_relay.port)`."""
    with Relay(postgres.server.port) as relay:
        yield relay


@pytest.fixture(scope="session")
def kafka_cluster() -> Iterator[kafka_broker.Cluster]:
    """One broker per test process, started when first asked for."""
    try:
        cluster = kafka_broker.Cluster(kafka_broker.Distribution())
    except kafka_broker.Unavailable as error:
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def broker(kafka_cluster: kafka_broker.Cluster) -> kafka_broker.Cluster:
    """A broker that runs; the test may kill it."""
    kafka_cluster.start()
    return kafka_cluster


@pytest.fixture
def three_brokers() -> Iterator[kafka_broker.Cluster]:
    """A cluster that goes on without any one of its nodes."""
    try:
        cluster = kafka_broker.Cluster(kafka_broker.Distribution(), nodes=3)
    except kafka_broker.Unavailable as error:
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        cluster.remove()
