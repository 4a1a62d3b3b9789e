"""What a trained experiment is worth: its summary and its pictures."""

from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae import plots
from ppl_vae.evaluation import elbo_terms, full_mmd, linear_probe, posterior_codes
from ppl_vae.evaluation.codes import Codes
from ppl_vae.run import Run
from ppl_vae.vae import VAE
from ppl_vae.weights import evaluating

if TYPE_CHECKING:
    from ppl_vae.experiment import Experiment

__all__ = ["decode", "draw", "evaluate", "summarize"]


def summarize(experiment: "Experiment", seed: int = 0) -> dict[str, Any]:
    r"""The numbers of `summary.json`, over the held-out rows (all rows where none are).

    `reconstruction` is $-\mathrm{E} \log p(x \mid z)$ and `rate` the KL to the prior, in nats per
    datum; `mmd` is the unbiased squared MMD of one code per datum against the prior, over all
    pairs; `log_det` that of cov(mean) + mean(variance), divided by d; `probe` the accuracy of a
    linear classifier on posterior means. `errors` holds their standard errors.

    Args:
        experiment: a trained one.
        seed: of the draws of z.
    """
    return _summarize(experiment, seed)[0]


def evaluate(run: Run, experiment: "Experiment", seed: int = 0) -> dict[str, Any]:
    """Writes a run's `summary.json` and pictures, and returns the summary.

    Args:
        run: the folder.
        experiment: the trained experiment it is of.
        seed: of the draws.
    """
    summary, codes = _summarize(experiment, seed)
    run.save_summary(summary)
    data, vae, folder = experiment.data, experiment.vae, run.path
    x, labels = _held_out(experiment)
    plots.curves(run.history, folder / "curves.png")
    plots.latent(codes.mean, labels, folder / "latent.png", data.classes)
    shown = slice(40) if plots.is_image(x) else slice(1000)
    mean = decode(vae, codes.mean[shown])
    plots.reconstructions(x[shown], mean, folder / "reconstructions.png")
    draws = draw(vae, 64 if plots.is_image(x) else len(x[shown]), seed)
    plots.samples(draws, folder / "samples.png", x[shown])
    return summary


def decode(vae: VAE, codes: Tensor) -> Tensor:
    """The mean of p(x | z) at codes `(n, d)`, `(n, *size)`; a draw where it has no closed mean."""
    with torch.no_grad(), evaluating(vae):
        return _picture(vae.likelihood(codes.to(_placed(vae))))


def draw(vae: VAE, n: int, seed: int = 0) -> Tensor:
    """Samples of the model as pictures show them: means of p(x | z) at n draws of the prior.

    Args:
        vae: the model.
        n: how many.
        seed: of the draws.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    with torch.random.fork_rng(), torch.no_grad(), evaluating(vae):
        torch.manual_seed(seed)
        return _picture(vae.likelihood(vae.prior().sample(torch.Size([n]))))


def _picture(fn: TorchDistribution) -> Tensor:
    try:
        return fn.mean
    except NotImplementedError:  # an autoregressive likelihood
        return fn.sample()


def _summarize(experiment: "Experiment", seed: int) -> tuple[dict[str, Any], Codes]:
    data, vae = experiment.data, experiment.vae
    x, labels = _held_out(experiment)
    pair = vae.model, vae.guide
    pyro.set_rng_seed(seed)
    terms = elbo_terms(*pair, x)
    codes = posterior_codes(*pair, x)
    found = {
        "reconstruction": terms["distortion"],
        "rate": terms["rate"],
        "mmd": full_mmd(*pair, x).u,
        "log_det": codes.log_det(),
    }
    if data.train_labels is not None and labels is not None:
        train = posterior_codes(*pair, data.train.to(x.device)).mean
        found["probe"] = linear_probe(train, data.train_labels, codes.mean, labels)
    summary: dict[str, Any] = {name: estimate.value for name, estimate in found.items()}
    summary["errors"] = {name: estimate.data_error for name, estimate in found.items()}
    summary["rows"] = len(x)
    summary["held_out"] = data.test is not None
    return summary, codes


def _held_out(experiment: "Experiment") -> tuple[Tensor, Tensor | None]:
    data = experiment.data
    x = data.train if data.test is None else data.test
    labels = data.train_labels if data.test is None else data.test_labels
    return x.to(_placed(experiment.vae)), labels


def _placed(vae: VAE) -> torch.device:
    return next(p.device for p in vae.parameters())
