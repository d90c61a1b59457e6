"""The trust file reads in one way, or not at all."""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import COSIGNATURE_TYPE, NOTE_TYPE, STATEMENT_TYPE, vkey
from models.digest import pair
from models.errors import Malformed, Unknown
from models.quorum import WitnessPolicy
from models.signature import SM2Signer
from models.trust import Authority, ChainTrust, Epoch, Recounter, Submitter, TrustRoots, Validator, Window, format_trust

VECTORS = Path(__file__).parent.parent / "vectors" / "items"
TEXT = (VECTORS / "trust.toml").read_text()
ROOTS = TrustRoots.parse(TEXT.encode())
KEYS = [SM2Signer.generate().public_key for _ in range(4)]
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("path", sorted(VECTORS.glob("trust*.toml")), ids=lambda path: path.stem)
def test_shipped_trust_files_read_back_or_are_malformed(path: Path) -> None:
    data = path.read_bytes()
    if "bad" in path.name:
        with pytest.raises(Malformed):
            TrustRoots.parse(data)
        return
    roots = TrustRoots.parse(data)
    assert roots.pair == pair(data)
    assert dataclasses.replace(TrustRoots.parse(format_trust(roots)), pair=roots.pair) == roots


def test_everything_a_trust_file_can_hold_reads_back() -> None:
    start = datetime(2026, 1, 1, 8, 30, 15, 123000, tzinfo=UTC)
    key = vkey("w.example/1", KEYS[0], COSIGNATURE_TYPE)
    witnesses = WitnessPolicy.parse(f"# ours\nwitness w1 {key} https://w.example\nquorum w1\n")
    roots = dataclasses.replace(
        ROOTS,
        policy=dataclasses.replace(
            ROOTS.policy,
            chains="all",
            signature="required",
            twin="required",
            timestamps=2,
            third_parties=3,
            skew_s=0,
            witnesses=witnesses,
        ),
        chains=(
            *ROOTS.chains,
            ChainTrust(
                "c.1",
                "other",
                7,
                1,
                True,
                ("ab", "cd"),
                {"contract": "0x1", "a b": [1, {"deep": True}]},
                (Epoch(0, (Validator("k1", '甲 "乙" \\ 丙'),), 1), Epoch(9, (Validator("k1", "A"), Validator("k2", "B")), 2)),
            ),
        ),
        issued_at=start,
        algorithms={"sm3": start, "sm2-sm3": start + timedelta(days=1)},
        authorities=(Authority(PEM, Window(start, None)),),
        timestampers=(Authority(PEM, Window(None, start)),),
        recounters=(Recounter("审计", vkey("r.example", KEYS[1], NOTE_TYPE)),),
        submitters=(
            Submitter("acct-9", vkey=vkey("acct-9", KEYS[2], STATEMENT_TYPE)),
            Submitter("acct-9", certificate=bytes(32)),
            Submitter("账户", subject="CN=李雷,O=示例"),
        ),
    )
    read = TrustRoots.parse(format_trust(roots))
    assert dataclasses.replace(read, pair=roots.pair) == roots


def test_absent_members_have_their_defaults() -> None:
    roots = TrustRoots.parse(b'[policy]\n[[log]]\norigin = "a/b"\n[[chain]]\nid = "c"\nengine = "e"\n')
    assert (roots.policy.chains, roots.policy.signature, roots.policy.twin) == (1, "if-present", "if-present")
    assert (roots.policy.timestamps, roots.policy.third_parties, roots.policy.skew_s) == (0, 0, 300)
    assert roots.policy.witnesses.is_satisfied_by(())
    assert roots.chains[0].not_before is False
    assert roots.chains[0].epoch(0) is None


