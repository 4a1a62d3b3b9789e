"""Operators: from an expression to the faults that a slip of the pen would make of it.

An operator is a function from a module, a node and its ancestors (the nearest last) to
replacements `(start, end, text)`.
"""

import ast
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import cycle

from mutants.source import Module, Mutant

Replacement = tuple[int, int, str]
Operator = Callable[[Module, ast.AST, Sequence[ast.AST]], Iterator[Replacement]]

# What is raised, logged, printed or checked is no number.
SAYS = re.compile(r"^(warn|warning|info|debug|print|(_)?check\w*|draw_count)$")
SILENT = re.compile(
    r"^(__repr__|__str__|extra_repr|as_dict|plot\w*|_?check\w*|_?warn\w*|_?brief|_explained"
    r"|_?require\w*|_?refuse\w*|_board|_bar)$"
)
WORDS = re.compile(r"(^|_)(note|notes|name|names|prefix|text|extra|message|title|label|dims)$")
SCALE = re.compile(r"(^|_)(scale|weight|repeat|share|factor|multiplier)s?$")
COUNT = re.compile(r"^_?(n|m|count|draws|num_\w+|rows|pairs|total|simulations|chains)$")
JOINED = re.compile(r"^(keys|set|list|tuple|sorted|latents|observed|sites|names)$")
# Calls whose arguments are places and sizes.
SHAPES = {
    "flatten", "unflatten", "unsqueeze", "squeeze", "movedim", "transpose", "select", "narrow",
    "cut", "unbind", "expand", "reshape", "view", "range", "split", "repeat", "randperm", "take",
}  # fmt: skip
AXIS = {"-1": "0", "0": "-1", "1": "0", "-2": "-1", "2": "1"}
REDUCES = {
    "sum", "mean", "var", "std", "logsumexp", "softmax", "log_softmax", "cumsum", "prod", "amax",
    "amin", "argmin", "argmax", "sort",
}  # fmt: skip


def sign(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """A sum for a difference, and back."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        if isinstance(node.right, ast.Constant) and node.right.value == 1:
            return  # `minus_one` has it
        start, end = module.span(node.left)[1], module.span(node.right)[0]
        symbol, other = (b"+", "-") if isinstance(node.op, ast.Add) else (b"-", "+")
        at = module.raw.index(symbol, start, end)
        yield at, at + 1, other
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        start, end = module.span(node.target)[1], module.span(node.value)[0]
        symbol, other = (b"+=", "-=") if isinstance(node.op, ast.Add) else (b"-=", "+=")
        at = module.raw.index(symbol, start, end)
        yield at, at + 2, other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if isinstance(node.operand, ast.Constant):
            return  # an axis or a bound, as a rule
        yield (*module.span(node), f"({module.source(node.operand)})")


def factor_2(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """A factor 2 dropped, or a result doubled."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        if _is(node.right, 2, 0.5):
            yield (*module.span(node), f"({module.source(node.left)})")
        elif _is(node.left, 2, 0.5) and isinstance(node.op, ast.Mult):
            yield (*module.span(node), f"({module.source(node.right)})")
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.BinOp | ast.Call):
        function = next((a for a in reversed(above) if isinstance(a, ast.FunctionDef)), None)
        kind = function and function.returns and ast.unparse(function.returns)
        if kind in ("Tensor", "float", "torch.Tensor", "Tensor | float", "Array"):
            yield (*module.span(node.value), f"2 * ({module.source(node.value)})")


