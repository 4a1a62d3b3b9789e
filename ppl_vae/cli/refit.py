"""The command that fits another prior to a run's codes."""

from collections.abc import Mapping
from typing import Any

from ppl_vae.cli.commandline import DATA

__all__ = ["refit_prior"]

_OPTIONS = (
    ("--out FOLDER", "the new run's folder. Required."),
    ("--prior CLASS", "p(z), as for fit. Default: GaussianMixture."),
    ("--prior.NAME VALUE", "a setting of the prior, such as --prior.components 10."),
    ("--epochs INTEGER", "passes through the codes. Default: 50."),
    ("--seed INTEGER", "of the starting values and the batches. Default: 0."),
    ("--device VALUE", "where to compute, such as cpu or cuda:0. Default: auto."),
    ("--overwrite", "replace a run that is in the folder."),
    ("--trust", "allow classes from outside ppl_vae in the run's configuration."),
    DATA[1],
)


def refit_prior(words: list[str]) -> None:
    """Fits another prior to a run's codes, and writes a run with it: the second stage.

    The new prior starts from the codes of the training rows and nothing else of the run is moved.
    """
    from ppl_vae.config.options import nested, split_options
    from ppl_vae.config.schema import Schema
    from ppl_vae.experiment import Experiment
    from ppl_vae.loading import load
    from ppl_vae.program.modules import modules_of
    from ppl_vae.training.run import Run
    from ppl_vae.training.weights import state

    switches, options, runs = split_options(words, ("overwrite", "trust", "help"))
    if "help" in switches:
        from ppl_vae.config.help import page

        usage = "refit-prior RUN --out FOLDER [--OPTION VALUE ...]"
        print(page(usage, refit_prior.__doc__ or "", {"options": _OPTIONS}))
        return
    plain = {"out": None, "epochs": "50", "seed": "0", "device": "auto"}
    plain |= {key: value for key, value in options if key in plain}
    parts = [o for o in options if o[0].partition(".")[0] == "prior"]
    data = [o for o in options if o[0].startswith("data.")]
    unknown = [option[0] for option in options if option not in [*plain.items(), *parts, *data]]
    if unknown or len(runs) != 1 or plain["out"] is None:
        what = f"there is no --{unknown[0]}" if unknown else "give one run and --out"
        raise ValueError(f"{what}: ppl-vae refit-prior RUN --out FOLDER --prior GaussianMixture")
    Run.check(plain["out"], "overwrite" in switches)
    run, schema = Run(runs[0]), Schema(Experiment, "trust" in switches)
    before = {**run.config, "data": run.found(run.config.get("data"))}
    settings = schema.merge({}, {**before, "prior": "GaussianMixture"})
    for key, value in sorted([*parts, *data], key=lambda option: option[0].count(".")):
        settings = schema.merge(settings, nested(key, value))
    settings = schema.parse(settings)
    experiment = load(run, "trust" in switches, str(plain["device"]), data)
    made = experiment.refit_prior(
        schema.part(settings, "prior"), epochs=_whole("epochs", plain), seed=_whole("seed", plain)
    )
    pair = made.pair
    new = Run.create(str(plain["out"]), settings, "overwrite" in switches)
    new.save_data(run.data or {})
    for row in run.history:
        new.log(row)
    new.save_weights(state(modules_of(pair.model, pair.guide, made.objective), {}))
    print(new.path)


def _whole(name: str, options: Mapping[str, Any]) -> int:
    try:
        return int(options[name])
    except ValueError:
        raise ValueError(f"--{name} is {options[name]!r}, not an integer") from None
