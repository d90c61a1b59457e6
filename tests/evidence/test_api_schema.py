"""schemathesis against a real service: whatever is sent, no 5xx, and every answer is as /openapi.json says."""

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from api_service import Running, running
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from models.example import example
from models.template import builtin

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as found:
        with found.client() as client:
            body = example(builtin("file@1"), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))
            assert client.post("/v1/evidence?wait=final&timeout_s=30", json=body).status_code == 201
        yield found


def _check(api: Running, operation: Any, mode: GenerationMode) -> int:
    headers = {"authorization": f"Bearer {api.tokens['business']}"}
    seen = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        nonlocal seen
        response = case.call(headers=headers)
        assert b"Traceback" not in response.content
        case.validate_response(response, checks=CHECKS)
        seen += 1

    check()
    return seen


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as-described", "not-as-described"])
def test_every_answer_is_as_described(api: Running, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    failures, seen = [], {}
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        try:
            seen[operation.label] = _check(api, operation, mode)
        except Unsatisfiable:
            continue  # it has nothing that could be sent otherwise than described
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - every operation is tried, and all failures are shown together
            failures.append(f"{operation.label}: {str(error)[:1500]}")
    assert not failures, "\n\n".join(failures)
    assert len(seen) >= 20
    assert sum(seen.values()) >= 100
