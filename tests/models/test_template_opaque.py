"""A client_key or link code that tells of a person is refused; a random one never is."""

import random
import uuid

import pytest
from template_vectors import ORDER

from models.example import example
from models.template import builtin, check_opaque, personal_values

TELLING = [
    "13800138000", "cust13800138000", "订单-138 0013 8000", "+86 13800138000", "order_13800138000_1", "１３８００１３８０００",
    "11010519491231002X", "id11010519491231002x-1", "6222021234567890128", "card:6222 0212 3456 7890 128", "4111111111111111",
    "zhang.san@example.com", "mailto:a@b.cn", "张三@corp.cn",
    "110105-19491231-002X", "1101051949/12/31002X", "110101900307001", "0013800138000",
    "008613800138000", "010-88886666", "(0755)26012345",
]  # fmt: skip
OPAQUE = [
    "key-1", "order-20261121-0001", "1780123456789012345", "2026112110320512345", "110105194912310021",
    "1380013800", "138001380001", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "合同-2026-001", "a@b", "1763692800000",
    "202611211032051", "0021-20261121", "3.14@2",
]  # fmt: skip


@pytest.mark.parametrize("text", TELLING)
def test_refuses_text_that_tells_of_a_person_without_repeating_it(text: str) -> None:
    (problem,) = check_opaque(text, "/client_key", "client_key")
    assert (problem.pointer, problem.field, problem.field_zh, problem.clause) == (
        "/client_key",
        "client_key",
        "客户端键",
        "6.4.2-c",
    )
    assert text not in repr(problem)
    assert problem.got.startswith(f"text of {len(text)} characters")


@pytest.mark.parametrize("text", OPAQUE)
def test_text_that_tells_nothing_is_taken(text: str) -> None:
    assert check_opaque(text, "/client_key", "client_key") == []


def test_random_keys_are_never_refused() -> None:
    source = random.Random(7)
    for _ in range(3000):
        for text in (
            str(uuid.UUID(int=source.getrandbits(128), version=4)),
            f"{source.getrandbits(256):064x}",
            f"{source.getrandbits(128):032x}",
        ):
            assert check_opaque(text, "/client_key", "client_key") == [], text


def test_refuses_key_that_holds_a_personal_value_of_the_same_submission() -> None:
    of = builtin(ORDER)
    made = example(of, seed=b"p", client_key="k")
    account = made["stages"]["存证数据-客户账号信息"]["account_code"]
    personal = personal_values(of, made["stages"])
    assert account in personal
    (problem,) = check_opaque(f"order-{account}", "/client_key", "client_key", values=personal)
    assert account not in repr(problem)
    assert check_opaque("order-1", "/client_key", "client_key", values=personal) == []
