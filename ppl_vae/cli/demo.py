"""The demonstration: an MMD-VAE on scikit-learn's handwritten digits."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

__all__ = ["demo"]

# Columns of the table: name in the summary, heading, format.
_COLUMNS = (
    ("probe", "probe", "{:.3f}"),
    ("rate", "rate", "{:.1f}"),
    ("reconstruction", "reconstruction", "{:.2f}"),
    ("mmd", "MMD^2", "{:+.1e}"),
    ("log_det", "log-det/d", "{:+.3f}"),
)


def demo(
    out: str = "runs/demo",
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 60,
    dim: int = 10,
    scale: float | Literal["auto"] = "auto",
    overwrite: bool = True,
) -> None:
    """Trains an MMD-VAE on scikit-learn's digits from several seeds and prints a table.

    The divergence is MMD with the prior in closed form and the encoder's noise integrated out.
    Numbers are over the 360 held-out digits of each seed's split.

    Args:
        out: folder that gets one run folder for each seed, and table.txt.
        seeds: of the split, the weights and the training.
        epochs: passes through the 1,437 training digits.
        dim: dimension of the code.
        scale: weight on the divergence, in nats per datum; "auto" for the number of pixels.
        overwrite: replace runs of an earlier demonstration in that folder.
    """
    import torch

    from ppl_vae.config import Schema
    from ppl_vae.experiment import Experiment, build
    from ppl_vae.report.summary import evaluate
    from ppl_vae.training.run import Run

    torch.set_num_threads(1)  # tensors this small are slower on several
    schema = Schema(Experiment)
    folders = [Path(out, f"seed-{seed}") for seed in seeds]
    for folder in folders:
        Run.check(folder, overwrite)
    print(f"MMD-VAE on scikit-learn's handwritten digits, d = {dim}, {epochs} epochs")
    print("all on held-out digits; rate and reconstruction in nats per datum\n")
    table = [_line("seed", [heading for _, heading, _ in _COLUMNS])]
    print(table[0], flush=True)
    summaries, seconds = [], 0.0
    for seed, folder in zip(seeds, folders, strict=True):
        settings = schema.parse(
            schema.merge(
                {"epochs": epochs, "dim": dim, "seed": seed},
                {
                    "data": {"class_path": "Digits", "init_args": {"seed": seed}},
                    "objective": {
                        "class_path": "InfoVAE",
                        "init_args": {"divergence": "MMD", "scale": scale},
                    },
                },
            )
        )
        start = time.perf_counter()
        experiment = build(schema, settings)
        experiment.fit(folder, overwrite=overwrite, config=settings)
        evaluate(Run(folder), experiment)
        seconds += time.perf_counter() - start
        summaries.append(Run(folder).summary)
        table.append(_line(str(seed), _shown(summaries[-1])))
        print(table[-1], flush=True)
    middle = {name: _median([s.get(name) for s in summaries]) for name, *_ in _COLUMNS}
    table.append(_line("median", _shown(middle)))
    print(table[-1])
    Path(out, "table.txt").write_text("\n".join(table) + "\n", encoding="utf-8")
    print(
        f"\n{seconds:.0f} s; numbers, weights and pictures are in {', '.join(map(str, folders))}"
    )


def _median(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return median(given) if given else None


def _shown(summary: Mapping[str, float | None]) -> list[str]:
    cells = [(summary.get(name), shape) for name, _, shape in _COLUMNS]
    return ["none" if value is None else shape.format(value) for value, shape in cells]


def _line(head: str, cells: Sequence[str]) -> str:
    return head.rjust(6) + "".join(cell.rjust(16) for cell in cells)
