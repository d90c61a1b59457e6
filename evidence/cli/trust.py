"""`evidence trust`: the roots a verifier believes, and the short form in which two people compare them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evidence.cli.console import Console
from evidence.cli.exits import Exit
from evidence.cli.files import read, write
from evidence.cli.verbs import LOCAL, Verbs

if TYPE_CHECKING:
    from evidence.bootstrap import Home

_GROUPS, _GROUP_DIGITS = 10, 4


def register(verbs: Verbs) -> None:
    """`trust export` and `trust fingerprint` are in the table."""
    group = verbs.group("trust", LOCAL, "信任文件：导出、指纹", "trust files: export, fingerprint")
    export = group.add(
        "export",
        LOCAL,
        _export,
        "导出本服务的信任文件；须以不同于证据包的途径交付",
        "the roots of this service, to be handed over by another way than the bundle",
    )
    export.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help=verbs.say("写到何处；- 为标准输出", "where it goes; - is standard output"),
    )
    fingerprint = group.add(
        "fingerprint",
        LOCAL,
        _fingerprint,
        "信任文件的指纹，可当面或电话核对",
        "the fingerprint of a trust file, to be read aloud",
    )
    fingerprint.add_argument("file", metavar="FILE", help=verbs.say("信任文件", "the trust file"))


def fingerprint_of(data: bytes) -> str:
    """The first 20 bytes of SM3 of a file as ten groups of four hex digits."""
    from models.digest import sm3

    digits = sm3(data).hex()
    return " ".join(digits[start : start + _GROUP_DIGITS] for start in range(0, _GROUPS * _GROUP_DIGITS, _GROUP_DIGITS))


def _fingerprint(args: argparse.Namespace, console: Console) -> Exit:
    from models.trust import MAX_TRUST_BYTES, TrustRoots

    data = read(args.file, "trust file", limit=MAX_TRUST_BYTES)
    TrustRoots.parse(data)
    text = fingerprint_of(data)
    console.document({"file": args.file, "fingerprint": text}, text)
    return Exit.DONE


def _export(args: argparse.Namespace, console: Console) -> Exit:
    import asyncio

    from evidence.cli.local import opened

    with opened(console) as home:
        data = asyncio.run(roots_of(home))
    write(console, args.output, data)
    if args.output != "-":
        text = fingerprint_of(data)
        console.document(
            {"file": args.output, "fingerprint": text},
            console.say(f"已写入 {args.output}\n指纹 {text}", f"written to {args.output}\nfingerprint {text}"),
        )
    return Exit.DONE


async def roots_of(home: Home) -> bytes:
    """The trust file of a home: its log's keys, and what a node of each chain says of its validators."""
    from evidence.anchors import first_of
    from evidence.errors import Unready
    from evidence.home import chain_trust

    nodes = await home.nodes()
    chains = []
    try:
        for chain, found in nodes.items():
            with home.store.reading() as connection:
                first = first_of(connection, chain)
            chains.append(chain_trust(found.gateways[0].trust(), first=first or 0))
    finally:
        for found in nodes.values():
            for gateway in found.gateways:
                await gateway.aclose()
    if len(chains) < len(home.settings.chains):
        raise Unready(f"a chain is out of reach: expected {len(home.settings.chains)}, got {len(chains)}")
    return home.trust(chains)
