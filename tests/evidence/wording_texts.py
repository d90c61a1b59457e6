"""Every English text that the verifier can put into a report, read from its source and filled with samples."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TOP = Path(__file__).parents[2]
PROOF = TOP / "chain_gateway" / "embedded" / "proof.py"
SAID_BY = {"Malformed", "Unknown", "Undecided", "VerificationError"}
SAMPLES = {
    "error.message": ["closes is not a boolean"],
    "doubt": ["log is unknown to the trust file: log.example/1"],
    "sentence": ["rules over several fields of the template"],
    "format_time": ["2026-11-21T16:55:25.000Z"],
    "since": ["2026-11-21T16:55:25.000Z"],
    "promised": ["2026-11-21T16:55:25.000Z"],
    "late": ["2026-11-21T16:55:25.000Z"],
    "interval": [
        "between the start and 2026-11-21T16:55:25.000Z",
        "between 2026-11-21T16:55:25.000Z and 2026-11-21T16:56:25.000Z",
    ],
    "lost": ["positions 0:4 to 0:8 were lost"],
    "covered": ["covered is 2026-11-21T16:55:25.000Z to 2026-11-21T16:56:25.000Z", "nothing is covered"],
    "_slices": ["in 1 slice of those in range", "in 2 slices of those in range"],
    "described": ["null", "text of 7 characters", "an object of 2 members", "a number with a fraction"],
    "_brief": ["certificate 0a1b2c3d…"],
    "error.msg": ["expecting value", "extra data"],
    "WORD": ["times are the collector's word"],
    "who": ["n4me", "submitted by acct-1"],
    "what": ["statement"],
    "kind": ["statement", "item"],
    "name": ["slice header", "policy", "n4me"],
}
"""What stands in a slot whose expression begins so; any other is tried with a number, then with a name."""


def verifier_files() -> list[Path]:
    """The checks and the verifier, where every text may be said."""
    return [TOP / "evidence" / "verifier.py", *sorted((TOP / "evidence" / "checks").glob("*.py"))]


@cache
def model_files() -> tuple[Path, ...]:
    """The modules of models/ that the verifier reaches by its imports."""
    waiting, found = [*verifier_files(), PROOF], set[Path]()
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("models"):
                package = (TOP / node.module.replace(".", "/")).is_dir()
                modules = [f"{node.module}.{alias.name}" for alias in node.names] if package else [node.module]
                reached = {TOP / f"{module.replace('.', '/')}.py" for module in modules} - found
                waiting += reached
                found |= reached
    return tuple(sorted(found))


def _samples(expression: str) -> list[str]:
    for start, samples in SAMPLES.items():
        if expression.startswith(start):
            return samples
    return ["7", "n4me"]


def variants(node: ast.expr) -> list[str]:
    """`node`, a text with slots, as it may be said: every slot at its nth sample, and each at every, the others at the first."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if not isinstance(node, ast.JoinedStr):
        return []
    parts = [
        [str(part.value)] if isinstance(part, ast.Constant) else _samples(ast.unparse(part.value))
        for part in node.values
        if isinstance(part, ast.Constant | ast.FormattedValue)
    ]
    texts = ["".join(samples[min(choice, len(samples) - 1)] for samples in parts) for choice in range(max(map(len, parts)))]
    for place, samples in enumerate(parts):
        texts += ["".join(sample if at == place else other[0] for at, other in enumerate(parts)) for sample in samples[1:]]
    return list(dict.fromkeys(texts))


def _is_text(node: ast.AST) -> bool:
    return (isinstance(node, ast.Constant) and isinstance(node.value, str)) or isinstance(node, ast.JoinedStr)


def _inside(tree: ast.AST) -> set[int]:
    """Docstrings and the pieces of texts with slots: no texts of their own."""
    found = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found |= {id(piece) for piece in ast.walk(node) if piece is not node}
    return found


def spoken(path: Path) -> Iterator[ast.expr]:
    """Every text of more than one word in the file."""
    tree = ast.parse(path.read_text())
    skipped = _inside(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and _is_text(node) and id(node) not in skipped and " " in variants(node)[0].strip():
            yield node


def raised(path: Path) -> Iterator[tuple[str, ast.expr]]:
    """Every text that an error of the verifier is made with in the file, and in which function."""
    tree = ast.parse(path.read_text())
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SAID_BY and node.args:
                yield from ((f"{path.stem}.{function.name}", piece) for piece in _pieces(node.args[0]) if _is_text(piece))


def _pieces(node: ast.expr) -> list[ast.expr]:
    return [*_pieces(node.body), *_pieces(node.orelse)] if isinstance(node, ast.IfExp) else [node]


@cache
def _takers() -> dict[str, int]:
    """The functions with a parameter `what`, and its place among them that are given by place."""
    places: dict[str, int] = {}
    for path in (*model_files(), *verifier_files(), PROOF):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
                if "what" in names:
                    places[node.name] = names.index("what")
                elif any(argument.arg == "what" for argument in node.args.kwonlyargs):
                    places[node.name] = -1
    return places


def terms(path: Path) -> Iterator[ast.expr]:
    """What the file calls the things that it reads: every argument `what`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        place = _takers().get(name)
        if place is None:
            continue
        given = [keyword.value for keyword in node.keywords if keyword.arg == "what"]
        given += [node.args[place]] if 0 <= place < len(node.args) else []
        yield from (each for each in given if _is_text(each))
