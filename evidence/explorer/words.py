"""What the pages say, in both languages: names of things, and what they mean to a reader who is no engineer."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

WORDS = {
    "zh": {
        "title": "区块链存证",
        "nav": "导航",
        "home": "首页",
        "docs": "接口文档",
        "problems": "错误一览",
        "other": "English",
        "zone": "（北京时间，UTC+8）",
        "head": "日志现状",
        "origin": "日志名称",
        "size": "条目数",
        "sm3": "树根 (SM3)",
        "sha256": "树根 (SHA-256)",
        "signed": "签发时间",
        "never": "尚未签发",
        "checkpoint": "已签名的检查点（文本）",
        "chains": "区块链",
        "chain": "链",
        "engine": "引擎",
        "height": "区块高度",
        "anchored": "已最终上链 / 条目数",
        "open": "在途批次",
        "down": "不可达",
        "nodes": "各节点的高度与区块摘要（JSON）",
        "items": "最新存证",
        "leaf": "序号",
        "id": "编号前 8 位",
        "template": "模板",
        "time": "受理时间（北京时间）",
        "state": "状态",
        "none": "尚无存证",
        "promised": "已承诺",
        "submitted": "已提交上链",
        "final": "已最终确认",
        "overdue": "逾期未确认",
        "damaged": "存储受损",
        "soft": "此表只列编号前缀与状态，不含任何存证内容；有权者凭编号前缀即可查询（evidence show 编号前缀）。",
        "legend": "名词解释",
        "proves": "本页由服务自行显示，本身不构成证明；是否属实，以凭信任文件离线验证证据包 (.cz) 的结论为准。",
        "as_of": "本页生成于",
        "status": "状态码",
        "name": "名称",
        "meaning": "含义",
        "what_to_do": "怎么办",
        "explained": "说明",
        "detail": "详情",
        "request_id": "请求编号",
        "about_problems": "拒绝请求时，应答的 type 指向下列之一；errors 逐项列出问题所在与应有的形式，从不回显所提交的值。",
        "docs_title": "存证接口文档",
        "noscript": "此页需要 JavaScript；不用它也可直接读取 /openapi.json。",
    },
    "en": {
        "title": "Evidence preservation",
        "nav": "Navigation",
        "home": "Home",
        "docs": "API",
        "problems": "Problems",
        "other": "中文",
        "zone": " (Beijing time, UTC+8)",
        "head": "The log",
        "origin": "Log",
        "size": "Entries",
        "sm3": "Root (SM3)",
        "sha256": "Root (SHA-256)",
        "signed": "Signed at",
        "never": "not signed yet",
        "checkpoint": "Signed checkpoint (text)",
        "chains": "Chains",
        "chain": "Chain",
        "engine": "Engine",
        "height": "Block height",
        "anchored": "Final / entries",
        "open": "Anchors under way",
        "down": "unreachable",
        "nodes": "Height and block hash of each node (JSON)",
        "items": "Newest items",
        "leaf": "Leaf",
        "id": "Id, first 8 digits",
        "template": "Template",
        "time": "Accepted (Beijing time)",
        "state": "State",
        "none": "No items yet",
        "promised": "promised",
        "submitted": "submitted",
        "final": "final",
        "overdue": "overdue",
        "damaged": "damaged",
        "soft": "Only prefixes of ids and states are shown, nothing of what was preserved; "
        "whoever may see an item finds it by this prefix (evidence show PREFIX).",
        "legend": "What the words mean",
        "proves": "This page is what the service says of itself and proves nothing; "
        "what counts is a bundle (.cz) verified offline under a trust file.",
        "as_of": "Made at",
        "status": "Status",
        "name": "Name",
        "meaning": "Meaning",
        "what_to_do": "What to do",
        "explained": "Explanation",
        "detail": "Detail",
        "request_id": "Request",
        "about_problems": "The type of a refusal is one of these; its errors say where each fault is and what was expected, "
        "never a value that was sent.",
        "docs_title": "Evidence preservation: API",
        "noscript": "This page needs JavaScript; without it, read /openapi.json.",
    },
}

LEGEND = {
    "zh": [
        ("条目数", "日志中的条目总数；流式分片、出证记录等也各为一条。日志只增不改。"),
        (
            "树根",
            "由全部条目逐层计算摘要得出的默克尔树根；任何一条被改动、删除或调换，树根即不同。两种算法各算一棵树，互为印证。",
        ),
        ("检查点", "日志以其密钥对规模与树根所作的签名；可用信任文件中的公钥离线核验。其中树根以 base64 书写。"),
        ("已最终上链", "日志前多少条已被该链最终确认的区块所固定；此后再改动即与链上记录矛盾。"),
        ("引擎", "链的种类。embedded 是内置账本：四个节点同在本机，仅供试用，不能防范本机的所有者。"),
        ("已承诺", "已受理并写入日志，提交方持有一份经签名的承诺：在所示期限之前上链。"),
        ("已提交上链", "包含它的交易已交给链，等待最终确认。"),
        ("已最终确认", "所要求数目的链均已最终确认，可以出证。"),
        ("逾期未确认", "已过承诺的期限而尚未最终确认；须由运维人员处理。"),
        ("存储受损", "所存内容无法读出；须由运维人员运行 evidence examine。"),
    ],
    "en": [
        ("Entries", "Everything in the log; slices of streams and records of issuances are entries too. The log only grows."),
        (
            "Root",
            "The Merkle root over all entries: alter, drop or swap one, and it differs. Two hash functions, a tree each.",
        ),
        ("Checkpoint", "The log's signature over size and root (there in base64); checked offline with the key in a trust file."),
        ("Final", "How many of the first entries a final block of that chain fixes: a later change contradicts the chain."),
        (
            "Engine",
            "The kind of chain. embedded is four nodes on this machine: for trials, no protection from its owner.",
        ),
        ("promised", "Accepted and in the log; the submitter holds a promise of the time by which it is on the chain."),
        ("submitted", "A transaction that covers it was handed to a chain and is not final yet."),
        ("final", "Final on as many chains as this service requires: a bundle can be issued."),
        ("overdue", "The promised time has passed and it is not final: an operator has to act."),
        ("damaged", "What is stored cannot be read: an operator has to run evidence examine."),
    ],
}


@cache
def advice() -> dict[str, dict[str, str]]:
    """What each problem means in a sentence or two.

    Shapes: name of the problem → language → sentences.
    """
    return tomllib.loads((files("evidence.explorer") / "advice.toml").read_text("utf-8"))
