"""Who may do what over HTTP; and that an error tells nobody what exists."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from api_service import ACCOUNTS, Running, running

from evidence.access import Role
from evidence.bootstrap import utc_now
from models.digest import pair
from models.example import example
from models.template import builtin

SECRET_NAME = "不可外泄的文件名.pdf"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as found:
        yield found


def submission() -> dict[str, Any]:
    body: dict[str, Any] = example(builtin("file@1"), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))
    fields = body["stages"]["文件"]
    fields["file_name"] = fields["object"]["name"] = SECRET_NAME
    return body


@pytest.fixture(scope="module")
def item(api: Running) -> dict[str, Any]:
    """A final item of `business`."""
    with api.client() as client:
        response = client.post("/v1/evidence?wait=final&timeout_s=30", json=submission())
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        assert found["state"] == "final"
        return found


PROTECTED = [
    ("GET", "/v1/evidence"),
    ("POST", "/v1/evidence"),
    ("POST", "/v1/evidence:batch"),
    ("POST", "/v1/evidence:search"),
    ("GET", "/v1/evidence/ev_" + "0" * 64),
    ("GET", "/v1/evidence/ev_" + "0" * 64 + "/bundle"),
    ("GET", "/v1/evidence/ev_" + "0" * 64 + "/nodes"),
    ("GET", "/v1/transactions/abc"),
    ("POST", "/v1/issuances"),
    ("GET", "/v1/issuances/is_0"),
    ("PUT", "/v1/originals/sm3:" + "0" * 64),
    ("GET", "/v1/originals/sm3:" + "0" * 64),
    ("POST", "/v1/verify"),
    ("GET", "/v1/access/self"),
]
PUBLIC = [
    *("/v1/service", "/v1/templates", "/v1/templates/file@1", "/v1/templates/file@1/schema", "/v1/chains"),
    *("/v1/log/checkpoint", "/v1/log/sha256/checkpoint", "/healthz", "/readyz", "/metrics"),
    *("/", "/docs", "/openapi.json", "/problems", "/problems/conflict"),
]

MISTYPED = "cz_" + "A" * 47


@pytest.mark.parametrize(("method", "path"), PROTECTED, ids=[f"{method} {path[:24]}" for method, path in PROTECTED])
@pytest.mark.parametrize("value", [None, "", "Bearer", "Basic abc", f"Bearer {MISTYPED}", "Bearer " + "x" * 5000, "Bearer 中"])
def test_nobody_enters_without_a_valid_token(api: Running, method: str, path: str, value: str | None) -> None:
    headers = [] if value is None else [(b"authorization", value.encode())]
    with api.client(None) as client:
        response = client.request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.json()["type"] == "/problems/unauthorised"
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert MISTYPED not in response.text


@pytest.mark.parametrize("path", PUBLIC)
def test_what_is_public_needs_no_token(api: Running, item: dict[str, Any], path: str) -> None:
    with api.client(None) as client:
        assert client.get(path).status_code == 200


def test_an_expired_and_a_revoked_token_let_nobody_in(api: Running) -> None:
    access = api.service.access
    tokens = {
        "expired": access.add("expired", roles=[Role.AUDITOR], subject=None, expires_at=utc_now() + timedelta(milliseconds=200)),
        "revoked": access.add("revoked", roles=[Role.AUDITOR], subject=None, expires_at=None),
    }
    access.revoke("revoked")
    for name, token in tokens.items():
        with httpx.Client(base_url=api.url, headers={"authorization": f"Bearer {token}"}) as client:
            give_up = time.monotonic() + 10
            while (response := client.get("/v1/access/self")).status_code != 401:
                assert time.monotonic() < give_up, f"{name} token still works"
            assert name in response.json()["detail"]


@pytest.mark.parametrize("account", [name for name in ACCOUNTS if ACCOUNTS[name][0] is not Role.BUSINESS])
def test_refuses_to_preserve_for_an_account_that_is_no_business(api: Running, account: str) -> None:
    before = api.size
    with api.client(account) as client:
        for path, body in (("/v1/evidence", submission()), ("/v1/evidence:batch", {"submissions": [submission()]})):
            response = client.post(path, json=body)
            assert (response.status_code, response.json()["type"]) == (403, "/problems/forbidden")
    assert api.size == before


def test_another_subjects_item_cannot_be_told_from_none(api: Running, item: dict[str, Any]) -> None:
    own, none = item["evidence_id"], "ev_" + "0" * 64
    with api.client("other") as client:
        for suffix in ("", "/bundle", "/nodes"):
            answers = [
                client.get(f"/v1/evidence/{name}{suffix}", headers={"x-request-id": "same"}) for name in (own, none, own[:14])
            ]
            assert {response.status_code for response in answers} == {404}
            assert len({response.text for response in answers}) == 1
        assert client.get("/v1/evidence").json()["total"] == 0
        digest = "sm3:" + pair(b"none").sm3.hex()
        assert client.get(f"/v1/originals/{digest}").status_code == 404


def test_each_role_is_shown_what_is_its_own(api: Running, item: dict[str, Any]) -> None:
    path = f"/v1/evidence/{item['evidence_id']}"
    shown = {}
    for account in ("business", "auditor", "court", "operator"):
        with api.client(account) as client:
            response = client.get(path)
            assert response.status_code == 200
            shown[account] = response
    assert SECRET_NAME in shown["business"].text
    assert SECRET_NAME in shown["court"].text
    assert shown["operator"].json()["contents"] is None
    assert SECRET_NAME not in shown["operator"].text
    for response in shown.values():
        assert response.json()["package_hash"] == item["package_hash"]


def test_what_a_court_reads_is_recorded(api: Running, item: dict[str, Any]) -> None:
    with api.client("court") as client:
        client.get(f"/v1/evidence/{item['evidence_id']}", headers={"x-request-id": "court-reads-1"})
    with api.service.store.reading() as connection:
        found = connection.exec_driver_sql("SELECT account, act, object FROM audit WHERE request_id = 'court-reads-1'").all()
    assert [tuple(row) for row in found] == [("court", "read", item["evidence_id"])]


def test_an_account_learns_what_it_signs_as(api: Running) -> None:
    with api.client() as client:
        found = client.get("/v1/access/self").json()
    assert found == {
        "account": "business",
        "roles": ["business"],
        "subject": {"id": "subject-1", "name": "示例证券"},
        "log": api.service.origin,
    }


def test_an_original_comes_back_to_its_subject_and_to_a_court_only(api: Running) -> None:
    data = secrets.token_bytes(3000)
    digests = pair(data)
    digest = f"sm3:{digests.sm3.hex()}"
    with api.client() as client:
        assert client.put(f"/v1/originals/{digest}", content=data).status_code == 201
        assert client.put(f"/v1/originals/{digest}", content=data).status_code == 200
        body = submission()
        fields = body["stages"]["文件"]
        fields["file_size"] = len(data)
        fields["object"] |= {"digest": digest, "twin": f"sha256:{digests.sha256.hex()}", "size": len(data)}
        body["originals"] = [{"field": "object", "digest": digest, "name": "a.bin", "media_type": "application/octet-stream"}]
        response = client.post("/v1/evidence", json=body)
        assert response.status_code == 201, response.text
        whole = client.get(f"/v1/originals/{digest}")
        assert (whole.status_code, whole.content) == (200, data)
        for text, start, stop in (
            ("bytes=0-0", 0, 1),
            ("bytes=100-199", 100, 200),
            ("bytes=2990-", 2990, 3000),
            ("bytes=-7", 2993, 3000),
        ):
            part = client.get(f"/v1/originals/{digest}", headers={"range": text})
            assert (part.status_code, part.content) == (206, data[start:stop])
            assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/3000"
        assert client.get(f"/v1/originals/{digest}", headers={"range": "bytes=3000-"}).status_code == 416
        head = client.head(f"/v1/originals/{digest}")
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "3000", b"")
    statuses = {}
    for account in ("court", "other", "auditor", "operator"):
        with api.client(account) as client:
            statuses[account] = client.get(f"/v1/originals/{digest}").status_code
    assert statuses == {"court": 200, "other": 404, "auditor": 403, "operator": 403}


def test_refuses_an_original_of_another_digest(api: Running) -> None:
    wrong = "sm3:" + pair(b"another").sm3.hex()
    with api.client() as client:
        response = client.put(f"/v1/originals/{wrong}", content=b"this one")
        assert (response.status_code, response.json()["type"]) == (422, "/problems/verification-failed")
        assert client.get(f"/v1/originals/{wrong}").status_code == 404
