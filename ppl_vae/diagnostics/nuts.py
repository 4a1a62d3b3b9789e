"""The guide against the truth: NUTS on a handful of data, the decoder held fixed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_sample, init_to_value
from torch import Tensor

from ppl_vae.diagnostics._arviz import convergence
from ppl_vae.diagnostics.densities import has_density
from ppl_vae.diagnostics.gaps import Gaps, inference_gaps
from ppl_vae.diagnostics.pair import Draws, Pair
from ppl_vae.diagnostics.sites import draw_count
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.metric import Metric, Subject
from ppl_vae.evaluation.programs import Data, Program, seeded
from ppl_vae.evaluation.terms import require_density
from ppl_vae.records import Record

__all__ = ["METRICS", "NUTSComparison", "against_nuts", "nuts_of"]


@dataclass(frozen=True, repr=False)
class NUTSComparison(Record):
    r"""The guide's draws next to NUTS draws of the same posteriors.

    Arrays by latent site have shape (rows, *event).

    Attributes:
        rows: indices of the data looked at.
        guide: draws of the guide, (draws, rows, *event).
        nuts: draws of NUTS, (chains, draws, rows, *event).
        rhat: rank-normalised R-hat of the NUTS chains. Above 1.01 they disagree, and then the
            comparison says nothing.
        ess: bulk effective sample size of all chains.
        divergences: divergent transitions after warm-up, all chains.
        shift: (guide's mean - true mean) / true sd.
        shift_error: standard error of `shift`.
        log_scale: log(guide's sd / true sd), -inf for a point mass.
        log_scale_error: standard error of `log_scale`.
        wasserstein: 1-Wasserstein distance of the marginals, in true standard deviations. Finite
            draws keep it above 0: two exact samples of size m are about $m^{-1/2}$ apart.
        gaps: where the guide loses nats; None if not asked for or if it has no density.
    """

    rows: np.ndarray
    guide: dict[str, np.ndarray]
    nuts: dict[str, np.ndarray]
    rhat: dict[str, np.ndarray]
    ess: dict[str, np.ndarray]
    divergences: int
    shift: dict[str, np.ndarray]
    shift_error: dict[str, np.ndarray]
    log_scale: dict[str, np.ndarray]
    log_scale_error: dict[str, np.ndarray]
    wasserstein: dict[str, np.ndarray]
    gaps: Gaps | None

    def summary(self) -> dict[str, float]:
        """Figures for a table."""
        table = {"divergences": float(self.divergences)}
        for name in self.nuts:
            table[f"max_rhat_{name}"] = float(self.rhat[name].max())
            table[f"min_ess_{name}"] = float(self.ess[name].min())
            table[f"rms_shift_{name}"] = float(np.sqrt(np.square(self.shift[name]).mean()))
            table[f"mean_log_scale_{name}"] = float(self.log_scale[name].mean())
            table[f"mean_wasserstein_{name}"] = float(self.wasserstein[name].mean())
        return {**table, **(self.gaps.summary() if self.gaps else {})}


def against_nuts(
    model: Program,
    guide: Program,
    x: Data,
    *,
    rows: int | Sequence[int] = 8,
    draws: int = 500,
    warmup: int = 300,
    chains: int = 2,
    guide_draws: int = 2000,
    gaps: bool = True,
    max_tree_depth: int = 8,
    seed: int | None = None,
    plate: str | None = None,
    block: int = 8192,
) -> NUTSComparison:
    """Compares the guide with Pyro's NUTS run on p(z given x) for a few data.

    The model is held as it is: parameters do not move, modules are in eval mode, and latents
    outside the data plate are fixed at one draw from the guide. All rows are sampled in one run of
    NUTS for each chain. Chains start in turn from a draw of the guide and from a draw of the
    prior, so that R-hat shows a mode that the guide does not know.

    Args:
        model, guide: Pyro callables of the same arguments with a full vectorised data plate that
            takes its size from the arguments.
        x: rows of data, or the tuple of the callables' arguments.
        rows: how many data, evenly spread over the set, or their indices.
        draws: NUTS draws of each chain after warm-up.
        warmup: NUTS steps that adapt the step size and the mass matrix, for each chain.
        chains: number of chains, at least 2 for R-hat.
        guide_draws: draws from the guide for each datum.
        gaps: also estimate the evidence of each datum and split the guide's loss against it into
            approximation and amortisation gap, see `Gaps`.
        max_tree_depth: of NUTS.
        seed: makes it repeatable and leaves the global generator alone.
        plate: name of the data plate, where several plates could be it.
        block: how many draws times data are run at once.

    Raises:
        ValueError: if there are fewer data than `rows`, an index is out of range, a latent is
            discrete, the plate does not follow the arguments, or there is no data plate.

    References:
        Hoffman and Gelman (2014), The No-U-Turn sampler, arXiv:1111.4246.
        Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders,
        arXiv:1801.03558.
    """
    draw_count(draws, 10)
    draw_count(warmup, 10, "warmup")
    draw_count(chains, 2, "chains")
    draw_count(guide_draws, 10, "guide_draws")
    whole = Pair(model, guide, x, plate)
    chosen = _rows(rows, whole.size)
    with seeded(seed):
        pair = whole.rows(chosen).holding(whole.shared())
        _continuous(pair)
        own = Draws.cat(list(pair.posterior(guide_draws, block=block)))
        found, divergences = _sample(pair, own, draws, warmup, chains, max_tree_depth)
        dense = bool(own.log_q) and has_density(pair, local=True)
        split = inference_gaps(pair, found, own, block=block) if gaps and dense else None
    q = {k: own.values[k].double().numpy() for k in pair.locals}
    p = {k: v.double().numpy() for k, v in found.items()}
    tables: dict[str, dict[str, np.ndarray]] = {}
    for name in pair.locals:
        for key, value in _compare(q[name], p[name]).items():
            tables.setdefault(key, {})[name] = value
    return NUTSComparison(
        rows=chosen.numpy(), guide=q, nuts=p, divergences=divergences, gaps=split, **tables
    )


def _rows(rows: int | Sequence[int], size: int) -> Tensor:
    if isinstance(rows, int):
        draw_count(rows, 1, "rows")
        if rows > size:
            raise ValueError(f"asked for {rows} data, there are {size}")
        return torch.linspace(0, size - 1, rows).round().long()
    chosen = torch.as_tensor(list(rows), dtype=torch.long)
    if not len(chosen) or chosen.unique().numel() != len(chosen):
        raise ValueError("rows must be indices of data, each once")
    if int(chosen.min()) < 0 or int(chosen.max()) >= size:
        raise ValueError(f"rows must be between 0 and {size - 1}, got {chosen.tolist()}")
    return chosen


def _continuous(pair: Pair) -> None:
    with pair.still():
        trace = poutine.trace(pair.given).get_trace(*pair.args)
    for name, site in pair.sites.items():
        if site.role not in ("latent", "missing") or trace.nodes[name]["is_observed"]:
            continue
        if trace.nodes[name]["fn"].support.is_discrete:
            raise ValueError(f"latent {name!r} is discrete: NUTS needs continuous latents")


def _sample(
    pair: Pair, own: Draws, draws: int, warmup: int, chains: int, max_tree_depth: int
) -> tuple[dict[str, Tensor], int]:
    collected: list[dict[str, Tensor]] = []
    divergences = 0
    for chain in range(chains):
        start = {
            k: pair.sites[k].unlay(own.values[k][chain : chain + 1]).reshape(pair.sites[k].shape)
            for k in pair.locals
        }
        values = {k: v.to(pair.device) for k, v in start.items()}
        init = partial(init_to_value, values=values) if chain % 2 == 0 else init_to_sample
        with pair.still(), torch.enable_grad():
            kernel = NUTS(pair.given, init_strategy=init, max_tree_depth=max_tree_depth)
            # MCMC turns validation off for good unless told what it was.
            with pyro.validation_enabled(False):
                run = MCMC(kernel, draws, warmup, disable_progbar=True, disable_validation=None)
                run.run(*pair.args)
        samples = run.get_samples()
        divergences += sum(len(v) for v in run.diagnostics()["divergences"].values())
        collected.append(
            {k: pair.sites[k].lay(samples[k], len(samples[k])).cpu() for k in pair.locals}
        )
    return {k: torch.stack([c[k] for c in collected]) for k in pair.locals}, divergences


def _compare(q: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
    """Distances of marginals: q (S, ...) and p (chains, draws, ...)."""
    rhat, bulk, spread = convergence(p)
    flat = p.reshape(-1, *p.shape[2:])
    mean, sd = flat.mean(0), flat.std(0, ddof=1)
    # The sd of equal numbers is not quite 0 after rounding.
    own_mean, own_sd = q.mean(0), np.where(np.ptp(q, axis=0) > 0, q.std(0, ddof=1), 0.0)
    with np.errstate(divide="ignore"):
        log_scale = np.log(own_sd / sd)
    # Quantile functions at common points: the 1-Wasserstein distance is the area between them.
    at = (np.arange(400) + 0.5) / 400
    apart = np.abs(np.quantile(q, at, axis=0) - np.quantile(flat, at, axis=0)).mean(0)
    return {
        "rhat": rhat,
        "ess": bulk,
        "shift": (own_mean - mean) / sd,
        "shift_error": np.sqrt(1 / bulk + (own_sd / sd) ** 2 / len(q)),
        "log_scale": log_scale,
        "log_scale_error": np.sqrt(1 / (2 * spread) + 1 / (2 * len(q))),
        "wasserstein": apart / sd,
    }


_ROWS = 4


def nuts_of(subject: Subject) -> NUTSComparison:
    """`against_nuts` for a handful of rows."""
    require_density(subject)
    few = min(_ROWS, len(subject.few[0]))
    return against_nuts(*subject.pair, subject.few, rows=few, seed=subject.effort.seed)


def _rhat(subject: Subject) -> Estimate:
    found = subject.once(nuts_of)
    worst = max(float(values.max()) for values in found.rhat.values())
    return Estimate(worst, note=f"{len(found.rows)} data, {found.divergences} divergences")


def _shift(subject: Subject) -> Estimate:
    found = subject.once(nuts_of)
    shifts = np.concatenate([values.ravel() for values in found.shift.values()])
    errors = np.concatenate([values.ravel() for values in found.shift_error.values()])
    size = float(np.sqrt(np.square(shifts).mean()))
    error = float(np.sqrt(np.square(errors).mean()))
    return Estimate(size, error, note=f"root mean square over {shifts.size} coordinates")


def _scale(subject: Subject) -> Estimate:
    found = subject.once(nuts_of)
    scales = np.concatenate([values.ravel() for values in found.log_scale.values()])
    errors = np.concatenate([values.ravel() for values in found.log_scale_error.values()])
    error = float(np.sqrt(np.square(errors).sum())) / errors.size
    return Estimate(float(scales.mean()), error, note=f"mean over {scales.size} coordinates")


def _gap(name: str) -> Callable[[Subject], Estimate]:
    def compute(subject: Subject) -> Estimate:
        gaps = subject.once(nuts_of).gaps
        values = None if gaps is None else getattr(gaps, name)
        if gaps is None or values is None:
            raise ValueError("the guide's family cannot be read off, or it has no density")
        error = float(np.std(values, ddof=1)) / np.sqrt(values.size) if values.size > 1 else None
        trust = f"k-hat of the evidence up to {gaps.evidence_k.max():.2g}"
        return Estimate(float(values.mean()), None, error, note=f"{values.size} data, {trust}")

    return compute


_NATS, _TRUE = "nats per datum", "true sd"

METRICS = (
    Metric(
        "nuts_rhat",
        "NUTS: largest R-hat",
        "",
        "up to 1.01, or what follows says nothing",
        "posterior",
        _rhat,
        when="asked",
    ),
    Metric(
        "nuts_shift",
        "Means of q(z|x) off those of NUTS",
        _TRUE,
        "0 if exact",
        "posterior",
        _shift,
        when="asked",
    ),
    Metric(
        "nuts_log_scale",
        "log of sd of q(z|x) over that of NUTS",
        "",
        "0 if exact, below 0 too narrow",
        "posterior",
        _scale,
        when="asked",
    ),
    Metric(
        "inference_gap",
        "Inference gap",
        _NATS,
        "KL(q(z|x) ‖ p(z|x))",
        "posterior",
        _gap("inference"),
        when="asked",
    ),
    Metric(
        "approximation_gap",
        "Inference gap: share of the family",
        _NATS,
        "of the best member for each datum",
        "posterior",
        _gap("approximation"),
        when="asked",
    ),
    Metric(
        "amortisation_gap",
        "Inference gap: share of the encoder",
        _NATS,
        "of one encoder for all data",
        "posterior",
        _gap("amortisation"),
        when="asked",
    ),
)
