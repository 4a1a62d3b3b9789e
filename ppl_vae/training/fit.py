"""Training of a model and a guide by Pyro's SVI."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data.dataset import Dataset, check_finite
from ppl_vae.data.known import Known
from ppl_vae.data.loaders import splits
from ppl_vae.data.sources import as_dataset
from ppl_vae.data.tensors import as_tensor
from ppl_vae.objectives import InfoVAE, Objective
from ppl_vae.objectives.starts import with_scales
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.training.compatibility import check_compatible, check_held_out
from ppl_vae.training.guard import NotFinite, check_support
from ppl_vae.training.loop import Training, Weights
from ppl_vae.training.run import History, Run
from ppl_vae.training.spread import spreads, warn_of_collapse
from ppl_vae.training.tuning import Frozen, check_rows, freezing, go_on_from
from ppl_vae.training.weights import stored

__all__ = ["fit"]


def fit(
    model: Program,
    guide: Program,
    data: Any,
    objective: ELBO,
    optimizer: PyroOptim | None = None,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int | None = 0,
    device: str | torch.device = "auto",
    validation: Any = None,
    critic_steps: int = 0,
    start: Run | str | Path | None = None,
    freeze: str | Sequence[str] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    config: Mapping[str, Any] | None = None,
    tensorboard: bool = True,
    progress: bool | None = None,
) -> History:
    r"""Trains a pair, with any objective that is a `pyro.infer.ELBO`, by `pyro.infer.SVI`.

    Each epoch goes once through the training rows in a new order. A learning-rate scheduler of
    `pyro.optim` is stepped once an epoch (`ReduceLROnPlateau` with the validation loss, or the
    training loss where there is none). On the CPU the same seed gives the same run bit for bit.

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
        data: a data set, which hands its rows and what its `handing` has put beside them; or a
            tensor `(n, *size)`; or several of n rows each that are handed side by side.
        objective: the loss. Its `terms`, if it has any, are logged.
        optimizer: of `pyro.optim`; `Adam` at a learning rate of 1e-3 by default.
        epochs: number of passes.
        batch_size: rows to a step.
        seed: of every generator, set at the start; None leaves them as they are.
        device: where to train; "auto" is the first GPU, if there is one and the pair is made of
            modules that can be moved there, and where the data lies otherwise.
        validation: held-out rows, whose loss is taken after each epoch, in evaluation mode and
            with the same noise each time; a data set's own by default.
        critic_steps: further steps before each step, on its batch, that move the objective's own
            parameters (a critic, an auxiliary r) alone.
        start: a run, or its folder, whose weights the training goes on from.
        freeze: names of modules and parameters that stay bit for bit as they are, or globs of
            them: `["likelihood"]`, `["encoder.network.0", "*.bias"]`. Frozen modules run in
            evaluation mode, so that the statistics of batch normalisation stay too.
        out: folder for the run: configuration, metrics and weights.
        overwrite: replace a run that is there.
        config: what `config.yaml` in the folder shall say; the arguments here by default.
        tensorboard: log to the folder for TensorBoard too, where that is installed.
        progress: show a bar with the terms in nats per datum; None does on a terminal.

    Returns:
        The losses and terms of each epoch. A loss is divided by the rows of its batch.

    Raises:
        NotFinite: if a loss, a term or a gradient is NaN or infinite: the optimiser has not acted
            on it, and pair and run folder hold the weights at which all was last finite.
        ValueError: for data that the pair cannot score, before anything is written.
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
    optimizer = pyro.optim.Adam({"lr": 1e-3}) if optimizer is None else optimizer
    rows = _Rows(data, validation)
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
    drawn = rows.epoch()
    first = tuple(part[:batch_size] for part in drawn)
    params = stored((model, guide), *first)
    if start is not None:
        go_on_from(start, model, guide, objective, *first)
    frozen = Frozen.named(freeze, (model, guide, objective), params)
    check_support(model, guide, first, drawn[0])
    steps = len(splits(len(rows.train[0]), batch_size))
    if isinstance(objective, Objective):
        # an objective counts every call in training, the critic's among them
        calls = epochs * steps * (1 + critic_steps)
        objective.plan(int(objective.step) + calls, len(drawn[0]))
    check_compatible(model, guide, objective, first)
    if rows.held_out:
        check_held_out(model, guide, objective, rows.held_out, batch_size)
    weights = Weights(model, guide, objective, params)
    run = None
    if out is not None:
        if config is None:
            config = {"objective": type(objective).__name__, "data": repr(data)} | {
                "epochs": epochs,
                "batch_size": batch_size,
                "seed": seed,
                "critic_steps": critic_steps,
            }
            if start is not None:
                config["start"] = str(start.path if isinstance(start, Run) else start)
            if freeze:
                config["freeze"] = [freeze] if isinstance(freeze, str) else [*freeze]
        run = Run.create(out, _written_out(config, objective), overwrite)
        run.save_data(Known.of(rows.data, rows.train).plain)
        run.save_weights(weights.state())
    training = Training(
        model, guide, objective, optimizer, weights, critic_steps, own, frozen.parameters
    )

    history = History()
    with (
        freezing(frozen),
        _bar(epochs * steps, progress) as bar,
        _board(run, tensorboard) as board,
    ):
        for epoch in range(1, epochs + 1):
            try:
                row = training.epoch(rows.epoch(), batch_size, bar)
                # without held-out rows, a batch shows whether the last step left sound weights
                held_out = training.validate(rows.held_out or first, batch_size, seed or 0)
            except (NotFinite, KeyboardInterrupt):
                if run is not None:
                    run.save_weights(weights.state())
                raise
            row = {"epoch": epoch, "step": training.step, **row}
            if rows.held_out:
                row |= held_out
            row |= spreads(model, guide, rows.held_out or rows.train, batch_size)
            history.rows.append(row)
            if isinstance(optimizer, PyroLRScheduler):
                _step_schedule(optimizer, row.get("validation/loss", row["loss"]))
            if run is not None:
                run.log(row)
                run.save_weights(weights.state())
            for name, value in row.items():
                if board is not None and name not in ("epoch", "step"):
                    board.add_scalar(name, value, training.step)
            warn_of_collapse(history)
    return history


