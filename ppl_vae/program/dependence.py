"""Whether one draw is a function of another, by autograd's record."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["depends"]


def depends(tensors: Sequence[Tensor], on: Tensor) -> bool:
    """Whether autograd's graph of any of the tensors reaches `on`."""
    goal: Any = on.grad_fn
    stack = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node is goal or (goal is None and getattr(node, "variable", None) is on):
            return True
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return False
