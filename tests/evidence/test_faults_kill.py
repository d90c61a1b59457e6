"""Killed with -9 at every step of the service and of its ledger: nothing acknowledged is missing, nothing is doubled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_check import recovered
from fault_process import Killer, Plan, fault_settings, killer, ledger_steps, service_steps, submissions

from evidence.bootstrap import initialise, utc_now
from postgres import Database


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    with killer(tmp_path_factory.mktemp("killer")) as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh home, to be copied: to make one costs more than to copy it."""
    home = tmp_path_factory.mktemp("made") / "home"
    initialise(fault_settings(home), clock=utc_now)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "home"))


def neighbours() -> list[str]:
    """The members of the enum two by two, mostly one act's before and after: one home dies at both."""
    steps = service_steps()
    return [" ".join(steps[place : place + 2]) for place in range(0, len(steps), 2)]


@pytest.mark.long
@pytest.mark.parametrize("steps", neighbours())
async def test_killed_at_any_step_it_recovers_by_itself(home: Path, forks: Killer, steps: str) -> None:
    for number, step in enumerate(steps.split()):
        assert forks.is_killed(Plan(str(home), step=step, count=1 + number)), f"{step} is come to, also by who recovered"
    await recovered(fault_settings(home), submissions())


def tear(home: Path) -> None:
    """One node's last line is left half-written, as by a power cut."""
    path = home / "chain" / "node-1" / "blocks.jsonl"
    if path.exists() and (data := path.read_bytes()):
        path.write_bytes(data[:-40])


@pytest.mark.long
@pytest.mark.parametrize("step", ledger_steps())
async def test_killed_at_any_step_of_the_ledger_it_recovers_by_itself(tmp_path: Path, forks: Killer, step: str) -> None:
    home = tmp_path / "home"
    killed = [forks.is_killed(Plan(str(home), step=step, of_ledger=True, rounds=1))]
    if not killed[0]:
        tear(home)
    killed.append(
        forks.is_killed(Plan(str(home), step=step, count=6 if killed[0] else 1, of_ledger=True, first_round=1, rounds=2))
    )
    assert any(killed), "the step is come to, when the ledger is made, when it works, or when it recovers"
    initialise(fault_settings(home), clock=utc_now)
    await recovered(fault_settings(home), submissions())


LOG_STEPS = [
    step
    for step in service_steps()
    if step.partition("-")[0] in {"secrets", "insert", "sign", "commit", "answer", "intent", "final", "slice"}
]


@pytest.mark.long
async def test_killed_at_step_after_step_over_postgresql_it_recovers_by_itself(
    tmp_path: Path, forks: Killer, postgres: Database
) -> None:
    home = tmp_path / "home"
    for number, step in enumerate(LOG_STEPS):
        assert forks.is_killed(Plan(str(home), postgres.url, step=step, first_round=number, rounds=1)), step
    await recovered(fault_settings(home, postgres.url), submissions(len(LOG_STEPS)))
