"""Data sets made of another one."""

import torch
from torch import Tensor

from ppl_vae.arguments import checked_seed, whole
from ppl_vae.data.checks import first_marked
from ppl_vae.data.dataset import Dataset

__all__ = ["Binarized", "PartlyLabelled"]


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
        Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks.
    """

    def __init__(self, data: Dataset, dynamic: bool = True, seed: int = 0) -> None:
        _in_memory(data)
        for part in (data.train, data.test):
            if part is not None:
                outside = (part < 0) | (part > 1)
                if outside.any():
                    value, place = first_marked(part, outside)
                    raise ValueError(
                        f"{data.name} cannot be binarized: {place} is {value:g}, outside [0, 1]"
                    )
        generator = torch.Generator().manual_seed(checked_seed(seed))
        test = None if data.test is None else _drawn(data.test, generator)
        super().__init__(
            data.train if dynamic else _drawn(data.train, generator),
            test,
            data.train_labels,
            data.test_labels,
            train_covariates=data.train_covariates,
            test_covariates=data.test_covariates,
            name=f"binarized {data.name}",
            classes=data.classes,
            missing=data.missing,
            train_weights=data.train_weights,
            test_weights=data.test_weights,
        )
        self.transform, self.layout = data.transform, data.layout
        self.dynamic = dynamic

    def epoch(self) -> Tensor:
        """The training rows of one pass: a fresh draw, by torch's generator, where dynamic."""
        return _drawn(self.train) if self.dynamic else self.train


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
        _in_memory(data)
        classes = data.train_labels
        if classes is None or bool((classes < 0).any()):
            raise ValueError(f"{data.name} has no class for every training row")
        whole(self, labels=labels)
        count = int(classes.max()) + 1
        if not count <= labels <= len(classes):
            raise ValueError(
                f"labels must lie between {count}, the number of classes, and {len(classes)}, the "
                f"number of rows, got {labels}"
            )
        shuffled = torch.randperm(
            len(classes), generator=torch.Generator().manual_seed(checked_seed(seed))
        )
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
            missing=data.missing,
            train_weights=data.train_weights,
            test_weights=data.test_weights,
        )
        self.transform, self.layout, self.data = data.transform, data.layout, data

    def epoch(self) -> Tensor:
        """The training rows of one pass, as those of the data themselves."""
        return self.data.epoch()


def _in_memory(data: Dataset) -> None:
    if data.streams:
        raise ValueError(f"{data.name} is streamed: change the rows where its items are made")


def _drawn(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws from Bernoulli(x), NaN where x is."""
    return torch.bernoulli(x.nan_to_num(), generator=generator).where(~x.isnan(), x)
