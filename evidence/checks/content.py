"""Checks 4 to 7: the template, what is disclosed of the item, and the originals handed over beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evidence.checks.case import Case, Item, reading
from models.bundle import MAX_JSON_BYTES
from models.canonical import JSONValue, parse_canonical
from models.commitment import DisclosedField, check_stages, verify_disclosure
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


@dataclass(slots=True)
class Originals:
    """The originals given, and what disclosures have said of them so far."""

    given: Sequence[OriginalDigest]
    matched: set[int]
    known: int = 0
    usable: bool = True
    is_part_hidden: bool = False
    """Whether some file object of the items is not disclosed: an original that matches none may be of that one."""

    def meet(self, value: dict[str, JSONValue]) -> None:
        """Take a disclosed file object in: digest, twin if any and size tell which originals it is of."""
        self.known += 1
        self.matched |= {number for number, one in enumerate(self.given) if _matches(one, value)}


def check_contents(case: Case, originals: Sequence[OriginalDigest]) -> None:
    """Checks 4 to 7 of every item, one after the other, so that only one disclosure is held at a time."""
    met = Originals(originals, set())
    for item in case.items:
        template = _check_template(case, item)
        opened = _check_disclosure(case, item, template, met)
        met.is_part_hidden = met.is_part_hidden or _hides_a_file(item, template, opened)
    _check_originals(case, met)


def template_of(case: Case, item: Item) -> Template:
    """The template that S names, from the bundle or built in, with the digests that S states.

    Raises: Undecided if it is in neither; VerificationError if its digests are others; Malformed, Unknown from parsing.
    Source: formats §4 check 4.
    """
    statement = item.evidence.statement
    name = f"{item.name}/template.json"
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
    return Template.parse(data)


def _check_template(case: Case, item: Item) -> Template | None:
    """Check 4: the template's bytes have the digests S names, and its commitment is E's."""
    statement = item.evidence.statement
    with case.judge.trying(4, item.name):
        template = template_of(case, item)
        if template.name != statement.template_name:
            raise VerificationError("template has another name than the statement gives it")
        if template.commitment.value != item.evidence.commitment:
            raise VerificationError("commitment of the evidence is not its template's")
        check_stages(template, statement.stages)
        item.biz_name = template.biz_name
        if template.name in builtin_names() and template.pair != builtin(template.name).pair:
            case.judge.findings.add(f"template is another than the published one of its name: {template.name} ({item.name})")
        case.judge.passed(4, f"template {template.name} has the digests of the statement")
        return template
    return None


def _check_disclosure(case: Case, item: Item, template: Template | None, originals: Originals) -> list[DisclosedField]:
    """Checks 5 and 6: each disclosed field stands at its place under its StageHash, and satisfies the template."""
    judge, name = case.judge, f"{item.name}/disclosure.json"
    if name not in case.files:
        if case.bundle.kind != "answer":
            judge.not_checked.add(f"contents of {item.name}: nothing is disclosed")
        return []
    fields: list[DisclosedField] = []
    with reading(case, 5, item.name) as attempt:
        value = parse_canonical(case.files[name], max_bytes=MAX_JSON_BYTES, what="disclosure")
        if template is not None:
            fields = verify_disclosure(template, item.evidence.statement.stages, value)
            judge.passed(5, f"{len(fields)} disclosed fields give their StageHash ({item.name})")
    if not attempt.holds or template is None:
        judge.not_checked.add(f"disclosed contents of {item.name}: its template or the disclosure could not be used")
        originals.usable = False
        return []
    _say_what_is_hidden(case, item, {stage["name"]: "flat_salt" in stage for stage in value["stages"]})
    with judge.trying(6, item.name):
        for opened in fields:
            template.check_value(opened.stage, opened.field, opened.value)
        judge.passed(6, f"{len(fields)} disclosed values satisfy the template ({item.name})")
    judge.not_checked.add("rules over several fields of the template")
    for file in _file_objects(template, fields):
        originals.meet(file)
        if "twin" not in file:
            judge.findings.add(f"a file object of {item.name} has no twin digest")
    return fields


def _hides_a_file(item: Item, template: Template | None, opened: Sequence[DisclosedField]) -> bool:
    """Whether a stage given has a FILE_OBJECT field that is not among those opened, or may have one."""
    if template is None:
        return True
    given = {name for name, _ in item.evidence.statement.stages}
    shown = {(one.stage, one.field) for one in opened}
    files = {
        (stage.name, field.name)
        for stage in template.stages
        if stage.name in given
        for field in stage.fields
        if field.type is FieldType.FILE_OBJECT
    }
    return not files <= shown


def _say_what_is_hidden(case: Case, item: Item, wholly: dict[str, bool]) -> None:
    item.partly = not all(wholly.values())
    for name, _ in item.evidence.statement.stages:
        if name not in wholly:
            case.judge.not_checked.add(f"stage {name} of {item.name}: not disclosed")
        elif not wholly[name]:
            case.judge.not_checked.add(f"SHA-256 twin of stage {name} of {item.name}: the stage is disclosed in part")


def _file_objects(template: Template, fields: Sequence[DisclosedField]) -> Iterator[dict[str, JSONValue]]:
    for opened in fields:
        field = template.stage(opened.stage).field(opened.field)
        if field.type is FieldType.FILE_OBJECT and isinstance(opened.value, dict):
            yield opened.value


def _check_originals(case: Case, originals: Originals) -> None:
    """Check 7: every original given has a digest that is disclosed, both if two, and its size.

    One that has none differs, unless a file object is not disclosed: then it may be the original of that.

    Source: formats §4 check 7, §11 (An original matches).
    """
    if not originals.given:
        return
    with case.judge.trying(7):
        if not case.whole or not originals.usable:
            raise Undecided("originals cannot be compared: a disclosure could not be used")
        if not originals.known:
            raise Undecided("no digest of a file is disclosed")
        for number in range(len(originals.given)):
            if number in originals.matched:
                continue
            sentence = f"original {number} is none of the files disclosed: digest, twin or size differs"
            if originals.is_part_hidden:
                raise Undecided(f"{sentence}; not every file is disclosed")
            raise VerificationError(sentence)
        case.judge.passed(7, f"{len(originals.given)} originals have disclosed digests")


def _matches(one: OriginalDigest, value: dict[str, JSONValue]) -> bool:
    try:
        digests = [Digest.parse(value[name]) for name in ("digest", "twin") if name in value]
    except (Malformed, KeyError):
        return False
    own = {Algorithm.SM3: one.pair.sm3, Algorithm.SHA256: one.pair.sha256}
    return value.get("size") == one.size and all(own[digest.algorithm] == digest.value for digest in digests)
