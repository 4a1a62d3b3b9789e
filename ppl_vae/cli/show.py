"""A configured model in words and, where graphviz is there, as a graph."""

import shutil
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae import files
from ppl_vae.experiment import Experiment
from ppl_vae.objectives import InfoVAE
from ppl_vae.program.running import read
from ppl_vae.program.wrapping import distribution_name

__all__ = ["describe", "draw"]


def describe(experiment: Experiment) -> str:
    """The parts with their shapes and parameter counts, and the sites of one run, as text.

    Args:
        experiment: the experiment; its weights are not moved.
    """
    pair, objective, data = experiment.pair, experiment.objective, experiment.data
    shapes: dict[nn.Module, str] = {}
    hooks = [part.register_forward_hook(_noting(shapes)) for part in pair.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            args = _two_rows(experiment)
            guide = poutine.trace(pair.guide).get_trace(*args)
            replayed = poutine.replay(pair.model, trace=guide)
            # the parts' counts say what there is of parameters
            trace = poutine.trace(poutine.block(replayed, hide_types=["param"])).get_trace(*args)
    finally:
        for hook in hooks:
            hook.remove()
    rows = [["part", "class", "parameters", "distribution"]]
    counted: set[int] = set()
    for name, part in [*_parts(pair), ("objective", objective)]:
        # A prior that shares the encoder's tensors counts them once.
        own = [p for p in part.parameters() if id(p) not in counted]
        counted |= {id(p) for p in own}
        count = f"{sum(p.numel() for p in own):,}"
        rows.append([name, type(part).__name__, count, shapes.get(part, "")])
    if isinstance(objective, InfoVAE):
        with torch.no_grad(), torch.random.fork_rng():
            objective.matched(read(pair.model, pair.guide, args))
        rows[-1][-1] = "; ".join(f"lambda of {n} {v:.4g}" for n, v in objective.scales.items())
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    told = f"{data.name}: {len(data):,} training rows of shape {tuple(data.size)}"
    if data.extra == "covariates":
        told += f", {data.width} covariates each"
    if data.extra == "labels":
        assert data.train_labels is not None
        told += f", {int((data.train_labels >= 0).sum()):,} of them of known class"
    sites = f"two rows through {type(pair).__name__}'s model:"
    return "\n".join([told, "", *lines, "", sites, trace.format_shapes()])


def draw(experiment: Experiment, path: str | Path) -> Path:
    """Draws the model's graph by `pyro.render_model`, and returns the file.

    Args:
        experiment: the experiment.
        path: the file, ending in .png, .pdf or .svg.

    Raises:
        ImportError: if graphviz, the package or its program `dot`, is not installed.
    """
    path = Path(path)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{str(path)!r}: the graph's file must end in .png, .pdf or .svg")
    try:
        import graphviz  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "drawing the graph needs graphviz: pip install 'ppl-vae[graph]'"
        ) from error
    if shutil.which("dot") is None:
        raise ImportError("drawing the graph needs graphviz's program dot: install graphviz")
    with torch.random.fork_rng():
        graph = pyro.render_model(
            experiment.pair.model, model_args=_two_rows(experiment), render_distributions=True
        )
    files.write_bytes(path, graph.pipe(format=path.suffix[1:]))
    return path


def _two_rows(experiment: Experiment) -> tuple[Tensor, ...]:
    return tuple(part[:2] for part in experiment.data.arguments("train"))


def _parts(pair: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts of a pair by name, those in a list one by one."""
    found: list[tuple[str, nn.Module]] = []
    for name, part in pair.named_children():
        if isinstance(part, nn.ModuleList):
            found += [(f"{name}[{k}]", inner) for k, inner in enumerate(part)]
        else:
            found.append((name, part))
    return found


def _noting(shapes: dict[nn.Module, str]) -> Any:
    def note(part: nn.Module, _: Any, made: Any) -> None:
        fns = made if isinstance(made, tuple) else (made,)
        if all(isinstance(fn, Distribution) for fn in fns):
            # a prior may call the encoder again
            shapes.setdefault(part, "; ".join(map(_shape, fns)))

    return note


def _shape(fn: Any) -> str:
    name = distribution_name(fn)
    return f"{name}, batch {tuple(fn.batch_shape)}, event {tuple(fn.event_shape)}"
