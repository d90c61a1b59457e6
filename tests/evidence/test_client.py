"""The client's side of the promise: what it refuses to believe, and when it asks again."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from evidence.client import AsyncClient, Client
from evidence.errors import (
    Ambiguous,
    Conflict,
    Erased,
    Forbidden,
    NotFinal,
    NotFound,
    StorageFull,
    TooLarge,
    Unauthorised,
    Unready,
)
from evidence.exchange import Unreachable
from evidence.promise import check_content, check_promise, parse_promise, statement_of
from models.canonical import b64, format_time, unb64
from models.checkpoint import COSIGNATURE_TYPE, Checkpoint, VerifierKey, cosign, make_note, vkey
from models.digest import Algorithm, Digest, sm3
from models.errors import Invalid, Malformed, Undecided, VerificationError
from models.evidence import Evidence
from models.example import example
from models.merkle import inclusion_path, leaf_hash, root
from models.signature import SM2Signer
from models.template import builtin

ORIGIN = "sandbox.test/log/1"
NOW = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)
SUBMISSION = example(builtin("file@1"), seed=b"a", client_key="key-1")
OTHER = example(builtin("file@1"), seed=b"b", client_key="key-1")


class Service:
    """A service of one log in a few lines, honest until told to lie; it speaks HTTP through httpx's own transport."""

    def __init__(self) -> None:
        self.signer = SM2Signer.generate()
        self.key: VerifierKey = vkey(ORIGIN, self.signer.public_key, COSIGNATURE_TYPE)
        self.entries: list[bytes] = [sm3(bytes([number])) * 2 for number in range(6)]
        self.requests: list[httpx.Request] = []
        self.refusals: list[httpx.Response | Exception] = []
        self.lie: Callable[[dict[str, Any]], None] = lambda _: None
        self.content: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body
        self.states = iter(["promised"] * 3 + ["final"] * 100)
        self.now = NOW

    def handle(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self.respond(request)

    async def handle_async(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self.respond(request)

    def respond(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.refusals:
            refusal = self.refusals.pop(0)
            if isinstance(refusal, Exception):
                raise refusal
            return refusal
        path, kind = request.url.path, {"/v1/service": self.about, "/v1/evidence": self.one, "/v1/evidence:batch": self.many}
        if path in kind:
            return kind[path](request)
        if path.startswith("/v1/evidence/"):
            return httpx.Response(200, json={"evidence_id": path.rpartition("/")[2], "state": next(self.states)})
        if path.startswith("/v1/originals/"):
            return httpx.Response(200, content=request.content or b"the original")
        return httpx.Response(404, json={"type": "/problems/not-found", "detail": "nothing is here"})

    def about(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"keys": [{"origin": ORIGIN, "tree": "sm3", "vkey": str(self.key)}]})

    def one(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, json=self.promise(json.loads(request.content)))

    def many(self, request: httpx.Request) -> httpx.Response:
        bodies = json.loads(request.content)["submissions"]
        results = [{"index": place, "status": 201, **self.promise(body)} for place, body in enumerate(bodies)]
        problem = {"type": "/problems/invalid", "status": 422, "detail": "one is wrong", "errors": []}
        results[-1] = {"index": len(bodies) - 1, "status": 422, "problem": problem}
        return httpx.Response(200, json={"results": results})

    def promise(self, sent: dict[str, Any]) -> dict[str, Any]:
        body = self.content(sent)
        secret = sm3(b"secret")
        if "secret" in sent:
            secret = unb64(sent["secret"])
        statement = statement_of(
            body, builtin(body["template"]), secret=secret, log=ORIGIN, submitter="acct-1", subject=("s1", "示例")
        )
        evidence = Evidence.build(
            statement,
            after=(),
            commitment="merkle",
            created_at=self.now,
            link=None,
            on_chain_by=self.now + timedelta(hours=1),
            signature=None,
            validated_by="platform",
        )
        self.entries.append(evidence.entry)
        index, size = len(self.entries) - 1, len(self.entries)
        hashes = [leaf_hash(entry) for entry in self.entries]
        head = Checkpoint(ORIGIN, size, root(hashes))
        answer: dict[str, Any] = {
            "evidence_id": evidence.evidence_id,
            "state": "promised",
            "leaf_index": index,
            "package_hash": evidence.package_hash.hex(),
            "evidence": evidence.data.decode(),
            "promise": {
                "checkpoint": make_note(head, [cosign(head, self.signer, int(NOW.timestamp()))]),
                "inclusion_proof": [b64(node) for node in inclusion_path(hashes, index)],
                "on_chain_by": format_time(evidence.on_chain_by),
            },
        }
        self.lie(answer)
        return answer


class Sides:
    """Both clients behind one synchronous face, so that every law is checked of both."""

    def __init__(self, kind: str, service: Service, **more: Any) -> None:
        self.kind, self.service = kind, service
        self.pauses: list[float] = []
        self.client: Client | AsyncClient
        if kind == "sync":
            self.client = Client(
                "http://service", token="t", transport=httpx.MockTransport(service.handle), sleep=self.pauses.append, **more
            )
        else:
            self.client = AsyncClient("http://service", token="t", transport=httpx.MockTransport(service.handle_async), **more)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if self.kind == "sync" or not callable(method):
            return method
        return lambda *args, **kwargs: asyncio.run(method(*args, **kwargs))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, service: Service, monkeypatch: pytest.MonkeyPatch) -> Sides:
    side = Sides(request.param, service)

    async def no_wait(seconds: float) -> None:
        side.pauses.append(seconds)

    monkeypatch.setattr("evidence.client.asyncio.sleep", no_wait)
    return side


def problem(status: int, name: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"type": f"/problems/{name}", "detail": "said why"}, headers=headers)


