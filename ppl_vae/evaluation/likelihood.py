"""The marginal log-likelihood, by importance sampling from the guide or a fitted proposal."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ppl_vae.evaluation.estimate import Estimate, importance_nll
from ppl_vae.evaluation.metric import NATS, Metric, Subject
from ppl_vae.evaluation.own_draws import AT_ONCE, no_weights, own_weights, weights_of
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.proposal import Family, NoProposal, Proposal
from ppl_vae.evaluation.terms import require_density
from ppl_vae.evaluation.totals import Total, pair_or_total
from ppl_vae.evaluation.weights import Weights

__all__ = [
    "METRICS",
    "Likelihood",
    "Proposals",
    "fitted_weights",
    "nll",
    "per_datum",
]

Proposals = Literal["auto", "own", "mean_field", "full_covariance", "flow"]

FULL = 32
"""Up to so many dimensions "auto" fits a full covariance, beyond it a mean field."""

STEPS = 400
"""Steps of Adam that fit a proposal: after 150 one of 10 dimensions is still on its way."""

FITTED_AT_ONCE = 256
"""Rows whose proposals are fitted at once: the decoder is run on them with gradients."""


@dataclass(frozen=True)
class Likelihood(Estimate):
    """A negative log-likelihood in nats per datum, and what it was sampled from.

    Attributes:
        own: that by the guide's own draws; None where it has no density, or was not asked.
        fitted: that by a fitted proposal; None where the guide's own does.
        proposal: "own" or the family whose value this is: that of the larger effective size, by
            its harmonic mean over rows, with which the bias goes. It is not chosen by value, as
            the less of two noisy bounds is none.
        sizes: the effective size of the draws in the median, for "own" and the family.
        khats: Pareto k-hat of their weights in the median; NaN for fewer than 25 draws.
        rows: minus log p(x_i) of each datum, `(n,)`.
    """

    own: Estimate | None = None
    fitted: Estimate | None = None
    proposal: str = "own"
    sizes: Mapping[str, float] = field(default_factory=dict)
    khats: Mapping[str, float] = field(default_factory=dict)
    rows: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)

    @property
    def size(self) -> float:
        """The effective size behind the value, in the median."""
        return self.sizes[self.proposal]

    @property
    def k(self) -> float:
        """Pareto k-hat behind the value, in the median."""
        return self.khats[self.proposal]


def nll(
    model: Program,
    guide: Program,
    x: Data,
    num_samples: int = 1000,
    proposal: Proposals = "auto",
    steps: int = STEPS,
    block: int | None = 8192,
    plate: str | None = None,
) -> Likelihood:
    r"""The negative log-likelihood by importance sampling, in nats per datum.

    $$-\frac{1}{n} \sum_i \log \frac{1}{K} \sum_{k=1}^K w_{ik}, \qquad
      w_{ik} = \frac{p(x_i, z_{ik})}{q_i(z_{ik})}, \quad z_{ik} \sim q_i$$

    with $q_i = q(z | x_i)$, or a proposal fitted to the posterior of each row with the model held
    (`ppl_vae.evaluation.proposal`). An encoder that was trained without the ELBO's KL is no
    approximation of the posterior, and the estimate by its own draws is off by nats, silently:
    what matters is not which objective trained the model, but whether the draws meet the weight.
    "auto" takes the guide's draws where they do, which is where the effective size
    $(\sum_k w_k)^2 / \sum_k w_k^2$ of every row is 30 and 5% of K or more and Pareto k-hat
    leaves a tenth of the weight unseen at most (as `ppl_vae.compare` has it), and fits a
    proposal where they do not, or the guide has no density. Fitting takes `steps` runs of the
    model with gradients; the draws it is fitted with are not those of the estimate.

    It is positive where $\log p < 0$. Its expectation is at least the true value and falls to it
    with K; to first order the bias is half the squared error of the weights' mean,
    $s_i^2 / 2$ with $s_i^2 = V[w_i] / (K \bar w_i^2)$, which the note reports, and the standard
    error is $\sqrt{\sum_i s_i^2} / n$. Both are themselves read off the weights, and are too small
    where large weights have not been met (the weights of a guide of a twentieth of the
    posterior's width look even in every third row, off by 1.8 nats a dimension): the note states
    no bias where the rule above fails, and gives k-hat. Draws of one mode of several look even
    too: `annealed_nll(..., start="prior")` is the second opinion.

    Where no latent belongs to a row (all are global) all data are one row: the estimate is of
    $-\log p(x_1, \dots, x_n)$ by the guide's draws, and the note says so.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data, or the tuple of the programs' positional arguments.
        num_samples: K.
        proposal: "auto"; "own", the guide's draws alone; or the family to fit: "mean_field",
            "full_covariance" or "flow" (needs the extra `flows`).
        steps: of Adam that fit a proposal.
        block: rows times draws held at once.
        plate: the data plate's name, where the pair leaves a choice.

    Raises:
        ValueError: for K of 1, which has no error; for a guide without density and latents that
            no proposal can be fitted to (discrete ones).

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519.
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based
        generative models, arXiv:1611.04273.
    """
    check_positive(num_samples=num_samples, steps=steps, block=block)
    if num_samples < 2:
        raise ValueError("num_samples is 1: importance sampling needs 2 or more for its error")
    if proposal not in get_args(Proposals):
        raise ValueError(f"proposal={proposal!r}: use one of {', '.join(get_args(Proposals))}")
    pair = pair_or_total(model, guide, x, plate, block)
    with evaluating(model, guide):
        return _nll(pair, num_samples, proposal, steps)


def _nll(
    pair: Pair | Total,
    num_samples: int,
    proposal: Proposals = "auto",
    steps: int = STEPS,
    own: Weights | None = None,
) -> Likelihood:
    """`nll` of a pair in evaluation mode, whose weights by its own draws may be at hand."""
    pair.require_observed()
    if isinstance(pair, Total):
        if proposal not in ("auto", "own"):
            raise ValueError(
                f"proposal={proposal!r} is fitted row by row, and no latent belongs to a row: "
                "train the guide on these data with Trace_ELBO, and leave proposal out"
            )
        weights = own or own_weights(pair, num_samples)
        estimate = importance_nll(weights, f"{pair.note}; {num_samples} draws")
        return _chosen({"own": (weights, estimate)}, [])
    refusal = no_weights(pair)
    if proposal == "own" and refusal is not None:
        raise refusal
    notes = list[str]()
    found: dict[str, tuple[Weights, Estimate]] = {}
    if proposal in ("auto", "own") and refusal is None:
        own = own or own_weights(pair, num_samples)
        quiet = proposal == "auto"
        found["own"] = own, importance_nll(own, f"{num_samples} draws of the guide", quiet)
    if proposal != "own" and not ("own" in found and found["own"][0].met):
        family = proposal if proposal != "auto" else None
        try:
            family, fitted = fitted_weights(pair, num_samples, family, steps)
        except NoProposal as error:
            if "own" not in found:
                raise ValueError(f"{refusal or error}; {error}") from error
            notes.append(str(error))
            warnings.warn(found["own"][1].note, stacklevel=3)
        else:
            words = f"{num_samples} draws of a fitted {family.replace('_', ' ')}"
            found[family] = fitted, importance_nll(fitted, words, quiet=True)
    return _chosen(found, [*notes, pair.note])


def fitted_weights(
    pair: Pair, num_samples: int, family: Family | None = None, steps: int = STEPS
) -> tuple[Family, Weights]:
    """The weights of all rows by a proposal that is fitted to each, and its family.

    Args:
        pair: the pair, in evaluation mode.
        num_samples: draws for each row.
        family: of the proposal; a full covariance up to 32 dimensions, else a mean field, where
            None.
        steps: of Adam that fit it.

    Raises:
        NoProposal: for latents that are not mapped from real vectors.
    """
    if family is None:
        family = (
            "full_covariance" if sum(pair.sizes[n] for n in pair.latents) <= FULL else "mean_field"
        )
    rows = pair.split(1, FITTED_AT_ONCE) if pair.sliced else (None,)
    parts = []
    for some in rows:
        fitted = Proposal.fit(pair, some, family, steps)
        parts.append(Weights(fitted.log_weights(num_samples), num_samples))
    return family, Weights.cat(parts)


def _chosen(found: dict[str, tuple[Weights, Estimate]], notes: list[str]) -> Likelihood:
    """The estimate of the larger effective size, and the other next to it."""
    best = max(found, key=lambda name: found[name][0].typical_size)
    weights, estimate = found[best]
    khats = {name: _median(w.khats) for name, (w, _) in found.items()}
    sizes = {name: _median(w.size) for name, (w, _) in found.items()}
    words = [estimate.note] + [f"k-hat {khats[best]:.2g}"] * (not math.isnan(khats[best]))
    for name, (_, its) in found.items():
        if name != best:
            words.append(
                f"NLL by {'the guide' if name == 'own' else 'a fitted ' + name.replace('_', ' ')} "
                f"itself {its} (effective {sizes[name]:.3g}, k-hat {khats[name]:.2g})"
            )
    if not weights.met and len(found) > 1:
        warnings.warn(estimate.note, stacklevel=4)
    fitted = next((its for name, (_, its) in found.items() if name != "own"), None)
    return Likelihood(
        estimate.value,
        estimate.standard_error,
        estimate.data_error,
        estimate.bound,
        ", ".join(filter(None, [*words, *notes])),
        estimate.flag,
        own=found["own"][1] if "own" in found else None,
        fitted=fitted,
        proposal=best,
        sizes=sizes,
        khats=khats,
        rows=-weights.log_mean,
    )


def _median(values: Tensor) -> float:
    return float(values.nanmedian())


def likelihood_of(subject: Subject) -> Likelihood:
    """`nll` of some rows."""
    require_density(subject)
    pair = pair_or_total(*subject.pair, subject.few, None, AT_ONCE)
    try:
        own = subject.once(weights_of)
    except (ValueError, NotImplementedError):
        own = None
    with evaluating(*subject.pair), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the estimate's flag says it
        return _nll(pair, subject.effort.samples, own=own)


def per_datum(cost: Estimate, rows: int) -> Estimate:
    """log p(x) of an estimate of minus that over so many rows."""
    return replace(cost, value=-cost.value, bound="lower", note=f"{rows} data, {cost.note}")


METRICS = (
    Metric(
        "log_likelihood",
        "Log-likelihood, importance sampling",
        NATS,
        "log p(x)",
        "fit",
        lambda s: per_datum(s.once(likelihood_of), len(s.few[0])),
    ),
)
