from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chain_gateway.conformance import GatewayLaws, NetworkLaws
from chain_gateway.embedded.testing import EmbeddedNetwork, open_network


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[EmbeddedNetwork]:
    async with open_network(tmp_path) as opened:
        yield opened


class TestEmbedded(GatewayLaws, NetworkLaws):
    pass
