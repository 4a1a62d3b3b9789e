"""A trained model and guide in use: rows in any form go in, results in that form come back."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.data.known import Known
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import seeded
from ppl_vae.evaluation.samples import draw, observed_site
from ppl_vae.evaluation.sampling import markov_chain
from ppl_vae.priors import GaussianMixture, Prior
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.training import weights
from ppl_vae.training.prepare import pick_device
from ppl_vae.training.run import Run
from ppl_vae.using import codes as coding
from ppl_vae.using import walks
from ppl_vae.using.codes import Draws
from ppl_vae.using.decoding import decode, latents
from ppl_vae.using.forms import Form
from ppl_vae.using.imputation import Method, impute
from ppl_vae.using.intake import Intake
from ppl_vae.using.second_stage import fit_prior, top_site, with_prior

__all__ = ["Trained"]


class Trained(Intake):
    r"""A model and a guide in use.

    New rows are taken as tensors, NumPy arrays, lists or tables of pandas and polars, and results
    come back in the same form: a table's index and columns are kept. Where the pair takes further
    arguments, such as covariates, rows are the tuple of all. They are held against the rows of
    the training: another shape is refused, and so is a set of rows most of which lie far outside
    its range; single values far outside warn.

    Args:
        model: the generative program; any Pyro callable.
        guide: the encoder program, called the same way.
        data: what they were trained on, or rows like it: a data set, arguments of the pair, or
            what a run knows of them.
        plate: the data plate's name, where the pair leaves a choice.
        site: the observed site that is decoded, where none or several observe the first argument.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> use = Trained(model, guide)
        >>> use.encode(torch.tensor([1.0, -3.0]))
        tensor([[ 0.5000],
                [-1.5000]])
        >>> [round(value, 2) for value in use.log_likelihood([1.0, -3.0]).tolist()]
        [-1.52, -3.52]
    """

    @staticmethod
    def load(
        run: Run | str | Path,
        model: Program,
        guide: Program,
        *rows: Tensor,
        plate: str | None = None,
        site: str | None = None,
        device: str = "auto",
    ) -> "Trained":
        """A pair with the weights of a run that `ppl_vae.fit` made of it.

        Args:
            run: the run or its folder; nothing in it is unpickled.
            model: the model.
            guide: the guide.
            *rows: the pair's arguments, where parameters are made by a first call on as many rows
                as in training, as those of an automatic guide with local latents are.
            plate: the data plate's name, where the pair leaves a choice.
            site: the observed site that is decoded, as above.
            device: where to put modules; auto takes a GPU if there is one.

        Raises:
            FileNotFoundError: if there is no run, or it has no weights.
            ValueError: if the weights are of another pair.
        """
        run = run if isinstance(run, Run) else Run(run)
        tensors, kept = run.load_weights(), run.data
        known = None if kept is None else Known.of_run(kept)
        example = known.example(2) if known is not None else ()
        weights.load(tensors, model, guide, None, *(rows or example))
        for module in modules_of(model, guide).values():
            module.to(pick_device(device))
        return Trained(model, guide, known, plate=plate, site=site)

    # Codes

    def encode(
        self,
        rows: Any,
        draws: int = 0,
        *,
        sd: bool = False,
        weights: bool = False,
        seed: int | None = None,
    ) -> Any:
        r"""The codes of rows: posterior means, or draws.

        Args:
            rows: n rows.
            draws: number K of draws from q(z | x) for each row; none for the means.
            sd: posterior standard deviations and not means.
            weights: the draws' log-weights too.
            seed: makes draws repeatable and leaves the global generator alone.

        Returns:
            `(n, d)`; with `draws` a `Draws` of codes `(n, K, d)` and of log-weights
            $\log p(x, z) - \log q(z | x)$ `(n, K)` in nats, or None.
        """
        args, form = self._read(rows), Form.of(rows)
        if (sd and draws) or (weights and not draws):
            raise ValueError("sd= goes without draws=, and weights= with it")
        with seeded(seed):
            names = self._names(args)
            if not draws:
                found = coding.encode(*self._programs, args, sd, self._plate)
                return form.give(found, names)
            drawn = coding.posterior_draws(*self._programs, args, draws, weights, self._plate)
        logs = drawn.log_weights
        given = None if logs is None else form.give(logs, [str(k) for k in range(draws)])
        return Draws(form.give(drawn.codes, names), given)

    def log_likelihood(
        self, rows: Any, num_samples: int = 1000, *, seed: int | None = None
    ) -> Any:
        r"""The log-likelihood of each row in nats, `(n,)`: importance-weighted from the guide.

        A lower bound in expectation that rises to $\log p(x)$ with the number of draws; see
        `ppl_vae.evaluation.nll` for its error.

        Args:
            rows: n rows.
            num_samples: draws for each row.
            seed: makes it repeatable and leaves the global generator alone.
        """
        args = self._read(rows)
        with seeded(seed):
            found = coding.log_likelihood(*self._programs, args, num_samples, self._plate)
        return Form.of(rows).give(found, ["log_likelihood"])

    # Data

    def decode(
        self, codes: Any, given: Any = None, *, mean: bool = True, seed: int | None = None
    ) -> Any:
        """The mean of p(x | z) at codes; a draw where it has no closed mean.

        Args:
            codes: `(m, d)`, or `(m, k, d)` as draws are.
            given: what the model is conditioned on besides them: covariates or labels, a row for
                each code; by default those of the data in turn.
            mean: the mean and not a draw.
            seed: makes draws repeatable and leaves the global generator alone.

        Returns:
            `(m, *size)` or `(m, k, *size)`.
        """
        z = self._codes(codes)
        with seeded(seed):
            found = self._decoded(z, self._example(given, len(z)), mean)
        return self._data_rows(replace(Form.of(codes), columns=()), found)

    def reconstruct(self, rows: Any, draws: int = 0, *, seed: int | None = None) -> Any:
        """What the model makes of rows: the mean of p(x | z) at each row's mean code.

        Latents that are discrete are at their likeliest values.

        Args:
            rows: n rows.
            draws: number K of reconstructions at draws from q(z | x); none for the one at means.
            seed: makes draws repeatable and leaves the global generator alone.

        Returns:
            `(n, *size)`, or `(n, K, *size)`.
        """
        args, form = self._read(rows), Form.of(rows)
        with seeded(seed):
            if draws:
                z = coding.posterior_draws(*self._programs, args, draws, plate=self._plate).codes
                return self._data_rows(form, self._decoded(z, args, True))
            values = latents(*self._programs, args, plate=self._plate)
            found = decode(*self._programs, args, values, True, self._site, self._plate)
        return self._data_rows(form, found)

    def sample(
        self,
        n: int,
        given: Any = None,
        *,
        steps: int = 0,
        mean: bool = False,
        seed: int | None = None,
    ) -> Any:
        r"""New data: $z \sim p(z)$, $x \sim p(x \mid z)$.

        With `steps` the draws are the start of the Markov chain $z \sim q(z \mid x)$,
        $x \sim p(x \mid z)$, which a model whose codes do not follow its prior is sampled by
        (Bengio, Yao, Alain and Vincent 2013, arXiv:1305.6663).

        Args:
            n: how many.
            given: what the model is conditioned on: covariates or labels, used in turn; by
                default those of the data. For a pair of functions of your own, rows.
            steps: of the chain.
            mean: means of p(x | z), where it has one in closed form: what papers show.
            seed: makes it repeatable and leaves the global generator alone.

        Returns:
            A tensor `(n, *size)`; a table of that many rows where the pair was trained on one.
        """
        if n < 1:
            raise ValueError(f"the number of samples must be at least 1, got {n}")
        args = self._example(given, n)
        with seeded(seed):
            mean = mean and not steps
            found = draw(*self._programs, args, n, mean, self._site, self._plate)
            if steps:
                turn = torch.arange(n, device=found.device) % len(args[0])
                start = (found.reshape(n, *args[0].shape[1:]), *(part[turn] for part in args[1:]))
                site = observed_site(Pair(*self._programs, start, self._plate), self._site)
                known = self.known
                chain = markov_chain(
                    *self._programs,
                    start,
                    steps,
                    plate=self._plate,
                    arguments={site: 0} if known is not None and known.extra else None,
                    every=steps,
                )
                found = chain[site][-1]
        layout = self.layout
        return self._data_rows(Form("tensor" if layout is None else layout.library), found)

    def impute(
        self,
        rows: Any,
        draws: int = 0,
        *,
        method: Method = "gibbs",
        num_samples: int = 500,
        seed: int | None = None,
    ) -> Any:
        r"""Rows with their missing values (NaN) filled in from those that are there.

        Either by $E[x_{mis} \mid x_{obs}]$ or by draws of $p(x_{mis} \mid x_{obs})$; the two
        methods and their bias are described at `ppl_vae.using.imputation.impute`.

        Args:
            rows: n rows, NaN where a value is missing.
            draws: number of draws of each row; none for the expectation.
            method: `"gibbs"`, a chain that is right whatever the guide is in the limit of many
                steps; or `"importance"`, weighted draws of the guide at once, for a pair that
                was trained on rows with missing values.
            num_samples: steps of the chain, or draws.
            seed: makes it repeatable and leaves the global generator alone.

        Returns:
            `(n, *size)`, or `(n, draws, *size)`; what is there stays as it is.
        """
        args, known = self._read(rows, missing=True), self.known
        fill = None
        if known is not None:
            fill = args[0].new_tensor(known.mean).expand(args[0].shape[1:])
        with seeded(seed):
            found = impute(
                *self._programs,
                args,
                draws,
                method,
                num_samples,
                fill,
                takes_missing=known is not None and known.missing,
                plate=self._plate,
            )
        return self._data_rows(Form.of(rows), found, kept=rows)

    def interpolate(
        self,
        start: Any,
        end: Any,
        steps: int = 9,
        *,
        path: Literal["line", "arc"] = "line",
    ) -> Any:
        """The model's data on the way from some rows to others, through the space of codes.

        Args:
            start: n rows.
            end: n rows.
            steps: points on the way, both ends among them.
            path: a straight line, or an arc that keeps the length of codes, as codes under a
                normal prior in many dimensions have about one length.

        Returns:
            `(n, steps, *size)`.
        """
        first, last = self._read(start), self._read(end)
        if len(first[0]) != len(last[0]):
            raise ValueError(f"{len(first[0])} rows to start at and {len(last[0])} to end at")
        a, b = (coding.encode(*self._programs, x, plate=self._plate) for x in (first, last))
        found = self._decoded(walks.between(a, b, steps, path), first, True)
        return self._data_rows(Form.of(start), found, "step")

    def traverse(
        self,
        rows: Any,
        values: Sequence[float] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
        dims: Sequence[int] | None = None,
    ) -> Any:
        """The model's data as one coordinate of a row's code takes values, the others held.

        Args:
            rows: n rows.
            values: what the coordinate is set to, m of them.
            dims: the coordinates that move; all by default.

        Returns:
            `(n, dims, m, *size)`; a table of that many rows where a table came.
        """
        args = self._read(rows)
        z = coding.encode(*self._programs, args, plate=self._plate)
        moved = walks.along(z, values, dims)
        found = self._decoded(moved.flatten(1, 2), args, True)
        form = Form.of(rows)
        if form.kind in ("tensor", "array"):
            found = found.unflatten(1, moved.shape[1:3])
        return self._data_rows(form, found, "step")

    # Another prior

    def refit_prior(
        self,
        prior: Prior | Callable[[int], Prior] = GaussianMixture,
        rows: Any = None,
        *,
        site: str | None = None,
        epochs: int = 50,
        seed: int | None = None,
    ) -> "Trained":
        """The same pair with a prior fitted to its codes afterwards: a second stage.

        Samples and likelihoods are those of the new prior. See
        `ppl_vae.using.second_stage.fit_prior`.

        Args:
            prior: the prior, or what makes one of a code's dimension: `GaussianMixture`,
                `FlowPrior` or `functools.partial` of either.
            rows: whose codes it is fitted to; the training rows by default.
            site: the latent site; the first of the model's by default.
            epochs: passes through the rows.
            seed: makes it repeatable and leaves the global generator alone.
        """
        with seeded(seed):
            site, fitted = self._refitted(prior, rows, site, epochs)
        model, guide = self._programs
        known = self.known if self._data is None else self._data
        other = Trained(
            with_prior(model, site, fitted),
            guide,
            known if self._args is None else self._args,
            plate=self._plate,
            site=self._site,
        )
        return other

    def _refitted(
        self, prior: Prior | Callable[[int], Prior], rows: Any, site: str | None, epochs: int
    ) -> tuple[str, Prior]:
        args = self._read(rows) if rows is not None else self._training()
        pair = Pair(*self._programs, args, self._plate)
        site = top_site(pair, site)
        fitted = prior if isinstance(prior, Prior) else prior(pair.sizes[site])
        fit_prior(fitted, *self._programs, args, site, epochs, plate=self._plate)
        return site, fitted
