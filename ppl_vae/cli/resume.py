"""The words of `ppl-vae fit --resume RUN`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae.config.schema import Schema
    from ppl_vae.training.run import Run

__all__ = ["asks_to_resume", "resumed"]

# What may be said anew of a run that is gone on with.
_ANEW = ("resume", "epochs", "device", "checkpoint_steps")


def asks_to_resume(words: list[str]) -> bool:
    """Whether a command line of fit is to go on with a run."""
    helps = any(word in ("--help", "-h") or word.endswith(".help") for word in words)
    return not helps and any(word.partition("=")[0] == "--resume" for word in words)


def resumed(words: list[str]) -> "tuple[Run, Schema, dict[str, Any]]":
    """A run that is to be gone on with, and the settings that it was begun with.

    Raises:
        ValueError: for an option that would make another experiment of it.
    """
    from ppl_vae.config.options import nested, split_options
    from ppl_vae.config.schema import Schema
    from ppl_vae.experiment import Experiment
    from ppl_vae.training.run import Run

    switches, options, rest = split_options(words, ("overwrite", "trust"))
    others = [f"--{k}" for k, _ in options if k not in _ANEW and not k.startswith("data.")]
    others += ["--overwrite"] * ("overwrite" in switches) + rest
    if others:
        raise ValueError(
            f"{others[0]} has no place next to --resume, as a run goes on as it was begun: add "
            "--epochs for more of them, or begin another from its weights by --start"
        )
    run, schema = Run(dict(options)["resume"]), Schema(Experiment, "trust" in switches)
    settings = schema.merge({}, run.settings)
    for key, value in sorted(options, key=lambda option: option[0].count(".")):
        if key != "resume":
            settings = schema.merge(settings, nested(key, value))
    return run, schema, schema.parse(settings)
