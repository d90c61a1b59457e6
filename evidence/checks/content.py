"""Checks 4 to 7: the template, what is disclosed of the item, and the originals handed over beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evidence.checks.case import Case, Item
from models.canonical import JSONValue
from models.commitment import check_stages, verify_disclosure
from models.digest import Algorithm, Digest, Pair, pair
from models.errors import Malformed, Undecided, VerificationError
from models.field import FieldType
from models.template import Template, builtin, builtin_names


@dataclass(frozen=True, slots=True)
class OriginalDigest:
    """An original by its digests and size: for files too large to be held in memory."""

    pair: Pair
    size: int


def original(data: bytes) -> OriginalDigest:
    """The digests of an original held in memory."""
    return OriginalDigest(pair(data), len(data))


def check_template(case: Case, item: Item) -> None:
    """Check 4: the template's bytes have the digests S names, and its commitment is E's."""
    judge, statement = case.judge, item.evidence.statement
    name = f"{item.name}/template.json"
    with judge.trying(4, item.name):
        if name in case.files:
            data = case.files[name]
        elif statement.template_name in builtin_names():
            data = builtin(statement.template_name).data
            if pair(data) != statement.template_pair:
                raise Undecided("template is not in the bundle, and the built-in one of that name is another")
        else:
            raise Undecided("template is neither in the bundle nor built in")
        if pair(data) != statement.template_pair:
            raise VerificationError("template has other digests than the statement names")
        template = Template.parse(data)
        if template.name != statement.template_name:
            raise VerificationError("template has another name than the statement gives it")
        if template.commitment.value != item.evidence.commitment:
            raise VerificationError("commitment of the evidence is not its template's")
        check_stages(template, statement.stages)
        item.template = template
        judge.passed(4, f"template {template.name} has the digests of the statement")


def check_disclosure(case: Case, item: Item) -> None:
    """Checks 5 and 6: each disclosed field stands at its place under its StageHash, and satisfies the template."""
    judge, template = case.judge, item.template
    if item.disclosure is None:
        judge.not_checked.add(f"contents of {item.name}: nothing is disclosed")
        return
    if template is None:
        judge.not_checked.add(f"disclosed contents of {item.name}: its template could not be used")
        return
    with judge.trying(5, item.name) as attempt:
        item.disclosed = tuple(verify_disclosure(template, item.evidence.statement.stages, item.disclosure))
        judge.passed(5, f"{len(item.disclosed)} disclosed fields give their StageHash ({item.name})")
    if not attempt.holds:
        return
    item.wholly = frozenset(stage["name"] for stage in item.disclosure["stages"] if "flat_salt" in stage)
    shown = {opened.stage for opened in item.disclosed}
    for name, _ in item.evidence.statement.stages:
        if name not in shown:
            judge.not_checked.add(f"stage {name} of {item.name}: not disclosed")
        elif name not in item.wholly:
            judge.not_checked.add(f"SHA-256 twin of stage {name} of {item.name}: the stage is disclosed in part")
    with judge.trying(6, item.name):
        for opened in item.disclosed:
            template.check_value(opened.stage, opened.field, opened.value)
        judge.passed(6, f"{len(item.disclosed)} disclosed values satisfy the template ({item.name})")
    judge.not_checked.add("rules over several fields of the template")
    for value in _file_objects(item):
        if "twin" not in value:
            judge.findings.add(f"a file object of {item.name} has no twin digest")


def _file_objects(item: Item) -> Iterator[dict[str, JSONValue]]:
    if item.template is None:
        return
    for opened in item.disclosed:
        field = item.template.stage(opened.stage).field(opened.field)
        if field.type is FieldType.FILE_OBJECT and isinstance(opened.value, dict):
            yield opened.value


def check_originals(case: Case, originals: Iterable[OriginalDigest]) -> None:
    """Check 7: every original given has a digest that is disclosed, both if two, and its size.

    Source: formats §4 check 7, §11 (An original matches).
    """
    given = list(originals)
    if not given:
        return
    if not case.whole or any(item.disclosure is not None and not item.disclosed for item in case.items):
        case.judge.undecided(7, "originals cannot be compared: the disclosure could not be used")
        return
    with case.judge.trying(7):
        known = [value for item in case.items for value in _file_objects(item)]
        if not known:
            raise Undecided("no digest of a file is disclosed")
        for number, one in enumerate(given):
            if not any(_matches(one, value) for value in known):
                raise VerificationError(f"original {number} is none of the files disclosed: digest, twin or size differs")
        case.judge.passed(7, f"{len(given)} originals have disclosed digests")


def _matches(one: OriginalDigest, value: dict[str, JSONValue]) -> bool:
    try:
        digests = [Digest.parse(value[name]) for name in ("digest", "twin") if name in value]
    except (Malformed, KeyError):
        return False
    own = {Algorithm.SM3: one.pair.sm3, Algorithm.SHA256: one.pair.sha256}
    return value.get("size") == one.size and all(own[digest.algorithm] == digest.value for digest in digests)
