"""A text of the trust file that no report could quote is refused when the trust file is read."""

import unicodedata

import pytest
from verifier_world import World, key, one

from evidence.verifier import verify
from models.checkpoint import COSIGNATURE_TYPE, vkey
from models.errors import Malformed
from models.trust import TrustRoots, format_trust

COMPOSED, APART = "Soci\u00e9t\u00e9", unicodedata.normalize("NFD", "Soci\u00e9t\u00e9")


def trust_text(*, organisation: str = "N0", witness: str = "w") -> str:
    world = World()
    text = format_trust(
        world.trust(witnesses=f"witness w {vkey('w', key('w').public_key, COSIGNATURE_TYPE)}\nquorum w\n")
    ).decode()
    assert text.count('"N0"') == 1
    assert text.count('"witness w ') == 1
    return (
        text.replace('"N0"', f'"{organisation}"')
        .replace('"witness w ', f'"witness {witness} ')
        .replace("quorum w", f"quorum {witness}")
    )


@pytest.mark.parametrize("member", ["organisation", "witness"])
def test_text_apart_from_nfc_is_refused_and_its_composed_form_is_read(member: str) -> None:
    TrustRoots.parse(trust_text(**{member: COMPOSED}).encode())
    for text in (APART, APART.replace("\u0301", "\\u0301")):
        with pytest.raises(Malformed, match="normal form C"):
            TrustRoots.parse(trust_text(**{member: text}).encode())


def test_report_is_text_whatever_the_trust_file_holds() -> None:
    world = World()
    item, anchor = one(world)
    bundle = world.bundle([item], [anchor])
    refused = verify(bundle, trust_text(organisation=APART).encode())
    assert refused.verdict is None
    assert "normal form C" in refused.to_text()
    assert COMPOSED in verify(bundle, trust_text(organisation=COMPOSED).encode()).to_text()
