"""The command line.

Bad input ends with one line on standard error and exit code 2, before anything is written. A
training that meets a NaN ends so with code 1 and keeps what it has. With PPL_VAE_TRACEBACK set in
the environment, errors are raised as they are.
"""

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]

DEFAULTS: dict[str, Any] = {
    "data": "Digits",
    "objective": {
        "class_path": "InfoVAE",
        "init_args": {"divergence": "MMD", "scale": 64.0},
    },
    "pair": "VAE",
    "prior": "StandardNormal",
    "likelihood": "Bernoulli",
    "encoder": "MeanFieldNormal",
    "optimizer": "Adam",
}
"""What `ppl-vae fit` fits when nothing else is said."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: the words after the program's name; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _short_warnings():
            return _dispatch(words)
    except KeyboardInterrupt:
        print("ppl-vae: stopped", file=sys.stderr)
        return 130
    except SystemExit as error:  # an argument parser's help
        return int(error.code or 0)
    except (ValueError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
        if os.environ.get("PPL_VAE_TRACEBACK"):
            raise
        print(f"ppl-vae: {_line(error)}", file=sys.stderr)
        return 1 if isinstance(error, ArithmeticError) else 2
    except Exception as error:  # a mistake in a class of the user's, or in the library
        if os.environ.get("PPL_VAE_TRACEBACK"):
            raise
        kind = type(error).__name__
        print(
            f"ppl-vae: {kind}: {_line(error)} (PPL_VAE_TRACEBACK=1 shows where)", file=sys.stderr
        )
        return 1


def _dispatch(words: list[str]) -> int:
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; commands: {', '.join(COMMANDS)}")
    COMMANDS[name](rest)
    return 0


def _usage() -> str:
    lines = ["usage: ppl-vae COMMAND [--help] ...", "", "commands:"]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:10} {(command.__doc__ or '').splitlines()[0]}")
    return "\n".join(lines)


def fit(words: list[str]) -> None:
    """Trains a model, and writes a folder with its weights, numbers and pictures."""
    from ppl_vae.experiment import build
    from ppl_vae.run import Run

    read = _configured(words, "fit")
    if read is None:
        return
    schema, settings, switches, out = read
    data = settings["data"]["class_path"].rpartition(".")[2].lower()
    folder = Path(out) if out is not None else _free(data)
    Run.check(folder, "overwrite" in switches)
    experiment = build(schema, settings)
    experiment.fit(folder, overwrite="overwrite" in switches, config=settings)
    _show(Run(folder).summary, folder)


def show(words: list[str]) -> None:
    """Prints the model that fit would train, with shapes; --out draws its graph."""
    from ppl_vae.config.help import resolved
    from ppl_vae.experiment import build
    from ppl_vae.show import describe, draw

    read = _configured(words, "show")
    if read is None:
        return
    schema, settings, _, out = read
    experiment = build(schema, settings)
    experiment.check()
    drawn = None if out is None else draw(experiment, out)
    print(describe(experiment), "", *resolved(settings), sep="\n")
    if drawn is not None:
        print(drawn)


def _configured(
    words: list[str], command: str
) -> tuple[Any, dict[str, Any], set[str], str | None] | None:
    """The schema, settings, switches and `--out` of a command line; None where help was asked."""
    from ppl_vae.config.options import nested, split_options
    from ppl_vae.config.schema import Schema
    from ppl_vae.experiment import Experiment

    switches, options, rest = split_options(words, ("overwrite", "trust", "help"))
    if rest:
        raise ValueError(f"{rest[0]!r} is not an option: options look like --dim 10")
    schema = Schema(Experiment, trust="trust" in switches)
    settings = schema.merge({}, DEFAULTS)
    helped = [key for key, _ in options if key.endswith(".help")]
    out = None
    ordered = sorted(
        ((key, value) for key, value in options if key not in helped),
        key=lambda option: (option[0] != "config", option[0].count(".")),
    )
    for key, value in ordered:
        if key == "config":
            settings = schema.merge(settings, _read_yaml(value))
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


def evaluate(words: list[str]) -> None:
    """Evaluates a run: its metrics with their errors, and the pictures."""
    from ppl_vae.reporting.metrics import evaluate

    data, words = _data_options(words)
    evaluate(**_parse(evaluate, words), data=data)


def report(words: list[str]) -> None:
    """Writes one HTML page that shows runs side by side."""
    from ppl_vae.reporting.webpage import report

    data, words = _data_options(words)
    report(**_parse(report, words, many="runs"), data=data)


def sample(words: list[str]) -> None:
    """Draws samples from a run's model."""
    sample_run(**_parse(sample_run, words))


