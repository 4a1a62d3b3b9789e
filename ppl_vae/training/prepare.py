"""What a training is checked for and made of before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from ppl_vae.arguments import checked_seed, instance
from ppl_vae.data.checks import Channels, Missing
from ppl_vae.data.loaders import Batches
from ppl_vae.data.transform import Normalise
from ppl_vae.objectives import InfoVAE, Objective
from ppl_vae.objectives.divergences.divergence import critics
from ppl_vae.objectives.schedules import Schedule
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.program.precision import Halved, Precision
from ppl_vae.training import optimizer_state
from ppl_vae.training.adapters import AnyOptimizer, as_pyro
from ppl_vae.training.compatibility import check_compatible, check_held_out
from ppl_vae.training.guard import check_support
from ppl_vae.training.optim import Adam, Scheduled
from ppl_vae.training.rows import TrainingRows
from ppl_vae.training.run import Run
from ppl_vae.training.stopping import Keep, Watch
from ppl_vae.training.tuning import Frozen, check_rows, go_on_from
from ppl_vae.training.weights import stored
from ppl_vae.world import here

__all__ = ["Prepared", "pick_device", "prepare", "set_seed"]


@dataclass
class Prepared:
    """A training that has been checked and not begun.

    Attributes:
        model: the model, as it takes missing values and rows' weights.
        guide: the guide, likewise.
        objective: the loss.
        optimizer: the optimiser.
        rows: the rows, on the device.
        drawn: those of one epoch.
        held_out: those held out.
        first: a batch.
        params: what model and guide ask Pyro's store for, by name.
        own: the objective's parameters.
        frozen: what stays as it is.
        watch: follows the rows of the log.
        settings: what a training must have in common with one that it goes on from, by name.
        epochs: how many.
        steps: of an epoch.
        batch_size: rows to a step.
        critic_steps: further steps before each.
        seed: of the noise in validation.
    """

    model: Program
    guide: Program
    objective: ELBO
    optimizer: PyroOptim
    rows: TrainingRows
    drawn: Batches
    held_out: Batches | None
    first: tuple[Tensor, ...]
    params: dict[str, Tensor]
    own: Sequence[Tensor]
    frozen: Frozen
    watch: Watch
    settings: dict[str, Any]
    epochs: int
    steps: int
    batch_size: int
    critic_steps: int
    seed: int


def prepare(
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
    resuming: bool = False,
) -> Prepared:
    """Refuses what cannot be trained, and puts pair, objective and rows where they are trained.

    Args and errors are those of `ppl_vae.fit`. The seed is set, weights are those of `start`
    unless those of a checkpoint are to come, and schedules know the length of the training.
    """
    instance("objective", objective, ELBO, "BetaVAE()")
    for name, number, least in (
        ("epochs", epochs, 1), ("batch_size", batch_size, 1), ("critic_steps", critic_steps, 0)
    ):  # fmt: skip
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    own = list(objective.parameters()) if isinstance(objective, nn.Module) else []
    if critic_steps and not own:
        raise ValueError(
            f"critic_steps={critic_steps} asked for, but {type(objective).__name__} has no "
            "parameters of its own to train"
        )
    if batch_size < here().among:
        raise ValueError(
            f"batch_size is {batch_size}, of all {here().among} processes together: each needs a "
            "row or more"
        )
    rows = TrainingRows(data, validation, normalise, channels, missing, weights)
    batch_size = rows.batch_size(batch_size)
    rows.typed(model, guide)
    lies = rows.train[0].device
    # what plain functions create cannot be moved: they stay where the data lies
    stay = device == "auto" and not modules_of(model, guide)
    rows.to(lies if stay else pick_device(device, lies))
    for module in modules_of(model, guide, objective).values():
        module.to(rows.train[0].device)
    if seed is not None:
        set_seed(seed)

    if start is not None and not resuming:
        check_rows(start, rows.train)
    observing = model
    model, guide = reading = rows.leaving_out(model, guide)
    model, guide = _halved(*rows.weighing(*reading), precision, rows.train[0].device)
    drawn = rows.epoch()
    first = tuple(part[:batch_size] for part in drawn.few)
    params = stored((model, guide), *first)
    kinds = {p.dtype for p in params.values() if p.is_floating_point()}
    if isinstance(objective, nn.Module) and len(kinds) == 1:
        objective.to(dtype=next(iter(kinds)))  # its networks read the pair's codes and rows
    if start is not None and not resuming:
        go_on_from(start, model, guide, objective, *first)
    frozen = Frozen.named(freeze, (model, guide, objective), params)
    trained = params | {f"objective.{i}": p for i, p in enumerate(own)}
    trained = {k: p for k, p in trained.items() if id(p) not in frozen.parameters}
    optim = as_pyro(Adam() if optimizer is None else optimizer, trained)
    whole = rows.stand_ins(drawn.few)
    few = tuple(part[:batch_size] for part in whole)
    of_bytes = rows.transform.kind == "bytes"
    check_support(observing, reading[1], few, whole[0], rows.extremes, of_bytes)
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
    if isinstance(optim, Adam) and isinstance(objective, nn.Module):
        optim.know_critic(p for critic in critics(objective) for p in critic.parameters())
    settings = {
        "batch_size": batch_size,
        "seed": seed,
        "critic_steps": critic_steps,
        "patience": patience,
        "keep": keep,
        "monitor": watch.monitor if watch.is_used else None,
        "start": None if start is None else str(start.path if isinstance(start, Run) else start),
        "freeze": [freeze] if isinstance(freeze, str) else [*freeze],
        "missing": rows.missing,
        "precision": precision,
        "data": rows.described,
        **_settings("objective", objective),
        **_named("optimizer", optimizer_state.settings(optim)),
    }
    return Prepared(
        model,
        guide,
        objective,
        optim,
        rows,
        drawn,
        held_out,
        first,
        params,
        own,
        frozen,
        watch,
        settings,
        epochs,
        steps,
        batch_size,
        critic_steps,
        seed or 0,
    )


def _halved(
    model: Program, guide: Program, precision: Precision, device: torch.device
) -> tuple[Program, Program]:
    """The pair as its networks are computed.

    Raises:
        ValueError: for another precision than there is, or a pair that is not float32.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}: give 'full' or 'bf16'")
    if precision == "full":
        return model, guide
    for name, module in modules_of(model, guide).items():
        kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
        if kinds - {torch.float32}:
            raise ValueError(
                f"precision='bf16' computes float32 networks, and the {name} is "
                f"{str(next(iter(kinds - {torch.float32}))).removeprefix('torch.')}: call .float()"
            )
    return Halved(device)(model), Halved(device)(guide)


