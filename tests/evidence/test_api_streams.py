"""The routes of streams: push, bad bodies, alarms; each refusal a clear problem."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from api_service import Running, running

from evidence.bootstrap import utc_now
from evidence.stream_shelf import Shelf

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
