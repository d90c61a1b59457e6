"""Every route as a client uses it, against a real service on a loopback port."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from api_service import Running, running

from evidence.api.intake import Lanes
from evidence.api.problems import KINDS
from evidence.bootstrap import utc_now
from evidence.explorer.page import SANDBOX_BANNER
from models.checkpoint import Note
from models.digest import Algorithm, sm3
from models.example import example
from models.issuing import issue
from models.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from models.signature import SM2Signer
from models.template import Template, builtin, builtin_names
from models.tiles import index_path

ITEMS = 300


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as found:
        with found.client() as client:
            for start in range(0, ITEMS, 100):
                bodies = [submission() for _ in range(start, start + 100)]
                results = client.post("/v1/evidence:batch", json={"submissions": bodies}).json()["results"]
                assert {result["status"] for result in results} == {201}
        yield found


def submission() -> dict[str, Any]:
    body: dict[str, Any] = example(builtin("file@1"), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))
    return body


# --- intake ---------------------------------------------------------------------------------------------------------


def test_the_same_submission_again_gives_the_same_evidence(api: Running) -> None:
    body = submission()
    with api.client() as client:
        first, again = client.post("/v1/evidence", json=body), client.post("/v1/evidence", json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["location"] == f"/v1/evidence/{first.json()['evidence_id']}"
    for member in ("evidence_id", "leaf_index", "package_hash", "evidence"):
        assert first.json()[member] == again.json()[member]


def test_another_content_under_one_client_key_is_a_conflict_on_record(api: Running) -> None:
    body = submission()
    other = {**submission(), "client_key": body["client_key"]}
    with api.client() as client:
        client.post("/v1/evidence", json=body)
        response = client.post("/v1/evidence", json=other)
        assert (response.status_code, response.json()["type"], response.json()["retry"]) == (409, "/problems/conflict", "never")
        record = client.get(f"/v1/evidence/{response.json()['record_id']}")
    assert record.status_code in (200, 404)


def test_who_waits_is_answered_when_it_is_final(api: Running) -> None:
    with api.client() as client:
        response = client.post("/v1/evidence?wait=final&timeout_s=30", json=submission())
        assert (response.status_code, response.json()["state"]) == (201, "final")
        item = client.get(f"/v1/evidence/{response.json()['evidence_id']}").json()
    assert item["state"] == "final"
    assert [chain["state"] for chain in item["chains"]] == ["final"]


def test_an_account_with_too_much_under_way_is_told_to_come_back(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "max_per_account", 0)
    before = api.size
    with api.client() as client:
        for path, body in (("/v1/evidence", submission()), ("/v1/evidence:batch", {"submissions": [submission()]})):
            response = client.post(path, json=body)
            assert (response.status_code, response.json()["type"], response.json()["retry"]) == (429, "/problems/busy", "later")
            assert int(response.headers["retry-after"]) >= 1
    assert api.size == before


def test_before_a_promise_can_be_broken_intake_pauses_and_reading_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, anchor_interval_s=3600.0, promise_s=1) as api, api.client() as client:
        made = client.post("/v1/evidence", json=submission()).json()
        for _ in range(1000):
            response = client.get("/readyz")
            if response.status_code == 503:
                break
        for refused in (response, client.post("/v1/evidence", json=submission())):
            assert (refused.status_code, refused.json()["type"], refused.json()["retry"]) == (
                503,
                "/problems/overloaded",
                "later",
            )
            assert int(refused.headers["retry-after"]) >= 1
        assert api.size == 1
        assert client.get(f"/v1/evidence/{made['evidence_id']}").status_code == 200
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("given", ["abc", "A.b:c_d-9", "x" * 64])
def test_a_request_id_of_safe_characters_is_echoed(api: Running, given: str) -> None:
    with api.client() as client:
        assert client.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "<script>", "张三"])
def test_any_other_is_replaced_by_a_fresh_one(api: Running, given: str | None) -> None:
    headers = [] if given is None else [(b"x-request-id", given.encode())]
    with api.client() as client:
        found = [client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in found)
    assert found[0] != found[1]


# --- items ----------------------------------------------------------------------------------------------------------


def test_pages_are_pinned_and_give_every_item_once(api: Running) -> None:
    with api.client() as client:
        page = client.get("/v1/evidence", params={"limit": 7, "template": "file@1"}).json()
        client.post("/v1/evidence", json=submission())
        seen, size = [item["leaf_index"] for item in page["items"]], page["as_of"]["tree_size"]
        while page["next_cursor"]:
            page = client.get("/v1/evidence", params={"limit": 100, "template": "file@1", "cursor": page["next_cursor"]}).json()
            assert page["as_of"]["tree_size"] == size
            seen += [item["leaf_index"] for item in page["items"]]
    assert len(seen) == len(set(seen)) == page["total"]
    assert max(seen) < size


def test_an_item_is_found_by_the_digest_of_its_file_and_not_by_another(api: Running) -> None:
    body = submission()
    digest = body["stages"]["文件"]["object"]["digest"]
    with api.client() as client:
        made = client.post("/v1/evidence", json=body).json()
        for found in (
            client.get("/v1/evidence", params={"digest": digest}),
            client.post("/v1/evidence:search", json={"digest": digest}),
        ):
            assert [item["evidence_id"] for item in found.json()["items"]] == [made["evidence_id"]]
        assert client.get("/v1/evidence", params={"digest": "sm3:" + "0" * 64}).json()["total"] == 0


def test_a_day_is_a_day_in_beijing_and_a_range_that_holds_nothing_is_refused(api: Running) -> None:
    body = {**submission(), "occurred_at": "2025-03-01T16:30:00.000Z"}  # 00:30 on the 2nd in Beijing
    with api.client() as client:
        made = client.post("/v1/evidence", json=body).json()["evidence_id"]

        def found(start: str, end: str) -> list[str]:
            asked = {"axis": "occurred", "from": start, "to": end}
            answer, posted = client.get("/v1/evidence", params=asked), client.post("/v1/evidence:search", json=asked)
            assert (answer.status_code, posted.status_code) == (200, 200), answer.text
            ids, again = ([item["evidence_id"] for item in page.json()["items"]] for page in (answer, posted))
            assert ids == again
            return ids

        assert found("2025-03-02", "2025-03-02") == [made]
        assert found("2025-03-01", "2025-03-01") == []
        assert found("2025-03-01", "2025-03-02") == [made]
        assert found("2025-03-02T00:00:00+08:00", "2025-03-02T00:30:00+08:00") == []
        assert found("2025-03-02T00:30:00+08:00", "2025-03-02T00:30:01+08:00") == [made]
        for start, end in (("2025-03-03", "2025-03-02"), ("2025-03-02T00:00:00+08:00", "2025-03-01T16:00:00Z")):
            answer = client.get("/v1/evidence", params={"from": start, "to": end})
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "to")
            assert client.post("/v1/evidence:search", json={"from": start, "to": end}).status_code == 422


def test_a_prefix_names_an_item(api: Running) -> None:
    with api.client() as client:
        made = client.post("/v1/evidence", json=submission()).json()
        assert client.get(f"/v1/evidence/{made['evidence_id'][:19]}").json()["leaf_index"] == made["leaf_index"]


def test_a_bundle_is_the_same_each_time_and_verifies(api: Running) -> None:
    with api.client() as client:
        made = client.post("/v1/evidence?wait=final&timeout_s=30", json=submission()).json()
        path = f"/v1/evidence/{made['evidence_id']}/bundle"
        first, again = client.get(path), client.get(path)
        assert first.status_code == 200, first.text
        assert first.content == again.content
        assert first.headers["etag"] == again.headers["etag"] == f'"{sm3(first.content).hex()}"'
        for answer in (
            client.post("/v1/verify", files=[("bundle", ("x.cz", first.content))]),
            client.post("/v1/verify", content=first.content, headers={"content-type": first.headers["content-type"]}),
        ):
            assert answer.json()["verdict"] == "VALID", answer.text
            assert "own" in answer.json()["trust_is"]
        tampered = bytearray(first.content)
        tampered[len(tampered) // 2] ^= 1
        assert client.post("/v1/verify", files=[("bundle", ("x.cz", bytes(tampered)))]).json()["verdict"] != "VALID"
        bare = client.get(path, params={"disclose": ""})
        assert len(bare.content) < len(first.content)


def test_an_item_that_is_not_final_has_no_bundle_yet(tmp_path: Path) -> None:
    with running(tmp_path, anchor_interval_s=3600.0) as api, api.client() as client:
        made = client.post("/v1/evidence", json=submission()).json()
        assert made["state"] == "promised"
        response = client.get(f"/v1/evidence/{made['evidence_id']}/bundle")
        assert (response.status_code, response.json()["type"], response.json()["retry"]) == (409, "/problems/not-final", "later")


def test_every_node_answers_for_itself(api: Running) -> None:
    with api.client() as client:
        made = client.post("/v1/evidence?wait=final&timeout_s=30", json=submission()).json()
        found = client.get(f"/v1/evidence/{made['evidence_id']}/nodes").json()
    assert found["agree"] is True
    assert [answer["node"] for answer in found["nodes"]] == [0, 1, 2, 3]
    assert {answer["state"] for answer in found["nodes"]} == {"present"}


def test_an_issuance_is_carried_out_and_is_itself_preserved(api: Running) -> None:
    with api.client() as client:
        made = client.post("/v1/evidence?wait=final&timeout_s=30", json=submission()).json()
        begun = client.post("/v1/issuances", json={"ids": [made["evidence_id"]], "matter": "（2026）京01民初1号"})
        assert begun.status_code == 201, begun.text
        for _ in range(200):
            found = client.get(begun.headers["location"]).json()
            if found["state"] != "running":
                break
        assert (found["state"], found["done"], found["total"]) == ("done", 1, 1)
        assert found["record"].startswith("ev_")


# --- the log --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "tree"), [("/v1/log", Algorithm.SM3), ("/v1/log/sha256", Algorithm.SHA256)], ids=["sm3", "sha256"]
)
def test_the_log_can_be_rebuilt_from_its_tiles(api: Running, prefix: str, tree: Algorithm) -> None:
    with api.client(None) as client:
        answer = client.get(f"{prefix}/checkpoint")
        head = Note.parse(answer.text).checkpoint()
        assert answer.headers["content-type"].startswith("text/plain")
        unchanged = client.get(f"{prefix}/checkpoint", headers={"if-none-match": answer.headers["etag"]})
        entries, hashes = b"", b""
        full, rest = divmod(head.size, 256)
        assert full >= 1
        assert rest
        for place in [index_path(n) for n in range(full)] + [index_path(full, rest)]:
            for name in ("entries", "0"):
                tile = client.get(f"{prefix}/tile/{name}/{place}")
                assert tile.status_code == 200, tile.text
                assert "immutable" in tile.headers["cache-control"]
                if name == "0":
                    hashes += tile.content
                else:
                    entries += tile.content
        upper = client.get(f"{prefix}/tile/1/{index_path(0, full)}").content
    assert unchanged.status_code in (304, 200)
    found = [entries[start + 2 : start + 66] for start in range(0, len(entries), 66)]
    leaves = [leaf_hash(entry, algorithm=tree) for entry in found]
    assert b"".join(leaves) == hashes
    assert root(leaves, algorithm=tree) == head.root
    assert upper[:32] == root(leaves[:256], algorithm=tree)


@pytest.mark.parametrize(
    ("prefix", "tree"), [("/v1/log", Algorithm.SM3), ("/v1/log/sha256", Algorithm.SHA256)], ids=["sm3", "sha256"]
)
def test_proofs_of_the_log_verify(api: Running, prefix: str, tree: Algorithm) -> None:
    with api.client(None) as client:
        head = Note.parse(client.get(f"{prefix}/checkpoint").text).checkpoint()
        leaf = client.get(f"{prefix}/tile/0/000").content[32:64]
        found = client.get(f"{prefix}/inclusion", params={"leaf_index": 1, "tree_size": head.size}).json()
        path = [base64.b64decode(node) for node in found["path"]]
        verify_inclusion(leaf, 1, head.size, path, head.root, algorithm=tree)
        grown = client.get(f"{prefix}/consistency", params={"from": 256, "to": head.size}).json()
        old = client.get(f"{prefix}/tile/1/000.p/1").content
        verify_consistency(256, head.size, [base64.b64decode(node) for node in grown["path"]], old, head.root, algorithm=tree)
        assert client.get(f"{prefix}/consistency", params={"from": 0, "to": head.size}).json()["path"] == []
        assert client.get(f"{prefix}/consistency", params={"from": 5, "to": 5}).json()["path"] == []


def test_refuses_a_tile_that_is_not_there_yet(api: Running) -> None:
    with api.client(None) as client:
        for place in ("9/000", "0/x009/999", "entries/x009/999", "1/001"):
            assert client.get(f"/v1/log/tile/{place}").status_code == 404


# --- chains ---------------------------------------------------------------------------------------------------------


def test_blocks_and_transactions_are_each_nodes_own(api: Running) -> None:
    with api.client() as client:
        made = client.post("/v1/evidence?wait=final&timeout_s=30", json=submission()).json()
        (on_chain,) = client.get(f"/v1/evidence/{made['evidence_id']}").json()["chains"]
        (chain,) = client.get("/v1/chains").json()["items"]
        assert chain["chain"] == on_chain["chain"]
        assert [node["node"] for node in chain["nodes"]] == [0, 1, 2, 3]
        blocks = []
        for node in chain["nodes"]:
            prefix = f"/v1/chains/{chain['chain']}/nodes/{node['node']}"
            block = client.get(f"{prefix}/blocks/{on_chain['height']}").json()
            assert on_chain["tx_id"] in block["transactions"]
            assert client.get(f"{prefix}/tx/{on_chain['tx_id']}").json()["height"] == on_chain["height"]
            page = client.get(f"{prefix}/blocks", params={"from": 0, "limit": 3}).json()
            assert [item["height"] for item in page["items"]] == [0, 1, 2][: len(page["items"])]
            blocks.append({name: value for name, value in block.items() if name != "node"})
        assert all(block == blocks[0] for block in blocks)
        assert client.get(f"{prefix}/blocks/{2**40}").status_code == 404
        assert client.get(f"{prefix}/tx/{'0' * 64}").status_code == 404
        assert client.get(f"/v1/chains/{chain['chain']}/nodes/9/blocks").status_code == 404


def test_the_blocks_of_a_node_are_given_page_by_page_each_once(api: Running) -> None:
    with api.client() as client:
        client.post("/v1/evidence?wait=final&timeout_s=30", json=submission())
        (chain,) = client.get("/v1/chains").json()["items"]
        address, heights, start = f"/v1/chains/{chain['chain']}/nodes/0/blocks", [], "0"
        while start is not None:
            page = client.get(address, params={"from": start, "limit": 2}).json()
            heights += [block["height"] for block in page["items"]]
            start = page["next_cursor"]
        assert heights == list(range(page["total"]))
        assert len(heights) > 2
        beyond = client.get(address, params={"from": page["total"] + 1000}).json()
    assert (beyond["items"], beyond["next_cursor"]) == ([], None)


def test_every_list_has_the_same_members(api: Running) -> None:
    with api.client() as client:
        (chain,) = client.get("/v1/chains").json()["items"]
        for path in ("/v1/evidence", "/v1/templates", "/v1/chains", f"/v1/chains/{chain['chain']}/nodes/0/blocks", "/v1/streams"):
            page = client.get(path).json()
            assert {"items", "next_cursor", "as_of", "total", "complete"} <= set(page), path
            assert page["complete"] == "stated"
            assert page["as_of"]["tree_size"] == api.size
            assert page["total"] >= len(page["items"])


# --- what anyone may know -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", builtin_names())
def test_a_template_is_given_byte_for_byte(api: Running, name: str) -> None:
    with api.client(None) as client:
        answer = client.get(f"/v1/templates/{name}")
        assert Template.parse(answer.content).pair == builtin(name).pair
        assert client.get(f"/v1/templates/{name}", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
        schema = client.get(f"/v1/templates/{name}/schema").json()
    assert set(schema["properties"]) == {stage.name for stage in builtin(name).stages}


@pytest.mark.parametrize("name", ["file@1", "tsac004.underwriting-papers@1", "tsac004.fund-order@1"])
def test_the_schema_of_a_template_accepts_its_example_and_refuses_an_empty_one(api: Running, name: str) -> None:
    template = builtin(name)
    with api.client(None) as client:
        schema = client.get(f"/v1/templates/{name}/schema").json()
    stages = example(template, seed=b"s", client_key="k")["stages"]
    validator = jsonschema_rs.validator_for(schema)
    validator.validate(stages)
    assert not validator.is_valid({})
    assert not validator.is_valid({**stages, "另一环节": {}})


def test_a_certificate_can_be_fetched_by_anyone_and_a_key_by_nobody(api: Running) -> None:
    signer = SM2Signer.generate()
    start = utc_now().replace(microsecond=0)
    der = issue(
        "CN=示例证券",
        signer.public_key,
        signer=signer,
        issuer=None,
        serial=1,
        not_before=start,
        not_after=start + timedelta(days=1),
    )
    found = api.service.access.register_certificate(None, der)
    with api.client(None) as client:
        answer = client.get(f"/v1/certificates/{found.digest.value.hex()}")
        assert (answer.status_code, answer.content) == (200, der)
        assert client.get(f"/v1/certificates/{'0' * 64}").status_code == 404
        assert not [path for path in client.get("/openapi.json").json()["paths"] if "key" in path or "secret" in path]


def test_the_service_names_its_keys_and_limits(api: Running) -> None:
    with api.client(None) as client:
        found = client.get("/v1/service").json()
    assert found["environment"] == "sandbox"
    assert {key["tree"] for key in found["keys"]} == {"sm3", "sha256"}
    assert found["limits"]["submission_bytes"] == 1 << 20


def test_metrics_count_and_name_nobody(api: Running) -> None:
    with api.client() as client:
        client.get("/v1/evidence/ev_" + "0" * 64)
        text = client.get("/metrics").text
    for name in (
        "http_request_duration_seconds_bucket",
        "queue_depth",
        "log_size",
        "oldest_promise_age_seconds",
        "anchors_open",
        "chain_lag_items",
    ):
        assert f"evidence_{name}" in text
    assert 'route="/v1/evidence/{item_id}"' in text
    # A sum of times may hold any digits; what could tell something are names and labels.
    named = "\n".join(line.rpartition(" ")[0] for line in text.splitlines())
    for private in ("business", "subject-1", "示例", "ev_0", "0000"):
        assert private not in named


def test_the_front_page_shows_the_log_and_nothing_of_its_contents(api: Running) -> None:
    with api.client(None) as client:
        chinese, english = client.get("/"), client.get("/?lang=en")
        default = client.get("/", headers={"accept-language": "en-GB,en"})
    assert SANDBOX_BANNER in chinese.text
    assert SANDBOX_BANNER in english.text
    assert 'lang="zh-CN"' in chinese.text
    assert 'lang="en"' in default.text
    state = api.service.log.state
    assert state.head.sm3_root.hex() in chinese.text
    assert "示例" not in chinese.text
    policy = chinese.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r'(?:src|href)="https?://', chinese.text + english.text)


@pytest.mark.parametrize("name", KINDS)
def test_the_page_behind_every_problem_exists_in_both_languages(api: Running, name: str) -> None:
    with api.client(None) as client:
        assert KINDS[name].title_zh in client.get(f"/problems/{name}").text
        assert KINDS[name].title_en in client.get(f"/problems/{name}?lang=en").text


def test_the_documentation_needs_nothing_from_elsewhere(api: Running) -> None:
    with api.client(None) as client:
        page = client.get("/docs")
        for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert address.startswith("/")
            assert client.get(address).status_code == 200
        assert "https:" not in page.headers["content-security-policy"]
        assert client.get("/docs/none.js").status_code == 404


def test_the_description_is_explicit_and_ascii(api: Running) -> None:
    with api.client(None) as client:
        found = client.get("/openapi.json").json()
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert all(name.isascii() and "_" not in name for name in names)
    assert all(name.isascii() for name in found["components"]["schemas"])
    for operation in operations:
        assert any(status.startswith("4") for status in operation["responses"])
        assert operation["summary"]
    assert {"/v1/evidence", "/v1/evidence:batch", "/v1/log/checkpoint", "/v1/verify"} <= set(found["paths"])
