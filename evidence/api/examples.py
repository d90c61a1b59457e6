"""What the description shows as examples: bodies and parameters that a fresh service accepts as they stand.

Sent again they repeat themselves: the submissions have fixed keys, the stream one fixed declaration.
"""

from __future__ import annotations

from typing import Any

from models.example import example
from models.template import DataModel, builtin

_SEED = b"examples of the description"
_STREAM = "docs-example"
_FIRST_STAGE = 2
"""The first stage of the transaction itself; those before it describe the subject."""


def _submission(template: str, client_key: str) -> dict[str, Any]:
    found = builtin(template)
    stages = [found.stages[_FIRST_STAGE].name] if found.model is DataModel.CHAIN else None
    return example(found, seed=_SEED, client_key=client_key, stages=stages)


def bodies() -> dict[str, dict[str, Any]]:
    """The bodies of each operation that takes JSON.

    Shapes: operationId → name of the example → body.
    """
    file = _submission("file@1", "docs-example-file")
    return {
        "preserveEvidence": {
            "file@1": file,
            "tsac004.underwriting-papers@1": _submission("tsac004.underwriting-papers@1", "docs-example-papers"),
            "tsac004.fund-order@1": _submission("tsac004.fund-order@1", "docs-example-order"),
        },
        "preserveBatch": {"one": {"submissions": [file]}},
        "searchEvidence": {
            "template": {"template": "file@1", "limit": 10},
            "time": {"axis": "preserved", "from": "2026-01-01", "to": "2099-01-01", "limit": 10},
        },
        "createIssuance": {"search": {"search": {"template": "file@1"}, "matter": "docs-example"}},
        "declareStream": {
            "words and a rule": {
                "stream_id": _STREAM,
                "keywords": ["reject"],
                "rules": [{"name": "account", "after": "acct=", "class": "0-9", "min": 6, "max": 20}],
            }
        },
        "pushRecords": {"two lines": {"first": 0, "records": ["order=1 acct=600001 reject", "order=2 acct=600002 ok"]}},
        "queryStream": {
            "keyword": {"keywords": ["reject"]},
            "value": {"value": {"rule": "account", "v": "600001"}},
        },
        "putProgress": {"behind": {"behind": 0}},
        "recountStream": {"whole": {}},
        "endStream": {"reason": {"reason": "end of the example"}},
    }


PARAMETERS: dict[str, Any] = {
    "path": "0/000.p/1",
    "stream_id": _STREAM,
    "leaf_index": 0,
    "tree_size": 1,
    "from": 1,
    "to": 1,
    "node": 0,
    "height": 1,
}
"""Required parameters that fit every log of at least one item; ids of items and chains differ from service to service."""

TEMPLATE = "file@1"
