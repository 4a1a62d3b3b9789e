"""The metrics of a run in groups: each group shares its draws and its conditions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite, sqrt
from typing import Literal

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae import evaluation as ev
from ppl_vae.diagnostics import Calibration, ParetoK, pareto_k, sbc
from ppl_vae.diagnostics.pair import seeded
from ppl_vae.evaluation import Estimate
from ppl_vae.experiment import Experiment
from ppl_vae.plots.pictures import is_image
from ppl_vae.report.summary import accuracy, has_classifier
from ppl_vae.using.decoding import draw, drawn_as

__all__ = ["COSTLY", "GROUPS", "Effort", "Subject"]


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        samples: draws of z for each datum in importance sampling, K.
        rows: held-out data that importance sampling, k-hat, information and calibration take at
            most, a random choice; the others take all.
        simulations: of simulation-based calibration.
        seed: of the draws.
    """

    samples: int = 1000
    rows: int = 1000
    simulations: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 25), ("rows", 2), ("simulations", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {least} or more")

    def quick(self) -> "Effort":
        """The same, or less where it would take long."""
        return replace(
            self,
            samples=min(self.samples, 100),
            rows=min(self.rows, 200),
            simulations=min(self.simulations, 200),
        )


class Subject:
    """An experiment with what several metrics share."""

    def __init__(self, experiment: Experiment, effort: Effort) -> None:
        self.experiment, self.data, self.effort = experiment, experiment.data, effort
        self.pair = experiment.pair.model, experiment.pair.guide
        self.args = experiment.rows()
        self.x = self.args[0]
        self.khat: ParetoK | None = None
        self.calibration: Calibration | None = None

    @cached_property
    def few(self) -> tuple[Tensor, ...]:
        """At most `rows` of the data, the same ones whoever asks."""
        if len(self.x) <= self.effort.rows:
            return self.args
        order = torch.randperm(
            len(self.x), generator=torch.Generator().manual_seed(self.effort.seed)
        )
        chosen = order[: self.effort.rows].to(self.x.device)
        return tuple(part[chosen] for part in self.args)

    def known(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """The rows of known class among the training or the held-out ones, and the classes.

        Raises:
            ValueError: if there are none.
        """
        labels = self.data.labels(part)
        if labels is None or not bool((labels >= 0).any()):
            rows = "" if self.data.train_labels is None else f" for their {part} rows"
            raise ValueError(f"labels are needed, and these data have none{rows}")
        told = (labels >= 0).nonzero()[:, 0]
        return told, labels[told]

    def whole(self) -> Tensor:
        """The rows of which nothing is missing.

        Raises:
            ValueError: if there is none.
        """
        found = self.x[~self.x.flatten(1).isnan().any(1)]
        if not len(found):
            raise ValueError("each row has missing values")
        return found

    @cached_property
    def basics(self) -> tuple[dict[str, Estimate], ev.Codes, ev.Discrepancy | Exception]:
        """Terms, codes and MMD, or why there is none, drawn in the order of `summary.json`."""
        pyro.set_rng_seed(self.effort.seed)
        terms = ev.elbo_terms(*self.pair, self.args)
        codes = ev.posterior_codes(*self.pair, self.args)
        try:
            return terms, codes, ev.full_mmd(*self.pair, self.args)
        except (ValueError, NotImplementedError) as error:  # a prior by row, or of no density
            return terms, codes, error

    def need_density(self) -> None:
        """Refuses a likelihood that gives data no density, as one of a cost alone."""
        distortion = self.basics[0]["distortion"].value
        pyro.set_rng_seed(self.effort.seed)  # whether the terms were there before or not
        if not isfinite(distortion):
            name = type(self.experiment.pair.likelihood).__name__
            raise ValueError(f"{name} gives the data no density")


Found = dict[str, Estimate]


def _terms(s: Subject) -> Found:
    return {name: s.basics[0][name] for name in ("elbo", "distortion", "rate")}


def _mmd(s: Subject) -> Found:
    found = s.basics[2]
    if isinstance(found, Exception):
        raise found
    return {"mmd_u": found.u, "mmd_v": found.v}


def _codes(s: Subject) -> Found:
    codes = s.basics[1]
    units = ev.active_units(codes.mean)
    note = f"of {len(units.variances)} dimensions"
    return {"active_units": Estimate(units.count, note=note), "log_det": codes.log_det()}


def _likelihood(s: Subject) -> Found:
    s.need_density()
    return {"log_likelihood": _negated(ev.nll(*s.pair, s.few, s.effort.samples), len(s.few[0]))}


def _annealed(s: Subject) -> Found:
    s.need_density()
    few = tuple(part[:100] for part in s.few)
    return {"annealed_log_likelihood": _negated(ev.annealed_nll(*s.pair, few), len(few[0]))}


def _negated(cost: Estimate, rows: int) -> Estimate:
    return replace(cost, value=-cost.value, bound="lower", note=f"{rows} data, {cost.note}")


def _information(s: Subject) -> Found:
    found = ev.mutual_information(*s.pair, s.few)
    return {"information_lower": found.lower, "information_upper": found.upper}


def _surgery(s: Subject) -> Found:
    found = ev.surgery(*s.pair, s.few)
    parts = ("mutual_information", "total_correlation", "dimension_wise", "marginal_kl")
    return {
        f"surgery/{part}": value
        for part in parts
        if isinstance(value := getattr(found, part), Estimate)
    }


def _probes(s: Subject) -> Found:
    if s.data.test is None:
        raise ValueError("a probe needs held-out rows, and these data have none")
    (seen, classes), (told, truth) = s.known("train"), s.known("test")
    train = ev.posterior_codes(*s.pair, s.experiment.rows("train")).mean
    codes = train[seen], classes, s.basics[1].mean[told], truth
    few = min(1000, len(seen))
    folds = max(2, min(5, int(classes.bincount().max()) * few // len(seen)))
    return {
        "probe_linear": ev.linear_probe(*codes),
        "probe_knn": ev.knn_probe(*codes, neighbours=min(10, len(seen))),
        "probe_svm": ev.svm_probe(*codes, labels=few, folds=folds, seed=s.effort.seed),
    }


def _classifier(s: Subject) -> Found:
    return {"accuracy": accuracy(s.experiment)} if has_classifier(s.experiment) else {}


def _reconstruction(s: Subject) -> Found:
    return {"reconstruction_error": ev.reconstruction_error(*s.pair, s.args, site="x")}


def _columns(s: Subject) -> Found:
    layout = s.data.layout
    if layout is None:
        return {}
    found = ev.column_errors(*s.pair, s.args, layout.x, s.data.transform, site="x")
    return {f"column/{name}": value for name, value in found.items()}


def _sharpness(s: Subject) -> Found:
    if not is_image(s.x):
        raise ValueError("sharpness is of images, and these data are none")
    with seeded(s.effort.seed):
        drawn = draw(*s.pair, s.args, min(len(s.x), s.effort.rows))
    samples = ev.sharpness(drawn)
    note = f"{len(drawn)} samples: {drawn_as(*s.pair, s.args)}"
    return {"sharpness": replace(samples, note=note), "sharpness_data": ev.sharpness(s.whole())}


def _classes(s: Subject) -> Found:
    if s.data.test is None:
        raise ValueError("a classifier needs held-out rows, and these data have none")
    if bool(s.x.isnan().any()) or bool(s.data.train.isnan().any()):
        raise ValueError("a classifier of rows needs all of their values, and some are missing")
    (seen, classes), (told, truth) = s.known("train"), s.known("test")
    device = s.x.device
    labels = classes.to(device)
    training = s.data.train.to(device)[seen], labels
    net = ev.train_classifier(*training, s.x[told], truth.to(device), seed=s.effort.seed)
    return {"class_divergence": ev.class_divergence(*s.pair, s.args, net, labels=labels)}


def _khat(s: Subject) -> Found:
    s.need_density()
    s.khat = found = pareto_k(*s.pair, s.few, draws=s.effort.samples, seed=s.effort.seed)
    present = int((~np.isnan(found.k)).sum())
    share = found.usable
    error = sqrt(share * (1 - share) / present)
    note = f"{present} data, {found.draws} draws each, threshold {found.threshold:.2f}"
    if found.exact.any():
        note += f", {int(found.exact.sum())} of constant weights (exact)"
    return {
        "khat_usable": Estimate(share, None, error, note=note),
        "khat_median": Estimate(float(np.nanmedian(found.k)), note=note),
    }


def _calibration(s: Subject) -> Found:
    s.need_density()
    e = s.effort
    few = tuple(part[: e.simulations] for part in s.few)

    def arguments(drawn: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return drawn["x"].reshape(few[0].shape).to(few[0]), *few[1:]

    s.calibration = found = sbc(
        *s.pair, few, simulations=e.simulations, draws=199, seed=e.seed, arguments=arguments
    )
    simulated = f"{found.simulations} simulated data"
    values = {"sbc/all": Estimate(found.p_value, note=f"smallest, Bonferroni, {simulated}")}
    for name, p in found.p_values.items():
        count = np.size(p)
        note = f"smallest of {count}, Bonferroni" if count > 1 else "one test"
        values[f"sbc/{name}"] = Estimate(min(1.0, float(np.min(p)) * count), note=note)
    covered = found.coverage()
    for i, level in enumerate(covered.levels):
        inside = np.concatenate([v[i].ravel() for v in covered.observed.values()])
        note = f"mean over {inside.size} coordinates, the error of one, {simulated}"
        error = float(covered.error[i])
        values[f"coverage/{100 * level:g}"] = Estimate(
            float(inside.mean()), error, error, note=note
        )
    return values


GROUPS: Mapping[str, Callable[[Subject], Found]] = {
    "terms": _terms,
    "likelihood": _likelihood,
    "annealed": _annealed,
    "information": _information,
    "surgery": _surgery,
    "codes": _codes,
    "mmd": _mmd,
    "probes": _probes,
    "classifier": _classifier,
    "reconstruction": _reconstruction,
    "columns": _columns,
    "sharpness": _sharpness,
    "classes": _classes,
    "khat": _khat,
    "calibration": _calibration,
}
"""Metrics that are computed together, by the name they are asked for."""

COSTLY = frozenset({"annealed", "classes"})
"""Groups that are computed only when asked for by name."""
