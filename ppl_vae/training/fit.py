"""Training of a model and a guide by Pyro's SVI."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO

from ppl_vae.data.checks import Channels, Missing
from ppl_vae.data.transform import Normalise
from ppl_vae.objectives import InfoVAE
from ppl_vae.objectives.starts import with_scales
from ppl_vae.program.modules import Program, release
from ppl_vae.program.precision import Precision
from ppl_vae.state import ready_optimizers
from ppl_vae.training.adapters import AnyOptimizer
from ppl_vae.training.alone import alone
from ppl_vae.training.compatibility import check_shared
from ppl_vae.training.guard import memory_said
from ppl_vae.training.history import History
from ppl_vae.training.prepare import Prepared, prepare
from ppl_vae.training.progress import showing
from ppl_vae.training.resume import begin, go_on, origin, reopened, rewind
from ppl_vae.training.run import Run
from ppl_vae.training.session import Session
from ppl_vae.training.stopping import Callback, Keep
from ppl_vae.training.svi import check_loss
from ppl_vae.training.tuning import freezing
from ppl_vae.world import Processes, by_itself, here

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
    precision: Precision = "full",
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: Run | str | Path | None = None,
    checkpoint_steps: int | None = None,
    config: Mapping[str, Any] | None = None,
    tensorboard: bool = True,
    progress: bool = True,
) -> History:
    r"""Trains a pair, with any objective that is a `pyro.infer.ELBO`, by `pyro.infer.SVI`.

    Each epoch goes once through the training rows in a new order. A learning-rate scheduler of
    `pyro.optim` or torch's is stepped once an epoch (`ReduceLROnPlateau` with the validation loss,
    or the training loss where there is none). On the CPU the same seed gives the same run bit for
    bit. Pyro's parameters and handlers are the process's, so one thread trains at a time.

    A module that a plain function reaches through a variable, and passes to `pyro.module`, is
    trained and its parameters are saved; its buffers (those of batch normalisation) are not, as
    only a module, a module's method, or either under effect handlers, tells what belongs to it.

    What stands in Pyro's parameter store is gone on from: values that are read from it
    (`pyro.param`, the parameters of automatic guides) start where an earlier fit under their names
    left them, until `pyro.clear_param_store()`. A module under an earlier module's name takes the
    name over, and trains from its own values.

    Args:
        model: the model, called as `model(x)`; any Pyro callable.
        guide: the guide, called the same way.
        data: a data set, its rows and what its `passing` has put besides them; or rows
            `(n, *size)` as a tensor, a list, or anything with `__array__` or `to_numpy` (NumPy,
            pandas, polars); or a tuple of several of n rows each that are passed side by side;
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
        precision: "bf16" computes the networks' matrix products and convolutions in bfloat16, in
            training and for the held-out loss; weights, densities and kernels stay float32.
        out: folder for the run: configuration, metrics and weights.
        overwrite: replace a run that is there.
        resume: a run, or its folder, to go on with in its own folder, from its last checkpoint to
            `epochs` in all; everything else is given as it was when the run was begun. On the CPU
            it becomes what it would have been without the interruption, bit for bit.
        checkpoint_steps: steps between checkpoints, besides that after each epoch.
        config: what `config.yaml` in the folder says; the arguments here by default.
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
        BlockingIOError: if another training writes to that folder.
        OutOfMemoryError: of torch, naming what to lower.
        KeyboardInterrupt: once the step under way is done and kept, after SIGINT (Ctrl-C); the
            message says how to go on. SIGTERM ends so too, by `SystemExit`. A second signal ends
            at once.

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
    if checkpoint_steps is not None and checkpoint_steps < 1:
        raise ValueError(f"checkpoint_steps must be at least 1, got {checkpoint_steps}")
    run, kept, is_first = None, None, here().rank == 0
    check_loss(objective)
    if resume is not None:
        run = resume if isinstance(resume, Run) else Run(resume)
        if overwrite or (out is not None and Path(out) != run.path):
            raise ValueError("resume= goes on in the run's own folder: leave out= and overwrite=")
        if is_first:
            run.lock()
    elif out is not None and is_first:
        Run.check(out, overwrite)
    try:
        if run is not None:
            kept = reopened(run)
            rewind(objective, optimizer, kept["began"])
        began = origin(objective, optimizer)
        ready_optimizers()
        with memory_said(
            f"a step of batch_size={batch_size}",
            "batch_size, num_particles or the draws of the objective, or the widths of networks",
        ):
            # what is checked is checked by each process for itself, on the rows of all
            with by_itself():
                ready = prepare(
                    model,
                    guide,
                    data,
                    objective,
                    optimizer,
                    epochs=epochs,
                    batch_size=batch_size,
                    seed=seed,
                    device=device,
                    validation=validation,
                    critic_steps=critic_steps,
                    patience=patience,
                    keep=keep,
                    monitor=monitor,
                    start=start,
                    freeze=freeze,
                    normalise=normalise,
                    channels=channels,
                    missing=missing,
                    weights=weights,
                    precision=precision,
                    resuming=run is not None,
                )
            here().over(None, lambda world: _met(world, ready))
            session = Session(ready, checkpoint_steps)
            if run is not None and kept is not None:
                go_on(session, run, kept, began, tensorboard)
            elif out is not None:
                config = _config(ready) if config is None else config
                config = _written_out(config, objective)
                run = begin(session, out, config, overwrite, began, tensorboard)
            with (
                freezing(ready.frozen),
                showing(
                    epochs * ready.steps, session.training.step, epochs, progress and is_first
                ) as shown,
            ):
                if batch_size != ready.batch_size:
                    shown.say(f"steps of {ready.batch_size} rows, as the DataLoader gives them")
                if session.is_over:
                    ended = "patience ended it" if len(session.history) < epochs else "it is over"
                    shown.say(f"{len(session.history)} epochs are trained, and {ended}")
                session.train(shown, callbacks)
                if ready.watch.is_used:
                    shown.say(str(ready.watch))
    finally:
        if run is not None:
            run.unlock()
    release(*ready.params.values(), *ready.own)
    return session.history


def _met(world: Processes, ready: Prepared) -> None:
    """Has each process draw its own, and looks whether all can take a step together."""
    world.part_streams()
    check_shared(world, ready.model, ready.guide, ready.objective, ready.first)


def _config(ready: Prepared) -> dict[str, Any]:
    """What a run says of itself where nothing else is given."""
    config: dict[str, Any] = {"objective": type(ready.objective).__name__}
    config |= {"data": ready.rows.described, "epochs": ready.epochs}
    names = ("batch_size", "seed", "critic_steps", "patience", "keep", "monitor")
    config |= {name: ready.settings[name] for name in names}
    return config | {k: ready.settings[k] for k in ("start", "freeze") if ready.settings[k]}


def _written_out(config: Mapping[str, Any], objective: ELBO) -> dict[str, Any]:
    """The configuration with the numbers that an objective has put in place of "auto"."""
    scales = objective.scales if isinstance(objective, InfoVAE) else {}
    part = config.get("objective")
    if scales and isinstance(part, Mapping):
        settings = with_scales(part.get("init_args", {}), scales)
        return {**config, "objective": {**part, "init_args": settings}}
    return {**config, "scale": dict(scales)} if scales else dict(config)
