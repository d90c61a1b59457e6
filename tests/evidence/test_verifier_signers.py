"""Who signed a statement, and the parts of a link: keys, certificates at not-after, accounts, order."""

import dataclasses
from datetime import datetime, timedelta

import pytest
from verifier_world import START, Made, World, key, one, refusals, sign_with_key

from evidence.verifier import verify
from models.bundle import pack
from models.certificate import CA_USAGE, Certificate, issue, make_crl, to_pem
from models.evidence import Link, Part, Signature, Statement
from models.report import Verdict
from models.trust import Authority, Submitter, TrustRoots, Window, format_trust

VALID, INVALID, INDETERMINATE = Verdict.VALID, Verdict.INVALID, Verdict.INDETERMINATE


# --- signatures (8) --------------------------------------------------------------------------------------------------


def test_signature_may_be_required() -> None:
    world = World()
    item, anchor = one(world)
    assert verify(world.bundle([item], [anchor]), world.trust(signature="required")).step(8).verdict is INDETERMINATE
    world = World()
    item, anchor = one(world, sign=sign_with_key, validated_by="submitter")
    report = verify(world.bundle([item], [anchor]), world.trust(signature="required"))
    assert report.verdict is VALID, refusals(report)
    assert any("validated by the submitter only" in sentence for sentence in report.findings)


CA_NAME, LEAF_NAME = "CN=Example CA,O=Example", "CN=Li Lei,O=Example"
DAY = timedelta(days=1)


def authority() -> bytes:
    signer = key("ca")
    return issue(
        CA_NAME, signer.public_key, signer=signer, issuer=None, serial=1, not_before=START - DAY, not_after=START + 99 * DAY,
        key_usage=CA_USAGE,
    )  # fmt: skip


def signed_by_certificate(
    *, until: datetime = START + DAY, revoked: datetime | None = None, crl: bool = True
) -> tuple[World, dict[str, bytes], TrustRoots, Certificate]:
    world = World()
    ca = Certificate.parse(authority())
    der = issue(
        LEAF_NAME, key("person").public_key, signer=key("ca"), issuer=ca, serial=2, not_before=START - DAY, not_after=until
    )
    leaf = Certificate.parse(der)

    def sign(statement: Statement) -> Signature:
        return Signature(leaf.digest.value.hex(), key("person").sign(statement.data))

    item, anchor = one(world, sign=sign)
    files = {**world.files([item], [anchor]), "certs/0.cer": der}
    if crl:
        entries = {} if revoked is None else {2: revoked}
        update = {"this_update": START - DAY, "next_update": START + 9 * DAY}
        files["certs/0.crl"] = make_crl(ca, entries, signer=key("ca"), number=1, **update)
    roots = dataclasses.replace(world.trust(), authorities=(Authority(to_pem(ca.der, "CERTIFICATE").decode()),))
    return world, files, TrustRoots.parse(format_trust(roots)), leaf


def tied(roots: TrustRoots, *entries: Submitter) -> TrustRoots:
    return TrustRoots.parse(format_trust(dataclasses.replace(roots, submitters=entries)))


def test_certificate_that_held_at_not_after_is_valid() -> None:
    _, files, roots, leaf = signed_by_certificate()
    report = verify(pack(files, "item"), roots)
    assert report.verdict is VALID, refusals(report)
    assert any("tied to no account" in sentence and leaf.subject in sentence for sentence in report.findings)
    for entry in (Submitter("acct-1", certificate=leaf.digest.value), Submitter("acct-1", subject=leaf.subject)):
        report = verify(pack(files, "item"), tied(roots, entry))
        assert report.verdict is VALID, refusals(report)
        assert not any("tied to no account" in sentence for sentence in report.findings)


def test_certificate_of_another_account_is_invalid() -> None:
    _, files, roots, leaf = signed_by_certificate()
    for entry in (Submitter("acct-2", certificate=leaf.digest.value), Submitter("acct-2", subject=leaf.subject)):
        assert verify(pack(files, "item"), tied(roots, entry)).step(8).verdict is INVALID


def test_certificate_expired_or_revoked_at_not_after_is_invalid() -> None:
    for _, files, roots, _ in (signed_by_certificate(until=START), signed_by_certificate(revoked=START)):
        assert verify(pack(files, "item"), roots).step(8).verdict is INVALID
    _, files, roots, _ = signed_by_certificate(revoked=START + timedelta(hours=5))
    assert verify(pack(files, "item"), roots).verdict is VALID


def test_certificate_of_an_unknown_authority_or_without_revocation_data_is_indeterminate() -> None:
    world, files, roots, _ = signed_by_certificate()
    assert verify(pack(files, "item"), world.trust()).step(8).verdict is INDETERMINATE
    _, files, roots, _ = signed_by_certificate(crl=False)
    assert verify(pack(files, "item"), roots).step(8).verdict is INDETERMINATE
    del files["certs/0.cer"]
    assert verify(pack(files, "item"), roots).step(8).verdict is INDETERMINATE


def test_authority_counts_only_in_its_window() -> None:
    _, files, roots, _ = signed_by_certificate()
    over = dataclasses.replace(roots, authorities=(dataclasses.replace(roots.authorities[0], window=Window(None, START)),))
    assert verify(pack(files, "item"), over).step(8).verdict is INDETERMINATE


def test_certificate_that_nothing_refers_to_is_invalid() -> None:
    _, files, roots, _ = signed_by_certificate()
    signer = key("other ca")
    other = issue(
        "CN=Other",
        signer.public_key,
        signer=signer,
        issuer=None,
        serial=1,
        not_before=START,
        not_after=START + DAY,
        key_usage=CA_USAGE,
    )
    assert verify(pack({**files, "certs/1.cer": other}, "item"), roots).step(8).verdict is INVALID


def test_certificate_signature_over_another_statement_is_invalid() -> None:
    world, files, roots, leaf = signed_by_certificate()

    def sign(_: Statement) -> Signature:
        return Signature(leaf.digest.value.hex(), key("person").sign(b"another"))

    world = World()
    item, anchor = one(world, sign=sign)
    files = {**world.files([item], [anchor]), "certs/0.cer": files["certs/0.cer"], "certs/0.crl": files["certs/0.crl"]}
    assert verify(pack(files, "item"), roots).step(8).verdict is INVALID


# --- links (9) -------------------------------------------------------------------------------------------------------


def chain_of(world: World, *links: Link) -> list[Made]:
    made: list[Made] = []
    for number, link in enumerate(links):
        previous = made[-1].evidence.pair if made else None
        made.append(world.add(link=link, part=Part(number, previous)))
    return made


def test_parts_of_one_link_are_valid_from_any_part_on() -> None:
    world = World()
    parts = chain_of(world, Link("c"), Link("c"), Link("c", closes=True))
    anchor = world.anchor()
    for shown in (parts, parts[1:], parts[:2]):
        report = verify(world.bundle(shown, [anchor]), world.trust())
        assert report.verdict is VALID, refusals(report)


@pytest.mark.parametrize(
    "links",
    [(Link("c"), Link("d")), (Link("c", closes=True), Link("c"))],
    ids=["another-code", "after-the-closing-part"],
)
def test_link_that_breaks_its_rule_is_invalid_by_9(links: tuple[Link, ...]) -> None:
    world = World()
    parts = chain_of(world, *links)
    assert verify(world.bundle(parts, [world.anchor()]), world.trust()).step(9).verdict is INVALID


def test_unlinked_items_make_no_transaction() -> None:
    world = World()
    items = [world.add(), world.add()]
    assert verify(world.bundle(items, [world.anchor()]), world.trust()).step(9).verdict is INVALID
