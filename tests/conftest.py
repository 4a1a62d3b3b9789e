"""What every test starts from: a clean parameter store, one seed, validation on."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imsave

# Tensors here are small: a thread a process is fastest, and leaves the cores to other processes.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def double() -> Iterator[None]:
    """Runs a test in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def paint_nothing(_: Figure, path: Path | io.StringIO, **__: object) -> None:
    """In the place of `Figure.savefig`: one pixel."""
    if isinstance(path, io.StringIO):
        path.write("<svg></svg>")
    else:
        imsave(path, np.zeros((1, 1, 3)))


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made, and saved as one pixel, where a test is of something else.

    Painting them is two thirds of a short run. `test_report.py`, `test_experiment.py` and
    `test_cli.py` hold the pictures themselves.
    """
    monkeypatch.setattr(Figure, "savefig", paint_nothing)


@pytest.fixture
def mnist_root() -> Path:
    """The folder that holds `MNIST/raw`, or a skip that says where it was looked for."""
    root = Path(os.environ.get("PPL_VAE_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST under {root}: set PPL_VAE_DATA to the folder that holds MNIST/raw")
    return root.resolve()
