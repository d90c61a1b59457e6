"""A service in a process that dies by SIGKILL at a given step, and the work it does until then.

Run as a script it is a small server: each line of its input is one plan, each plan is lived by a
fork of its own, and each line of its output says how that fork ended. One import of everything
serves all plans, and no thread runs when it forks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from fault_streams import send
from homes import business, file_submission

from chain_gateway.embedded import chainfile
from chain_gateway.embedded.config import open_key
from chain_gateway.embedded.engine import create, open_gateway
from evidence.bootstrap import Service, initialise, open_service, utc_now
from evidence.settings import AnchorMode, Settings, load_settings
from evidence.steps import Step
from models.digest import Algorithm, Digest, pair
from models.example import example
from models.template import builtin
from processes import die_with_parent

PAPERS = "tsac004.underwriting-papers@1"
ROUNDS = 3
ACKS = "acks.jsonl"
LIVED, DIED_WRONGLY = 0, 9


@dataclass(frozen=True, slots=True)
class Plan:
    """Which home, and at which step of whose enum, for the how-manieth time, the process dies; work is done in rounds."""

    home: str
    database_url: str | None = None
    step: str = ""
    count: int = 1
    of_ledger: bool = False
    first_round: int = 0
    rounds: int = ROUNDS


def fault_settings(home: Path, database_url: str | None = None) -> Settings:
    """Anchors after each commit, and originals in parts, so that every step is come to."""
    given = {"database_url": database_url, "anchor_mode": AnchorMode.ASYNC, "anchor_interval_s": 0.01, "unit_limit_bytes": 1024}
    return load_settings({"EVIDENCE_HOME": str(home)}, **given)


# --- the work -------------------------------------------------------------------------------------------------


def original_of(number: int) -> bytes:
    """The bytes of a file of the round: two parts and a bit."""
    return b"".join(bytes([number, place]) * 8 for place in range(150))


def file_item(key: str, data: bytes, **more: Any) -> dict[str, Any]:
    """A `file@1` submission of these bytes."""
    body = file_submission(key, **more)
    digests = pair(data)
    fields = body["stages"]["文件"]
    fields["file_size"] = len(data)
    fields["object"] = {
        "digest": f"sm3:{digests.sm3.hex()}",
        "twin": f"sha256:{digests.sha256.hex()}",
        "name": "合同.txt",
        "size": len(data),
    }
    return body


def calls_of(number: int) -> list[list[dict[str, Any]]]:
    """The calls of one round: each is sent at once with the others, and is a list of submissions. The same every time."""
    original = original_of(number)
    held = file_item(f"held-{number}", original)
    digest = held["stages"]["文件"]["object"]["digest"]
    held["originals"] = [{"field": "object", "digest": digest, "name": "合同.txt", "media_type": "text/plain"}]
    refused = file_submission(f"refused-{number}")
    del refused["stages"]["文件"]["file_name"]
    hashed = example(builtin(PAPERS), seed=b"round %d" % number, client_key=f"papers-{number}")
    return [
        [held],
        [file_submission(f"single-{number}")],
        [file_submission(f"batch-{number}-{place}") for place in range(3)] + [refused],
        [file_submission(f"link-{number}-a", link={"code": "transaction-1"})],
        [file_submission(f"link-{number}-b", link={"code": "transaction-1"})],
        [hashed],
    ]


def submissions(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Every submission of the first rounds that must be accepted."""
    found = [body for number in range(rounds) for call in calls_of(number) for body in call]
    return [body for body in found if not body["client_key"].startswith("refused")]


async def upload(service: Service, number: int) -> None:
    """The round's original is held."""
    data = original_of(number)

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    await service.originals.put(Digest(Algorithm.SM3, pair(data).sm3), pieces(), account=business(service).account)


async def work(service: Service, plan: Plan, note: Callable[[dict[str, Any]], None]) -> None:
    """The rounds of the plan; `note` is called for every promise the moment it is in hand."""

    async def call(bodies: list[dict[str, Any]]) -> None:
        answers = await service.preservation.preserve(bodies, business(service), request_id="fault")
        for body, answer in zip(bodies, answers, strict=True):
            if not isinstance(answer, Exception):
                note({"client_key": body["client_key"], **answer.to_json()})

    for number in range(plan.first_round, plan.first_round + plan.rounds):
        await upload(service, number)
        await asyncio.gather(*(call(bodies) for bodies in calls_of(number)), send(service, number + 1, note))
        await service.anchoring.wait_final(service.log.state.size - 1, 30)


# --- the process that dies ------------------------------------------------------------------------------------


def _failpoint(plan: Plan) -> Callable[[object], None]:
    seen = 0

    def die(reached: object) -> None:
        nonlocal seen
        seen += str(reached) == plan.step
        if seen >= plan.count:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


async def live(plan: Plan) -> None:
    """Make the home if need be, open it, work, stop; die where the plan says."""
    settings, die = fault_settings(Path(plan.home), plan.database_url), _failpoint(plan)
    ledger_step = die if plan.of_ledger else chainfile.no_step
    chain = settings.home / "chain"
    if plan.of_ledger and not chain.exists():
        settings.home.mkdir(parents=True, exist_ok=True)
        create("embedded:", home=settings.home, chain_id="embedded-killed", clock=utc_now, organisation="local", step=ledger_step)
    initialise(settings, clock=utc_now)
    # The first to open the ledger gives it its failpoint; the service then shares it.
    keeper = await open_gateway(
        "embedded:", node=0, home=settings.home, clock=utc_now, node_signer=open_key(chain, 0), step=ledger_step
    )
    service = await open_service(settings, clock=utc_now, step=(lambda _step: None) if plan.of_ledger else die)
    acks = os.open(settings.home.parent / ACKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(promise: dict[str, Any]) -> None:
        os.write(acks, json.dumps(promise).encode() + b"\n")

    await service.start()
    await work(service, plan, note)
    await service.stop()
    await keeper.aclose()


def _fork(plan: Plan) -> int:
    process = os.fork()
    if process == 0:
        status = LIVED
        try:
            die_with_parent()
            asyncio.run(live(plan))
        except BaseException:  # noqa: BLE001 - the top of a process
            traceback.print_exc()
            status = DIED_WRONGLY
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _main() -> None:
    for line in sys.stdin:
        sys.stdout.write(f"{_fork(Plan(**json.loads(line)))}\n")
        sys.stdout.flush()


# --- the test's side ------------------------------------------------------------------------------------------


class Killer:
    """The server of forks; `run` lives one plan and says how the process ended."""

    def __init__(self, log: Path) -> None:
        self._log = log
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl between fork and exec takes no lock
            )

    def run(self, plan: Plan) -> int:
        """The exit status of the plan's process: -9 if it was killed, 0 if it lived to the end of its work."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        assert status != DIED_WRONGLY, self._log.read_text()[-4000:]
        return status

    def is_killed(self, plan: Plan) -> bool:
        """Whether the plan's process came to its step and died there."""
        return self.run(plan) == -signal.SIGKILL

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@contextlib.contextmanager
def killer(folder: Path) -> Iterator[Killer]:
    with Killer(folder / "killer.log") as found:
        yield found


def service_steps() -> list[str]:
    """Every member of the service's enum."""
    return [step.value for step in Step]


def ledger_steps() -> list[str]:
    """Every member of the ledger's enum."""
    return [step.value for step in chainfile.Step]


if __name__ == "__main__":
    _main()
