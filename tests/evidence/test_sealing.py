"""Sealed submissions and their openings, as pure values."""

import pytest

from evidence.sealing import Account, Opening, seal, signed, wanted_fields
from models.canonical import canonical, parse, unb64
from models.errors import Invalid, Malformed, Unknown
from models.evidence import Statement
from models.example import example
from models.signature import SM2Signer, verify
from models.template import builtin

ACCOUNT = Account("sandbox.test/log/1", "acct-1", "s1", "示例证券")
TEMPLATE = builtin("tsac004.underwriting-papers@1")
SUBMISSION = example(TEMPLATE, seed=b"s", client_key="0f" * 16)
SECRET = bytes(range(32))
SIGNER = SM2Signer.generate()


def sealed() -> tuple[dict[str, object], Opening]:
    return seal(SUBMISSION, TEMPLATE, account=ACCOUNT, secret=SECRET, signer=SIGNER, certificate=None)


def test_the_sealed_form_holds_statement_and_signature_and_nothing_else() -> None:
    form, opening = sealed()
    assert set(form) == {"template", "client_key", "sealed", "signature"}
    text = canonical(form).decode()
    values = [
        value for stage in SUBMISSION["stages"].values() for value in stage.values() if isinstance(value, str) and len(value) > 5
    ]
    assert values
    assert not [value for value in values if value in text]
    statement = Statement.parse(form["sealed"]["statement"].encode())  # type: ignore[index]
    assert (statement.log, statement.submitter, statement.subject_id) == (ACCOUNT.log, "acct-1", "s1")
    assert statement.evidence_id == opening.evidence_id
    verify(SIGNER.public_key, statement.data, unb64(form["signature"]["value"]))  # type: ignore[index]


def test_an_opening_is_read_as_it_was_written() -> None:
    _, opening = sealed()
    assert Opening.parse(opening.to_bytes()) == opening
    assert "secret" not in repr(opening)


@pytest.mark.parametrize(
    "name", ["client_key", "evidence_id", "format", "log", "secret", "stages", "subject", "submitter", "template"]
)
def test_refuses_an_opening_without(name: str) -> None:
    value = parse(sealed()[1].to_bytes())
    del value[name]
    with pytest.raises((Malformed, Unknown)):
        Opening.parse(canonical(value))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "cz-opening/2"},
        {"secret": "AAAA"},
        {"secret": "A" * 43 + "="},
        {"stages": []},
        {"stages": {"a": 1}},
        {"log": "x"},
        {"submitter": ""},
        {"subject": {"id": "a"}},
        {"more": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_refuses_an_opening_with(change: dict[str, object]) -> None:
    value = parse(sealed()[1].to_bytes()) | change
    with pytest.raises((Malformed, Unknown)):
        Opening.parse(canonical(value))


def test_what_breaks_the_template_is_not_sealed() -> None:
    with pytest.raises(Invalid):
        seal({**SUBMISSION, "stages": {}}, TEMPLATE, account=ACCOUNT, secret=SECRET, signer=SIGNER, certificate=None)


@pytest.mark.parametrize("key", ["13812345678", "", "k" * 129])
def test_a_client_key_that_tells_of_a_person_is_not_sealed(key: str) -> None:
    with pytest.raises(Malformed):
        seal({**SUBMISSION, "client_key": key}, TEMPLATE, account=ACCOUNT, secret=SECRET, signer=SIGNER, certificate=None)


def test_a_secret_that_is_not_random_is_refused() -> None:
    with pytest.raises(Malformed):
        seal(SUBMISSION, TEMPLATE, account=ACCOUNT, secret=bytes(32), signer=SIGNER, certificate=None)


def test_a_signed_submission_keeps_its_contents() -> None:
    made = signed(SUBMISSION, TEMPLATE, account=ACCOUNT, secret=SECRET, signer=SIGNER, certificate=None)
    assert made["stages"] == SUBMISSION["stages"]
    assert unb64(made["secret"]) == SECRET
    assert set(made["signature"]) == {"key_id", "encoding", "value"}


def test_a_certificate_stands_in_place_of_the_key_id() -> None:
    made = signed(SUBMISSION, TEMPLATE, account=ACCOUNT, secret=SECRET, signer=SIGNER, certificate=b"der")
    assert set(made["signature"]) == {"certificate", "encoding", "value"}


def test_fields_are_named_alone_or_with_their_stage() -> None:
    order = builtin("tsac004.fund-order@1")
    assert wanted_fields(order, None) is None
    assert wanted_fields(order, []) == set()
    assert wanted_fields(order, ["login_account"]) == {("存证数据-事务环节-登录信息", "login_account")}
    with pytest.raises(Malformed, match="ambiguous"):
        wanted_fields(order, ["product_name"])
    assert wanted_fields(order, ["存证数据-产品信息/product_name"]) == {("存证数据-产品信息", "product_name")}
    with pytest.raises(Malformed, match="none of the template"):
        wanted_fields(order, ["nosuch"])
