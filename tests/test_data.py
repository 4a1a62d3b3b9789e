"""Data sets, their checks and their batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.data import (
    MNIST,
    Arrays,
    Binarized,
    Dataset,
    Digits,
    FashionMNIST,
    GaussianMixture,
    PartlyLabelled,
    TwoPoints,
)
from ppl_vae.data.loaders import batches
from ppl_vae.evaluation.metric import Subject


def test_digits_are_scaled_and_split_evenly() -> None:
    data = Digits()
    assert data.train.shape == (1437, 1, 8, 8)
    assert data.test is not None
    assert data.test.shape == (360, 1, 8, 8)
    assert data.train.min() == 0
    assert data.train.max() == 1
    # each class has 174 to 183 of the 1,797: a fifth of each is held out
    assert data.test_labels is not None
    assert set(data.test_labels.bincount().tolist()) <= {35, 36, 37}


def test_mnist_reads_the_real_files(mnist_root: Path) -> None:
    data = MNIST(str(mnist_root))
    assert data.train.shape == (60000, 1, 28, 28)
    assert data.test is not None
    assert data.test.shape == (10000, 1, 28, 28)
    assert data.train.max() == 1
    assert data.train_labels is not None
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.train.mean().item() == pytest.approx(0.1307, abs=1e-4)


def test_mnist_can_be_cut(mnist_root: Path) -> None:
    data = MNIST(str(mnist_root), limit=500)
    assert len(data) == 500
    assert data.train_labels is not None
    assert len(data.train_labels) == 500


@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
def test_missing_folder_is_one_clear_line(source: type[MNIST], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="download") as error:
        source(str(tmp_path))
    assert source.__name__ in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_folder_is_one_clear_line(tmp_path: Path) -> None:
    Path(tmp_path, "MNIST", "raw").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="incomplete"):
        MNIST(str(tmp_path))


def test_dynamic_rows_stand_as_in_one_pass_where_a_seed_is_given() -> None:
    """What a decoder of binary pixels is evaluated at, and never the grey rows behind it."""
    data = Binarized(Digits())
    state = torch.get_rng_state()
    (drawn,), (again,) = (data.arguments("train", seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn, again)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(data.arguments("train")[0], data.train)
    (seen,) = Subject(lambda x: None, lambda x: None, data).arguments("train")
    assert set(seen.unique().tolist()) == {0.0, 1.0}


def test_dynamic_binarization_draws_anew_each_epoch() -> None:
    grey = Digits()
    data = Binarized(grey)
    torch.manual_seed(0)
    draws = torch.stack([data.epoch() for _ in range(200)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(draws[0], draws[1])
    # each pixel's frequency is its grey value: 4.5 standard errors on the mean square deviation
    deviation = (draws.mean(0) - grey.train).square() / (grey.train * (1 - grey.train) / 200)
    inner = deviation[(grey.train > 0) & (grey.train < 1)]
    assert abs(inner.mean() - 1) < 4.5 * (2 / len(inner)) ** 0.5 * 1.1
    assert torch.equal(data.test, Binarized(grey).test)  # type: ignore[arg-type]


def test_static_binarization_is_fixed_by_seed() -> None:
    first, again, other = (Binarized(Digits(), dynamic=False, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.epoch(), first.epoch())
    assert torch.equal(first.epoch(), again.epoch())
    assert not torch.equal(first.epoch(), other.epoch())


def test_binarizing_refuses_values_outside_the_unit_interval() -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        Binarized(GaussianMixture())


def test_gaussian_mixture_has_its_moments() -> None:
    data = GaussianMixture(components=4, radius=3.0, sd=0.5, n=4000)
    assert data.train_labels is not None
    for k in range(4):
        points = data.train[data.train_labels == k]
        angle = torch.tensor(k * torch.pi / 2)
        centre = 3 * torch.stack([angle.cos(), angle.sin()])
        assert (points.mean(0) - centre).abs().max() < 4.5 * 0.5 / len(points) ** 0.5
        assert points.std(0).numpy() == pytest.approx(0.5, rel=4.5 / (2 * len(points)) ** 0.5)


def test_two_points() -> None:
    data = TwoPoints(6)
    assert data.train.flatten().tolist() == [-1, 1, -1, 1, -1, 1]


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 1, [1] * 3),
    ],
)
def test_batches_cover_every_row_once(n: int, size: int, lengths: list[int]) -> None:
    x = torch.arange(n)
    parts = [b for (b,) in batches([x], size)]
    assert [len(b) for b in parts] == lengths
    assert torch.cat(parts).sort().values.tolist() == x.tolist()


def test_batches_keep_rows_together_and_follow_the_seed() -> None:
    x = torch.randn(50, 3)
    torch.manual_seed(1)
    first = list(batches([x, x.sum(1)], 7))
    torch.manual_seed(1)
    second = list(batches([x, x.sum(1)], 7))
    assert all(torch.equal(a.sum(1), b) for a, b in first)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert not torch.equal(torch.cat([a for a, _ in first]), x)


def test_batches_in_order_are_views() -> None:
    x = torch.randn(50, 3)
    (first,) = next(batches([x], 7, shuffle=False))
    assert first.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_placed(value: float) -> None:
    x = torch.zeros(5, 2, 2)
    x[3, 1, 0] = value
    with pytest.raises(ValueError, match=rf"train\[3, 1, 0\] is {value}"):
        Dataset(x)


def test_shapes_are_held_against_each_other() -> None:
    with pytest.raises(ValueError, match=r"\(7, 7\).*\(8, 8\)"):
        Dataset(torch.zeros(4, 8, 8), torch.zeros(4, 7, 7))
    with pytest.raises(ValueError, match=r"not \(rows"):
        Dataset(torch.zeros(4))
    with pytest.raises(ValueError, match="test has no rows: give some, or leave it out"):
        Dataset(torch.zeros(4, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="not one for each of 4 rows"):
        Dataset(torch.zeros(4, 2), train_labels=torch.zeros(3, dtype=torch.long))


def test_arrays_reads_npz_and_npy(tmp_path: Path) -> None:
    rows = np.arange(200, dtype=np.uint8).reshape(50, 2, 2)
    np.save(tmp_path / "a.npy", rows)
    data = Arrays(str(tmp_path / "a.npy"), held_out=0.2)
    assert data.train.shape == (40, 2, 2)
    assert data.test is not None
    together = torch.cat([data.train, data.test]).mul(255).round().flatten().sort().values
    assert together.tolist() == list(range(200))
    np.savez(tmp_path / "b.npz", train=rows / 255, test=rows[:3] / 255, train_labels=np.arange(50))
    data = Arrays(str(tmp_path / "b.npz"))
    assert data.test is not None
    assert len(data.test) == 3
    assert data.train.dtype == torch.float32
    assert data.train_labels is not None
    assert data.train_labels[7] == 7


def test_arrays_does_not_unpickle(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="plain arrays"):
        Arrays(str(tmp_path / "a.npy"))


def test_moving_keeps_the_kind_of_data() -> None:
    data = Binarized(Digits())
    moved = data.to("cpu")
    assert isinstance(moved, Binarized)
    assert moved is not data
    torch.manual_seed(0)
    assert not torch.equal(moved.epoch(), moved.epoch())


# What is known besides the rows


def test_labels_are_handed_in_training_and_hidden_in_evaluation() -> None:
    data = PartlyLabelled(Digits(), labels=100).passing("labels")
    x, y = data.arguments("train")
    assert data.width == 10
    assert (y >= 0).sum() == 100
    assert y[y >= 0].bincount().tolist() == [10] * 10
    assert torch.equal(x, Digits().train)
    truth = Digits().train_labels
    assert truth is not None
    assert torch.equal(y[y >= 0], truth[y >= 0])
    held, hidden = data.arguments("test", labelled=False)
    assert len(held) == len(hidden) == 360
    assert (hidden == -1).all()
    assert data.labels("test") is not None


def test_other_labels_by_another_seed_and_an_uneven_number() -> None:
    first, second = (PartlyLabelled(Digits(), labels=25, seed=s).train_labels for s in (0, 1))
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)
    assert sorted(first[first >= 0].bincount(minlength=10).tolist()) == [2] * 5 + [3] * 5


def test_a_partly_labelled_draw_is_anew_each_epoch() -> None:
    data = PartlyLabelled(Binarized(Digits()), labels=10)
    assert not torch.equal(data.epoch(), data.epoch())
    assert set(data.to("cpu").epoch().unique().tolist()) == {0.0, 1.0}


def test_covariates_or_classes_in_their_place() -> None:
    rows, c = torch.randn(6, 2), torch.randn(6)
    data = Dataset(rows, rows[:2], train_covariates=c, test_covariates=c[:2])
    assert data.width == 0
    assert data.arguments("train") == (data.train,)
    passing = data.passing("covariates")
    assert data.extra == ""
    assert passing.width == 1
    assert passing.arguments("test", labelled=False)[1].tolist() == c[:2, None].tolist()
    labels = torch.tensor([0, 2, 1, 0, 2, 1])
    coded = Dataset(rows, train_labels=labels).passing("covariates")
    assert coded.width == 3
    assert torch.equal(coded.arguments("train")[1], torch.eye(3)[labels])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_covariates": torch.zeros(3)}, r"train_covariates has shape \(3,\), not one row"),
        ({"train_covariates": 3.5}, r"train_covariates has shape \(\), not one row"),
        ({"train_covariates": torch.full((4, 1), torch.nan)}, r"train_covariates\[0, 0\] is nan"),
        ({"train_covariates": torch.zeros(4)}, "has no test_covariates: give both or neither"),
        (
            {"train_covariates": torch.zeros(4, 2), "test_covariates": torch.zeros(2, 3)},
            "covariates of 2 numbers in train, of 3 in test",
        ),
    ],
)
def test_covariates_that_do_not_fit(options: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset(torch.zeros(4, 2), torch.zeros(2, 2), **options)


def test_what_cannot_be_handed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"passing\('label'\): give 'covariates', 'labels'"):
        Digits().passing("label")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (Dataset(torch.zeros(4, 2)), 2, "has no class for every training row"),
        (TwoPoints(), 1, "labels must lie between 2, the number of classes, and 512"),
        (TwoPoints(), 513, "got 513"),
    ],
)
def test_labels_that_cannot_be_kept(data: Dataset, labels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartlyLabelled(data, labels)


def test_arrays_with_covariates(tmp_path: Path) -> None:
    rows, c = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50.0)
    np.savez(tmp_path / "a.npz", train=rows, train_covariates=c, train_labels=np.arange(50) - 1)
    data = Arrays(str(tmp_path / "a.npz"), held_out=0.2).passing("covariates")
    (x, found), (held, other) = data.arguments("train"), data.arguments("test")
    for part, covariates in ((x, found), (held, other)):
        at = covariates[:, 0].long()
        torch.testing.assert_close(part, torch.from_numpy(rows[at]).float())
    assert data.train_labels is not None
    assert torch.equal(data.train_labels, found[:, 0].long() - 1)
    np.savez(tmp_path / "b.npz", train=rows, train_label=np.arange(50))
    with pytest.raises(ValueError, match="has an array 'train_label', which is none of"):
        Arrays(str(tmp_path / "b.npz"))
