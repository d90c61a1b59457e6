"""How the conformance suite opens a real embedded ledger, kills its nodes, and kills all of it.

Also for fault tests elsewhere: a clock that ticks by itself and a disk that can be told to fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chain_gateway.embedded.chainfile import Disk, Failpoint, Step, no_step
from chain_gateway.embedded.config import open_key
from chain_gateway.embedded.engine import EmbeddedGateway, create, open_gateway
from chain_gateway.port import ChainUnavailable
from chain_gateway.relay import GatewayRelay
from models.anchor import Anchor, ChainReceipt
from models.digest import Algorithm, Digest

URL = "embedded:"
CHAIN_ID = "embedded-conformance"
ROOT = Path(__file__).parents[2]
START = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)


class TickingClock:
    """A clock that goes on by one millisecond each time it is asked, and can be set."""

    def __init__(self, start: datetime = START) -> None:
        self.now = start

    def __call__(self) -> datetime:
        """The next millisecond."""
        self.now += timedelta(milliseconds=1)
        return self.now


class FailingDisk(Disk):
    """A real disk that fails when told to: the next writes after some bytes, or the next flushes."""

    def __init__(self) -> None:
        self.write_error: int | None = None
        self.bytes_left = 0
        self.flush_errors: list[int] = []

    def heal(self) -> None:
        """Nothing fails any more."""
        self.write_error, self.flush_errors = None, []

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """As a disk does; with `write_error` set, only the first `bytes_left` bytes arrive."""
        if self.write_error is None:
            super().write(descriptor, data, offset)
            return
        arrived = data[: self.bytes_left]
        self.bytes_left -= len(arrived)
        super().write(descriptor, arrived, offset)
        if len(arrived) < len(data):
            raise OSError(self.write_error, os.strerror(self.write_error))

    def flush(self, descriptor: int) -> None:
        """As a disk does; with `flush_errors` given, the next ones fail in turn."""
        if self.flush_errors:
            error = self.flush_errors.pop()
            raise OSError(error, os.strerror(error))
        super().flush(descriptor)


class EmbeddedNetwork:
    """A ledger in `home`, as `chain_gateway.conformance.Network`."""

    chain_id = CHAIN_ID
    node_count = 4
    faults = 1
    patience_s = 2.0

    def __init__(self, home: Path, *, disk: Disk | None = None, step: Failpoint = no_step) -> None:
        self.home = home
        self.folder = home / "chain"
        self.clock = TickingClock()
        self._disk = disk
        self._step = step
        self._keeper: EmbeddedGateway | None = None

    async def up(self) -> None:
        """The ledger exists, is open for writing, and stays so until `down`."""
        create(URL, home=self.home, chain_id=CHAIN_ID, clock=self.clock, organisation="示例机构")
        self._keeper = await self.open()

    async def down(self) -> None:
        """Nothing of this harness holds the ledger open."""
        if self._keeper is not None:
            await self._keeper.aclose()
            self._keeper = None

    @property
    def keeper(self) -> EmbeddedGateway:
        """The gateway that keeps the ledger open.

        Raises: ChainUnavailable if the harness is down.
        """
        if self._keeper is None:
            raise ChainUnavailable("harness is down")
        return self._keeper

    async def open(self, node: int = 0) -> EmbeddedGateway:
        """A gateway to the node, with that node's signer."""
        signer = open_key(self.folder, node)
        return await open_gateway(
            URL, node=node, home=self.home, clock=self.clock, node_signer=signer, disk=self._disk, step=self._step
        )

    async def open_to_read(self, node: int = 0) -> EmbeddedGateway:
        """A gateway to the node without a signer."""
        return await open_gateway(URL, node=node, home=self.home, clock=self.clock, node_signer=None)

    async def open_through_relay(self) -> tuple[GatewayRelay, GatewayRelay]:
        """A gateway to node 0 that can lose what the node answers."""
        relay = GatewayRelay(await self.open())
        return relay, relay

    async def kill(self, node: int) -> None:
        """The node forgets everything but its file."""
        await asyncio.to_thread(self.keeper.ledger.kill, node)

    async def start(self, node: int) -> None:
        """The node reads its file and levels with its peers."""
        await asyncio.to_thread(self.keeper.ledger.start, node)

    async def survive(self, anchors: Sequence[Anchor]) -> list[ChainReceipt]:
        """Another process anchored these, handed out the receipts and was killed with -9; the ledger is open again."""
        await self.down()
        receipts, _ = await asyncio.to_thread(run_and_die, self.home, anchors, Step.BEFORE_ANSWER, len(anchors) + 1)
        await self.up()
        return receipts


def run_and_die(home: Path, anchors: Sequence[Anchor], step: Step, count: int) -> tuple[list[ChainReceipt], int]:
    """A process that anchors one after the other dies with SIGKILL the `count`-th time it comes to `step`, or at the end.

    Gives the receipts that it had handed out, and its exit status.
    """
    lines = [json.dumps([anchor.chain, anchor.key.value.hex(), anchor.payload.decode()]) for anchor in anchors]
    command = [sys.executable, "-m", "chain_gateway.embedded.testing", str(home), step.value, str(count)]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603
    if done.returncode != -signal.SIGKILL:
        raise ChainUnavailable(f"process did not die as it should: {done.stderr[-500:]}")
    return [ChainReceipt.parse(line.encode()) for line in done.stdout.splitlines()], done.returncode


@asynccontextmanager
async def open_network(folder: Path) -> AsyncIterator[EmbeddedNetwork]:
    """A ledger of four nodes in `folder`, open until the end of the block."""
    network = EmbeddedNetwork(folder)
    await network.up()
    try:
        yield network
    finally:
        await network.down()


async def _anchor_until_killed(home: Path, step: Step, count: int) -> None:
    seen = 0

    def die(reached: Step) -> None:
        nonlocal seen
        seen += reached is step
        if seen >= count:
            os.kill(os.getpid(), signal.SIGKILL)

    network = EmbeddedNetwork(home, step=die)
    gateway = await network.open()
    for line in sys.stdin.read().splitlines():
        chain, key, payload = json.loads(line)
        tx_id = await gateway.submit(Anchor(chain, Digest(Algorithm.SM3, bytes.fromhex(key)), payload.encode()))
        receipt = await gateway.receipt(tx_id)
        if receipt is not None:
            sys.stdout.write(receipt.data.decode() + "\n")
            sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(_anchor_until_killed(Path(sys.argv[1]), Step(sys.argv[2]), int(sys.argv[3])))
