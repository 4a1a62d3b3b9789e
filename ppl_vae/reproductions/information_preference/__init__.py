"""When a code is used under a strong decoder, and what each cure buys.

Binarised MNIST under a conditional PixelCNN, which could model the digits without any code, and a
DCGAN encoder, d = 10. Digits are averaged to 14x14 (28x28 in the cells named m28), 10,000 of them,
with a Bernoulli draw at each step; batches of 50, Adam at 2e-3. The PixelCNN has width 16, kernel
3 and depth 2 (3 on 28x28), with z as a bias of every layer and, in the cells with *maps*, also as
four images that enter the first; *standardised* encoders take their means through a batch norm,
times .9, and have a fixed sd of .436. Objectives: the ELBO, MMD-VAE (lambda the number of pixels,
which is the paper's weight) at alpha = 1 and .5, sliced Wasserstein and Stein at 10/64 of that
lambda, adversarial (four critic steps) at 1/64, the ELBO at the effective beta of the paper's code
(pixels / d), and the auto-encoder.

Each cell is trained once and measured at several steps on held-out digits: the rate, a lower bound
of the mutual information of x and z (1,000 rows, so it cannot be above log 1,000 = 6.9), *usage*
(the NLL of x under another row's code less that under its own), the NLL of 150 rows (50 of 28x28)
by 100 draws from a fitted proposal and from the encoder itself, the accuracy of an SVM on the
codes of 1,000 labelled digits, the log-determinant of q(z) by dimension, the squared MMD of q(z)
and the prior, and, of 1,000 samples, the FID in our own classifier's features and the divergence
of their classes. All in nats per datum where they are no accuracy or distance.

The claims and the rules that decide them were written before the cells were run, and the rule's
word is the result. Finished measures are kept as JSON in the folder and not made again; a training
that was interrupted goes on. MNIST is read from the folder `data`, or the one that PPL_VAE_DATA
names.

Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262 (figures 1 and 3). Zhu, Bi, Liu, Ma, Li and
Wu (2020), A batch normalized inference network keeps the KL vanishing away, arXiv:2004.12585.
"""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ppl_vae import files
from ppl_vae.reproductions.common.kept import machine, today, write
from ppl_vae.reproductions.common.reproduction import Results, Scale
from ppl_vae.reproductions.information_preference.apart import digits_at_half, one_gradient
from ppl_vae.reproductions.information_preference.cells import Cell, build, cells
from ppl_vae.reproductions.information_preference.claims import claims
from ppl_vae.reproductions.information_preference.measures import classifier, draw, measure
from ppl_vae.reproductions.information_preference.pictures import over_steps, stacked
from ppl_vae.reproductions.information_preference.tables import tables
from ppl_vae.reproductions.information_preference.training import digits, train

__all__ = ["EXPERIMENT", "cells"]

_COLUMNS = (
    "rate", "I at least", "usage", "NLL", "NLL error", "size", "own NLL", "own size", "SVM",
    "log-det/d", "MMD^2", "classes", "FID", "CPU seconds",
)  # fmt: skip


# Whose samples are shown below each other: maps, standardised, objective.
_SAMPLED = {
    (False, False, "ELBO"),
    (False, False, "MMD"),
    (True, False, "ELBO"),
    (True, True, "ELBO"),
}


class _Experiment:
    """Cells of several steps, each with a folder of its own: a file for each step inside."""

    scales: dict[Scale, dict[str, Any]] = {"medium": {}}  # noqa: RUF012

    def run(
        self, folder: Path, scale: Scale, seeds: Sequence[int], end: float = math.inf
    ) -> Results:
        """Trains and measures what is not there yet; see `Reproduction.run`."""
        self._check(scale)
        data = dict[int, Any]()
        for cell, step in _work(_cells(seeds)):
            if time.monotonic() < end and not (folder / cell.name / f"{step}.json").exists():
                if cell.side not in data:
                    data[cell.side] = digits(cell.side)
                _finish(cell, step, data[cell.side], folder)
        _apart(folder, seeds, end)
        return self.results(folder, scale, draw=True)

    def results(self, folder: Path, scale: Scale, draw: bool = False) -> Results:
        """What is kept; see `Reproduction.results`."""
        self._check(scale)
        names = (re.search(r"-seed-(\d+)$", path.name) for path in folder.glob("*-seed-*"))
        seeds = sorted({int(name[1]) for name in names if name})
        every = _cells(seeds)
        found = {cell.name: _measures(folder / cell.name, cell.stops) for cell in every}
        rows = [
            [cell.name, f"{step}", *(_word(measured[name]) for name in _COLUMNS)]
            for cell in every
            for step, measured in found[cell.name].items()
        ]
        path = folder / "apart.json"
        apart = json.loads(path.read_text()) if path.exists() else {}
        if draw:
            files.write_text(files.folder(folder) / "tables.md", tables(every, found))
        last = [max(steps.items())[1]["CPU seconds"] for steps in found.values() if steps]
        return Results(
            ["cell", "steps", *_COLUMNS],
            rows,
            claims(found, seeds or [0], apart),
            _draw(every, found, folder) if draw and rows else (),
            sum(last) / max(1, len(seeds)),
            len(seeds),
            *(_said(found, name) for name in ("date", "machine")),
        )

    def _check(self, scale: str) -> None:
        if scale not in self.scales:
            raise ValueError(f"scale is {scale!r}: this experiment has {', '.join(self.scales)}")


