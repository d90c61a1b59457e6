"""What was planted through the real service is found in no file, row, ledger, log, metric, problem or page of it."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from homes import file_submission
from served import ENTRY, Served, clean_environment, served

from models.digest import pair, sha256, sm3
from models.example import example
from models.merkle import leaf_hash
from models.template import FieldType, builtin
from postgres import Database

ORDER = "tsac004.fund-order@1"
ID_NUMBER = "11010519491231002X"
TEXT = "甄别词"
NUMBERS = {"entrust_amount"}
"""Texts that the template wants to be numbers."""
CONTENT = b"".join(b"unmistakable line %06d of the planted original\n" % number for number in range(3000))


@dataclass(frozen=True, slots=True)
class Planted:
    """Everything that must not be found, by a name under which a failure tells it; and what the service answered besides."""

    things: Mapping[str, bytes]
    answers: tuple[bytes, ...]


def order(client_key: str, mark: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A whole order of Appendix B in which every free text that is personal is one of ours."""
    template = builtin(ORDER)
    body = example(template, seed=mark.encode(), client_key=client_key)
    things: dict[str, bytes] = {}
    for stage in template.stages:
        for field in stage.fields:
            is_text = field.type in (FieldType.CHARACTER, FieldType.TEXT) and not field.enum
            if is_text and field.name not in NUMBERS and (field.grade or 0) >= 2 and field.name in body["stages"][stage.name]:
                text = f"{TEXT}{mark}{field.name.replace('_', '')[:24]}"
                body["stages"][stage.name][field.name] = text
                things[f"{mark} {field.name}"] = text.encode()
    assert len(things) > 20
    template.validate(body["stages"], link_code=body["link"]["code"])
    return body, things


