"""Modules away from where they start, so that nothing stands at a value it only starts with."""

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def shaken(module: Module, by: float = 0.2) -> Module:
    """The module after a random step of its parameters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module