class _Rows:
    """The rows to train on and those held out, each as the tensors a pair is called with."""

    def __init__(
        self,
        data: Any,
        validation: Any,
    ) -> None:
        if isinstance(data, DataLoader | TorchDataset):
            data = as_dataset(data)
        self.data = data if isinstance(data, Dataset) else None
        held_out = None if validation is None else _tensors(validation, "validation")
        if isinstance(data, Dataset):
            self.train = data.arguments("train")
            if held_out is None and data.test is not None:
                # unlabelled, so that a class is what the pair says it is
                held_out = data.arguments("test", labelled=False)
        else:
            self.train = _tensors(data, "data")
        self.held_out = held_out or ()
        for name, parts in (("data", self.train), ("validation", self.held_out)):
            for part in parts:
                check_finite(part, name)

    def typed(self, model: Program, guide: Program) -> None:
        """Floats in the type of the pair's parameters, where these have one."""
        found = {p.dtype for m in modules_of(model, guide).values() for p in m.parameters()}
        kinds = [kind for kind in found if kind.is_floating_point]
        if len(kinds) != 1:
            return
        if self.data is not None and self.data.train.dtype != kinds[0]:
            self.data = self.data.to(kinds[0])
        self.train, self.held_out = (
            tuple(x.to(kinds[0]) if x.is_floating_point() else x for x in parts)
            for parts in (self.train, self.held_out)
        )

    def to(self, device: torch.device) -> None:
        self.data = None if self.data is None else self.data.to(device)
        self.train = tuple(part.to(device) for part in self.train)
        self.held_out = tuple(part.to(device) for part in self.held_out)

    def epoch(self) -> tuple[Tensor, ...]:
        return self.train if self.data is None else (self.data.epoch(), *self.train[1:])


def _tensors(data: Any, name: str) -> tuple[Tensor, ...]:
    """The arguments of a pair, held to be tensors of as many rows each."""
    if hasattr(data, "__array__") or hasattr(data, "to_numpy"):
        data = as_tensor(data, name)
        data = data if data.is_floating_point() else data.to(torch.get_default_dtype())
    if isinstance(data, list | tuple):
        data = [
            x if isinstance(x, Tensor) or not hasattr(x, "__array__") else as_tensor(x, name)
            for x in data
        ]
    if not isinstance(data, Tensor | list | tuple):
        raise ValueError(f"{name} is a {type(data).__name__}: {_GIVE}")
    parts = (data,) if isinstance(data, Tensor) else tuple(data)
    if not parts:
        raise ValueError(f"{name} is empty: {_GIVE}")
    for i, part in enumerate(parts):
        if not isinstance(part, Tensor) or not part.ndim:
            kind = "tensor without rows" if isinstance(part, Tensor) else type(part).__name__
            where = name if part is data else f"{name}[{i}]"
            raise ValueError(f"{where} is a {kind}: {_GIVE}")
    rows = [len(part) for part in parts]
    if len(set(rows)) > 1 or not rows[0]:
        raise ValueError(f"{name} of {rows} rows: equal numbers above 0 are needed")
    return parts


_GIVE = (
    "fit takes batches of rows, so give it tensors with a row for each datum, and set other "
    "arguments beforehand, as in functools.partial(model, scale=2.0) and the same of the guide"
)


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


def _step_schedule(optimizer: PyroLRScheduler, loss: float) -> None:
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    if optimizer.pt_scheduler_constructor is plateau:
        optimizer.step(loss)
    else:
        optimizer.step()


def _written_out(config: Mapping[str, Any], objective: ELBO) -> dict[str, Any]:
    """The configuration with the numbers that an objective has put in place of "auto"."""
    scales = objective.scales if isinstance(objective, InfoVAE) else {}
    part = config.get("objective")
    if scales and isinstance(part, Mapping):
        settings = with_scales(part.get("init_args", {}), scales)
        return {**config, "objective": {**part, "init_args": settings}}
    return {**config, "scale": dict(scales)} if scales else dict(config)


@contextmanager
def _bar(total: int, progress: bool | None) -> Iterator[Any]:
    from tqdm.auto import tqdm

    disable = None if progress is None else not progress
    with tqdm(total=total, unit="step", disable=disable) as bar:
        yield bar


@contextmanager
def _board(run: Run | None, wanted: bool) -> Iterator[Any]:
    if run is None or not wanted:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield None
        return
    with SummaryWriter(str(run.path / "tensorboard")) as writer:
        yield writer
