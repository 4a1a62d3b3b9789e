"""Networks of an objective that are made when the shapes they are for are known."""

from typing import Any

from torch import nn

__all__ = ["Unbuilt"]


class Unbuilt(nn.Module):
    """Stands in for a network; calling it says how to make one.

    Args:
        what: the network, for the message.
        give: what to give in order to have it at once.
    """

    def __init__(self, what: str, give: str):
        super().__init__()
        self.message = f"{what} is not made yet: give {give}, or call build() on the objective"

    def forward(self, *_: Any) -> Any:
        raise ValueError(self.message)
