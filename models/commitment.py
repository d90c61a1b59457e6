"""From field values to StageHash: salted leaves, one tree and one flat twin per stage, and their disclosure.

The hot path of intake: an item's fields are hashed here once. So the text around each value is made
when the template is read, all salts come from one SM4-CTR call and all their base64 from one call.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from json.encoder import encode_basestring
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from models import libcrypto
from models.canonical import JSONValue, b64, b64u, canonical_text, compact_encoder, parse_canonical, quoted, unb64, unb64u
from models.digest import Algorithm, Pair, hasher, unhex
from models.errors import Malformed, SigningUnavailable, Unknown, VerificationError
from models.merkle import flat, leaf_hash, leaf_hashes, root, roots, subset_path, verify_subset
from models.names import check_format
from models.template import StageTemplate, Template

SECRET_BYTES: Final = 32
MIN_DISTINCT: Final = 16
SALT_BYTES: Final = 16
TAG: Final = "cz-field/1"

KEY_BYTES: Final = 16
_BLOCK = 64
_FORMAT = "cz-disclosure/1"
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_SM3 = hasher(Algorithm.SM3)
_ECB = modes.ECB()  # noqa: S305 - of distinct counters: this is the keystream of CTR from a zero counter, without its set-up per call
_COUNTERS = b"".join(number.to_bytes(SALT_BYTES) for number in range(512))
_encode_sorted = compact_encoder(sort_keys=True)
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_LEAF = f'["{TAG}","%b%b%b]'.encode()
_URL = bytes.maketrans(b"+/", b"-_")


class StageCommitment(NamedTuple):
    """A stage as committed: the d of each field in order, its flat salt, and `pair` = (StageHash, twin)."""

    name: str
    leaves: tuple[bytes, ...]
    flat_salt: bytes
    pair: Pair


@dataclass(frozen=True, slots=True)
class DisclosedField:
    """A field as disclosed and proven to stand in its stage."""

    stage: str
    field: str
    value: JSONValue
    salt: bytes


def check_secret(secret: bytes) -> None:
    """Return if `secret` can be an item's secret.

    Shapes: 32 bytes, at least 16 of them distinct.
    Raises: Malformed otherwise.
    Source: formats §2.1.
    """
    if len(secret) != SECRET_BYTES:
        raise Malformed(f"secret has wrong length: expected {SECRET_BYTES} bytes, got {len(secret)}")
    if len(set(secret)) < MIN_DISTINCT:
        raise Malformed(
            f"secret is not random: expected at least {MIN_DISTINCT} distinct bytes",
            hint="draw 32 bytes from a secure random source",
        )


def hmac_sm3(key: bytes, message: bytes) -> bytes:
    """HMAC-SM3 of `message`.

    Shapes: key ≤ 64 bytes → 32 bytes.
    Source: RFC 2104 over GB/T 32905; written out because `hmac` looks the algorithm up at each call.
    """
    return _Keyed(key).digest(message)


class _Keyed:
    """HMAC-SM3 under one key, whose two blocks are hashed once."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(_BLOCK, b"\0")
        self._inner, self._outer = _SM3.copy(), _SM3.copy()
        self._inner.update(padded.translate(_INNER))
        self._outer.update(padded.translate(_OUTER))

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


def derive(secret: bytes, tag: str, *context: JSONValue) -> bytes:
    """The key that `secret` gives for `tag` and `context`.

    Shapes: HMAC-SM3(secret, JCS([tag, context…])), its first 16 bytes.
    Raises: Malformed if the context has no canonical form.
    Source: formats §1 (derived key).
    """
    texts = [quoted(each) if type(each) is str else canonical_text(each) for each in (tag, *context)]
    return hmac_sm3(secret, f"[{','.join(texts)}]".encode())[:KEY_BYTES]


def salts(key: bytes, count: int) -> list[bytes]:
    """Salts 0 … count-1 under `key`: the blocks of SM4-CTR from a zero counter, made in one call.

    Shapes: key 16 bytes, count ≤ 512 → 16 bytes each.
    Source: formats §1 (Salt).
    """
    stream = _keystream(key, 0, count)
    return [stream[start : start + SALT_BYTES] for start in range(0, len(stream), SALT_BYTES)]


def _keystream(key: bytes, first: int, count: int) -> bytes:
    return _sm4()(key, _COUNTERS[first * SALT_BYTES : (first + count) * SALT_BYTES])


def sm4_blocks(key: bytes, blocks: bytes) -> bytes:
    """SM4 of each block of 16 bytes by itself, under a key used for them only: salts are that of their counters."""
    return _sm4()(key, blocks)


