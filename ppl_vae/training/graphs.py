"""What a recorded graph does without: other names of a tensor, unused values, constants."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

__all__ = ["simplify", "varies"]

_aten = torch.ops.aten
# By shape, type and device of what they are given, whatever that holds.
_FACTORIES = {
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.scalar_tensor.default,
    _aten.arange.default,
    _aten.arange.start,
    _aten.arange.start_step,
    _aten.full.default,
    _aten.zeros.default,
    _aten.ones.default,
}
_NAMES = {_aten.detach.default, _aten.alias.default}
# Of the same shape they are the same.
_SHAPED = {
    _aten.view.default,
    _aten.expand.default,
    _aten._unsafe_view.default,
    _aten.slice.Tensor,
}
# They move running statistics, of which their schemas say nothing.
_SILENT = {
    _aten.native_batch_norm.default,
    _aten.cudnn_batch_norm.default,
    _aten.miopen_batch_norm.default,
}
_LARGE = 2**16
_SCALED = {_aten.mul.Tensor, _aten.div.Tensor}


def varies(node: Node) -> bool:
    """Whether the shape of a value depends on numbers, as of rows that a mask selects."""
    tags: Iterable[Any] = getattr(node.target, "tags", ())
    if torch.Tag.dynamic_output_shape not in tags:
        return False
    if node.target is not _aten.index.Tensor:
        return True
    kinds = [_type(index) for index in node.args[1] if isinstance(index, Node)]  # type: ignore[union-attr]
    return any(kind is not None and kind[1] in (torch.bool, torch.uint8) for kind in kinds)


def simplify(graph: GraphModule) -> None:
    """Takes out of a graph what changes no bit of its outputs and draws no noise.

    That is: names for the same tensor, as nothing here differentiates; products with 1; constants,
    which are computed once; values that are computed again; and values that nothing reads.
    """
    _drop_names(graph.graph)
    _fold(graph)
    _merge(graph)
    graph.graph.eliminate_dead_code(_acts)
    graph.recompile()


def _drop_names(graph: Graph) -> None:
    _replace(graph, _named)
    written, read = _written(graph), set(graph.output_node().all_input_nodes)
    # A product is a tensor of its own, which what is written to either would show, and an output.
    _replace(graph, lambda node: None if node in written | read else _product(node, written))


def _replace(graph: Graph, by: Callable[[Node], Node | None]) -> None:
    for node in list(graph.nodes):
        other = by(node) if node.op == "call_function" and node.args else None
        if other is not None:
            node.replace_all_uses_with(other)
            graph.erase_node(node)


def _named(node: Node) -> Node | None:
    """The node that this is another name of, if there is one."""
    given = node.args[0]
    if not isinstance(given, Node):
        return None
    if node.target in _NAMES:
        return given
    if node.target in _SHAPED and _shape(node) is not None and _shape(node) == _shape(given):
        return given
    if node.target is _aten.permute.default and list(node.args[1]) == sorted(node.args[1]):  # type: ignore[arg-type, type-var]
        return given
    twice = node.target is _aten.t.default and given.target is _aten.t.default
    return given.args[0] if twice else None  # type: ignore[return-value]


def _product(node: Node, written: set[Node]) -> Node | None:
    """The node that this is the product with 1 of, where that is a tensor of its own."""
    given = node.args[0]
    if node.target not in _SCALED or node.kwargs or node.args[1] not in (1, 1.0):
        return None
    own = isinstance(given, Node) and _is_new(given) and given not in written
    return given if own and _type(node) == _type(given) else None  # type: ignore[return-value, arg-type]


def _is_new(node: Node) -> bool:
    """Whether a value shares no memory with another, as a view, a buffer or an input does."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and all(r.alias_info is None for r in schema.returns)