def minus_one(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """n for n - 1, and n - 1 for n."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _is(node.right, 1):
        if "dim" not in module.source(node.left):
            yield (*module.span(node), f"({module.source(node.left)})")
    elif isinstance(node, ast.keyword) and node.arg in ("correction", "ddof", "unbiased"):
        other = {"0": "1", "1": "0", "True": "False", "False": "True"}
        text = module.source(node.value)
        if text in other:
            yield (*module.span(node.value), other[text])
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _counts(node.right):
        yield (*module.span(node.right), f"({module.source(node.right)} - 1)")


def axis(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """The other axis."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    places = [k.value for k in node.keywords if k.arg in ("dim", "axis")]
    owner = node.func.value
    by_module = isinstance(owner, ast.Name) and owner.id in ("torch", "np", "F")
    if node.func.attr in REDUCES and len(node.args) > by_module:
        places.append(node.args[by_module])
    for place in places:
        text = module.source(place)
        if text in AXIS:
            yield (*module.span(place), AXIS[text])


def detach(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """A gradient that flows where it must not; elsewhere none is taken."""
    if module.area not in ("objectives", "distributions"):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        if node.func.attr == "detach":
            yield (*module.span(node), module.source(node.func.value))
        elif node.func.attr == "no_grad" and any(isinstance(a, ast.withitem) for a in above[-1:]):
            yield (*module.span(node), "torch.enable_grad()")


def swap(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """Rows to test on where those to train on are meant, and back."""
    other = {"train": "test", "test": "train"}
    if any(isinstance(a, ast.Attribute) and a.attr in ("shape", "device") for a in above[-2:]):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        first, _, rest = node.id.partition("_")
        function = next((a for a in above if isinstance(a, ast.FunctionDef)), None)
        if first in other and function is not None:
            name = other[first] + (f"_{rest}" if rest else "")
            bound = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
            bound |= {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
            if name in bound:
                yield (*module.span(node), name)
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        both = {"train": "held_out", "held_out": "train"}
        if node.attr in both and isinstance(above[-1], ast.Call | ast.Subscript | ast.BoolOp):
            end = module.span(node)[1]
            yield end - len(node.attr), end, both[node.attr]
    elif isinstance(node, ast.Constant) and isinstance(above[-1], ast.Call):
        if node.value not in other:
            return
        yield (*module.span(node), f'"{other[node.value]}"')


def mean_sum(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """A mean for a sum, and back."""
    both = {"mean": "sum", "sum": "mean"}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        attr = node.func.attr
        if attr in both and not isinstance(above[-1], ast.Compare):
            end = module.span(node.func)[1]
            yield end - len(attr), end, both[attr]


def lost_scale(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """A scale, weight or share left out of a product or quotient."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        if _is_number(node.left) or _is_number(node.right):
            return
        if SCALE.search(_last_name(node.right)):
            yield (*module.span(node), f"({module.source(node.left)})")
        elif isinstance(node.op, ast.Mult) and SCALE.search(_last_name(node.left)):
            yield (*module.span(node), f"({module.source(node.right)})")


def strictness(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """> for >= and their like, where the outcomes are counted or select rows."""
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not above:
        return
    used = isinstance(above[-1], ast.Attribute | ast.BinOp | ast.Subscript)
    pairs = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
    if used and type(node.ops[0]) in pairs:
        symbol, other = pairs[type(node.ops[0])]
        start, end = module.span(node.left)[1], module.span(node.comparators[0])[0]
        at = module.raw.index(symbol.encode(), start, end)
        yield at, at + len(symbol), other


def base(module: Module, node: ast.AST, above: Sequence[ast.AST]) -> Iterator[Replacement]:
    """The common logarithm for the natural one, and back."""
    both = {"log": "log10", "log10": "log", "log2": "log"}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        attr = node.func.attr
        owner = node.func.value
        by_module = isinstance(owner, ast.Name) and owner.id in ("math", "torch", "np")
        if attr in both and (by_module or not node.args):
            end = module.span(node.func)[1]
            yield end - len(attr), end, both[attr]


OPERATORS: dict[str, Operator] = {
    "sign": sign,
    "factor 2": factor_2,
    "n - 1": minus_one,
    "axis": axis,
    "detach": detach,
    "train and test": swap,
    "mean and sum": mean_sum,
    "lost scale": lost_scale,
    "strictness": strictness,
    "logarithm": base,
}


@cache
def mutants(module: Module) -> list[Mutant]:
    """Every fault of every operator in one module."""
    found: list[Mutant] = []

    def visit(node: ast.AST, above: list[ast.AST], where: list[str]) -> None:
        if _says(node):
            return
        if where:
            for name, operator in OPERATORS.items():
                if not _text(node):
                    for start, end, text in operator(module, node, above):
                        found.append(Mutant(module, ".".join(where), name, start, end, text))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = [*where, node.name]
        for child in _parts(node):
            visit(child, [*above, node], where)

    visit(module.tree, [], [])
    return found


def draw(modules: Sequence[Module], number: int, seed: int, only: str = "") -> list[Mutant]:
    """Distinct faults, spread evenly over areas and, within an area, over operators.

    Args:
        modules: the library.
        number: how many, or all if there are fewer.
        seed: of the choice.
        only: part of the full name of the function that is changed.
    """
    rng = random.Random(seed)
    pools: dict[str, dict[str, list[Mutant]]] = {}
    for module in modules:
        if module.area is not None:
            for mutant in mutants(module):
                if only in f"{module.name}.{mutant.where}":
                    pool = pools.setdefault(module.area, {})
                    pool.setdefault(mutant.operator, []).append(mutant)
    turns = {}
    for area in sorted(pools):
        for candidates in pools[area].values():
            rng.shuffle(candidates)
        turns[area] = cycle(rng.sample(sorted(pools[area]), len(pools[area])))
    chosen: list[Mutant] = []
    for area in cycle(sorted(pools)):
        if len(chosen) >= number or not any(any(pool.values()) for pool in pools.values()):
            break
        if any(pools[area].values()):
            operator = next(name for name in turns[area] if pools[area][name])
            chosen.append(pools[area][operator].pop())
    return chosen


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """The children that compute: no annotations, decorators, defaults, indices or checks."""
    skipped: list[ast.AST | None] = []
    if isinstance(node, ast.FunctionDef):
        skipped = [node.args, node.returns, *node.decorator_list]
    elif isinstance(node, ast.AnnAssign):
        skipped = [node.annotation]
    elif isinstance(node, ast.ClassDef):
        skipped = [*node.decorator_list, *node.bases]
    elif isinstance(node, ast.Subscript):
        skipped = [node.slice]
    elif isinstance(node, ast.Call) and _last_name(node) in SHAPES:
        skipped = list(node.args)
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield child


def _says(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef):
        return bool(SILENT.match(node.name))
    if isinstance(node, ast.If):
        return all(isinstance(s, ast.Raise) or _says(s) for s in node.body) and not node.orelse
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or _says(node.value)
    if isinstance(node, ast.Call):
        return bool(SAYS.match(_last_name(node.func)))
    if isinstance(node, ast.keyword):
        return node.arg is not None and bool(WORDS.search(node.arg))
    if isinstance(node, ast.Assign):
        return all(WORDS.search(_last_name(t)) for t in node.targets)
    return isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr)


def _text(node: ast.AST) -> bool:
    """Whether an operation joins text, lists or tuples rather than numbers."""
    if isinstance(node, ast.AugAssign):
        return bool(WORDS.search(_last_name(node.target))) or _text_operand(node.value)
    return isinstance(node, ast.BinOp) and any(map(_text_operand, (node.left, node.right)))


def _text_operand(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.BinOp):
        return _text(node)
    if isinstance(node, ast.IfExp):
        return _text_operand(node.body) or _text_operand(node.orelse)
    kinds = ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp | ast.Dict | ast.Set
    name = _last_name(node)
    return isinstance(node, kinds) or bool(WORDS.search(name) or JOINED.match(name))


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return _last_name(node.func) if isinstance(node, ast.Call) else ""


def _counts(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _last_name(node) == "len"
    return bool(COUNT.match(_last_name(node)))


def _is(node: ast.AST, *values: float) -> bool:
    return isinstance(node, ast.Constant) and _is_number(node) and node.value in values


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)
