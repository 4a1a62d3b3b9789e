"""The demonstration: the ELBO and an InfoVAE side by side, on handwritten digits."""

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from ppl_vae import files

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.evaluation.classifier import Classifier
    from ppl_vae.experiment import Experiment

__all__ = ["demo"]

# Columns of the table: name of the number, heading, format.
_COLUMNS = (
    ("nll", "NLL", "{:.2f}"),
    ("gap", "to ELBO", "{:+.2f}"),
    ("gap_error", "+-", "{:.2f}"),
    ("fid", "FID", "{:.1f}"),
    ("rate", "rate", "{:.1f}"),
    ("probe_linear", "probe", "{:.3f}"),
    ("mmd_u", "MMD^2", "{:+.1e}"),
    ("log_det", "log-det/d", "{:+.3f}"),
)


def demo(
    out: str = "runs/demo",
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 60,
    dim: int = 10,
    alpha: float = 0.5,
    scale: float | Literal["auto"] = "auto",
    overwrite: bool = True,
) -> None:
    """Trains the same VAE on scikit-learn's digits under the ELBO and under InfoVAE(MMD()).

    Numbers are over the 360 held-out digits of each seed's split, in nats per datum where they are
    no accuracy or distance: the NLL by 500 draws from a proposal fitted to each digit with its
    paired difference to the ELBO's, the FID of 2,000 samples in the features of a classifier of
    the digits, the rate, the accuracy of a linear probe, the squared MMD of q(z) and the prior and
    the log-determinant of q(z)'s covariance by dimension, which is 0 for the prior.

    Args:
        out: folder that gets one run folder for each loss and seed, table.txt and samples.png.
        seeds: of the split, the weights and the training.
        epochs: passes through the 1,437 training digits.
        dim: dimension of the code.
        alpha: how much of the KL of a digit the divergence takes the place of; 1 is MMD-VAE.
        scale: weight on the divergence, in nats per datum; "auto" for the number of pixels.
        overwrite: replace runs of an earlier demonstration in that folder.
    """
    import torch

    from ppl_vae.config.schema import Schema
    from ppl_vae.experiment import Experiment
    from ppl_vae.loading import build
    from ppl_vae.report import results
    from ppl_vae.report.evaluation import evaluate_run
    from ppl_vae.training.run import Run

    torch.set_num_threads(1)  # tensors this small are slower on several
    schema = Schema(Experiment)
    info = {"divergence": "MMD", "alpha": alpha, "scale": scale}
    losses: dict[str, Any] = {
        "ELBO": {"class_path": "BetaVAE"},
        "InfoVAE": {"class_path": "InfoVAE", "init_args": info},
    }
    folders = {
        (name, seed): Path(out, f"{name.lower()}-{seed}") for seed in seeds for name in losses
    }
    for folder in folders.values():
        Run.check(folder, overwrite)
    print(
        f"scikit-learn's handwritten digits, d = {dim}, {epochs} epochs: the ELBO, and "
        f"InfoVAE(MMD(), alpha={alpha:g}, scale={scale!r})\nall on held-out digits, in nats per "
        "datum\n"
    )
    table = [_line("", "seed", [heading for _, heading, _ in _COLUMNS])]
    print(table[0], flush=True)
    start = time.perf_counter()
    found: dict[str, list[Mapping[str, float | None]]] = {name: [] for name in losses}
    drawn: dict[str, Tensor] = {}
    for seed in seeds:
        reference: Tensor | None = None
        for name, objective in losses.items():
            settings = schema.parse(
                schema.merge(
                    {"epochs": epochs, "dim": dim, "seed": seed},
                    {
                        "data": {"class_path": "Digits", "init_args": {"seed": seed}},
                        "objective": objective,
                    },
                )
            )
            folder = folders[name, seed]
            experiment = build(schema, settings)
            experiment.fit(folder, overwrite=overwrite, config=settings)
            evaluate_run(Run(folder), experiment, when=["fit"])
            rows, fid, images = _measured(experiment, _classifier(experiment, Path(out)))
            numbers = results.values(Run(folder)) | {"nll": float(rows.mean()), "fid": fid}
            if reference is None:
                reference = rows
            else:
                gap = rows - reference
                numbers["gap"], numbers["gap_error"] = float(gap.mean()), _error(gap)
            found[name].append(numbers)
            drawn.setdefault(name, images)
            table.append(_line(name, str(seed), _shown(numbers)))
            print(table[-1], flush=True)
    for name, several in found.items():
        middle = {key: _median([s.get(key) for s in several]) for key, *_ in _COLUMNS}
        table.append(_line(name, "median", _shown(middle)))
        print(table[-1])
    files.write_text(Path(out, "table.txt"), "\n".join(table) + "\n")
    picture = Path(out, "samples.png")
    _draw(drawn, picture)
    print(
        f"\n{time.perf_counter() - start:.0f} s; a folder for each run with its numbers, weights "
        f"and pictures is in {out}\nsamples of both: {picture}"
    )


def _measured(
    experiment: "Experiment", net: "Classifier"
) -> "tuple[Tensor, float | None, Tensor]":
    """Minus log p(x) of each held-out digit, the samples' FID if it can be had, and samples."""
    import pyro

    from ppl_vae import evaluation as ev

    pair, x = (experiment.pair.model, experiment.pair.guide), experiment.rows()[0]
    pyro.set_rng_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rows = ev.nll(*pair, x, 500, "full_covariance", steps=150).rows
    images = ev.generate(*pair, x, 2000)
    try:
        fid = ev.fid(x, images, net).value
    except ImportError:  # torchmetrics is an extra
        fid = None
    return rows, fid, images[:16]


def _classifier(experiment: "Experiment", folder: Path) -> "Classifier":
    from ppl_vae.evaluation import train_classifier

    data = experiment.data
    assert data.test is not None
    return train_classifier(
        data.train, data.train_labels, data.test, data.test_labels, cache=folder / "classifier"
    )


def _draw(drawn: "Mapping[str, Tensor]", path: Path) -> None:
    import torch

    from ppl_vae import plots

    title = "Samples: " + ", then ".join(drawn)
    plots.save(plots.samples(torch.cat(list(drawn.values())), columns=16), path, title)


def _error(rows: "Tensor") -> float:
    return float(rows.std()) / len(rows) ** 0.5


def _median(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return median(given) if given else None


def _shown(numbers: Mapping[str, float | None]) -> list[str]:
    cells = [(numbers.get(name), shape) for name, _, shape in _COLUMNS]
    return ["-" if value is None else shape.format(value) for value, shape in cells]


def _line(name: str, seed: str, cells: Sequence[str]) -> str:
    return f"{name:8}{seed:>7}" + "".join(cell.rjust(11) for cell in cells)