CHANGES = [
    ('format = "cz-trust/1"', 'format = "cz-trust/2"'),
    ("[policy]\n", "[policy]\nextra = 1\n"),
    ("[policy]\n", "[politics]\n"),
    ("chains = 1", "chains = 1\nchains = 1"),
    ("chains = 1", "chains = -1"),
    ("chains = 1", "chains = true"),
    ("chains = 1", 'chains = "some"'),
    ('signature = "if-present"', 'signature = "maybe"'),
    ("skew_s = 300", "skew_s = 3.5"),
    ("skew_s = 300", 'skew_s = "300"'),
    ('witnesses = "quorum none\\n"', 'witnesses = "quorum none"'),
    ('witnesses = "quorum none\\n"', 'witnesses = "quorum all\\n"'),
    ("[algorithms]\n", "[algorithms]\nmd5 = 2026-01-01T00:00:00Z\n"),
    ("[algorithms]\n", "[algorithms]\nsm3 = 2026-01-01\n"),
    ("[algorithms]\n", '[algorithms]\nsm3 = "2026-01-01T00:00:00Z"\n'),
    ("issued_at = 2026-11-21T00:00:00Z", "issued_at = 2026-11-21T00:00:00"),
    ('tree = "sm3"', 'tree = "md5"'),
    ('tree = "sm3"\n', 'tree = "sha256"\n'),
    ('twin_of = "sandbox.example.cn/log/1"', 'twin_of = "sandbox.example.cn/log/2"'),
    ('origin = "sandbox.example.cn/log/1"\n', 'origin = "sandbox.example.cn/log/2"\n'),
    ("from = 2026-01-01T00:00:00Z", "from = 2029-01-01T00:00:00Z"),
    ("from = 2026-01-01T00:00:00Z", "from = 2026-01-01T00:00:00"),
    ("+ce4539c3+", "+ce4539c4+"),
    ('organisation = "A", ', ""),
    ('id = "embedded-test-1"\n', 'id = "embedded-test-1.b"\n'),
    ('id = "embedded-test-1"\n', 'id = "Embedded"\n'),
    ('engine = "embedded"', 'engine = "../x"'),
    ("not_before = false", "not_before = 0"),
    ("from_height = 0", "from_height = -1"),
    ('quorum = "2/3"', 'quorum = "1/2"'),
    ('quorum = "2/3"', "quorum = 0"),
    ("params = {}", "params = { a = 1.5 }"),
    ("params = {}", "params = { a = 2026-01-01 }"),
    ('account = "acct-1"\n', 'account = "acct-2"\n'),
    ('account = "acct-1"\n', 'account = "acct-1"\nsubject = "CN=a"\n'),
    ('account = "acct-1"\n', ""),
]


@pytest.mark.parametrize(("old", "new"), CHANGES, ids=lambda text: text[:40])
def test_refuses_anything_the_page_does_not_name(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(Malformed):
        TrustRoots.parse(TEXT.replace(old, new, 1).encode())


SUBMITTER = "[[submitter]]\n"


@pytest.mark.parametrize(
    "more",
    [
        f'[[submitter]]\naccount = "x"\nvkey = "{vkey("x", ROOTS.logs[0].keys[0].key.public_key, STATEMENT_TYPE)}"\n',
        f'[[submitter]]\naccount = "x"\nvkey = "{vkey("x", KEYS[0], COSIGNATURE_TYPE)}"\n',
        f'[[submitter]]\naccount = "y"\nvkey = "{vkey("x", KEYS[0], STATEMENT_TYPE)}"\n',
        f'[[recounter]]\nname = "r"\nvkey = "{vkey("x", KEYS[0], STATEMENT_TYPE)}"\n',
        '[[submitter]]\naccount = "x"\nsubject = "CN=a"\n[[submitter]]\naccount = "x"\nsubject = "CN=a"\n',
        '[[submitter]]\naccount = "x"\nsubject = "CN=a"\n[[submitter]]\naccount = "y"\nsubject = "CN=a"\n',
        '[[submitter]]\naccount = "x"\n',
        '[[submitter]]\naccount = "x"\ncertificate = "AB"\n',
        '[[ca]]\ncertificate = "no pem"\n',
        "[[ca]]\nfrom = 2026-01-01T00:00:00Z\n",
        f'[[tsa]]\ncertificate = """{PEM}"""\n[[tsa]]\ncertificate = """{PEM}"""\n',
        "[[unknown]]\n",
        '[[log]]\norigin = "sandbox.example.cn/log/1"\n',
    ],
    ids=range(13),
)
def test_refuses_doubles_and_keys_under_two_names(more: str) -> None:
    with pytest.raises(Malformed):
        TrustRoots.parse((TEXT + more).encode())


def test_one_account_may_have_several_keys() -> None:
    more = "".join(f'[[submitter]]\naccount = "acct-1"\nvkey = "{vkey("acct-1", key, STATEMENT_TYPE)}"\n' for key in KEYS)
    assert len(TrustRoots.parse((TEXT + more).encode()).submitters) == 5


def test_refuses_to_write_what_it_would_not_read() -> None:
    with pytest.raises(Malformed):
        format_trust(dataclasses.replace(ROOTS, chains=()))


def test_window_is_half_open() -> None:
    start, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    window = Window(start, until)
    assert window.holds(start)
    assert not window.holds(until)
    assert not window.holds(start - timedelta(microseconds=1))
    assert Window().holds(start)


def test_epoch_is_the_last_that_begins_at_or_below() -> None:
    first, second = Epoch(5, (), 1), Epoch(9, (), 1)
    chain = ChainTrust("c", "e", epochs=(first, second))
    assert chain.epoch(4) is None
    assert chain.epoch(5) == chain.epoch(8) == first
    assert chain.epoch(9) == chain.epoch(10**9) == second


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (3, 3), (4, 3), (6, 5), (7, 5), (10, 7)])
def test_two_thirds_means_more_than(count: int, needed: int) -> None:
    epoch = Epoch(0, tuple(Validator(f"k{number}", "A") for number in range(count)))
    assert epoch.needed() == needed


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
@settings(max_examples=80)
def test_any_text_behind_a_trust_file_is_refused_or_a_comment(text: str) -> None:
    try:
        read = TrustRoots.parse((TEXT + "\n" + text).encode("utf-8", "surrogatepass"))
    except Malformed:
        return
    assert dataclasses.replace(read, pair=ROOTS.pair) == ROOTS


