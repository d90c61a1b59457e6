"""schemathesis against a real service: whatever is sent, no 5xx, and every answer is as /openapi.json says."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import content_type_conformance, response_headers_conformance, response_schema_conformance, status_code_conformance

from api_service import Running, running
from models.example import example
from models.template import builtin

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
EXAMPLES = 25


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as found:
        with found.client() as client:
            body = example(builtin("file@1"), seed=secrets.token_bytes(16), client_key=secrets.token_hex(16))
            assert client.post("/v1/evidence?wait=final&timeout_s=30", json=body).status_code == 201
        yield found


@pytest.fixture
def description(api: Running) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(api: Running, case: schemathesis.Case) -> None:
    response: Response = case.call(headers={"authorization": f"Bearer {api.tokens['business']}"})
    assert "Traceback" not in response.text
    case.validate_response(response, checks=CHECKS)
