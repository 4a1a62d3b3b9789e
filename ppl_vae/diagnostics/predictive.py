"""Predictive checks: does the model draw data like the data?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics.densities import check_prediction
from ppl_vae.diagnostics.pair import Pair
from ppl_vae.diagnostics.sites import Layout, draw_count
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.programs import Data, Program, seeded
from ppl_vae.records import Record, p_value, table

if TYPE_CHECKING:
    import pandas

__all__ = [
    "METRICS",
    "STATISTICS",
    "PredictiveCheck",
    "estimates_of",
    "predictive_check",
    "predictive_of",
]

Statistic = Callable[[Tensor], Tensor]
"""Maps data, (n, *event), to a number."""
STATISTICS: dict[str, Statistic] = {
    "mean": lambda x: x.mean(),
    "sd": lambda x: x.std(),
    "min": lambda x: x.min(),
    "max": lambda x: x.max(),
    "sd between data": lambda x: x.reshape(len(x), -1).mean(1).std(),
    "sd within a datum": lambda x: x.reshape(len(x), -1).std(1).mean(),
}
"""The statistics looked at unless others are given."""


@dataclass(frozen=True, repr=False)
class PredictiveCheck(Record):
    """Statistics of the data against those of data drawn from the model.

    Attributes:
        site: the observed site.
        source: `posterior` or `prior`.
        observed: T(x) for each statistic.
        replicated: T of each drawn data set, (draws,), for each statistic.
        p_values: share of draws with T above the data's plus half the share with T equal to it
            (the mid-p-value), $P(T > t) + P(T = t) / 2$. A 0 or a 1 says that none or all are
            beyond the data, and is shown as a bound, below 1 / (draws + 1) or above the rest.
    """

    site: str
    source: str
    observed: dict[str, float]
    replicated: dict[str, np.ndarray]
    p_values: dict[str, float]

    @property
    def draws(self) -> int:
        """How many data sets were drawn."""
        return len(next(iter(self.replicated.values())))

    def _told_p(self, p: float) -> str:
        return p_value(p, self.draws)

    def to_dataframe(self) -> "pandas.DataFrame":
        """As a `pandas.DataFrame`, a row for each statistic."""
        columns = {
            "observed": [*self.observed.values()],
            "mean": [self.replicated[name].mean() for name in self.observed],
            "sd": [self.replicated[name].std() for name in self.observed],
            "p_value": [self.p_values[name] for name in self.observed],
        }
        return table(columns, [*self.observed], "statistic")

    def summary(self) -> dict[str, float]:
        """Figures for a table: the p-values."""
        return {f"p_{name}": p for name, p in self.p_values.items()}


def predictive_check(
    model: Program,
    guide: Program,
    x: Data,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    source: Literal["posterior", "prior"] = "posterior",
    site: str | None = None,
    draws: int = 200,
    seed: int | None = None,
    plate: str | None = None,
    block: int = 8192,
) -> PredictiveCheck:
    r"""Predictive check of statistics of the whole data set.

    With `source="posterior"` each drawn data set is $x'_i \sim p(x \mid z_i)$,
    $z_i \sim q(z \mid x_i)$: new noise for the same data. With `source="prior"` the latents
    come from the model, so that the check asks whether samples of the model look like the data;
    latents outside the data plate are drawn from their prior then. A p-value near 0 or 1 says
    that the model does not produce the statistic. Posterior p-values are not uniform under a true
    model: the data are used twice, and they stay near 1/2. An observation outside the data plate
    has the entries of its own plate for data, and is one datum where it is in none.

    The p-value is the mid-p-value: draws that tie with the data count by half. For a continuous
    statistic this is P(T >= t); for a discrete one, a count or a share of zeros, it has the mean
    1/2 under a true model, where P(T >= t) is more by half the probability of a tie and would be
    1 for a statistic that is always the same.

    Args:
        model, guide: Pyro callables of the same arguments with a full vectorised data plate.
        x: rows of data, or the tuple of the callables' arguments.
        statistics: functions of data (n, *event) to a 0-dim tensor, by name; `STATISTICS` if None,
            but for a spread over one number.
        source: where the latents come from.
        site: which observed site; needed where there are several.
        draws: number of data sets drawn.
        seed: makes it repeatable and leaves the global generator alone.
        plate: name of the data plate, where several plates could be it.
        block: how many draws times data are run at once.

    Raises:
        ValueError: if there is no data plate, the likelihood is a factor, `site` is needed or
            unknown, or a statistic does not return one number or returns NaN.

    References:
        Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via
        realized discrepancies, Statistica Sinica 6.
    """
    draw_count(draws)
    if source not in ("posterior", "prior"):
        raise ValueError(f"source must be 'posterior' or 'prior', got {source!r}")
    pair = Pair(model, guide, x, plate)
    check_prediction(pair)
    if site is None and len(pair.observed) > 1:
        raise ValueError(f"several observed sites: choose with site=, {pair.observed}")
    name = pair.observed[0] if site is None else site
    if name not in pair.observed:
        raise ValueError(f"{name!r} is no observed site: {pair.observed}")
    values = _by_datum(pair.sites[name], pair.values[name][None])[0]
    chosen = _standard(values) if statistics is None else dict(statistics)
    observed = {k: _number(k, f, values) for k, f in chosen.items()}
    drawn: dict[str, list[float]] = {k: [] for k in chosen}
    with seeded(seed):
        if source == "posterior":
            parts = pair.posterior(draws, block=block, predict=True)
        else:
            parts = pair.prior(draws, block=block)
        for part in parts:
            replicas = part.values[name]
            if name in pair.missing:  # what is not there is not compared
                replicas = replicas.masked_fill(pair.missing[name], torch.nan)
            for data in _by_datum(pair.sites[name], replicas):
                for k, f in chosen.items():
                    drawn[k].append(_number(k, f, data))
    replicated = {k: np.asarray(v) for k, v in drawn.items()}
    p_values = {
        k: float((v > observed[k]).mean() + (v == observed[k]).mean() / 2)
        for k, v in replicated.items()
    }
    return PredictiveCheck(name, source, observed, replicated, p_values)


def _by_datum(site: Layout, values: Tensor) -> Tensor:
    """Values laid out as (draw, n, *event); a site in no plate is one datum."""
    if site.joint:
        values = values.squeeze(1)
    return (values if site.plates else values[:, None]).float()


def _standard(data: Tensor) -> dict[str, Statistic]:
    """`STATISTICS` without those that need two data, or two numbers in a datum, where one is."""
    undefined: set[str] = set()
    if len(data) == 1:
        undefined.add("sd between data")
    if data[0].numel() == 1:
        undefined.add("sd within a datum")
    if data.numel() == 1:
        undefined.add("sd")
    return {k: f for k, f in STATISTICS.items() if k not in undefined}


def _number(name: str, statistic: Statistic, data: Tensor) -> float:
    value = torch.as_tensor(statistic(data))
    if value.numel() != 1:
        raise ValueError(
            f"statistic {name!r} must return one number for the data set, got shape "
            f"{tuple(value.shape)}"
        )
    if math.isnan(number := float(value)):
        raise ValueError(
            f"statistic {name!r} is NaN: it has no place above or below the data's; of "
            "data with missing values give statistics= that leave NaN out"
        )
    return number


def predictive_of(subject: Subject) -> PredictiveCheck:
    """`predictive_check` of some rows."""
    return predictive_check(*subject.pair, subject.few, seed=subject.effort.seed)


def estimates_of(found: PredictiveCheck) -> dict[str, Estimate]:
    """The p-values by statistic; that of one which no draw or every draw exceeds is a bound."""
    note = f"{found.draws} data sets drawn at the data's own codes"
    least = 1 / (found.draws + 1)  # all that so many draws tell of a rarer one
    values = {}
    for name, p in found.p_values.items():
        side: Literal["lower", "upper"] | None = (
            "upper" if p < least else "lower" if 1 - p < least else None
        )
        values[name] = Estimate(min(max(p, least), 1 - least), bound=side, note=note)
    return values


METRICS = (
    Metric(
        "predictive",
        "Predictive check of the {}",
        "mid-p-value",
        "near 0 or 1 where the model does not produce it",
        "samples",
        lambda subject: estimates_of(subject.once(predictive_of)),
        when="asked",
    ),
)
