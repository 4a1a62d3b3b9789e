"""Data sets by name, each wholly in memory: `(n, *size)` tensors for training and for testing.

Images have shape `(1, height, width)` and values in [0, 1].
"""

from math import cos, pi, sin
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae.dataset import Dataset, batches, first_marked

__all__ = [
    "MNIST",
    "Arrays",
    "Binarized",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "GaussianMixture",
    "PartlyLabelled",
    "TwoPoints",
    "batches",
]

# The arrays of a NumPy file.
_PARTS = ("train", "test")
_KINDS = ("", "_labels", "_covariates")


class Digits(Dataset):
    r"""Scikit-learn's 1,797 handwritten digits, 8x8 pixels scaled to [0, 1]; no download.

    Args:
        held_out: share of the rows kept for testing, drawn evenly from each class.
        seed: which rows those are.

    Example:
        >>> Digits()
        Digits(digits: 1437 training rows, 360 held out, each of shape (1, 8, 8))
    """

    def __init__(self, held_out: float = 0.2, seed: int = 0) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        train, test, train_labels, test_labels = (
            torch.from_numpy(part)
            for part in train_test_split(
                images, labels, test_size=held_out, stratify=labels, random_state=seed
            )
        )
        classes = [str(k) for k in range(10)]
        super().__init__(train, test, train_labels, test_labels, name="digits", classes=classes)


class MNIST(Dataset):
    r"""The 70,000 handwritten digits of MNIST, 28x28 pixels scaled to [0, 1].

    Args:
        root: folder that holds `MNIST/raw`, as torchvision lays it out.
        download: fetch the files into `root` when they are not there.
        limit: keep only the first so many training images; all when null.

    Raises:
        FileNotFoundError: if the files are not in `root` and `download` is off.

    References:
        LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition,
        1998.
    """

    _classes: tuple[str, ...] = tuple(str(k) for k in range(10))

    def __init__(
        self, root: str = "data", download: bool = False, limit: int | None = None
    ) -> None:
        name = type(self).__name__
        folder = Path(root) / name / "raw"
        # asked before torchvision is imported, which takes seconds
        if not download and not folder.is_dir():
            raise FileNotFoundError(
                f"no {name} in {str(root)!r}: {folder} is not a folder; point root at the data or "
                "set download to true"
            )
        from torchvision import datasets

        try:
            parts = [
                getattr(datasets, name)(root, train=train, download=download)
                for train in (True, False)
            ]
        except RuntimeError as error:
            raise FileNotFoundError(
                f"{name} in {str(root)!r} is incomplete: complete {folder} or set download to true"
            ) from error
        for part in parts:
            if part.data.shape[1:] != (28, 28):
                raise ValueError(
                    f"{name} in {str(root)!r} holds images of shape {tuple(part.data.shape[1:])} "
                    "where (28, 28) is due: replace its files"
                )
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 image, got {limit}")
        train, test = parts
        super().__init__(
            train.data[:limit, None] / 255,
            test.data[:, None] / 255,
            train.targets[:limit],
            test.targets,
            name=name,
            classes=self._classes,
        )


