"""The routes of streams: push, bad bodies, alarms; each refusal a clear problem."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from api_service import Running, process, running
from stream_service import Stream

from clock import ManualClock
from evidence.behind import FRESH_S, Reports, Unit
from evidence.bootstrap import utc_now
from evidence.client import AsyncClient, Client
from evidence.collector import (
    CollectorState,
    ServiceSink,
    Wish,
    keep_saying_behind,
    origin_of,
    pipeline_of,
    say_behind,
    state_path,
)
from evidence.collector import declare as declare_stream
from evidence.exchange import Patience
from evidence.stream_shelf import Shelf
from models.canonical import parse_time
from models.errors import EvidenceError
from streaming.slicer import CutRule

WISH = {"stream_id": "orders", "keywords": ["订单", "refund"], "max_silence_s": 60}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("push") / "home") as found:
        yield found


def declare(service: Running, name: str, **more: Any) -> None:
    with service.client() as client:
        assert client.post("/v1/streams", json={**WISH, "stream_id": name, **more}).status_code == 201


def test_records_pushed_twice_are_taken_once(service: Running) -> None:
    declare(service, "twice")
    with service.client() as client:
        first = client.post("/v1/streams/twice/records", json={"first": 0, "records": ["订单 1", "refund 2", "订单 3"]})
        again = client.post("/v1/streams/twice/records", json={"first": 1, "records": ["refund 2", "订单 3", "订单 4"]})
        assert (first.status_code, again.status_code) == (200, 200)
        assert (first.json()["committed"], again.json()["committed"]) == (3, 4)
        found = client.post("/v1/streams/twice/query", json={"keywords": ["订单"]}).json()
    assert found["verdict"] == "VALID"
    assert [line["text"] for line in found["lines"]] == ["订单 1", "订单 3", "订单 4"]
    assert [line["position"] for line in found["lines"]] == ["0:0", "0:2", "0:3"]


def test_refuses_a_hole_in_the_producers_numbers(service: Running) -> None:
    declare(service, "hole")
    with service.client() as client:
        assert client.post("/v1/streams/hole/records", json={"first": 0, "records": ["a"]}).status_code == 200
        refused = client.post("/v1/streams/hole/records", json={"first": 5, "records": ["b"]})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/stale")
    assert "expected number 1" in refused.json()["detail"]


def test_bytes_that_are_no_text_are_kept_as_they_are(service: Running) -> None:
    declare(service, "raw")
    with service.client() as client:
        body = {"first": 0, "records": [{"b64": "AP8="}, "refund \u0000", ""]}
        assert client.post("/v1/streams/raw/records", json=body).status_code in (200, 400)
        body = {"first": 0, "records": [{"b64": "AP8="}, "refund", ""]}
        assert client.post("/v1/streams/raw/records", json=body).status_code == 200
        found = client.post("/v1/streams/raw/query", json={"keywords": ["refund"], "scan": True}).json()
    assert found["counts"][0]["n"] == 1


def test_the_same_wish_again_is_the_same_stream_and_another_is_a_conflict(service: Running) -> None:
    declare(service, "wish")
    with service.client() as client:
        assert client.post("/v1/streams", json={**WISH, "stream_id": "wish"}).status_code == 200
        assert client.post("/v1/streams", json={**WISH, "stream_id": "wish", "keywords": ["x"]}).status_code == 409


def test_an_ended_stream_takes_nothing_more(service: Running) -> None:
    declare(service, "ended")
    with service.client() as client:
        assert client.post("/v1/streams/ended/records", json={"first": 0, "records": ["a"]}).status_code == 200
        assert client.post("/v1/streams/ended/end", json={"reason": "done"}).json()["ended"]
        assert client.post("/v1/streams/ended/records", json={"first": 1, "records": ["b"]}).status_code == 409
        shown = client.get("/v1/streams/ended").json()
        assert (shown["ended"], shown["overdue"], shown["lines"]) == (True, False, 1)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/streams/none/records", {"first": 0, "records": ["a"]}, 404),
        ("/v1/streams/bad/records", {"first": -1, "records": ["a"]}, 422),
        ("/v1/streams/bad/records", {"first": 0, "records": []}, 422),
        ("/v1/streams/bad/records", {"first": 0, "records": [3]}, 400),
        ("/v1/streams/bad/records", {"first": 0, "records": ["a\nb"]}, 400),
        ("/v1/streams/bad/records", [], 422),
        ("/v1/streams/bad/query", {"keywords": []}, 422),
        ("/v1/streams/bad/query", {"keywords": ["a"], "value": {"rule": "r", "v": "1"}}, 422),
        ("/v1/streams/bad/query", {"keywords": ["a", "a"]}, 400),
        ("/v1/streams/bad/query", {"keywords": ["a"], "op": "not"}, 422),
        ("/v1/streams/bad/query", {"keywords": ["a"], "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, 422),
        ("/v1/streams/bad/query", {"keywords": ["a"], "unknown": 1}, 422),
        ("/v1/streams/bad/query", {"value": {"rule": "none", "v": "1"}}, 400),
        ("/v1/streams/bad/recount", {"from": "never"}, 422),
        ("/v1/streams/bad/slices", {}, 415),
        ("/v1/streams", {"stream_id": "Bad Name", "keywords": ["a"]}, 400),
        ("/v1/streams", {"stream_id": "x", "keywords": ["a", "a"]}, 400),
        ("/v1/streams", {"stream_id": "x", "keywords": []}, 400),
        ("/v1/streams", {"stream_id": "x", "keywords": ["a"], "index": "hash"}, 400),
        ("/v1/streams", {"declaration": "{}"}, 400),
        ("/v1/streams/UPPER/records", {"first": 0, "records": ["a"]}, 422),
    ],
)
def test_refuses_what_cannot_be_meant(service: Running, path: str, body: Any, status: int) -> None:
    with service.client() as client:
        client.post("/v1/streams", json={**WISH, "stream_id": "bad"})
        client.post("/v1/streams/bad/records", json={"first": 0, "records": ["start"]})
        answer = client.post(path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("body", [b"", b"\x00\x00\x00\x05abc", b"\xff\xff\xff\xff", b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x00"])
def test_refuses_a_slice_that_is_none(service: Running, body: bytes) -> None:
    with service.client() as client:
        answer = client.post("/v1/streams/x/slices", content=body, headers={"content-type": "application/octet-stream"})
    assert answer.status_code == 400


def test_only_business_declares_and_pushes(service: Running) -> None:
    declare(service, "roles")
    for account in ("auditor", "court", "operator"):
        with service.client(account) as client:
            assert client.post("/v1/streams", json={**WISH, "stream_id": "mine"}).status_code == 403
            assert client.post("/v1/streams/roles/records", json={"first": 0, "records": ["a"]}).status_code == 403
    with service.client("other") as client:
        assert client.post("/v1/streams/roles/records", json={"first": 0, "records": ["a"]}).status_code == 404
    with service.client(None) as client:
        assert client.get("/v1/streams").status_code == 401


def test_a_silent_collector_is_an_alarm_in_list_and_metrics_and_a_live_one_is_none(service: Running) -> None:
    declare(service, "silent")
    own = service.service
    with service.client() as client:
        assert client.post("/v1/streams/silent/records", json={"first": 0, "records": ["a"]}).status_code == 200
        (item,) = [each for each in client.get("/v1/streams").json()["items"] if each["stream_id"] == "silent"]
        assert not item["overdue"]
        assert item["next_by"]
        assert "\nevidence_streams_overdue 0\n" in client.get("/metrics").text
    late = Shelf(
        store=own.store,
        secrets=own.home.secrets,
        archive=own.shelf.archive,
        clock=lambda: utc_now() + timedelta(seconds=61),
    )
    (row,) = [each for each in late.everything() if each.stream_id == "silent"]
    assert late.summary(row, own.anchoring.state_of)["overdue"] is True
    alive, overdue, silent_s = late.health()
    assert 1 <= overdue <= alive
    assert silent_s >= 61


# --- how far a collector is behind -----------------------------------------------------------------------------------


def shown(service: Running, name: str) -> dict[str, Any]:
    """The stream as the list and as its own page show it, which is the same."""
    with service.client() as client:
        (item,) = [each for each in client.get("/v1/streams").json()["items"] if each["stream_id"] == name]
        assert client.get(f"/v1/streams/{name}").json()["behind"] == item["behind"]
    found: dict[str, Any] = item
    return found


def measured(service: Running) -> dict[str, float]:
    """The numbers of /metrics that are about it."""
    with service.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return {
        name.removeprefix("evidence_"): float(value)
        for name, _, value in (line.rpartition(" ") for line in lines)
        if name.startswith(("evidence_streams_behind", "evidence_stream_behind"))
    }


def test_what_a_collector_says_of_its_source_is_shown_with_its_time_and_unknown_before(tmp_path: Path) -> None:
    with running(tmp_path / "home") as service:
        lines, messages = Stream(service, tmp_path, "lines"), Stream(service, tmp_path, "messages")
        lines.declare()
        assert shown(service, "lines")["behind"] is None
        assert measured(service) == {"streams_behind_known": 0}
        with lines.client() as client:
            client.report_stream("lines", behind=1200)
        behind = shown(service, "lines")["behind"]
        assert (behind["count"], behind["unit"]) == (1200, "bytes")
        assert abs((utc_now() - parse_time(behind["at"])).total_seconds()) < 30
        assert measured(service) == {"streams_behind_known": 1, 'stream_behind{unit="bytes"}': 1200}
        messages.wish = lambda: Wish("messages", "kafka://host:1/topic", "kafka", messages.words)  # type: ignore[method-assign]
        messages.declare()
        with messages.client() as client:
            client.report_stream("messages", behind=7)
            assert shown(service, "messages")["behind"]["unit"] == "records"
            assert measured(service)['stream_behind{unit="records"}'] == 7
            client.report_stream("messages", behind=None)
            client.report_stream("lines", behind=0)
        assert shown(service, "messages")["behind"] is None
        assert measured(service) == {"streams_behind_known": 1, 'stream_behind{unit="bytes"}': 0}


def test_how_far_behind_is_unknown_after_a_restart_and_not_0(tmp_path: Path) -> None:
    for is_first in (True, False):
        with process(tmp_path / "home") as started, Client(started.url, token=started.token) as client:
            if is_first:
                state = CollectorState.open(state_path(tmp_path, "kept"), "kept")
                asyncio.run(declared(started.url, started.token, state))
                client.report_stream("kept", behind=5)
            behind = client.stream("kept")["behind"]
            assert (behind is None) is not is_first


async def declared(url: str, token: str, state: CollectorState) -> None:
    async with AsyncClient(url, token=token) as client:
        await declare_stream(client, state, Wish(state.stream_id, "file:x", "line", (b"a",)), randomness=os.urandom)


async def test_a_running_collector_says_it_again_and_again_and_when_it_does_not_know(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evidence.collector.REPORT_S", 0.05)
    stream = Stream(service, tmp_path, "followed")
    stream.write("ERROR 1")
    async with AsyncClient(service.url, token=service.tokens["business"]) as client:
        state = stream.state
        await declare_stream(client, state, stream.wish(), randomness=os.urandom)
        sink = ServiceSink(client, state, await origin_of(client))
        pipeline = pipeline_of(
            state, sink, url=f"file:{stream.log}", cut=CutRule(), follow=True, clock=utc_now, randomness=os.urandom
        )
        saying = [asyncio.ensure_future(pipeline.run()), asyncio.ensure_future(keep_saying_behind(client, pipeline))]

        async def until(count: int | None) -> None:
            async with asyncio.timeout(20):
                while True:
                    behind: Any = (await client.stream("followed"))["behind"]
                    if (None if behind is None else behind["count"]) == count:
                        return
                    await asyncio.sleep(0.02)

        try:
            await until(0)
            with stream.log.open("a") as file:
                file.write("half a line")
            await until(len("half a line"))
            pipeline.progress = replace(pipeline.progress, error="source is away")
            await until(None)
            pipeline.progress = replace(pipeline.progress, error=None)
            await until(len("half a line"))
        finally:
            pipeline.stop()
            await saying[0]
            saying[1].cancel()
            await asyncio.gather(saying[1], return_exceptions=True)


def test_a_service_that_does_not_hear_it_stops_no_collector(service: Running, tmp_path: Path) -> None:
    stream = Stream(service, tmp_path, "unheard")
    stream.declare()

    async def unheard(url: str, token: str) -> None:
        async with AsyncClient(url, token=token, patience=Patience(attempts=1)) as client:
            sink = ServiceSink(client, stream.state, stream.origin())
            pipeline = pipeline_of(
                stream.state, sink, url=f"file:{stream.log}", cut=CutRule(), follow=False, clock=utc_now, randomness=os.urandom
            )
            with pytest.raises(EvidenceError):
                await client.report_stream("unheard", behind=pipeline.behind())
            await say_behind(client, pipeline)

    for url, token in ((service.url, service.tokens["other"]), (service.url, "wrong"), ("http://127.0.0.1:1", "any")):
        asyncio.run(unheard(url, token))


def test_what_was_said_long_ago_counts_as_unknown_and_is_shown_with_its_time() -> None:
    clock = ManualClock()
    reports = Reports(clock=clock)
    said = reports.say(1, 5, Unit.BYTES)
    clock.advance(FRESH_S)
    assert reports.fresh() == (1, {"bytes": 5})
    clock.advance(1)
    assert reports.fresh() == (0, {})
    assert reports.last(1) == said


@pytest.mark.parametrize(
    "body",
    [{}, [], {"behind": -1}, {"behind": True}, {"behind": 1.5}, {"behind": "1"}, {"behind": 1 << 53}, {"behind": 1, "at": 2}],
)
def test_refuses_progress_that_is_no_number(service: Running, body: Any) -> None:
    with service.client() as client:
        assert client.put("/v1/streams/progress/progress", json=body).status_code == 400


def test_only_the_collectors_own_account_says_how_far_behind_it_is(service: Running, tmp_path: Path) -> None:
    Stream(service, tmp_path, "owned").declare()
    url, body = "/v1/streams/owned/progress", {"behind": 3}
    with service.client(None) as client:
        assert client.put(url, json=body).status_code == 401
    with service.client("operator") as client:
        assert client.put(url, json=body).status_code == 403
    with service.client("other") as client:
        assert client.put(url, json=body).status_code == 404
    assert shown(service, "owned")["behind"] is None
    with service.client() as client:
        assert client.put("/v1/streams/nobody/progress", json=body).status_code == 404
        assert client.put(url, json=body).json()["behind"]["count"] == 3
    assert shown(service, "owned")["behind"]["count"] == 3


def test_who_pushes_says_how_many_records_wait_to_be_pushed(service: Running) -> None:
    declare(service, "waiting")
    with service.client() as client:
        assert client.put("/v1/streams/waiting/progress", json={"behind": 9}).status_code == 200
    behind = shown(service, "waiting")["behind"]
    assert (behind["count"], behind["unit"]) == (9, "records")


def test_slices_are_listed_by_number_and_a_page_goes_on(service: Running) -> None:
    declare(service, "pages")
    with service.client() as client:
        for number in range(3):
            assert client.post("/v1/streams/pages/records", json={"first": number, "records": ["a"]}).status_code == 200
        page = client.get("/v1/streams/pages/slices", params={"limit": 2}).json()
        rest = client.get("/v1/streams/pages/slices", params={"from": page["next_cursor"]}).json()
    assert [each["number"] for each in page["items"] + rest["items"]] == list(range(page["total"]))
    assert rest["next_cursor"] is None


def test_every_route_of_streams_is_described(service: Running) -> None:
    with service.client(None) as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert {"get", "post"} <= set(paths["/v1/streams"])
    assert {"records", "query", "recount", "end", "slices"} <= {path.rpartition("/")[2] for path in paths}