# --- witness policy --------------------------------------------------------------------------------------------------


def witness(name: str, number: int) -> str:
    return f"witness {name} {vkey(f'w{number}.example/w', KEYS[number], COSIGNATURE_TYPE)}\n"


WITNESSES = "".join(witness(f"w{number}", number) for number in range(4))


@pytest.mark.parametrize(
    ("rule", "enough", "short"),
    [
        ("quorum none\n", (), None),
        ("quorum w1\n", ("w1",), ("w0", "w2", "w3")),
        ("group g any w0 w1\nquorum g\n", ("w1",), ("w2", "w3")),
        ("group g all w0 w1\nquorum g\n", ("w0", "w1"), ("w0", "w2", "w3")),
        ("group g 2 w0 w1 w2\nquorum g\n", ("w0", "w2"), ("w1", "w3")),
        ("group a 1 w0 w1\ngroup b all w2 w3\ngroup c all a b\nquorum c\n", ("w1", "w2", "w3"), ("w0", "w1", "w2")),
        ("  # said\n\n\tgroup  g   any\tw0\n quorum  g \n", ("w0",), ("w1",)),
    ],
)
def test_quorum_needs_what_its_rule_says(rule: str, enough: tuple[str, ...], short: tuple[str, ...] | None) -> None:
    policy = WitnessPolicy.parse(WITNESSES + rule)
    assert policy.is_satisfied_by(enough)
    assert short is None or not policy.is_satisfied_by(short)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "quorum none",
        "quorum none\nquorum none\n",
        "quorum x\n",
        "quorum w0\n" + WITNESSES,
        WITNESSES,
        WITNESSES + "group g 0 w0\nquorum g\n",
        WITNESSES + "group g 3 w0 w1\nquorum g\n",
        WITNESSES + "group g any\nquorum g\n",
        WITNESSES + "group g any w0 w0\nquorum g\n",
        WITNESSES + "group a any w0\ngroup b any w0\nquorum a\n",
        WITNESSES + "group none any w0\nquorum none\n",
        WITNESSES + "group w0 any w1\nquorum w0\n",
        WITNESSES + "group g any none\nquorum g\n",
        WITNESSES + witness("again", 0) + "quorum w0\n",
        WITNESSES + "log x\nquorum w0\n",
        WITNESSES + "quorum w0 w1\n",
        WITNESSES + "group g 01 w0\nquorum g\n",
        "quorum none\x00\n",
        "witness w a+b+c\nquorum w\n",
        5,
        f"witness w {vkey('w', KEYS[0], NOTE_TYPE)}\nquorum w\n",
    ],
    ids=range(23),
)
def test_refuses_another_witness_policy(text: object) -> None:
    with pytest.raises((Malformed, Unknown)):
        WitnessPolicy.parse(text)
