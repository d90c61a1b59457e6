"""Builds the image of docker/Dockerfile where there is no container daemon and no image registry, and runs it.

buildah needs neither. The base image is made from the distribution's own packages once, and is kept with the layers in a
store of its own outside the checkout.
"""

import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from cache import cache_folder, locked
from processes import die_with_parent, is_left_over, own_name

TOP = Path(__file__).parent.parent
_BASE = "localhost/evidence-test-base"
_IMAGE = "localhost/evidence-test"
_TOOLS = ("buildah", "debootstrap")
_CONTAINER = "evidence-test-"
_SERVICE_USER = 10001


class Unavailable(Exception):
    """No image can be built on this machine; the message says why."""


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=TOP)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout.strip()


def _buildah(*arguments: str | Path) -> str:
    return _run(*_buildah_command(), *arguments)


def _buildah_command() -> list[str | Path]:
    store = cache_folder() / "containers"
    return ["buildah", "--root", store / "storage", "--runroot", store / "run"]


def _install_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"the image is built by {' and '.join(missing)}: not installed, and only root with apt-get could")
    _run("apt-get", "update", "-qq")
    _run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise Unavailable("the base image is made from this system's packages, and /etc/os-release names no release")


def _make_base() -> str:
    """The image of a minimal system of this machine's release with its Python, made once."""
    codename = _codename()
    name = f"{_BASE}:{codename}"
    if _has(name):
        return name
    with tempfile.TemporaryDirectory(prefix="evidence-base-", dir="/var/tmp") as folder:
        root, archive = Path(folder) / "root", Path(folder) / "root.tar"
        # Packages come from where this machine gets its own.
        targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {codename}")
        _run(
            "debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv", codename, root,
            *targets.splitlines()[:1],
        )  # fmt: skip
        leave_out = (f"--exclude=./{path}/*" for path in ("dev", "var/cache/apt", "var/lib/apt/lists"))
        _run("tar", "-C", root, *leave_out, "-cf", archive, ".")
        container = _buildah("from", "scratch")
        try:
            _buildah("add", "--quiet", container, archive, "/")
            _buildah("commit", "--quiet", container, name)
        finally:
            _buildah("rm", container)
    return name


def _has(image: str) -> bool:
    command = [*_buildah_command(), "inspect", "--type", "image", image]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def build_image() -> str:
    """The name of the image of this checkout; one that was built from the same bytes is taken as it is.

    Raises: Unavailable where there is no builder.
    """
    with locked("containers"):
        _install_tools()
        if os.geteuid() != 0:
            raise Unavailable("buildah's chroot isolation and debootstrap need root")
        base = _make_base()
        image = f"{_IMAGE}:{_inputs(base)}"
        if not _has(image):
            _build(image, base)
            _clear(image)
    return image


def _inputs(base: str) -> str:
    """A digest of all that the builder is given."""
    given = [line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    files = [path for name in [*given, "docker", ".dockerignore"] for path in [TOP / name, *(TOP / name).rglob("*")]]
    digest = hashlib.sha256(base.encode())
    for path in sorted({path for path in files if path.is_file() and "__pycache__" not in path.parts}):
        digest.update(f"{path.relative_to(TOP)} {path.stat().st_mode} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(image: str, base: str) -> None:
    with tempfile.TemporaryDirectory(prefix="evidence-build-") as folder:
        # The builder reaches the package index the way this machine does: by pip's own settings and the machine's certificates.
        settings = Path(folder) / "pip.conf"
        settings.write_text(_pip_settings())
        common: list[str | Path] = [
            "bud", "--quiet", "--layers", "--isolation", "chroot", "--network", "host", "--format", "docker",
            "--build-arg", f"BASE={base}", "--secret", f"id=pip,src={settings}", "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro",
            "-f", "docker/Dockerfile",
        ]  # fmt: skip
        # The packages have a name of their own, so that clearing away what no name holds leaves what the next build starts from.
        _buildah(*common, "--target", "packages", "-t", f"{_IMAGE}-packages", ".")
        _buildah(*common, "-t", image, ".")


def _clear(image: str) -> None:
    """Containers of dead test processes and images of other checkouts are gone; what a running test uses stays."""
    for name in _buildah("containers", "--format", "{{.ContainerName}}", "--noheading").split():
        if is_left_over(name, _CONTAINER):
            _buildah("rm", name)
    others = set(_buildah("images", "--format", "{{.Name}}:{{.Tag}}", "--noheading").split()) - {image}
    for other in others:
        if other.startswith(f"{_IMAGE}:"):
            subprocess.run([*_buildah_command(), "rmi", other], check=False, capture_output=True)
    subprocess.run([*_buildah_command(), "rmi", "--prune"], check=False, capture_output=True)


def _pip_settings() -> str:
    """pip's settings for the package index on this machine, from its files and its environment, as a file."""
    wanted = ("index-url", "extra-index-url", "cert", "trusted-host", "proxy", "timeout")
    found: dict[str, str] = {}
    for line in _run(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in wanted:
            found[name] = value.strip("'")
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())


class Container:
    """The service as the image starts it, with its volume and the secrets it is given, on this machine's network."""

    def __init__(self, image: str, *, log: Path, secrets_folder: Path, **environment: str) -> None:
        self._options: list[str | Path] = ["--isolation", "chroot", "--network", "host"]
        self._options += ["--volume", f"{secrets_folder}:/run/secrets:ro"]
        for name, value in environment.items():
            self._options += ["--env", f"{name}={value}"]
        self._log = log
        self._name = _buildah("from", "--name", f"{own_name(_CONTAINER)}{secrets.token_hex(4)}", image)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_buildah_command(), "run", *self._options, self._name, "--", "/opt/evidence/bin/start"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl between fork and exec takes no lock
            )

    def run(self, *command: str) -> str:
        """What `command` prints, run in the container."""
        return _buildah("run", *self._options, self._name, "--", *command)

    def service(self) -> psutil.Process | None:
        """The running service, found below buildah, which itself passes no signal on."""
        if self._process is None or self._process.poll() is not None:
            return None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            if "serve" in process.cmdline() and process.uids().real == _SERVICE_USER:
                return process
        return None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, *, timeout_s: float = 30) -> int:
        """The exit code of the service after SIGTERM."""
        service = self.service()
        if service is None or self._process is None:
            raise RuntimeError(f"the service does not run: {self.log()}")
        service.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                process.kill()
            self._process.wait()
        _buildah("rm", self._name)