@cache
def _sm4() -> Callable[[bytes, bytes], bytes]:
    """SM4 of blocks under a key: by libcrypto where it agrees with `cryptography`, which takes twice the time."""
    with suppress(SigningUnavailable):
        library = libcrypto.load()
        probe = _COUNTERS[: 8 * KEY_BYTES]
        if library.sm4(probe[-KEY_BYTES:], probe) == _portable_sm4(probe[-KEY_BYTES:], probe):
            return library.sm4
    return _portable_sm4


def _portable_sm4(key: bytes, blocks: bytes) -> bytes:
    return Cipher(algorithms.SM4(key), _ECB).encryptor().update(blocks)


def _salt_texts(stream: bytes) -> list[bytes]:
    """The b64u of each salt: two zero bytes after each make 18, whose first 22 characters of 24 are the salt's own."""
    padded = b"\0\0".join([stream[start : start + SALT_BYTES] for start in range(0, len(stream), SALT_BYTES)]) + b"\0\0"
    text = b2a_base64(padded, newline=False).translate(_URL)
    return [text[start : start + 22] for start in range(0, len(text), 24)]


def _value_text(value: JSONValue) -> str:
    """The JCS text of a value that validation has already passed; text and integers, nearly all there are, without a detour."""
    if type(value) is str:
        return encode_basestring(value)
    if value is None:
        return "null"
    if type(value) is int:
        return str(value)
    text = _encode_sorted(value)
    # Sorted by code points, which is JCS order but where a member's name holds a character beyond U+FFFF.
    return text if text.isascii() or not _ASTRAL.search(text) else canonical_text(value)


class Contents(NamedTuple):
    """What an item commits to, and the names it is bound to."""

    template: Template
    stages: Mapping[str, Mapping[str, JSONValue]]
    secret: bytes
    log: str
    submitter: str
    client_key: str

    def __repr__(self) -> str:
        return "Contents(…)"


def commit(
    template: Template,
    stages: Mapping[str, Mapping[str, JSONValue]],
    *,
    secret: bytes,
    log: str,
    submitter: str,
    client_key: str,
) -> tuple[StageCommitment, ...]:
    """The commitments of the stages given, in template order; a field not given has value null and the same kind of leaf.

    The values are taken as they are: `Template.validate` comes first.
    Source: formats §2.2; T/SAC 004—2024 App. A c), B c) StageHash (what it covers is ours, erratum J10).
    """
    (made,) = commit_each([Contents(template, stages, secret, log, submitter, client_key)])
    return made


def commit_each(items: Sequence[Contents]) -> list[tuple[StageCommitment, ...]]:
    """What `commit` gives for each item, in order; all of them are hashed together, in a fraction of the time."""
    salted = [_salted(item) for item in items]
    made = iter(roots([leaves for stages in salted for _, leaves, _ in stages]))
    return [
        tuple(
            [
                StageCommitment(name, leaves, flat_salt, Pair(next(made), flat(flat_salt, leaves, algorithm=Algorithm.SHA256)))
                for name, leaves, flat_salt in stages
            ]
        )
        for stages in salted
    ]


def _salted(item: Contents) -> list[tuple[str, tuple[bytes, ...], bytes]]:
    """The name, leaves and flat salt of each stage given."""
    keyed = _Keyed(item.secret)
    context = ",".join(map(encode_basestring, (item.log, item.submitter, item.client_key)))
    key = keyed.digest(f'["cz-salt/1",{context}]'.encode())[:KEY_BYTES]
    made = []
    for stage in item.template.stages:
        values = item.stages.get(stage.name)
        if values is None:
            continue
        texts = _salt_texts(_keystream(key, stage.start, len(stage.fields)))
        leaves = [
            _LEAF % (salt, frame, _value_text(values.get(field.name)).encode())
            for salt, frame, field in zip(texts, stage.frames, stage.fields, strict=True)
        ]
        flat_key = keyed.digest(f'["cz-flat/1",{context},{encode_basestring(stage.name)}]'.encode())[:KEY_BYTES]
        made.append((stage.name, tuple(leaves), _keystream(flat_key, 0, 1)))
    return made


