"""Committing an item's fields: salts, leaves, StageHash and twin, for 8 and for 137 fields.

The limits are those of the design, 100 µs and 1.2 ms. Values are short Chinese texts, numbers and
dates in turn, as the standard's appendices have them.
"""

from __future__ import annotations

import json
from hashlib import sha256

from harness import alternate, options, pin, report, seconds_each

from models.commitment import commit
from models.template import Template

SECRET = sha256(b"bench").digest()
LIMITS_US = {8: 100.0, 137: 1200.0}
_KINDS = (("CHARACTER", "上海示例证券股份有限公司"), ("NUMBER", 20_261_121), ("DATE", "2026-11-21"))


def example(count: int) -> tuple[Template, dict[str, dict[str, str | int]]]:
    """A template of one stage with so many fields, and values for all of them."""
    fields, values = [], {}
    for number in range(count):
        kind, value = _KINDS[number % len(_KINDS)]
        fields.append({"name": f"field_{number}", "title": f"字段{number}", "type": kind, "required": False})
        values[f"field_{number}"] = value
    text = {
        "format": "cz-template/1",
        "name": "bench@1",
        "title": "基准",
        "bizName": "基准",
        "commitment": "merkle",
        "stages": [{"name": "环节", "fields": fields}],
    }
    return Template.parse(json.dumps(text).encode()), {"环节": values}


def measure(count: int, pairs: int, *, quick: bool) -> None:
    """One line for an item of so many fields."""
    template, stages = example(count)
    repeats = 20 if quick else 40_000 // count

    def run() -> None:
        for _ in range(repeats):
            commit(template, stages, secret=SECRET, log="sandbox.localhost/log/1", submitter="bench", client_key="k" * 32)

    run()
    mine, limit = alternate(lambda: 1e6 * seconds_each(run, repeats), lambda: LIMITS_US[count], pairs)
    report("commitment", f"limit for {count} fields", mine, limit, "µs", wanted=1.0, more_is_better=False, quick=quick)


def main() -> None:
    """One line for each size."""
    chosen = options(__doc__ or "")
    pin(0)
    for count in LIMITS_US:
        measure(count, chosen.pairs, quick=chosen.quick)


if __name__ == "__main__":
    main()