def test_a_promise_is_checked_and_returned(client: Sides) -> None:
    promise = client.preserve(SUBMISSION)
    assert promise.leaf_index == 6
    assert promise.created
    assert promise.secret is not None
    assert parse_promise(json.loads(json.dumps(promise.to_json())), keys=client.keys) == promise


def test_the_client_makes_the_secret_itself(client: Sides, service: Service) -> None:
    client.preserve(SUBMISSION)
    first = json.loads(service.requests[0].content)["secret"]
    client.preserve(SUBMISSION)
    assert first != json.loads(service.requests[-1].content)["secret"]


def flip(text: str, place: int = -3) -> str:
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "another evidence id": lambda answer: answer.update(evidence_id="ev_" + "0" * 64),
    "another package hash": lambda answer: answer.update(package_hash="0" * 64),
    "another leaf": lambda answer: answer.update(leaf_index=5),
    "no proof": lambda answer: answer["promise"].update(inclusion_proof=[]),
    "a longer proof": lambda answer: answer["promise"]["inclusion_proof"].append(b64(bytes(32))),
    "a changed proof": lambda answer: answer["promise"]["inclusion_proof"].__setitem__(0, b64(bytes(32))),
    "another deadline": lambda answer: answer["promise"].update(on_chain_by="2027-01-01T00:00:00.000Z"),
    "a changed signature": lambda answer: answer["promise"].update(checkpoint=flip(answer["promise"]["checkpoint"])),
    "another root": lambda answer: answer["promise"].update(checkpoint=flip(answer["promise"]["checkpoint"], 30)),
    "other evidence": lambda answer: answer.update(evidence=answer["evidence"].replace("platform", "submitter")),
    "no evidence": lambda answer: answer.pop("evidence"),
    "evidence with a space": lambda answer: answer.update(evidence=answer["evidence"] + " "),
    "no promise": lambda answer: answer.pop("promise"),
    "a leaf that is true": lambda answer: answer.update(leaf_index=True),
}


@pytest.mark.parametrize("name", list(LIES))
def test_refuses_a_promise_that_does_not_hold(client: Sides, service: Service, name: str) -> None:
    service.lie = LIES[name]
    with pytest.raises((VerificationError, Malformed)):
        client.preserve(SUBMISSION)