def disclose(
    template: Template, commitments: Sequence[StageCommitment], fields: Collection[tuple[str, str]] | None
) -> JSONValue | None:
    """The value of disclosure.json that shows `fields`, each (StageName, field); None shows all of them.

    Shapes: fields ascend by place, stages in template order; None if nothing is to be shown: then there is no file.
    Raises: Malformed if a field is none of the template's, or its stage was not given.
    Source: formats §6.1, §11 (Disclosure); T/SAC 004—2024 C.5-verify-1.
    """
    given = {commitment.name: commitment for commitment in commitments}
    wanted: dict[str, list[int]] = {}
    if fields is None:
        wanted = {name: list(range(len(commitment.leaves))) for name, commitment in given.items()}
    for stage_name, name in sorted(set(fields or ())):
        stage = template.stage(stage_name)
        if stage_name not in given:
            raise Malformed(f"stage was not submitted, so none of its fields can be disclosed (stage {stage_name})")
        wanted.setdefault(stage_name, []).append(stage.field(name).place - stage.start)
    shown = [_disclosed_stage(given[stage.name], sorted(wanted[stage.name])) for stage in template.stages if stage.name in wanted]
    return {"format": _FORMAT, "stages": shown} if shown else None


def _disclosed_stage(commitment: StageCommitment, indices: list[int]) -> dict[str, JSONValue]:
    shown: dict[str, JSONValue] = {
        "fields": [commitment.leaves[index].decode() for index in indices],
        "name": commitment.name,
        "proof": [b64(each) for each in subset_path(leaf_hashes(commitment.leaves), indices)],
    }
    if len(indices) == len(commitment.leaves):
        shown["flat_salt"] = b64u(commitment.flat_salt)
    return shown


StageDigests = Mapping[str, JSONValue] | tuple[str, Pair]
"""A stage as S lists it: `{"name", "sha256", "sm3"}` or (name, pair)."""


def check_stages(template: Template, statement_stages: Sequence[StageDigests]) -> dict[str, Pair]:
    """The digests of each stage of S by name, all of them the template's and in its order, none that it requires left out.

    Raises: VerificationError otherwise.
    Source: formats §2.3, §11 (Values: a stage whose `required` is absent may be left out).
    """
    found: dict[str, Pair] = {}
    last = -1
    order = {stage.name: number for number, stage in enumerate(template.stages)}
    for entry in statement_stages:
        name, digests = _stage_digests(entry)
        if order.get(name, -1) <= last:
            raise VerificationError(f"statement lists stages that are not the template's in its order (template {template.name})")
        last = order[name]
        found[name] = digests
    if not found or any(stage.required and stage.name not in found for stage in template.stages):
        raise VerificationError(f"statement lacks a stage that the template requires (template {template.name})")
    return found


def _stage_digests(entry: StageDigests) -> tuple[str, Pair]:
    if isinstance(entry, tuple):
        return entry
    try:
        return str(entry["name"]), Pair(unhex(entry["sm3"]), unhex(entry["sha256"]))
    except (KeyError, Malformed) as error:
        raise VerificationError("stage of the statement has wrong form: expected name, sha256 and sm3") from error


def verify_disclosure(
    template: Template, statement_stages: Sequence[StageDigests], disclosure: JSONValue
) -> list[DisclosedField]:
    """The disclosed fields, each proven to stand at its place under a StageHash of the statement.

    Shapes: `disclosure` is the parsed value of disclosure.json; stages in template order, fields ascending by place.
    Raises: VerificationError if anything contradicts; Unknown for another version of disclosure or field.
    Source: formats §4 check 5, §11 (Disclosure); T/SAC 004—2024 C.5-verify-1 to C.5-verify-4.
    """
    given = check_stages(template, statement_stages)
    shown: list[DisclosedField] = []
    last = -1
    for entry in _stages_of(disclosure):
        stage = template.by_name.get(entry["name"]) if isinstance(entry["name"], str) else None
        if stage is None or stage.name not in given:
            raise VerificationError("disclosure shows a stage that the statement does not list")
        if stage.start <= last:
            raise VerificationError(f"disclosure shows stages out of order or twice (stage {stage.name})")
        last = stage.start
        shown += _verify_stage(stage, given[stage.name], entry)
    return shown


def _stages_of(disclosure: JSONValue) -> list[dict[str, JSONValue]]:
    try:
        check_format(disclosure, "cz-disclosure")
    except Malformed as error:
        raise VerificationError(error.message) from error
    stages = disclosure.get("stages")
    if set(disclosure) != {"format", "stages"} or not isinstance(stages, list) or not stages:
        raise VerificationError("disclosure has wrong members: expected format and at least one of stages")
    needed = {"fields", "name", "proof"}
    for entry in stages:
        if not isinstance(entry, dict) or not needed <= set(entry) <= needed | {"flat_salt"}:
            raise VerificationError(
                "stage of the disclosure has wrong members: expected fields, name, proof and perhaps flat_salt"
            )
        if not isinstance(entry["fields"], list) or not entry["fields"] or not isinstance(entry["proof"], list):
            raise VerificationError(
                "stage of the disclosure has wrong form: expected at least one of fields, and an array of proof"
            )
    return stages


