"""What every data set must do. A new one is a line of `CASES`, and inherits all of it."""

import inspect
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from ppl_vae import data
from ppl_vae.data import Dataset

COUNT = (0, -2, 1.5)
SHARE = (0.0, 1.0, -0.1, math.nan)


@dataclass(frozen=True)
class Case:
    """A data set as it is made, and what is true of it.

    Attributes:
        make: the constructor, of a folder for files and of options.
        rows: how many rows are for training, and how many held out.
        size: the shape of one.
        classes: how many, 0 without labels.
        in_unit: whether values lie in [0, 1].
        is_seeded: whether `seed` says which rows, or which labels, there are.
        is_disjoint: whether no held-out row is a training row.
        refused: values that its arguments must not have.
    """

    make: Callable[..., Dataset]
    rows: tuple[int, int]
    size: tuple[int, ...]
    classes: int
    in_unit: bool = True
    is_seeded: bool = True
    is_disjoint: bool = True
    refused: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def idx(path: Path, array: np.ndarray) -> None:
    """Writes bytes in the format of MNIST's files."""
    header = struct.pack(f">{1 + array.ndim}i", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def mnist(kind: type[data.MNIST]) -> Callable[..., Dataset]:
    def make(folder: Path, **options: Any) -> Dataset:
        raw, rng = folder / kind.__name__ / "raw", np.random.default_rng(0)
        raw.mkdir(parents=True, exist_ok=True)
        for part, n in (("train", 30), ("t10k", 12)):
            idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)))
            idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
        return kind(str(folder), **options)

    return make


def arrays(folder: Path, **options: Any) -> Dataset:
    rows = np.random.default_rng(0).integers(0, 256, (40, 3, 2)).astype(np.uint8)
    np.savez(folder / "own.npz", train=rows, train_labels=np.arange(40) % 4)
    return data.Arrays(str(folder / "own.npz"), **({"held_out": 0.25} | options))


def table(folder: Path, **options: Any) -> Dataset:
    rng = np.random.default_rng(0)
    text = np.array(["a", "b", "c"])[np.arange(40) % 3]
    rows = {"x": rng.normal(size=40), "g": text, "y": np.arange(40) % 4}
    pd.DataFrame(rows).to_csv(folder / "own.csv", index=False)
    given = {"held_out": 0.25, "labels": "y"} | options
    return data.Table(str(folder / "own.csv"), **given)  # type: ignore[arg-type]


def folder(folder: Path, **options: Any) -> Dataset:
    rng = np.random.default_rng(0)
    for k in range(40):
        path = folder / "images" / f"{k % 4}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(path)
    return data.Folder(str(folder / "images"), **({"held_out": 0.25} | options))


def told(make: Callable[..., Dataset], **options: Any) -> Callable[..., Dataset]:
    return lambda _, **o: make(**(options | o))


def changed(make: Callable[..., Dataset], **options: Any) -> Callable[..., Dataset]:
    return lambda _, **o: make(data.Digits(), **(options | o))