class FashionMNIST(MNIST):
    r"""The 70,000 pictures of clothing of Fashion-MNIST, 28x28 pixels scaled to [0, 1].

    Args:
        root: folder that holds `FashionMNIST/raw`, as torchvision lays it out.
        download: fetch the files into `root` when they are not there.
        limit: keep only the first so many training images; all when null.

    Raises:
        FileNotFoundError: if the files are not in `root` and `download` is off.

    References:
        Xiao, Rasul, Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747.
    """

    _classes = (
        "T-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )

    def __init__(
        self, root: str = "data", download: bool = False, limit: int | None = None
    ) -> None:
        super().__init__(root, download, limit)


class Arrays(Dataset):
    r"""Data of your own from a NumPy file.

    A `.npy` file holds the rows, `(n, *size)`; an `.npz` file holds `train` and, where there are
    any, `test`, `train_labels`, `test_labels` (negative where unknown), `train_covariates` and
    `test_covariates`. Bytes (`uint8`) are divided by 255. Pickled objects are not read.

    Args:
        path: the file.
        held_out: share of the rows kept for testing when the file has no `test`.
        seed: which rows those are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold such arrays.
    """

    def __init__(self, path: str, held_out: float = 0.1, seed: int = 0) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no data file {str(path)!r}")
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
        try:
            loaded = np.load(path, allow_pickle=False)
            arrays = {"train": loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{str(path)!r} is not a NumPy file of plain arrays") from error
        if "train" not in arrays:
            raise ValueError(f"{str(path)!r} has no array 'train', only {sorted(arrays)}")
        for key, value in arrays.items():
            if value.dtype.kind not in "biuf":
                raise ValueError(f"{str(path)!r}: {key} holds {value.dtype}, not real numbers")
        found = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
        unknown = sorted(set(found) - {f"{a}{b}" for a in _PARTS for b in _KINDS})
        if unknown:
            raise ValueError(
                f"{str(path)!r} has an array {unknown[0]!r}, which is none of train, test, and "
                "either with _labels or _covariates: rename it or leave it out"
            )
        rows = found["train"]
        for key in ("train", "test"):
            if key in found and found[key].dtype == torch.uint8:
                found[key] = found[key] / 255
        if "test" not in found and rows.ndim:
            if not 1 <= round(held_out * len(rows)) < len(rows):
                raise ValueError(
                    f"{str(path)!r} has {len(rows)} rows, too few to hold {held_out:g} of them "
                    "out: give more, or an array test"
                )
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
            test = order[: round(held_out * len(rows))]
            train = order[len(test) :]
            found["train"], found["test"] = found["train"][train], found["train"][test]
            for kind in _KINDS[1:]:
                known = found.get(f"train{kind}")
                if known is not None and len(known) == len(rows):
                    found[f"train{kind}"], found[f"test{kind}"] = known[train], known[test]
        super().__init__(
            found["train"],
            found.get("test"),
            found.get("train_labels"),
            found.get("test_labels"),
            train_covariates=found.get("train_covariates"),
            test_covariates=found.get("test_covariates"),
            name=Path(path).stem,
        )


class Binarized(Dataset):
    r"""Another data set with each value x in [0, 1] replaced by a draw from Bernoulli(x).

    Args:
        data: the grey-scale data.
        dynamic: draw the training rows anew each epoch; otherwise once, by `seed`.
        seed: of the fixed draws; held-out rows are always drawn once, so that their loss is
            comparable from epoch to epoch.

    Raises:
        ValueError: if a value of `data` lies outside [0, 1].

    References:
        Salakhutdinov, Murray, On the quantitative analysis of deep belief networks, 2008.
    """

    def __init__(self, data: Dataset, dynamic: bool = True, seed: int = 0) -> None:
        for part in (data.train, data.test):
            if part is not None:
                outside = (part < 0) | (part > 1)
                if outside.any():
                    value, place = first_marked(part, outside)
                    raise ValueError(
                        f"{data.name} cannot be binarized: {place} is {value:g}, outside [0, 1]"
                    )
        generator = torch.Generator().manual_seed(seed)
        test = None if data.test is None else torch.bernoulli(data.test, generator=generator)
        super().__init__(
            data.train if dynamic else torch.bernoulli(data.train, generator=generator),
            test,
            data.train_labels,
            data.test_labels,
            train_covariates=data.train_covariates,
            test_covariates=data.test_covariates,
            name=f"binarized {data.name}",
            classes=data.classes,
        )
        self.dynamic = dynamic

    def epoch(self) -> Tensor:
        """The training rows of one pass: a fresh draw, by torch's generator, where dynamic."""
        return torch.bernoulli(self.train) if self.dynamic else self.train


class PartlyLabelled(Dataset):
    r"""Another data set with the classes of but a few training rows known.

    Args:
        data: the data, with a class for every row.
        labels: how many training rows keep theirs, as evenly from the classes as can be.
        seed: which rows those are.

    Raises:
        ValueError: if `data` has no labels, or not so many, or fewer are to be kept than there
            are classes.
    """

    def __init__(self, data: Dataset, labels: int = 100, seed: int = 0) -> None:
        classes = data.train_labels
        if classes is None or bool((classes < 0).any()):
            raise ValueError(f"{data.name} has no class for every training row")
        count = int(classes.max()) + 1
        if not count <= labels <= len(classes):
            raise ValueError(
                f"labels must lie between {count}, the number of classes, and {len(classes)}, the "
                f"number of rows, got {labels}"
            )
        shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
        # Rows in rounds, one of each class in a round: the first so many are even.
        by_class = shuffled[classes[shuffled].argsort(stable=True)]
        sizes = classes.bincount()
        place = torch.arange(len(classes)) - (sizes.cumsum(0) - sizes)[classes[by_class]]
        kept = by_class[place.argsort(stable=True)[:labels]]
        known = torch.full_like(classes, -1)
        known[kept] = classes[kept]
        super().__init__(
            data.train,
            data.test,
            known,
            data.test_labels,
            train_covariates=data.train_covariates,
            test_covariates=data.test_covariates,
            name=f"{data.name} with {labels} labels",
            classes=data.classes,
        )
        self.data = data

    def epoch(self) -> Tensor:
        """The training rows of one pass, as those of the data themselves."""
        return self.data.epoch()


class GaussianMixture(Dataset):
    r"""Points in the plane from Gaussians of one standard deviation, evenly set on a circle.

    Args:
        components: number of Gaussians, each a class.
        radius: of the circle.
        sd: standard deviation of each Gaussian.
        n: number of training points; a fifth as many are held out.
        seed: of the draws.
    """

    def __init__(
        self,
        components: int = 8,
        radius: float = 2.0,
        sd: float = 0.2,
        n: int = 2000,
        seed: int = 0,
    ) -> None:
        if components < 1 or n < 5 or sd <= 0:
            raise ValueError(
                f"components must be at least 1, n at least 5 and sd positive, got {components}, "
                f"{n} and {sd}"
            )
        generator = torch.Generator().manual_seed(seed)
        angles = [2 * pi * k / components for k in range(components)]
        means = torch.tensor([(radius * cos(a), radius * sin(a)) for a in angles])
        labels = torch.randint(components, (n + n // 5,), generator=generator)
        points = means[labels] + sd * torch.randn(len(labels), 2, generator=generator)
        super().__init__(
            points[:n],
            points[n:],
            labels[:n],
            labels[n:],
            name="gaussian mixture",
            classes=[str(k) for k in range(components)],
        )


class TwoPoints(Dataset):
    r"""The data set {-1, 1}, each value half of the rows: one number a row.

    Args:
        n: number of training rows; as many are held out.
    """

    def __init__(self, n: int = 512) -> None:
        if n < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        labels = torch.arange(n) % 2
        points = (2.0 * labels - 1)[:, None]
        super().__init__(points, points, labels, labels, name="two points", classes=["-1", "1"])
