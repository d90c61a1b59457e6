"""`evidence chain`: what the nodes of the chains say, each for itself, and whether they agree."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from evidence.cli.console import Console, table
from evidence.cli.exits import Exit, Usage
from evidence.cli.find import listing
from evidence.cli.remote import connect
from evidence.cli.verbs import REMOTE, Verbs, positive
from evidence.errors import NotFinal, NotFound
from models.canonical import JSONValue

if TYPE_CHECKING:
    from evidence.client import Client


def register(verbs: Verbs) -> None:
    """`chain` and its four verbs are in the table."""
    group = verbs.group(
        "chain", REMOTE, "区块链节点：状态、区块、交易、比对", "chain nodes: heads, blocks, transactions, comparison"
    )
    group.add("nodes", REMOTE, _nodes, "各链各节点的状态", "every node of every chain, by its own word")
    blocks = group.add("blocks", REMOTE, _blocks, "某节点的区块", "blocks as one node has them")
    blocks.add_argument(
        "--limit",
        type=positive,
        default=20,
        metavar="N",
        help=verbs.say("至多多少个区块，默认 20", "how many at most, 20 by default"),
    )
    blocks.add_argument(
        "--from",
        dest="start",
        type=int,
        metavar="HEIGHT",
        help=verbs.say("起始高度；不写则为最新的若干区块", "the first height; the newest ones if left out"),
    )
    show = group.add("show", REMOTE, _show, "一笔交易，按节点", "a transaction as one node has it, or each of them")
    show.add_argument(
        "tx", metavar="TX", help=verbs.say("交易编号，见 show 所列回执", "the transaction, as in the receipts that show lists")
    )
    show.add_argument("--all-nodes", action="store_true", help=verbs.say("逐一询问全部节点", "ask each node"))
    for parser in (blocks, show):
        parser.add_argument(
            "--chain", metavar="ID", help=verbs.say("只有一条链时可省", "may be left out where there is one chain")
        )
        parser.add_argument(
            "--node",
            type=int,
            default=None,
            metavar="N",
            help=verbs.say("节点序号，默认第一个", "the number of the node, the first by default"),
        )
    compare = group.add(
        "compare",
        REMOTE,
        _compare,
        "比对各节点对某项存证的回答；不一致时退出 1 并指出节点",
        "compare the nodes' answers on an item; 1 and the node that differs",
    )
    compare.add_argument(
        "id",
        metavar="ID",
        help=verbs.say("存证编号，或其至少 8 位的唯一前缀", "an evidence id, or a unique prefix of at least 8 digits"),
    )


def _items(value: JSONValue) -> list[dict[str, JSONValue]]:
    listed = value.get("items") if isinstance(value, Mapping) else value
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _chain_of(args: argparse.Namespace, chains: list[dict[str, JSONValue]]) -> dict[str, JSONValue]:
    fits = [each for each in chains if args.chain in (None, each.get("id"), each.get("chain"))]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise NotFound("service has no chain of that id" if chains else "service has no chain", hint="see chain nodes")
    raise Usage(f"service has {len(fits)} chains: name one with --chain", hint="see chain nodes")


def _id_of(chain: Mapping[str, JSONValue]) -> str:
    return str(chain.get("id") or chain.get("chain"))


def _node_numbers(chain: Mapping[str, JSONValue]) -> list[int]:
    nodes = chain.get("nodes")
    numbers = [each.get("node") if isinstance(each, dict) else each for each in nodes] if isinstance(nodes, list) else []
    return [number for number in numbers if isinstance(number, int)] or [0]


def _nodes(args: argparse.Namespace, console: Console) -> Exit:
    with connect(args, console) as client:
        value = client.chains()
    text = "\n\n".join(listing(chain) for chain in _items(value)) or console.say("没有链", "no chain")
    console.document(value, text)
    return Exit.DONE


def _blocks(args: argparse.Namespace, console: Console) -> Exit:
    with connect(args, console) as client:
        chain = _chain_of(args, _items(client.chains()))
        node = _node_numbers(chain)[0] if args.node is None else args.node
        value = client.blocks(_id_of(chain), node, start=args.start, limit=args.limit)
    rows = [
        [str(each.get("height")), str(each.get("hash")), str(each.get("time")), str(len(each.get("transactions") or ()))]
        for each in _items(value)
    ]
    head = console.say("高度 区块 时间 交易数", "height block time transactions").split()
    console.document(value, table(head, rows, widest=64))
    return Exit.DONE


def _asked(client: Client, chain: str, node: int, tx: str) -> dict[str, JSONValue]:
    try:
        return {"node": node, "answer": client.chain_transaction(chain, node, tx)}
    except NotFound as error:
        return {"node": node, "answer": None, "detail": error.message}


def _show(args: argparse.Namespace, console: Console) -> Exit:
    if args.all_nodes and args.node is not None:
        raise Usage("--node and --all-nodes exclude each other")
    with connect(args, console) as client:
        chain = _chain_of(args, _items(client.chains()))
        name, numbers = _id_of(chain), _node_numbers(chain)
        if not args.all_nodes:
            found = client.chain_transaction(name, numbers[0] if args.node is None else args.node, args.tx)
            console.document(found, listing(found))
            return Exit.DONE
        answers = [_asked(client, name, node, args.tx) for node in numbers]
    if all(each["answer"] is None for each in answers):
        raise NotFound("no node knows a final transaction of that id")
    console.document({"chain": name, "tx": args.tx, "nodes": answers}, "\n\n".join(listing(each) for each in answers))
    return Exit.DONE


def _compare(args: argparse.Namespace, console: Console) -> Exit:
    with connect(args, console) as client:
        value = client.nodes(args.id)
    answers = [each for each in value.get("nodes") or () if isinstance(each, dict)]
    if answers and all(each.get("state") == "absent" for each in answers):
        raise NotFinal("no node holds the item yet: it is not on a chain")
    differing = [f"{each.get('chain')} {each.get('node')}" for each in value.get("differing") or () if isinstance(each, dict)]
    agree = value.get("agree") is True and not differing
    said = (
        console.say("各节点一致", "the nodes agree")
        if agree
        else console.say("不一致的节点：", "nodes that differ: ") + ", ".join(differing)
    )
    console.document(value, f"{said}\n{listing(value)}")
    return Exit.DONE if agree else Exit.REFUSED
