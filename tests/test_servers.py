"""The servers and faults the other tests stand on do what they say."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from postgres import Database
from postgres_relay import Loss, Relay

pytest_plugins = ["pytester"]


def _through(postgres: Database, relay: Relay) -> psycopg.Connection:
    return psycopg.connect(host="127.0.0.1", port=relay.port, user="app", dbname=postgres.name)


def _rows(postgres: Database) -> int:
    with postgres.connect() as connection:
        row = connection.execute("SELECT count(*) FROM t").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def table(postgres: Database) -> Database:
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE t (i int)")
    return postgres


def test_every_test_has_an_empty_database(postgres: Database) -> None:
    with postgres.connect() as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)
        connection.execute("CREATE TABLE t (i int)")


def test_nothing_of_the_test_before_is_left(postgres: Database) -> None:
    with postgres.connect() as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_killed_server_keeps_what_was_committed(table: Database) -> None:
    with table.connect() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    table.kill()
    with pytest.raises(psycopg.OperationalError):
        table.connect()
    table.start()
    assert _rows(table) == 1


def test_relay_passes_commits_when_not_told_to_lose_them(table: Database, postgres_relay: Relay) -> None:
    with _through(table, postgres_relay) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    assert _rows(table) == 1
    assert postgres_relay.lost == 0


@pytest.mark.parametrize(("loss", "rows"), [(Loss.RESPONSE, 1), (Loss.REQUEST, 0)])
def test_lost_commit_breaks_the_connection_and_only_the_server_knows(
    table: Database, postgres_relay: Relay, loss: Loss, rows: int
) -> None:
    connection = _through(table, postgres_relay)
    connection.execute("INSERT INTO t VALUES (1)")
    postgres_relay.lose(loss)
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    assert postgres_relay.lost == 1
    assert _rows(table) == rows


def test_loss_can_wait_for_a_later_commit(table: Database, postgres_relay: Relay) -> None:
    postgres_relay.lose(Loss.REQUEST, after_commits=1)
    connection = _through(table, postgres_relay)
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    connection.execute("INSERT INTO t VALUES (2)")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    assert _rows(table) == 1


def test_cut_breaks_open_connections_and_takes_new_ones(table: Database, postgres_relay: Relay) -> None:
    connection = _through(table, postgres_relay)
    postgres_relay.cut()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with _through(table, postgres_relay) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_server_does_not_outlive_a_killed_test_process() -> None:
    script = "import postgres, os, signal; s = postgres.Server(); print(s._process.pid, flush=True); signal.pause()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.kill()
    give_up = time.monotonic() + 10
    while Path(f"/proc/{server}/stat").exists() and " Z " not in Path(f"/proc/{server}/stat").read_text():
        assert time.monotonic() < give_up, "the server is still there"


_SKIPPING = """
import pytest
def test_runs(): pass
@pytest.mark.skip(reason="no engine here")
def test_skipped(): pass
@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


def _inner(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(_SKIPPING)
    conftest = Path(__file__).parent
    pytester.makeconftest(f"import sys; sys.path.insert(0, {str(conftest)!r})\nfrom conftest_of_the_project import *")
    (pytester.path / "conftest_of_the_project.py").write_text((conftest / "conftest.py").read_text())
    return pytester.runpytest_subprocess(*arguments)


def test_skip_is_allowed_when_integration_is_not_required(pytester: pytest.Pytester) -> None:
    _inner(pytester).assert_outcomes(passed=1, skipped=1, xfailed=1)


def test_skip_is_a_failure_with_its_reason_when_integration_is_required(pytester: pytest.Pytester) -> None:
    result = _inner(pytester, "--require-integration")
    result.assert_outcomes(passed=1, errors=1, xfailed=1)
    result.stdout.fnmatch_lines(["*integration is required, and this was not run: no engine here*"])
