"""The command line.

Bad input ends with one line on standard error and exit code 2, before anything is written. A
training that meets a NaN ends so with code 1 and keeps what it has; one that SIGINT or SIGTERM
asks to end does so with code 130 or 143, a checkpoint, and the line that goes on. With
PPL_VAE_TRACEBACK set in the environment, errors are raised as they are.
"""

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import __version__, files
from ppl_vae.cli.refit import refit_prior
from ppl_vae.cli.sweep import sweep
from ppl_vae.cli.using import COMMANDS as USING
from ppl_vae.terminal import spelling, spelt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppl_vae.config.schema import Schema
    from ppl_vae.training.run import Run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: the words after the program's name; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _short_warnings(), _memory_said():
            return _dispatch(words)
    except KeyboardInterrupt as stop:
        print(f"ppl-vae: {spelt(str(stop)) or 'stopped'}", file=sys.stderr)
        return 130
    except SystemExit as stop:  # a command's help, or a training's end by SIGTERM
        if said := getattr(stop, "said", ""):
            print(f"ppl-vae: {spelt(said)}", file=sys.stderr)
        return int(stop.code or 0)
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
    for word in words:  # what is written, and printed, is in UTF-8
        if not word.isprintable() and word != word.encode(errors="replace").decode():
            raise ValueError(f"{word!r} is not UTF-8: rename it")
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no command {name!r}{hint}; commands: {', '.join(COMMANDS)}")
    COMMANDS[name](rest)
    return 0


def _usage() -> str:
    lines = ["usage: ppl-vae COMMAND [--help] ..."]
    for heading, names in GROUPS.items():
        lines += ["", f"{heading}:"]
        for name in names:
            lines.append(f"  {name:14} {(COMMANDS[name].__doc__ or '').splitlines()[0]}")
    return "\n".join(lines)


def fit(words: list[str]) -> None:
    """Trains a model, and writes a folder with its weights, numbers and pictures."""
    from ppl_vae.cli.devices import take

    devices, words = take(words)
    if devices.count == 1:
        _train(words, devices.timeout)
        return
    from ppl_vae.launching import launch
    from ppl_vae.training.prepare import set_seed

    begun = _begun(words)  # what is wrong with the words is said once, here
    if begun is None:
        return
    schema, settings, _, _ = begun
    set_seed(settings["seed"])
    data = schema.part(settings, "data")
    launch(_train, (words, devices.timeout, data), devices.count)


def _begun(
    words: list[str], is_first: bool = True
) -> "tuple[Schema, dict[str, Any], Run | Path, bool] | None":
    """The schema, settings and run of words of fit, and whether to overwrite one.

    The run is one to go on with, or the folder of a new one, which the first process looks at.
    None where help was asked.
    """
    from ppl_vae.cli.commandline import configured
    from ppl_vae.cli.resume import asks_to_resume, resumed
    from ppl_vae.training.run import Run

    if asks_to_resume(words):
        run, schema, settings = resumed(words)
        return schema, settings, run, False
    read = configured(words, "fit")
    if read is None:
        return None
    schema, settings, switches, out = read
    data = settings["data"]["class_path"].rpartition(".")[2].lower()
    folder = Path(out) if out is not None else _free(data)
    if is_first:
        Run.check(folder, "overwrite" in switches)
    return schema, settings, folder, "overwrite" in switches


def _train(words: list[str], timeout: float, data: Any = None) -> None:
    """Trains by itself or along with others, and has the first process tell of it.

    Args:
        words: of fit.
        timeout: seconds to wait for the others.
        data: the data set; made by the words where None.
    """
    from ppl_vae.loading import build
    from ppl_vae.report.evaluation import evaluate_run, tell
    from ppl_vae.together import processes
    from ppl_vae.training.run import Run

    with _short_warnings(), processes(timeout) as world:
        begun = _begun(words, world.rank == 0)
        if begun is None:
            return
        schema, settings, run, overwrite = begun
        given = {} if data is None else {"data": data}
        experiment = build(schema, settings, **given)
        if isinstance(run, Run):
            experiment.fit(resume=run)
        else:
            experiment.fit(run, overwrite=overwrite, config=settings)
    if world.rank == 0:  # the others have ended
        run = run if isinstance(run, Run) else Run(run)
        evaluate_run(run, experiment, when=["fit"])
        print("\n".join(tell(run, experiment)))


