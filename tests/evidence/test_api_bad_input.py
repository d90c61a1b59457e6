"""Route × injury: a clear refusal each, at once, nothing stored, nothing of what was sent in it."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_service import Running, process, running

from models.canonical import MAX_BODY_BYTES
from models.example import example
from models.template import builtin
from processes import die_with_parent

PLANTED = "张三110101199003070000"
SOON_S = 2.0
"""One second on an idle machine (reliability R16); tests share theirs."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as found:
        yield found


def submission(**changes: Any) -> dict[str, Any]:
    """A valid submission of file@1, each time another."""
    body = example(builtin("file@1"), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))
    return {**body, **changes}


@dataclass(frozen=True, slots=True)
class Injury:
    """A body that must be refused: what it becomes, the status and name of the problem, and where the faults are."""

    make: Callable[[], bytes]
    status: int
    name: str
    pointers: tuple[str, ...] = ()
    content_type: str | None = "application/json"


def _json(**changes: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(submission(**changes)).encode()


def _without(name: str) -> Callable[[], bytes]:
    return lambda: json.dumps({key: value for key, value in submission().items() if key != name}).encode()


def _field(name: str, value: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        body = submission()
        ((stage, fields),) = body["stages"].items()
        fields = dict(fields)
        if value is None:
            fields.pop(name)
        else:
            fields[name] = value
        return json.dumps({**body, "stages": {stage: fields}}).encode()

    return make


DEEP = 10**5

INJURIES: dict[str, Injury] = {
    "empty": Injury(lambda: b"", 400, "malformed"),
    "not-json": Injury(lambda: b"{", 400, "malformed"),
    "two-values": Injury(lambda: b"{}{}", 400, "malformed"),
    "invalid-utf8": Injury(lambda: b'{"template": "\xff"}', 400, "malformed"),
    "byte-order-mark": Injury(lambda: b"\xef\xbb\xbf{}", 400, "malformed"),
    "utf-16": Injury(lambda: '{"template": "file@1"}'.encode("utf-16"), 400, "malformed"),
    "nul": Injury(lambda: b'{"template": "\\u0000"}', 400, "malformed"),
    "lone-surrogate": Injury(lambda: b'{"template": "\\ud800"}', 400, "malformed"),
    "not-nfc": Injury('{"template": "e\u0301"}'.encode, 400, "malformed"),
    "doubled-name": Injury(lambda: b'{"template": "file@1", "template": "file@1"}', 400, "malformed"),
    "float": Injury(lambda: b'{"template": 1.5}', 400, "malformed"),
    "infinity": Injury(lambda: b'{"template": 1e999}', 400, "malformed"),
    "nan": Injury(lambda: b'{"template": NaN}', 400, "malformed"),
    "huge-number": Injury(lambda: b'{"template": ' + b"9" * 5000 + b"}", 400, "malformed"),
    "deep-arrays": Injury(lambda: b"[" * DEEP + b"]" * DEEP, 400, "malformed"),
    "deep-objects": Injury(lambda: b'{"a":' * DEEP + b"1" + b"}" * DEEP, 400, "malformed"),
    "deep-unclosed": Injury(lambda: b"[" * DEEP, 400, "malformed"),
    "many-names": Injury(lambda: json.dumps({f"m{n}": n for n in range(60_000)}).encode(), 422, "invalid"),
    "array": Injury(lambda: b"[]", 422, "invalid", ("",)),
    "text": Injury(lambda: json.dumps(PLANTED).encode(), 422, "invalid", ("",)),
    "null": Injury(lambda: b"null", 422, "invalid", ("",)),
    "nothing-in-it": Injury(lambda: b"{}", 422, "invalid", ("/template", "/client_key", "")),
    "unknown-member": Injury(_json(extra=PLANTED), 422, "invalid", ("",)),
    "personal-member-name": Injury(_json(**{PLANTED: 1}), 422, "invalid", ("",)),
    "unknown-template": Injury(_json(template="file@999"), 422, "invalid", ("/template",)),
    "template-not-text": Injury(_json(template=7), 422, "invalid", ("/template",)),
    "no-client-key": Injury(_without("client_key"), 422, "invalid", ("/client_key",)),
    "client-key-too-long": Injury(_json(client_key="k" * 129), 422, "invalid", ("/client_key",)),
    "client-key-control": Injury(_json(client_key="a\nb"), 422, "invalid", ("/client_key",)),
    "client-key-personal": Injury(_json(client_key="110101199003070038"), 422, "invalid", ("/client_key",)),
    "stages-not-object": Injury(_json(stages=[PLANTED]), 422, "invalid", ("/stages",)),
    "stage-not-object": Injury(_json(stages={"文件": PLANTED}), 422, "invalid", ("/stages/文件",)),
    "unknown-stage": Injury(_json(stages={PLANTED: {}}), 422, "invalid"),
    "no-stages": Injury(_without("stages"), 422, "invalid"),
    "wrong-type": Injury(_field("file_size", PLANTED), 422, "invalid", ("/stages/文件/file_size",)),
    "negative": Injury(_field("file_size", True), 422, "invalid", ("/stages/文件/file_size",)),
    "missing-field": Injury(_field("file_name", None), 422, "invalid", ("/stages/文件/file_name",)),
    "too-long-field": Injury(_field("file_name", "名" * 100_000), 422, "invalid", ("/stages/文件/file_name",)),
    "secret-not-random": Injury(_json(secret="A" * 43 + "="), 422, "invalid", ("/secret",)),
    "secret-short": Injury(_json(secret="QUJD"), 422, "invalid", ("/secret",)),
    "time-without-zone": Injury(_json(occurred_at="2026-11-21T06:00:00"), 422, "invalid", ("/occurred_at",)),
    "link-unknown-member": Injury(_json(link={"code": "c", "next": 1}), 422, "invalid", ("/link",)),
    "follows-not-hex": Injury(_json(link={"code": "c-1", "follows": "zz"}), 422, "invalid", ("/link/follows",)),
    "originals-not-array": Injury(_json(originals={}), 422, "invalid", ("/originals",)),
    "signature-not-object": Injury(_json(signature="MEUCIQ"), 422, "invalid", ("/signature",)),
    "no-content-type": Injury(_json(), 415, "unsupported-media-type", content_type=None),
    "form": Injury(_json(), 415, "unsupported-media-type", content_type="application/x-www-form-urlencoded"),
    "gbk": Injury(_json(), 415, "unsupported-media-type", content_type="application/json; charset=gbk"),
    "over-the-limit": Injury(lambda: b" " * (MAX_BODY_BYTES + 1), 413, "too-large"),
}


def _post(api: Running, path: str, body: bytes, content_type: str | None, **headers: str) -> httpx.Response:
    with api.client() as client:
        given = dict(headers) if content_type is None else {"content-type": content_type, **headers}
        return client.post(path, content=body, headers=given)


def _check(response: httpx.Response, status: int, name: str, pointers: tuple[str, ...] = ()) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["type"]) == (status, f"/problems/{name}"), problem
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert PLANTED not in response.text
    found = {error["pointer"] for error in problem["errors"]}
    assert set(pointers) <= found, problem
    for error in problem["errors"]:
        assert error["expected"]
        assert error["got"]
    return problem


@pytest.mark.parametrize("injury", INJURIES.values(), ids=INJURIES.keys())
def test_refuses_an_injured_submission_and_stores_nothing(api: Running, injury: Injury) -> None:
    before, body = api.size, injury.make()
    began = time.monotonic()
    response = _post(api, "/v1/evidence", body, injury.content_type)
    assert time.monotonic() - began < SOON_S
    _check(response, injury.status, injury.name, injury.pointers)
    assert api.size == before


def test_accepts_the_submission_that_the_injuries_start_from(api: Running) -> None:
    before = api.size
    response = _post(api, "/v1/evidence", json.dumps(submission()).encode(), "application/json; charset=utf-8")
    assert response.status_code == 201, response.text
    assert api.size == before + 1


def test_every_fault_of_a_submission_is_listed_at_once(api: Running) -> None:
    body = submission(extra=1, secret="x", occurred_at=7)
    problem = _check(_post(api, "/v1/evidence", json.dumps(body).encode(), "application/json"), 422, "invalid")
    assert {error["pointer"] for error in problem["errors"]} >= {"", "/secret", "/occurred_at"}


BATCHES: dict[str, Injury] = {
    "not-json": Injury(lambda: b"[", 400, "malformed"),
    "array": Injury(lambda: b"[]", 422, "invalid", ("/submissions",)),
    "empty": Injury(lambda: b'{"submissions": []}', 422, "invalid", ("/submissions",)),
    "too-many": Injury(lambda: json.dumps({"submissions": [{}] * 1001}).encode(), 422, "invalid", ("/submissions",)),
    "unknown-member": Injury(lambda: json.dumps({"submissions": [{}], "x": 1}).encode(), 422, "invalid", ("/submissions",)),
    "deep": Injury(lambda: b'{"submissions":' + b"[" * DEEP, 400, "malformed"),
}


@pytest.mark.parametrize("injury", BATCHES.values(), ids=BATCHES.keys())
def test_refuses_an_injured_batch_as_a_whole(api: Running, injury: Injury) -> None:
    before = api.size
    _check(_post(api, "/v1/evidence:batch", injury.make(), "application/json"), injury.status, injury.name, injury.pointers)
    assert api.size == before


def test_one_bad_item_of_a_batch_refuses_only_itself(api: Running) -> None:
    before = api.size
    good, other = submission(), submission()
    body = {"submissions": [good, {"template": PLANTED}, other, 7]}
    response = _post(api, "/v1/evidence:batch", json.dumps(body).encode(), "application/json")
    assert response.status_code == 200
    results = response.json()["results"]
    assert [(result["index"], result["status"]) for result in results] == [(0, 201), (1, 422), (2, 201), (3, 422)]
    assert results[1]["problem"]["type"] == "/problems/invalid"
    assert PLANTED not in response.text
    assert api.size == before + 2


def test_a_submission_above_its_limit_is_refused_inside_a_batch_too(api: Running) -> None:
    before = api.size
    body = {"submissions": [submission(client_key="x" * (MAX_BODY_BYTES + 1)), submission()]}
    response = _post(api, "/v1/evidence:batch", json.dumps(body).encode(), "application/json")
    assert [result["status"] for result in response.json()["results"]] == [413, 201]
    assert api.size == before + 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_nothing_that_is_packed_is_unpacked(api: Running, coding: str) -> None:
    response = _post(api, "/v1/evidence", b"\x1f\x8b" + b"\0" * 100, "application/json", **{"content-encoding": coding})
    _check(response, 415, "unsupported-media-type")


PARAMETERS: dict[str, tuple[str, int]] = {
    "unknown": ("/v1/evidence?templte=file@1", 422),
    "doubled": ("/v1/evidence?limit=1&limit=2", 422),
    "limit-too-large": ("/v1/evidence?limit=100000", 422),
    "limit-no-number": ("/v1/evidence?limit=many", 422),
    "axis-unknown": ("/v1/evidence?axis=sideways", 422),
    "digest-without-algorithm": ("/v1/evidence?digest=" + "0" * 64, 422),
    "prefix-too-short": ("/v1/evidence/ev_1234567", 422),
    "id-not-hex": ("/v1/evidence/" + "z" * 64, 422),
    "tile-level": ("/v1/log/tile/64/000", 400),
    "tile-needless-x000": ("/v1/log/tile/0/x000/001", 400),
    "tile-width": ("/v1/log/tile/0/000.p/256", 400),
    "inclusion-beyond": ("/v1/log/inclusion?leaf_index=5&tree_size=5", 422),
    "inclusion-negative": ("/v1/log/inclusion?leaf_index=-1&tree_size=5", 422),
    "inclusion-huge": (f"/v1/log/inclusion?leaf_index=0&tree_size={2**63}", 422),
    "inclusion-missing": ("/v1/log/inclusion?leaf_index=0", 422),
    "consistency-backwards": ("/v1/log/consistency?from=2&to=1", 422),
    "node-no-number": ("/v1/chains/x/nodes/first/blocks", 422),
    "no-route": ("/v1/nothing", 404),
    "no-chain": ("/v1/chains/none/nodes/0/blocks", 404),
    "no-template": ("/v1/templates/none@1", 404),
    "no-problem": ("/problems/none", 404),
    "no-tile-yet": ("/v1/log/tile/3/000", 404),
    "no-size-yet": (f"/v1/log/consistency?from=0&to={2**50}", 404),
}


@pytest.mark.parametrize(("path", "status"), PARAMETERS.values(), ids=PARAMETERS.keys())
def test_refuses_a_parameter_that_is_wrong(api: Running, path: str, status: int) -> None:
    for _ in range(6 - min(6, api.size)):
        _post(api, "/v1/evidence", json.dumps(submission()).encode(), "application/json")
    with api.client() as client:
        response = client.get(path)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["retry"] in ("fix", "never")


WAITS = [
    "wait=soon",
    "wait=final&timeout_s=0",
    "wait=final&timeout_s=301",
    "wait=final&timeout_s=1.5",
    "timeout_s=5",
    "wait=final&wait=final",
]


@pytest.mark.parametrize("query", [*WAITS, "then=what"])
def test_refuses_to_wait_for_something_else(api: Running, query: str) -> None:
    before = api.size
    response = _post(api, f"/v1/evidence?{query}", json.dumps(submission()).encode(), "application/json")
    _check(response, 422, "parameter-refused")
    assert api.size == before


def test_refuses_a_method_that_a_path_does_not_have(api: Running) -> None:
    with api.client() as client:
        for method, path, allowed in (
            ("DELETE", "/v1/evidence", "POST"),
            ("GET", "/v1/evidence:batch", "POST"),
            ("PUT", "/v1/service", "GET"),
        ):
            response = client.request(method, path)
            _check(response, 405, "method-not-allowed")
            assert allowed in response.headers["allow"]


def _raw(api: Running, data: bytes, *, shut: bool = False) -> bytes:
    """What comes back to `data`, until the connection ends or has said all it will within a second."""
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
                if b"\r\n\r\n" in received:
                    break
        except TimeoutError:
            pass
        return received


def _head(api: Running, *lines: str) -> bytes:
    all_lines = (
        "POST /v1/evidence HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"authorization: Bearer {api.tokens['business']}",
    )
    return "\r\n".join((*all_lines, *lines, "", "")).encode()


def test_a_body_shorter_than_declared_stores_nothing(api: Running) -> None:
    before, body = api.size, json.dumps(submission()).encode()
    _raw(api, _head(api, f"content-length: {len(body) + 10}") + body, shut=True)
    assert api.size == before


def test_a_body_longer_than_declared_stores_nothing_more(api: Running) -> None:
    before, body = api.size, json.dumps(submission()).encode()
    assert b" 400 " in _raw(api, _head(api, f"content-length: {len(body) - 1}") + body)
    assert api.size == before


def test_a_body_over_the_limit_is_refused_before_it_is_sent(api: Running) -> None:
    began = time.monotonic()
    assert b" 413 " in _raw(api, _head(api, f"content-length: {100 << 20}"))
    assert time.monotonic() - began < SOON_S


def test_an_endless_chunked_body_is_refused_while_it_comes(api: Running) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert b" 413 " in _raw(api, _head(api, "transfer-encoding: chunked") + chunk * 17)


_ATTACK = """
import sys, httpx
url, token, *files = sys.argv[1:]
bodies = [open(name, "rb").read() for name in files]
headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
    print("begun", flush=True)
    while True:
        for body in bodies:
            assert client.post("/v1/evidence", content=body).status_code in (400, 413, 422)
"""


def test_a_valid_client_beside_a_hostile_one_is_served(tmp_path: Path) -> None:
    """Reliability R16: service, valid and hostile client are processes of their own; how fast, `benchmarks/` measures."""
    names = []
    for name in ("deep-arrays", "many-names", "huge-number", "invalid-utf8", "doubled-name"):
        names.append(str(tmp_path / name))
        (tmp_path / name).write_bytes(INJURIES[name].make())
    with process(tmp_path / "home") as service:
        command = [sys.executable, "-c", _ATTACK, service.url, service.token, *names]
        with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_parent) as attack:  # noqa: PLW1509
            try:
                assert attack.stdout is not None
                assert attack.stdout.readline()
                headers = {"authorization": f"Bearer {service.token}", "content-type": "application/json"}
                with httpx.Client(base_url=service.url, headers=headers, timeout=30) as client:
                    for _ in range(100):
                        assert client.post("/v1/evidence", content=json.dumps(submission()).encode()).status_code == 201
                assert attack.poll() is None, "the hostile client was answered with refusals all the while"
            finally:
                attack.kill()
