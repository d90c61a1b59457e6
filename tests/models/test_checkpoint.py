"""Notes, keys and proof files: what is accepted is exactly what would be written."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import (
    COSIGNATURE_TYPE,
    ED25519_COSIGNATURE_TYPE,
    ED25519_TYPE,
    MAX_T,
    NOTE_TYPE,
    STATEMENT_TYPE,
    Checkpoint,
    ConsistencyProof,
    Note,
    SignatureLine,
    TlogProof,
    VerifierKey,
    cosign,
    cosignature_message,
    make_note,
    signature_line,
    verify_cosignature,
    verify_line,
    vkey,
)
from models.digest import Algorithm
from models.errors import Malformed, Unknown, VerificationError
from models.names import check_origin, twin_origin
from models.signature import SM2Signer

ORIGIN = "evidence.example.cn/log/1"
SAMPLE = bytes.fromhex(
    "0409F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"
    "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13"
)
"""The public key of the examples of GB/T 32918.5."""
SIGNER = SM2Signer.generate()
HEAD = Checkpoint(ORIGIN, 5, bytes(range(32)))
TIME = 1_795_240_830
NOTE = Note.parse(make_note(HEAD, [cosign(HEAD, SIGNER, TIME)]))
KEY = vkey(ORIGIN, SIGNER.public_key, COSIGNATURE_TYPE)


def test_key_id_is_that_of_the_page() -> None:
    assert vkey(ORIGIN, SAMPLE, COSIGNATURE_TYPE).key_id.hex() == "79a4d412"


@pytest.mark.parametrize("kind", [COSIGNATURE_TYPE, NOTE_TYPE, STATEMENT_TYPE])
def test_key_text_reads_back(kind: bytes) -> None:
    key = vkey("acct-1", SAMPLE, kind)
    assert VerifierKey.parse(str(key)) == key
    assert key.algorithm == "sm2-sm3"


@pytest.mark.parametrize("kind", [ED25519_TYPE, ED25519_COSIGNATURE_TYPE])
def test_ed25519_key_text_reads_back(kind: bytes) -> None:
    key = vkey("witness.example/w1", Ed25519PrivateKey.generate().public_key().public_bytes_raw(), kind)
    assert VerifierKey.parse(str(key)) == key
    assert key.algorithm == "ed25519"


GOOD_KEY = str(vkey("acct-1", SAMPLE, STATEMENT_TYPE))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "acct-1",
        GOOD_KEY + "=",
        GOOD_KEY.replace("acct-1", "acct-2"),
        GOOD_KEY.replace("acct-1", "acct 1"),
        GOOD_KEY.replace("+", "+ ", 1),
        GOOD_KEY.upper(),
        "acct-1+00000000+" + GOOD_KEY.split("+", 2)[2],
        GOOD_KEY[:-4],
        7,
        None,
    ],
    ids=range(11),
)
def test_refuses_another_key_text(text: object) -> None:
    with pytest.raises(Malformed):
        VerifierKey.parse(text)


def test_key_of_another_signature_type_is_unknown() -> None:
    with pytest.raises(Unknown):
        VerifierKey.parse("a+00000000+" + base64.b64encode(b"\x02" + bytes(32)).decode())


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
def test_refuses_key_names_that_would_split_a_line(name: str) -> None:
    with pytest.raises(Malformed):
        vkey(name, SAMPLE, COSIGNATURE_TYPE)


def test_refuses_key_off_the_curve() -> None:
    with pytest.raises(Malformed):
        vkey(ORIGIN, SAMPLE[:-1] + b"\0", COSIGNATURE_TYPE)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32))
def test_checkpoint_reads_back(size: int, root: bytes) -> None:
    head = Checkpoint(ORIGIN, size, root)
    assert Checkpoint.parse(head.text()) == head


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEAD.text()[:-1],
        HEAD.text() + "\n",
        HEAD.text() + "more\n",
        HEAD.text().replace("\n5\n", "\n05\n"),
        HEAD.text().replace("\n5\n", "\n-5\n"),
        HEAD.text().replace("\n5\n", "\n٥\n"),
        HEAD.text().replace("\n5\n", f"\n{2**53}\n"),
        HEAD.text().replace("=", ""),
        HEAD.text().replace("AAEC", "AAE"),
        HEAD.text().replace("evidence", "Evidence"),
        HEAD.text().replace("\n", "\r\n"),
        " " + HEAD.text(),
    ],
    ids=range(13),
)
def test_refuses_another_checkpoint_text(text: str) -> None:
    with pytest.raises(Malformed):
        Checkpoint.parse(text)


def test_origin_is_host_and_path_and_a_twin_may_be_longer_by_its_suffix() -> None:
    longest = "a" * 126 + "/b"
    for origin in (ORIGIN, longest, twin_origin(longest)):
        assert check_origin(origin) == origin
    for bad in ("host", "a/b ", "A/b", "a//b", "a/", "/a", "a" * 127 + "/b", "a/b\n", 5):
        with pytest.raises(Malformed):
            check_origin(bad)


# --- lines and notes -------------------------------------------------------------------------------------------------


def test_cosignature_verifies_under_its_key_only() -> None:
    (line,) = NOTE.lines
    assert line.time == TIME
    verify_cosignature(NOTE.text, line, KEY)
    with pytest.raises(VerificationError):
        verify_cosignature(NOTE.text + "\n", line, KEY)
    with pytest.raises(VerificationError, match="another key"):
        verify_cosignature(NOTE.text, line, vkey(ORIGIN, SAMPLE, COSIGNATURE_TYPE))
    other = vkey(ORIGIN, SIGNER.public_key, NOTE_TYPE)
    renamed = SignatureLine.parse(signature_line(ORIGIN, other.key_id, line.body))
    with pytest.raises(Unknown):
        verify_cosignature(NOTE.text, renamed, other)


@pytest.mark.parametrize("place", [0, 3, 4, 11, 12, 43, 44, 75])
def test_no_altered_byte_of_a_line_verifies(place: int) -> None:
    (line,) = NOTE.lines
    raw = bytearray(line.key_id + line.body)
    raw[place] ^= 1
    altered = SignatureLine.parse(signature_line(ORIGIN, bytes(raw[:4]), bytes(raw[4:])))
    with pytest.raises((VerificationError, Malformed)):
        verify_cosignature(NOTE.text, altered, KEY)


def test_message_is_that_of_tlog_cosignature() -> None:
    assert cosignature_message(HEAD.text(), 7) == b"cosignature/v1\ntime 7\n" + HEAD.text().encode()


@pytest.mark.parametrize("time", [-1, MAX_T])
def test_refuses_to_sign_outside_of_time(time: int) -> None:
    with pytest.raises(Malformed):
        cosign(HEAD, SIGNER, time)


def test_time_past_the_year_9999_is_malformed() -> None:
    line = SignatureLine.parse(signature_line(ORIGIN, KEY.key_id, MAX_T.to_bytes(8, "big") + bytes(64)))
    with pytest.raises(Malformed, match="9999"):
        _ = line.time


def test_ed25519_lines_verify() -> None:
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    witness = vkey("witness.example/w1", raw, ED25519_COSIGNATURE_TYPE)
    body = TIME.to_bytes(8, "big") + key.sign(cosignature_message(NOTE.text, TIME))
    verify_cosignature(NOTE.text, SignatureLine.parse(signature_line(witness.name, witness.key_id, body)), witness)
    with pytest.raises(VerificationError):
        verify_cosignature(
            NOTE.text, SignatureLine.parse(signature_line(witness.name, witness.key_id, body[:-1] + b"x")), witness
        )
    plain = vkey("a/b", raw, ED25519_TYPE)
    line = SignatureLine.parse(signature_line("a/b", plain.key_id, key.sign(NOTE.text.encode())))
    verify_line(NOTE.text, line, plain)
    with pytest.raises(VerificationError):
        verify_line(NOTE.text + "x", line, plain)
    with pytest.raises(Malformed):
        _ = line.time


def test_plain_sm2_note_line_verifies() -> None:
    key = vkey("recounter", SIGNER.public_key, NOTE_TYPE)
    text = "cz-recount/1\nx\n"
    line = SignatureLine.parse(signature_line("recounter", key.key_id, SIGNER.sign(text.encode())))
    verify_line(text, line, key)
    with pytest.raises(VerificationError):
        verify_line("cz-recount/1\ny\n", line, key)
    with pytest.raises(Unknown):
        verify_line(text, SignatureLine.parse(signature_line(ORIGIN, KEY.key_id, bytes(64))), KEY)


def test_note_reads_back_with_several_lines() -> None:
    lines = [cosign(HEAD, SIGNER, TIME), cosign(HEAD, SM2Signer.generate(), TIME, name="w.example/1")]
    note = Note.parse(make_note(HEAD, lines))
    assert note.data == HEAD.text() + "\n" + "".join(lines)
    assert note.checkpoint() == HEAD
    assert [line.name for line in note.lines] == [ORIGIN, "w.example/1"]


LINE = NOTE.lines[0].text


@pytest.mark.parametrize(
    "data",
    [
        "",
        HEAD.text(),
        HEAD.text() + "\n",
        NOTE.data[:-1],
        NOTE.data + "\n",
        NOTE.data + LINE,
        NOTE.data + "x\n",
        NOTE.data.replace("\u2014", "-"),
        NOTE.data.replace("\u2014 ", "\u2014"),
        NOTE.data.replace(LINE, LINE[:-2] + "\n"),
        HEAD.text() + "\n" + "".join(f"\u2014 w{number} AAAAAAA=\n" for number in range(61)),
        "\n\n" + LINE,
        NOTE.data.replace("5", "5\x0b"),
        HEAD.text() + "\n" + f"\u2014 w {'A' * 70_000}\n",
        NOTE.data.encode()[:-3] + b"\xff=\n",
        "\n" + NOTE.data,
    ],
    ids=range(16),
)
def test_refuses_another_note(data: str | bytes) -> None:
    with pytest.raises(Malformed):
        Note.parse(data).checkpoint()


# --- proof files -----------------------------------------------------------------------------------------------------

PATH = (b"a" * 32, b"b" * 32)


@pytest.mark.parametrize("kind", list(Algorithm))
def test_proof_files_read_back(kind: Algorithm) -> None:
    for path in ((), PATH, (bytes(32),) * 63):
        proof = TlogProof(3, path, NOTE, kind)
        assert TlogProof.parse(proof.format(), kind=kind) == proof
        assert TlogProof.parse(proof.format().encode(), kind=kind) == proof
        joined = ConsistencyProof(3, path, NOTE)
        assert ConsistencyProof.parse(joined.format().encode()) == joined


def test_first_lines_are_those_of_the_page() -> None:
    assert TlogProof(0, (), NOTE, Algorithm.SM3).format().startswith("cz/tlog-proof-sm3@v1\nindex 0\n\n")
    assert TlogProof(0, (), NOTE, Algorithm.SHA256).format().startswith("c2sp.org/tlog-proof@v1\nindex 0\n\n")
    assert ConsistencyProof(5, PATH, NOTE).format().startswith("old 5\n")


def test_later_version_of_the_own_kind_is_unknown_and_all_else_malformed() -> None:
    text = TlogProof(3, PATH, NOTE, Algorithm.SM3).format()
    with pytest.raises(Unknown):
        TlogProof.parse(text.replace("@v1", "@v2", 1), kind=Algorithm.SM3)
    with pytest.raises(Malformed):
        TlogProof.parse(text, kind=Algorithm.SHA256)
    for first in ("cz/tlog-proof-sm3@v", "cz/tlog-proof-sm3@v01", "cz/tlog-proof-sm3", "", "cz/tlog-proof-sm3@v1 "):
        with pytest.raises(Malformed):
            TlogProof.parse(text.replace("cz/tlog-proof-sm3@v1", first, 1), kind=Algorithm.SM3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("index 3\n", "index 03\n"),
        ("index 3\n", "index -3\n"),
        ("index 3\n", "index 3\nextra A\n"),
        ("index 3\n", ""),
        ("index 3\n", "index  3\n"),
        ("YWFh", "YWF"),
        ("\n\n", "\n\n\n"),
        ("\n\n", "\n"),
        ("index 3\n", f"index {2**53}\n"),
    ],
)
def test_refuses_another_proof_file(old: str, new: str) -> None:
    text = TlogProof(3, PATH, NOTE, Algorithm.SM3).format().replace(old, new, 1)
    with pytest.raises(Malformed):
        TlogProof.parse(text, kind=Algorithm.SM3)
    with pytest.raises(Malformed):
        ConsistencyProof.parse(ConsistencyProof(3, PATH, NOTE).format().replace("old 3\n", new.replace("index", "Old"), 1))


def test_refuses_paths_and_files_over_their_limit() -> None:
    long = TlogProof(3, (bytes(32),) * 64, NOTE, Algorithm.SM3).format()
    with pytest.raises(Malformed, match="63"):
        TlogProof.parse(long, kind=Algorithm.SM3)
    with pytest.raises(Malformed, match="too long"):
        TlogProof.parse(b"x" * (129 << 10), kind=Algorithm.SM3)


@given(st.text(max_size=200) | st.binary(max_size=200))
@settings(max_examples=100)
def test_any_text_is_refused_or_reads_back(data: str | bytes) -> None:
    for parse in (Note.parse, ConsistencyProof.parse):
        with pytest.raises(Malformed):
            parse(data)