def _fold(graph: GraphModule) -> None:
    """Computes once what depends on no input, parameter, buffer or noise and stays as it is."""
    kept = _written(graph.graph) | set(graph.graph.output_node().all_input_nodes)
    values: dict[Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in kept or _acts(node) or _is_large(node):
            continue
        inputs = node.all_input_nodes
        if node.target in _FACTORIES:
            args, kwargs = _with(node, {n: _like(n) for n in inputs if n not in values} | values)
        elif inputs and all(n in values for n in inputs):
            args, kwargs = _with(node, values)
        else:
            continue
        values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    for number, (node, value) in enumerate(values.items()):
        if isinstance(value, Tensor) and any(user not in values for user in node.users):
            name = f"_folded_{number}"
            graph.register_buffer(name, value.detach())
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(name))


def _with(node: Node, values: dict[Node, Any]) -> tuple[Any, Any]:
    return torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n])


def _like(node: Node) -> Tensor:
    """A tensor of the shape, type and device of a node's value."""
    meta = node.meta["val"]
    return torch.empty(meta.shape, dtype=meta.dtype, device=meta.device)


def _merge(graph: GraphModule) -> None:
    """Computes small values once that are computed again, as forward and backward passes do.

    A large one may have been made again so that it need not be held.
    """
    places = _places(graph)
    targets = [each for node in graph.graph.nodes if _writes(node) for each in _targets(node)]
    moving = {place for each in targets for place in places[each]}
    read = set(graph.graph.output_node().all_input_nodes)
    first: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        key: tuple[Any, ...]
        if node.op == "get_attr":
            key = (id(getattr(graph, str(node.target))),)
        elif node.op == "call_function" and not (node in read or _acts(node) or _is_large(node)):
            if any(places[n] & moving for n in (node, *node.all_input_nodes)):
                continue
            key = (node.target, repr(node.args), repr(node.kwargs))
        else:
            continue
        if first.setdefault(key, node) is not node:
            node.replace_all_uses_with(first[key])
            graph.graph.erase_node(node)


def _places(graph: GraphModule) -> dict[Node, set[Any]]:
    """Where values lie: the nodes and storages that made the room."""
    found: dict[Node, set[Any]] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            found[node] = {"an argument"}
        elif node.op == "get_attr":
            held = getattr(graph, str(node.target))
            found[node] = {held.untyped_storage().data_ptr() if isinstance(held, Tensor) else node}
        elif _is_new(node):
            found[node] = {node}
        else:
            inputs = _targets(node) if _writes(node) else node.all_input_nodes
            found[node] = {place for each in inputs for place in found[each]}
    return found


def _targets(node: Node) -> list[Node]:
    """What a node writes to, by its schema; all that it is given where that does not say."""
    if node.target in _SILENT:
        return node.all_input_nodes
    found: list[Node] = []
    for place, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.kwargs.get(argument.name)
            given = node.args[place] if given is None and place < len(node.args) else given
            torch.fx.map_arg(given, found.append)
    return found


def _written(graph: Graph) -> set[Node]:
    """What in-place operations write to, and all that it may be a view of."""
    found: set[Node] = set()
    todo = [each for node in graph.nodes if _writes(node) for each in _targets(node)]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            if not _is_new(node):
                todo += node.all_input_nodes
    return found


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return False
    return bool(schema.is_mutable) or node.target in _SILENT


def _acts(node: Node) -> bool:
    """Whether a node does more than return a value: writes, or draws noise."""
    tags: Iterable[Any] = getattr(node.target, "tags", ())
    return node.is_impure() or _writes(node) or torch.Tag.nondeterministic_seeded in tags


def _is_large(node: Node) -> bool:
    """Whether a value takes more room than making it anew takes time."""
    shape = _shape(node)
    return shape is not None and shape.numel() > _LARGE


def _shape(node: Node) -> torch.Size | None:
    meta = node.meta.get("val")
    return meta.shape if isinstance(meta, Tensor) else None


def _type(node: Node) -> Any:
    meta = node.meta.get("val")
    return (meta.shape, meta.dtype) if isinstance(meta, Tensor) else None
