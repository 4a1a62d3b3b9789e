"""Models ranked by the evidence of the same data, from pairs or from runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ppl_vae.diagnostics.compare import Comparison, compare_pairs
from ppl_vae.evaluation.likelihood import STEPS, Proposals
from ppl_vae.evaluation.programs import Data, Program
from ppl_vae.loading import load
from ppl_vae.training.run import Run

__all__ = ["Comparison", "check_apart", "compare"]

_Folder = Run | str | Path


def compare(
    models: Mapping[str, tuple[Program, Program] | _Folder] | Sequence[_Folder],
    x: Data,
    *,
    draws: int = 2000,
    proposal: Proposals = "auto",
    steps: int = STEPS,
    seed: int | None = None,
    plate: str | None = None,
    block: int = 8192,
    trust: bool = False,
) -> Comparison:
    r"""Ranks models by the importance-weighted evidence of each datum.

    $$\log \hat p(x_i) = \log \frac{1}{S} \sum_{s=1}^S w_{is}, \qquad
      w_{is} = \frac{p(x_i, z_{is})}{q(z_{is} \mid x_i)}, \quad z_{is} \sim q(z \mid x_i)$$

    For a model whose latents are all those of a datum this is what leave-one-out
    cross-validation asks: $p(x_i \mid x_{-i}) = p(x_i)$, as the others say nothing of it. Give
    data that no model was trained on. The estimate is a lower bound in expectation, by
    $V[w_i] / (2 S \bar w_i^2)$ to first order.

    A datum whose weights have a Pareto $\hat k_i$ leaves about $S^{\hat k_i - 1}$ of its weight
    unmet by S draws, which is a tenth at the threshold of $\hat k$. Where a model's average over
    data is above a tenth its evidence by the guide's draws comes out too low by an unknown amount,
    as that of an encoder trained with another loss than the ELBO often does, and those of a
    proposal fitted to each datum with the model held take their place (see
    `ppl_vae.evaluation.nll`); the table says which. Where they are no better no ranking is made.

    Args:
        models: pairs `(model, guide)` or folders of runs, by name; or a list of folders.
        x: rows of data, or the tuple of the callables' arguments, for all models.
        draws: number of draws S for each datum, at least 25.
        proposal: "auto"; "own", the guide's draws alone; or the family that is fitted for every
            model, as of `ppl_vae.evaluation.nll`.
        steps: of Adam that fit it.
        seed: makes it repeatable and leaves the global generator alone.
        plate: name of the data plate, where several plates could be it.
        block: how many draws times data are run at once.
        trust: allow classes from outside the library in the configurations of runs.

    Returns:
        The means and differences in nats per datum with their errors; its repr is a table.

    Raises:
        ValueError: where k-hat calls a model's weights unusable; if a model has latents outside
            the data plate; if models observe different values or
            one gives x a density and another a probability; or if there are fewer than 2 data.
        NoDataPlate: if no plate or more than one could be the data's.
        FileNotFoundError: if a folder holds no run.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders,
        arXiv:1509.00519.
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC, arXiv:1507.04544.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> import ppl_vae
        >>> def pair(noise):
        ...     def model(x):
        ...         with pyro.plate("data", len(x)):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...             pyro.sample("x", dist.Normal(z, noise), obs=x)
        ...     def guide(x):
        ...         variance = 1 / (1 + noise**-2)
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("z", dist.Normal(variance * x / noise**2, 1.1 * variance**0.5))
        ...     return model, guide
        >>> pairs = {"quiet": pair(0.5), "right": pair(1.0)}
        >>> ppl_vae.compare(pairs, torch.linspace(-3.0, 3.0, 100), draws=500, seed=0).names
        ('right', 'quiet')
    """
    if not isinstance(models, Mapping):
        if isinstance(models, str | Path | Run):
            raise ValueError(f"models is {models!r}: give a list of runs, or models by name")
        names = [str(m.path if isinstance(m, Run) else m) for m in models]
        check_apart(names)
        models = dict(zip(names, models, strict=True))
    first = x[0] if isinstance(x, tuple | list) else x
    device = str(first.device) if isinstance(first, torch.Tensor) else "cpu"
    pairs = {name: _pair(name, model, trust, device) for name, model in models.items()}
    return compare_pairs(
        pairs, x, draws=draws, proposal=proposal, steps=steps, seed=seed, plate=plate, block=block
    )


def check_apart(names: Sequence[str]) -> None:
    """Refuses the folder of a run that is given twice.

    Raises:
        ValueError: naming it.
    """
    for k, name in enumerate(names):
        if Path(name).resolve() in [Path(other).resolve() for other in names[:k]]:
            raise ValueError(f"{name!r} is given twice: name each run once")


def _pair(
    name: str, model: tuple[Program, Program] | _Folder, trust: bool, device: str
) -> tuple[Program, Program]:
    if isinstance(model, str | Path | Run):
        pair = load(model, trust, device).pair
        return pair.model, pair.guide
    if not (isinstance(model, tuple) and len(model) == 2 and all(map(callable, model))):
        raise ValueError(f"{name!r} is {model!r}: give (model, guide) or the folder of a run")
    return model
