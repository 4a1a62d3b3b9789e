"""One experiment from data to weights, and the schema of its configuration."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae.arguments import instance
from ppl_vae.data.dataset import Dataset, Part
from ppl_vae.data.remembered import Remembered
from ppl_vae.data.sources import as_dataset
from ppl_vae.evaluation.programs import seeded
from ppl_vae.guides import Encoder, Ladder, MeanFieldNormal
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.objectives import Objective
from ppl_vae.pairs.pair import Pair
from ppl_vae.pairs.parts import made, masked, of_table, prior_of
from ppl_vae.pairs.vae import VAE
from ppl_vae.priors import ConditionalNormal, GaussianMixture, Prior, StandardNormal
from ppl_vae.program.modules import release
from ppl_vae.program.precision import Precision
from ppl_vae.training.fit import fit
from ppl_vae.training.history import History
from ppl_vae.training.noise import put_back, streams
from ppl_vae.training.optim import Adam
from ppl_vae.training.prepare import pick_device, prepare, set_seed
from ppl_vae.training.run import Run
from ppl_vae.training.stopping import Callback, Keep
from ppl_vae.using.trained import Trained

__all__ = ["Experiment"]


class Experiment(Trained):
    r"""A pair of a model and a guide, the data it is for and how it is trained.

    Once trained it is used as any `Trained` pair: `encode`, `decode`, `sample` and the rest.

    The command line and configuration files take the same names: `ppl-vae fit` builds one of
    these. All that is built here starts from `seed`, so an experiment made twice is the same
    twice; a network of the objective's that was made before, as `Adversarial(dim=2)` makes its
    critic, starts where it was.

    Where the pair has k covariates or classes besides x, the likelihood is built over d + k
    dimensions and the encoder reads them as k further entries of x's first dimension.

    Args:
        data: the data set, or rows in any form that `Dataset` takes.
        objective: the loss.
        dim: dimension d of the latent code; of each layer's, the one next to x first, for a
            HierarchicalVAE.
        pair: class of the pair, or `functools.partial` of it with settings of its own.
        prior: p(z), made or by name, or a factory of it. That is called with d, the last one of
            several; with d and the shape of the covariates if its second argument is `size`, as
            of ConditionalNormal; or with the encoder, if its first argument is of that name.
        likelihood: p(x | z), made or by name, or a factory of it, called with d, the first one of
            several, and the shape of x.
        encoder: q(z | x), made or by name, or a factory of it, called with the shape of x and
            `dim`.
        optimizer: the optimiser, of Pyro, or a class of `torch.optim` or a partial of one; Adam at
            a learning rate of 1e-3 by default.
        epochs: passes through the training rows.
        batch_size: rows to a step.
        critic_steps: further steps of the objective's own parameters before each step.
        patience: end after so many epochs without a lower `monitor`.
        keep: end with the weights of the last epoch, or of that with the lowest `monitor`.
        monitor: a number of the log, such as validation/loss; see `ppl_vae.fit`.
        start: folder of a run whose weights the training goes on from.
        freeze: names of parts and parameters that stay as they are, or globs of them, such as
            `likelihood` or `encoder.network.*`.
        checkpoint_steps: steps between checkpoints, besides that after each epoch.
        precision: "bf16" computes the networks in bfloat16, and densities in float32.
        seed: of the starting weights and all that is drawn in training.
        device: where to train, such as cpu or cuda:0; auto takes a GPU if there is one.

    Raises:
        ValueError: if the parts do not fit together, or the data lack what the pair needs.

    Example:
        >>> from functools import partial
        >>> from ppl_vae import SemiSupervisedVAE
        >>> from ppl_vae.data import Digits, PartlyLabelled
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> objective = InfoVAE(MMD(), scale=64.0)
        >>> experiment = Experiment(Digits(), objective, dim=2, epochs=3)
        >>> history = experiment.fit()
        >>> pair = partial(SemiSupervisedVAE, weight=10.0)
        >>> few = Experiment(PartlyLabelled(Digits(), labels=100), objective, dim=2, pair=pair)
    """

    def __init__(
        self,
        data: Dataset,
        objective: Objective,
        dim: int | Sequence[int] = 10,
        pair: Callable[[Any, Any, Any], Pair] = VAE,
        prior: Prior
        | Callable[[Any], Prior]
        | Callable[[int, torch.Size], ConditionalNormal] = StandardNormal,
        likelihood: Likelihood | Callable[[int, torch.Size], Likelihood] = Bernoulli,
        encoder: Encoder
        | Ladder
        | Callable[[torch.Size, int], Encoder]
        | Callable[[torch.Size, Sequence[int]], Ladder] = MeanFieldNormal,
        optimizer: PyroOptim | Callable[..., torch.optim.Optimizer] | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        critic_steps: int = 0,
        patience: int | None = None,
        keep: Keep = "last",
        monitor: str | None = None,
        start: str | None = None,
        freeze: Sequence[str] = (),
        checkpoint_steps: int | None = None,
        precision: Precision = "full",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        kind = pair.func if isinstance(pair, functools.partial) else pair
        if isinstance(data, type):
            instance("data", data, Dataset, "Digits()")
        data = as_dataset(data)
        instance("objective", objective, Objective, "InfoVAE(MMD(), scale=64.0)")
        if isinstance(optimizer, torch.optim.Optimizer):
            name = type(optimizer).__name__
            raise ValueError(
                f"optimizer is an instance of {name}, made before the networks that it would "
                f"train: give the class, torch.optim.{name}, or a functools.partial of it"
            )
        if not (inspect.isclass(kind) and issubclass(kind, Pair)):
            raise ValueError(f"pair is {made!r}: give a subclass of Pair, or a partial of one")
        data, self.objective = data.passing(kind.extra), objective
        if data.missing == "mask":
            encoder = masked("encoder", encoder)
            if "classifier" in inspect.signature(pair).parameters:
                classifier = inspect.signature(pair).parameters["classifier"].default
                reading: Any = {"classifier": masked("classifier", classifier)}
                pair = functools.partial(pair, **reading)
        self.optimizer = Adam() if optimizer is None else optimizer
        self.epochs, self.batch_size, self.critic_steps = epochs, batch_size, critic_steps
        self.patience, self.keep, self.monitor = patience, keep, monitor
        self.start, self.freeze, self.checkpoint_steps = start, freeze, checkpoint_steps
        self.precision: Precision = precision
        self.seed, self.device = seed, device
        set_seed(seed)
        dims = (dim,) if isinstance(dim, int) else tuple(dim)
        if not dims:
            raise ValueError("dim is empty: give a dimension, or one for each layer of codes")
        (first, *rest), extra = data.size, data.width
        q = made("encoder", encoder, torch.Size([first + extra, *rest]), dim)
        p_x = made("likelihood", of_table(likelihood, data), dims[0] + extra, data.size)
        self.pair = pair(prior_of(prior, q, dims[-1], extra), p_x, q)
        self.pair.missing = data.missing == "mask"
        objective.build(data.size, self.pair.codes)
        super().__init__(self.pair.model, self.pair.guide, data)

    @property
    def data(self) -> Dataset:
        """The data set; a loaded run's is read when it is first asked for.

        Raises:
            FileNotFoundError: if it is not where it was.
        """
        if isinstance(self._data, Remembered):
            self._data = self._data.rows()
        assert self._data is not None
        return self._data

    def __repr__(self) -> str:
        pair, parts = type(self.pair).__name__, (self.pair.prior, self.pair.likelihood)
        names = [type(part).__name__ for part in (*parts, self.pair.encoder)]
        name = getattr(self._data, "name", "no data")
        return (
            f"Experiment({pair}({', '.join(names)}) on {name}, "
            f"{type(self.objective).__name__}, {self.epochs} epochs)"
        )

    def __getstate__(self) -> dict[str, Any]:
        release(*self.pair.parameters(), *self.objective.parameters())
        return dict(vars(self))

    def rows(self, part: Part | None = None) -> tuple[Tensor, ...]:
        """What the pair is evaluated at, on its device: held-out rows, unlabelled.

        Args:
            part: `train` or `test`; `test` if there are held-out rows by default.
        """
        part = part or self.data.held_out
        rows = self.data.arguments(part, labelled=False, seed=self.seed)
        device = next(p.device for p in self.pair.parameters())
        return tuple(x.to(device) for x in rows)

    def check(self) -> None:
        """Refuses what `fit` would refuse before training.

        Raises:
            ValueError: naming what does not fit.
        """
        pick_device(self.device)
        there = next(p.device for p in self.pair.parameters())
        now = streams()
        try:
            prepare(*self._asked, **{**self._settings, "device": there})
        finally:
            put_back(now)

    @property
    def _asked(self) -> tuple[Any, ...]:
        return self.pair.model, self.pair.guide, self.data, self.objective, self.optimizer

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("epochs", "batch_size", "seed", "device", "critic_steps", "patience", "keep")
        return {
            name: getattr(self, name)
            for name in (*names, "monitor", "start", "freeze", "precision")
        }

    def fit(
        self,
        out: str | Path | None = None,
        *,
        overwrite: bool = False,
        resume: Run | str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> History:
        """Trains.

        Args:
            out: folder for the run: configuration, metrics and weights.
            overwrite: replace a run that is there.
            resume: a run to go on with, see `ppl_vae.fit`.
            config: what the folder's `config.yaml` says, see `ppl_vae.fit`.
            callbacks: called with each epoch's row, see `ppl_vae.fit`.
            progress: show how it goes, see `ppl_vae.fit`.

        Returns:
            The `History` of the training.
        """
        return fit(
            *self._asked,
            **self._settings,
            callbacks=callbacks,
            out=out,
            overwrite=overwrite,
            resume=resume,
            checkpoint_steps=self.checkpoint_steps,
            config=config,
            progress=progress,
        )

    def refit_prior(
        self,
        prior: Prior | Callable[[int], Prior] = GaussianMixture,
        rows: Any = None,
        *,
        site: str | None = None,
        epochs: int = 50,
        seed: int | None = None,
    ) -> "Experiment":
        """The same experiment with a prior fitted to the codes afterwards; see `Trained`."""
        with seeded(seed):
            name, fitted = self._refitted(prior, rows, site, epochs)
        last = [*self.pair.codes][-1]
        if name != last:
            raise ValueError(f"site is {name!r}: the prior of this pair is that of {last!r}")
        other = copy(self)
        # the other parts are shared
        other.pair = copy(self.pair)
        other.pair._modules = {**self.pair._modules, "prior": fitted}
        other._programs = other.pair.model, other.pair.guide
        return other
