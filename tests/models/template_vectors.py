"""What several tests of templates and commitments share: the vectors, and a small template made to measure."""

import json
from pathlib import Path
from typing import Any

from models.commitment import StageCommitment, commit
from models.errors import Invalid, Problem
from models.template import Template, builtin

VECTORS = Path(__file__).parent.parent / "vectors" / "templates"
SECRET = bytes(range(32))
LOG, SUBMITTER, CLIENT_KEY = "evidence.example.cn/log/1", "acct-1", "key-1"
PAPERS = "tsac004.underwriting-papers@1"
ORDER = "tsac004.fund-order@1"


def vector(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def field(name: str, kind: str = "TEXT", *, required: bool = False, **more: Any) -> dict[str, Any]:
    return {"name": name, "title": f"题{name}", "type": kind, "required": required, **more}


def template_value(*stages: tuple[str, list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    listed = [{"name": name, "fields": fields} for name, fields in stages]
    head = {"bizName": "测试", "commitment": "merkle", "format": "cz-template/1", "name": "t@1", "title": "测试"}
    return {**head, "stages": listed, **more}


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def template(*stages: tuple[str, list[dict[str, Any]]], **more: Any) -> Template:
    return Template.adopt(encoded(template_value(*stages, **more)))


def problems(of: Template, stages: Any, *, link_code: str | None = None) -> tuple[Problem, ...]:
    """The problems that validation finds; none if it accepts."""
    try:
        of.validate(stages, link_code=link_code)
    except Invalid as error:
        return error.problems
    return ()


def committed(of: Template, stages: Any) -> tuple[StageCommitment, ...]:
    return commit(of, stages, secret=SECRET, log=LOG, submitter=SUBMITTER, client_key=CLIENT_KEY)


def refused_pointers(name: str, stage: str, **values: Any) -> set[str]:
    """The fields, by name, that a built-in template refuses in a stage otherwise valid."""
    of = builtin(name)
    given = {entry.name: None for entry in of.stage(stage).fields} | values
    prefix = f"/stages/{stage}/"
    return {problem.pointer.removeprefix(prefix) for problem in problems(of, {stage: given}) if problem.field in values}
