"""The remote verbs against a real service, and the local ones beside it."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from served import ENTRY, Served, clean_environment, served

from evidence.cli.app import run
from evidence.client import AsyncClient, Client
from evidence.demo import verify_apart
from evidence.errors import Conflict, Forbidden
from evidence.promise import Promise, parse_promise
from models.digest import Algorithm, Digest, sm3
from models.errors import Invalid, VerificationError
from models.signature import SM2Signer
from models.trust import TrustRoots


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served") / "home") as found:
        yield found


Verb = Callable[..., tuple[int, Any]]


@pytest.fixture
def verb(service: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs a verb with --json and gives back its exit code and document."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str, **environ: str) -> tuple[int, Any]:
        code = run([*argv, "--json", "--quiet"], environ={**service.environ, **environ})
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


@pytest.fixture
def preserved(verb: Verb) -> dict[str, Any]:
    Path("秘密.txt").write_text("一段只有我们知道的内容", "utf-8")
    code, document = verb("preserve", "秘密.txt", "--wait", "final")
    assert code == 0
    found: dict[str, Any] = document
    return found


def example(verb: Verb, name: str = "file@1") -> dict[str, Any]:
    code, document = verb("templates", "example", name)
    assert code == 0
    found: dict[str, Any] = document
    return found


# --- preserve, show, query ------------------------------------------------------------------------------------


def test_a_file_is_preserved_once_however_often_it_is_sent(verb: Verb, preserved: dict[str, Any]) -> None:
    assert preserved["state"] == "final"
    code, again = verb("preserve", "秘密.txt")
    assert (code, again["evidence_id"], again["leaf_index"], again["created"]) == (
        0,
        preserved["evidence_id"],
        preserved["leaf_index"],
        False,
    )


def test_a_kept_promise_can_be_checked_again(verb: Verb, service: Served) -> None:
    Path("a.txt").write_text("a")
    code, document = verb("preserve", "--save", "a.txt")
    assert code == 0
    assert document["promise_file"] == "a.txt.promise.json"
    kept = json.loads(Path("a.txt.promise.json").read_text("utf-8"))
    assert Path("a.txt.promise.json").stat().st_mode & 0o077 == 0
    with Client(service.url) as client:
        keys = client._run(client._talk.log_keys())
    assert parse_promise(kept, keys=keys).evidence_id == document["evidence_id"]
    kept["leaf_index"] += 1
    with pytest.raises(VerificationError):
        parse_promise(kept, keys=keys)
    code, document = verb("preserve", "a.txt", "--save", "mine.promise.json")
    assert (code, Path("mine.promise.json").exists()) == (0, True)


def test_promises_are_judged_by_a_trust_file_that_is_given(verb: Verb, tmp_path: Path) -> None:
    Path("j.txt").write_text("j")
    assert verb("trust", "export", "-o", "trust.toml")[0] == 0
    assert verb("preserve", "j.txt", "--trust", "trust.toml")[0] == 0
    other = str(tmp_path / "other")
    assert verb("init", EVIDENCE_HOME=other)[0] == 0
    assert verb("trust", "export", "-o", "other.toml", EVIDENCE_HOME=other)[0] == 0
    assert verb("preserve", "j.txt", "--trust", "other.toml")[0] == 1


def test_folders_are_walked_only_when_asked(verb: Verb) -> None:
    Path("d/e").mkdir(parents=True)
    for number in range(3):
        Path(f"d/e/{number}.txt").write_text("same content")
    assert verb("preserve", "d")[0] == 64
    code, document = verb("preserve", "-r", "d")
    assert (code, document["total"], document["failed"]) == (0, 3, 0)
    assert len({each["evidence_id"] for each in document["items"]}) == 3


def test_keep_sends_digests_only(verb: Verb, service: Served) -> None:
    Path("kept.txt").write_text("this text stays at home 7c1f")
    code, document = verb("preserve", "kept.txt", "--originals", "keep")
    assert code == 0
    code, item = verb("show", document["evidence_id"])
    assert item["originals"] == [] or not any(each["held"] for each in item["originals"])


def test_an_uploaded_original_comes_back_byte_for_byte(verb: Verb, service: Served, preserved: dict[str, Any]) -> None:
    data = Path("秘密.txt").read_bytes()
    with Client(service.url, token=(service.home / "token").read_text()) as client:
        assert client.download_original(Digest(Algorithm.SM3, sm3(data))) == data


@pytest.mark.parametrize("name", ["file@1", "tsac004.underwriting-papers@1", "tsac004.fund-order@1"])
def test_examples_are_accepted_as_they_are(verb: Verb, name: str) -> None:
    Path("s.json").write_text(json.dumps(example(verb, name)), "utf-8")
    code, document = verb("preserve", "-f", "s.json")
    assert (code, document["created"]) == (0, True)


def test_a_unique_prefix_names_an_item(verb: Verb, preserved: dict[str, Any]) -> None:
    code, item = verb("show", preserved["evidence_id"][:11])
    assert (code, item["evidence_id"]) == (0, preserved["evidence_id"])


@pytest.mark.parametrize("how", ["--file", "--digest", "--field", "--template"])
def test_an_item_is_found_by(verb: Verb, preserved: dict[str, Any], how: str) -> None:
    value = {
        "--file": "秘密.txt",
        "--digest": f"sm3:{sm3(Path('秘密.txt').read_bytes()).hex()}",
        "--field": f"object=sm3:{sm3(Path('秘密.txt').read_bytes()).hex()}",
        "--template": "file@1",
    }[how]
    code, page = verb("query", how, value)
    assert code == 0
    if how != "--field":
        assert preserved["evidence_id"] in [each["evidence_id"] for each in page["items"]]
    assert page["as_of"]["tree_size"] >= 1


# --- issue, verify --------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(verb: Verb, preserved: dict[str, Any]) -> str:
    assert verb("trust", "export", "-o", "trust.toml")[0] == 0
    assert verb("issue", preserved["evidence_id"], "-o", "x.cz")[0] == 0
    return "x.cz"


def test_an_issued_bundle_verifies_with_its_original(verb: Verb, bundle: str) -> None:
    code, report = verb("verify", bundle, "--trust", "trust.toml", "--original", "秘密.txt")
    assert (code, report["verdict"]) == (0, "VALID")
    Path("other.txt").write_text("other")
    assert verb("verify", bundle, "--trust", "trust.toml", "--original", "other.txt")[0] == 1


def test_the_name_of_a_bundle_says_nothing(verb: Verb, bundle: str) -> None:
    Path(bundle).rename("holiday.jpg")
    assert verb("verify", "holiday.jpg", "--trust", "trust.toml")[0] == 0


def test_several_bundles_are_as_bad_as_the_worst(verb: Verb, bundle: str) -> None:
    data = Path(bundle).read_bytes()
    Path("broken.cz").write_bytes(data[:-1])
    code, document = verb("verify", bundle, "broken.cz", "--trust", "trust.toml")
    assert code == 3
    assert [each["report"]["verdict"] for each in document["items"]] == ["VALID", None]


def test_a_stranger_cannot_tell(verb: Verb, bundle: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("stranger") / "home"
    assert verb("init", EVIDENCE_HOME=str(home))[0] == 0
    assert verb("trust", "export", "-o", "strange.toml", EVIDENCE_HOME=str(home))[0] == 0
    code, report = verb("verify", bundle, "--trust", "strange.toml")
    assert (code, report["verdict"]) == (2, "INDETERMINATE")


def test_verify_needs_no_home_and_no_network(verb: Verb, bundle: str, tmp_path: Path) -> None:
    assert verify_apart([tmp_path / bundle], tmp_path / "trust.toml")[0]["verdict"] == "VALID"
    done = subprocess.run(
        [*ENTRY, "verify", bundle, "--trust", "trust.toml", "--lang", "en"],
        env=clean_environment(EVIDENCE_HOME="/nonexistent"),
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0
    assert "VALID" in done.stdout.decode()


def test_only_what_is_named_is_disclosed(verb: Verb, preserved: dict[str, Any], bundle: str) -> None:
    whole = Path(bundle).read_bytes()
    assert "秘密".encode() in whole
    assert verb("issue", preserved["evidence_id"], "-o", "part.cz", "--disclose", "file_size", "media_type")[0] == 0
    assert verb("issue", preserved["evidence_id"], "-o", "none.cz", "--disclose")[0] == 0
    for name in ("part.cz", "none.cz"):
        data = Path(name).read_bytes()
        assert "秘密".encode() not in data
        assert verb("verify", name, "--trust", "trust.toml")[0] == 0
    assert b"file_size" in Path("part.cz").read_bytes().replace(b'"name":"file_size"', b"")
    assert verb("issue", preserved["evidence_id"], "-o", "no.cz", "--disclose", "nosuch")[0] == 3


def test_explanations_go_into_an_empty_folder_only(verb: Verb, bundle: str) -> None:
    assert verb("verify", bundle, "--trust", "trust.toml", "--explain", "why")[0] == 0
    assert Path("why/explain.sh").exists()
    assert verb("verify", bundle, "--trust", "trust.toml", "--explain", "why")[0] == 64


def test_a_bundle_goes_to_stdout_as_bytes(service: Served, verb: Verb, preserved: dict[str, Any], bundle: str) -> None:
    done = subprocess.run(
        [*ENTRY, "issue", preserved["evidence_id"], "-o", "-"],
        env=clean_environment(**service.environ),
        capture_output=True,
        check=True,
    )
    assert done.stdout == Path(bundle).read_bytes()
    assert verb("issue", preserved["evidence_id"], "-o", "-")[0] == 64


def test_the_parts_of_a_link_are_issued_together(verb: Verb) -> None:
    submission = example(verb, "tsac004.fund-order@1")
    stages = list(submission["stages"].items())[:2]
    for number, (name, values) in enumerate(stages):
        part = {**submission, "client_key": f"{submission['client_key']}-{number}", "stages": {name: values}}
        Path("p.json").write_text(json.dumps(part), "utf-8")
        code, document = verb("preserve", "-f", "p.json", "--wait", "final")
        assert code == 0
    assert verb("issue", document["evidence_id"], "-o", "t.cz", "--kind", "transaction")[0] == 0
    assert verb("trust", "export", "-o", "trust.toml")[0] == 0
    code, report = verb("verify", "t.cz", "--trust", "trust.toml")
    assert (code, report["kind"]) == (0, "transaction")


# --- signed, sealed -------------------------------------------------------------------------------------------


@pytest.fixture
def key(verb: Verb) -> str:
    code, document = verb("key", "new", "-o", "k.pem", "--account", "local")
    assert code == 0
    assert Path("k.pem").stat().st_mode & 0o077 == 0
    assert verb("access", "register", "local", "--vkey", document["vkey"])[0] == 0
    return "k.pem"


def test_a_sealed_item_is_opened_only_by_its_opening(verb: Verb, key: str, service: Served) -> None:
    code, account = verb("whoami")
    Path("account.json").write_text(json.dumps(account))
    Path("geheim-0f3a.txt").write_text("sealed")
    argv = ["seal", "geheim-0f3a.txt", "-o", "s.json", "--opening", "o.json", "--key", key, "--account", "account.json"]
    assert verb(*argv)[0] == 0
    code, document = verb("preserve", "-f", "s.json", "--wait", "final")
    assert (code, document["created"]) == (0, True)
    assert verb("preserve", "-f", "s.json")[1]["created"] is False
    assert verb("show", document["evidence_id"])[1]["validated_by"] == "submitter"
    assert verb("trust", "export", "-o", "trust.toml")[0] == 0
    assert verb("issue", document["evidence_id"], "-o", "closed.cz")[0] == 0
    assert verb("issue", document["evidence_id"], "-o", "open.cz", "--opening", "o.json", "--disclose", "file_name")[0] == 0
    for name, shows in (("closed.cz", False), ("open.cz", True)):
        assert (b"geheim-0f3a" in Path(name).read_bytes()) is shows
        assert verb("verify", name, "--trust", "trust.toml")[0] == 0
    Path("b.txt").write_text("another")
    argv[1:6] = ["b.txt", "-o", "s2.json", "--opening", "o2.json"]
    assert verb(*argv)[0] == 0
    assert verb("issue", document["evidence_id"], "-o", "no.cz", "--opening", "o2.json")[0] == 1
    assert not Path("no.cz").exists()


def test_a_signed_item_is_checked_also_when_it_is_sent_again(verb: Verb, key: str) -> None:
    Path("s.txt").write_text("signed")
    code, first = verb("preserve", "s.txt", "--sign-key", key)
    assert (code, first["created"]) == (0, True)
    code, second = verb("preserve", "s.txt", "--sign-key", key)
    assert (code, second["evidence_id"], second["created"]) == (0, first["evidence_id"], False)
    assert verb("show", first["evidence_id"])[1]["signed_by"] is not None


def test_an_unregistered_key_is_refused(verb: Verb) -> None:
    Path("other.pem").write_bytes(SM2Signer.generate().to_pem())
    Path("s2.txt").write_text("signed")
    assert verb("preserve", "s2.txt", "--sign-key", "other.pem")[0] == 3


# --- access, refusals -----------------------------------------------------------------------------------------


def test_a_token_is_printed_once_last_on_the_line(service: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["access", "add", "printed", "--role", "auditor", "--expires", "90d"], environ=service.environ) == 0
    out = capsys.readouterr().out
    token = out.splitlines()[0].split()[-1]
    assert token.startswith("cz_")
    assert run(["access", "list"], environ=service.environ) == 0
    assert token not in capsys.readouterr().out


@pytest.mark.parametrize("span", ["90", "d", "0d", "-1d", "90y", "999999d"])
def test_a_span_is_a_number_and_a_unit(verb: Verb, span: str) -> None:
    code = verb("access", "add", "spanned", "--role", "auditor", "--expires", span)[0]
    assert code == (64 if span != "999999d" else code)
    assert code not in {1, 2, 70}


def test_roles_are_kept_apart(verb: Verb, preserved: dict[str, Any], bundle: str) -> None:
    tokens = {}
    for role in ("auditor", "court", "operator"):
        code, document = verb("access", "add", f"one-{role}", "--role", role)
        assert code == 0
        tokens[role] = document["token"]
    Path("n.txt").write_text("n")
    for token in tokens.values():
        code, document = verb("preserve", "n.txt", EVIDENCE_TOKEN=token)
        assert (code, document["status"]) == (1, 403)
    code, item = verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=tokens["auditor"])
    assert code == 0
    assert [(each["name"], each["digest"]) for each in item["originals"]] == [(None, None)]
    assert sm3(Path("秘密.txt").read_bytes()).hex() not in json.dumps(item)
    assert verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=tokens["operator"])[1]["contents"] is None


def test_expired_revoked_rotated_and_missing_tokens_let_nobody_in(verb: Verb, preserved: dict[str, Any], tmp_path: Path) -> None:
    code, document = verb("access", "add", "leaver", "--role", "auditor")
    old = document["token"]
    assert verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=old)[0] == 0
    code, document = verb("access", "rotate", "leaver")
    deadline = time.monotonic() + 5
    while verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=old)[0] != 1:
        assert time.monotonic() < deadline
    assert verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=document["token"])[0] == 0
    assert verb("access", "revoke", "leaver")[0] == 0
    for token in ("cz_x", "nonsense", "x" * 300):
        code, document = verb("show", preserved["evidence_id"], EVIDENCE_TOKEN=token)
        assert code == 1
        assert document["type"] == "/problems/unauthorised"
    assert verb("show", preserved["evidence_id"], EVIDENCE_HOME=str(tmp_path / "none"))[0] == 1
    assert verb("access", "revoke", "nobody")[0] == 1
    assert verb("access", "add", "leaver", "--role", "auditor")[0] == 1


def test_a_refusal_is_a_document_on_stdout(verb: Verb, service: Served, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = verb("show", "ev_0000000000")
    assert (code, document["status"], document["type"]) == (1, 404, "/problems/not-found")
    assert document["request_id"]
    assert run(["show", "ev_0000000000"], environ=service.environ) == 1
    assert capsys.readouterr().out


def test_not_final_yet_is_two_and_the_promise_stands(verb: Verb) -> None:
    Path("late.txt").write_text("late")
    code, document = verb("preserve", "late.txt", "--wait", "final", "--timeout", "0", "--save")
    assert code == 2
    assert document["evidence_id"]
    assert Path("late.txt.promise.json").exists()
    code, refused = verb("issue", document["evidence_id"], "-o", "late.cz")
    assert (code, refused["type"]) in {(2, "/problems/not-final"), (0, None)} if "type" in refused else code == 0
    assert verb("preserve", "late.txt", "--wait", "final")[0] == 0


def test_another_content_under_one_client_key_is_a_conflict_with_its_record(verb: Verb, service: Served) -> None:
    first, second = example(verb), example(verb)
    second["client_key"] = first["client_key"]
    for body, expected in ((first, 0), (second, 1)):
        Path("s.json").write_text(json.dumps(body), "utf-8")
        code, document = verb("preserve", "-f", "s.json")
        assert code == expected
    assert verb("show", document["record_id"])[0] in {0, 1}
    with Client(service.url, token=(service.home / "token").read_text()) as client, pytest.raises(Conflict) as refused:
        client.preserve(second)
    assert refused.value.record_id == document["record_id"]


def test_all_problems_are_told_and_no_value(verb: Verb) -> None:
    body = example(verb)
    body["stages"]["文件"] |= {"file_size": "geheim-81", "collected_at": "geheim-82", "more": "geheim-83"}
    body["client_key"] = "13812345678"
    Path("s.json").write_text(json.dumps(body), "utf-8")
    code, document = verb("preserve", "-f", "s.json")
    assert code == 3
    assert len(document["errors"]) >= 3
    assert "geheim" not in json.dumps(document)
    assert "13812345678" not in json.dumps(document)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"template": "nosuch@1"}, 3),
        ({"template": 7}, 3),
        ({"client_key": ""}, 3),
        ({"client_key": "k" * 129}, 3),
        ({"client_key": None}, 3),
        ({"stages": {}}, 3),
        ({"stages": []}, 3),
        ({"stages": {"nosuch": {}}}, 3),
        ({"occurred_at": "yesterday"}, 3),
        ({"secret": "AAAA"}, 3),
        ({"secret": 5}, 3),
        ({"unknown": 1}, 3),
        ({"link": {"code": "a\u0000b"}}, 3),
        ({"sealed": {"statement": "{}"}}, 3),
        ({"signature": {"key_id": "00000000", "encoding": "rs", "value": "AAAA"}}, 3),
        ({"originals": [{"field": "object", "digest": "sm3:" + "0" * 64, "name": "x", "media_type": "y"}]}, 3),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_submission_and_injury(verb: Verb, change: dict[str, Any], code: int) -> None:
    body = {**example(verb), **change}
    size = verb("query", "--limit", "1")[1]["as_of"]["tree_size"]
    Path("s.json").write_text(json.dumps(body), "utf-8")
    found, document = verb("preserve", "-f", "s.json")
    assert (found, bool(document["detail"])) == (code, True)
    assert verb("query", "--limit", "1")[1]["as_of"]["tree_size"] == size


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["show", "x"], {1, 3}),
        (["show", "../../v1/service"], {1, 3}),
        (["show", "ev_" + "g" * 10], {1, 3}),
        (["query", "--digest", "md5:00"], {3}),
        (["query", "--from", "yesterday"], {3}),
        (["query", "--limit", "100000"], {3}),
        (["query", "--cursor", "!!"], {3}),
        (["issue", "ev_0000000000", "-o", "x.cz"], {1}),
        (["issue", "ev_0000000000", "-o", "no/such/x.cz"], {1}),
        (["chain", "blocks", "--chain", "nosuch"], {1}),
        (["chain", "blocks", "--node", "77"], {1}),
        (["chain", "show", "nosuch"], {1}),
        (["chain", "show", "nosuch", "--all-nodes"], {1}),
        (["chain", "compare", "ev_0000000000"], {1}),
        (["access", "add", "", "--role", "auditor"], {3}),
        (["access", "add", "x", "--role", "emperor"], {64}),
        (["access", "add", "x"], {64}),
        (["access", "register", "local", "--vkey", "x"], {3}),
        (["access", "register", "local"], {64}),
        (["trust", "export"], {64}),
        (["trust", "export", "-o", "no/such/t.toml"], {64}),
        (["key", "new", "-o", "-", "--account", "x"], {64}),
        (["key", "show", "absent", "--account", "x"], {64}),
        (["serve", "--port", "99999"], {64}),
        (["serve", "--port", "0"], {4}),
        (["init", "--environment", "nowhere"], {64}),
        (["init", "--environment", "production"], {64}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_verb_and_injury_against_a_service(verb: Verb, argv: Sequence[str], code: set[int]) -> None:
    found, document = verb(*argv)
    assert found in code
    assert document["detail"]


def test_a_wrong_setting_is_named_in_one_sentence(verb: Verb) -> None:
    for name, value in {"EVIDENCE_PORT": "many", "EVIDENCE_CHAINS": "nothing", "EVIDENCE_ANCHR_MODE": "BATCH"}.items():
        code, document = verb("access", "list", **{name: value})
        assert code == 64
        assert name in document["detail"]


def test_no_home_is_no_verdict(verb: Verb, tmp_path: Path) -> None:
    for argv in (["serve", "--port", "0"], ["trust", "export", "-o", "t"], ["access", "list"]):
        assert verb(*argv, EVIDENCE_HOME=str(tmp_path / "nothing"))[0] == 4


# --- chains ---------------------------------------------------------------------------------------------------


def test_every_node_answers_for_itself(verb: Verb, preserved: dict[str, Any]) -> None:
    code, chains = verb("chain", "nodes")
    assert (code, len(chains["items"][0]["nodes"])) == (0, 4)
    code, blocks = verb("chain", "blocks", "--node", "2", "--limit", "3")
    assert code == 0
    tx = next(tx for block in blocks["items"] for tx in block["transactions"])
    code, found = verb("chain", "show", tx, "--all-nodes")
    assert (code, len(found["nodes"]), all(each["answer"] for each in found["nodes"])) == (0, 4, True)
    code, found = verb("chain", "show", tx, "--node", "3")
    assert (code, found["node"]) == (0, 3)
    code, found = verb("chain", "compare", preserved["evidence_id"])
    assert (code, found["agree"]) == (0, True)


# --- init, Python ---------------------------------------------------------------------------------------------


def test_init_never_overwrites(verb: Verb, tmp_path: Path) -> None:
    home = str(tmp_path / "fresh")
    code, first = verb("init", EVIDENCE_HOME=home)
    assert (code, first["created"]) == (0, True)
    files = {path: path.read_bytes() for path in Path(home, "keys").rglob("*") if path.is_file()}
    code, second = verb("init", EVIDENCE_HOME=home)
    assert (code, second["created"], second["vkey"]) == (0, False, first["vkey"])
    assert {path: path.read_bytes() for path in Path(home, "keys").rglob("*") if path.is_file()} == files
    assert Path(home, "token").stat().st_mode & 0o077 == 0
    assert Path(first["token_file"]) == Path(home, "token")


def test_the_async_client_takes_the_same_path(service: Served, verb: Verb) -> None:
    body = example(verb, "tsac004.underwriting-papers@1")

    async def path() -> bytes:
        async with AsyncClient(service.url, token=(service.home / "token").read_text()) as client:
            promise = await client.preserve(body)
            await client.wait(promise.evidence_id)
            await client.checkpoint()
            results = await client.preserve_many([body, {**body, "template": "nosuch@1"}])
            assert isinstance(results[0], Promise)
            assert isinstance(results[1], Invalid)
            assert results[0].evidence_id == promise.evidence_id
            return await client.bundle(promise.evidence_id)

    bundle = asyncio.run(path())
    assert verb("trust", "export", "-o", "trust.toml")[0] == 0
    TrustRoots.parse(Path("trust.toml").read_bytes())
    Path("y.cz").write_bytes(bundle)
    assert verb("verify", "y.cz", "--trust", "trust.toml")[0] == 0


def test_the_service_verifies_too_and_says_whose_trust_it_used(service: Served, bundle: str) -> None:
    with Client(service.url, token=(service.home / "token").read_text()) as client:
        own = client.verify(Path(bundle).read_bytes())
        given = client.verify(
            Path(bundle).read_bytes(), trust=Path("trust.toml").read_bytes(), originals=[Path("秘密.txt").read_bytes()]
        )
    assert own["verdict"] == given["verdict"] == "VALID"
    assert own["trust_is"] != given["trust_is"]


def test_heads_of_the_log_continue_each_other(service: Served, verb: Verb) -> None:
    with Client(service.url, token=(service.home / "token").read_text()) as client:
        first = client.checkpoint()
        client.preserve(example(verb))
        second = client.checkpoint()
        assert second.checkpoint().size > first.checkpoint().size
        assert client.checkpoint(tree=Algorithm.SHA256).checkpoint().origin.endswith("/sha256")


def test_errors_are_those_of_the_service(service: Served, verb: Verb) -> None:
    _, document = verb("access", "add", "watcher", "--role", "auditor")
    body = example(verb)
    with Client(service.url, token=document["token"]) as client, pytest.raises(Forbidden):
        client.preserve(body)
