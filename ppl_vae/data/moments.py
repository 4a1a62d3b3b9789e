"""What is known of rows that are seen batch by batch: moments, extremes, and a few of them."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = ["Few", "Moments"]

# So many rows, or as many as so many bytes hold, are kept of a stream.
_ROWS, _BYTES = 10_000, 2**24


@dataclass
class Moments:
    r"""Running statistics of each element of a row, in double precision; NaN is left out.

    Two batches of $n$ and $m$ values, of means $a$ and $b$ and sums of squares about them $A$ and
    $B$, have together $a + (b - a) m / (n + m)$ and $A + B + (b - a)^2 n m / (n + m)$.

    Args:
        size: the shape of a row.

    References:
        Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance.

    Example:
        >>> moments = Moments(torch.Size([2]))
        >>> moments.add(torch.tensor([[1.0, 5.0]]))
        >>> moments.add(torch.tensor([[3.0, torch.nan]]))
        >>> moments.mean.tolist(), moments.high.tolist()
        ([2.0, 5.0], [3.0, 5.0])
    """

    size: torch.Size

    def __post_init__(self) -> None:
        zeros = torch.zeros(self.size, dtype=torch.double)
        self.count, self._mean, self._squares = zeros, zeros, zeros
        self.low, self.high = zeros + torch.inf, zeros - torch.inf
        self.broken = zeros + torch.nan
        """A value that is no integer, of each element that has one; else NaN."""

    def add(self, x: Tensor) -> None:
        """Takes a batch in, `(n, *size)`."""
        if x.is_floating_point() and self.broken.isnan().any():
            # NaN is no integer, and is left out of amax by its place
            value = x.masked_fill((x == x.floor()) | x.isnan(), -torch.inf).amax(0).double()
            self.broken = torch.where(value.isfinite(), value, self.broken)
        if x.dtype.itemsize < 4 or not x.is_floating_point():
            # single precision holds bytes and halves as they are
            x = x.to(torch.float if x.dtype.itemsize < 4 else torch.double)
        absent = x.isnan()
        if absent.any():
            n = (~absent).sum(0).double()
            low = x.masked_fill(absent, torch.inf).amin(0)
            high = x.masked_fill(absent, -torch.inf).amax(0)
            mean = x.nanmean(0).nan_to_num(0.0)
            squares = (x - mean).square().nansum(0)
        else:
            n = torch.full_like(self.count, len(x))
            low, high = torch.aminmax(x, dim=0)
            variance, mean = torch.var_mean(x, 0, correction=0)
            squares = variance.double() * len(x)
        self.low = torch.minimum(self.low, low.double())
        self.high = torch.maximum(self.high, high.double())
        away, total = mean.double() - self._mean, (self.count + n).clamp(min=1)
        self._squares = self._squares + squares + away.square() * self.count * n / total
        self._mean = self._mean + away * n / total
        self.count = self.count + n

    @property
    def mean(self) -> Tensor:
        """The mean of each element, NaN where none was seen."""
        return self._mean.where(self.count > 0, torch.nan)

    @property
    def variance(self) -> Tensor:
        """The variance of each element, divided by its count."""
        return self._squares / self.count

    @property
    def extremes(self) -> Tensor:
        """Each element's least value, its largest and one that is no integer, `(3, *size)`.

        One of them is outside a support of single elements wherever a row was.
        """
        rows = torch.stack(
            [self.low, self.high, self.broken.where(~self.broken.isnan(), self.low)]
        )
        return rows.where(self.count > 0, 0.0)

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Least, largest, mean and standard deviation: of each column, or of all of an image."""
        if len(self.size) == 1:
            return self.low, self.high, self.mean, self.variance.sqrt()
        share = self.count / self.count.sum()
        mean = (share * self.mean.nan_to_num(0.0)).sum()
        around = self.variance + (self.mean - mean).square()
        variance = (share * around.nan_to_num(0.0)).sum()
        found = self.low.amin(), self.high.amax(), mean, variance.sqrt()
        return tuple(each.reshape(1) for each in found)  # type: ignore[return-value]


class Few:
    """A random few of the rows of a stream, each row as likely as any other.

    All rows in their order where these are no more than are kept: 10,000, or as many as 16 MB
    hold.

    References:
        Vitter (1985), Random sampling with a reservoir (algorithm R).
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._seen, self._generator = 0, torch.Generator().manual_seed(0)

    def add(self, parts: tuple[Tensor, ...]) -> None:
        """Takes a batch in: parts with rows that belong together."""
        if not self._kept:
            row = sum(prod(part.shape[1:]) * part.element_size() for part in parts)
            room = max(1, min(_ROWS, _BYTES // max(row, 1)))
            self._kept = [part.new_empty(room, *part.shape[1:]) for part in parts]
        n, room = len(parts[0]), len(self._kept[0])
        places = torch.arange(self._seen, self._seen + n)
        drawn = (
            torch.rand(n, generator=self._generator, dtype=torch.double) * (places + 1)
        ).long()
        places = torch.where(places < room, places, drawn)
        taken = places < room
        for kept, part in zip(self._kept, parts, strict=True):
            # of rows that fall on one place the last stays, which NumPy holds to
            kept.numpy()[places[taken].numpy()] = part[taken].numpy()
        self._seen += n

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The rows kept."""
        return tuple(part[: self._seen] for part in self._kept)