def sample_run(
    run: str,
    n: int = 64,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Draws samples from a run's model: means of p(x | z) at draws of z from the prior.

    Args:
        run: the run's folder.
        n: how many samples.
        out: file to write, a picture (.png) or the numbers (.npy); samples.png in the run's
            folder by default.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in its configuration.
    """
    import numpy as np

    from ppl_vae import plots, report
    from ppl_vae.experiment import load
    from ppl_vae.run import Run

    folder = Run(run)
    path = folder.path / "samples.png" if out is None else Path(out)
    if path.suffix not in (".png", ".npy"):
        raise ValueError(f"out is {str(path)!r}: its name must end in .png or .npy")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"out is {str(path)!r}: there is no folder {str(path.parent)!r}")
    experiment = load(folder, trust, device)
    draws = report.draw(experiment, n, seed)
    if path.suffix == ".npy":
        np.save(path, draws.cpu().numpy())
    else:
        plots.samples(draws, path, title=report.drawn_as(experiment.pair))
    print(path)


def demo(words: list[str]) -> None:
    """Trains an MMD-VAE on handwritten digits from several seeds, and prints a table."""
    from ppl_vae.demo import demo

    demo(**_parse(demo, words))


def reproduce(words: list[str]) -> None:
    """Runs one experiment of the source papers, and prints its table."""
    from ppl_vae.experiments import reproduce

    reproduce(**_parse(reproduce, words))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "fit": fit,
    "show": show,
    "evaluate": evaluate,
    "report": report,
    "sample": sample,
    "demo": demo,
    "reproduce": reproduce,
}


def _parse(function: Callable[..., Any], words: list[str], many: str = "") -> dict[str, Any]:
    """Options of plain types, read off a function's signature; `data` is read elsewhere.

    The argument called `many` takes all words that belong to no option.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"ppl-vae {function.__name__.removesuffix('_run')}",
        description=(function.__doc__ or "").split("\n\n    Args:")[0],
        exit_on_error=False,
    )
    if many:
        parser.add_argument(many, nargs="+", help="folders of runs")
    parser.add_function_arguments(function, as_positional=True, skip={"data", many})
    words = [f"{w}=true" if w in ("--trust", "--overwrite", "--quick") else w for w in words]
    try:
        return dict(parser.parse_args(words).as_dict())
    except (ArgumentError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(re.sub(r'^Parser key "(\w+)":', r"--\1:", text)) from error


def _data_options(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
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


def _read_yaml(path: str) -> Any:
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no configuration file {path!r}")

    class Loader(yaml.SafeLoader):
        """YAML of plain values that says each key once."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            twice = next((key for k, key in enumerate(keys) if key in keys[:k]), None)
            if twice is not None:
                raise ValueError(f"{path!r} says {twice!r} twice: leave one")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path!r} is not YAML of plain values") from error


def _free(name: str) -> Path:
    """The first folder `runs/NAME-1`, `runs/NAME-2`, ... that is not there."""
    k = 1
    while (folder := Path("runs", f"{name}-{k}")).exists():
        k += 1
    return folder


def _show(summary: Mapping[str, Any], folder: Path) -> None:
    units = {
        "reconstruction": "nats per datum",
        "rate": "nats per datum",
        "mmd": "squared, unbiased",
        "log_det": "per latent dimension",
        "probe": "accuracy of a linear probe",
        "accuracy": "of the model's classifier",
    }
    for name, unit in units.items():
        value, error = summary.get(name), summary.get("errors", {}).get(name)
        if value is not None:
            print(f"{name:15} {value:9.4g}{'' if error is None else f' +- {error:.2g}':10} {unit}")
    print(folder)


@contextmanager
def _short_warnings() -> "Iterator[None]":
    """Warnings of this library as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"ppl-vae: warning: {_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _line(error: object) -> str:
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch puts the offending values below
    told = " ".join(text[:2])[:300] if text and text[0].endswith(":") else "".join(text[:1])
    return told or type(error).__name__
