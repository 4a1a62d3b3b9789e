"""Training of a model and a guide by Pyro's SVI."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import nn

from ppl_vae.arguments import instance
from ppl_vae.data.checks import Channels, Missing
from ppl_vae.data.loaders import InMemory
from ppl_vae.data.transform import Normalise
from ppl_vae.objectives import InfoVAE, Objective
from ppl_vae.objectives.starts import with_scales
from ppl_vae.program.modules import Program, modules_of, release
from ppl_vae.training.adapters import AnyOptimizer, as_pyro, end_epoch
from ppl_vae.training.alone import alone
from ppl_vae.training.compatibility import check_compatible, check_held_out
from ppl_vae.training.guard import NotFinite, check_support
from ppl_vae.training.loop import Training, Weights
from ppl_vae.training.optim import Adam, Scheduled
from ppl_vae.training.progress import board, showing
from ppl_vae.training.rows import TrainingRows
from ppl_vae.training.run import History, Run
from ppl_vae.training.spread import spreads, warn_of_collapse
from ppl_vae.training.stopping import Callback, Keep, Watch, asks_to_stop
from ppl_vae.training.tuning import Frozen, check_rows, freezing, go_on_from
from ppl_vae.training.weights import stored

__all__ = ["fit"]


@alone
def fit(
    model: Program,
    guide: Program,
    data: Any,
    objective: ELBO,
    optimizer: AnyOptimizer | None = None,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int | None = 0,
    device: str | torch.device = "auto",
    validation: Any = None,
    critic_steps: int = 0,
    callbacks: Sequence[Callback] = (),
    patience: int | None = None,
    keep: Keep = "last",
    monitor: str | None = None,
    start: Run | str | Path | None = None,
    freeze: str | Sequence[str] = (),
    normalise: Normalise = "none",
    channels: Channels | None = None,
    missing: Missing = "refuse",
    weights: Any = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    config: Mapping[str, Any] | None = None,
    tensorboard: bool = True,
    progress: bool = True,
) -> History:
    r"""Trains a pair, with any objective that is a `pyro.infer.ELBO`, by `pyro.infer.SVI`.

    Each epoch goes once through the training rows in a new order. A learning-rate scheduler of
    `pyro.optim` or torch's is stepped once an epoch (`ReduceLROnPlateau` with the validation loss,
    or the training loss where there is none). On the CPU the same seed gives the same run bit for
    bit. Pyro's parameters and handlers are the process's, so one thread trains at a time.

    A module that a plain function reaches through a variable, and hands to `pyro.module`, is
    trained and its parameters are saved; its buffers (those of batch normalisation) are not, as
    only a module, a module's method, or either under effect handlers, tells what belongs to it.

    What stands in Pyro's parameter store is gone on from: values that are read from it
    (`pyro.param`, the parameters of automatic guides) start where an earlier fit under their names
    left them, until `pyro.clear_param_store()`. A module under an earlier module's name takes the
    name over, and trains from its own values.

    Args:
        model: the model, called as `model(x)`; any Pyro callable.
        guide: the guide, called the same way.
        data: a data set, which hands its rows and what its `handing` has put beside them; or rows
            `(n, *size)` as a tensor, a list, or anything with `__array__` or `to_numpy` (NumPy,
            pandas, polars); or a tuple of several of n rows each that are handed side by side;
            or a torch `Dataset` or `DataLoader`, whose rows are streamed, see `ppl_vae.Dataset`.
            Tensors keep their type, all else becomes floats, and floats get the type of the pair's
            parameters.
        objective: the loss. Its `terms`, if it has any, are logged.
        optimizer: of `pyro.optim`, or of `torch.optim` an instance that was made with all that is
            trained, a class, or a `functools.partial` of one; `Adam` at a learning rate of 1e-3 by
            default.
        epochs: number of passes.
        batch_size: rows to a step; a `DataLoader`'s own instead of the default.
        seed: of every generator, set at the start; None leaves them as they are.
        device: where to train; "auto" is the first GPU, if there is one and the pair is made of
            modules that can be moved there, and where the data lies otherwise.
        validation: held-out rows, whose loss is taken after each epoch, in evaluation mode and
            with the same noise each time; a data set's own by default.
        critic_steps: further steps before each step, on its batch, that move the objective's own
            parameters (a critic, an auxiliary r) alone.
        callbacks: functions that are called with each epoch's row, once it is logged and saved; a
            training ends after an epoch at which one of them returns True.
        patience: end the training after so many epochs in a row without a lower `monitor`.
        keep: the weights that pair and run folder end with: of the last epoch, or of the one with
            the lowest `monitor`.
        monitor: the number of the rows that `patience` and `keep` follow. By default the held-out
            loss (the training loss without held-out rows), which is what is minimised: at alpha=1
            it is the reconstruction with the weighed divergence, where the reconstruction alone
            is lowest with codes that no longer match the prior, and the ELBO charges for what
            alpha=1 sets free. There is none by default where a critic, a constraint or a schedule
            makes the losses of two epochs different quantities.
        start: a run, or its folder, whose weights the training goes on from.
        freeze: names of modules and parameters that stay bit for bit as they are, or globs of
            them: `["likelihood"]`, `["encoder.network.0", "*.bias"]`. Frozen modules run in
            evaluation mode, so that the statistics of batch normalisation stay too.
        normalise: what is done to the values of x, of held-out and of new rows as of training
            rows: "none", "bytes" (over 255), "standardise" or "minmax" by the training rows'
            statistics, of each column where rows are vectors; kept in the run, and undone in what
            the pair makes of rows. A data set has its own.
        channels: of images: "last" moves them to the front.
        missing: what is done about NaN in x: "refuse"; or "mask", which leaves them out of every
            likelihood whose elements are independent given z. The guide sees the column's mean in
            their place and, where it has an argument of that name, `mask` of where values are; one
            whose networks read NaN themselves (`bodies.Masked`) sees the rows as they are.
        weights: how much each row counts, `(n,)`; their mean is set to 1.
        out: folder for the run: configuration, metrics and weights.
        overwrite: replace a run that is there.
        config: what `config.yaml` in the folder shall say; the arguments here by default.
        tensorboard: log to the folder for TensorBoard too, where that is installed.
        progress: show the terms in nats per datum: by a bar on a terminal or in a notebook, and by
            a line an epoch elsewhere.

    Returns:
        The losses and terms of each epoch. A loss is divided by the rows of its batch.

    Raises:
        NotFinite: if a loss, a term or a gradient is NaN or infinite: the optimiser has not acted
            on it, and pair and run folder hold the weights at which all was last finite.
        ValueError: for data that the pair cannot score, before anything is written.
        TypeError: for an optimiser that is none.
        RuntimeError: if another thread is training.
        FileExistsError: if there is a run in `out` already.

    Example:
        >>> from ppl_vae.data import Digits
        >>> from ppl_vae.guides import MeanFieldNormal
        >>> from ppl_vae.likelihoods import Bernoulli
        >>> from ppl_vae.objectives import MMD, InfoVAE
        >>> from ppl_vae.priors import StandardNormal
        >>> from ppl_vae.pairs.vae import VAE
        >>> data = Digits()
        >>> vae = VAE(StandardNormal(2), Bernoulli(2, data.size), MeanFieldNormal(data.size, 2))
        >>> history = fit(vae.model, vae.guide, data, InfoVAE(MMD(), scale=64.0), epochs=2)
    """
    instance("objective", objective, ELBO, "BetaVAE()")
    for name, number, least in (
        ("epochs", epochs, 1), ("batch_size", batch_size, 1), ("critic_steps", critic_steps, 0)
    ):  # fmt: skip
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if out is not None:
        Run.check(out, overwrite)
    own = list(objective.parameters()) if isinstance(objective, nn.Module) else []
    if critic_steps and not own:
        raise ValueError(
            f"critic_steps={critic_steps} asked for, but {type(objective).__name__} has no "
            "parameters of its own to train"
        )
    rows = TrainingRows(data, validation, normalise, channels, missing, weights)
    batch_size = rows.batch_size(asked := batch_size)
    rows.typed(model, guide)
    here = rows.train[0].device
    # what plain functions create cannot be moved: they stay where the data lies
    stay = device == "auto" and not modules_of(model, guide)
    rows.to(here if stay else pick_device(device, here))
    for module in modules_of(model, guide, objective).values():
        module.to(rows.train[0].device)
    if seed is not None:
        set_seed(seed)

    if start is not None:
        check_rows(start, rows.train)
    observing = model
    model, guide = reading = rows.leaving_out(model, guide)
    model, guide = rows.weighing(*reading)
    drawn = rows.epoch()
    first = tuple(part[:batch_size] for part in drawn.few)
    params = stored((model, guide), *first)
    if start is not None:
        go_on_from(start, model, guide, objective, *first)
    frozen = Frozen.named(freeze, (model, guide, objective), params)
    trained = params | {f"objective.{i}": p for i, p in enumerate(own)}
    trained = {k: p for k, p in trained.items() if id(p) not in frozen.parameters}
    optim = as_pyro(Adam() if optimizer is None else optimizer, trained)
    whole = rows.stand_ins(drawn.few)
    few = tuple(part[:batch_size] for part in whole)
    check_support(observing, reading[1], few, whole[0], rows.extremes)
    steps = drawn.steps(batch_size)
    if isinstance(objective, Objective):
        # an objective counts every call in training, the critic's among them
        calls = epochs * steps * (1 + critic_steps)
        objective.plan(int(objective.step) + calls, len(drawn))
    check_compatible(model, guide, objective, first)
    held_out = rows.validation()
    if held_out is not None:
        check_held_out(model, guide, objective, held_out.smallest(batch_size))
    terms = getattr(objective, "terms", {})
    watch = Watch(objective, patience, keep, monitor, held_out is not None, terms)
    if isinstance(optim, Scheduled):
        optim.plan(epochs * steps)
    moved = Weights(model, guide, objective, params)
    run = None
    if out is not None:
        if config is None:
            config = {"objective": type(objective).__name__, "data": rows.described} | {
                "epochs": epochs,
                "batch_size": batch_size,
                "seed": seed,
                "critic_steps": critic_steps,
                "patience": patience,
                "keep": keep,
                "monitor": watch.monitor if watch.is_used else None,
            }
            if start is not None:
                config["start"] = str(start.path if isinstance(start, Run) else start)
            if freeze:
                config["freeze"] = [freeze] if isinstance(freeze, str) else [*freeze]
        run = Run.create(out, _written_out(config, objective), overwrite)
        run.save_data(rows.known.plain)
        run.save_weights(moved.state())
    training = Training(
        model, guide, objective, optim, moved, critic_steps, own, frozen.parameters
    )

    # without held-out rows, a batch shows whether the last step left sound weights
    checked, looked_at = held_out or InMemory(first), (held_out or drawn).few
    history = History()
    best = moved.snapshot() if keep == "best" else None
    with (
        freezing(frozen),
        showing(epochs * steps, epochs, progress) as shown,
        board(run, tensorboard) as writer,
    ):
        if batch_size != asked:
            shown.say(f"steps of {batch_size} rows, as the DataLoader gives them")
        for epoch in range(1, epochs + 1):
            try:
                row = training.epoch(rows.epoch(), batch_size, shown.bar)
                validated = training.validate(checked, batch_size, seed or 0)
            except (NotFinite, KeyboardInterrupt):
                if best is not None and history.rows:
                    best.restore()
                if run is not None:
                    run.save_weights(moved.state())
                raise
            row = {"epoch": epoch, "step": training.step, **row}
            if held_out is not None:
                row |= validated
            row |= spreads(model, guide, looked_at, batch_size)
            history.rows.append(row)
            end_epoch(optim, row.get("validation/loss", row["loss"]))
            is_best = watch.is_best(row)
            if best is not None and is_best:
                best.take()
            if run is not None:
                run.log(row)
                if best is None or is_best:
                    run.save_weights(moved.state())
            for name, value in row.items():
                if writer is not None and name not in ("epoch", "step"):
                    writer.add_scalar(name, value, training.step)
            shown.epoch(row)
            is_last = asks_to_stop(callbacks, row) or watch.is_over or epoch == epochs
            warn_of_collapse(history, is_last)
            if is_last:
                break
        if watch.is_used:
            shown.say(str(watch))
    if best is not None:
        best.restore()
    release(*params.values(), *own)
    return history


def set_seed(seed: int) -> None:
    """Sets the seed of every generator.

    Raises:
        ValueError: if it is none that all of them take.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie between 0 and {2**32 - 1}, got {seed}")
    pyro.set_rng_seed(seed)


def pick_device(wanted: str | torch.device, otherwise: str | torch.device = "cpu") -> torch.device:
    """The device meant; for "auto" the first GPU, or `otherwise` where there is none.

    Raises:
        ValueError: if there is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else otherwise)
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(wanted)!r} is not to be had: use cpu or auto") from error
    return device


def _written_out(config: Mapping[str, Any], objective: ELBO) -> dict[str, Any]:
    """The configuration with the numbers that an objective has put in place of "auto"."""
    scales = objective.scales if isinstance(objective, InfoVAE) else {}
    part = config.get("objective")
    if scales and isinstance(part, Mapping):
        settings = with_scales(part.get("init_args", {}), scales)
        return {**config, "objective": {**part, "init_args": settings}}
    return {**config, "scale": dict(scales)} if scales else dict(config)
