"""One request id leads from the request to the block, in the logs of a real process that say nothing personal."""

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from homes import file_submission
from served import served

from evidence.logging import JSONFormatter


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a process logged that took one item, one batch of three, one repeat and one refusal, each under its own request id."""
    folder: Path = tmp_path_factory.mktemp("trail")
    with served(folder / "home", options=(), EVIDENCE_ANCHOR_INTERVAL_S="0.02") as service:
        token = (service.home / "token").read_text().strip()
        with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {token}"}, timeout=60) as client:

            def post(path: str, body: Any, request_id: str) -> int:
                return client.post(path, json=body, headers={"x-request-id": request_id}).status_code

            single = file_submission("single")
            assert post("/v1/evidence?wait=final", single, "request-single") == 201
            batch = [file_submission(f"batch-{number}") for number in range(3)]
            assert post("/v1/evidence:batch", {"submissions": batch}, "request-batch") == 200
            assert post("/v1/evidence?wait=final", single, "request-repeat") == 200
            assert post("/v1/evidence?wait=final", file_submission("last"), "request-last") == 201
            assert post("/v1/evidence", {"template": "file@1"}, "request-refused") == 422
    return [json.loads(line) for line in (folder / "serve.log").read_text("utf-8").splitlines() if line.startswith("{")]


def of(lines: list[dict[str, Any]], event: str, request: str = "") -> list[dict[str, Any]]:
    return [
        line for line in lines if line["event"] == event and (not request or any(request in each for each in line["requests"]))
    ]


@pytest.mark.parametrize(("request_id", "leaves"), [("request-single", "0"), ("request-batch", "1…3"), ("request-last", "4")])
def test_request_id_is_followed_through_collection_building_and_storage(
    lines: list[dict[str, Any]], request_id: str, leaves: str
) -> None:
    (collected,) = of(lines, "collected", request_id)
    (built,) = of(lines, "built", request_id)
    (sealed,) = of(lines, "sealed", request_id)
    assert request_id in collected["requests"]
    for line in (built, sealed):
        assert f"{request_id}={leaves}" in line["requests"]
    assert sealed["size"] > int(leaves.rpartition("…")[2])
    assert [line["logger"] for line in (collected, built, sealed)] == [
        "evidence.collection",
        "evidence.storage",
        "evidence.storage",
    ]


@pytest.mark.parametrize("leaf", range(5))
def test_leaf_is_followed_through_the_gateway_to_its_block(lines: list[dict[str, Any]], leaf: int) -> None:
    found = [
        [line for line in of(lines, event) if line["start"] <= leaf < line["end"]] for event in ("opened", "submitted", "final")
    ]
    assert [len(each) for each in found] == [1, 1, 1]
    opened, submitted, final = (each[0] for each in found)
    assert opened["chain"] == submitted["chain"] == final["chain"]
    assert submitted["tx_id"] == final["tx_id"]
    assert final["height"] > 0
    assert opened["time"] <= submitted["time"] <= final["time"]


def test_repeat_and_refusal_seal_nothing(lines: list[dict[str, Any]]) -> None:
    assert of(lines, "collected", "request-repeat")
    assert not of(lines, "sealed", "request-repeat")
    assert not of(lines, "collected", "request-refused")


def test_line_holds_only_members_that_are_known(lines: list[dict[str, Any]]) -> None:
    record = logging.makeLogRecord({"msg": "sealed", "requests": ["r=0"], "client_name": "张三", "args": ()})
    assert json.loads(JSONFormatter().format(record)).keys() == {"time", "level", "logger", "event", "requests"}
    text = json.dumps(lines, ensure_ascii=False)
    assert "合同" not in text
