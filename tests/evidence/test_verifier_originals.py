"""An original that matches nothing differs only where every file of the items is disclosed; and templates known by name."""

from datetime import timedelta
from typing import Any

import pytest
from verifier_world import ORIGIN, Made, World, refusals

from evidence.verifier import verify
from models.bundle import pack
from models.canonical import canonical, parse
from models.commitment import commit
from models.digest import pair
from models.evidence import Evidence, Link, Part, Statement
from models.report import Report, Verdict
from models.template import Template, builtin

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE


def file_object(data: bytes) -> dict[str, Any]:
    digests = pair(data)
    return {
        "digest": f"sm3:{digests.sm3.hex()}",
        "name": "a.txt",
        "size": len(data),
        "twin": f"sha256:{digests.sha256.hex()}",
    }


def two_parts() -> tuple[World, dict[str, bytes]]:
    """Part 0 of the file AAA and part 1 of the file BBB, both disclosed wholly."""
    world = World()
    items: list[Made] = []
    for number, data in enumerate((b"AAA", b"BBB")):
        whole = {"title": "A", "pages": 1, "file": file_object(data)}
        stages: dict[str, dict[str, Any]] = {"文件": whole, "说明": {"remark": "r"}}
        previous = items[-1].evidence.pair if items else None
        items.append(world.add(stages=stages, link=Link("L"), part=Part(number, previous)))
    return world, world.files(items, [world.anchor()])


def judged(world: World, files: dict[str, bytes], *originals: bytes) -> Report:
    return verify(pack(files, "transaction"), world.trust(), originals)


@pytest.mark.parametrize("name", ["evidence/1/disclosure.json", "evidence/0/disclosure.json"])
def test_original_of_a_part_that_is_not_disclosed_is_not_refuted(name: str) -> None:
    world, files = two_parts()
    whole = judged(world, files, b"AAA", b"BBB")
    assert whole.verdict is VALID, refusals(whole)
    del files[name]
    shown, hidden = (b"AAA", b"BBB") if "1" in name else (b"BBB", b"AAA")
    assert judged(world, files, shown).verdict is VALID
    for other in (hidden, b"CCC"):
        report = judged(world, files, other)
        assert (report.verdict, report.step(7).verdict) == (INDETERMINATE, INDETERMINATE)


def test_original_that_differs_is_refuted_where_every_file_is_disclosed() -> None:
    world, files = two_parts()
    assert judged(world, files, b"CCC").step(7).verdict is INVALID
    assert judged(world, files, b"AAA", b"CCC").step(7).verdict is INVALID


@pytest.mark.parametrize(("field", "expected"), [("file", INVALID), ("title", INDETERMINATE)], ids=["the-file", "another-field"])
def test_original_is_judged_by_the_file_field_where_one_stage_is_disclosed_in_part(field: str, expected: Verdict) -> None:
    world = World()
    item = world.add(stages={"文件": {"title": "A", "pages": 1, "file": file_object(b"AAA")}, "说明": {"remark": "r"}})
    bundle = world.bundle([item], [world.anchor()], fields=[("文件", field)])
    assert verify(bundle, world.trust(), [b"CCC"]).step(7).verdict is expected


# --- templates (4) -----------------------------------------------------------------------------------------------------


def with_template(kind: Template) -> Report:
    world = World()
    world.add()
    values: dict[str, dict[str, Any]] = {kind.stages[0].name: {}}
    made = commit(kind, values, secret=bytes(range(32)), log=ORIGIN, submitter="acct-1", client_key="z")
    statement = Statement.build(
        client_key="z", link=None, log=ORIGIN, occurred_at=None, stages=[(stage.name, stage.pair) for stage in made],
        subject=("s1", "示例证券"), submitter="acct-1", template=(kind.name, kind.pair),
    )  # fmt: skip
    at = world.tick()
    evidence = Evidence.build(
        statement, after=(), commitment=kind.commitment.value, created_at=at, link=None, on_chain_by=at + timedelta(hours=1),
        signature=None, validated_by="platform",
    )  # fmt: skip
    item = world.append(evidence, kind, made)
    return verify(world.bundle([item], [world.anchor()], fields=[]), world.trust())


def test_template_of_other_bytes_under_a_published_name_is_a_finding() -> None:
    published = builtin("file@1")
    value = parse(published.data)
    value["stages"][0]["fields"][0]["title"] = "随便"
    report = with_template(Template.parse(canonical(value)))
    assert report.verdict is VALID, refusals(report)
    assert any("another than the published one" in sentence and "file@1" in sentence for sentence in report.findings)
    same = with_template(published)
    assert same.verdict is VALID, refusals(same)
    value["name"] = "file@2"
    for other in (same, with_template(Template.parse(canonical(value)))):
        assert not any("published" in sentence for sentence in other.findings)
