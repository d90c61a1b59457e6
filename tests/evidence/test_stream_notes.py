"""Recount notes beside an answer: as few as say the same, and never more than a verifier reads."""

from pathlib import Path
from random import Random

import pytest
from api_service import running
from stream_service import Stream

from evidence.stream_shelf import fewest
from evidence.verifier import verify
from models.answer import MAX_NOTES
from models.bundle import unpack
from models.report import Verdict


def covered(notes: list[tuple[int, int, bytes]]) -> set[int]:
    return {number for first, last, _ in notes for number in range(first, last + 1)}


def least(notes: list[tuple[int, int, bytes]]) -> int:
    """How many are needed, found slowly: from the lowest slice not yet covered, the note over it that reaches farthest."""
    wanted, count = covered(notes), 0
    while wanted:
        low = min(wanted)
        wanted -= set(range(low, max(last for first, last, _ in notes if first <= low <= last) + 1))
        count += 1
    return count


@pytest.mark.parametrize("seed", range(300))
def test_as_few_notes_as_cover_the_same(seed: int) -> None:
    random = Random(seed)
    found = set()
    for _ in range(random.randint(0, 12)):
        first = random.randrange(20)
        found.add((first, first + random.randrange(8), b""))
    notes = sorted(found)
    chosen = fewest(notes)
    assert set(chosen) <= set(notes)
    assert covered(chosen) == covered(notes)
    assert len(chosen) == least(notes)


def test_many_recounts_do_not_outnumber_what_a_verifier_reads(tmp_path: Path) -> None:
    with running(tmp_path / "home") as service:
        stream = Stream(service, tmp_path, "recounted")
        for number in range(12):
            stream.write(f"line {number} ERROR")
            stream.collect(lines=1)
        with stream.client() as client:
            headers = client.slices(stream.stream_id, limit=100)["items"]
            times = [header["slice_create_time"] for header in headers]
            pairs = [(low, high) for low in range(len(times)) for high in range(low + 1, len(times))]
            for low, high in pairs:
                assert client.recount_stream(stream.stream_id, {"from": times[low], "to": times[high]})["complete"]
            assert len(pairs) > MAX_NOTES
            found = client.query_stream(stream.stream_id, {"keywords": ["ERROR"]})
            assert found["verdict"] == "VALID", found["indeterminate"]
            assert any("were recounted by" in finding for finding in found["findings"])
            data = client.stream_answer(stream.stream_id, {"keywords": ["ERROR"]})
            assert [name for name in unpack(data).files if name.startswith("stream/recount/")] == ["stream/recount/0.note"]
            assert verify(data, service.service.trust()).verdict is Verdict.VALID