def forms(thing: bytes) -> Iterator[bytes]:
    """How bytes may stand in a file: as they are, in hex, in base64, escaped in JSON."""
    yield thing
    yield thing.hex().encode()
    yield thing.hex().upper().encode()
    for place in range(3):
        text = base64.b64encode(bytes(place) + thing)
        # Only the characters that depend on nothing but the thing itself.
        inner = text[(0, 2, 3)[place] : len(text) - 4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")
    try:
        escaped = json.dumps(thing.decode())[1:-1].encode()
    except UnicodeDecodeError:
        return
    yield escaped


def assert_absent(things: Mapping[str, bytes], where: Mapping[str, bytes]) -> None:
    found = [
        f"{name} in {place}"
        for name, thing in things.items()
        for form in set(forms(thing))
        if len(form) >= 8
        for place, data in where.items()
        if form in data
    ]
    assert found == []


def test_search_finds_each_form_of_what_it_looks_for() -> None:
    thing = "甄别词乙客户姓名".encode()
    kept = {
        "plain": b"x" + thing + b"y",
        "hex": b"x" + thing.hex().encode(),
        "escaped": json.dumps({"name": thing.decode()}).encode(),
        **{f"base64 at {place}": base64.b64encode(bytes(place) + thing + b"more") for place in range(3)},
        **{f"base64url at {place}": base64.urlsafe_b64encode(bytes(place) + thing + b"more") for place in range(3)},
    }
    for name, data in kept.items():
        with pytest.raises(AssertionError, match=name):
            assert_absent({"thing": thing}, {name: data})
    assert_absent({"thing": thing}, {"other": b"nothing of it"})


# --- planting -------------------------------------------------------------------------------------------------


def add_account(service: Served, name: str, role: str) -> str:
    """The token of a new account, printed once."""
    done = subprocess.run(
        [*ENTRY, "access", "add", name, "--role", role, "--subject", "planted-subject", "--json"],
        env=clean_environment(EVIDENCE_HOME=str(service.home), **_database(service)),
        capture_output=True,
        text=True,
        check=True,
        cwd=service.home.parent,
    )
    return str(json.loads(done.stdout)["token"])


def _database(service: Served) -> dict[str, str]:
    path = service.home.parent / "database"
    return {"EVIDENCE_DATABASE_URL": path.read_text()} if path.exists() else {}


def plant(service: Served) -> Planted:
    """Orders, files, conflicts, refusals, searches and issues, all through HTTP."""
    local = (service.home / "token").read_text().strip()
    token = add_account(service, "planter", "business")
    auditor = add_account(service, "looker", "auditor")
    body, things = order("order-1", "甲")
    conflicting, more = order("order-1", "乙")
    things |= more
    broken, more = order("order-2", "丙")
    things |= more
    stage = next(iter(broken["stages"].values()))
    stage["subject_create_time"] = f"{TEXT}丙时间"
    stage["unknown_member"] = f"{TEXT}丙多余"
    things |= {"broken time": f"{TEXT}丙时间".encode(), "unknown member": f"{TEXT}丙多余".encode()}
    digests = pair(CONTENT)
    file = file_submission("file-1", source=f"{TEXT}来源")
    fields = file["stages"]["文件"]
    name = f"{TEXT}合同.pdf"
    fields.update({"file_name": name, "file_size": len(CONTENT)})
    fields["object"] = {
        "digest": f"sm3:{digests.sm3.hex()}", "twin": f"sha256:{digests.sha256.hex()}", "name": name, "size": len(CONTENT),
    }  # fmt: skip
    digest = fields["object"]["digest"]
    file["originals"] = [{"field": "object", "digest": digest, "name": name, "media_type": "application/pdf"}]
    answers: list[bytes] = []
    with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {token}"}, timeout=120) as client:

        def expect(status: int, response: httpx.Response) -> httpx.Response:
            assert response.status_code == status, response.text
            return response

        expect(201, client.put(f"/v1/originals/{digest}", content=CONTENT))
        made = expect(201, client.post("/v1/evidence", json=file)).json()
        first = expect(201, client.post("/v1/evidence?wait=final&timeout_s=60", json=body)).json()
        answers.append(expect(409, client.post("/v1/evidence", json=conflicting)).content)
        answers.append(expect(422, client.post("/v1/evidence", json=broken)).content)
        personal = file_submission(ID_NUMBER)
        answers.append(expect(422, client.post("/v1/evidence", json=personal)).content)
        answers.append(
            client.post(
                "/v1/evidence", content=f'{{"template": "{TEXT}'.encode(), headers={"content-type": "application/json"}
            ).content
        )
        answers.append(client.post("/v1/evidence", json={**file, "template": f"{TEXT}模板@1"}).content)
        answers.append(client.get(f"/v1/evidence/{TEXT}查询").content)
        answers.append(client.get(f"/v1/transactions/{TEXT}事务").content)
        answers.append(client.get("/v1/evidence", params={"digest": f"{TEXT}摘要"}).content)
        answers.append(
            client.get("/v1/evidence", headers={"authorization": f"Bearer {TEXT.encode().hex()}planted-token"}).content
        )
        answers.append(client.put(f"/v1/originals/sm3:{sm3(b'other').hex()}", content=CONTENT).content)
        found = expect(200, client.post("/v1/evidence:search", json={"digest": digest})).json()
        assert found["total"] == 1
        for item in (made, first):
            expect(200, client.get(f"/v1/evidence/{item['evidence_id']}"))
        expect(200, client.get(f"/v1/evidence/{first['evidence_id']}/bundle"))
        assert client.get(f"/v1/originals/{digest}").status_code in (200, 206)
    with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {auditor}"}, timeout=120) as client:
        # What of an order an auditor is shown is masked as its template says; here it must only be kept nowhere.
        expect(200, client.get(f"/v1/evidence/{first['evidence_id']}"))
        answers.append(client.get(f"/v1/evidence/{first['evidence_id']}/bundle").content)
    with httpx.Client(base_url=service.url, timeout=120) as public:
        tiles = [f"/v1/log/tile/{name}/000.p/3" for name in ("entries", "0")]
        answers += [public.get(path).content for path in ("/metrics", "/", "/v1/service", "/v1/log/checkpoint", *tiles)]
    secrets = {f"secret {n}": base64.b64decode(item["secret"]) for n, item in enumerate((made, first))}
    things |= {
        "file name": name.encode(), "source": f"{TEXT}来源".encode(),
        "id number": ID_NUMBER.encode(), "planted word": TEXT.encode(),
        "line of the original": CONTENT[:40], "middle of the original": CONTENT[70_000:70_040],
        "sm3 of the original": digests.sm3, "sha256 of the original": digests.sha256,
        "token": token.encode(), "auditor's token": auditor.encode(), "local token": local.encode(), **secrets,
    }  # fmt: skip
    return Planted(things, tuple(answers))


def files_of(home: Path) -> dict[str, bytes]:
    """Every file of the home but the one that is the local user's token."""
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "token"}


