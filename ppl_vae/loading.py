"""Experiments from configurations and from the folders of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ppl_vae.config.options import nested
from ppl_vae.config.schema import Schema
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.known import Known
from ppl_vae.data.remembered import Remembered
from ppl_vae.experiment import Experiment
from ppl_vae.training import weights
from ppl_vae.training.prepare import pick_device, set_seed
from ppl_vae.training.run import Run

__all__ = ["build", "load"]


def build(schema: Schema, settings: Mapping[str, Any], **given: Any) -> Experiment:
    """The experiment that parsed settings describe, its weights started by their seed."""
    # an objective may hold networks of its own, made before the experiment sets the seed
    set_seed(settings["seed"])
    experiment: Experiment = schema.build(settings, **given)
    return experiment


def load(
    run: Run | str | Path,
    trust: bool = False,
    device: str = "auto",
    data: Sequence[tuple[str, str]] = (),
) -> Experiment:
    """The trained experiment of a run, to be used at once: `load("runs/x").encode(rows)`.

    Its configuration is resolved again and its weights are read; nothing is unpickled. Its data
    are read when they are first asked for, as by `experiment.data`: what is kept of them in the
    run's folder is enough to take new rows and to sample. They are looked for where they were,
    then in the same place as seen from the run's folder.

    Args:
        run: the run or its folder.
        trust: allow classes from outside the library, which are imported.
        device: where to put the model; auto takes a GPU if there is one.
        data: settings to put over the run's own, as dotted names with values.

    Raises:
        ValueError: if the folder's configuration is no experiment's, names a class from outside
            the library, or its weights do not fit.
        FileNotFoundError: if there is no run, or it has no weights.
    """
    run = run if isinstance(run, Run) else Run(run)
    schema = Schema(Experiment, trust)
    settings = schema.merge({}, run.settings)
    for key, value in sorted(data, key=lambda option: option[0].count(".")):
        settings = schema.merge(settings, nested(key, value))
    tensors = run.load_weights()
    with weights.no_larger(tensors):
        experiment = _with_data(run, schema, schema.parse(settings))
    pair = experiment.pair
    weights.load(tensors, pair.model, pair.guide, experiment.objective)
    pair.to(pick_device(device))
    return experiment


def _with_data(run: Run, schema: Schema, settings: Mapping[str, Any]) -> Experiment:
    """The experiment, whose data wait until they are asked for if enough is kept of them."""
    kept = run.data
    if kept is None:
        return build(schema, settings)

    def read() -> Dataset:
        try:
            with torch.random.fork_rng():
                set_seed(settings["seed"])
                data: Dataset = schema.part(settings, "data")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}, which the run {str(run.path)!r} was trained on: --data.path says where "
                "it is now, or data=[('data.path', ...)] of load"
            ) from error
        return data

    return build(schema, settings, data=Remembered(Known.of_run(kept), read))