EXPERIMENT = _Experiment()


def _cells(seeds: Sequence[int]) -> list[Cell]:
    return cells(len(seeds), seeds[0]) if seeds else []


def _said(found: Mapping[str, Mapping[int, Mapping[str, Any]]], name: str) -> list[str]:
    """The different words that measures keep under a name; the first of them had none."""
    every = [measured for steps in found.values() for measured in steps.values()]
    return sorted({measured[name] for measured in every if name in measured})


def _word(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"


def _draw(every: Sequence[Cell], found: Any, folder: Path) -> list[Path]:
    """What becomes of the codes over the steps, where the curves are there, and the samples."""
    drawn = [c for c in every if c.side == 14 and c.seed == every[0].seed and c.decoder == "small"]
    paths = {c.name: folder / c.name / "curves.json" for c in drawn}
    curves = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    pictures = []
    if curves:
        shown = [c for c in drawn if c.name in curves]
        over_steps(shown, curves, found, folder / "steps.png")
        pictures.append(folder / "steps.png")
    sampled = [
        folder / c.name / "samples.png"
        for c in drawn
        if (c.maps, c.standardised, c.objective) in _SAMPLED
    ]
    sampled = [path for path in sampled if path.exists()]
    if sampled:
        stacked(sampled, folder / "samples.png")
        pictures.append(folder / "samples.png")
    return pictures


def _work(every: list[Cell]) -> list[tuple[Cell, int]]:
    """Cells and steps: all up to 1,000 steps first, as most claims are of these."""
    work = [(cell, step) for cell in every for step in cell.stops]
    return [w for w in work if w[1] <= 1000] + [w for w in work if w[1] > 1000]


def _finish(cell: Cell, step: int, data: dict[str, Any], out: Path) -> None:
    """Trains a cell as far as it has not been, and measures it after a step."""
    folder = out / cell.name
    if not (folder / f"{step}.pt").exists():
        train(cell, data["train"], folder, step)
    saved = torch.load(folder / f"{step}.pt", weights_only=True)
    vae, _ = build(cell)
    vae.load_state_dict(saved["pair"])
    found = measure(vae, data, classifier(data, out / f"m{cell.side}-classifier"))
    if step == cell.stops[-1]:
        draw(vae, data, folder / "samples.png", f"{cell.name}, {step} steps: prior, then chain")
    state = folder / "state.pt"
    if state.exists():
        write(torch.load(state, weights_only=True)["curves"], folder / "curves.json")
    of_it = {"CPU seconds": round(saved["seconds"]), "date": today(), "machine": machine()}
    write(found | of_it, folder / f"{step}.json")


def _apart(out: Path, seeds: Sequence[int], end: float) -> dict[str, Any]:
    """What is measured without a cell, made where it is not there and time is left."""
    path = out / "apart.json"
    found = json.loads(path.read_text()) if path.exists() else {"digits": {}}
    if "gradients" not in found and time.monotonic() < end:
        found["gradients"] = one_gradient(digits(14)["train"])
        write(found, path)
    for seed in seeds:
        if str(seed) not in found["digits"] and time.monotonic() < end:
            found["digits"][str(seed)] = digits_at_half(seed, out / "digits-classifier")
            write(found, path)
    return found


def _measures(folder: Path, stops: tuple[int, ...]) -> dict[int, dict[str, Any]]:
    paths = {step: folder / f"{step}.json" for step in stops}
    return {step: json.loads(path.read_text()) for step, path in paths.items() if path.exists()}
