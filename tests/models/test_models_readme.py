"""The README of models: its code runs, its map names every module, its examples of types hold."""

import json
import re
from pathlib import Path

import pytest
from template_vectors import VECTORS, field, template

from models.template import FieldType, builtin_names

MODELS = Path(__file__).parents[2] / "models"
README = (MODELS / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\| ([A-Z_]+(?:, [A-Z_]+)*) \|.* \| `([^`…]+)` \|$", README, re.MULTILINE)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_of_the_readme_runs(block: str) -> None:
    exec(compile(block, "README", "exec"), {})


def test_map_names_every_module_and_no_other() -> None:
    table = README.partition("## Map")[2].partition("```")[0]
    named = {name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+\.py)`", row)}
    assert named == {path.name for path in MODELS.glob("*.py")} - {"__init__.py"}


def test_readme_names_every_published_template() -> None:
    assert all(f"`{name}`" in README for name in builtin_names())
    assert (VECTORS / "digests.json").is_file()


@pytest.mark.parametrize(("kinds", "example"), EXAMPLES)
def test_example_of_a_type_has_its_form(kinds: str, example: str) -> None:
    for kind in kinds.split(", "):
        template(("甲", [field("a", kind)])).check_value("甲", "a", json.loads(example))


def test_every_type_but_the_file_has_a_whole_example() -> None:
    told = {kind for kinds, _ in EXAMPLES for kind in kinds.split(", ")}
    assert told == {kind.value for kind in FieldType} - {"FILE_OBJECT"}