CASES: dict[str, Case] = {
    "Dataset": Case(
        lambda _: Dataset(
            torch.linspace(0, 1, 12).reshape(6, 2),
            torch.full((3, 2), 0.5),
            torch.arange(6) % 2,
            torch.zeros(3, dtype=torch.long),
        ),
        (6, 3),
        (2,),
        2,
        is_seeded=False,
    ),
    "Digits": Case(told(data.Digits), (1437, 360), (1, 8, 8), 10, refused={"held_out": SHARE}),
    "MNIST": Case(
        mnist(data.MNIST), (30, 12), (1, 28, 28), 10, is_seeded=False, refused={"limit": COUNT}
    ),
    "FashionMNIST": Case(mnist(data.FashionMNIST), (30, 12), (1, 28, 28), 10, is_seeded=False),
    "Arrays": Case(arrays, (30, 10), (3, 2), 4, refused={"held_out": SHARE}),
    "Table": Case(
        table,
        (30, 10),
        (4,),
        4,
        in_unit=False,
        refused={"held_out": SHARE[1:], "normalise": ("bytes",)},
    ),
    "Folder": Case(
        folder,
        (30, 10),
        (3, 6, 5),
        4,
        refused={"held_out": SHARE, "size": COUNT, "crop": COUNT, "workers": (-1, 0.5)},
    ),
    "Binarized": Case(changed(data.Binarized), (1437, 360), (1, 8, 8), 10),
    "Binarized, once": Case(changed(data.Binarized, dynamic=False), (1437, 360), (1, 8, 8), 10),
    "PartlyLabelled": Case(
        changed(data.PartlyLabelled, labels=50),
        (1437, 360),
        (1, 8, 8),
        10,
        refused={"labels": (9, 1438, 50.5)},
    ),
    "GaussianMixture": Case(
        told(data.GaussianMixture, n=100),
        (100, 20),
        (2,),
        8,
        in_unit=False,
        refused={
            "components": COUNT,
            "n": (4, 0, 9.5),
            "sd": (0.0, -1.0, math.nan, math.inf),
            "radius": (math.nan, math.inf),
        },
    ),
    "TwoPoints": Case(
        told(data.TwoPoints, n=10),
        (10, 10),
        (1,),
        2,
        in_unit=False,
        is_seeded=False,
        is_disjoint=False,
        refused={"n": (1, 0, 2.5)},
    ),
    "Sprites": Case(
        told(data.Sprites, size=16, scales=2, rotations=4, positions=4, n=50),
        (50, 10),
        (1, 16, 16),
        3,
        is_disjoint=False,  # factors are independent, and may meet again
        refused=dict.fromkeys(("size", "scales", "rotations", "positions"), COUNT)
        | {"n": (4, 0, 9.5)},
    ),
    "FadingSquares": Case(
        told(data.FadingSquares, size=8, side=4, n=50),
        (50, 10),
        (1, 8, 8),
        0,
        is_disjoint=False,
        refused={"size": COUNT, "side": (*COUNT, 9), "levels": (1, 0, 2.5), "n": (4, 0, 9.5)},
    ),
}

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def parts(made: Dataset) -> dict[str, Tensor]:
    """Everything that is known of the rows."""
    names = ("train", "test", "train_labels", "test_labels", "train_covariates", "test_covariates")
    found = {name: getattr(made, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def test_every_public_data_set_has_a_case(tmp_path: Path) -> None:
    public = {
        kind for kind in vars(data).values() if inspect.isclass(kind) and issubclass(kind, Dataset)
    }
    assert public == {type(case.make(tmp_path)) for case in CASES.values()}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_shapes_types_and_ranges(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.set_default_dtype(dtype)
    made = case.make(tmp_path)
    assert made.test is not None
    assert (len(made), len(made.train), len(made.test)) == (case.rows[0], *case.rows)
    assert made.size == case.size
    assert made.held_out == "test"
    torch.manual_seed(0)
    for rows in (made.train, made.test, made.epoch()):
        assert rows.shape[1:] == case.size
        assert rows.dtype == dtype
        assert rows.isfinite().all()
        assert rows.std() > 0 or case.rows[1] == 3
        if case.in_unit:
            assert rows.min() >= 0
            assert rows.max() <= 1
    assert len(made.epoch()) == len(made)
    for part, rows in (("train", made.train), ("test", made.test)):
        labels = made.labels(part)  # type: ignore[arg-type]
        assert (labels is not None) == bool(case.classes)
        assert torch.equal(made.arguments(part)[0], rows)  # type: ignore[arg-type]
        if labels is not None:
            assert labels.shape == (len(rows),)
            assert labels.dtype == torch.long
            assert int(labels.max()) < case.classes
            assert int(labels.min()) >= (-1 if isinstance(made, data.PartlyLabelled) else 0)
    assert len(made.classes) in (0, case.classes)
    if case.classes:
        assert made.passing("labels").width == case.classes


@every
def test_no_held_out_row_is_for_training(case: Case, tmp_path: Path) -> None:
    made = case.make(tmp_path)
    if case.is_disjoint and not isinstance(made, data.Binarized):  # whose draws may coincide
        assert made.test is not None
        same = (made.test.flatten(1)[:, None] == made.train.flatten(1)).all(-1)
        assert not same.any()


@every
def test_a_seed_says_which(case: Case, tmp_path: Path) -> None:
    """And nothing but it: torch's own generator is neither asked nor moved."""
    options = [{"seed": s} for s in (3, 3, 4)] if case.is_seeded else [{}, {}]
    made = []
    for number, option in enumerate(options):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        made.append(parts(case.make(tmp_path, **option)))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    if case.is_seeded:
        assert any(not torch.equal(made[0][name], made[2][name]) for name in made[0])


@every
def test_moving_takes_everything_and_keeps_the_kind(case: Case, tmp_path: Path) -> None:
    made = case.make(tmp_path)
    moved = made.to("meta")
    assert type(moved) is type(made)
    assert moved is not made
    assert repr(moved) == repr(made)
    for tensor in (*parts(moved).values(), moved.epoch(), *moved.arguments("train")):
        assert tensor.device.type == "meta"
    assert all(tensor.device.type == "cpu" for tensor in parts(made).values())
    again = made.to("cpu")
    assert all(torch.equal(value, parts(again)[name]) for name, value in parts(made).items())


@every
def test_it_is_said_in_one_line(case: Case, tmp_path: Path) -> None:
    made = case.make(tmp_path)
    line = repr(made)
    assert "\n" not in line
    for word in (type(made).__name__, made.name, *map(str, case.rows), str(case.size)):
        assert word in line


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [
        pytest.param(case, name, value, id=f"{key}-{name}={value}")
        for key, case in CASES.items()
        for name, values in case.refused.items()
        for value in values
    ],
)
def test_bad_arguments_get_one_line(case: Case, name: str, value: Any, tmp_path: Path) -> None:
    """That names the argument and the value."""
    with pytest.raises(ValueError, match=name) as error:
        case.make(tmp_path, **{name: value})
    line = str(error.value)
    assert "\n" not in line
    assert str(value) in line or f"{value:g}" in line
