"""Numbers of one type: what is said where a pair and its data have others."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

__all__ = ["one_type"]

# How PyTorch says that an operator got numbers of two types, in linear layers, products of
# matrices, convolutions, normalisation and embeddings.
_SAID = re.compile(r"same dtype|scalar type|[Ii]nput type")


@contextmanager
def one_type(args: Sequence[Any]) -> Iterator[None]:
    """Says of a pair that fails at the types of numbers what the data are and what to do.

    Args:
        args: the pair's arguments.

    Raises:
        ValueError: in place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not _SAID.search(str(error)):
            raise
        kinds = {str(a.dtype).removeprefix("torch."): None for a in args if isinstance(a, Tensor)}
        raise ValueError(
            f"the data are {' and '.join(kinds) or 'no tensors'}, and the pair computes with "
            f"another type of numbers ({str(error).splitlines()[0]}): give them in that of the "
            "networks, float32 unless changed (x.float() of a tensor, x.astype('float32') of an "
            "array), or call .double() on the networks"
        ) from error