def show(words: list[str]) -> None:
    """Prints the model that fit would train, with shapes; --out draws its graph."""
    from ppl_vae.cli.commandline import configured
    from ppl_vae.cli.show import describe, draw
    from ppl_vae.config.help import resolved
    from ppl_vae.loading import build

    read = configured(words, "show")
    if read is None:
        return
    schema, settings, _, out = read
    experiment = build(schema, settings)
    experiment.check()
    drawn = None if out is None else draw(experiment, out)
    print(describe(experiment), "", *resolved(settings), sep="\n")
    if drawn is not None:
        print(drawn)


def evaluate(words: list[str]) -> None:
    """Evaluates a run: its metrics with their errors, what they say, and the pictures."""
    from ppl_vae.cli.commandline import DATA, data_options, parse
    from ppl_vae.report.evaluation import evaluate

    data, words = data_options(words)
    evaluate(**parse(evaluate, words, more=DATA), data=data)


def report(words: list[str]) -> None:
    """Writes one HTML page that shows runs side by side."""
    from ppl_vae.cli.commandline import DATA, data_options, parse
    from ppl_vae.report.webpage import report

    data, words = data_options(words)
    report(**parse(report, words, many="runs", more=DATA), data=data)


def compare(words: list[str]) -> None:
    """Ranks runs by the likelihood of held-out data."""
    from ppl_vae.cli.commandline import DATA, data_options, parse
    from ppl_vae.cli.compare import compare

    data, words = data_options(words)
    compare(**parse(compare, words, many="runs", more=DATA), data=data)


def demo(words: list[str]) -> None:
    """Trains an MMD-VAE on handwritten digits from several seeds, and prints a table."""
    from ppl_vae.cli.commandline import parse
    from ppl_vae.cli.demo import demo

    demo(**parse(demo, words))


def reproduce(words: list[str]) -> None:
    """Runs one experiment of the source papers, and prints its table."""
    from ppl_vae.cli.commandline import parse
    from ppl_vae.reproductions import reproduce

    reproduce(**parse(reproduce, words))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "fit": fit,
    "show": show,
    "evaluate": evaluate,
    "report": report,
    "compare": compare,
    "sweep": sweep,
    **USING,
    "refit-prior": refit_prior,
    "demo": demo,
    "reproduce": reproduce,
}


GROUPS = {
    "train": ("fit", "show", "sweep"),
    "look at runs": ("evaluate", "report", "compare"),
    "use a run": (*USING, "refit-prior"),
    "examples": ("demo", "reproduce"),
}
"""The commands as help lists them."""


def _free(name: str) -> Path:
    """The first folder `runs/NAME-1`, `runs/NAME-2`, ... that is not there."""
    k = 1
    while (folder := Path("runs", f"{name}-{k}")).exists():
        k += 1
    return folder


@contextmanager
def _short_warnings() -> "Iterator[None]":
    """Warnings of this library as one line each, and printed words as they are read."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"ppl-vae: warning: {_line(message)}", file=sys.stderr)

    with warnings.catch_warnings(), spelling():
        warnings.showwarning = show
        yield


@contextmanager
def _memory_said() -> "Iterator[None]":
    """A lack of memory in one line; what says it is imported where it is needed."""
    try:
        yield
    except (RuntimeError, MemoryError):
        from ppl_vae.training.guard import memory_said

        with memory_said("what was asked for", "dim, the widths of the networks, rows or draws"):
            raise


def _line(error: object) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        error = files.told(error, error.filename)
    text = [line.strip() for line in spelt(str(error)).splitlines() if line.strip()]
    # torch puts the offending values below
    told = " ".join(text[:2])[:300] if text and text[0].endswith(":") else "".join(text[:1])
    told = told if len(told) <= 500 else f"{told[:500]} ..."
    return told or type(error).__name__
