"""The commands that streaming/README.md gives for a Kafka of one's own, as a person types them, in a folder like a checkout."""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from served import Served, clean_environment

from kafka_broker import Distribution, Unavailable
from processes import die_with_parent

TOP = Path(__file__).parents[2]
README = (TOP / "streaming/README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"kafka://127\.0\.0\.1:[0-9]+/trades")
WAIT_S = 120


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    try:
        Distribution()
    except Unavailable as error:
        pytest.skip(str(error))
    for entry in TOP.iterdir():
        if entry.name != "var":
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def start(command: str, checkout: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=checkout,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call between fork and exec takes no lock
    )


@pytest.mark.long
def test_commands_for_a_kafka_of_ones_own_do_what_they_say(cli_service: Served, checkout: Path) -> None:
    start_broker, collect = BLOCKS
    broker = start(start_broker.strip(), checkout)
    assert broker.stdin is not None
    assert broker.stdout is not None
    assert broker.stderr is not None
    try:
        source = broker.stdout.readline().strip()
        assert PRINTED.fullmatch(source), broker.communicate(timeout=WAIT_S)
        broker.stdin.write("buy 100 AAA\nsell 50 BBB\nbuy 7 AAA\n")
        broker.stdin.flush()
        assert any(line == "sent 3\n" for line in iter(broker.stderr.readline, ""))
        assert len(PRINTED.findall(collect)) == 1
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", PRINTED.sub(source, collect)],
            cwd=checkout,
            env=clean_environment(**cli_service.environ),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for expected in ("n(buy) = 2", "有效 (VALID)", "buy 100 AAA", "0 条 @"):
            assert expected in done.stdout
        broker.communicate(timeout=WAIT_S)
        assert broker.returncode == 0
        assert not list(Path(tempfile.gettempdir()).glob(f"evidence-kafka-{broker.pid}-*"))
    finally:
        broker.kill()
        broker.wait()


def test_a_topic_that_no_kafka_makes_is_refused_and_nothing_is_left(checkout: Path) -> None:
    for words, said in (("", "expected the name of a topic"), ("'no topic'", "Kafka refused: InvalidTopic")):
        script = start(f".venv/bin/python tests/kafka_trial.py {words}", checkout)
        out, err = script.communicate(timeout=WAIT_S)
        assert (script.returncode, out, said in err) == (1, "", True), err
        assert not list(Path(tempfile.gettempdir()).glob(f"evidence-kafka-{script.pid}-*"))
