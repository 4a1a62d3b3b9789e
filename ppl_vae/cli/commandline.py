"""The words of a command as settings: defaults, files and options, in this order."""

import difflib
import inspect
import re
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

__all__ = ["DATA", "DEFAULTS", "configured", "data_options", "parse"]

DEFAULTS: dict[str, Any] = {
    "data": "Digits",
    "objective": {
        "class_path": "InfoVAE",
        "init_args": {"divergence": "MMD", "scale": "auto"},
    },
    "pair": "VAE",
    "prior": "StandardNormal",
    "likelihood": "Bernoulli",
    "encoder": "MeanFieldNormal",
    "optimizer": "Adam",
}
"""What `ppl-vae fit` fits when nothing else is said."""


DATA = (
    ("--data CLASS", "other data, as for fit, of the same shape."),
    ("--data.NAME VALUE", "a setting of the data, such as --data.root where they have moved."),
)
"""Options of commands that read a run's data, as help lists them."""


def configured(
    words: list[str], command: str
) -> tuple[Any, dict[str, Any], set[str], str | None] | None:
    """The schema, settings, switches and `--out` of a command line; None where help was asked."""
    from ppl_vae.config.options import nested, split_options
    from ppl_vae.config.schema import Schema
    from ppl_vae.experiment import Experiment
    from ppl_vae.training.run import Run

    switches, options, rest = split_options(words, ("overwrite", "trust", "help"))
    if rest:
        raise ValueError(f"{rest[0]!r} is not an option: options look like --dim 10")
    schema = Schema(Experiment, trust="trust" in switches)
    settings = schema.merge({}, DEFAULTS)
    if start := dict(options).get("start"):  # the parts whose weights these are
        run = Run(start)
        before = {k: v for k, v in run.config.items() if k not in ("start", "freeze")}
        settings = schema.merge({}, {**before, "data": run.found(before.get("data"))})
    helped = [key for key, _ in options if key.endswith(".help")]
    out = None
    ordered = sorted(
        ((key, value) for key, value in options if key not in helped),
        key=lambda option: (option[0] != "config", option[0].count(".")),
    )
    for key, value in ordered:
        if key == "config":
            settings = schema.merge(settings, _read_settings(value))
        elif key == "out":
            out = value
        else:
            settings = schema.merge(settings, nested(key, value))
    if "help" in switches or helped:
        from ppl_vae.config.help import describe_class, describe_settings

        for key, value in options:
            if key in helped:
                print(describe_class(schema, settings, key.removesuffix(".help"), value))
                return None
        print(describe_settings(schema, settings, command))
        return None
    return schema, schema.parse(settings), switches, out


def parse(
    function: Callable[..., Any],
    words: list[str],
    many: str = "",
    first: str = "",
    skip: Collection[str] = ("data",),
    more: Collection[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Options of plain types, read off a function's signature.

    Args:
        function: what the options are of; arguments without a default stand by themselves.
        words: of the command line.
        many: the argument that takes all words that belong to no option.
        first: the argument that stands by itself, while all others are options.
        skip: arguments that are read elsewhere.
        more: options of those, as the help lists them.

    Raises:
        SystemExit: where help was asked for, which is printed.
        ValueError: for words that are no such options.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    from ppl_vae.config.slots import read_slot

    if {"--help", "-h"} & set(words):
        from ppl_vae.config.help import describe_function

        print(describe_function(function, many, first, skip, more))
        raise SystemExit(0)
    parser = ArgumentParser(exit_on_error=False)
    if many:
        parser.add_argument(many, nargs="+")
    if first:
        parser.add_argument(first)
    left_out: set[str | int] = {*skip, many, first}
    parser.add_function_arguments(function, as_positional=not first, skip=left_out)
    options = [name for name in inspect.signature(function).parameters if name not in left_out]
    words = [_known(word, options) for word in words]
    arguments = inspect.signature(function).parameters.values()
    switches = {f"--{arg.name}" for arg in arguments if arg.annotation in (bool, "bool")}
    words = [
        f"{word}=true" if word in switches and after not in ("true", "false") else word
        for word, after in pairwise([*words, ""])
    ]
    try:
        return dict(parser.parse_args(words).as_dict())
    except (ArgumentError, TypeError) as error:
        text = " ".join(str(error).split())
        if first and "required: " in text:
            said, _, names = text.partition("required: ")
            needed = [n if n == first else f"--{n}" for n in names.split(", ")]
            text = f"{said}required: {', '.join(needed)}"
        if wrong := re.match(r'Parser key "(\w+)":.* Got value: (.*)', text):
            wanted = read_slot(get_type_hints(function)[wrong[1]]).described()
            text = f"--{wrong[1]} is {wrong[2]!r}, not {wanted}"
        raise ValueError(text) from error


def _known(word: str, names: Collection[str]) -> str:
    """An option by the name it has, dashes in it taken for underscores; other words as they are.

    Raises:
        ValueError: for an option that there is not.
    """
    name, equals, value = word.removeprefix("--").partition("=")
    name = name.replace("-", "_")
    if not word.startswith("--"):
        return word
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean --{near[0]}?" if near else f"there are --{', --'.join(names)}"
        raise ValueError(f"there is no option --{name}: {hint}")
    return f"--{name}{equals}{value}"


def data_options(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The options of the data set, and the other words."""
    from ppl_vae.config.options import split_options

    found, rest, k = [], [], 0
    while k < len(words):
        name = words[k].partition("=")[0]
        if name == "--data" or name.startswith("--data."):
            width = 1 if "=" in words[k] else 2
            found += split_options(words[k : k + width], ())[1]
            k += width
        else:
            rest.append(words[k])
            k += 1
    return found, rest


def _read_settings(path: str) -> Any:
    from ppl_vae.documents import read_yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no configuration file {path!r}")
    return read_yaml(Path(path).resolve())  # a link of the user's is followed
