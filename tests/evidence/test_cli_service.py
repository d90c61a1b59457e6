"""The remote verbs against a real service, and the local ones beside it."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from served import ENTRY, Served, Verb, clean_environment, example

from evidence.client import AsyncClient, Client
from evidence.demo import verify_apart
from evidence.errors import Forbidden
from evidence.promise import Promise, parse_promise
from models.digest import Algorithm, Digest, sm3
from models.errors import Invalid, VerificationError
from models.signature import SM2Signer
from models.trust import TrustRoots

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


def test_a_kept_promise_can_be_checked_again(verb: Verb, cli_service: Served) -> None:
    Path("a.txt").write_text("a")
    code, document = verb("preserve", "--save", "a.txt")
    assert code == 0
    assert document["promise_file"] == "a.txt.promise.json"
    kept = json.loads(Path("a.txt.promise.json").read_text("utf-8"))
    assert Path("a.txt.promise.json").stat().st_mode & 0o077 == 0
    with Client(cli_service.url) as client:
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


def test_keep_sends_digests_only(verb: Verb, cli_service: Served) -> None:
    Path("kept.txt").write_text("this text stays at home 7c1f")
    code, document = verb("preserve", "kept.txt", "--originals", "keep")
    assert code == 0
    code, item = verb("show", document["evidence_id"])
    assert item["originals"] == [] or not any(each["held"] for each in item["originals"])


def test_an_uploaded_original_comes_back_byte_for_byte(verb: Verb, cli_service: Served, preserved: dict[str, Any]) -> None:
    data = Path("秘密.txt").read_bytes()
    with Client(cli_service.url, token=(cli_service.home / "token").read_text()) as client:
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


def test_a_bundle_goes_to_stdout_as_bytes(cli_service: Served, verb: Verb, preserved: dict[str, Any], bundle: str) -> None:
    done = subprocess.run(
        [*ENTRY, "issue", preserved["evidence_id"], "-o", "-"],
        env=clean_environment(**cli_service.environ),
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


def test_a_sealed_item_is_opened_only_by_its_opening(verb: Verb, key: str, cli_service: Served) -> None:
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


def test_the_async_client_takes_the_same_path(cli_service: Served, verb: Verb) -> None:
    body = example(verb, "tsac004.underwriting-papers@1")

    async def path() -> bytes:
        async with AsyncClient(cli_service.url, token=(cli_service.home / "token").read_text()) as client:
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


def test_the_service_verifies_too_and_says_whose_trust_it_used(cli_service: Served, bundle: str) -> None:
    with Client(cli_service.url, token=(cli_service.home / "token").read_text()) as client:
        own = client.verify(Path(bundle).read_bytes())
        given = client.verify(
            Path(bundle).read_bytes(), trust=Path("trust.toml").read_bytes(), originals=[Path("秘密.txt").read_bytes()]
        )
    assert own["verdict"] == given["verdict"] == "VALID"
    assert own["trust_is"] != given["trust_is"]


def test_heads_of_the_log_continue_each_other(cli_service: Served, verb: Verb) -> None:
    with Client(cli_service.url, token=(cli_service.home / "token").read_text()) as client:
        first = client.checkpoint()
        client.preserve(example(verb))
        second = client.checkpoint()
        assert second.checkpoint().size > first.checkpoint().size
        assert client.checkpoint(tree=Algorithm.SHA256).checkpoint().origin.endswith("/sha256")


def test_errors_are_those_of_the_service(cli_service: Served, verb: Verb) -> None:
    _, document = verb("access", "add", "watcher", "--role", "auditor")
    body = example(verb)
    with Client(cli_service.url, token=document["token"]) as client, pytest.raises(Forbidden):
        client.preserve(body)