def test_refuses_a_promise_about_other_content(client: Sides, service: Service) -> None:
    service.content = lambda body: {**OTHER, "client_key": body["client_key"]}
    with pytest.raises(VerificationError, match="other content"):
        client.preserve(SUBMISSION)


def test_refuses_a_key_that_was_not_the_first(client: Sides, service: Service) -> None:
    client.preserve(SUBMISSION)
    service.signer = SM2Signer.generate()
    service.key = vkey(ORIGIN, service.signer.public_key, COSIGNATURE_TYPE)
    with pytest.raises(VerificationError, match="no known key"):
        client.preserve(SUBMISSION)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_given_key_is_believed_and_the_service_is_not_asked(kind: str, service: Service) -> None:
    side = Sides(kind, service, keys=[str(service.key)])
    side.preserve(SUBMISSION)
    assert [request.url.path for request in service.requests] == ["/v1/evidence"]
    stranger = vkey(ORIGIN, SM2Signer.generate().public_key, COSIGNATURE_TYPE)
    with pytest.raises(VerificationError):
        Sides(kind, service, keys=[stranger]).preserve(SUBMISSION)


def test_refuses_a_second_root_of_one_size(client: Sides, service: Service) -> None:
    client.preserve(SUBMISSION)
    service.entries.pop()
    service.entries[0] = bytes(64)
    with pytest.raises(VerificationError, match="forked"):
        client.preserve(SUBMISSION)


def test_a_checkpoint_signed_before_its_evidence_is_refused(client: Sides, service: Service) -> None:
    service.now = NOW + timedelta(seconds=2)
    with pytest.raises(VerificationError, match="before"):
        client.preserve(SUBMISSION)


def test_content_cannot_be_judged_without_a_secret(service: Service) -> None:
    promise = check_promise(service.promise(SUBMISSION), keys=[service.key])
    with pytest.raises(Undecided):
        check_content(promise, SUBMISSION, template=builtin, secret=None)
    check_content(promise, SUBMISSION, template=builtin, secret=sm3(b"secret"))


def test_one_bad_item_of_many_refuses_only_itself(client: Sides) -> None:
    bodies = [example(builtin("file@1"), seed=bytes([number]), client_key=f"key-{number}") for number in range(3)]
    first, second, third = client.preserve_many(bodies)
    assert (first.leaf_index, second.leaf_index) == (6, 7)
    assert isinstance(third, Invalid)


# --- repeats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_refusal_that_passes_is_waited_out(client: Sides, service: Service, status: int) -> None:
    service.refusals = [httpx.Response(status), httpx.Response(status)]
    assert client.preserve(SUBMISSION).leaf_index == 6
    assert len(client.pauses) == 2


def test_retry_after_is_honoured(client: Sides, service: Service) -> None:
    service.refusals = [problem(503, "overloaded", **{"retry-after": "7"})]
    client.preserve(SUBMISSION)
    assert client.pauses == [7.0]


def test_a_retry_after_beyond_patience_is_told_at_once(client: Sides, service: Service) -> None:
    service.refusals = [problem(503, "unready", **{"retry-after": "3600"})]
    with pytest.raises(Unready) as told:
        client.preserve(SUBMISSION)
    assert told.value.retry_after_s == 3600
    assert client.pauses == []


def test_every_repeat_sends_the_same_body(client: Sides, service: Service) -> None:
    service.refusals = [httpx.ReadError("broken"), httpx.Response(502)]
    client.preserve(SUBMISSION)
    assert len({request.content for request in service.requests[:3]}) == 1


def test_an_issue_is_not_repeated_once_it_may_have_arrived(client: Sides, service: Service) -> None:
    service.refusals = [httpx.ReadTimeout("late")]
    with pytest.raises(Unreachable):
        client.issue({"ids": []})
    assert len(service.requests) == 1


def test_an_issue_is_repeated_if_it_never_left(client: Sides, service: Service) -> None:
    service.refusals = [httpx.ConnectError("refused")]
    with pytest.raises(NotFound):
        client.issue({"ids": []})
    assert len(service.requests) == 2


