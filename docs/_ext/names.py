"""The public names: what the packages list as theirs, and the records that these return."""

import inspect
from importlib import import_module
from typing import Any, get_args, get_type_hints

PACKAGES = (
    "ppl_vae.objectives",
    "ppl_vae.pairs",
    "ppl_vae.priors",
    "ppl_vae.guides",
    "ppl_vae.likelihoods",
    "ppl_vae.bodies",
    "ppl_vae.distributions",
    "ppl_vae.data",
    "ppl_vae.program",
    "ppl_vae.training",
    "ppl_vae.training.optim",
    "ppl_vae.evaluation",
    "ppl_vae.diagnostics",
    "ppl_vae.plots",
    "ppl_vae.using",
    "ppl_vae.reproductions",
    "ppl_vae.cli",
    "ppl_vae",
)
"""Each name is documented where it is listed first."""


def public() -> dict[str, Any]:
    """Every public object once, by the name to import it by."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if name != "__version__" and not any(value is other for other in found.values()):
                found[f"{package}.{name}"] = value
    return found


def returned() -> dict[str, list[str]]:
    """By public name, the classes it returns that nobody makes, each by the first that does."""
    known, seen = public(), set[type]()
    found: dict[str, list[str]] = {}
    for name, value in known.items():
        records = [
            record
            for function in _functions(value)
            for record in _classes(get_type_hints(function).get("return"))
            if record not in seen and record not in known.values()
        ]
        seen |= set(records)
        found[name] = [f"{r.__module__}.{r.__qualname__}" for r in dict.fromkeys(records)]
    return found


def _functions(value: Any) -> list[Any]:
    """A function, or the public methods of a class."""
    if not inspect.isclass(value):
        return [value] if inspect.isfunction(value) else []
    own = [v for k, v in vars(value).items() if not k.startswith("_")]
    return [f for f in own if inspect.isfunction(f) and f.__doc__]


def _classes(hint: Any) -> list[type]:
    """The classes of ours in an annotation that are not private."""
    inner = [c for part in get_args(hint) for c in _classes(part)]
    if not inspect.isclass(hint) or get_args(hint):
        return inner
    ours = hint.__module__.startswith("ppl_vae.") and not hint.__name__.startswith("_")
    return [hint] if ours else []
