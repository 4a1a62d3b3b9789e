"""Arrays of the user's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed
from ppl_vae.data.archives import read_arrays
from ppl_vae.data.checks import Channels, Missing
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.mapped import Mapped
from ppl_vae.data.tensors import as_tensor
from ppl_vae.data.transform import Normalise

__all__ = ["Arrays", "held_out_rows"]

# The arrays of a NumPy file.
_PARTS = ("train", "test")
# As floats: above so many bytes the rows of a .npy file stay there.
_LARGE = 2**27
_KINDS = ("", "_labels", "_covariates", "_weights")


class Arrays(Dataset):
    r"""Data of your own from a NumPy file.

    A `.npy` file holds the rows, `(n, *size)`; an `.npz` file holds `train`, or them as its single
    array of any name, and, where there are any, `test`, `train_labels`, `test_labels` (negative
    where unknown), `train_covariates`, `test_covariates`, `train_weights` and `test_weights`.
    Pickled objects are not read; an array of them in an `.npz` file is left out with a warning.
    A `.npy` file of more than 128 MB as floats is not read into memory but streamed, see
    `Dataset`; an `.npz` file is, whatever its size, as its arrays cannot be mapped.

    Args:
        path: the file.
        held_out: share of the rows kept for testing when the file has no `test`.
        seed: which rows those are.
        normalise: as in `Dataset`; None is "bytes" for images of bytes (`uint8`, rows of two
            dimensions or more, some above 1) and "none" for all else, so that counts in bytes
            stay counts, and images of 0 and 1 yes or no.
        channels: as in `Dataset`.
        missing: as in `Dataset`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold such arrays.
    """

    def __init__(
        self,
        path: str,
        held_out: float = 0.1,
        seed: int = 0,
        normalise: Normalise | None = None,
        channels: Channels | None = None,
        missing: Missing = "refuse",
    ) -> None:
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
        arrays = read_arrays(path, mapped=_LARGE)
        settings: dict[str, Any] = {"channels": channels, "missing": missing}
        settings["name"] = Path(path).stem
        if "train" not in arrays and len(arrays) == 1:
            arrays = {"train": next(iter(arrays.values()))}
        if "train" not in arrays:
            raise ValueError(f"{str(path)!r} has no array 'train', only {sorted(arrays)}")
        for key, value in arrays.items():
            if value.dtype.kind not in "biuf":
                raise ValueError(f"{str(path)!r}: {key} holds {value.dtype}, not real numbers")
        large = arrays["train"] if isinstance(arrays["train"], np.memmap) else None
        if large is not None:
            if normalise is None:
                normalise = "bytes" if _are_images([large]) else "none"
            parts = held_out_rows(len(large), held_out, seed, str(path))
            # in the order of the file, which all are shuffled from
            train, test = (Mapped(path, rows.sort().values) for rows in parts)
            super().__init__(train, test, normalise=normalise, **settings)
            return
        found = {key: as_tensor(value, f"{str(path)!r}: {key}") for key, value in arrays.items()}
        unknown = sorted(set(found) - {f"{a}{b}" for a in _PARTS for b in _KINDS})
        if unknown:
            raise ValueError(
                f"{str(path)!r} has an array {unknown[0]!r}, which is none of train, test, and "
                "either with _labels, _covariates or _weights: rename it or leave it out"
            )
        rows = found["train"]
        if normalise is None:
            given = [arrays[key] for key in _PARTS if key in arrays]
            normalise = "bytes" if _are_images(given) else "none"
        if "test" not in found and rows.ndim:
            chosen = held_out_rows(len(rows), held_out, seed, str(path))
            for kind in _KINDS:
                known = found.get(f"train{kind}")
                if known is not None and len(known) == len(rows):
                    found[f"train{kind}"], found[f"test{kind}"] = (known[k] for k in chosen)
        super().__init__(
            found["train"],
            found.get("test"),
            found.get("train_labels"),
            found.get("test_labels"),
            train_covariates=found.get("train_covariates"),
            test_covariates=found.get("test_covariates"),
            normalise=normalise,
            train_weights=found.get("train_weights"),
            test_weights=found.get("test_weights"),
            **settings,
        )


def _are_images(parts: Sequence[np.ndarray[Any, Any]]) -> bool:
    """Whether arrays are images in bytes, 0 to 255: in 0 and 1 alone they are yes or no."""
    images = any(part.dtype == np.uint8 and part.ndim > 2 for part in parts)
    return images and any(bool((part > 1).any()) for part in parts)


def held_out_rows(n: int, share: float, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Which of n rows are for training, and which are held out.

    Raises:
        ValueError: if `share` is none, or leaves nothing of one of them.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out must lie between 0 and 1, got {share}")
    if not 1 <= round(share * n) < n:
        raise ValueError(
            f"{name!r} has {n} rows, too few to hold {share:g} of them out: give more, or a part "
            "test"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(checked_seed(seed)))
    k = round(share * n)
    return order[k:], order[:k]
