"""What an autoregressive likelihood says of one pixel, given what its network returns there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.distributions.levels import OnGrid
from ppl_vae.distributions.logistic import DiscretizedLogisticMixture, linear_chain

__all__ = ["BinaryPixels", "CategoricalPixels", "LogisticPixels", "Pixels"]


class Pixels(ABC):
    """A distribution over the channels of one pixel, as a value without parameters.

    The channels of a pixel follow each other (red, green, blue): a later one depends linearly on
    those before, with slopes that the network returns besides the rest.
    """

    @abstractmethod
    def outputs(self, channels: int) -> int:
        """How many numbers the network has to return for each pixel."""

    @abstractmethod
    def noise(self, channels: int) -> int:
        """How many independent uniform numbers `draw` needs for each pixel."""

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The values that one channel of one pixel may take."""

    @abstractmethod
    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """Log-probability of whole images, in nats.

        Args:
            y: the network's outputs, (n, outputs, *positions).
            x: images, (n, channels, *positions).

        Returns:
            Tensor of shape (n,).
        """

    @abstractmethod
    def draw(self, y: Tensor, noise: Tensor) -> Tensor:
        """The pixel that given noise stands for.

        Args:
            y: the network's outputs at the pixel, (n, outputs).
            noise: uniform numbers in [0, 1), (n, noise).

        Returns:
            Tensor of shape (n, channels).
        """


def _pairs(channels: int) -> int:
    return channels * (channels - 1) // 2


@dataclass(frozen=True)
class BinaryPixels(Pixels):
    r"""Zero or one: $P(x_c = 1) = \sigma(b_c + \sum_{d < c} a_{cd} (x_d - 1/2))$."""

    def outputs(self, channels: int) -> int:
        return channels + _pairs(channels)

    def noise(self, channels: int) -> int:
        return channels

    @property
    def support(self) -> constraints.Constraint:
        return constraints.boolean

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        base, slopes = _split(y, x.shape[1])
        logits = linear_chain(base, slopes, x, y.dim() - 2)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)

    def draw(self, y: Tensor, noise: Tensor) -> Tensor:
        base, slopes = _split(y, noise.shape[1])
        # Nothing comes before the first channel.
        x = (noise < torch.sigmoid(base)).to(y.dtype)[:, :1]
        for c in range(1, noise.shape[1]):
            logit = linear_chain(base, slopes, x, 0)[:, c]
            new = (noise[:, c] < torch.sigmoid(logit)).to(y.dtype)
            x = torch.cat([x, new[:, None]], 1)
        return x


def _split(y: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Base parameters and slopes along dimension 1."""
    if channels == 1:
        return y, None
    return y[:, :channels], y[:, channels:]


@dataclass(frozen=True)
class CategoricalPixels(Pixels):
    r"""A softmax over grey levels, with no notion of which are near each other.

    $$P(x_c = l / (L - 1)) \propto \exp\big( b_{lc} + \sum_{d < c} a_{lcd} (x_d - 1/2) \big)$$

    Args:
        levels: number L of grey levels on [0, 1].

    References:
        van den Oord, Kalchbrenner and Kavukcuoglu (2016), Pixel recurrent neural networks,
        arXiv:1601.06759.
    """

    levels: int = 256

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"there must be at least 2 grey levels, got {self.levels}")

    def outputs(self, channels: int) -> int:
        return self.levels * (channels + _pairs(channels))

    def noise(self, channels: int) -> int:
        return channels

    @property
    def support(self) -> constraints.Constraint:
        return OnGrid(self.levels)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        logits = self._logits(y, x, x.shape[1])
        index = (x * (self.levels - 1)).round().long().unsqueeze(1)
        return logits.log_softmax(1).gather(1, index).flatten(1).sum(1)

    def draw(self, y: Tensor, noise: Tensor) -> Tensor:
        x = y[:, :0]
        for c in range(noise.shape[1]):
            cumulative = self._logits(y, x, noise.shape[1])[:, :, c].softmax(1).cumsum(1)
            # The last sum may fall short of 1 by rounding, hence the clamp.
            index = (noise[:, c : c + 1] >= cumulative).sum(1, keepdim=True)
            new = index.clamp(max=self.levels - 1).to(y.dtype) / (self.levels - 1)
            x = torch.cat([x, new], 1)
        return x

    def _logits(self, y: Tensor, x: Tensor, channels: int) -> Tensor:
        """Logits (n, levels, channels, *positions), at least up to the first unknown channel."""
        shaped = y.unflatten(1, (-1, self.levels)).transpose(1, 2)
        base = shaped[:, :, :channels]
        slopes = shaped[:, :, channels:] if channels > 1 else None
        return linear_chain(base, slopes, x.unsqueeze(1), y.dim() - 2)


@dataclass(frozen=True)
class LogisticPixels(Pixels):
    """A mixture of logistic distributions rounded to grey levels, for continuous tone.

    Near levels have near probabilities, and the network returns a few numbers for each pixel and
    not one for each level. See `ppl_vae.distributions.logistic.DiscretizedLogisticMixture`.

    Args:
        components: how many logistic distributions are mixed.
        levels: number of grey levels on [0, 1].
    """

    components: int = 5
    levels: int = 256

    def __post_init__(self) -> None:
        if self.components < 1 or self.levels < 2:
            raise ValueError(
                "a logistic mixture needs at least 1 component and 2 grey levels, got "
                f"{self.components} and {self.levels}"
            )

    def outputs(self, channels: int) -> int:
        return DiscretizedLogisticMixture.outputs(channels, self.components)

    def noise(self, channels: int) -> int:
        return channels + 1

    @property
    def support(self) -> constraints.Constraint:
        return OnGrid(self.levels)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return self._distribution(y, x.shape[1]).log_prob(x)

    def draw(self, y: Tensor, noise: Tensor) -> Tensor:
        return self._distribution(y, noise.shape[1] - 1).draw(noise)

    def _distribution(self, y: Tensor, channels: int) -> DiscretizedLogisticMixture:
        return DiscretizedLogisticMixture.from_network(
            y,
            channels,
            self.components,
            positions=y.dim() - 2,
            levels=self.levels,
            validate_args=False,
        )