def set_seed(seed: int) -> None:
    """Sets the seed of every generator.

    Raises:
        ValueError: if it is none that all of them take.
    """
    pyro.set_rng_seed(checked_seed(seed))


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
        raise ValueError(f"device {str(wanted)!r} is not available: use cpu or auto") from error
    return device


def _settings(place: str, objective: ELBO) -> dict[str, Any]:
    """The classes of an objective's parts, and the numbers, words and schedules in them."""
    if not isinstance(objective, nn.Module):
        return {place: type(objective).__name__}
    found: dict[str, Any] = {}
    for name, part in objective.named_modules():
        own = {k: v for k, v in vars(part).items() if not k.startswith("_") and k not in _MOVING}
        if isinstance(part, InfoVAE):  # a configuration has numbers in place of "auto"
            weights = {"+".join(names or ()): weight for names, _, weight in part.joints}
            own["joints"] = {name: w for name, w in weights.items() if w != "auto"}
            if part.scale == "auto":
                own["scale"] = next(iter(part.scales.values()), "auto")
        where = f"{place}.{name}" if name else place
        found |= {where: type(part).__name__, **_named(where, own)}
    return found


# What a training sets itself.
_MOVING = ("training", "max_plate_nesting", "scales", "terms", "rows")


def _named(place: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted names, of what can be compared and written."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{place}.{key}" if key else place
        if isinstance(value, Schedule):
            found[name] = repr(value)
        elif value is None or isinstance(value, bool | int | float | str):
            found[name] = value
        elif isinstance(value, list | tuple | Mapping):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            found |= _named(name, {str(k): v for k, v in items})
    return found