def test_patience_ends(client: Sides, service: Service) -> None:
    service.refusals = [httpx.ConnectError("refused")] * 50
    with pytest.raises(Unreachable, match="refused"):
        client.chains()
    assert len(service.requests) == 5
    assert client.pauses == sorted(client.pauses)


@pytest.mark.parametrize(
    ("status", "name", "error"),
    [
        (400, "malformed", Malformed),
        (401, "unauthorised", Unauthorised),
        (403, "forbidden", Forbidden),
        (404, "not-found", NotFound),
        (409, "conflict", Conflict),
        (409, "ambiguous", Ambiguous),
        (409, "not-final", NotFinal),
        (410, "erased", Erased),
        (413, "too-large", TooLarge),
        (422, "invalid", Invalid),
        (500, "internal", Unreachable),
        (507, "storage-full", StorageFull),
        (418, "teapot", Malformed),
    ],
)
def test_a_refusal_is_the_error_it_is_inside_the_service(
    client: Sides, service: Service, status: int, name: str, error: type[Exception]
) -> None:
    service.refusals = [problem(status, name)]
    with pytest.raises(error, match="said why"):
        client.get("ev_00000000")
    assert len(service.requests) == 1


def test_a_conflict_names_its_record(client: Sides, service: Service) -> None:
    body = {"type": "/problems/conflict", "detail": "taken", "record_id": "ev_" + "1" * 64}
    service.refusals = [httpx.Response(409, json=body)]
    with pytest.raises(Conflict) as refused:
        client.preserve(SUBMISSION)
    assert refused.value.record_id == "ev_" + "1" * 64


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{", b"\xff", b""])
def test_an_answer_of_something_else_is_no_evidence_service(client: Sides, service: Service, answer: bytes) -> None:
    service.refusals = [httpx.Response(200, content=answer)]
    with pytest.raises(Unreachable):
        client.get("ev_00000000")


# --- waiting, originals ---------------------------------------------------------------------------------------


def test_wait_returns_once_final(client: Sides) -> None:
    assert client.wait("ev_1", timeout_s=60)["state"] == "final"
    assert len(client.pauses) == 3


def test_wait_says_not_final_in_the_end(client: Sides, service: Service) -> None:
    service.states = iter(["promised"] * 1000)
    with pytest.raises(NotFinal):
        client.wait("ev_1", timeout_s=5)
    assert sum(client.pauses) == pytest.approx(5)


def test_preserve_waits_where_asked(client: Sides) -> None:
    assert client.preserve(SUBMISSION, wait="final").state == "final"


def test_originals_are_streamed_from_files_also_on_a_repeat(client: Sides, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(range(256)) * 8192)
    service.refusals = [httpx.Response(503)]
    digest = client.upload_original(path)
    assert service.requests[-1].url.path == f"/v1/originals/{digest}"
    assert service.requests[-1].content == path.read_bytes()


def test_a_downloaded_original_is_checked(client: Sides, tmp_path: Path) -> None:
    good = Digest(Algorithm.SM3, sm3(b"the original"))
    assert client.download_original(good) == b"the original"
    client.download_original(good, to=tmp_path / "o")
    assert (tmp_path / "o").read_bytes() == b"the original"
    wrong = Digest(Algorithm.SM3, sm3(b"another"))
    with pytest.raises(VerificationError):
        client.download_original(wrong)
    with pytest.raises(VerificationError):
        client.download_original(wrong, to=tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) - {"close"} == public(AsyncClient) - {"aclose"}


@pytest.mark.parametrize("url", ["service", "ftp://x", "http://", "http://a:b@c", "http://x?y"])
def test_refuses_an_address_that_is_none(url: str) -> None:
    with pytest.raises(Malformed):
        Client(url)


def test_the_token_goes_with_no_redirect(service: Service) -> None:
    side = Sides("sync", service)
    service.refusals = [httpx.Response(302, headers={"location": "http://elsewhere/"})]
    with pytest.raises(Unreachable):
        side.get("ev_00000000")
    assert len(service.requests) == 1
