"""Images of handwritten digits and of clothing."""

from pathlib import Path

import numpy as np
import torch

from ppl_vae.arguments import whole
from ppl_vae.data.dataset import Dataset

__all__ = ["MNIST", "Digits", "FashionMNIST"]

# Bytes of a file of 60,000 images, and some more.
_LARGEST = 2**26


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
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document
        recognition.
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
        for file in folder.glob("*-ubyte"):
            if not file.is_file() or file.stat().st_size > _LARGEST:
                raise ValueError(f"{str(file)!r} is not a file of {name}: replace it")
        from torchvision import datasets

        try:
            parts = [
                getattr(datasets, name)(root, train=train, download=download)
                for train in (True, False)
            ]
        except Exception as error:  # a file that is damaged fails in torchvision in any way
            raise FileNotFoundError(
                f"{name} in {str(root)!r} is incomplete or damaged: complete {folder} or set "
                "download to true"
            ) from error
        for part in parts:
            if part.data.shape[1:] != (28, 28):
                raise ValueError(
                    f"{name} in {str(root)!r} holds images of shape {tuple(part.data.shape[1:])} "
                    "where (28, 28) is due: replace its files"
                )
        if limit is not None:
            whole(self, limit=limit)
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
        Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747.
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