@pytest.mark.long
def test_nothing_planted_is_found_in_the_home_its_log_or_its_answers(tmp_path: Path) -> None:
    with served(tmp_path / "home", options=(), EVIDENCE_ANCHOR_INTERVAL_S="0.02") as service:
        planted = plant(service)
        running = files_of(service.home)
    stopped = files_of(tmp_path / "home")
    assert {"evidence.db", "secrets.db"} <= stopped.keys()
    assert any(name.startswith("originals/") for name in stopped)
    assert sum(name.endswith("blocks.jsonl") for name in stopped) == 4
    log = (tmp_path / "serve.log").read_bytes()
    assert b'"sealed"' in log
    assert_absent(planted.things, {"serve.log": log})
    assert_absent(planted.things, {f"{name} while it runs": data for name, data in running.items()})
    assert_absent(planted.things, stopped)
    assert_absent(planted.things, {f"answer {number}": data for number, data in enumerate(planted.answers)})


@pytest.mark.long
def test_nothing_planted_is_found_in_any_row_of_postgresql(tmp_path: Path, postgres: Database) -> None:
    (tmp_path / "database").write_text(postgres.url)
    with served(tmp_path / "home", EVIDENCE_ANCHOR_INTERVAL_S="0.02", EVIDENCE_DATABASE_URL=postgres.url) as service:
        planted = plant(service)
    rows: dict[str, bytes] = {}
    with postgres.connect() as connection:
        names = [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        for name in names:
            table = connection.execute(f'SELECT * FROM "{name}"'.encode()).fetchall()
            cells = [cell if isinstance(cell, bytes) else str(cell).encode() for row in table for cell in row]
            rows[name] = b"\x00".join(cells)
    assert len(rows["evidence"]) > 1000
    assert_absent(planted.things, rows)
    assert_absent(planted.things, files_of(tmp_path / "home"))


# --- the rest of the dictionary attack ------------------------------------------------------------------------

STAGE = "存证数据-事务环节-适当性匹配信息"
HIDDEN = (
    "cust_risk_level_suitability",
    "cust_invest_kind_suitability",
    "cust_invest_term_suitability",
    "cust_affordable_of_loss_suitability",
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[bytes]]:
    """The victim's stage, and all 32-byte runs of what the public, the chain and a signature say of it and of its conflict."""
    folder = tmp_path_factory.mktemp("attacked")
    body, _ = order("victim-1", "受")
    other, _ = order("victim-1", "害")
    with served(folder / "home", EVIDENCE_ANCHOR_INTERVAL_S="0.02") as service:
        token = (service.home / "token").read_text().strip()
        with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {token}"}, timeout=120) as client:
            made = client.post("/v1/evidence?wait=final&timeout_s=60", json=body).json()
            conflict = client.post("/v1/evidence", json=other)
            assert conflict.status_code == 409
        with httpx.Client(base_url=service.url, timeout=120) as public:
            shown = [
                public.get(path).content
                for path in ("/v1/log/tile/entries/000.p/2", "/v1/log/tile/0/000.p/2", "/v1/log/checkpoint")
            ]
        blocks = (service.home / "chain" / "node-0" / "blocks.jsonl").read_bytes()
    return body["stages"][STAGE], [*shown, blocks, made["evidence"].encode(), conflict.content]


def guesses(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the four codes, all else known."""
    stage = builtin(ORDER).stage(STAGE)
    codes = [list(stage.field(name).enum or {}) for name in HIDDEN]
    for combination in product(*codes):
        yield {**values, **dict(zip(HIDDEN, combination, strict=True))}


def test_no_guess_is_confirmed_by_signature_conflict_record_chain_or_tiles(
    published: tuple[dict[str, Any], list[bytes]],
) -> None:
    values, shown = published
    everything = b"\x00".join(shown)
    tried = 0
    for guess in guesses(values):
        text = json.dumps(guess, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        for hashed in (sm3(text), sha256(text), leaf_hash(text), sm3(STAGE.encode() + text)):
            assert hashed not in everything
            assert hashed.hex().encode() not in everything
            tried += 1
    assert tried == 4 * 5 * 5 * 6 * 5


def test_the_attack_would_succeed_on_an_unsalted_digest(published: tuple[dict[str, Any], list[bytes]]) -> None:
    values, _ = published
    leaked = sm3(json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()).hex()
    fallen = [
        guess
        for guess in guesses(values)
        if sm3(json.dumps(guess, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()).hex() == leaked
    ]
    assert fallen == [values]
