"""What was decided on each erratum in Appendix C of T/SAC 004—2024 that touches streams; models/README.md lists exactly these."""

import json
from pathlib import Path

import pytest

from models.declaration import EvidenceAlgorithm
from models.errors import Malformed
from models.record import MAX_SLICE_BYTES, Buffer, Record
from models.slice import INDEX_STAGE, STAGE, SliceHeader
from models.template import builtin

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/streams/stream.json").read_text())
HEADER = SliceHeader.parse(VECTOR["header"].encode())


def test_m09_a_slice_is_small_whatever_it_is_cut_by() -> None:
    Buffer.of([Record(0, b"x" * MAX_SLICE_BYTES)])
    with pytest.raises(Malformed, match="too large"):
        Buffer.of([Record(0, b"x" * (MAX_SLICE_BYTES + 1))])


def test_m11_one_stream_identifier_stands_in_slice_and_index() -> None:
    stages = builtin("stream-slice@1").stages
    assert all({"stream_id", "slice_id"} <= set(stage.by_name) for stage in stages)
    assert HEADER.slice_id == f"{HEADER.stream_id}/{HEADER.number}"


def test_m12_slice_and_index_have_one_of_two_algorithms() -> None:
    assert [algorithm.value for algorithm in EvidenceAlgorithm] == ["hash", "merkle"]


def test_m13_content_positions_and_index_are_one_item() -> None:
    assert [name for name, _ in HEADER.stages()] == [STAGE, INDEX_STAGE]
    assert {"content", "index", "slice_start_position", "slice_end_position"} <= set(json.loads(HEADER.data))


def test_m14_positions_are_half_open_and_slices_are_numbered_and_linked() -> None:
    beat = SliceHeader.parse(VECTOR["heartbeat"].encode())
    assert (beat.start, beat.number, beat.previous) == (HEADER.end, HEADER.number + 1, HEADER.pair)


def test_m15_names_of_streams_are_ours_in_the_envelope_of_the_standard() -> None:
    assert builtin("stream-slice@1").biz_name == "流式数据分片"
    assert [stage.name for stage in builtin("stream-slice@1").stages] == ["流式数据-分片", "流式数据-索引"]
    assert [stage.name for stage in builtin("stream@1").stages] == ["流式数据-声明"]


def test_m18_one_slice_has_one_index() -> None:
    assert HEADER.index is not None
    assert dict(HEADER.stages())[INDEX_STAGE] == HEADER.index
