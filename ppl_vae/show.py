"""A configured model in words and, where graphviz is there, as a graph."""

import shutil
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine

from ppl_vae.experiment import Experiment

__all__ = ["describe", "draw"]


def describe(experiment: Experiment) -> str:
    """The parts with their shapes and parameter counts, and the sites of one run, as text.

    Args:
        experiment: the experiment; its weights are not moved.
    """
    vae, x = experiment.vae, experiment.data.train[:2]
    with torch.no_grad(), torch.random.fork_rng():
        q = vae.encoder(x)
        parts = [
            ("prior", vae.prior, _shapes(vae.prior())),
            ("likelihood", vae.likelihood, _shapes(vae.likelihood(q.sample()))),
            ("encoder", vae.encoder, _shapes(q)),
            ("objective", experiment.objective, ""),
        ]
        trace = poutine.trace(vae.model).get_trace(x)
    rows = [["part", "class", "parameters", "distribution"]]
    counted: set[int] = set()
    for name, module, shapes in parts:
        # A prior that shares the encoder's tensors counts them once.
        own = [p for p in module.parameters() if id(p) not in counted]
        counted |= {id(p) for p in own}
        rows.append([name, type(module).__name__, f"{sum(p.numel() for p in own):,}", shapes])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    data = f"{experiment.data.name}: {len(experiment.data.train):,} training rows of shape "
    data += str(tuple(experiment.data.size))
    return "\n".join([data, "", *lines, "", "two rows through the model:", trace.format_shapes()])


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
    x = experiment.data.train[:2]
    with torch.random.fork_rng():
        graph = pyro.render_model(experiment.vae.model, model_args=(x,), render_distributions=True)
    graph.render(path.with_suffix(""), format=path.suffix[1:], cleanup=True)
    return path


def _shapes(fn: Any) -> str:
    base = fn
    while type(base).__name__ in ("Independent", "MaskedDistribution"):
        base = base.base_dist
    return f"{type(base).__name__}, batch {tuple(fn.batch_shape)}, event {tuple(fn.event_shape)}"
