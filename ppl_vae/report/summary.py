"""What a trained experiment is worth: its summary and its pictures."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import pyro
import torch

from ppl_vae import plots
from ppl_vae.diagnostics.pair import seeded
from ppl_vae.evaluation import Codes, Estimate, elbo_terms, full_mmd, linear_probe, posterior_codes
from ppl_vae.evaluation.estimate import mean_of
from ppl_vae.experiment import Experiment
from ppl_vae.pairs.semisupervised import SemiSupervisedVAE
from ppl_vae.priors import StandardNormal
from ppl_vae.program.modules import evaluating
from ppl_vae.training.run import Run
from ppl_vae.using.decoding import decode, draw, drawn_as, latents

__all__ = ["accuracy", "evaluate", "has_classifier", "summarize"]


def summarize(experiment: Experiment, seed: int = 0) -> dict[str, Any]:
    r"""The numbers of `summary.json`, over the held-out rows (all rows where none are).

    `reconstruction` is $-\mathrm{E} \log p(x \mid z)$ and `rate` the KL to the prior, in nats per
    datum; `mmd` is the unbiased squared MMD of one code per datum against the prior, over all
    pairs; `log_det` that of cov(mean) + mean(variance), divided by d; `probe` the accuracy of a
    linear classifier on posterior means, and `accuracy` that of the model's own classifier, where
    it has one. `errors` holds their standard errors, and `skipped` why one is missing.

    Args:
        experiment: a trained one.
        seed: of the draws of z.
    """
    return _summarize(experiment, seed)[0]


def evaluate(run: Run, experiment: Experiment, seed: int = 0) -> dict[str, Any]:
    """Writes a run's `summary.json` and pictures, and returns the summary.

    Args:
        run: the folder.
        experiment: the trained experiment it is of.
        seed: of the draws.
    """
    summary, codes = _summarize(experiment, seed)
    run.save_summary(summary)
    data, pair, folder = experiment.data, experiment.pair, run.path
    args = experiment.rows()
    x, labels = args[0], data.labels(data.held_out)
    plots.curves(run.history, folder / "curves.png")
    standard = isinstance(pair.prior, StandardNormal) and len(codes.slices) == 1
    plots.latent(codes.mean, labels, folder / "latent.png", data.classes, radius=standard)
    shown = slice(40) if plots.is_image(x) else slice(1000)
    few = tuple(part[shown] for part in args)
    programs = pair.model, pair.guide
    mean = decode(*programs, few, latents(*programs, few, codes))
    plots.reconstructions(x[shown], mean, folder / "reconstructions.png")
    with seeded(seed):
        draws = draw(*programs, args, 64 if plots.is_image(x) else len(x[shown]))
    plots.samples(draws, folder / "samples.png", x[shown], title=drawn_as(*programs, args))
    return summary


def has_classifier(experiment: Experiment) -> bool:
    """Whether `accuracy` can be told."""
    labels = experiment.data.labels(experiment.data.held_out)
    known = labels is not None and bool((labels >= 0).any())
    return known and isinstance(experiment.pair, SemiSupervisedVAE)


def accuracy(experiment: Experiment) -> Estimate:
    """The accuracy of the classifier of a `SemiSupervisedVAE`, over rows of known class.

    Raises:
        ValueError: if the pair has no classifier, or no class is known.
    """
    pair, labels = experiment.pair, experiment.data.labels(experiment.data.held_out)
    if not isinstance(pair, SemiSupervisedVAE) or labels is None:
        raise ValueError(f"{type(pair).__name__} has no classifier, or the data no classes")
    x = experiment.rows()[0]
    with torch.no_grad(), evaluating(pair):
        found = torch.cat([pair.classify(part).argmax(-1) for part in x.split(1024)])
    labels = labels.to(found.device)
    return mean_of((found == labels).double()[labels >= 0])


def _summarize(experiment: Experiment, seed: int) -> tuple[dict[str, Any], Codes]:
    data = experiment.data
    pair = experiment.pair.model, experiment.pair.guide
    args, labels = experiment.rows(), data.labels(data.held_out)
    pyro.set_rng_seed(seed)
    terms = elbo_terms(*pair, args)
    codes = posterior_codes(*pair, args)
    measures: dict[str, Callable[[], Estimate]] = {
        "reconstruction": lambda: terms["distortion"],
        "rate": lambda: terms["rate"],
        "mmd": lambda: full_mmd(*pair, args).u,
        "log_det": codes.log_det,
    }
    if data.train_labels is not None and labels is not None:
        measures["probe"] = lambda: _probe(experiment, codes)
    if has_classifier(experiment):
        measures["accuracy"] = lambda: accuracy(experiment)
    found, skipped = dict[str, Estimate](), dict[str, str]()
    for name, measure in measures.items():
        try:
            found[name] = measure()
        except (ValueError, NotImplementedError) as error:
            skipped[name] = (str(error).splitlines() or [type(error).__name__])[0]
    for name, estimate in found.items():
        if not isfinite(estimate.value):
            skipped[name] = estimate.note or "not finite"
    summary: dict[str, Any] = {name: estimate.value for name, estimate in found.items()}
    summary["errors"] = {name: estimate.data_error for name, estimate in found.items()}
    if skipped:
        summary["skipped"] = skipped
    summary["rows"] = len(args[0])
    summary["held_out"] = data.test is not None
    return summary, codes


def _probe(experiment: "Experiment", codes: Codes) -> Estimate:
    """The accuracy of a linear probe on the rows whose class is known."""
    data = experiment.data
    seen, labels = data.train_labels, data.labels(data.held_out)
    if seen is None or labels is None or not bool((seen >= 0).any() and (labels >= 0).any()):
        raise ValueError("no class is known")
    pair = experiment.pair.model, experiment.pair.guide
    train = posterior_codes(*pair, experiment.rows("train")).mean
    known, asked = seen >= 0, labels >= 0
    return linear_probe(train[known], seen[known], codes.mean[asked], labels[asked])