def _verify_stage(stage: StageTemplate, digests: Pair, entry: Mapping[str, JSONValue]) -> list[DisclosedField]:
    datas, shown = _opened(stage, entry["fields"])
    try:
        path = [unb64(each, size=32, what="hash of the subset proof") for each in entry["proof"]]
        salt = unb64u(entry["flat_salt"], size=SALT_BYTES, what="flat salt") if "flat_salt" in entry else None
    except Malformed as error:
        raise VerificationError(f"{error.message} (stage {stage.name})") from error
    verify_subset({index: leaf_hash(data) for index, data in datas.items()}, len(stage.fields), path, digests.sm3)
    if (len(datas) == len(stage.fields)) != (salt is not None):
        raise VerificationError(f"flat salt is wrong: expected of a stage disclosed wholly and of no other (stage {stage.name})")
    if salt is not None and flat(salt, datas.values(), algorithm=Algorithm.SHA256) != digests.sha256:
        raise VerificationError(f"twin of the stage is another: its fields and flat salt do not give it (stage {stage.name})")
    return shown


def _opened(stage: StageTemplate, texts: Sequence[JSONValue]) -> tuple[dict[int, bytes], list[DisclosedField]]:
    """The d by index within the stage, and what each says: parsed, canonical, ascending, each at its field's place."""
    datas: dict[int, bytes] = {}
    shown: list[DisclosedField] = []
    last = -1
    for text in texts:
        opened = open_field(text)
        field = stage.by_name.get(opened.field)
        if opened.stage != stage.name or field is None:
            raise VerificationError(f"disclosed field is none of its stage's (stage {stage.name})")
        index = field.place - stage.start
        if index <= last:
            raise VerificationError(f"disclosed fields do not ascend by place (stage {stage.name})")
        last = index
        datas[index] = text.encode()
        shown.append(opened)
    return datas, shown


def open_field(text: JSONValue) -> DisclosedField:
    """What the d of a field says; `text` is d itself and is hashed as it stands.

    Raises: VerificationError if it is not canonical JSON of the five members; Unknown for another version of the tag.
    Source: formats §1 (d of a field), §2.2.
    """
    if not isinstance(text, str):
        raise VerificationError("disclosed field is not text")
    try:
        value = parse_canonical(text.encode("utf-8", "surrogatepass"), what="disclosed field")
    except Malformed as error:
        raise VerificationError(error.message) from error
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise VerificationError("disclosed field has wrong form: expected an array that begins with its tag")
    if value[0] != TAG:
        if re.fullmatch(r"cz-field/[1-9][0-9]{0,8}", value[0], re.ASCII):
            raise Unknown(f"disclosed field has an unknown version: expected {TAG}")
        raise VerificationError(f"disclosed field has wrong tag: expected {TAG}")
    if len(value) != 5 or not isinstance(value[2], str) or not isinstance(value[3], str):
        raise VerificationError("disclosed field has wrong form: expected tag, salt, StageName, field and value")
    try:
        salt = unb64u(value[1], size=SALT_BYTES, what="salt of a disclosed field")
    except Malformed as error:
        raise VerificationError(error.message) from error
    return DisclosedField(value[2], value[3], value[4], salt)


def verify_stage_data(template: Template, name: str, stage_hash: bytes, data: JSONValue) -> list[DisclosedField]:
    """The fields that StageData of a PLAINTEXT record shows: all of the stage's, giving its StageHash, each fitting its field.

    The twin cannot be judged here: its salt is not on the chain.
    Raises: VerificationError if anything contradicts; Unknown as `verify_disclosure`.
    Source: formats §2.9, §11 (Disclosure: PLAINTEXT StageData).
    """
    stage = template.by_name.get(name)
    if stage is None or not isinstance(data, list):
        raise VerificationError("StageData is no array of the fields of a stage of the template")
    datas, shown = _opened(stage, data)
    if len(datas) != len(stage.fields):
        raise VerificationError(f"StageData lacks a field: expected all {len(stage.fields)} (stage {name})")
    if root(leaf_hashes(datas.values())) != stage_hash:
        raise VerificationError(f"StageData does not give the StageHash (stage {name})")
    for opened in shown:
        template.check_value(name, opened.field, opened.value)
    return shown
