"""What an evaluation returns: a number, its errors, and which way it may be wrong."""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ppl_vae.evaluation.weights import Weights

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A number with its errors.

    Attributes:
        value: the estimate.
        standard_error: the Monte Carlo error for these very data; 0 for a closed form, None where
            one run does not tell it.
        data_error: the error as an estimate for the population that the rows were drawn from,
            Monte Carlo error included; None where it has no meaning.
        bound: `"lower"` or `"upper"` if the expectation lies on that side of the quantity named,
            None if it is unbiased or the sign of the bias is not known.
        note: what a reader must know: the estimator, its bias, what it is conditional on.
        flag: why the number is not to be taken at its word, in a word or two that its note
            explains: `"capped"`, `"uneven weights"`. Empty for the others.
    """

    value: float
    standard_error: float | None = None
    data_error: float | None = None
    bound: Literal["lower", "upper"] | None = None
    note: str = ""
    flag: str = ""

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        error = self.data_error if self.data_error is not None else self.standard_error
        sign = {None: "", "lower": ">= ", "upper": "<= "}[self.bound]
        return f"{sign}{self.value:.4g}" + ("" if error is None else f" +- {error:.2g}")

    def as_dict(self) -> dict[str, float | str | None]:
        """The fields as plain values for JSON; a number that is not finite becomes None."""

        def plain(number: float | None) -> float | None:
            return number if number is not None and math.isfinite(number) else None

        return {
            "value": plain(self.value),
            "standard_error": plain(self.standard_error),
            "data_error": plain(self.data_error),
            "bound": self.bound,
            "note": self.note,
            "flag": self.flag,
        }


def mean_over_rows(
    values: Tensor,
    bound: Literal["lower", "upper"] | None = None,
    note: str = "",
    sign: int = 1,
) -> Estimate:
    r"""The mean over data of a quantity that has k Monte Carlo draws per datum.

    Args:
        values: `(n, k)`. The Monte Carlo error is $\sqrt{\sum_i s_i^2 / k} / n$ with $s_i$ the
            spread of row i; with k = 1 it is one with the spread between rows, which is
            then given in its place and is too large.
        bound: passed on.
        note: passed on.
        sign: -1 to report minus the mean.
    """
    values = values.double()
    n, k = values.shape
    rows = values.mean(1)
    # Constant columns are copies of a closed form.
    exact = k == 1 or bool((values == values[:, :1]).all())
    spread = float(rows.std()) / math.sqrt(n) if n > 1 else math.nan
    if exact:
        monte_carlo = 0.0 if k > 1 else spread
    else:
        monte_carlo = float(values.var(1).sum().div(k).sqrt()) / n
    return Estimate(
        value=sign * float(rows.mean()),
        standard_error=monte_carlo,
        data_error=None if n < 2 else spread,
        bound=bound,
        note=note,
    )


def mean_of(values: Tensor) -> Estimate:
    """The mean of `(n,)` independent values, with the error of a mean in both places.

    The error is None for one value alone, or where one is infinite.
    """
    values = values.double()
    several = len(values) > 1 and bool(values.isfinite().all())
    error = float(values.std()) / math.sqrt(len(values)) if several else None
    return Estimate(float(values.mean()), error, error)


def share_of(right: float, count: int, note: str = "", standard_error: float = 0.0) -> Estimate:
    r"""The share of `count` independent rows that are right.

    Its error is half of Wilson's interval at one standard error,

    $$\frac{1}{1 + 1/n} \sqrt{\frac{a (1 - a)}{n} + \frac{1}{4 n^2}},$$

    which is the binomial one where a is not near 0 or 1, and not 0 where all or none are right.

    References:
        Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA.
    """
    spread = math.sqrt(right * (1 - right) / count + 1 / (4 * count**2))
    return Estimate(right, standard_error, spread / (1 + 1 / count), note=note)


def importance_nll(weights: Weights, note: str, quiet: bool = False) -> Estimate:
    r"""Minus the mean log of the rows' mean weights, with errors read off the same weights.

    With $s_i^2 = V[w_i] / (K \bar w_i^2)$ the standard error is $\sqrt{\sum_i s_i^2} / n$ and the
    bias $s_i^2 / 2$ to first order. Both trust the weights to have met their largest: a bias is
    stated only where the effective size $(\sum w)^2 / \sum w^2$ of every row is 30 and 5% of K or
    more, or the weights are constant, and k-hat leaves a tenth of the weight unseen at most; else
    the note says why it is not.

    Args:
        weights: of the rows.
        note: what they come from.
        quiet: leave out the warning.

    Warns:
        UserWarning: where no bias is stated.
    """
    size, count = weights.size, weights.count
    n, few = len(size), int((~weights.enough).sum())
    variance = ((count / size - 1) / (count - 1)).clamp_min(0)
    rows = -weights.log_mean
    typical, worst = float(size.median()), float(size.min())
    note += f", effective {typical:.3g} in the median and {worst:.3g} at worst"
    if weights.met:
        note += f", bias about {float(variance.mean()) / 2:.1g} nats"
    else:
        uneven = "the weights are too uneven to state a bias"
        where = f"in {few} of {n} rows {uneven} (effective below 30 or 5%)"
        if not few:
            where = f"{uneven} (by k-hat {min(weights.unseen, 1):.0%} of them is unseen)"
        why = (
            f"{where}: the bound may be off by nats and the standard error too small, so fit a "
            "proposal or take more draws, and see k-hat"
        )
        note += f"; {why}"
        if not quiet:
            warnings.warn(why, stacklevel=3)
    return Estimate(
        value=float(rows.mean()),
        standard_error=float(variance.sum().sqrt()) / n,
        data_error=float(rows.std()) / math.sqrt(n) if n > 1 else None,
        bound="upper",
        note=note,
        flag="" if weights.met else "uneven weights",
    )
